"""Evaluation: of the server's model on central data, per client, and after personalization."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks, losses
from fedjaxlite.algorithm import ClientOutput
from fedjaxlite.client_data import ClientData
from fedjaxlite.codecs import weighted_mean
from fedjaxlite.execution import Execution
from fedjaxlite.federated_sum import federated_sum
from fedjaxlite.gradients import batch_loss
from fedjaxlite.keys import as_key
from fedjaxlite.local import local_sgd
from fedjaxlite.lowering import lower
from fedjaxlite.models.types import Model
from fedjaxlite.population import Population
from fedjaxlite.sampling import full

PyTree = Any
_ONE = Execution()


def loss_for(model_or_loss: Any, features: Mapping[str, Any]) -> Callable[..., Any]:
    """The loss to evaluate with: the one given, or the usual one for a model and the kind of its labels.

    Args:
      model_or_loss: a loss function `(params, batch, key) -> [B]`, or a Model.
      features: the data, whose "y" decides for a Model: integers `[n]` take cross entropy, integers `[n, T]` the
        sequence cross entropy, floats the squared error.

    Returns:
      a loss function, with convolutions lowered where that is faster in a loop (`fedjaxlite.lower`).
    """
    if not isinstance(model_or_loss, Model):
        checks.is_callable(loss=model_or_loss)
        return lower(model_or_loss)
    if "y" not in features:
        raise ValueError(f'the data have no feature "y", only {sorted(features)}; give a loss function, not a Model.')
    labels = features["y"]
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        return lower(losses.squared_error(model_or_loss))
    return lower(
        losses.sequence_cross_entropy(model_or_loss) if labels.ndim > 1 else losses.cross_entropy(model_or_loss)
    )


def evaluate(model_or_loss: Any, data: Any, *, batch_size: int = 500) -> Callable[[PyTree], dict[str, jax.Array]]:
    """Central evaluation: the loss and its metrics over a whole data set.

    Args:
      model_or_loss: a Model, or a loss function `(params, batch, key) -> [B]`.
      data: dict of arrays `[n, ...]`, or a Population, whose clients are pooled.
      batch_size: rows at a time.

    Returns:
      `f(params) -> {"loss": ..., ...}` of float32 scalars, compiled once; exact means over all rows, weighted by
      tokens where the loss is. Losses get `key=None`: no dropout, running statistics.

    Raises:
      TypeError, ValueError: for data that are no dict of equally long arrays, or hold no rows.

    Example:
      >>> square = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> float(evaluate(square, {"x": np.float32([1, 3])})(jnp.float32(0))["loss"])
      5.0
    """
    checks.positive_int(batch_size=batch_size)
    features = data.features if isinstance(data, Population) else data
    if not isinstance(features, Mapping) or not features:
        raise TypeError(f"`data` is a {type(data).__name__}; expected a dict of arrays [n, ...], or a Population.")
    rows = {name: np.shape(array)[0] for name, array in features.items()}
    n = next(iter(rows.values()))
    if n == 0 or len(set(rows.values())) > 1:
        raise ValueError(f"`data` has features of {rows} rows; expected the same number, at least 1, in each of them.")
    loss_fn = loss_for(model_or_loss, features)
    size = min(batch_size, n)
    arrays = {name: jnp.asarray(array) for name, array in features.items()}

    @jax.jit
    def run(params: PyTree, arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        def batch(index: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
            rows = index * size + jnp.arange(size, dtype=jnp.int32)
            mask = rows < n
            taken = {name: array[jnp.minimum(rows, n - 1)] for name, array in arrays.items()}
            return {**taken, "mask": mask}, mask

        def add(total: Any, index: jax.Array) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, _sums(loss_fn, params, *batch(index))), None

        shapes = jax.eval_shape(lambda: _sums(loss_fn, params, *batch(jnp.int32(0))))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (sums, weight), _ = jax.lax.scan(add, zeros, jnp.arange(-(-n // size), dtype=jnp.int32))
        return jax.tree.map(lambda total: total / jnp.where(weight > 0, weight, 1.0), sums)

    return lambda params: run(params, arrays)


def _sums(loss_fn: Callable[..., Any], params: PyTree, batch: Any, mask: Any) -> tuple[dict[str, jax.Array], jax.Array]:
    """A batch's loss and metrics as sums, and the weight to divide them by."""
    reduced = batch_loss(loss_fn, params, batch, mask, None)
    means = {"loss": reduced.loss, **reduced.metrics}
    return {name: mean * reduced.weight for name, mean in means.items()}, reduced.weight


class ClientReport(NamedTuple):
    """How a model does at every client.

    Attributes:
      num_examples: int `[N]`.
      metrics: dict of float `[N]`, each client's mean; NaN for a client without examples.
    """

    num_examples: np.ndarray
    metrics: Mapping[str, np.ndarray]

    def summary(self) -> dict[str, float]:
        """The distribution over clients of each metric, as flat names for records.

        Returns:
          for a metric m: "m" (mean weighted by examples), "m_mean" (every client alike), "m_p10", "m_p50", "m_p90"
          (quantiles over clients), "m_worst10" and "m_best10" (mean over the worst and best tenth of clients, at least
          one), "m_var" (variance), "m_gini" (0: all alike). Low is bad, but for metrics with "loss" or "error" in
          their name.
        """
        some = self.num_examples > 0
        weight = self.num_examples[some].astype(np.float64)
        report: dict[str, float] = {}
        for name, values in self.metrics.items():
            report.update(_distribution(name, np.asarray(values, np.float64)[some], weight))
        return report


def _distribution(name: str, values: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    ordered = np.sort(values)
    tenth = max(1, round(0.1 * len(values)))
    low, high = float(ordered[:tenth].mean()), float(ordered[-tenth:].mean())
    bad_is_high = "loss" in name or "error" in name
    return {
        name: float(np.average(values, weights=weight)),
        f"{name}_mean": float(values.mean()),
        **{f"{name}_p{q}": float(np.quantile(values, q / 100)) for q in (10, 50, 90)},
        f"{name}_worst10": high if bad_is_high else low,
        f"{name}_best10": low if bad_is_high else high,
        f"{name}_var": float(values.var()),
        f"{name}_gini": gini(values),
    }


def gini(values: np.ndarray) -> float:
    """The Gini coefficient of nonnegative values: 0 where all are alike, towards 1 where one has everything."""
    ordered = np.sort(np.asarray(values, np.float64))
    n, total = len(ordered), float(ordered.sum())
    if n == 0 or total <= 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def _measure(loss_fn: Callable[..., Any], params: PyTree, data: ClientData, batch_size: int) -> dict[str, jax.Array]:
    """One client's mean loss and metrics on its own examples."""
    plan = data.with_work(1.0).batches(batch_size=min(batch_size, data.wave.max_size), epochs=1, shuffle=False)

    def add(total: Any, batch: Any, mask: Any, key: Any) -> Any:
        del key
        return jax.tree.map(jnp.add, total, _sums(loss_fn, params, batch, mask))

    shapes = jax.eval_shape(lambda: _sums(loss_fn, params, *plan.batch(jnp.int32(0))))
    sums, weight = plan.scan(add, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
    return {name: total / weight for name, total in sums.items()}  # NaN where there is nothing to measure


def evaluate_clients(
    model_or_loss: Any, population: Population, *, rounds: Any = None, batch_size: int = 64, execution: Execution = _ONE
) -> Callable[[Any], ClientReport]:
    """Evaluation at every client, on its own examples: who is served well, and who is not.

    Args:
      model_or_loss: a Model, or a loss function `(params, batch, key) -> [B]`.
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
    loss_fn = loss_for(model_or_loss, population.features)
    everyone = full(population.num_clients).sample(_fixed_key(), 0, population)

    def client_fn(shared: Any, data: ClientData) -> ClientOutput:
        params = shared
        if rounds is not None:
            own = jax.tree.map(lambda leaf: leaf[data.id], shared.clients.algorithm)
            algorithm = rounds.algorithm
            broadcast = (algorithm.broadcast or algorithm.params)(shared.server_state)
            params = algorithm.client_params(broadcast, own)
        return ClientOutput(jnp.float32(0), data.num_examples, info=_measure(loss_fn, params, data, batch_size))

    call = federated_sum(client_fn, aggregator=weighted_mean(), execution=execution)
    return lambda model: _report(call(model, population, everyone, key=_fixed_key())[1], population)


def evaluate_personalized(
    model_or_loss: Any,
    train: Population,
    test: Population,
    *,
    client_optimizer: Any,
    batch_size: int = 10,
    epochs: int = 1,
    execution: Execution = _ONE,
) -> Callable[[PyTree], tuple[ClientReport, ClientReport]]:
    """Evaluation after local fine-tuning: each client trains the server's model on its own data, then tests it.

    Args:
      model_or_loss: a Model, or a loss function `(params, batch, key) -> [B]`.
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
      ValueError: if the two populations have different numbers of clients.
    """
    if train.num_clients != test.num_clients:
        raise ValueError(
            f"`train` has {train.num_clients} clients and `test` {test.num_clients}; expected the same clients in the "
            "same order, as partition.train_test_split gives them."
        )
    loss_fn = loss_for(model_or_loss, test.features)
    tune = local_sgd(loss_fn, client_optimizer=client_optimizer, batch_size=batch_size, epochs=epochs)
    everyone = full(train.num_clients).sample(_fixed_key(), 0, train)

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

    def run(params: PyTree, key: Any = None) -> tuple[ClientReport, ClientReport]:
        key = _fixed_key() if key is None else as_key(key, "key")
        both = _report(call((params, test), train, everyone, key=key)[1], test)
        split = lambda when: {k.split("/", 1)[1]: v for k, v in both.metrics.items() if k.startswith(when)}  # noqa: E731
        return both._replace(metrics=split("before")), both._replace(metrics=split("after"))

    return run


def _report(info: Any, population: Population) -> ClientReport:
    own = {name: np.asarray(v) for name, v in info.clients.items() if name not in ("id", "num_examples", "in_sum")}
    return ClientReport(np.diff(np.asarray(population.offsets)), own)


def _fixed_key() -> jax.Array:
    return jax.random.key(0, impl="threefry2x32")
