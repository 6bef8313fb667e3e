"""What the parts of a round compute, each as a traced program: clients, server and sampler, apart from the devices.

The round's own program holds lanes, waves and devices, which may change while the numbers stay. These do not, so that a
run that goes on can be held against the one that began.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.whole import traceable
from fedjaxlite.execution.bytes_sent import broadcast
from fedjaxlite.execution.lanes.traced_client import one_client_of
from fedjaxlite.execution.layout import with_lanes
from fedjaxlite.execution.one_round import Program
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.protocol.algorithm import Aggregate
from fedjaxlite.wire.aggregator import ClientInfo, Message, Stacked


def part_programs(
    program: Program, state: RoundState, population: Population, lanes: int | None = None
) -> dict[str, tuple[Any, ...]]:
    """The traced programs of a run's parts.

    Args:
      program: the four axes.
      state: any state of the run, or its shapes.
      population: what it trains on, or its shapes; values do not matter.
      lanes: how many clients the trace of one is told to stand beside; None takes those of the round, for which the
        client's program is known already.

    Returns:
      `{name: (ClosedJaxpr, ...)}` with "sampler" (a round's cohort, and what the aggregator opens it with), "client"
      (local work, and its message, encoded and read) and "server" (decoding, and the server's step).
    """
    algorithm, aggregator = program.algorithm, program.aggregator
    state, population = jax.tree.map(_shape, (state, traceable(population)))
    shared = jax.eval_shape(lambda s: broadcast(algorithm, s), state.server_state)
    own = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state.clients)
    key, number = state.keys.noise, state.round
    layout = program.layout._replace(lanes=lanes or program.layout.lanes)
    model = jax.eval_shape(algorithm.params, state.server_state)
    layout = with_lanes(layout, model, population, program.sampler.capacity)

    memory = program.sampler.memory

    def sampler(key: Any, number: Any, population: Population, remembered: Any) -> Any:
        if memory is None:
            return program.sampler.sample(key, number, population)
        return memory.sample(remembered, key, number, population)[0]

    def client(features: Any, shared: Any, own: Any, opened: Any, key: Any) -> Any:
        output = one_client_of(program.client, population, layout)(features, (shared, own.algorithm), key)
        message = Message(output.update, output.weight, dict(output.scalars))
        told = ClientInfo(jnp.int32(0), jnp.float32(1), key, jnp.bool_(True), jnp.int32(0), key)
        sent, own_state = aggregator.encode(opened, own.codec, message, told)
        return aggregator.read(opened, sent, told), own_state, output.client_state, dict(output.info)

    def begin(aggregator_state: Any, cohort: Any, key: Any) -> Any:
        return aggregator.begin(aggregator_state, cohort, key)

    def server(server_state: Any, opened: Any, total: Any, count: Any, key: Any) -> Any:
        aggregate, aggregator_state = aggregator.decode(opened, total, key)
        aggregate: Aggregate = (
            aggregate if aggregator.public_count is not None else aggregate._replace(num_clients=count)
        )
        return algorithm.server_update(server_state, aggregate, key), aggregator_state

    drawn, cohort = jax.make_jaxpr(sampler, return_shape=True)(state.keys.sample, number, population, state.sampler)
    begun, opened = jax.make_jaxpr(begin, return_shape=True)(state.aggregator_state, cohort, key)
    for_clients = state.keys.client
    sent, (element, *_) = jax.make_jaxpr(client, return_shape=True)(
        dict(population.features), shared, own, opened, for_clients
    )
    if any(codec.role == "stack" for codec in aggregator.parts):
        slots = cohort.ids.shape[0]
        stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((slots, *leaf.shape), leaf.dtype), element)
        element = Stacked(stacked, jax.ShapeDtypeStruct((slots,), jnp.bool_))
    count = jax.ShapeDtypeStruct((), jnp.int32)
    stepped = jax.make_jaxpr(server)(state.server_state, opened, element, count, state.keys.server)
    return {"sampler": (drawn, begun), "client": (sent,), "server": (stepped,)}


def _shape(leaf: Any) -> Any:
    array = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)
