"""One sum over a cohort: the primitive below algorithms and rounds, for anything that is no training."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.client_view import ClientData
from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.drawing import Drawn
from fedjaxlite.data.prepared.gathering import most_examples
from fedjaxlite.data.prepared.pieces import piece_of
from fedjaxlite.execution.cohort_pass import (
    ClientState,
    PassInfo,
    as_chain,
    run_pass,
    wire_of_output,
    with_aggregate,
)
from fedjaxlite.execution.lanes.traced_client import ClientFn, draws_noise, output_template, traced_once
from fedjaxlite.execution.layout import Execution, Layout, over_devices, place, resolve, spans_processes, with_lanes
from fedjaxlite.keys import OF_NO_CLIENT, NoiseKeys, as_key, entropy_key, is_tracing
from fedjaxlite.protocol.algorithm import Aggregate, ClientOutput
from fedjaxlite.sampling import Cohort
from fedjaxlite.wire.aggregator import Aggregator, Wire
from fedjaxlite.wire.packing.forms import num_bytes
from fedjaxlite.wire.rows import fold_of

PyTree = Any


class Computation(NamedTuple):
    """A function of the clients' data that is made of federated sums, with the facts that accountants ask for.

    Attributes:
      run: what is called; a Computation is called like it.
      wire: `wire(shared, population) -> Wire`, the facts at the end of the chain, for a cohort of everyone.
      aggregator: what every sum goes through, as a chain.
      num_sums: how many sums one call makes over one cohort, each with the aggregator as it is when it starts.
      name: for messages and reports.
    """

    run: Callable[..., Any]
    wire: Callable[[PyTree, Population], Wire]
    aggregator: Aggregator
    num_sums: int = 1
    name: str = "federated_sum"

    def __call__(self, *args: Any, **options: Any) -> Any:
        """`run`."""
        return self.run(*args, **options)


class _Sum(NamedTuple):
    """What one sum is made of, checked."""

    client: ClientFn
    aggregator: Aggregator
    execution: Execution


def federated_sum(
    client_fn: Callable[[Any, ClientData], ClientOutput],
    *,
    aggregator: Aggregator,
    execution: Execution = Execution(),  # noqa: B008  (a NamedTuple, immutable)
) -> Computation:
    """Aggregates any function of the clients' data over a cohort: the primitive below algorithms and rounds.

    Args:
      client_fn: `(shared, data) -> ClientOutput`; runs at every client of the cohort. Its `info` may hold arrays here,
        which `PassInfo.clients` then has with a leading axis of clients.
      aggregator: a mean, or a chain that begins with one; its codecs keep nothing between calls.
      execution: lanes and devices.

    Returns:
      `call(shared, population, cohort, *, key, noise_key=None) -> (Aggregate, PassInfo)`, compiled once for every
      shape. Of a population on a disk the cohort's clients are read. `shared` is any pytree that all clients get; a
      client's own key is a fixed function of `key` and its id.
      Noise and masks never come from `key`, which others may know: `noise_key` is drawn from the operating system's
      entropy in every call, unless one is given: of `fl.noise_keys(num_calls)`, or a key of one's own, with which the
      noise is reproducible and not private. The call is a Computation: `privacy.epsilon` and `privacy.report` say what
      it costs.

    Raises:
      ValueError: for an aggregator that keeps state at clients; for a sum with noise or masks inside of `jax.jit` or
        `jax.vmap` without a `noise_key`, where each compiled program would have one noise for ever.

    Example:
      The mean of every client's mean, without any client's data leaving it:

      >>> import fedjaxlite as fl, jax.numpy as jnp, numpy as np
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 10])}, client_ids=[0, 0, 1])
      >>> def mean(shared, data):
      ...     add = lambda total, batch, mask, key: total + jnp.where(mask, batch["x"], 0.0).sum()
      ...     total = data.batches(batch_size=2, epochs=1).scan(add, jnp.float32(0))
      ...     return fl.ClientOutput(total / data.num_examples.astype(jnp.float32))
      >>> everyone = fl.sampling.full(2).sample(jax.random.key(0), 0, people)
      >>> call = federated_sum(mean, aggregator=fl.mean())
      >>> aggregate, info = call((), people, everyone, key=jax.random.key(0))
      >>> float(aggregate.value), int(aggregate.num_clients)
      (6.0, 2)
    """
    checks.is_function_of("shared", "data", client_fn=client_fn)
    client = traced_once(lambda data, both: client_fn(both[0], data))
    execution = execution._replace(param_shardings=None) if isinstance(execution, Execution) else execution
    parts = _Sum(client, as_chain(aggregator), execution)

    @lru_cache(maxsize=32)
    def compiled(capacity: int, scaled: bool) -> tuple[Layout, Callable[..., Any]]:
        layout = resolve(execution, capacity)
        return layout, over_devices(lambda *args: _once(parts, layout, scaled, *args[:4]), layout)

    @lru_cache(maxsize=32)
    def is_secret(capacity: int, scaled: bool, structure: Any, leaves: tuple[Any, ...]) -> bool:
        shared, population = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
        layout = resolve(execution, capacity)
        wire = _built(parts, shared, population, layout, capacity, scaled)[2]
        return wire.noised or wire.masked or draws_noise(client, population, (shared, ()), layout)

    def run(
        shared: PyTree, population: Population, cohort: Cohort, *, key: jax.Array, noise_key: Any = None
    ) -> tuple[Aggregate, PassInfo]:
        # Integer codecs need whole weights, so they have to know that no cohort's `scale` makes fractions of them.
        scaled = checks.is_traced(cohort.scale) or not bool(np.all(np.asarray(cohort.scale) == 1))
        capacity, key = cohort.ids.shape[0], as_key(key, "key")
        population = _cohort_in_memory(population, cohort)
        leaves, structure = jax.tree.flatten((shared, population))
        shapes = tuple((np.shape(leaf), _dtype(leaf)) for leaf in leaves)
        layout, call = compiled(capacity, scaled)
        noise = _noise_key(noise_key, is_secret(capacity, scaled, structure, shapes), layout)
        args = (shared, (population, cohort, key, noise))
        args = args if checks.is_traced(args) else place(args, layout)
        return call(*args, ())[0]

    def wire(shared: PyTree, population: Population) -> Wire:
        capacity = population.num_clients
        return _built(parts, shared, population, resolve(execution, capacity), capacity, scaled=False)[2]

    return Computation(run, wire, parts.aggregator)


def _cohort_in_memory(population: Population, cohort: Cohort) -> Population:
    """Of a population on a disk the clients of the cohort, padded so that all cohorts of this capacity compile once."""
    if not population.on_disk:
        return population
    checks.concrete("The rows of its clients are read from the disk, outside of jit.", cohort=cohort)
    ids = np.asarray(cohort.ids)[np.asarray(cohort.selected)]
    return piece_of(population, ids, most_examples(population, len(cohort.ids)))


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if isinstance(leaf, jax.Array) else jax.dtypes.result_type(leaf)


def _noise_key(given: Any, secret: bool, layout: Layout) -> jax.Array | None:
    """The key of noise and masks; None where a sum has neither."""
    if given is not None:
        return as_key(given.key if isinstance(given, NoiseKeys) else given, "noise_key")
    if not secret:
        return None
    if is_tracing():
        raise ValueError(
            "a sum with noise or masks is traced (by jax.jit, jax.vmap or the like) without a `noise_key`: a key from "
            "the operating system would be a constant of the traced program, the same in every call and in every row "
            "of a vmap. Draw one a call outside, fl.noise_keys(num_calls), and pass it through as noise_key=."
        )
    return entropy_key(shared=spans_processes(layout))


def _built(
    parts: _Sum, shared: PyTree, population: Population, layout: Layout, capacity: int, scaled: bool
) -> tuple[ClientOutput, Any, Wire]:
    """The shapes of a client's output, the aggregator's state, and the wire at the end of the chain."""
    output = output_template(parts.client, population, (shared, ()), layout)
    wire = wire_of_output(output, arrays=True, capacity=capacity, scaled=scaled, num_clients=population.num_clients)
    return output, *parts.aggregator.init(wire)


def _once(
    parts: _Sum,
    layout: Layout,
    scaled: bool,
    device: Any,
    shared: PyTree,
    data: tuple[Population, Cohort, jax.Array, jax.Array | None],
    sharded: Any,
) -> tuple[tuple[Aggregate, PassInfo], Any]:
    population, cohort, key, noise = data
    aggregator, capacity = parts.aggregator, cohort.ids.shape[0]
    output, state, _ = _built(parts, shared, population, layout, capacity, scaled)
    own = aggregator.init_client(output.update)
    if jax.tree.leaves(own):
        raise ValueError(
            f"{aggregator.name} keeps state at clients, which a single sum has no place for; use fl.rounds."
        )
    layout = with_lanes(layout, (shared, output.update), population, capacity)
    # A sum without noise or masks has no use for what it draws here.
    source = jax.random.fold_in(key if noise is None else noise, population.num_clients)
    for_server, for_clients, to_begin = jax.random.split(source, 3)
    state = aggregator.begin(state, cohort, to_begin, jax.random.fold_in(key, OF_NO_CLIENT))
    result = run_pass(
        lambda data, state, slot: parts.client(data, (shared, state)),
        aggregator=aggregator,
        aggregator_state=state,
        fold=fold_of(aggregator),
        drawn=Drawn(population, cohort, cohort.ids),
        bank=ClientState((), own),
        key=key,
        noise=for_clients,
        device=device,
        layout=layout,
        downloaded=num_bytes(shared),
    )
    aggregate, state = aggregator.decode(state, result.total, for_server)
    return with_aggregate(result, aggregate, aggregator, state), sharded
