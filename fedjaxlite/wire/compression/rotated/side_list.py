"""The few entries beyond a table's range, sent beside the codes: their places and values, packed."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.wire.packing.bits import pack, packed_size, unpack

COLUMNS = 64


class SideList(NamedTuple):
    """What a side list holds.

    Attributes:
      beyond: entries of y larger in size are sent beside.
      share: the part of all entries that is expected there, of normal ones.
      unit: y of a value of 1.
      largest: the largest value; what is beyond is cut.
    """

    beyond: float
    share: float
    unit: float
    largest: int


class Beside(NamedTuple):
    """A side list as it is sent.

    Attributes:
      places: uint8, packed indices; the vector's size where there is none.
      values: uint8, packed values.
    """

    places: Any
    values: Any


def capacity(kind: SideList, size: int) -> int:
    """Entries of the list: six standard deviations and six more than are expected, so that one more is never seen.

    Example:
      >>> capacity(SideList(3.0, 1 / 512, 1 / 256, 2048), 1_671_168)
      3613
    """
    expected = kind.share * size
    return min(size, math.ceil(expected + 6 * math.sqrt(expected) + 6))


def side_shapes(kind: SideList, size: int) -> Beside:
    """The shapes of a side list for a vector of so many entries."""
    room = capacity(kind, size)
    shape = lambda bits: jax.ShapeDtypeStruct((packed_size(room, bits),), jnp.uint8)  # noqa: E731
    return Beside(shape(size.bit_length()), shape(_value_bits(kind)))


def side_list(kind: SideList, y: jax.Array, key: jax.Array) -> Beside:
    """The entries of y beyond the range, from the first one on, as far as there is room.

    Args:
      kind: what the list holds.
      y: float32 `[size]`.
      key: the client's own, for rounding to a unit without bias.

    Returns:
      a Beside of `side_shapes`.
    """
    (size,), room = y.shape, capacity(kind, y.size)
    places = _places(jnp.abs(y) > kind.beyond, room)
    entries = y[jnp.minimum(places, size - 1)] / jnp.float32(kind.unit)
    drawn = jax.random.uniform(jax.random.fold_in(key, 1), (room,), jnp.float32)
    values = jnp.clip(jnp.floor(entries + drawn), -kind.largest, kind.largest).astype(jnp.int32)
    words = jax.lax.bitcast_convert_type(values, jnp.uint32)
    return Beside(pack(places.astype(jnp.uint32), size.bit_length()), pack(words, _value_bits(kind)))


def put_in(kind: SideList, beside: Beside, values: jax.Array) -> jax.Array:
    """int32 `[size]` values, with those of a side list in their places."""
    size, room, bits = values.size, capacity(kind, values.size), _value_bits(kind)
    places = unpack(beside.places, room, size.bit_length()).astype(jnp.int32)
    words = jax.lax.bitcast_convert_type(unpack(beside.values, room, bits) << (32 - bits), jnp.int32)
    return values.at[places].set(words >> (32 - bits), mode="drop", unique_indices=False)


def _places(chosen: jax.Array, room: int) -> jax.Array:
    """The first indices at which `chosen` holds, and its size for the rest: row by row, which saves a running sum."""
    (size,) = chosen.shape
    rows = jnp.pad(chosen, (0, -size % COLUMNS)).reshape(-1, COLUMNS)
    counts = jnp.sum(rows, axis=1, dtype=jnp.int32)
    until = jnp.cumsum(counts)
    nth = jnp.arange(1, room + 1, dtype=jnp.int32)
    row = jnp.minimum(jnp.searchsorted(until, nth), len(counts) - 1)
    within = jnp.cumsum(rows[row].astype(jnp.int32), axis=1)
    column = jnp.argmax(within == (nth - until[row] + counts[row])[:, None], axis=1)
    return jnp.where(nth <= until[-1], row * COLUMNS + column, size)


def _value_bits(kind: SideList) -> int:
    return kind.largest.bit_length() + 1
