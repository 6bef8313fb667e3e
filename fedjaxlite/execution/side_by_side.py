"""Messages side by side, shared out over devices by entries: no device ever holds more than its share of them.

While clients train, a device keeps the messages of its own, whole, in rows that are written as they finish. Then every
device trades pieces with all others, in the place where the rows lie: afterwards it has some entries of every message.

    before   [K / D rows, model]    the clients of this device
    after    [K rows, model / D]    the entries of this device, in the cohort's order

A client whose state lies on a device is trained there, so that a device has room for all of its own that a cohort may
hold: `min(K, N / D)` rows, which is the share again where everyone takes part.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.execution.lanes.cohort_inputs import Held
from fedjaxlite.execution.lanes.schedule import Schedule
from fedjaxlite.execution.layout import AXIS, Layout, merge
from fedjaxlite.protocol.algorithm import Algorithm
from fedjaxlite.sampling import Cohort
from fedjaxlite.wire.aggregator import Aggregator, Message, Wire
from fedjaxlite.wire.rows import Rows, Shares, counted, fold_of, in_place

PyTree = Any
_BLOCK = 2**20
"""Numbers that devices trade at a time: 4 MiB."""


class Kept(NamedTuple):
    """The messages of a round that are kept side by side, since a rule needs them apart.

    Attributes:
      rule: the name of what needs them.
      messages: K.
      message_bytes: of one, as numbers of 4 bytes.
      num_devices: D.
      on_each: how many of them a device has room for, in bytes: whole ones, then entries of all.
    """

    rule: str
    messages: int
    message_bytes: int
    num_devices: int
    on_each: int

    @property
    def bytes_on_each(self) -> int:
        """On each device."""
        return self.on_each * self.message_bytes

    def __str__(self) -> str:
        """A sentence, for logs."""
        where = "one device" if self.num_devices == 1 else f"each of {self.num_devices} devices"
        one, all_ = _size(self.message_bytes), _size(self.bytes_on_each)
        return (
            f"{self.rule} needs the messages of a round side by side: {self.messages} of {one}, which take {all_} on "
            f"{where}"
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:,.1f} kB"


def kept_messages(
    algorithm: Algorithm, chain: Aggregator, wire: Wire, params: PyTree, *, num_clients: int, num_devices: int
) -> Kept | None:
    """What a round keeps of its messages; None for a sum, which keeps none.

    Args:
      algorithm: of the clients, who may keep states.
      chain: the aggregator.
      wire: the facts at its end.
      params: the model, or its shapes.
      num_clients: N.
      num_devices: D.
    """
    fold = fold_of(chain)
    if fold == "sum" or wire.head is None:
        return None
    update = wire.head.value
    states = jax.eval_shape(lambda p, u: (algorithm.init_client(p), chain.init_client(u)), params, update)
    tied = num_devices > 1 and jax.tree.leaves(states)
    rows = room(wire.capacity, -(-num_clients // num_devices) if tied else 0, num_devices)
    size = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(update))
    return Kept(chain.parts[-1].name, wire.capacity, size, num_devices, wire.capacity if fold == "stack" else rows)


def room(num_slots: int, per_device: int, num_devices: int) -> int:
    """How many messages a device has room for.

    Args:
      num_slots: K.
      per_device: clients whose states a device holds, or 0 where no client is tied to one.
      num_devices: D.
    """
    return min(num_slots, per_device) if per_device else -(-num_slots // num_devices)


def held_by(schedule: Schedule, num_slots: int, rows: int, layout: Layout) -> Held:
    """Where this device's clients put their messages: in the order in which they are scheduled."""
    if layout.num_devices == 1:
        return Held(num_slots, 1, None)
    place = jnp.arange(schedule.order.shape[0], dtype=jnp.int32)
    mine = (place >= schedule.start) & (place < schedule.start + schedule.size)
    at = jnp.full((num_slots,), rows, jnp.int32)
    row = jnp.where(mine, place - schedule.start, rows)
    slot = jnp.where(mine, schedule.order, num_slots)  # past the end, which is dropped
    return Held(rows, layout.num_devices, at.at[slot].set(row, mode="drop"))


def rows_on_devices(
    held: PyTree,
    where: Held,
    *,
    template: PyTree,
    message: Message,
    present: jax.Array,
    cohort: Cohort,
    device: Any,
    layout: Layout,
) -> Rows:
    """The rows of all messages, each device with its entries, from those that every device holds.

    Args:
      held: pytree like an update; each leaf float32 `[rows * D, m]`, whole messages of this device's clients.
      where: which client's is which.
      template: shapes of an update.
      message: weights and scalars of all clients, `[K]`, and no value.
      present: bool `[K]`.
      cohort: who takes part.
      device: int32 scalar, this device's index.
      layout: for which devices.
    """
    if where.at is not None:
        mine = where.at < where.rows
        # One counts from 1, so that what no device has is 0, and becomes -1.
        whose = merge(jnp.where(mine, device * where.rows + where.at + 1, 0), layout) - 1
        held = jax.tree.map(partial(_traded, where, whose), held)
    weights, beside = counted(message, present)
    ids = jnp.where(present, cohort.ids, -1).astype(jnp.int32)
    return Rows(held, weights, present, ids, _shares(template, device, layout), beside)


def _traded(where: Held, whose: jax.Array, leaf: jax.Array) -> jax.Array:
    """Some entries of all rows for all entries of some rows, block by block in the memory of the leaf."""
    num = leaf.shape[0]
    if leaf.shape[1] == 0:
        return leaf[: whose.shape[0]]
    source = jnp.where(whose < 0, num, whose)

    def trade(block: jax.Array) -> jax.Array:
        sent = block.reshape(where.rows, where.pieces, -1).swapaxes(0, 1)
        got = jax.lax.all_to_all(sent, AXIS, 0, 0, tiled=True).reshape(num, -1)
        in_order = got.at[source].get(mode="fill", fill_value=0)
        return jnp.concatenate([in_order, jnp.zeros_like(got)[: num - whose.shape[0]]])

    return in_place(trade, leaf, numbers=_BLOCK)[: whose.shape[0]]


def _shares(template: PyTree, device: Any, layout: Layout) -> Shares:
    num = layout.num_devices

    def mine(tree: PyTree) -> PyTree:
        def one(leaf: jax.Array, like: Any) -> jax.Array:
            size = math.prod(like.shape)
            flat = leaf.reshape((*leaf.shape[: leaf.ndim - len(like.shape)], size)).astype(jnp.float32)
            if num == 1:
                return flat
            share = -(-size // num)
            filled = jnp.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(0, share * num - size)])
            return jax.lax.dynamic_slice_in_dim(filled, device * share, share, axis=filled.ndim - 1)

        return jax.tree.map(one, tree, template)

    def whole(tree: PyTree) -> PyTree:
        def one(leaf: jax.Array, like: Any) -> jax.Array:
            size = math.prod(like.shape)
            flat = leaf if num == 1 else jax.lax.all_gather(leaf, AXIS, tiled=True)[:size]
            return flat.reshape(like.shape)

        return jax.tree.map(one, tree, template)

    return Shares(add=lambda tree: merge(tree, layout), mine=mine, whole=whole)
