"""Every client on its own: what federated learning has to be better than, for a client to take part."""

from collections.abc import Sequence
from typing import Any

from fedjaxlite.baselines.in_one_place import ONE, Baseline, checked, same_clients
from fedjaxlite.data.population import Population
from fedjaxlite.evaluation.per_client import evaluate_personalized
from fedjaxlite.execution.layout import Execution
from fedjaxlite.metrics.metric import Metric
from fedjaxlite.models.types import Model

PyTree = Any


def local_only(
    model_or_loss: Any,
    params: PyTree,
    train: Population,
    test: Population,
    *,
    client_optimizer: Any,
    steps: int,
    batch_size: int = 32,
    metrics: Sequence[Metric] = (),
    model: Model | None = None,
    bootstrap: int | None = None,
    key: Any,
    execution: Execution = ONE,
) -> Baseline:
    """Trains a model for every client on its data alone, and tests it there; all in one program, in lanes.

    The budget is `steps` steps of `batch_size` examples for each client, from the same `params`; an epoch is as long as
    the client's data. A federated run of R rounds has spent as many at a client that takes part in r of them with E
    local steps at steps = r E.

    Args:
      model_or_loss: a loss function `(params, batch, key) -> [B]`, or a Model of classes; see `fl.evaluate`.
      params: where each client starts.
      train: what to train on.
      test: what to test on; the same clients in the same order (`partition.train_test_split`).
      client_optimizer: an optax optimizer.
      steps: how many, for each client.
      batch_size: B.
      metrics: a list of `fl.metrics`.
      model: the Model whose outputs the metrics read, where `model_or_loss` is a plain function.
      bootstrap: see `fl.evaluate_clients`.
      key: of the orders of examples, the loss's own draws, and resamples.
      execution: lanes and devices.

    Returns:
      a Baseline without a model: there is one a client. A client without training data has `params`.

    Raises:
      TypeError, ValueError: as `fl.evaluate_personalized`.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, optax, fedjaxlite as fl
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 5])}, client_ids=[0, 0, 1])
      >>> square = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> options = {"client_optimizer": optax.sgd(0.5), "steps": 1, "key": jax.random.key(0)}
      >>> fl.baselines.local_only(square, jnp.float32(0), people, people, **options).report.metrics["loss"].tolist()
      [1.0, 0.0]
    """
    _, steps, key = checked(model_or_loss, params, train, test, steps, key)
    same_clients(train, test)
    options: dict[str, Any] = {"metrics": metrics, "model": model, "bootstrap": bootstrap, "execution": execution}
    tuned = evaluate_personalized(
        model_or_loss, train, test, client_optimizer=client_optimizer, batch_size=batch_size, steps=steps, **options
    )
    return Baseline(tuned(params, key)[1])
