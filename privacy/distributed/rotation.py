"""The randomized Hadamard transform: an orthonormal rotation that spreads a vector's norm evenly over its entries.

    rotate    y = H D x / sqrt(d)        D = diag(random signs), public; H the Walsh-Hadamard matrix of size d = 2^p
    back      x = D H y / sqrt(d)

After it no entry is much larger than norm / sqrt(d), whatever the vector was, so that rounding to a grid costs every
vector the same.

Source: Kairouz, Liu, Steinke (2021), https://arxiv.org/abs/2102.06387, section 4.2; Suresh, Yu, Kumar, McMahan (2017),
https://arxiv.org/abs/1611.00429, section 3.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any

RADIX = 64
"""The largest factor of the transform, which is one small matrix product for each."""


def padded_size(entries: int) -> int:
    """The smallest power of two that is at least `entries`.

    Example:
      >>> padded_size(5), padded_size(8), padded_size(1)
      (8, 8, 1)
    """
    return 1 << max(entries - 1, 0).bit_length()


def flatten(tree: PyTree, size: int | None = None) -> jax.Array:
    """All leaves as one float32 vector, in the order of `jax.tree.leaves`, with zeros up to `size`.

    Example:
      >>> flatten({"a": jnp.ones((1, 2)), "b": jnp.float32(3.0)}, 4).tolist()
      [1.0, 1.0, 3.0, 0.0]
    """
    parts = [jnp.asarray(leaf).astype(jnp.float32).reshape(-1) for leaf in jax.tree.leaves(tree)]
    vector = jnp.concatenate(parts)
    return vector if size is None else jnp.pad(vector, (0, size - vector.size))


def unflatten(vector: jax.Array, template: PyTree) -> PyTree:
    """The inverse of `flatten`: a tree of the structure and shapes of `template`; what is left over is dropped.

    Example:
      >>> unflatten(jnp.arange(4.0), {"a": jnp.zeros((1, 2)), "b": jnp.zeros(())})["b"].item()
      2.0
    """
    leaves, treedef = jax.tree.flatten(template)
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])
    starts = [0, *ends[:-1]]
    parts = [vector[a:b].reshape(leaf.shape) for a, b, leaf in zip(starts, ends, leaves, strict=True)]
    return jax.tree.unflatten(treedef, parts)


def walsh_hadamard(vector: jax.Array) -> jax.Array:
    """The orthonormal Walsh-Hadamard transform, its own inverse.

    Args:
      vector: float32 `[d]`, d a power of two.

    Returns:
      float32 `[d]`, H vector / sqrt(d), in O(d log d): the transform of size 64^a 2^b is a Kronecker product of small
      ones, and each is a matrix product over one axis.

    Raises:
      ValueError: if d is no power of two.

    Example:
      >>> walsh_hadamard(jnp.array([1.0, 1.0, 0.0, 0.0])).tolist()
      [1.0, 0.0, 1.0, 0.0]
    """
    (size,) = vector.shape
    if size != padded_size(size):
        raise ValueError(f"the vector has {size} entries; expected a power of two. Pad it to {padded_size(size)}.")
    left = size
    while left > 1:
        factor = min(RADIX, left)
        left //= factor
        # The first axis is contracted and comes back as the last one: after all factors each stands where it was.
        rows = vector.reshape(factor, size // factor)
        product = jax.lax.dot_general(
            rows, _matrix(factor), (((0,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST
        )
        vector = product.reshape(size)
    return vector


def _matrix(size: int) -> jax.Array:
    indices = np.arange(size)
    ones = np.bitwise_count(indices[:, None] & indices[None, :])
    return jnp.asarray((1.0 - 2.0 * (ones % 2)) / math.sqrt(size), jnp.float32)


def signs(key: jax.Array, size: int) -> jax.Array:
    """Random signs: float32 `[size]` of -1 and 1, from one bit each."""
    words = jax.random.bits(key, (-(-size // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)[None, :]) & jnp.uint32(1)
    return 1.0 - 2.0 * bits.reshape(-1)[:size].astype(jnp.float32)


def rotate(vector: jax.Array, key: jax.Array) -> jax.Array:
    """The randomized Hadamard transform of a float32 vector `[d]`, d a power of two.

    Args:
      vector: float32 `[d]`.
      key: a public key: everybody who rotates back has to know the signs.

    Returns:
      float32 `[d]` of the same norm, up to rounding.

    Example:
      >>> x, key = jnp.array([5.0, 0.0, 0.0, 0.0]), jax.random.key(1)
      >>> jnp.abs(rotate(x, key)).tolist(), jnp.abs(rotate_back(rotate(x, key), key)).tolist()
      ([2.5, 2.5, 2.5, 2.5], [5.0, 0.0, 0.0, 0.0])
    """
    return walsh_hadamard(vector * signs(key, vector.size))


def rotate_back(vector: jax.Array, key: jax.Array) -> jax.Array:
    """The inverse of `rotate` with the same key."""
    return walsh_hadamard(vector) * signs(key, vector.size)
