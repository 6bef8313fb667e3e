"""Random rotations: an orthonormal transform that spreads a vector's norm evenly over its entries, whatever it was.

    rotate    y = T D x        D = diag(random signs), public
    back      x = D T y        T = H (x) C, symmetric, orthonormal and so its own inverse

H is the Walsh-Hadamard matrix of size 2^k, in butterflies of eight rows. C is a small matrix of c <= 128 rows: again
Walsh-Hadamard's where c is a power of two; else times the Hartley matrix of the odd factor, with the entries
(cos t + sin t) / sqrt(c), t = 2 pi i j / c. So a vector of any size d is rotated as a whole and grows by less than
1/64: c = ceil(d / 2^k) with 64 < c <= 128. The next power of two would double it at worst, and blocks of a power of
two would each have to be ready for the whole norm, wherever a range is agreed on before.

No entry of T is larger than 1 / sqrt(d) in size where d is a power of two, or than sqrt(2 / d) else.

Source: Ailon, Chazelle (2009), https://doi.org/10.1137/060673096 (H D, the fast transform with random signs); Suresh,
Yu, Kumar, McMahan (2017), https://arxiv.org/abs/1611.00429, section 3 (before a quantizer); Bracewell (1983),
https://doi.org/10.1364/JOSA.73.001832 (Hartley's transform).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks

COLUMNS = 128
"""The largest small matrix: an entry costs as many multiplications, and the padding is at most two columns in it."""

RADIX = 3
"""Levels of the butterfly in one pass over memory: eight rows fit the registers of a processor, sixteen do not."""


def padded_size(entries: int) -> int:
    """The smallest power of two that is at least `entries`.

    Raises:
      TypeError, ValueError: for anything but an int of at least 0.

    Example:
      >>> padded_size(5), padded_size(8), padded_size(1)
      (8, 8, 1)
    """
    entries = checks.nonnegative_int(entries=entries)
    return 1 << max(entries - 1, 0).bit_length()


def rotated_size(entries: int) -> int:
    """Entries of a rotated vector: those given, and what is padded, less than 1/64 of them.

    Raises:
      TypeError, ValueError: for anything but an int of at least 0.

    Example:
      >>> rotated_size(1_663_370), rotated_size(129), rotated_size(100), rotated_size(4096), rotated_size(0)
      (1671168, 130, 100, 4096, 1)
    """
    rows, columns = _factors(max(checks.nonnegative_int(entries=entries), 1))
    return rows * columns


def rotate(vector: jax.Array, key: jax.Array) -> jax.Array:
    """The random rotation of a vector.

    Args:
      vector: float32 `[d]`, d one of `rotated_size`; every power of two is.
      key: a public key: everybody who rotates back has to know the signs.

    Returns:
      float32 `[d]` of the same norm, up to rounding.

    Raises:
      ValueError: if `rotated_size(d)` is not d.

    Guarantees:
      For a fixed vector and random signs, every entry of the result has mean zero and is sub-Gaussian with the variance
      norm^2 / d, or at most twice that where d is no power of two (Hoeffding: it is a sum over independent signs).
      So the probability of an entry beyond t norm / sqrt(d) is at most 2 exp(-t^2 / 2), or 2 exp(-t^2 / 4).

    Source: Suresh et al. (2017), https://arxiv.org/abs/1611.00429, section 3.

    Example:
      >>> x, key = jnp.array([5.0, 0.0, 0.0, 0.0]), jax.random.key(1)
      >>> jnp.abs(rotate(x, key)).tolist(), jnp.abs(rotate_back(rotate(x, key), key)).tolist()
      ([2.5, 2.5, 2.5, 2.5], [5.0, 0.0, 0.0, 0.0])
    """
    return transform(vector * signs(key, vector.size))


def rotate_back(vector: jax.Array, key: jax.Array) -> jax.Array:
    """The inverse of `rotate` with the same key.

    Example:
      >>> x, key = jnp.array([3.0, 1.0, 2.0]), jax.random.key(1)
      >>> bool(jnp.allclose(rotate_back(rotate(x, key), key), x))
      True
    """
    return transform(vector) * signs(key, vector.size)


def walsh_hadamard(vector: jax.Array) -> jax.Array:
    """The orthonormal Walsh-Hadamard transform, its own inverse.

    Args:
      vector: float32 `[d]`, d a power of two.

    Returns:
      float32 `[d]`, H vector / sqrt(d), in O(d log d).

    Raises:
      ValueError: if d is no power of two.

    Example:
      >>> walsh_hadamard(jnp.array([1.0, 1.0, 0.0, 0.0])).tolist()
      [1.0, 0.0, 1.0, 0.0]
    """
    (size,) = vector.shape
    if size != padded_size(size):
        raise ValueError(f"the vector has {size} entries; expected a power of two. Pad it to {padded_size(size)}.")
    return transform(vector)


def transform(vector: jax.Array) -> jax.Array:
    """T vector: the rotation's orthonormal matrix without the signs, its own inverse.

    Args:
      vector: float32 `[d]`, d one of `rotated_size`.

    Returns:
      float32 `[d]`.

    Raises:
      ValueError: if `rotated_size(d)` is not d.

    Example:
      >>> transform(jnp.array([1.0, 0.0, 0.0, 0.0])).tolist()
      [0.5, 0.5, 0.5, 0.5]
      >>> bool(jnp.allclose(transform(transform(jnp.arange(3.0))), jnp.arange(3.0), atol=1e-6))
      True
    """
    (size,) = vector.shape
    if size != rotated_size(size):
        raise ValueError(
            f"the vector has {size} entries, which no rotation has; pad it with zeros to rotated_size({size}), "
            f"{rotated_size(size)}."
        )
    rows, columns = _factors(size)
    # The whole transform's norm stands in the small matrix, so that butterflies are sums and differences alone.
    table = jnp.asarray(_small_matrix(columns) / math.sqrt(size), jnp.float32)
    vector = jnp.dot(vector.reshape(rows, columns), table, precision=jax.lax.Precision.HIGHEST).reshape(size)
    levels, above = rows.bit_length() - 1, 1
    while levels:
        level = min(RADIX, levels)
        block = vector.reshape(above, 2**level, size // (above * 2**level))
        found = _butterfly([block[:, i] for i in range(2**level)])
        vector = jnp.stack(found, axis=1).reshape(size)
        levels, above = levels - level, above * 2**level
    return vector


def signs(key: jax.Array, size: int) -> jax.Array:
    """Random signs: float32 `[size]` of -1 and 1, from one bit each.

    Example:
      >>> sorted(set(signs(jax.random.key(0), 100).tolist()))
      [-1.0, 1.0]
    """
    words = jax.random.bits(key, (-(-size // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)[None, :]) & jnp.uint32(1)
    return 1.0 - 2.0 * bits.reshape(-1)[:size].astype(jnp.float32)


def _factors(entries: int) -> tuple[int, int]:
    """(2^k, c), the smallest k with c = ceil(entries / 2^k) at most COLUMNS, halved once where it is even."""
    rows = 1 << max((entries - 1).bit_length() - (COLUMNS - 1).bit_length(), 0)
    columns = -(-entries // rows)
    # The butterfly does a level at less cost than the small matrix.
    return (rows, columns) if columns % 2 else (2 * rows, columns // 2)


def _butterfly(rows: list[jax.Array]) -> list[jax.Array]:
    """The Walsh-Hadamard transform of a few rows, unnormalised."""
    step = 1
    while step < len(rows):
        for low in (i for i in range(len(rows)) if not i & step):
            a, b = rows[low], rows[low + step]
            rows[low], rows[low + step] = a + b, a - b
        step *= 2
    return rows


def _small_matrix(size: int) -> np.ndarray:
    """Walsh-Hadamard's matrix of the largest power of two in `size`, times Hartley's of the odd rest; not normed."""
    even = size & -size
    odd = size // even
    indices = np.arange(even)
    hadamard = 1.0 - 2.0 * (np.bitwise_count(indices[:, None] & indices[None, :]) % 2)
    angle = 2 * np.pi * ((np.arange(odd)[:, None] * np.arange(odd)[None, :]) % odd) / odd
    return np.kron(hadamard, np.cos(angle) + np.sin(angle))
