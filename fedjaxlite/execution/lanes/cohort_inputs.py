"""What lanes read of a cohort, and where the results of its clients go."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.data.client_view import ClientData, Wave, mean_size
from fedjaxlite.data.population import Population
from fedjaxlite.execution.lanes.client_program import LaneArgs
from fedjaxlite.execution.lanes.schedule import Schedule
from fedjaxlite.execution.layout import Layout, of_all_devices
from fedjaxlite.execution.model_axis.placing import like_params
from fedjaxlite.sampling import Cohort

PyTree = Any


class Part(NamedTuple):
    """What one client contributes.

    Attributes:
      summed: pytree that is added over clients.
      stacked: pytree that is kept apart, one row per slot of the cohort.
      state: pytree, what the client keeps.
      held: pytree of floats that this device keeps apart, one row for each of its clients.
    """

    summed: PyTree
    stacked: PyTree
    state: PyTree
    held: PyTree = ()


class Held(NamedTuple):
    """Where a device keeps what its clients gave, apart from each other, flat and in pieces of one size.

    Attributes:
      rows: static, how many it has room for.
      pieces: static, of each; zeros fill up the last.
      at: int32 `[K]`, each slot's row; `rows` for a slot that another device trains. None where rows are slots.
    """

    rows: int
    pieces: int
    at: jax.Array | None


Task = Callable[[ClientData, PyTree, jax.Array, jax.Array, jax.Array], Part]


class Inputs(NamedTuple):
    """What the lanes read.

    Attributes:
      population: the data.
      cohort: who takes part.
      rows: int32 `[K]`, where each slot's client stands in the population.
      bank_rows: int32 `[K]`, where each slot's state stands in this device's bank.
      key: the round's client key.
      noise: the round's key for noise that clients draw.
      alike: static, whether all clients are known to have as many examples and to do all of their work.
      held: where what is kept apart goes; None where nothing is.
      most: int32, the clients of the device with the most, where all devices go through as many turns; else None.
    """

    population: Population
    cohort: Cohort
    rows: jax.Array
    bank_rows: jax.Array
    key: jax.Array
    noise: jax.Array
    alike: bool = False
    held: Held | None = None
    most: jax.Array | None = None


class Results(NamedTuple):
    """What a device's clients have given so far.

    Attributes:
      summed: pytree, the sum over clients.
      stacked: pytree of `[K, ...]`, this device's rows filled and zeros elsewhere.
      bank: pytree with a leading axis of this device's clients, what they keep.
      held: pytree of float32 `[rows * pieces, entries]`, this device's clients'; zeros in spare rows and past an end.
    """

    summed: PyTree
    stacked: PyTree
    bank: PyTree
    held: PyTree = ()


def everyone(inputs: Inputs, schedule: Schedule) -> LaneArgs:
    """What lanes take of every client in the schedule's order, `[K]` on every leaf, without what it keeps."""
    population, cohort = inputs.population, inputs.cohort
    row = read(inputs.rows, schedule.order)
    offset = read(population.offsets, row)
    of = lambda table: read(table, schedule.order)  # noqa: E731
    num_examples = read(population.offsets, row + 1) - offset
    alive = jnp.ones_like(schedule.order, bool)
    return LaneArgs(offset, num_examples, of(cohort.work), of(cohort.ids), of(cohort.scale), schedule.order, (), alive)


class Turn(NamedTuple):
    """The clients that lanes train next; `[L]` on every leaf.

    Attributes:
      slot: int32, their places in the cohort.
      alive: bool, whether there is one.
      told: what a table of the whole cohort says of it.
      state: what it keeps.
    """

    slot: jax.Array
    alive: jax.Array
    told: Any
    state: PyTree


def turn_at(inputs: Inputs, schedule: Schedule, table: PyTree, place: jax.Array, bank: PyTree) -> Turn:
    """The clients at these places of the schedule, int32 `[L]`; past its end, nobody."""
    alive = place < schedule.size
    # An empty lane reads the largest active client: backwards, even a masked NaN of an absent one would spread.
    here = jnp.where(alive, schedule.start + place, 0)
    slot = read(schedule.order, here)
    banked = read(inputs.bank_rows, slot)
    of_bank = jax.tree.map(lambda leaf: read(leaf, banked), bank)
    return Turn(slot, alive, jax.tree.map(lambda leaf: read(leaf, here), table), of_bank)


def in_order(inputs: Inputs, schedule: Schedule, table: LaneArgs, place: jax.Array, bank: PyTree) -> LaneArgs:
    """What lanes take that train the clients at these places, int32 `[L]`; `table` is that of `everyone`."""
    now = turn_at(inputs, schedule, table, place, bank)
    num_examples = jnp.where(now.alive, now.told.num_examples, 0)
    work = jnp.where(now.alive, now.told.work, 1.0)
    return now.told._replace(num_examples=num_examples, work=work, state=now.state, alive=now.alive)


def one_client(task: Task, inputs: Inputs, layout: Layout, lanes: LaneArgs | None) -> Callable[[LaneArgs], Part]:
    """The work of one client as a function of what a lane takes.

    Args:
      task: `task(data, state, alive, scale, slot) -> Part`.
      inputs: what the lanes read.
      layout: for how many lanes, and where.
      lanes: what all lanes take, `[L]`, for a client that loops along with them; None for one that is taken apart.
    """
    population = inputs.population
    if lanes is not None and layout.in_step:
        lanes = of_all_devices(lanes._replace(state=()), layout)
    static: dict[str, Any] = {
        "platform": layout.platform,
        "mean_size": mean_size(population),
        "taken_apart": lanes is None,
    }

    def work(own: LaneArgs) -> Part:
        key, noise = (jax.random.fold_in(root, own.client) for root in (inputs.key, inputs.noise))
        of_all = lanes or jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (layout.lanes,)), own._replace(state=()))
        shared = (of_all.client, of_all.num_examples, of_all.work)
        wave = Wave(*shared, population.max_size, layout.execution.max_steps, **static)
        data = ClientData(population.features, own.offset, own.num_examples, own.client, own.work, key, wave, noise)
        return task(data, own.state, own.alive, own.scale, own.slot)

    return work


def nothing_yet(part: Part, inputs: Inputs, bank: PyTree, layout: Layout) -> Results:
    """Results before the first client; `part` holds the shapes of one client's."""
    capacity = inputs.cohort.ids.shape[0]
    summed = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), part.summed)
    stacked = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), part.stacked)
    held = jax.tree.map(partial(_rows_for, inputs.held), part.held)
    return like_params(Results(summed, stacked, bank, held), layout.table)


def with_parts(results: Results, parts: Part, slot: jax.Array, done: jax.Array, inputs: Inputs) -> Results:
    """The results with those of the lanes that are done; parts, slots and `done` have a leading axis `[L]`."""
    capacity = inputs.cohort.ids.shape[0]
    summed = jax.tree.map(lambda total, new: total + _over_lanes(new), results.summed, parts.summed)
    # Rows of other lanes go to an index past the end, which drops them.
    to_slot = jnp.where(done, slot, capacity)
    stacked = jax.tree.map(lambda all_, new: _write(all_, to_slot, new), results.stacked, parts.stacked)
    rows = read(inputs.bank_rows, slot)
    bank = jax.tree.map(
        lambda all_, new: _write(all_, jnp.where(done, rows, all_.shape[0]), new), results.bank, parts.state
    )
    return Results(summed, stacked, bank, _with_held(results.held, parts.held, slot, done, inputs.held))


def _rows_for(where: Held | None, leaf: Any) -> jax.Array:
    """Zeros for one leaf of what is kept apart."""
    rows, pieces = (0, 1) if where is None else (where.rows, where.pieces)
    return jnp.zeros((rows * pieces, -(-math.prod(leaf.shape) // pieces)), jnp.float32)


def _with_held(held: PyTree, new: PyTree, slot: jax.Array, done: jax.Array, where: Held | None) -> PyTree:
    if where is None:
        return held
    row = jnp.where(done, slot if where.at is None else read(where.at, slot), where.rows)

    # Each piece is a row of its own: on chips that keep arrays in tiles, reshaping all of them would be a copy.
    def write(table: jax.Array, new: jax.Array) -> jax.Array:
        flat, share = new.reshape((new.shape[0], -1)).astype(table.dtype), table.shape[1]
        for piece in range(where.pieces):  # filling the last one up would be a copy of the message
            some = flat[:, piece * share : (piece + 1) * share]
            place = row * where.pieces + piece
            here = table.at[place] if some.shape[1] == share else table.at[place, : some.shape[1]]
            table = here.set(some, mode="drop", wrap_negative_indices=False)
        return table

    return jax.tree.map(write, held, new)


def over_lanes(fn: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    """`jax.vmap(fn)` over the lanes; one lane needs none: the compiler sees plain operations."""
    if layout.lanes > 1:
        return jax.vmap(fn)

    def alone(*args: Any) -> Any:
        found = fn(*jax.tree.map(lambda leaf: leaf[0], args))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], found)

    return alone


def read(table: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of a table."""
    # Indices count from the front: without the wrapping of negative ones, half of the loop's operations are gone.
    return table.at[index].get(mode="clip", wrap_negative_indices=False)


def _write(table: jax.Array, index: jax.Array, new: jax.Array) -> jax.Array:
    return table.at[index].set(new, mode="drop", wrap_negative_indices=False)


def _over_lanes(leaf: jax.Array) -> jax.Array:
    return leaf[0] if leaf.shape[0] == 1 else leaf.sum(0, dtype=leaf.dtype)
