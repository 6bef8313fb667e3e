"""Coordinate-wise median: in each entry, the middle one of all clients' values."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.coordinates.sorting import columns_of, entry_by_entry, ordered
from fedjaxlite.wire.rows import Rows
from fedjaxlite.wire.stacking import rule

PyTree = Any

TIE = 2e-6
"""Weights whose sum is within this share of half the total weight make half of it, however their sum was rounded."""


def median(*, weighted: bool = False) -> Aggregator:
    """The median of all messages in each entry, or the weighted median.

    Args:
      weighted: whether weights count. The lower weighted median is the least value at or below which at least half of
        the weight lies, the upper one the least at or below which more than half lies; the result is midway between
        them. They differ only where values split the weight in halves, so that equal weights give the plain median,
        which for an even number of clients is midway between the two in the middle. Without it, a mean that sets
        weights is refused.

    Returns:
      an Aggregator that ends a chain. Memory: K messages.

    Raises:
      TypeError: if `weighted` is not True or False.

    Guarantees:
      With n clients of which f < n / 2 are bad, every entry lies between values of honest clients, and the rule is
      (f, kappa)-robust with kappa = 4 (1 + f / (n - 2f))^2 (`fl.robust.kappa_bound`). With weights, every entry lies
      between values of honest clients if these have more than half of the total weight. It does not depend on the order
      of clients, and follows shifts, scales and signs of entries.

    Source: Yin, Chen, Kannan and Bartlett (2018), Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates, https://arxiv.org/abs/1803.01498, definition 1; its kappa is from Allouah et al. (2023),
    https://arxiv.org/abs/2302.01772.

    Example:
      >>> import fedjaxlite as fl
      >>> x = jnp.float32([[1, 2, 3], [4, 5, 6], [7, 8, 900]])
      >>> fl.robust.apply(fl.robust.median(), x).tolist()
      [4.0, 5.0, 6.0]
      >>> fl.robust.apply(fl.robust.median(weighted=True), x, weights=[6, 1, 1]).tolist()
      [1.0, 2.0, 3.0]
    """
    weighted = checks.flag(weighted=weighted)

    def middle(state: PyTree, rows: Rows, key: Any) -> tuple[PyTree, PyTree]:
        del key
        weights = rows.weights if weighted else None
        return entry_by_entry(lambda v: middle_of(v, rows.present, weights), rows.values), state

    return rule(middle, name="median", hparams={"weighted": weighted}, weighted=weighted)


def middle_of(values: jax.Array, present: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """The median of each column, or the weighted one.

    Args:
      values: float32 `[K, m]`.
      present: bool `[K]`; with nobody there the result means nothing, and is finite.
      weights: float32 `[K]`, or None for one each.

    Returns:
      float32 `[m]`.
    """
    num = len(present)
    if weights is not None:
        return _weighted(values, present & (weights > 0), weights)
    ranks = [num // 2 - 1, num // 2] if num > 1 else [0]
    found, _ = ordered(columns_of(list(values), present, balanced=True), ranks)
    low, high = found[ranks[0]], found[ranks[-1]]
    # With as many absent ones below as above, a single middle is the upper of these for odd K, and the lower for even.
    alone = high if num % 2 else low
    return jnp.where(present.sum() % 2 == 1, alone, 0.5 * low + 0.5 * high)


def _weighted(values: jax.Array, present: jax.Array, weights: jax.Array) -> jax.Array:
    num = len(present)
    weights = jnp.where(present, weights, 0.0)
    found, beside = ordered(columns_of(list(values), present), range(num), [weights[k] for k in range(num)])
    half, slack = weights.sum() * 0.5, weights.sum() * TIE
    low, high = found[num - 1], found[num - 1]
    below = [beside[0]]
    for k in range(1, num):
        below.append(below[-1] + beside[k])
    for k in reversed(range(num)):
        low = jnp.where(below[k] >= half - slack, found[k], low)
        high = jnp.where(below[k] > half + slack, found[k], high)
    return jnp.where(half > 0, 0.5 * low + 0.5 * high, 0.0)
