"""The geometric median: the point with the least sum of distances to all messages."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.products import (
    TINY,
    Products,
    distances,
    distances_to,
    products,
)
from fedjaxlite.wire.rows import Rows, weighted_sum
from fedjaxlite.wire.stacking import rule

PyTree = Any
STARTS = ("inside", "mean", "zero")
_ROUGH = 1e-3
"""How far the first search goes, in products around zero; the second takes the point that it found away first."""


def geometric_median(
    *, tolerance: Any = 1e-5, smoothing: Any = 1e-6, max_steps: int = 200, start: str = "inside"
) -> Aggregator:
    """The geometric median of all messages, by weight: robust federated aggregation (RFA).

    z minimizes the weighted sum of distances |v_k - z|, found by smoothed Weiszfeld steps: the mean of the messages by
    weight p_k / max(smoothing, |v_k - z|). Steps are taken in the K inner products of messages and not in messages, so
    that any number of them costs two matrix products and two weighted sums.

    Args:
      tolerance: steps end where the messages' pull on z, the norm of sum of p_k (v_k - z) / max(smoothing, |v_k - z|)
        with weights p that sum to 1, is at most this; a number from 0 (all of `max_steps`) up, or a tracer.
      smoothing: nu, in units of an update; a number of at least 0, or a tracer.
      max_steps: the most steps of a round.
      start: "inside" the messages (their mean by 1 / the median distance to others), at the "mean", or at "zero", which
        is the server's model. Where steps converge it does not matter.

    Returns:
      an Aggregator that ends a chain. Memory: K messages. `PassInfo.aggregator` counts "unfinished" rounds, which
      ended at `max_steps`.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Guarantees:
      A finished z is the exact geometric median (smoothed) of these messages and of one more that weighs `tolerance`
      of them all; its sum of distances is above the least one by at most
      tolerance * |z - z*| + smoothing, times the total weight. In float32, tolerances down to 1e-6 are reached.
      With f of n messages bad, |z - mean of the honest|^2 <= 4 (1 + r)^2 times their variance, r = f / (n - 2 f).
      Equivariant to translations, orthogonal maps, permutations, and to scaling (with the smoothing scaled too).
      Without bad clients it is not the mean. A message of 1e37 or more is left out.

    Source: Pillutla, Kakade, Harchaoui (2019), "Robust Aggregation for Federated Learning",
    https://arxiv.org/abs/1912.13445, algorithm 2. The bound is that of Allouah et al. (2023),
    https://arxiv.org/abs/2302.01772. Three steps from zero with a smoothing of 0.1 are what some programs call the
    geometric median; they are far from it.

    Example:
      >>> import fedjaxlite as fl
      >>> x = jnp.float32([[1, 2, 3], [4, 5, 6], [7, 8, 1000]])
      >>> bool(jnp.allclose(fl.robust.apply(geometric_median(), x), jnp.float32([4, 5, 6]), atol=1e-4))
      True
    """
    tolerance = checks.nonnegative("It bounds the messages' pull on the result.", tolerance=tolerance)
    smoothing = checks.nonnegative("It is in units of an update.", smoothing=smoothing)
    max_steps = checks.positive_int(max_steps=max_steps)
    start = checks.one_of(STARTS, start=start)

    def fn(unfinished: jax.Array, rows: Rows, key: Any) -> tuple[PyTree, jax.Array]:
        del key
        around_zero = products(rows.values, rows.shares)
        shares = jnp.where(rows.present & around_zero.fit, rows.weights, 0.0)
        shares = shares / jnp.maximum(shares.sum(), TINY)
        near = jnp.asarray(smoothing, jnp.float32)
        first = Search(_first(start, around_zero, shares, near), jnp.int32(0), jnp.float32(jnp.inf))
        found = search(around_zero, shares, first, near, jnp.maximum(tolerance, _ROUGH), max(max_steps // 2, 1))
        point = weighted_sum(found.mix, rows.values)
        around_it = products(rows.values, rows.shares, center=point)
        again = Search(jnp.zeros_like(found.mix), found.step, jnp.float32(jnp.inf))
        ended = search(around_it, shares, again, near, jnp.asarray(tolerance, jnp.float32), max_steps)
        mix = ended.mix + (1.0 - ended.mix.sum()) * found.mix
        return weighted_sum(mix, rows.values), unfinished + (ended.pull > tolerance).astype(jnp.int32)

    hparams = {"tolerance": tolerance, "smoothing": smoothing, "max_steps": max_steps, "start": start}
    made = rule(fn, name="geometric_median", hparams=hparams, init=lambda update: jnp.int32(0), weighted=True)
    return made._replace(metrics=lambda state: {"skipped": state.skipped, "unfinished": state.own})


class Search(NamedTuple):
    """Where a search stands.

    Attributes:
      mix: float32 `[K]`, the point as a sum of messages: how much of each.
      step: int32, steps so far.
      pull: float32, a bound on the messages' pull on the point before the last step.
    """

    mix: jax.Array
    step: jax.Array
    pull: jax.Array


def search(
    given: Products, shares: jax.Array, first: Search, smoothing: jax.Array, tolerance: Any, max_steps: int
) -> Search:
    """Weiszfeld steps until the pull is at most `tolerance`, or for `max_steps` in all."""

    def unfinished(at: Search) -> jax.Array:
        return (at.step < max_steps) & (at.pull > tolerance)

    def step(at: Search) -> Search:
        far = jnp.maximum(distances_to(given, at.mix), jnp.maximum(smoothing, TINY))
        nearest = jnp.min(jnp.where(shares > 0, far, jnp.inf))
        scaled = jnp.where(shares > 0, shares * (nearest / far), 0.0)  # p / distance, in units that are no infinity
        mix = scaled / jnp.maximum(scaled.sum(), TINY)
        # The pull is the step's length times the sum of p / distance. The length, |sum of changes * (v - z)|, is
        # bounded term by term, since its square would drown in the roundings of inner products.
        length = jnp.where(shares > 0, jnp.abs(mix - at.mix) * far / nearest, 0.0)
        return Search(mix, at.step + 1, scaled.sum() * length.sum())

    return jax.lax.while_loop(unfinished, step, first)


def _first(start: str, given: Products, shares: jax.Array, smoothing: jax.Array) -> jax.Array:
    if start == "zero":
        return jnp.zeros_like(shares)
    if start == "mean":
        return shares
    there = shares > 0
    apart = jnp.sort(jnp.where(there[None], distances(given), jnp.inf), axis=1)
    middle = jnp.maximum(there.sum() // 2, 0)
    usual = jnp.maximum(jnp.take(apart, middle, axis=1), jnp.maximum(smoothing, TINY))
    least = jnp.min(jnp.where(there, usual, jnp.inf))
    scaled = jnp.where(there, shares * (least / usual), 0.0)
    return scaled / jnp.maximum(scaled.sum(), TINY)
