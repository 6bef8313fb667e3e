"""Evaluation at the clients: of the server's model, of their own models, and after fine-tuning."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.client_report import ClientReport
from fedjaxlite.data.client_view import ClientData
from fedjaxlite.data.group_gaps import group_ids
from fedjaxlite.data.on_disk.refusing import in_memory_only
from fedjaxlite.data.population import Population
from fedjaxlite.directions import Direction
from fedjaxlite.evaluation import by_size, in_pieces
from fedjaxlite.evaluation.central import Evaluation, fixed_key, loss_for
from fedjaxlite.evaluation.measuring import Found, Measuring, finished, measuring, steps
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.federated_sum import federated_sum
from fedjaxlite.execution.layout import Execution
from fedjaxlite.execution.prepared.client_rows import with_all
from fedjaxlite.keys import as_key
from fedjaxlite.local.local_sgd import local_sgd
from fedjaxlite.metrics.metric import Metric
from fedjaxlite.models.types import Model
from fedjaxlite.protocol.algorithm import ClientOutput
from fedjaxlite.wire.means import weighted_mean

PyTree = Any

_ONE = Execution()
_RESAMPLES = 1
"""A fixed fold_in of a client's key."""


def measured(what: Measuring, params: PyTree, data: ClientData, batch_size: int, most: int | None) -> Found:
    """One client's mean loss and metrics on its own examples; NaN where there is nothing to measure.

    Args:
      what: is measured.
      params: the model.
      data: the client's examples.
      batch_size: rows at a time.
      most: at least the client's examples, static, where rows are kept; None in a loop as long as the client needs.
    """
    of_batch, nothing, added = steps(what, data.wave.platform)
    size = min(batch_size, data.wave.max_size)
    plan = data.with_work(1.0).batches(batch_size=size, epochs=1, shuffle=False)
    draw = jax.random.fold_in(data.key, _RESAMPLES)
    zeros = nothing(jax.eval_shape(lambda: of_batch(params, *plan.batch(jnp.int32(0)), draw)))
    if most is None:
        total = plan.scan(lambda total, *batch: added(total, of_batch(params, *batch)), zeros)
        return finished(what, total, {}, None, draw, empty=0.0)

    def add(total: Any, index: jax.Array) -> tuple[Any, Any]:
        batch, mask = plan.batch(index)
        found = of_batch(params, batch, mask, jax.random.fold_in(draw, index))
        return added(total, found), (found.rows, mask)

    total, kept = jax.lax.scan(add, zeros, jnp.arange(-(-most // size), dtype=jnp.int32))
    rows, mask = kept
    return finished(what, total, rows, mask, draw, empty=0.0)


def evaluate_clients(
    model_or_loss: Any,
    population: Population,
    *,
    rounds: Any = None,
    batch_size: int = 64,
    metrics: Sequence[Metric] = (),
    model: Model | None = None,
    bootstrap: int | None = None,
    key: Any = None,
    groups: Any = None,
    execution: Execution = _ONE,
) -> Evaluation:
    """Evaluation at every client, on its own examples: who is served well, and who is not.

    Args:
      model_or_loss: a loss function `(params, batch, key) -> [B]`, or a Model of classes; see `evaluate`.
      population: the clients' test data; clients that were never trained on are one too (`partition.holdout_clients`).
        One on a disk is gone through in pieces of clients, of which two are in memory at a time.
      rounds: a Rounds whose algorithm keeps personalized models; its clients are then the population's, in order.
      batch_size: rows at a time.
      metrics: a list of `fl.metrics`; see `evaluate`.
      model: the Model whose outputs the metrics read, where `model_or_loss` is a plain function.
      bootstrap: so many resamples of each client's examples, for intervals; see `evaluate`.
      key: of the resamples; None draws the same in every call.
      groups: `[N]` ints or strings: the examples of a group's clients are pooled, and the report has a row for each
        group in the order of their sorted names. None for a row a client. Not with `rounds`, nor on a disk.
      execution: lanes and devices.

    Returns:
      `f(params) -> ClientReport`; with `rounds`, `f(state) -> ClientReport` of each client's personalized model.
      Metrics that are one number are in `metrics`, arrays (a confusion matrix) in `arrays`, and the ends of the
      intervals in `low` and `high`; NaN where a metric is undefined for a client. Where clients are many and ragged,
      what keeps rows (exact areas under curves) runs in a program for each size of clients, in factors of 8.

    Raises:
      TypeError, ValueError: as `evaluate`; for groups that are not one a client.

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
    if groups is not None:
        if rounds is not None:
            raise ValueError(
                "`groups` pools examples under one model, and `rounds` has one a client; give one of them."
            )
        population = pooled(population, groups)
    what = measuring(loss_for(model_or_loss, population.features), model_or_loss, metrics, model, bootstrap)

    def client(shared: Any, data: ClientData, most: int | None) -> Mapping[str, Found]:
        params = shared if rounds is None else model_of(rounds, shared, data.id)
        return {"": measured(what, params, data, batch_size, most)}

    run = everywhere(client, population, population, what, execution)
    draw = fixed_key() if key is None else as_key(key, "key")

    def evaluated(model: Any) -> ClientReport:
        given = model if rounds is None else with_all(rounds.execution, model, population.num_clients)
        return run(lambda test: given, draw)[""]

    return Evaluation(evaluated, what.better)


def model_of(rounds: Rounds, state: Any, client: Any) -> PyTree:
    """The personalized model of the client of an index, which may be traced."""
    own = jax.tree.map(lambda leaf: leaf[client], state.clients.algorithm)
    algorithm = rounds.algorithm
    broadcast = (algorithm.broadcast or algorithm.params)(state.server_state)
    return algorithm.client_params(broadcast, own)


def pooled(population: Population, groups: Any) -> Population:
    """The population whose clients are groups of clients."""
    in_memory_only("what pools the examples of clients", population=population)
    names, owner = group_ids(groups, population.num_clients)
    order = np.argsort(owner, kind="stable")
    sorted_ = population.select(order)
    last = np.cumsum(np.bincount(owner, minlength=len(names)))
    offsets = np.asarray(sorted_.offsets)[np.append(0, last)]
    return Population(sorted_.features, offsets, max(1, int(np.diff(offsets).max())), names)


def evaluate_personalized(
    model_or_loss: Any,
    train: Population,
    test: Population,
    *,
    client_optimizer: Any,
    batch_size: int = 10,
    epochs: int | None = None,
    steps: int | None = None,
    metrics: Sequence[Metric] = (),
    model: Model | None = None,
    bootstrap: int | None = None,
    execution: Execution = _ONE,
) -> Evaluation:
    """Evaluation after local fine-tuning: each client trains the server's model on its own data, then tests it.

    Args:
      model_or_loss: a loss function `(params, batch, key) -> [B]`, or a Model of classes (see `evaluate`); also what
        the clients fine-tune on.
      train: what the clients fine-tune on; in memory or on a disk, as is `test`.
      test: what they test on; the same clients in the same order (`partition.train_test_split`).
      client_optimizer: optax optimizer of the fine-tuning.
      batch_size: B.
      epochs: passes over a client's training data; 1 where `steps` is not given either.
      steps: local steps, instead of epochs.
      metrics: a list of `fl.metrics`; see `evaluate`.
      model: the Model whose outputs the metrics read, where `model_or_loss` is a plain function.
      bootstrap: so many resamples of each client's test examples, for intervals; see `evaluate`.
      execution: lanes and devices.

    Returns:
      `f(params, key=None) -> (before, after)`, a ClientReport of the model as it is and one of the fine-tuned models.
      `key` gives the orders in which clients go through their data, the loss's own draws and the resamples; without it
      they are the same in every call.

    Raises:
      ValueError: if the two populations have different numbers of clients; for a Model whose loss the data do not tell;
        for both of `epochs` and `steps`.
    """
    checks.one_instance(Population, "a Population", train=train, test=test)
    epochs = 1 if epochs is None and steps is None else epochs
    epochs = None if epochs is None else checks.positive_int(epochs=epochs)
    steps = None if steps is None else checks.positive_int(steps=steps)
    if train.num_clients != test.num_clients:
        raise ValueError(
            f"`train` has {train.num_clients} clients and `test` {test.num_clients}; expected the same clients in the "
            "same order, as partition.train_test_split gives them."
        )
    loss_fn = loss_for(model_or_loss, test.features)
    tune = local_sgd(loss_fn, client_optimizer=client_optimizer, batch_size=batch_size, epochs=epochs, steps=steps)
    what = measuring(loss_fn, model_or_loss, metrics, model, bootstrap)

    def client(shared: Any, data: ClientData, most: int | None) -> Mapping[str, Found]:
        params, held_out = shared
        own_test = data.of(held_out)
        before = measured(what, params, own_test, 64, most)
        return {"before": before, "after": measured(what, tune(params, data).params, own_test, 64, most)}

    run = everywhere(client, train, test, what, execution)

    def both(params: PyTree, key: Any = None) -> tuple[ClientReport, ClientReport]:
        reports = run(lambda test: (params, test), fixed_key() if key is None else as_key(key, "key"))
        return reports["before"], reports["after"]

    return Evaluation(both, what.better)


def everywhere(
    client: Callable[[Any, ClientData, int | None], Mapping[str, Found]],
    train: Population,
    test: Population,
    what: Measuring,
    execution: Execution,
) -> Callable[[Callable[[Population], Any], Any], dict[str, ClientReport]]:
    """A measurement at all clients.

    Args:
      client: `(shared, data, most) -> {name: Found}`; `most` is for `measured`.
      train: the population that the clients' data are of.
      test: that which is measured on, the same clients.
      what: is measured.
      execution: lanes and devices.

    Returns:
      `run(shared, key) -> {name: ClientReport}`, where `shared(test)` is what all clients get beside their data: `test`
      itself may come in pieces.
    """
    cohorts = by_size.groups(test, fixed_key()) if what.keeps_rows else [by_size.whole(train, fixed_key())]

    def call_of(most: int | None) -> Any:
        def fn(shared: Any, data: ClientData) -> ClientOutput:
            found = client(shared, data, most if what.keeps_rows else None)
            info = {
                f"{when}/{field}/{name}": value
                for when, of_client in found.items()
                for field, values in of_client._asdict().items()
                for name, value in values.items()
            }
            return ClientOutput(jnp.float32(0), data.num_examples, info=info)

        return federated_sum(fn, aggregator=weighted_mean(), execution=execution)

    calls = [(group, call_of(group.most)) for group in cohorts]
    sizes = np.diff(np.asarray(test.offsets))

    def run(shared: Callable[[Population], Any], key: Any) -> dict[str, ClientReport]:
        all_of_them: dict[str, np.ndarray] = {}
        for group, call in calls:
            for ids, infos in in_pieces.results(call, shared, train, test, group, key):
                for name, values in infos.items():
                    if name.count("/") >= 2:  # what the engine tells of clients has none
                        shape = (len(sizes), *values.shape[1:])
                        all_of_them.setdefault(name, np.full(shape, np.nan, values.dtype))[ids] = values
        return _reports(all_of_them, sizes, what.better, test.names)

    return run


def _reports(
    found: Mapping[str, np.ndarray], sizes: np.ndarray, better: Mapping[str, Direction], names: np.ndarray | None
) -> dict[str, ClientReport]:
    fields: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for name, values in found.items():
        when, field, metric = name.split("/", 2)
        field = "arrays" if field == "values" and values.ndim > 1 else field
        fields.setdefault(when, {}).setdefault(field, {})[metric] = values
    return {
        when: ClientReport(
            sizes, of.get("values", {}), better, of.get("arrays", {}), of.get("low", {}), of.get("high", {}), names
        )
        for when, of in fields.items()
    }
