"""What a model says of every example, in the order of the data."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.client_view import ClientData
from fedjaxlite.data.on_disk.refusing import in_memory_only
from fedjaxlite.data.population import Population
from fedjaxlite.evaluation import by_size
from fedjaxlite.evaluation.central import fixed_key, rows_of
from fedjaxlite.evaluation.per_client import model_of
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.federated_sum import federated_sum
from fedjaxlite.execution.layout import Execution
from fedjaxlite.execution.prepared.client_rows import with_all
from fedjaxlite.losses import Loss
from fedjaxlite.losses.outputs import model_outputs
from fedjaxlite.lowering import lower
from fedjaxlite.models.types import Model
from fedjaxlite.platforms import platform_of
from fedjaxlite.protocol.algorithm import ClientOutput
from fedjaxlite.wire.means import weighted_mean

PyTree = Any

_ONE = Execution()
_AT_ONCE = 2**20
"""Padded rows whose outputs are held at a time beside those that are done."""


def predict(
    model: Model | Loss,
    data: Any,
    *,
    rounds: Rounds | None = None,
    batch_size: int = 500,
    execution: Execution = _ONE,
) -> Callable[[Any], PyTree]:
    """The outputs of a model for every example.

    Args:
      model: a Model, or a Loss that has one.
      data: dict of arrays `[n, ...]` with the feature "x", or a Population. Targets are not needed.
      rounds: a Rounds whose algorithm keeps personalized models: each client's own model then says of its examples what
        it says. `data` is a Population of the run's clients, in order.
      batch_size: rows at a time.
      execution: lanes and devices, for `rounds`.

    Returns:
      `f(params) -> outputs`, `[n, ...]` or whatever pytree of that the model gives, row i for row i of the data; those
      of a Population's client c are rows `offsets[c]:offsets[c + 1]`. In evaluation mode: no dropout, running
      statistics. With `rounds`, `f(state)`, of NumPy arrays.

    Raises:
      TypeError: for what is no Model, or data that are none. ValueError: for a Loss without a model; for data without
        "x" or rows; for `rounds` with data that are no Population.

    Example:
      >>> import fedjaxlite as fl
      >>> model = fl.models.from_functions(lambda key: jnp.float32(2), lambda scale, x: scale * x)
      >>> predict(model, {"x": np.float32([1, 2, 3])})(jnp.float32(2)).tolist()
      [2.0, 4.0, 6.0]
    """
    if isinstance(model, Loss):
        if model.model is None:
            raise ValueError(
                f"`model` is the loss `{model.name}`, which does not tell its model; give the Model itself."
            )
        model = model.model
    checks.one_instance(Model, "a Model, such as fl.models.logistic(num_classes=10)", model=model)
    batch_size = checks.positive_int(batch_size=batch_size)
    if rounds is not None:
        checks.one_instance(Rounds, "what fl.rounds(...) returned, or None", rounds=rounds)
        checks.one_instance(Population, "a Population, whose clients are those of `rounds`", data=data)
    in_memory_only("fl.predict", "go through pieces by data.select(ids)", data=data)
    features = rows_of(data)
    if "x" not in features:
        raise ValueError(f'`data` has no feature "x", which a model reads, only {sorted(features)}.')
    if rounds is not None:
        return _personal(model, data, rounds, batch_size, execution)
    x = jnp.asarray(features["x"])
    n = x.shape[0]
    size = min(batch_size, n)

    @partial(jax.jit, static_argnums=0)
    def run(platform: str, params: PyTree, x: jax.Array) -> PyTree:
        apply = lower(partial(model_outputs, model), platform=platform)

        def one(index: jax.Array) -> PyTree:
            rows = index * size + jnp.arange(size, dtype=jnp.int32)
            return apply(params, {"x": x[jnp.minimum(rows, n - 1)], "mask": rows < n})

        outputs = jax.lax.map(one, jnp.arange(-(-n // size), dtype=jnp.int32))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], outputs)

    return lambda params: run(platform_of((params, x)), params, x)


def _personal(
    model: Model, population: Population, rounds: Rounds, batch_size: int, execution: Execution
) -> Callable[[Any], PyTree]:
    offsets = np.asarray(population.offsets)
    size = min(batch_size, max(population.max_size, 1))

    def call_of(most: int) -> Any:
        def fn(state: Any, data: ClientData) -> ClientOutput:
            params = model_of(rounds, state, data.id)
            apply = lower(partial(model_outputs, model), platform=data.wave.platform)
            plan = data.with_work(1.0).batches(batch_size=size, epochs=1, shuffle=False)
            outputs = jax.lax.map(
                lambda i: apply(params, plan.batch(i)[0]), jnp.arange(-(-most // size), dtype=jnp.int32)
            )
            leaves = [leaf.reshape(-1, *leaf.shape[2:])[:most] for leaf in jax.tree.leaves(outputs)]
            return ClientOutput(
                jnp.float32(0), data.num_examples, info={f"outputs/{i}": v for i, v in enumerate(leaves)}
            )

        return federated_sum(fn, aggregator=weighted_mean(), execution=execution)

    parts = [
        (group.ids[first : first + step], by_size.part(group.cohort, slice(first, first + step)), call)
        for group in by_size.groups(population, fixed_key())
        for call, step in [(call_of(group.most), max(1, _AT_ONCE // group.most))]
        for first in range(0, len(group.ids), step)
    ]

    def run(state: Any) -> PyTree:
        state = with_all(rounds.execution, state, population.num_clients)
        found: dict[str, np.ndarray] = {}
        for ids, cohort, call in parts:
            for name, values in call(state, population, cohort, key=fixed_key())[1].clients.items():
                if name.startswith("outputs/"):
                    _put(found, name, np.asarray(values), ids, offsets)
        structure = jax.tree.structure(_shapes(model, rounds, state, population))
        return jax.tree.unflatten(structure, [found[f"outputs/{i}"] for i in range(structure.num_leaves)])

    return run


def _put(found: dict[str, np.ndarray], name: str, padded: np.ndarray, ids: np.ndarray, offsets: np.ndarray) -> None:
    """Moves the rows of some clients, `[K, most, ...]`, to where they are in the data."""
    into = found.setdefault(name, np.empty((int(offsets[-1]), *padded.shape[2:]), padded.dtype))
    for place, client in enumerate(ids):
        first, last = int(offsets[client]), int(offsets[client + 1])
        into[first:last] = padded[place, : last - first]


def _shapes(model: Model, rounds: Rounds, state: Any, population: Population) -> PyTree:
    x = population.features["x"]
    row = {"x": jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)}
    return jax.eval_shape(lambda state, row: model_outputs(model, model_of(rounds, state, 0), row), state, row)
