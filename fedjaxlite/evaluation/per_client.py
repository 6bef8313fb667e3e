"""Evaluation at the clients: of the server's model, of their own models, and after fine-tuning."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.client_report import ClientReport
from fedjaxlite.data.client_view import ClientData
from fedjaxlite.data.population import Population
from fedjaxlite.evaluation.central import Evaluation, better_of, fixed_key, loss_for, metric_sums
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.federated_sum import federated_sum
from fedjaxlite.execution.layout import Execution
from fedjaxlite.keys import as_key
from fedjaxlite.local.local_sgd import local_sgd
from fedjaxlite.lowering import lower
from fedjaxlite.protocol.algorithm import ClientOutput
from fedjaxlite.sampling import full
from fedjaxlite.wire.means import weighted_mean

PyTree = Any

_ONE = Execution()


def _measure(loss_fn: Callable[..., Any], params: PyTree, data: ClientData, batch_size: int) -> dict[str, jax.Array]:
    """One client's mean loss and metrics on its own examples."""
    loss_fn = lower(loss_fn, platform=data.wave.platform)  # where that is faster in a loop
    plan = data.with_work(1.0).batches(batch_size=min(batch_size, data.wave.max_size), epochs=1, shuffle=False)

    def add(total: Any, batch: Any, mask: Any, key: Any) -> Any:
        del key
        return jax.tree.map(jnp.add, total, metric_sums(loss_fn, params, batch, mask))

    shapes = jax.eval_shape(lambda: metric_sums(loss_fn, params, *plan.batch(jnp.int32(0))))
    sums, weight = plan.scan(add, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
    return {name: total / weight for name, total in sums.items()}  # NaN where there is nothing to measure


def evaluate_clients(
    model_or_loss: Any, population: Population, *, rounds: Any = None, batch_size: int = 64, execution: Execution = _ONE
) -> Evaluation:
    """Evaluation at every client, on its own examples: who is served well, and who is not.

    Args:
      model_or_loss: a loss function `(params, batch, key) -> [B]`, or a Model of classes; see `evaluate`.
      population: the clients' test data; clients that were never trained on are one too (`partition.holdout_clients`).
      rounds: a Rounds whose algorithm keeps personalized models; its clients are then the population's, in order.
      batch_size: rows at a time.
      execution: lanes and devices.

    Returns:
      `f(params) -> ClientReport`; with `rounds`, `f(state) -> ClientReport` of each client's personalized model.

    Example:
      >>> import fedjaxlite as fl
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 10])}, client_ids=[0, 0, 1])
      >>> square = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> report = evaluate_clients(square, people)(jnp.float32(2))
      >>> report.metrics["loss"].tolist(), round(report.summary()["loss_worst10"], 1)
      ([1.0, 64.0], 64.0)
    """
    checks.one_instance(Population, "a Population", population=population)
    batch_size = checks.positive_int(batch_size=batch_size)
    if rounds is not None:
        checks.one_instance(Rounds, "what fl.rounds(...) returned, or None", rounds=rounds)
    loss_fn = loss_for(model_or_loss, population.features)
    everyone = full(population.num_clients).sample(fixed_key(), 0, population)

    def client_fn(shared: Any, data: ClientData) -> ClientOutput:
        params = shared
        if rounds is not None:
            own = jax.tree.map(lambda leaf: leaf[data.id], shared.clients.algorithm)
            algorithm = rounds.algorithm
            broadcast = (algorithm.broadcast or algorithm.params)(shared.server_state)
            params = algorithm.client_params(broadcast, own)
        return ClientOutput(jnp.float32(0), data.num_examples, info=_measure(loss_fn, params, data, batch_size))

    call = federated_sum(client_fn, aggregator=weighted_mean(), execution=execution)
    better = better_of(loss_fn)

    def run(model: Any) -> ClientReport:
        return _report(call(model, population, everyone, key=fixed_key())[1], population)._replace(better=better)

    return Evaluation(run, better)


def evaluate_personalized(
    model_or_loss: Any,
    train: Population,
    test: Population,
    *,
    client_optimizer: Any,
    batch_size: int = 10,
    epochs: int = 1,
    execution: Execution = _ONE,
) -> Evaluation:
    """Evaluation after local fine-tuning: each client trains the server's model on its own data, then tests it.

    Args:
      model_or_loss: a loss function `(params, batch, key) -> [B]`, or a Model of classes (see `evaluate`); also what
        the clients fine-tune on.
      train: what the clients fine-tune on.
      test: what they test on; the same clients in the same order (`partition.train_test_split`).
      client_optimizer: optax optimizer of the fine-tuning.
      batch_size: B.
      epochs: passes over a client's training data.
      execution: lanes and devices.

    Returns:
      `f(params, key=None) -> (before, after)`, a ClientReport of the model as it is and one of the fine-tuned models.
      `key` gives the orders in which clients go through their data and the loss's own draws; without it they are the
      same in every call.

    Raises:
      ValueError: if the two populations have different numbers of clients; for a Model whose loss the data do not tell.
    """
    checks.one_instance(Population, "a Population", train=train, test=test)
    epochs = checks.positive_int(epochs=epochs)
    if train.num_clients != test.num_clients:
        raise ValueError(
            f"`train` has {train.num_clients} clients and `test` {test.num_clients}; expected the same clients in the "
            "same order, as partition.train_test_split gives them."
        )
    loss_fn = loss_for(model_or_loss, test.features)
    tune = local_sgd(loss_fn, client_optimizer=client_optimizer, batch_size=batch_size, epochs=epochs)
    everyone = full(train.num_clients).sample(fixed_key(), 0, train)

    def client_fn(shared: Any, data: ClientData) -> ClientOutput:
        params, held_out = shared
        own_test = data.of(held_out)
        before = _measure(loss_fn, params, own_test, 64)
        after = _measure(loss_fn, tune(params, data).params, own_test, 64)
        info = {
            f"{when}/{name}": value for when, m in (("before", before), ("after", after)) for name, value in m.items()
        }
        return ClientOutput(jnp.float32(0), data.num_examples, info=info)

    call = federated_sum(client_fn, aggregator=weighted_mean(), execution=execution)
    better = better_of(loss_fn)

    def run(params: PyTree, key: Any = None) -> tuple[ClientReport, ClientReport]:
        key = fixed_key() if key is None else as_key(key, "key")
        both = _report(call((params, test), train, everyone, key=key)[1], test)._replace(better=better)
        split = lambda when: {k.split("/", 1)[1]: v for k, v in both.metrics.items() if k.startswith(when)}  # noqa: E731
        return both._replace(metrics=split("before")), both._replace(metrics=split("after"))

    return Evaluation(run, better)


def _report(info: Any, population: Population) -> ClientReport:
    own = {name: np.asarray(info.clients[name]) for name in info.metrics}  # without what the engine tells of clients
    return ClientReport(np.diff(np.asarray(population.offsets)), own)
