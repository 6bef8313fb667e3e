"""Draws that samplers are made of: exact ones without replacement, and one draw a client by its id.

Everything here is pure, has static shapes, and runs under `jit`, `scan` and `vmap`. Cohorts are also drawn outside of
them (data that stream), so whatever loops is compiled once, for all samplers of its sizes.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32

# Purposes: every stream of randomness of a run's sampling key has its own, so that no two are correlated.
COHORT, GROUPS, DROPOUT, STRAGGLERS, DEADLINE, LATENCY, DEVICE, OVERFLOW = range(8)
_PURPOSES = 16

BLOCK = 2**20
"""Clients whose bits are drawn at a time, where there are more: of a hundred million, bits would be 1.6 GB."""

_SPARSE = 64
"""A table of so many places for each draw takes longer than to sort the draws."""


def round_key(key: Any, round_number: Any, purpose: int, layer: int = 0) -> Any:
    """The key of one round for one purpose, from the run's sampling key; good for 2^28 rounds.

    One fold for both, since every fold is a hash to compile. Layers tell a wrapper from the same kind of wrapper
    around it; they are no client's id.
    """
    number = jnp.asarray(round_number, jnp.int32).astype(jnp.uint32)
    folded = jax.random.fold_in(key, number * jnp.uint32(_PURPOSES) + jnp.uint32(purpose))
    return jax.random.fold_in(folded, 2**32 - layer) if layer else folded


@partial(jax.jit, static_argnames=("draws",), inline=True)
def client_uniforms(key: Any, ids: Any, *, draws: int) -> Any:
    """float32 `[draws, C]` in [0, 1): independent draws that depend on the key and the client's id, and on no slot."""

    def one(client: Any) -> Any:
        return jax.random.uniform(jax.random.fold_in(key, client), (draws,), jnp.float32)

    return jax.vmap(one, out_axes=1)(ids)


@partial(jax.jit, inline=True)
def client_normals(key: Any, ids: Any) -> Any:
    """float32 `[C]`, standard normal: one draw a client that depends on the key and its id, and on no slot."""
    return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (), jnp.float32))(ids)


def _low_bits(limit: Any) -> Any:
    """The smallest 2^b - 1 that covers `[0, limit)`, as uint32."""
    mask = jnp.asarray(limit, jnp.uint32) - jnp.uint32(1)
    for shift in (1, 2, 4, 8, 16):
        mask = mask | (mask >> jnp.uint32(shift))
    return mask


@partial(jax.jit, static_argnames=("count",), inline=True)
def integers(key: Any, limit: Any, *, count: int) -> Any:
    """int32 `[count]`, independent and exactly uniform on `[0, limit)`; `limit` at least 1, may be traced.

    Too large draws are drawn again, so there is no modulo bias.
    """
    limit, mask = jnp.asarray(limit, jnp.uint32), _low_bits(limit)

    def draw(turn: Any) -> Any:
        return jax.random.bits(jax.random.fold_in(key, turn), (count,), jnp.uint32) & mask

    def again(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        values, turn = carry
        return jnp.where(values < limit, values, draw(turn)), turn + 1

    start = (jnp.full((count,), ~jnp.uint32(0)), jnp.int32(0))  # nothing is in range yet
    values, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[0] >= limit), again, start)
    return values.astype(jnp.int32)


@partial(jax.jit, static_argnames=("slots", "size", "batch"), inline=True)
def first_distinct(key: Any, limit: Any, target: Any, *, slots: int, size: int, batch: int) -> Any:
    """The first `target` distinct values of an endless sequence of exactly uniform draws from `[0, limit)`.

    They are a uniform draw without replacement, in random order: given the values so far, the next new one is
    uniform on the rest. Draws come `batch` at a time until there are enough, so the result never falls short.

    Args:
      key: a key; consumed.
      limit: int32 `[]`, may be traced; at most `size`.
      target: int32 `[]`, may be traced; at most `slots`. Cut to `limit`.
      slots: length of the result.
      size: static bound of `limit`; memory is `size` int32, or as many as are drawn where these are much fewer.
      batch: draws a turn; matters to speed alone.

    Returns:
      int32 `[slots]`, of which the first `target` count.
    """
    if slots == 0:
        return jnp.zeros((0,), jnp.int32)
    limit, mask = jnp.asarray(limit, jnp.uint32), _low_bits(limit)
    target = jnp.minimum(jnp.asarray(target, jnp.int32), limit.astype(jnp.int32))
    position = jnp.arange(slots + batch, dtype=jnp.int32)

    def turn(carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        values, count, number = carry
        drawn = jax.random.bits(jax.random.fold_in(key, number), (batch,), jnp.uint32) & mask
        drawn = jnp.where(drawn < limit, drawn.astype(jnp.int32), size)
        sequence = jnp.concatenate([jnp.where(position[:slots] < count, values, size), drawn])
        new = first_of_its_value(sequence, size)
        rank = jnp.cumsum(new, dtype=jnp.int32)
        values = jnp.zeros_like(values).at[jnp.where(new, rank - 1, slots)].set(sequence, mode="drop")
        return values, jnp.minimum(rank[-1], slots), number + 1

    start = (jnp.zeros((slots,), jnp.int32), jnp.int32(0), jnp.int32(0))
    return jax.lax.while_loop(lambda carry: carry[1] < target, turn, start)[0]


def first_of_its_value(sequence: Any, size: int, sparse: int = _SPARSE) -> Any:
    """Bool `[C]`: where a sequence of integers has a value below `size` for the first time."""
    position = jnp.arange(sequence.shape[0], dtype=jnp.int32)
    if sparse * sequence.shape[0] > size:
        first_seen = jnp.full((size,), sequence.shape[0], jnp.int32).at[sequence].min(position, mode="drop")
        return first_seen.at[sequence].get(mode="fill", fill_value=-1) == position
    # A few draws of a hundred million: a table of all clients would be 400 MB, and most of the time of a small round.
    values, where = jax.lax.sort((sequence, position), num_keys=1, is_stable=True)
    changes = jnp.concatenate([jnp.ones((1,), bool), values[1:] != values[:-1]])
    return jnp.zeros(sequence.shape, bool).at[where].set(changes & (values < size))


@partial(jax.jit, static_argnames=("count", "size"), inline=True)
def distinct(key: Any, limit: Any, *, count: int, size: int) -> Any:
    """int32 `[count]`: a uniform draw without replacement of `count` from `[0, limit)`, `count <= limit <= size`.

    Where more than half are wanted, those left out are drawn instead, so half the draws are new at the least.
    """
    if 2 * count <= size:
        return first_distinct(key, limit, count, slots=count, size=size, batch=_batch(count, size))
    slots = size - count
    target = jnp.asarray(limit, jnp.int32) - count
    left_out = first_distinct(key, limit, target, slots=slots, size=size, batch=_batch(slots, size))
    left_out = jnp.where(jnp.arange(slots, dtype=jnp.int32) < target, left_out, size)
    kept = jnp.arange(size, dtype=jnp.int32) < jnp.asarray(limit, jnp.int32)
    kept = kept.at[left_out].set(False, mode="drop")
    rank = jnp.cumsum(kept, dtype=jnp.int32)
    ids = jnp.arange(size, dtype=jnp.int32)
    return jnp.zeros((count,), jnp.int32).at[jnp.where(kept, rank - 1, count)].set(ids, mode="drop")


def _batch(slots: int, size: int) -> int:
    """Draws that yield `slots` distinct values below `size` but for one time in a billion or so."""
    if slots == 0:
        return 0
    useful = -size * math.log1p(-slots / size) if slots < size else size * (math.log(size) + 1)
    raw = useful * 2 ** (size - 1).bit_length() / size
    return math.ceil(raw + 6 * math.sqrt(raw)) + 8


def in_blocks(key: Any, n: int) -> bool:
    """Whether the bits of n clients are drawn by blocks: where there are many, and the bits stay the same."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    threefry = typed and str(jax.random.key_impl(key)) == "threefry2x32"
    return n > BLOCK and threefry and bool(jax.config.values["jax_threefry_partitionable"])


def blocks(n: int) -> Any:
    """int32: where each block of n clients begins."""
    return jnp.arange(0, n, BLOCK, dtype=jnp.int32)


def block_bits(key: Any, begin: Any) -> Any:
    """uint32 `[B]`: what `jax.random.bits(key, (n,))` holds from `begin` on, of which no n numbers are made.

    So it is for keys of which `in_blocks` is true; behind the n-th there are bits of nobody.
    """
    place = begin.astype(jnp.uint32) + jnp.arange(BLOCK, dtype=jnp.uint32)
    first, second = jax.random.key_data(key)
    hashed = threefry_2x32((first, second), jnp.concatenate([jnp.zeros_like(place), place]))
    return hashed[:BLOCK] ^ hashed[BLOCK:]


def chosen(key: Any, n: int, threshold: Any) -> Any:
    """Bool `[n]`: each with the chance (threshold + 1) / 2^32, independently."""
    if not in_blocks(key, n):
        return jax.random.bits(key, (n,), jnp.uint32) <= threshold
    return jax.lax.map(lambda begin: block_bits(key, begin) <= threshold, blocks(n)).reshape(-1)[:n]


@partial(jax.jit, inline=True)
def running_count(mask: Any) -> Any:
    """int32 `[N]`: how many entries of a mask are True up to and with each one; the last is how many there are.

    The mask is computed once: fused into the passes of a cumulative sum, a costly one would be computed in each.
    """
    return jnp.cumsum(jax.lax.optimization_barrier(mask), dtype=jnp.int32)


@partial(jax.jit, inline=True)
def nth_true(counts: Any, ranks: Any) -> Any:
    """Where the True entries of a mask are, by rank, in time C log N: no scatter of N.

    Args:
      counts: int32 `[N]`, the mask's `running_count`.
      ranks: int32 `[C]`, from 0.

    Returns:
      int32 `[C]`; N where a rank is not below the number of True entries.
    """
    return jnp.searchsorted(counts, ranks + 1, side="left").astype(jnp.int32)
