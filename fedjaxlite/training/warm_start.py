"""Warm start: the server trains its generic model on public data before the federation begins.

Centralized training is federated training of one client: the public data become a population of one, trained by the
same local loop and summed by the same engine.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjaxlite import checks
from fedjaxlite.data.client_view import ClientData
from fedjaxlite.data.population import Population
from fedjaxlite.evaluation.central import loss_for
from fedjaxlite.execution.federated_sum import federated_sum
from fedjaxlite.execution.layout import Execution
from fedjaxlite.local.local_sgd import local_sgd
from fedjaxlite.observers.records import scalars_of
from fedjaxlite.protocol.algorithm import ClientOutput
from fedjaxlite.sampling import full
from fedjaxlite.variables import trainable
from fedjaxlite.wire.means import mean

PyTree = Any


class WarmStart(NamedTuple):
    """A model that was trained centrally.

    Attributes:
      params: pytree like the parameters given.
      record: plain numbers for a run's config, `fl.train(..., config={"warm_start": record})`: "examples", "steps",
        "epochs" where given, "batch_size", the mean training metrics ("loss" ...), and those of `evaluate` before and
        after as "before_..." and "after_...".
    """

    params: PyTree
    record: dict[str, Any]


def warm_start(
    model_or_loss: Any,
    params: PyTree,
    data: Population | Mapping[str, Any],
    *,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = 32,
    shuffle: bool = True,
    evaluate: Callable[[PyTree], Any] | None = None,
) -> WarmStart:
    """Trains the server's generic model on public data: the step before the first federated round.

    Args:
      model_or_loss: a loss function `(params, batch, key) -> [B]`, or a Model of classes; see `fl.evaluate`.
      params: the model to start from.
      data: dict of arrays `[n, ...]`, or a Population, whose clients are pooled.
      optimizer: optax optimizer.
      key: random key for shuffles and dropout.
      epochs: passes over the data; or
      steps: number of steps. Exactly one of the two.
      batch_size: B, or None for full batches.
      shuffle: False keeps the stored order.
      evaluate: `f(params)` as in `fl.train`, called before and after.

    Returns:
      a WarmStart `(params, record)`.

    Raises:
      TypeError, ValueError: for arguments out of range, or data that do not fit the loss.

    Guarantees: nothing of it is counted as traffic or rounds; with the same key it gives the same bits.

    Example:
      >>> import fedjaxlite as fl
      >>> square = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> public = {"x": np.float32([1, 3])}
      >>> warm = warm_start(
      ...     square, jnp.float32(0), public, optimizer=optax.sgd(0.5), steps=2, batch_size=2, key=jax.random.key(0)
      ... )
      >>> float(warm.params), warm.record["steps"]
      (1.5, 2)
    """
    features = data.features if isinstance(data, Population) else data
    if not isinstance(features, Mapping) or not features:
        raise TypeError(f"`data` is a {type(data).__name__}; expected a dict of arrays [n, ...], or a Population.")
    if evaluate is not None:
        checks.is_function_of("params", evaluate=evaluate)
    checks.is_key(key=key)
    checks.concrete("Its length is recorded.", epochs=epochs, steps=steps)
    checks.float_leaves("params", trainable(params), remedy="What is not trained goes into `fl.Variables.state`.")
    rows = np.shape(next(iter(features.values())))[:1]
    public = Population.from_arrays(features, np.zeros(rows, np.int32))
    train = local_sgd(
        loss_for(model_or_loss, public.features),
        client_optimizer=optimizer,
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        shuffle=shuffle,
    )

    def client(shared: PyTree, view: ClientData) -> ClientOutput:
        result = train(shared, view)
        return ClientOutput(result.delta, info={**result.metrics, "steps": result.num_steps})

    call = federated_sum(client, aggregator=mean(), execution=Execution(lanes=1, devices=1))
    everyone = full(1).sample(key, 0, public)
    before = {} if evaluate is None else scalars_of(evaluate(params), "`evaluate`")
    aggregate, info = call(params, public, everyone, key=key)
    if int(info.num_nonfinite):
        raise ValueError(
            "the warm start ended in parameters that are not finite. Lower the optimizer's rate, or look for NaN in "
            "the data."
        )
    trained = jax.tree.map(lambda p, d: (p - d).astype(jnp.asarray(p).dtype), params, aggregate.value)
    after = {} if evaluate is None else scalars_of(evaluate(trained), "`evaluate`")
    metrics = {name: float(value) for name, value in info.metrics.items()}
    record = {
        "examples": int(public.offsets[-1]),
        "epochs": epochs,
        "batch_size": batch_size,
        "steps": int(metrics.pop("steps")),
        **metrics,
        **{f"before_{name}": value for name, value in before.items()},
        **{f"after_{name}": value for name, value in after.items()},
    }
    return WarmStart(trained, {name: value for name, value in record.items() if value is not None})
