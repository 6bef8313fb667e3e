"""Central training: what a model would reach if all data lay in one place."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.client_report import ClientReport
from fedjaxlite.data.client_view import client_view
from fedjaxlite.data.on_disk.refusing import in_memory_only
from fedjaxlite.data.population import Population
from fedjaxlite.evaluation.central import loss_for
from fedjaxlite.evaluation.per_client import evaluate_clients, pooled
from fedjaxlite.execution.layout import Execution
from fedjaxlite.keys import as_key
from fedjaxlite.local.local_sgd import local_sgd
from fedjaxlite.metrics.metric import Metric
from fedjaxlite.models.types import Model
from fedjaxlite.variables import trainable

PyTree = Any

ONE = Execution()


class Baseline(NamedTuple):
    """What a baseline gives.

    Attributes:
      report: a ClientReport, as `fl.evaluate_clients` gives it, of the test data of every client.
      params: the trained model, where there is one for all clients; else None.
    """

    report: ClientReport
    params: PyTree = None


def central(
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
    """Trains on all clients' data in one place, and tests at every client: what federated learning is to come close to.

    The budget is `steps` steps of `batch_size` examples, drawn without replacement from all of them, in a new order
    each epoch. A federated run of R rounds of E local steps of that size has gone as far in a row at steps = R E, and
    has seen K times as many examples with K clients a round.

    Args:
      model_or_loss: a loss function `(params, batch, key) -> [B]`, or a Model of classes; see `fl.evaluate`.
      params: where to start.
      train: what to train on.
      test: what to test on, of the same or other clients.
      client_optimizer: an optax optimizer.
      steps: how many.
      batch_size: B.
      metrics: a list of `fl.metrics`.
      model: the Model whose outputs the metrics read, where `model_or_loss` is a plain function.
      bootstrap: see `fl.evaluate_clients`.
      key: of the order of examples, the loss's own draws, and resamples.
      execution: of the test.

    Returns:
      a Baseline, with the model.

    Raises:
      TypeError, ValueError: as `fl.local_sgd` and `fl.evaluate_clients`.

    Example:
      >>> import jax.numpy as jnp, optax, fedjaxlite as fl
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 5])}, client_ids=[0, 0, 1])
      >>> square = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> options = {"client_optimizer": optax.sgd(0.5), "steps": 1, "key": jax.random.key(0)}
      >>> done = fl.baselines.central(square, jnp.float32(0), people, people, **options)
      >>> float(done.params), done.report.metrics["loss"].tolist()
      (3.0, [2.0, 4.0])
    """
    loss_fn, steps, key = checked(model_or_loss, params, train, test, steps, key)
    run = local_sgd(loss_fn, client_optimizer=client_optimizer, batch_size=batch_size, steps=steps)
    options: dict[str, Any] = {"metrics": metrics, "model": model, "bootstrap": bootstrap, "key": key}
    measure = evaluate_clients(model_or_loss, test, execution=execution, **options)
    everyone = pooled(train, np.zeros(train.num_clients, np.int32))
    trained = jax.jit(lambda params, people, key: run(params, client_view(people, 0, key=key)).params)
    params = trained(params, everyone, key)
    return Baseline(measure(params), params)


def checked(
    model_or_loss: Any, params: PyTree, train: Any, test: Any, steps: Any, key: Any
) -> tuple[Any, int, jax.Array]:
    """The loss, the number of steps and the key of a baseline; refuses parameters that cannot be trained."""
    checks.one_instance(Population, "a Population", train=train, test=test)
    in_memory_only("a baseline", train=train, test=test)
    checks.concrete("A baseline is a report, which no program returns.", params=params)
    checks.float_leaves("params", trainable(params))
    return loss_for(model_or_loss, train.features), checks.positive_int(steps=steps), as_key(key, "key")


def same_clients(train: Population, test: Population) -> None:
    """Refuses populations of different numbers of clients."""
    if train.num_clients != test.num_clients:
        raise ValueError(
            f"`train` has {train.num_clients} clients and `test` {test.num_clients}; expected the same clients in the "
            "same order, as partition.train_test_split gives them."
        )
