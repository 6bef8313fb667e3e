"""What bad clients who see all messages know of the honest ones, and how they send."""

from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.attacks.who import is_bad
from fedjaxlite.wire.rows import Rows, Shares, in_blocks, in_place, weighted_sum

PyTree = Any
_MANY = 128
"""Of more rows, a program that names each takes too long to compile."""
_TINY = float(jnp.finfo(jnp.float32).tiny)


class Sides(NamedTuple):
    """Who is who among the messages of a round.

    Attributes:
      honest: bool `[K]`, present and not bad.
      bad: bool `[K]`, present and bad. All False where nobody is honest: there is nothing to look at then.
    """

    honest: jax.Array
    bad: jax.Array


def sides(bad: Any, rows: Rows, key: Any) -> Sides:
    """Who is honest and who is bad in a round."""
    lying = is_bad(bad, rows.ids, key) & rows.present
    honest = rows.present & ~lying
    return Sides(honest, lying & honest.any())


def count(mask: jax.Array) -> jax.Array:
    """How many are in a mask, float32, 1 at the least: what one divides by."""
    return jnp.maximum(mask.sum(), 1).astype(jnp.float32)


def honest_mean(rows: Rows, honest: jax.Array) -> PyTree:
    """The plain mean of honest messages, `[m]` a leaf."""
    return weighted_sum(honest.astype(jnp.float32) / count(honest), rows.values)


def centered(rows: Rows, honest: jax.Array, mean: PyTree) -> PyTree:
    """Honest messages minus their mean, `[K, m]` a leaf; zeros for all others."""
    return jax.tree.map(lambda v, m: jnp.where(honest[:, None], v - m[None], 0.0), rows.values, mean)


def honest_moments(rows: Rows, honest: jax.Array) -> tuple[PyTree, PyTree]:
    """The mean of honest messages and the standard deviation of each entry, of h - 1 of h; both `[m]` a leaf.

    A deviation of a single client is 0. Nothing as large as the messages is kept on the way.
    """
    share, ones = honest.astype(jnp.float32) / count(honest), jnp.ones(honest.shape, jnp.float32)
    free = jnp.maximum(honest.sum() - 1, 1).astype(jnp.float32)
    over = lambda weights, v: jnp.einsum("k,km->m", weights, v, precision="highest")  # noqa: E731

    def few(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Row after row: compilers make one loop of it; over a leading axis CPUs reduce number by number.
        mean = over(share, v)
        away = [jnp.where(honest[k], v[k] - mean, 0.0) for k in range(len(v))]
        # Relative to the largest, so that no square overflows or vanishes.
        unit = reduce(jnp.maximum, map(jnp.abs, away), jnp.full(mean.shape, _TINY, jnp.float32))
        return mean, unit * jnp.sqrt(reduce(jnp.add, (jnp.square(row / unit) for row in away)) / free)

    def many(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Products with ones, for the same reason.
        mean = over(share, v)
        away = jnp.where(honest[:, None], v - mean[None], 0.0)
        unit = jnp.maximum(over(share, jnp.abs(away)), _TINY)
        return mean, unit * jnp.sqrt(over(ones, jnp.square(away / unit[None])) / free)

    leaves, structure = jax.tree.flatten(rows.values)
    of_leaf = few if len(honest) <= _MANY else partial(in_blocks, many)
    means, deviations = zip(*map(of_leaf, leaves), strict=True)
    return structure.unflatten(means), structure.unflatten(deviations)


def total(tree: PyTree) -> Any:
    """The sum of a pytree's leaves, which have one shape."""
    return reduce(jnp.add, jax.tree.leaves(tree))


def scaled(rows: Rows, honest: jax.Array, mean: PyTree) -> tuple[PyTree, jax.Array]:
    """What `centered` gives, as multiples of a unit so that no product overflows, and that unit."""
    away = centered(rows, honest, mean)
    unit = unit_of(rows.shares, away)
    return jax.tree.map(lambda a: a / unit, away), unit


def unit_of(shares: Shares, tree: PyTree) -> jax.Array:
    """A number that no entry of a pytree exceeds, and that is of their size; above 0, on all devices the same."""
    largest = sum((jnp.max(jnp.abs(leaf), initial=0.0) for leaf in jax.tree.leaves(tree)), jnp.float32(0.0))
    return jnp.clip(shares.add(largest), jnp.finfo(jnp.float32).tiny, jnp.finfo(jnp.float32).max)


def norms(shares: Shares, tree: PyTree, axis: int = 0) -> jax.Array:
    """The L2 norms over all entries of a pytree of `[..., m]`, behind `axis` axes; no square overflows."""
    unit = unit_of(shares, tree)
    inner = lambda leaf: jnp.square(leaf / unit).sum(tuple(range(axis, leaf.ndim)))  # noqa: E731
    square = shares.add(total(jax.tree.map(inner, tree)))
    zero = square == 0
    return jnp.where(zero, 0.0, unit * jnp.sqrt(jnp.where(zero, 1.0, square)))


def send(rows: Rows, bad: jax.Array, message: PyTree, *, again: bool = False) -> Rows:
    """The rows with one message, `[m]` a leaf, from all bad clients; finite, since a server leaves out what is not.

    Where the rows given are needed again there is no memory to take over, and one pass over them is less than a copy.
    """
    largest = jnp.finfo(jnp.float32).max
    finite = jax.tree.map(lambda m: jnp.nan_to_num(m, nan=0.0, posinf=largest, neginf=-largest), message)
    put = lambda v, m: jnp.where(bad[:, None], m[None], v)  # noqa: E731
    return rows._replace(values=jax.tree.map(put if again else partial(in_place, put), rows.values, finite))
