"""Minimum diameter averaging: the mean of the n - f messages that lie nearest together."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.distances.pairwise import equal_shares, num_bad, squared_distances
from fedjaxlite.wire.rows import Rows, weighted_sum
from fedjaxlite.wire.stacking import rule

PyTree = Any

MOST_BAD = 12
"""2^12 ways to leave messages out are looked at in milliseconds."""
_LARGEST = float(jnp.finfo(jnp.float32).max)


def mda(*, f: Any) -> Aggregator:
    """The mean of those n - f messages whose largest distance to one another is least.

    The search is exact and looks at 2^f ways: of the two messages that lie farthest apart, one has to go. If several
    sets have the least diameter (as happens where a pair that is far from nobody else may lose either of its two), that
    with the least sum of squared distances is taken. ByzFL takes the first in the cohort's order.

    Args:
      f: how many clients may be bad, an int from 0 to 12, or a tracer in cohorts of at most 26; 2f + 1 clients have to
        report.

    Returns:
      an Aggregator that ends a chain. Memory: K messages, and 2^f K^2 numbers; with a traced `f` 2^(K / 2) K^2.

    Raises:
      TypeError, ValueError: for an `f` that does not fit; when built, for fewer clients than 2f + 1, or weights.

    Guarantees:
      With n clients of which f are bad it is (f, kappa)-robust with kappa = 8 f^2 / (n - f): two sets of n - f share a
      message, what one has and the other has not are f pairs at most two diameters apart, and a diameter is no longer
      than the square root of 2 (n - f) times the variance. f = 0 is the mean. It follows shifts, scales, rotations and
      any order of clients.

    Source: El Mhamdi, Guerraoui, Guirguis, Hoang and Rouault (2020), Genuinely Distributed Byzantine Machine Learning,
    https://arxiv.org/abs/1905.03853, section 3; the estimator is Rousseeuw's (1985).

    Example:
      >>> import fedjaxlite as fl
      >>> fl.robust.apply(fl.robust.mda(f=1), jnp.float32([[1, 2, 3], [4, 5, 6], [7, 8, 9]])).tolist()
      [2.5, 3.5, 4.5]
    """
    f = num_bad(f)
    if not checks.is_traced(f) and f > MOST_BAD:
        raise ValueError(f"`f` is {f}; expected at most {MOST_BAD}, as mda looks at 2**f sets of messages. {_INSTEAD}")

    def nearest(state: PyTree, rows: Rows, key: Any) -> tuple[PyTree, PyTree]:
        del key
        most = (len(rows.present) - 1) // 2 if checks.is_traced(f) else f
        if most > MOST_BAD:
            raise ValueError(
                f"`f` is traced, and {len(rows.present)} clients may then have up to {most} bad ones; expected at most "
                f"{MOST_BAD}, as mda looks at 2**f sets of messages. Give `f` as a number. {_INSTEAD}"
            )
        kept = least_diameter(squared_distances(rows), rows.present, f, most)
        return weighted_sum(equal_shares(kept), rows.values), state

    return rule(nearest, name="mda", hparams={"f": f}, minimum=2 * f + 1)


_INSTEAD = "For more, use fl.robust.multi_krum(f=...), or fl.robust.nnm(f=...) in front of a rule."


def least_diameter(square: jax.Array, present: jax.Array, f: Any, most: int) -> jax.Array:
    """Who is left of those present, without `f` of them, so that the largest distance among them is least.

    Any set that is better than what a way has left so far has lost one of the two farthest apart there. So a way that
    always gives up the right one of the two ends with the best set.

    Args:
      square: float32 `[K, K]`.
      present: bool `[K]`.
      f: how many to leave out.
      most: an int, at least `f`.

    Returns:
      bool `[K]`.
    """
    num = len(present)
    square = jnp.minimum(square, _LARGEST)
    kept = present[None]
    for step in range(most):
        pairs = _among(kept, square, -1.0).reshape(len(kept), num * num)
        farthest = jnp.argmax(pairs, axis=1)  # the first of equal pairs, its earlier message first
        places = jnp.arange(num)[None]
        goes = (places == (farthest % num)[:, None]), (places == (farthest // num)[:, None])
        kept = jnp.concatenate([kept & ~(one & (step < f)) for one in goes])
    diameters = _among(kept, square, -1.0).max((1, 2))
    sums = jnp.minimum(_among(kept, square, 0.0).sum((1, 2)), _LARGEST)
    return kept[jnp.argmin(jnp.where(diameters == diameters.min(), sums, jnp.inf))]


def _among(kept: jax.Array, square: jax.Array, other: float) -> jax.Array:
    return jnp.where(kept[:, :, None] & kept[:, None], square[None], other)
