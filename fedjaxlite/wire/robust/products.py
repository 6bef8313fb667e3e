"""Norms and inner products of whole messages, from entries that are shared out over devices.

Messages of any size stand side by side: each is divided by a size of its own before anything is squared, so that one of
1e20 is no infinity and hides nothing of one of 1. One that is so large that its norm may be no float32 does not `fit`:
rules leave it out, since nothing true could be computed with it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.wire.rows import Shares

PyTree = Any
TINY = float(jnp.finfo(jnp.float32).tiny)
_LARGEST = 1e38
"""Of sizes, so that a distance is finite: what weighs nothing must not be infinite."""
_FITS = 1e37
"""The least sum of absolute values that does not fit."""
_BLOCK = 2**16
"""Numbers that are worked on at a time: they stay in a cache."""


class Products(NamedTuple):
    """What the inner products of K messages say of them.

    Attributes:
      sizes: float32 `[K]`, L2 norms; 0 for a row of zeros, and at most 1e38.
      cosines: float32 `[K, K]`, inner products of the messages divided by their norms; 0 with a row of zeros.
      fit: bool `[K]`, whose absolute values sum up to less than 1e37; the others' numbers here are wrong.
    """

    sizes: jax.Array
    cosines: jax.Array
    fit: jax.Array


def _units(values: PyTree, shares: Shares, center: PyTree | None) -> jax.Array:
    """float32 `[K]`: sums of absolute values, a size that squares nothing; within what can be divided by."""
    sums = shares.add(_over_blocks(lambda part: jnp.abs(part).sum(1), values, center, None))
    return jnp.clip(sums, TINY, 2.0**126)


def fit(values: PyTree, shares: Shares) -> jax.Array:
    """Bool `[K]`: whose absolute values sum up to less than 1e37."""
    return _units(values, shares, None) < _FITS


def norms(values: PyTree, shares: Shares, center: PyTree | None = None) -> jax.Array:
    """The L2 norm of every row, or its distance to a center; infinite above 3e38.

    Args:
      values: pytree of float32 `[K, m]`, this device's entries.
      shares: how they lie on devices.
      center: this device's entries `[m]` of a point to measure from; None is zero.

    Returns:
      float32 `[K]`.
    """
    units = _units(values, shares, center)
    squares = _over_blocks(lambda part: jnp.square(part / units[:, None]).sum(1), values, center, None)
    return units * jnp.sqrt(shares.add(squares))


def products(values: PyTree, shares: Shares, *, center: PyTree | None = None, taken: PyTree | None = None) -> Products:
    """All inner products by one matrix product, block by block of entries.

    Args:
      values: pytree of float32 `[K, m]`, this device's entries.
      shares: how they lie on devices.
      center: this device's entries `[m]` of a point that is taken away from every row; None is zero.
      taken: float32 `[m]`, 1 for entries that count; None for all.

    Returns:
      Products. A squared distance made of them is wrong by a few float32 roundings (6e-8) of the squared *norms*: where
      messages lie close together and far from zero, give a center near them.
    """
    units = _units(values, shares, center)

    def product(part: jax.Array) -> jax.Array:
        part = part / units[:, None]
        return jnp.einsum("km,lm->kl", part, part, precision="highest")

    gram = shares.add(_over_blocks(product, values, center, taken))
    own = jnp.sqrt(jnp.diagonal(gram))
    inverse = jnp.where(own > 0, 1 / jnp.where(own > 0, own, 1.0), 0.0)
    return Products(jnp.minimum(units * own, _LARGEST), gram * inverse[:, None] * inverse[None], units < _FITS)


def _over_blocks(
    fn: Callable[[jax.Array], jax.Array], values: PyTree, center: PyTree | None, taken: PyTree | None
) -> jax.Array:
    """The sum of `fn` over blocks of entries, after what is taken away and left out: nothing is as large as a leaf."""
    total = None
    leaves, treedef = jax.tree.flatten(values)
    none = [None] * len(leaves)
    centers = none if center is None else treedef.flatten_up_to(center)
    counting = none if taken is None else treedef.flatten_up_to(taken)
    for leaf, c, t in zip(leaves, centers, counting, strict=True):
        found = _over_blocks_of(fn, leaf, c, t)
        total = found if total is None else total + found
    return jnp.float32(0) if total is None else total


def _over_blocks_of(fn: Callable[[jax.Array], jax.Array], leaf: jax.Array, center: Any, taken: Any) -> jax.Array:
    size, block = leaf.shape[1], max(256, _BLOCK // leaf.shape[0])

    def of(start: Any, num: int) -> jax.Array:
        cut = lambda array: jax.lax.dynamic_slice_in_dim(array, start, num, axis=array.ndim - 1)  # noqa: E731
        part = cut(leaf) if center is None else cut(leaf) - cut(center)[None]
        return fn(part if taken is None else part * cut(taken)[None])

    whole = size // block
    if whole <= 1:
        return of(0, size)
    total = jax.lax.fori_loop(1, whole, lambda i, found: found + of(i * block, block), of(0, block))
    return total + of(whole * block, size - whole * block) if size % block else total


def distances(given: Products) -> jax.Array:
    """The distance between every two messages, float32 `[K, K]`; 0 on the diagonal.

    Its square is wrong by a few roundings of the larger squared norm; see `products`.
    """
    larger = jnp.maximum(jnp.maximum(given.sizes[:, None], given.sizes[None]), TINY)
    a, b = given.sizes[:, None] / larger, given.sizes[None] / larger
    square = jnp.maximum(a * a + b * b - 2 * a * b * given.cosines, 0.0)
    apart = larger * jnp.sqrt(square)
    return jnp.where(jnp.eye(apart.shape[0], dtype=bool), 0.0, apart)


def distances_to(given: Products, shares_of_rows: jax.Array) -> jax.Array:
    """The distance of every message to the point `sum of shares_of_rows[k] * row k`, float32 `[K]`."""
    parts = shares_of_rows * given.sizes  # bounded where the point is, also for rows of 1e30 that weigh 1e-30
    unit = jnp.maximum(jnp.abs(parts).sum(), TINY)
    with_point = jnp.einsum("kl,l->k", given.cosines, parts / unit, precision="highest")
    point = jnp.sqrt(jnp.maximum(jnp.sum(parts / unit * with_point), 0.0))  # its norm, in units
    larger = jnp.maximum(given.sizes, unit)
    a, b = given.sizes / larger, unit / larger
    return larger * jnp.sqrt(jnp.maximum(a * a - 2 * a * b * with_point + jnp.square(b * point), 0.0))
