"""Lanes that begin their next client as they are done: no lane waits for the largest client of a wave.

The order is the schedule's, the largest first; a lane that is free takes the next client. Ending clients and beginning
others costs as much as some steps: one where messages are plain, dozens where they are masked. So lanes that are done
wait until as much was lost by waiting; then all of them go on at once. The loop costs at most twice what it would if it
had known the future (ski rental).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.data.client_view import mean_size
from fedjaxlite.data.local_loop import Block, block_of, in_blocks
from fedjaxlite.execution.lanes.client_program import Begun, ClientProgram
from fedjaxlite.execution.lanes.cohort_inputs import Inputs, Results, Turn, over_lanes, with_parts
from fedjaxlite.execution.layout import Layout
from fedjaxlite.keys import is_random_key

PyTree = Any
# Steps that are drawn and run as one block where all clients take as many.
_MOST_STATIC = 1024


class Cut(NamedTuple):
    """How the clients' loops are run.

    Attributes:
      block: how they are cut.
      trips: the steps of every client, where all are known to take as many; else None.
      queues: whether lanes take their next client as they are done.
      change_cost: what ending clients and beginning others costs, in steps.
    """

    block: Block
    trips: int | None
    queues: bool
    change_cost: int = 1


def cut_of(program: ClientProgram, inputs: Inputs, layout: Layout) -> Cut:
    """Chooses by what is known before the program runs: sizes of clients, lanes, platform."""
    population = inputs.population
    return cut_for(
        largest=program.steps_of(population.max_size, 1.0),
        mean=program.steps_of(mean_size(population), 1.0),
        alike=inputs.alike,
        turns=inputs.cohort.ids.shape[0] / (layout.lanes * layout.num_devices),
        lanes=layout.lanes,
        platform=layout.platform,
        change_cost=program.change_cost,
        in_step=layout.in_step,
    )


def cut_for(
    *,
    largest: int | None,
    mean: float | None,
    alike: bool,
    turns: float,
    lanes: int,
    platform: str | None,
    change_cost: int = 1,
    in_step: bool = False,
) -> Cut:
    """How the loops of clients are run.

    Args:
      largest: steps of the largest client; None where nothing tells before the program runs.
      mean: steps of a client in the mean; None likewise.
      alike: whether all clients are known to take as many steps.
      turns: clients that a lane trains one after the other.
      lanes: L.
      platform: "cpu", "gpu", "tpu" ...
      change_cost: what ending clients and beginning others costs, in steps.
      in_step: whether all devices take as many steps in each turn.
    """
    alone = lanes == 1 and not in_step
    if alike and largest:
        if largest <= _MOST_STATIC:
            return Cut(Block(largest, whole=True, exact=True), largest, queues=False)
        return Cut(block_of(platform, largest=largest, mean=largest, alone=alone), largest, queues=False)
    block = block_of(platform, largest=largest, mean=mean, turns=turns, alone=alone)
    queues = lanes > 1 and not in_step and turns > 1 and (largest is None or largest != mean)
    return Cut(block, None, queues, change_cost)


def run_some(program: ClientProgram, block: Block, layout: Layout, begun: Begun, first: jax.Array, trips: Any) -> Any:
    """Runs steps of all lanes.

    Args:
      program: one client's work.
      block: how loops are cut.
      layout: L.
      begun: `[L]` on every leaf; the carry is what the steps go on from.
      first: int32 `[L]`, each lane's next step.
      trips: how many, an int or int32 scalar.

    Returns:
      the new carry.
    """

    def steps(begun: Begun, first: jax.Array) -> Any:
        draw, step = partial(program.draw, begun.kept), partial(program.step, begun.kept)
        options: dict[str, Any] = {"first": first, "num_steps": begun.num_steps, "trips": trips, "block": block}
        return in_blocks(draw, step, begun.carry, **options)

    return over_lanes(steps, layout)(begun, first)


class _Lanes(NamedTuple):
    """The lanes between two changes; `[L]` on every leaf.

    Attributes:
      slot: int32, whom each trains.
      busy: bool, whether it trains somebody.
      next_step: int32, of the client.
      begun: the client, as far as it is.
    """

    slot: jax.Array
    busy: jax.Array
    next_step: jax.Array
    begun: Begun


_State = tuple[jax.Array, _Lanes, Results]  # the first: how many clients were begun


def run_queues(
    program: ClientProgram,
    cut: Cut,
    turn: Callable[[jax.Array, PyTree], Turn],
    inputs: Inputs,
    results: Results,
    size: jax.Array,
    layout: Layout,
) -> Results:
    """Trains one device's clients, each lane one after the other.

    Args:
      program: one client's work.
      cut: how loops are run.
      turn: `turn(place, bank)`, the clients at places of the schedule.
      inputs: what the lanes read.
      results: those before the first client.
      size: int32, this device's clients.
      layout: L.
    """

    def begun(place: jax.Array, bank: PyTree) -> _Lanes:
        now = turn(place, bank)
        first = over_lanes(program.begin, layout)(now.told, now.state)
        return _Lanes(now.slot, now.alive, jnp.zeros_like(now.slot), first)

    def change(state: _State) -> _State:
        waiting, lanes, results = state
        new = begun(_next_places(waiting, lanes.busy), results.bank)
        fresh = ~lanes.busy & new.busy
        lanes = jax.tree.map(partial(_where, fresh), new, lanes)
        waiting = waiting + jnp.sum(fresh, dtype=jnp.int32)
        left = jnp.where(lanes.busy, lanes.begun.num_steps - lanes.next_step, 0)
        trips = until_change(left, waiting < size, cut)
        carry = run_some(program, cut.block, layout, lanes.begun, lanes.next_step, trips)
        done = lanes.busy & (left <= trips)
        parts = jax.vmap(program.end)(done, lanes.begun.kept, carry)
        results = with_parts(results, parts, lanes.slot, done, inputs)
        lanes = lanes._replace(busy=lanes.busy & ~done, next_step=lanes.next_step + trips)
        return waiting, lanes._replace(begun=lanes.begun._replace(carry=carry)), results

    def more(state: _State) -> jax.Array:
        waiting, lanes, _ = state
        return (waiting < size) | jnp.any(lanes.busy)

    # Only shapes and kinds are asked for: the compiler drops what they are taken from.
    lanes = jax.tree.map(_blank, begun(jnp.zeros((layout.lanes,), jnp.int32), results.bank))
    return jax.lax.while_loop(more, change, (jnp.int32(0), lanes, results))[2]


def _next_places(waiting: jax.Array, busy: jax.Array) -> jax.Array:
    """Where each lane's next client stands in the schedule, were it free: the free ones take them in order."""
    free = ~busy
    return waiting + jnp.cumsum(free, dtype=jnp.int32) - free.astype(jnp.int32)


def until_change(left: jax.Array, more: jax.Array, cut: Cut) -> jax.Array:
    """Steps until the next change.

    Args:
      left: int32 `[L]`, the steps that each lane has left.
      more: bool, whether clients wait.
      cut: how loops are run.

    Returns:
      int32: as many as the lane with most has left, or fewer where clients wait and the lanes that are done by then
      have lost as much as a change costs.
    """
    return _until_change(jnp, left, more, cut)


def _until_change(xp: Any, left: Any, more: Any, cut: Cut) -> Any:
    most = xp.max(left)
    count = xp.arange(1, left.shape[0] + 1, dtype=xp.int32)
    # With k lanes done at t, k t - (their steps) were lost; the loss at t is the largest of these over k.
    reached = xp.min((cut.change_cost * left.shape[0] + xp.cumsum(xp.sort(left), dtype=xp.int32)) // count)
    trips = xp.where(more, xp.minimum(most, reached), most)
    trips = xp.maximum(trips, xp.minimum(most, 1))
    size = cut.block.size
    return -(-trips // size) * size if cut.block.whole else trips


def steps_in_turn(num_steps: np.ndarray, *, lanes: int, cut: Cut) -> tuple[int, int]:
    """The steps that one device takes one after the other, spare ones included, by the same rules on the host.

    Args:
      num_steps: int `[n]`, the steps of this device's clients in the schedule's order.
      lanes: L.
      cut: how loops are run.

    Returns:
      `(steps, changes)`: how many steps of all lanes, and how often clients end and begin.
    """
    waiting, left, busy = 0, np.zeros(lanes, np.int64), np.zeros(lanes, bool)
    steps = changes = 0
    whole = cut.block.size if cut.block.whole else 1
    if not cut.queues:
        waves = [num_steps[i : i + lanes].max() for i in range(0, len(num_steps), lanes)]
        return sum(int(-(-wave // whole) * whole) for wave in waves), len(waves)
    while waiting < len(num_steps) or busy.any():
        fresh = np.flatnonzero(~busy)[: len(num_steps) - waiting]
        left[fresh], busy[fresh] = num_steps[waiting : waiting + len(fresh)], True
        waiting += len(fresh)
        remaining = np.where(busy, left, 0)
        trips = int(_until_change(np, remaining.astype(np.int32), waiting < len(num_steps), cut))
        steps, changes, left = steps + trips, changes + 1, left - trips
        busy &= left > 0
    return steps, changes


def _blank(leaf: jax.Array) -> jax.Array:
    if not is_random_key(leaf):
        return jnp.zeros_like(leaf)
    return jax.random.wrap_key_data(jnp.zeros_like(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))


def _where(chosen: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(chosen.reshape(chosen.shape + (1,) * (new.ndim - 1)), new, old)
