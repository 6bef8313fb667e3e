"""Whole numbers of b bits in bytes: planes of 8, 4, 2 and 1 bits, each with its neighbors far apart.

A number of 3 bits is one of 2 bits and one of 1. Four numbers of 2 bits share a byte, and they are not neighbors: byte
i of m holds the numbers i, i + m, i + 2 m and i + 3 m. So whole rows are shifted and joined, which processors do in
vectors and accelerators with one load for a row. The last few bytes of a plane are packed apart: compilers make vectors
of loops of a round length.
"""

import itertools

import jax
import jax.numpy as jnp

ROUND = 32
"""Of how many bytes the part of a plane that compilers see as a loop of a round length is a multiple."""


def packed_size(entries: int, bits: int) -> int:
    """Bytes that `pack` makes: for each plane its bits, rounded up to whole bytes.

    Example:
      >>> packed_size(16, 2), packed_size(33, 3), packed_size(5, 16)
      (4, 14, 10)
    """
    return sum(-(-entries * width // 8) for width in _planes(bits))


def pack(codes: jax.Array, bits: int) -> jax.Array:
    """Packs whole numbers into bytes.

    Args:
      codes: unsigned integers `[n]`, of which the lowest `bits` bits count.
      bits: 1 to 32.

    Returns:
      uint8 `[packed_size(n, bits)]`.

    Example:
      >>> pack(jnp.array([1, 2, 3, 0], jnp.uint32), 2).tolist()
      [45]
    """
    (entries,) = codes.shape
    found, shift = [], 0
    for width in _planes(bits):
        plane = (codes >> shift).astype(jnp.uint8) if shift else codes.astype(jnp.uint8)
        found.append(_pack_plane(plane, entries, width))
        shift += width
    return found[0] if len(found) == 1 else jnp.concatenate(found)


def unpack(packed: jax.Array, entries: int, bits: int) -> jax.Array:
    """The inverse of `pack`.

    Args:
      packed: uint8 `[packed_size(entries, bits)]`.
      entries: n.
      bits: 1 to 32.

    Returns:
      uint32 `[n]`.

    Example:
      >>> unpack(pack(jnp.array([5, 1, 7], jnp.uint32), 3), 3, 3).tolist()
      [5, 1, 7]
    """
    if not entries:
        return jnp.zeros((0,), jnp.uint32)
    planes, begin = [], 0
    for width in _planes(bits):
        planes.append((width, begin, -(-entries * width // 8)))
        begin += planes[-1][2]
    # Stretches without the end of a row of any plane: each is a slice of every plane, which is read in one loop. Where
    # planes are put together first, one after the other, compilers ask at each entry in which row it is.
    ends = {min(row * size, entries) for width, _, size in planes for row in range(1, 8 // width)}
    borders = sorted({0, *ends, entries})
    found = [_unpack_stretch(packed, planes, low, high) for low, high in itertools.pairwise(borders)]
    return found[0] if len(found) == 1 else jnp.concatenate(found)


def signed(codes: jax.Array, bits: int) -> jax.Array:
    """Whole numbers of so many bits as signed ones: their highest bit is the sign.

    Args:
      codes: uint32 `[n]`, as `unpack` gives them.
      bits: 1 to 32.

    Returns:
      int32 `[n]`, from -2^(bits-1) to 2^(bits-1) - 1.

    Example:
      >>> signed(unpack(pack(jnp.array([1, -1, -2]).astype(jnp.uint32), 2), 3, 2), 2).tolist()
      [1, -1, -2]
    """
    return jax.lax.bitcast_convert_type(codes << (32 - bits), jnp.int32) >> (32 - bits)


def _planes(bits: int) -> list[int]:
    """Widths that add up to `bits`, each 8, 4, 2 or 1."""
    return [8] * (bits // 8) + [width for width in (4, 2, 1) if bits % 8 & width]


def _pack_plane(plane: jax.Array, entries: int, width: int) -> jax.Array:
    if width == 8:
        return plane
    number, shifts = 8 // width, _shifts(width)
    size = -(-entries // number)
    # The last row lacks up to 7 entries. A loop over all bytes would ask each time whether it is there.
    full = (size - (number * size - entries)) // ROUND * ROUND
    rows = [plane[row * size : (row + 1) * size] & (2**width - 1) for row in range(number)]
    ends = [jnp.pad(row[full:], (0, size - row.size)) for row in rows]
    found = [_join(part, shifts) for part in ([row[:full] for row in rows], ends) if part[0].size]
    return found[0] if len(found) == 1 else jnp.concatenate([plane[:0], *found])


def _unpack_stretch(packed: jax.Array, planes: list[tuple[int, int, int]], low: int, high: int) -> jax.Array:
    """The codes of the entries from low to high, which are in one row of each plane (width, its begin, its size)."""
    total, shift = jnp.uint32(0), 0
    for width, begin, size in planes:
        row = 0 if width == 8 else low // size
        part = packed[begin + low - row * size : begin + high - row * size]
        if width < 8:
            part = (part >> _shifts(width)[row]) & (2**width - 1)
        total, shift = total | (part.astype(jnp.uint32) << shift), shift + width
    return jnp.asarray(total)


def _join(rows: list[jax.Array], shifts: list[int]) -> jax.Array:
    total = rows[0]
    for row, shift in zip(rows[1:], shifts[1:], strict=True):
        total = total | (row << shift)
    return total


def _shifts(width: int) -> list[int]:
    """Where in a byte each row stands: halves of bytes after one another, then halves of those."""
    shifts, half = [0], 8
    while half > width:
        half //= 2
        shifts += [shift + half for shift in shifts]
    return shifts
