"""MeaMed, the mean around the median: in each entry, of the values nearest to the median."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.coordinates.median import middle_of
from fedjaxlite.wire.robust.coordinates.sorting import LARGEST, columns_of, entry_by_entry, inner_ranks, ordered, small
from fedjaxlite.wire.rows import Rows, in_blocks
from fedjaxlite.wire.stacking import rule

PyTree = Any

_ROWS = 32
"""Of so many rows one loop does everything; of more, a compiler takes longer for two networks than for one twice."""


def meamed(*, f: Any) -> Aggregator:
    """The mean of the n - f values nearest to the median, in each entry (MeaMed).

    Every client counts as one: the nearest values of clients of different weights have no definition in the paper, and
    weights are refused.

    Args:
      f: how many clients may be bad, an int of at least 0 or a tracer; 2f + 1 clients have to report.

    Returns:
      an Aggregator that ends a chain. Memory: K messages.

    Raises:
      TypeError, ValueError: if `f` is no int of at least 0; when built, for fewer clients than 2f + 1, or weights.

    Guarantees:
      f = 0 is the mean. It follows shifts, scales and signs of entries. It does not depend on the order of clients but
      for two values that are equally far from the median: the client that comes first in the cohort is then nearer.
      With f < n / 2 bad clients an entry leaves the honest values by at most their range, and the rule is
      (f, kappa)-robust (`fl.robust.kappa_bound`).

    Source: Xie, Koyejo and Gupta (2018), Generalized Byzantine-tolerant SGD, https://arxiv.org/abs/1802.10116
    ("mean around median").

    Example:
      >>> import fedjaxlite as fl
      >>> fl.robust.apply(fl.robust.meamed(f=1), jnp.float32([[1, 2], [4, 5], [6, 900]])).tolist()
      [5.0, 3.5]
    """
    f = f if checks.is_traced(f) else checks.nonnegative_int(f=f)

    def nearest(state: PyTree, rows: Rows, key: Any) -> tuple[PyTree, PyTree]:
        del key
        return entry_by_entry(lambda v: _around_the_median(v, rows.present, f), rows.values), state

    return rule(nearest, name="meamed", hparams={"f": f}, minimum=2 * f + 1)


def _around_the_median(values: jax.Array, present: jax.Array, f: Any) -> jax.Array:
    present = present & (f >= 0)  # which is everyone: a traced f takes part from the first step, see `columns_of`
    count = jnp.maximum(present.sum(dtype=jnp.int32) - f, 1).astype(jnp.float32)
    one_loop = len(present) <= _ROWS
    step = (lambda fn, *given: fn(*given)) if one_loop else _in_halves
    half = step(lambda v: 0.5 * middle_of(v, present), values)
    farthest = step(lambda v, half: _farthest(v, half, present, count, f), values, half)
    return step(lambda v, half, far: _mean_within(v, half, far, present, count), values, half, farthest)


def _in_halves(fn: Any, values: jax.Array, *beside: jax.Array) -> jax.Array:
    # Compilers do not look out of a loop over blocks: each step becomes a program of its own.
    return in_blocks(fn, values, *beside, numbers=min(2**20, -(-values.size // 2)))


def _distances(values: jax.Array, half: jax.Array, present: jax.Array) -> list[jax.Array]:
    """Halves of them: the distance of two finite numbers can be twice what float32 holds."""
    return columns_of([jnp.abs(0.5 * jnp.clip(row, -LARGEST, LARGEST) - half) for row in values], present)


def _farthest(values: jax.Array, half: jax.Array, present: jax.Array, count: jax.Array, f: Any) -> jax.Array:
    """The distance of the last that is taken."""
    wanted = inner_ranks(len(present), f)
    found, _ = ordered(_distances(values, half, present), wanted)
    last = (jnp.arange(len(present), dtype=jnp.float32) == count - 1).astype(jnp.float32)
    return sum((last[k] * found[k] for k in wanted), jnp.zeros_like(half))


def _mean_within(
    values: jax.Array, half: jax.Array, farthest: jax.Array, present: jax.Array, count: jax.Array
) -> jax.Array:
    """The mean of `count` values that are no farther, those first that come first in the cohort."""
    away, unit = _distances(values, half, present), jnp.float32(small(len(present)))
    room = count - sum((jnp.where(d < farthest, 1.0, 0.0) for d in away), jnp.zeros_like(half))
    total = jnp.zeros_like(half)
    for k, row in enumerate(values):
        tie = jnp.where((away[k] == farthest) & present[k], jnp.minimum(room, 1.0), 0.0)
        total = total + jnp.where(away[k] < farthest, 1.0, tie) * (jnp.clip(row, -LARGEST, LARGEST) * unit)
        room = room - tie
    return total / (count * unit)
