"""Bulyan: Krum chooses messages one after the other, and in each entry those near their median make the mean."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.coordinates.median import middle_of
from fedjaxlite.wire.robust.coordinates.sorting import columns_of, ordered, small
from fedjaxlite.wire.robust.distances.pairwise import num_bad, ranks, squared_distances
from fedjaxlite.wire.rows import Rows, in_blocks
from fedjaxlite.wire.stacking import rule

PyTree = Any


def bulyan(*, f: Any) -> Aggregator:
    """Chooses n - 2f messages by Krum, one after the other, then means the n - 4f values nearest to their median.

    A message that Krum has chosen is taken out before it chooses the next; of the n' that are left it sums the
    n' - f - 2 smallest squared distances, as in `krum`. The last sums are over f - 1 neighbors: over none for f = 1,
    and over one for f = 2, the same for both of the nearest pair. Of equal sums, that with the least sum to all who are
    left is taken, so that the order of clients decides nothing. The median of an even number of values is midway
    between the two in the middle.

    Args:
      f: how many clients may be bad, an int of at least 0 or a tracer; 4f + 3 clients have to report.

    Returns:
      an Aggregator that ends a chain. Memory: K messages.

    Raises:
      TypeError, ValueError: if `f` is no int of at least 0; when built, for fewer clients than 4f + 3, or weights.

    Guarantees:
      At most f of the chosen are bad, and every entry leaves the values of the chosen honest ones by at most their
      range, in each entry by itself: a bad client cannot hide a large error in one entry among many small ones. f = 0
      is the mean. It follows shifts and scales and any order of clients, not rotations; of values equally far from the
      median the first in the cohort are taken.

    Source: El Mhamdi, Guerraoui and Rouault (2018), The Hidden Vulnerability of Distributed Learning in Byzantium,
    https://arxiv.org/abs/1802.07927, section 4, with Krum as its rule.

    Example:
      >>> import fedjaxlite as fl
      >>> messages = jnp.float32([[1], [2], [3], [4], [5], [6], [7], [90]])
      >>> fl.robust.apply(fl.robust.bulyan(f=1), messages).tolist()
      [4.5]
    """
    f = num_bad(f)

    def nearest(state: PyTree, rows: Rows, key: Any) -> tuple[PyTree, PyTree]:
        del key
        chosen = chosen_by_krum(squared_distances(rows), rows.present, f)
        keep = jnp.maximum(rows.present.sum() - 4 * f, 1)
        most = len(rows.present) - (0 if checks.is_traced(f) else 4 * f)
        mean = lambda values: _near_the_median(values, chosen, keep, max(most, 1))  # noqa: E731
        return jax.tree.map(lambda values: in_blocks(mean, values), rows.values), state

    return rule(nearest, name="bulyan", hparams={"f": f}, minimum=4 * f + 3)


def chosen_by_krum(square: jax.Array, present: jax.Array, f: Any) -> jax.Array:
    """The n - 2f of n messages that Krum chooses, each from those that are left.

    Args:
      square: float32 `[K, K]`, squared distances.
      present: bool `[K]`, who is there.
      f: how many of them may be bad.

    Returns:
      bool `[K]`.
    """
    num = len(present)
    itself = jnp.eye(num, dtype=jnp.bool_)
    order = jnp.argsort(jnp.where(itself, jnp.inf, square), axis=1, stable=True)
    others = jnp.take_along_axis(jnp.where(itself, 0.0, square), order, axis=1)
    is_other = ~jnp.take_along_axis(itself, order, axis=1)

    def choose(step: jax.Array, left: jax.Array) -> jax.Array:
        alive = left[order] & is_other
        near = alive & (jnp.cumsum(alive, axis=1) <= left.sum() - f - 2)
        least = ranks(jnp.where(near, others, 0.0).sum(1), left, jnp.where(alive, others, 0.0).sum(1)) == 0
        return left & ~(least & (step < present.sum() - 2 * f))

    return present & ~jax.lax.fori_loop(0, num, choose, present)


def _near_the_median(values: jax.Array, chosen: jax.Array, keep: jax.Array, most: int) -> jax.Array:
    """The mean of the `keep` values nearest to the median of the chosen, at most `most`, entry by entry."""
    num, rows = len(chosen), list(values)
    # Halves: the distance of two finite numbers can be twice what float32 holds.
    half = 0.5 * middle_of(values, chosen)
    away = columns_of([jnp.abs(0.5 * row - half) for row in rows], chosen)
    found, _ = ordered(away, range(most))
    nothing, last = jnp.zeros_like(half), (jnp.arange(num) == keep - 1).astype(jnp.float32)
    farthest = sum((last[k] * found[k] for k in range(most)), nothing)
    room = keep.astype(jnp.float32) - sum((jnp.where(d < farthest, 1.0, 0.0) for d in away), nothing)
    total, unit = nothing, jnp.float32(small(num))
    for k, row in enumerate(rows):
        tie = jnp.where((away[k] == farthest) & chosen[k], jnp.minimum(room, 1.0), 0.0)
        total = total + jnp.where(away[k] < farthest, 1.0, tie) * (row * unit)
        room = room - tie
    return total / (keep.astype(jnp.float32) * unit)
