"""Sums that lose nothing to float32: by halves within a batch, compensated over batches."""

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def total(values: jax.Array, weight: jax.Array) -> jax.Array:
    """The weighted sum over the first axis; what has weight 0 may hold anything, NaN included.

    Args:
      values: `[B, ...]`, of any real dtype.
      weight: float32 `[B]`; NaN makes the sum NaN.

    Returns:
      float32 `[...]`, with a relative error of about log2(B) / 2 times float32's.

    Example:
      >>> float(total(jnp.float32([1, jnp.nan, 3]), jnp.float32([1, 0, 2])))
      7.0
    """
    weight = jnp.asarray(weight, jnp.float32).reshape(-1, *(1,) * (values.ndim - 1))
    return by_halves(jnp.where(weight == 0, 0.0, jnp.asarray(values, jnp.float32)) * weight)


def by_halves(values: jax.Array) -> jax.Array:
    """The sum over the first axis, whose error grows with the logarithm of its length and not with the length."""
    rows = values.shape[0]
    if not rows:
        return jnp.zeros(values.shape[1:], values.dtype)
    full = 1 << (rows - 1).bit_length()
    values = jnp.concatenate([values, jnp.zeros((full - rows, *values.shape[1:]), values.dtype)])
    while full > 1:
        full //= 2
        values = values[:full] + values[full:]
    return values[0]


def two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`a + b` as rounded, and what rounding lost, exactly.

    Source: Knuth (1969), The Art of Computer Programming 2, section 4.2.2, theorem B.
    """
    together = a + b
    of_b = together - a
    return together, (a - (together - of_b)) + (b - of_b)


def add(high: jax.Array, low: jax.Array, more: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A sum in two parts, and one more summand. Integers are exact as they are."""
    if not jnp.issubdtype(more.dtype, jnp.floating):
        return high + more, low
    high, lost = two_sum(high, more)
    # Past infinity nothing is lost that could be told.
    return high, low + jnp.where(jnp.isfinite(lost), lost, jnp.zeros_like(lost))
