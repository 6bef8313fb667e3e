"""The loop over waves: clients stream through L lanes, and their messages are summed as they finish.

Memory for temporaries is a few models per lane and does not grow with the cohort: no array of K messages exists,
unless an aggregator asks for one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.data.client_view import ClientData, Wave
from fedjaxlite.data.population import Population
from fedjaxlite.execution.layout import Layout
from fedjaxlite.execution.schedule import Schedule
from fedjaxlite.sampling import Cohort

PyTree = Any


class Part(NamedTuple):
    """What one client contributes.

    Attributes:
      summed: pytree that is added over clients.
      stacked: pytree that is kept apart, one row per slot of the cohort.
      state: pytree, what the client keeps.
    """

    summed: PyTree
    stacked: PyTree
    state: PyTree


class Inputs(NamedTuple):
    """What the waves read.

    Attributes:
      population: the data.
      cohort: who takes part.
      rows: int32 `[K]`, where each slot's client stands in the population.
      bank_rows: int32 `[K]`, where each slot's state stands in this device's bank.
      key: the round's client key.
      noise: the round's key for noise that clients draw.
    """

    population: Population
    cohort: Cohort
    rows: jax.Array
    bank_rows: jax.Array
    key: jax.Array
    noise: jax.Array


Task = Callable[[ClientData, PyTree, jax.Array, jax.Array, jax.Array], Part]


def run_waves(
    task: Task, inputs: Inputs, bank: PyTree, schedule: Schedule, layout: Layout
) -> tuple[PyTree, PyTree, PyTree]:
    """Trains one device's clients, L at a time.

    Args:
      task: `task(data, state, alive, scale, slot) -> Part` for one client; `alive` is False in an empty lane.
      inputs: what the waves read.
      bank: pytree with a leading axis of this device's clients; updated in place.
      schedule: this device's clients.
      layout: L, and whether loops are static.

    Returns:
      `(summed, stacked, bank)`: the sum over this device's clients, `[K, ...]` arrays with this device's rows filled
      and zeros elsewhere, and the new bank.
    """
    lanes, max_steps = layout.lanes, layout.execution.max_steps
    capacity = inputs.cohort.ids.shape[0]

    # As a jitted function it is traced once, for its shapes and inside of the loop.
    @partial(jax.jit, inline=True)
    def one_wave(index: jax.Array, bank: PyTree) -> tuple[Part, jax.Array, jax.Array]:
        lane = jnp.asarray(index, jnp.int32) * lanes + jnp.arange(lanes, dtype=jnp.int32)
        alive = lane < schedule.size
        # An empty lane reads the largest active client: backwards, even a masked NaN of an absent one would spread.
        slot = _read(schedule.order, jnp.where(alive, schedule.start + lane, 0))
        rows = _read(inputs.bank_rows, slot)
        states = jax.tree.map(lambda leaf: _read(leaf, rows), bank)
        return _train(task, inputs, states, slot, alive, layout), slot, alive

    def wave(index: jax.Array, carry: tuple[PyTree, PyTree, PyTree]) -> tuple[PyTree, PyTree, PyTree]:
        summed, stacked, bank = carry
        part, slot, alive = one_wave(index, bank)
        summed = jax.tree.map(lambda total, new: total + _over_lanes(new), summed, part.summed)
        # Rows of empty lanes go to an index past the end, which drops them.
        to_slot = jnp.where(alive, slot, capacity)
        stacked = jax.tree.map(lambda all_, new: _write(all_, to_slot, new), stacked, part.stacked)
        rows = _read(inputs.bank_rows, slot)
        bank = jax.tree.map(
            lambda all_, new: _write(all_, jnp.where(alive, rows, all_.shape[0]), new), bank, part.state
        )
        return summed, stacked, bank

    shapes, _, _ = jax.eval_shape(one_wave, jnp.int32(0), bank)
    summed = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), shapes.summed)
    stacked = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape[1:]), leaf.dtype), shapes.stacked)
    start = (summed, stacked, bank)
    if max_steps is None:
        return jax.lax.fori_loop(jnp.int32(0), -(-schedule.size // lanes), wave, start)
    indices = jnp.arange(-(-capacity // lanes), dtype=jnp.int32)
    return jax.lax.scan(lambda carry, i: (wave(i, carry), None), start, indices)[0]


def _train(task: Task, inputs: Inputs, states: PyTree, slot: jax.Array, alive: jax.Array, layout: Layout) -> Part:
    """One wave: the task of every lane, with `[L]` on every leaf of the result."""
    population, cohort = inputs.population, inputs.cohort
    row = _read(inputs.rows, slot)
    offset = _read(population.offsets, row)
    num_examples = jnp.where(alive, _read(population.offsets, row + 1) - offset, 0)
    work = jnp.where(alive, _read(cohort.work, slot), 1.0)
    ids = _read(cohort.ids, slot)
    wave = Wave(ids, num_examples, work, population.max_size, layout.execution.max_steps, layout.platform)

    def one_lane(
        offset: Any, num_examples: Any, work: Any, client: Any, scale: Any, alive: Any, slot: Any, state: Any
    ) -> Part:
        key, noise = jax.random.fold_in(inputs.key, client), jax.random.fold_in(inputs.noise, client)
        data = ClientData(population.features, offset, num_examples, client, work, key, wave, noise)
        return task(data, state, alive, scale, slot)

    args = (offset, num_examples, work, ids, _read(cohort.scale, slot), alive, slot, states)
    if layout.lanes > 1:
        return jax.vmap(one_lane)(*args)
    # One lane needs no vmap: the compiler sees plain operations, and convolutions stay convolutions.
    part = one_lane(*jax.tree.map(lambda leaf: leaf[0], args))
    return jax.tree.map(lambda leaf: leaf[None], part)


def _read(table: jax.Array, index: jax.Array) -> jax.Array:
    # Indices count from the front: without the wrapping of negative ones, half of the loop's operations are gone.
    return table.at[index].get(mode="clip", wrap_negative_indices=False)


def _write(table: jax.Array, index: jax.Array, new: jax.Array) -> jax.Array:
    return table.at[index].set(new, mode="drop", wrap_negative_indices=False)


def _over_lanes(leaf: jax.Array) -> jax.Array:
    return leaf[0] if leaf.shape[0] == 1 else leaf.sum(0, dtype=leaf.dtype)
