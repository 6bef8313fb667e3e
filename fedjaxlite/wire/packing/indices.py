"""A set of k of d indices in bytes: plain, in the bits of the largest one, or as gaps in Rice's code.

    index i_j, ascending;   gap g_j = i_j - i_(j-1) - 1 = 2^r q_j + s_j
    packed                  the k remainders s_j in r bits each; then q_1 zeros and a one, q_2 zeros and a one, ...

The gaps add up to d - k at most, so the ones and zeros need k + floor((d - k) / 2^r) bits at most: a size that shapes
tell, as that of a message must be. The rest of the field stays zero. Of plain and all r the smallest is taken; r = 0 is
a map with a bit for every entry. A one's place and the number of ones before it give back a gap, so decoding takes no
loop over indices.

Sources: Rice, Plaunt (1971), "Adaptive variable-length coding for efficient compression of spacecraft television data";
the bounded field of ones is that of Elias (1974) and Fano (1971).
"""

import math

import jax
import jax.numpy as jnp

from fedjaxlite.wire.packing.bits import pack, packed_size, unpack


def indices_size(entries: int, kept: int) -> int:
    """Bytes that `pack_indices` makes, for `kept` of `entries` indices.

    Example:
      >>> indices_size(1663370, 16634), indices_size(1663370, 1), indices_size(8, 8)
      (17772, 4, 0)
    """
    return _layout(entries, kept)[1]


def set_bits(entries: int, kept: int) -> float:
    """The bits of an ideal code of a set of `kept` of `entries` indices: log2 of the number of such sets.

    Example:
      >>> round(set_bits(1000, 10), 1)
      77.8
    """
    ways = math.lgamma(entries + 1) - math.lgamma(kept + 1) - math.lgamma(entries - kept + 1)
    return ways / math.log(2)


def rice_bits(indices: jax.Array, remainder_bits: int) -> jax.Array:
    """The bits that Rice's code takes for these indices, without the zeros behind its last one.

    Args:
      indices: int32 `[k]`, ascending.
      remainder_bits: r.

    Returns:
      int32 `[]`.

    Example:
      >>> int(rice_bits(jnp.int32([1, 2, 9]), 1))
      9
    """
    kept = indices.shape[0]
    return kept * (1 + remainder_bits) + (_gaps(indices) >> remainder_bits).sum(dtype=jnp.int32)


def remainder_bits(entries: int, kept: int) -> int | None:
    """The r that `pack_indices` takes, from shapes; None where plain indices are smaller, or all entries are kept.

    Example:
      >>> remainder_bits(1663370, 16634), remainder_bits(1663370, 831685), remainder_bits(1000, 1)
      (6, 0, None)
    """
    return _layout(entries, kept)[0]


def pack_indices(indices: jax.Array, entries: int) -> jax.Array:
    """Packs a set of indices into bytes.

    Args:
      indices: int32 `[k]`, ascending, all different, in [0, entries).
      entries: d, up to 2^31 - 1.

    Returns:
      uint8 `[indices_size(d, k)]`.

    Example:
      >>> pack_indices(jnp.int32([0, 2, 3]), 8).tolist()
      [13]
    """
    kept = indices.shape[0]
    r, size = _layout(entries, kept)
    if size == 0:
        return jnp.zeros((0,), jnp.uint8)
    if r is None:
        return pack(indices.astype(jnp.uint32), _plain_bits(entries))
    gaps = _gaps(indices)
    place = jnp.cumsum(gaps >> r) + jnp.arange(kept, dtype=jnp.int32)
    words = jnp.zeros((-(-_field_bits(entries, kept, r) // 32),), jnp.uint32)
    # No two ones share a place, so adding is joining.
    words = words.at[place >> 5].add(jnp.uint32(1) << (place & 31).astype(jnp.uint32), mode="promise_in_bounds")
    field = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: -(-_field_bits(entries, kept, r) // 8)]
    return field if r == 0 else jnp.concatenate([pack(gaps.astype(jnp.uint32), r), field])


def unpack_indices(packed: jax.Array, entries: int, kept: int) -> jax.Array:
    """The inverse of `pack_indices`.

    Args:
      packed: uint8 `[indices_size(d, k)]`.
      entries: d.
      kept: k.

    Returns:
      int32 `[k]`, ascending.

    Example:
      >>> unpack_indices(pack_indices(jnp.int32([0, 2, 3]), 8), 8, 3).tolist()
      [0, 2, 3]
    """
    r, size = _layout(entries, kept)
    if size == 0:
        return jnp.arange(kept, dtype=jnp.int32)
    if r is None:
        return unpack(packed, kept, _plain_bits(entries)).astype(jnp.int32)
    begin = packed_size(kept, r)
    field = jnp.pad(packed[begin:], (0, -(size - begin) % 4)).reshape(-1, 4)
    place = ones(jax.lax.bitcast_convert_type(field, jnp.uint32), kept)
    gaps = jnp.diff(place, prepend=-1) - 1
    if r:
        gaps = (gaps << r) | unpack(packed[:begin], kept, r).astype(jnp.int32)
    return jnp.cumsum(gaps + 1) - 1


def words_of(mask: jax.Array) -> jax.Array:
    """A bit for every entry of a mask.

    Args:
      mask: bool `[d]`.

    Returns:
      uint32 `[ceil(d / 32)]`; entry i is bit i mod 32 of word i div 32.

    Example:
      >>> words_of(jnp.array([True, False, True])).tolist()
      [5]
    """
    (entries,) = mask.shape
    rows = jnp.pad(mask, (0, -entries % 32)).reshape(-1, 32).astype(jnp.uint32)
    return jnp.sum(rows << jnp.arange(32, dtype=jnp.uint32)[None, :], axis=1, dtype=jnp.uint32)


def ones(words: jax.Array, number: int) -> jax.Array:
    """The places of the first ones in words of bits, in parallel.

    Args:
      words: uint32 `[n]`, with at least so many ones.
      number: k.

    Returns:
      int32 `[k]`, ascending.

    Example:
      >>> ones(jnp.uint32([5, 0, 1]), 3).tolist()
      [0, 2, 64]
    """
    counts = jax.lax.population_count(words).astype(jnp.int32)
    before = jnp.cumsum(counts) - counts
    # Where a word's ones begin, the number of words goes up by one, and by one more for each empty word.
    word = jnp.cumsum(jnp.zeros((number,), jnp.int32).at[before].add(1, mode="drop")) - 1
    rank = jnp.arange(number, dtype=jnp.int32) - before[word]
    return word * 32 + _place_in(words[word], rank)


def first_ones(words: jax.Array, number: jax.Array) -> jax.Array:
    """The same words with their first ones alone.

    Args:
      words: uint32 `[n]`.
      number: int32 `[]`, how many ones stay; all, if there are no more.

    Returns:
      uint32 `[n]`.

    Example:
      >>> first_ones(jnp.uint32([5, 0, 3]), jnp.int32(3)).tolist()
      [5, 0, 1]
    """
    counts = jax.lax.population_count(words).astype(jnp.int32)
    left = number - (jnp.cumsum(counts) - counts)
    below = (jnp.uint32(1) << _place_in(words, jnp.maximum(left, 0)).astype(jnp.uint32)) - jnp.uint32(1)
    return jnp.where(left >= counts, words, words & below)


def _place_in(word: jax.Array, rank: jax.Array) -> jax.Array:
    """Which bit of a word is its one number `rank`, from 0: by halves, each of which counts its ones."""
    place = jnp.zeros_like(rank)
    for width in (16, 8, 4, 2, 1):
        half = (word >> place.astype(jnp.uint32)) & jnp.uint32(2**width - 1)
        count = jax.lax.population_count(half).astype(jnp.int32)
        above = rank >= count
        rank, place = jnp.where(above, rank - count, rank), jnp.where(above, place + width, place)
    return place


def _gaps(indices: jax.Array) -> jax.Array:
    return jnp.diff(indices.astype(jnp.int32), prepend=-1) - 1


def _layout(entries: int, kept: int) -> tuple[int | None, int]:
    """The r of the smallest layout, None for plain indices; and its bytes."""
    if kept == entries:
        return None, 0
    sizes: list[tuple[int, int | None]] = [(packed_size(kept, _plain_bits(entries)), None)]
    for r in range(_plain_bits(entries)):
        sizes.append((packed_size(kept, r) + -(-_field_bits(entries, kept, r) // 8), r))
    size, r = min(sizes, key=lambda each: each[0])
    return r, size


def _field_bits(entries: int, kept: int, r: int) -> int:
    return kept + ((entries - kept) >> r)


def _plain_bits(entries: int) -> int:
    return (entries - 1).bit_length()
