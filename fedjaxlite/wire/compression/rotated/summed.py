"""Rotated codecs that survive a sum: all clients share rotation, range and table, whose values are whole numbers.

    client   y = R x sqrt(d) / B          B the wire's bound on the norm, so that |y| <= sqrt(d)
             codes of y in a table        packed in b bits; before a mask, the table's values in whole words
    read     codes -> values              integers mod 2^32: they add up exactly, in any order, in waves, behind masks
    decode   x' = R^T (sum of values * unit * B / sqrt(d))       one rotation for all clients

THC and QUIC-FL are two tables.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.wire.aggregator import Aggregator, Bounds, ClientInfo, Code, Message, Wire
from fedjaxlite.wire.clips import needs_floats
from fedjaxlite.wire.compression.rotated.shared import (
    TINY,
    common_key,
    first_seed,
    new_seed,
    norm_of,
    own_public_key,
    seed_alone,
    sizes_of,
    turned,
    turned_back,
    within,
)
from fedjaxlite.wire.compression.rotated.side_list import SideList, put_in, side_list, side_shapes
from fedjaxlite.wire.integers import most_summed, to_word, words_like
from fedjaxlite.wire.packing.bits import pack, packed_size, unpack
from fedjaxlite.wire.packing.forms import Form, form_of, of_parts, to_parts

LARGEST = 2**31 - 1
FINEST = 2**23
"""Levels of a scalar at most: what float32 can count to, with its sign."""


class Table(NamedTuple):
    """How an entry becomes a code, and a code a whole number. Entries y have the spread 1 where a client's norm is B.

    Attributes:
      bits: of a code.
      unit: y of a value of 1.
      largest: the largest value.
      error: the most that rounding moves an entry within the range, in y.
      reach: the end of the range, in y: what is beyond is cut, or sent beside.
      to_codes: `to_codes(y, key, public) -> uint8`, y within the range; `key` is the client's own, `public` known to
        the server too.
      to_values: `to_values(codes, public) -> int32`.
      beside: whether entries beyond the range are sent beside the codes.
    """

    bits: int
    unit: float
    largest: int
    error: float
    reach: float
    to_codes: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    to_values: Callable[[jax.Array, jax.Array], jax.Array]
    beside: SideList | None = None


class Summed(NamedTuple):
    """The state of a codec that survives a sum.

    Attributes:
      seed: uint32 `[2]`, this round's public seed.
      l2: B, the bound on a client's norm, this round.
      scalars: each scalar's own bound.
      levels: float32 scalar, the integer that stands for it.
      form: static, the update's structure.
      packed: static, the same where codes are packed; None before a mask, which takes whole words.
    """

    seed: Any
    l2: Any
    scalars: dict[str, Any]
    levels: Any
    form: Form
    packed: Form | None


def summed(name: str, table: Table, hparams: Mapping[str, Any]) -> Aggregator:
    """The codec of a table."""

    def init(wire: Wire) -> tuple[Summed, Wire]:
        needs_floats(name, wire)
        form = form_of(wire)
        l2 = norm_of(form, wire.bounds)
        levels = jnp.float32(_levels(name, wire, l2, table.largest))
        limits = {scalar: jnp.float32(wire.scalar_bounds[scalar]) for scalar in wire.scalars}
        packed = None if wire.mask_ahead else form
        state = Summed(first_seed(), jnp.asarray(l2, jnp.float32), limits, levels, form, packed)
        return state, _told(table, form, wire)._replace(bounds=prepare(state, wire.bounds)[1])

    def prepare(state: Summed, bounds: Bounds) -> tuple[Summed, Bounds]:
        l2 = norm_of(state.form, bounds)
        if l2 is None:
            return state, Bounds()
        # Cutting shortens; then an entry moves by less than `error`, in each part relative to the whole bound. Nor is
        # any larger than the largest value.
        parts = math.sqrt(len(state.form.part_sizes))
        factor = min(1 + parts * table.error, parts * table.largest * table.unit)
        return state._replace(l2=jnp.asarray(l2, jnp.float32)), within(state.form, l2 * factor)

    def encode(state: Summed, own: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        sent, beside, public = [], [], own_public_key(state.seed, client)
        for i, z in enumerate(turned(state.form, message.value, common_key(state.seed))):
            y = z * (1 / jnp.maximum(state.l2, TINY)) * math.sqrt(z.size)
            keys = jax.random.fold_in(client.key, i), jax.random.fold_in(public, i)
            codes = table.to_codes(jnp.clip(y, -table.reach, table.reach), *keys)
            if table.beside is not None:
                beside.append(side_list(table.beside, y, keys[0]))
            if state.packed is not None:
                sent.append(pack(codes, table.bits))
                continue
            values = table.to_values(codes, keys[1])
            values = values if table.beside is None else put_in(table.beside, beside.pop(), values)
            sent.append(to_word(values))
        scalars = {
            name: _whole(value / state.scalars[name] * state.levels, state.levels, client.key, len(sent) + i)
            for i, (name, value) in enumerate(message.scalars.items())
        }
        return Message(to_parts(state.form, sent), message.weight, scalars, tuple(beside)), own

    def read(state: Summed, message: Message, client: ClientInfo) -> Message:
        if state.packed is None:
            return message
        found, public = [], own_public_key(state.seed, client)
        packed = zip(of_parts(state.form, message.value), sizes_of(state.form), strict=True)
        for i, (codes, size) in enumerate(packed):
            values = table.to_values(unpack(codes, size, table.bits), jax.random.fold_in(public, i))
            values = values if table.beside is None else put_in(table.beside, message.aside[i], values)
            found.append(to_word(values))
        return message._replace(value=to_parts(state.form, found), aside=())

    def decode(state: Summed, total: Message, key: Any) -> tuple[Message, Any]:
        del key
        vectors = [
            _signed(words) * (state.l2 * (table.unit / math.sqrt(words.size)))
            for words in of_parts(state.form, total.value)
        ]
        value = turned_back(state.form, vectors, common_key(state.seed))
        scalars = {name: _signed(words) * (state.scalars[name] / state.levels) for name, words in total.scalars.items()}
        return Message(value, jax.tree.map(lambda w: w.astype(jnp.float32), total.weight), scalars), state

    return Aggregator(
        init,
        encode,
        decode,
        prepare=prepare,
        name=name,
        hparams=hparams,
        begin=new_seed,
        public_seed=True,
        read=read,
        overhead=seed_alone,
    )


def _told(table: Table, form: Form, wire: Wire) -> Wire:
    """What is sent: codes and side lists, or whole words before a mask, where weights are in the group already."""
    sizes = sizes_of(form)
    told = wire._replace(scalars=words_like(wire.scalars), group="mod32")
    if wire.mask_ahead:
        whole = [jax.ShapeDtypeStruct((size,), jnp.uint32) for size in sizes]
        return told._replace(value=to_parts(form, whole), weight=words_like(wire.weight), bits=32)
    packed = [jax.ShapeDtypeStruct((packed_size(size, table.bits),), jnp.uint8) for size in sizes]
    return told._replace(
        value=to_parts(form, packed),
        codes=tuple(Code(table.bits, size) for size in sizes),
        bits=table.bits,
        aside=() if table.beside is None else tuple(side_shapes(table.beside, size) for size in sizes),
    )


def _whole(scalar: jax.Array, most: jax.Array, key: jax.Array, i: int) -> jax.Array:
    """A scalar in units, rounded up or down so that its mean stays."""
    drawn = jax.random.uniform(jax.random.fold_in(key, i), (), jnp.float32)
    rounded = jnp.clip(jnp.floor(scalar.astype(jnp.float32) + drawn), -most, most)
    return to_word(rounded.astype(jnp.int32))


def _signed(words: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(words, jnp.int32).astype(jnp.float32)


def _levels(name: str, wire: Wire, l2: Any, largest: int) -> int:
    """Levels of a scalar, the most of which sums stay in range; refuses wires on which sums have no range."""
    if l2 is None:
        raise ValueError(
            f"`{name}` needs a bound on the norm, which is the range of its table, and the chain before it sets none. "
            "Put fl.clip_by_global_norm(...) before it."
        )
    messages = most_summed(name, wire)
    if messages * largest > LARGEST:
        raise ValueError(
            f"`{name}` can overflow: capacity {wire.capacity} x weight cap {wire.weight_cap} x a value of {largest} = "
            f"{messages * largest}, more than 2^31 - 1. Here values of at most {LARGEST // messages} fit: lower the "
            "weight cap or the capacity."
        )
    return min(FINEST, LARGEST // messages)
