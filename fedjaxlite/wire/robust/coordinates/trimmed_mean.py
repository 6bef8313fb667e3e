"""Coordinate-wise trimmed mean: in each entry, without the smallest and the largest values."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.coordinates.sorting import columns_of, entry_by_entry, inner_ranks, ordered, small
from fedjaxlite.wire.rows import Rows
from fedjaxlite.wire.stacking import rule

PyTree = Any

NOTHING = 2e-6
"""A part of the total weight that small is what rounding left of a client that was trimmed."""


def trimmed_mean(*, f: Any, weighted: bool = False) -> Aggregator:
    """The mean of all messages without the `f` smallest and the `f` largest values, in each entry.

    Args:
      f: how many clients may be bad, an int of at least 0 or a tracer; 2f + 1 clients have to report.
      weighted: whether weights count: of the total weight a share f / n is then trimmed at either end, of the client at
        an edge only a part if need be, and the rest is averaged by weight. Equal weights give the plain trimmed mean.
        Without it, a mean that sets weights is refused.

    Returns:
      an Aggregator that ends a chain. Memory: K messages.

    Raises:
      TypeError, ValueError: for arguments that do not fit; when built, for fewer clients than 2f + 1.

    Guarantees:
      With n clients of which f < n / 2 are bad, every entry lies between values of honest clients, and the rule is
      (f, kappa)-robust with kappa = 6 r (1 + r), r = f / (n - 2f) (`fl.robust.kappa_bound`); no rule can do better than
      r. With weights, every entry lies between values of honest clients if the bad ones have at most a share f / n of
      the total weight. f = 0 is the mean. It does not depend on the order of clients, and follows shifts, scales and
      signs of entries.

    Source: Yin, Chen, Kannan and Bartlett (2018), Byzantine-Robust Distributed Learning: Towards Optimal Statistical
    Rates, https://arxiv.org/abs/1803.01498, definition 2, with beta = f / n; its kappa is from Allouah et al. (2023),
    https://arxiv.org/abs/2302.01772.

    Example:
      >>> import fedjaxlite as fl
      >>> x = jnp.float32([[1, 2, 3], [4, 5, 6], [7, 8, 900], [5, 6, 7]])
      >>> fl.robust.apply(fl.robust.trimmed_mean(f=1), x).tolist()
      [4.5, 5.5, 6.5]
    """
    f = f if checks.is_traced(f) else checks.nonnegative_int(f=f)
    weighted = checks.flag(weighted=weighted)

    def trim(state: PyTree, rows: Rows, key: Any) -> tuple[PyTree, PyTree]:
        del key
        one = _weighted if weighted else _plain
        return entry_by_entry(lambda v: one(v, rows, f), rows.values), state

    hparams = {"f": f, "weighted": weighted}
    return rule(trim, name="trimmed_mean", hparams=hparams, minimum=2 * f + 1, weighted=weighted)


def _plain(values: jax.Array, rows: Rows, f: Any) -> jax.Array:
    num, here = len(rows.present), rows.present.sum(dtype=jnp.int32)
    wanted = inner_ranks(num, f)
    found, _ = ordered(columns_of(list(values), rows.present & (f >= 0)), wanted)
    rank = jnp.arange(num, dtype=jnp.int32)
    share = jnp.where((rank >= f) & (rank < here - f), jnp.float32(small(num)), 0.0)
    total = sum((share[k] * found[k] for k in wanted), jnp.zeros(values.shape[1:], jnp.float32))
    return total / jnp.maximum(share.sum(), jnp.float32(small(num)))


def _weighted(values: jax.Array, rows: Rows, f: Any) -> jax.Array:
    num = len(rows.present)
    weights = jnp.where(rows.present, rows.weights, 0.0)
    weights = weights / jnp.maximum(weights.sum(), jnp.finfo(jnp.float32).tiny)
    columns = columns_of(list(values), rows.present & (f >= 0))
    found, beside = ordered(columns, range(num), [weights[k] for k in range(num)])
    cut = jnp.asarray(f, jnp.float32) / jnp.maximum(rows.present.sum(), 1).astype(jnp.float32)
    below, mass, total = jnp.float32(0.0), jnp.float32(0.0), jnp.zeros(values.shape[1:], jnp.float32)
    for k in range(num):
        above = below + beside[k]
        kept = jnp.minimum(above, 1 - cut) - jnp.maximum(below, cut)
        kept = jnp.where(kept > NOTHING, kept, 0.0)
        below, mass, total = above, mass + kept, total + kept * found[k]
    return total / jnp.maximum(mass, NOTHING)
