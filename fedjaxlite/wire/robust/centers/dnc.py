"""DnC: messages that stand out along the direction of most variance are left out."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.centers.norm_filter import only
from fedjaxlite.wire.robust.distances.pairwise import num_bad
from fedjaxlite.wire.robust.products import TINY, Products, fit, products
from fedjaxlite.wire.rows import Rows, Shares, weighted_sum
from fedjaxlite.wire.stacking import rule

PyTree = Any
_SQUARINGS = 24
"""Of a matrix: its 2^24th power has nothing but the first direction, unless others are as long within 1e-6."""

_ROUNDING = 1e-4
"""Of a product c * f that is a whole number but for its last digits."""


def dnc(*, f: Any, c: Any = 1.0, steps: int = 1, coordinates: int | None = 10_000) -> Aggregator:
    """Divide and conquer: leaves out c * f messages that stand out in the first singular direction, then averages.

    `steps` times, a subset of the entries is drawn, messages are centered on it, and the c * f messages with the
    largest squared projection on the top right singular vector are marked. The mean is taken of messages that are never
    marked. Some call it a spectral rule.

    Args:
      f: how many may be bad; an int from 0 up, or a tracer.
      c: how many are left out in a step, as a multiple of f (rounded down); above 0, or a tracer.
      steps: niters of the paper.
      coordinates: how many entries a step looks at, on average: each is taken with the same probability. None, or at
        least as many as there are, takes all of them, and then one step is as good as many. All are multiplied in any
        case, so fewer save no time.

    Returns:
      an Aggregator that ends a chain. Memory: K messages, and one model while entries are drawn. The singular vector
      comes from the K inner products. It needs 2 f + 1 clients, and more than steps * c * f.

    Raises:
      TypeError, ValueError: for arguments out of range. ValueError: when built, for means with weights.

    Guarantees:
      With f = 0, the mean. Bad messages that are the same far point are all left out by c = 1, once they are further
      from the honest ones than these vary. Equivariant to permutations, translations and scaling; with all entries, to
      orthogonal maps too. A message of 1e37 or more is left out beforehand.

    Source: Shejwalkar, Houmansadr (2021), "Manipulating the Byzantine", NDSS,
    https://doi.org/10.14722/ndss.2021.24498, algorithm 2 (there, entries are drawn without replacement).

    Example:
      >>> import fedjaxlite as fl
      >>> x = jnp.float32([[1, 0], [0, 1], [1, 1], [0, 0], [9, 9]])
      >>> fl.robust.apply(dnc(f=1), x).tolist()
      [0.5, 0.5]
    """
    f = num_bad(f)
    c = checks.positive("It is how many are left out, as a multiple of f.", c=c)
    steps = checks.positive_int(steps=steps)
    if coordinates is not None:
        coordinates = checks.positive_int(coordinates=coordinates)
    if checks.is_traced((f, c)):
        f = jnp.asarray(f, jnp.int32)
        out = jnp.floor(jnp.asarray(c, jnp.float32) * f.astype(jnp.float32) + _ROUNDING).astype(jnp.int32)
        most = jnp.maximum(2 * f, steps * out)
    else:
        out = int(c * f + _ROUNDING)
        most = max(2 * f, steps * out)

    def fn(state: PyTree, rows: Rows, key: Any) -> tuple[PyTree, PyTree]:
        rows = only(rows, fit(rows.values, rows.shares))
        kept = rows.present
        for step in range(steps):
            kept = kept & ~_standing_out(rows, out, coordinates, jax.random.fold_in(key, step))
        share = kept.astype(jnp.float32) / jnp.maximum(kept.sum(), 1).astype(jnp.float32)
        return weighted_sum(share, rows.values), state

    hparams = {"f": f, "c": c, "steps": steps, "coordinates": coordinates}
    return rule(fn, name="dnc", hparams=hparams, minimum=most + 1)


def _standing_out(rows: Rows, out: Any, coordinates: int | None, key: Any) -> jax.Array:
    """Whether each is among the `out` messages with the largest scores; of equal ones, those later in the cohort."""
    present = rows.present
    share = present.astype(jnp.float32) / jnp.maximum(present.sum(), 1).astype(jnp.float32)
    center = weighted_sum(share, rows.values)
    given = products(rows.values, rows.shares, center=center, taken=_taken(rows, coordinates, key))
    given = given._replace(sizes=jnp.where(present, given.sizes, 0.0))
    scores = jnp.where(present, first_direction(given), jnp.inf)
    rank = jnp.argsort(jnp.argsort(scores, stable=True), stable=True)
    return present & (rank >= present.sum() - out)


def _taken(rows: Rows, coordinates: int | None, key: Any) -> PyTree | None:
    """1 for the entries that a step looks at, of this device's; None for all."""
    like = _update(rows)
    num = sum(leaf.size for leaf in jax.tree.leaves(like))
    if coordinates is None or coordinates >= num:
        return None
    leaves, treedef = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.bernoulli(k, coordinates / num, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return rows.shares.mine(jax.tree.unflatten(treedef, [d.astype(jnp.float32) for d in drawn]))


def _update(rows: Rows) -> PyTree:
    """The shapes of a whole update."""
    shares: Shares = rows.shares
    return jax.eval_shape(shares.whole, jax.tree.map(lambda v: v[0], rows.values))


def first_direction(given: Products) -> jax.Array:
    """float32 `[K]`: each message's squared projection on the top right singular vector, up to a factor.

    From the K inner products G by squaring: G^(2^n) is nothing but the projector on G's top eigenvector, whose diagonal
    is these numbers. Where several directions are equally long it is that on all of them: no choice is made.
    """
    sizes = given.sizes / jnp.maximum(given.sizes.max(), TINY)
    power = given.cosines * sizes[:, None] * sizes[None]
    for _ in range(_SQUARINGS):
        power = power / jnp.maximum(jnp.trace(power), TINY)
        power = jnp.einsum("kl,lj->kj", power, power, precision="highest")
    return jnp.diagonal(power)
