"""The loop over waves: clients stream through L lanes, and their messages are summed as they finish.

Memory for temporaries is a few models per lane and does not grow with the cohort: no array of K messages exists,
unless an aggregator asks for one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.execution.lanes.client_program import ClientProgram, TakenApart, take_apart
from fedjaxlite.execution.lanes.cohort_inputs import (
    Inputs,
    Part,
    Results,
    Task,
    Turn,
    everyone,
    in_order,
    nothing_yet,
    one_client,
    over_lanes,
    turn_at,
    with_parts,
)
from fedjaxlite.execution.lanes.queues import Cut, cut_of, run_queues, run_some
from fedjaxlite.execution.lanes.schedule import Schedule
from fedjaxlite.execution.layout import Layout, most_over_devices

PyTree = Any


def run_lanes(
    task: Task, inputs: Inputs, bank: PyTree, scheduled: Callable[[bool], Schedule], layout: Layout
) -> Results:
    """Trains one device's clients, L at a time.

    Args:
      task: `task(data, state, alive, scale, slot) -> Part` for one client; `alive` is False in an empty lane.
      inputs: what the lanes read.
      bank: pytree with a leading axis of this device's clients; updated in place.
      scheduled: `scheduled(queues)`, this device's clients, for lanes that begin together or one by one.
      layout: L, and whether loops are static.

    Returns:
      the Results of this device's clients.
    """
    schedule = scheduled(False)
    all_of_them = everyone(inputs, schedule)
    at = partial(in_order, inputs, schedule, all_of_them)
    lanes = jax.eval_shape(lambda: at(jnp.arange(layout.lanes, dtype=jnp.int32), bank))
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), lanes)
    whole = one_client(task, inputs, layout, None)
    static = layout.execution.max_steps is not None or jax.config.values["jax_disable_jit"]
    found = TakenApart(None, None, jax.eval_shape(whole, one)) if static else take_apart(whole, one)
    results, program = nothing_yet(found.shapes, inputs, bank, layout), found.program
    if program is None:

        def together(place: jax.Array, bank: PyTree) -> tuple[Part, jax.Array, jax.Array]:
            args = at(place, bank)
            work = found.whole or one_client(task, inputs, layout, args)
            return over_lanes(work, layout)(args), args.slot, args.alive

        return _waves(together, inputs, results, schedule, layout)
    cut = cut_of(program, inputs, layout)
    if cut.queues:
        schedule = scheduled(True)
        all_of_them = everyone(inputs, schedule)
    table = jax.vmap(program.ahead)(all_of_them)
    turn = partial(turn_at, inputs, schedule, table)
    if cut.queues:
        return run_queues(program, cut, turn, inputs, results, schedule.size, layout)
    return _waves(partial(_apart, program, cut, layout, turn), inputs, results, schedule, layout)


def _waves(
    train: Callable[[jax.Array, PyTree], tuple[Part, jax.Array, jax.Array]],
    inputs: Inputs,
    results: Results,
    schedule: Schedule,
    layout: Layout,
) -> Results:
    lanes, capacity = layout.lanes, schedule.order.shape[0]

    def wave(index: jax.Array, results: Results) -> Results:
        place = jnp.asarray(index, jnp.int32) * lanes + jnp.arange(lanes, dtype=jnp.int32)
        parts, slot, alive = train(place, results.bank)
        return with_parts(results, parts, slot, alive, inputs)

    if layout.execution.max_steps is None:
        most = schedule.size if inputs.most is None else inputs.most
        return jax.lax.fori_loop(jnp.int32(0), -(-most // lanes), wave, results)
    indices = jnp.arange(-(-capacity // lanes), dtype=jnp.int32)
    return jax.lax.scan(lambda carry, i: (wave(i, carry), None), results, indices)[0]


def _apart(
    program: ClientProgram,
    cut: Cut,
    layout: Layout,
    turn: Callable[[jax.Array, PyTree], Turn],
    place: jax.Array,
    bank: PyTree,
) -> tuple[Part, jax.Array, jax.Array]:
    """One wave of clients whose program was taken apart: all begin, as many steps as the longest has, all end."""
    now = turn(place, bank)
    begun = over_lanes(program.begin, layout)(now.told, now.state)
    num_steps = jnp.where(now.alive, begun.num_steps, 0)
    trips = cut.trips
    if trips is None:
        trips = jnp.max(num_steps)
        trips = most_over_devices(trips, layout) if layout.in_step else trips
    carry = run_some(program, cut.block, layout, begun._replace(num_steps=num_steps), jnp.zeros_like(now.slot), trips)
    return over_lanes(program.end, layout)(now.alive, begun.kept, carry), now.slot, now.alive
