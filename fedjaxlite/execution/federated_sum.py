"""One sum over a cohort: the primitive below algorithms and rounds, for anything that is no training."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.client_view import ClientData
from fedjaxlite.data.population import Population
from fedjaxlite.execution.cohort_pass import (
    ClientState,
    PassInfo,
    as_chain,
    output_template,
    run_pass,
    traced_once,
    wire_of_output,
)
from fedjaxlite.execution.layout import Execution, Layout, over_devices, place, resolve, with_lanes
from fedjaxlite.keys import as_key
from fedjaxlite.protocol.algorithm import Aggregate, ClientOutput
from fedjaxlite.sampling import Cohort
from fedjaxlite.wire.aggregator import Aggregator

PyTree = Any


def federated_sum(
    client_fn: Callable[[Any, ClientData], ClientOutput],
    *,
    aggregator: Aggregator,
    execution: Execution = Execution(),  # noqa: B008  (a NamedTuple, immutable)
) -> Callable[..., tuple[Aggregate, PassInfo]]:
    """Aggregates any function of the clients' data over a cohort: the primitive below algorithms and rounds.

    Args:
      client_fn: `(shared, data) -> ClientOutput`; runs at every client of the cohort.
      aggregator: a mean, or a chain that begins with one; its codecs keep nothing between calls.
      execution: lanes and devices.

    Returns:
      `call(shared, population, cohort, *, key) -> (Aggregate, PassInfo)`, compiled once for every shape. `shared` is
      any pytree that all clients get; a client's own key is a fixed function of `key` and its id.

    Raises:
      ValueError: for an aggregator that keeps state at clients.

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
    checks.is_callable(client_fn=client_fn)
    aggregator = as_chain(aggregator)

    @lru_cache(maxsize=32)
    def compiled(capacity: int, scaled: bool) -> tuple[Layout, Callable[..., Any]]:
        layout = resolve(execution, capacity)
        return layout, over_devices(lambda *args: _once(client_fn, aggregator, layout, scaled, *args), layout)

    def call(shared: PyTree, population: Population, cohort: Cohort, *, key: jax.Array) -> tuple[Aggregate, PassInfo]:
        # Integer codecs need whole weights, so they have to know that no cohort's `scale` makes fractions of them.
        scaled = checks.is_traced(cohort.scale) or not bool(np.all(np.asarray(cohort.scale) == 1))
        layout, run = compiled(cohort.ids.shape[0], scaled)
        args = (shared, (population, cohort, as_key(key, "key")))
        args = args if checks.is_traced(args) else place(args, layout)
        return run(*args, ())[0]

    return call


def _once(
    client_fn: Callable[..., Any],
    aggregator: Aggregator,
    layout: Layout,
    scaled: bool,
    device: Any,
    shared: PyTree,
    data: tuple[Population, Cohort, jax.Array],
    sharded: Any,
) -> tuple[tuple[Aggregate, PassInfo], Any]:
    population, cohort, key = data
    client = traced_once(lambda data, both: client_fn(both[0], data))
    output = output_template(client, population, (shared, ()), layout)
    capacity = cohort.ids.shape[0]
    wire = wire_of_output(output, capacity=capacity, scaled=scaled, num_clients=population.num_clients)
    state, wire = aggregator.init(wire)
    own = aggregator.init_client(output.update)
    if jax.tree.leaves(own):
        raise ValueError(
            f"{aggregator.name} keeps state at clients, which a single sum has no place for; use fl.rounds."
        )
    layout = with_lanes(layout, (shared, output.update), population, capacity)
    for_server, for_clients, to_begin = jax.random.split(jax.random.fold_in(key, population.num_clients), 3)
    state = aggregator.begin(state, cohort, to_begin)
    result = run_pass(
        lambda data, state: client(data, (shared, state)),
        aggregator=aggregator,
        aggregator_state=state,
        fold=wire.fold,
        population=population,
        cohort=cohort,
        rows=cohort.ids,
        bank=ClientState((), own),
        key=key,
        noise=for_clients,
        device=device,
        layout=layout,
    )
    aggregate, state = aggregator.decode(state, result.total, for_server)
    if aggregator.public_count is None:
        aggregate = aggregate._replace(num_clients=result.num_clients)
    return (aggregate, result.info._replace(aggregator=aggregator.metrics(state))), sharded
