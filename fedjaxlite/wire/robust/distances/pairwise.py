"""Squared distances between all messages, by one matrix product, and what rules make of them.

One product of float32 gives every |a - b|^2 as |a|^2 + |b|^2 - 2 <a, b>, which is wrong by roundings of |a|^2 + |b|^2:
of that pair's own lengths, so that a huge message spoils nobody else's distances. Where that is not enough, a second
product is taken of messages that were moved and scaled: if most messages lie close together and far from zero (models
instead of updates), or if squares overflow or vanish.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from fedjaxlite import checks
from fedjaxlite.wire.rows import Rows

PyTree = Any

_LARGEST = float(jnp.finfo(jnp.float32).max)
_BLOCK = 2**16
"""Numbers that are multiplied at a time: they stay in a cache, and no sum is long."""
_ROWS = 128
"""So many are added up one by one: where many programs share their weights, a CPU takes a tenth of a product's time."""
_CLOSE = 2.0**-6
"""Squared distances below this share of a squared length want the second product."""
_LOW, _HIGH = -100, 126
"""Exponents of units that messages are divided by."""


def squared_distances(rows: Rows) -> jax.Array:
    """The squared distance between every two messages.

    With u = 2^-24, m entries in blocks of b (65536 / K of them), and c the point that messages are moved by (zero, or
    one of them that more than half of all lie near), a distance is at most
    `2 (b + m / b + 8) u (|x_i - c|^2 + |x_j - c|^2)` from the exact square; in practice some hundredth of that.

    Args:
      rows: messages.

    Returns:
      float32 `[K, K]`, symmetric, 0 between a message and itself, infinite where one of the two is absent; in a unit
      that is the same for all pairs, which is 1 unless squares would leave float32.
    """
    rows = rows._replace(values=jax.lax.stop_gradient(rows.values))
    gram = _gram(rows, lambda block: block)
    lengths = jnp.diagonal(gram)
    square = _completed(lengths[:, None] + lengths[None] - 2 * gram, rows.present)
    center, radius = _middle(square, rows.present)
    enough = _in_range(lengths, rows.present) & (radius >= _CLOSE * lengths[center])
    return _again_unless(enough, _carefully, rows, square)


def _in_range(lengths: jax.Array, present: jax.Array) -> jax.Array:
    """Whether these squared lengths are finite, and most so long that what squares lost below float32 is nothing."""
    middle = jnp.sort(jnp.where(present, lengths, jnp.inf))[jnp.maximum(present.sum() - 1, 0) // 2]
    return jnp.all((lengths <= 2.0**100) | ~present) & (middle >= 2.0**-60)


def _again_unless(enough: jax.Array, carefully: Callable[[Rows], PyTree], rows: Rows, found: PyTree) -> PyTree:
    """`carefully(rows)` in the place of what was found, unless that is good enough."""

    def again(_: jax.Array, given: PyTree) -> PyTree:
        values, _ = jax.lax.optimization_barrier((rows.values, given))  # or compilers take this out of the loop
        return carefully(rows._replace(values=values))

    # A condition, since compilers take parts of a loop out of it, whether it is entered or not; and in it a loop, which
    # programs that run side by side enter only if one of them needs it: a condition is both of its branches there.
    times = (~enough).astype(jnp.int32)
    return jax.lax.cond(enough, lambda: found, lambda: jax.lax.fori_loop(jnp.int32(0), times, again, found))


def _carefully(rows: Rows) -> jax.Array:
    """The same with units for each message, first around zero, then around a message in the middle."""
    sizes = exponents(rows)
    around_zero = _scaled_distances(rows, sizes, None)
    return _scaled_distances(rows, sizes, _middle(around_zero, rows.present)[0])


def _scaled_distances(rows: Rows, sizes: jax.Array, center: jax.Array | None) -> jax.Array:
    own = sizes if center is None else jnp.minimum(jnp.maximum(sizes, sizes[center]) + 1, _HIGH)
    factor = power_of_two(-own)[:, None]

    def moved(block: jax.Array) -> jax.Array:
        return block * factor if center is None else block * factor - block[center][None] * factor

    gram = _gram(rows, moved)
    larger = jnp.maximum(own[:, None], own[None])
    a, b = power_of_two(own[:, None] - larger), power_of_two(own[None] - larger)
    lengths = jnp.diagonal(gram)
    square = a * a * lengths[:, None] + b * b * lengths[None] - 2 * (a * b * gram)
    to_unit = power_of_two(larger - _unit(own, rows.present))
    return _completed(square * to_unit * to_unit, rows.present)


def _unit(sizes: jax.Array, present: jax.Array) -> jax.Array:
    """The exponent of a unit for all: the middle size, or more where only that keeps the largest within float32."""
    middle = jnp.sort(jnp.where(present, sizes, _HIGH))[(present.sum() - 1) // 2]
    return jnp.clip(jnp.where(present, sizes, _LOW).max() - 40, middle, middle + 16)


def _gram(rows: Rows, change: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """All inner products of changed messages, block by block of entries."""
    total = jnp.zeros((len(rows.present),) * 2, jnp.float32)
    for leaf in jax.tree.leaves(rows.values):
        total = _gram_of_leaf(total, leaf, change)
    total = rows.shares.add(total)
    return 0.5 * total + 0.5 * total.T


def _gram_of_leaf(total: jax.Array, leaf: jax.Array, change: Callable[[jax.Array], jax.Array]) -> jax.Array:
    size, block = leaf.shape[1], max(256, _BLOCK // leaf.shape[0])

    def product(part: jax.Array) -> jax.Array:
        part = change(part)
        return jax.lax.dot_general(part, part, (((1,), (1,)), ((), ())), precision="highest")

    def add(index: jax.Array, found: jax.Array) -> jax.Array:
        return found + product(jax.lax.dynamic_slice_in_dim(leaf, index * block, block, axis=1))

    whole = size // block
    if whole > 1:
        total = jax.lax.fori_loop(jnp.int32(0), whole, add, total)
    rest = leaf[:, whole * block :] if whole > 1 else leaf
    return total + product(rest) if rest.shape[1] else total


def _completed(square: jax.Array, present: jax.Array) -> jax.Array:
    """No NaN of infinities, nothing below 0, nothing near the absent."""
    square = jnp.where(jnp.isnan(square), jnp.inf, jnp.maximum(square, 0.0))
    square = jnp.where(jnp.eye(len(present), dtype=jnp.bool_), 0.0, square)
    return jnp.where(present[:, None] & present[None], square, jnp.inf)


def _middle(square: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The message with more than half of all nearest around it, and the squared radius of that ball."""
    radius = jnp.sort(square, axis=1)[:, present.sum() // 2]
    center = jnp.argmin(radius)
    return center, radius[center]


def exponents(rows: Rows) -> jax.Array:
    """int32 `[K]`, powers of two of about the messages' sizes, of which no square of an entry leaves float32."""
    sums = sum((jnp.abs(leaf).sum(1) for leaf in jax.tree.leaves(rows.values)), jnp.float32(0))
    sums = jnp.minimum(rows.shares.add(sums), _LARGEST)
    exponent = jnp.clip(jnp.frexp(sums)[1].astype(jnp.int32), _LOW, _HIGH)
    some = rows.present & (sums > 0)
    least = jnp.where(some, exponent, _HIGH).min()  # a message of zeros has no size, and no unit of its own
    return jnp.where(some, exponent, jnp.where(some.any(), least, _LOW))


def squared_distances_to(rows: Rows, index: jax.Array) -> jax.Array:
    """The squared distance of every message to message `index`, by one product of a matrix and a vector.

    Args:
      rows: messages.
      index: int32, a row.

    Returns:
      float32 `[K]`, in a unit that is the same for all, infinite for the absent. As in `squared_distances` they are
      wrong by roundings of squared lengths; if most messages lie near to this one, by roundings of themselves.
    """
    rows = rows._replace(values=jax.lax.stop_gradient(rows.values))
    axes, leaves, zero = (((1,), (0,)), ((), ())), jax.tree.leaves(rows.values), jnp.float32(0)
    with_it = sum((jax.lax.dot_general(v, v[index], axes, precision="highest") for v in leaves), zero)
    lengths, with_it = rows.shares.add((sum((jnp.square(v).sum(1) for v in leaves), zero), with_it))
    square = lengths + lengths[index] - 2 * with_it
    square = jnp.where(jnp.isnan(square), jnp.inf, jnp.maximum(square, 0.0))
    square = jnp.where(rows.present, square, jnp.inf).at[index].set(0.0)
    radius = jnp.sort(square)[rows.present.sum() // 2]
    enough = _in_range(lengths, rows.present) & (radius >= _CLOSE * lengths[index])
    return _again_unless(enough, lambda rows: _differences(rows, index), rows, square)


def _differences(rows: Rows, index: jax.Array) -> jax.Array:
    sizes = exponents(rows)
    own = jnp.minimum(jnp.maximum(sizes, sizes[index]) + 1, _HIGH)
    factor = power_of_two(-own)[:, None]
    away = (jnp.square(v * factor - v[index][None] * factor).sum(1) for v in jax.tree.leaves(rows.values))
    to_unit = power_of_two(own - _unit(own, rows.present))
    return jnp.where(rows.present, rows.shares.add(sum(away, jnp.float32(0))) * to_unit * to_unit, jnp.inf)


def norms_of(rows: Rows) -> tuple[jax.Array, jax.Array]:
    """L2 norms, as float32 `[K]` times powers of two of int32 `[K]`: no message is too large or too small."""
    squares = sum((jnp.square(leaf).sum(1) for leaf in jax.tree.leaves(rows.values)), jnp.float32(0))
    squares = rows.shares.add(squares)
    found = (jnp.sqrt(squares), jnp.zeros(squares.shape, jnp.int32))
    return _again_unless(_in_range(squares, rows.present), _scaled_norms, rows, found)


def _scaled_norms(rows: Rows) -> tuple[jax.Array, jax.Array]:
    sizes = exponents(rows)
    factor = power_of_two(-sizes)[:, None]
    squares = sum((jnp.square(leaf * factor).sum(1) for leaf in jax.tree.leaves(rows.values)), jnp.float32(0))
    return jnp.sqrt(rows.shares.add(squares)), sizes


def power_of_two(exponent: jax.Array) -> jax.Array:
    """2 to an int32 power, exactly, within normal float32 numbers."""
    bits = (jnp.clip(exponent, -126, 127) + 127) << 23
    return jax.lax.bitcast_convert_type(bits.astype(jnp.int32), jnp.float32)


def ranks(scores: jax.Array, counts: jax.Array, then: jax.Array | None = None) -> jax.Array:
    """The rank of each score, the least first; equal ones in their order, and those that do not count behind all.

    Args:
      scores: float32 `[..., K]`, without NaN; infinite ones may count.
      counts: bool `[K]`, who does.
      then: what decides between equal scores, if not their order.

    Returns:
      int32 `[..., K]`.
    """
    finite = lambda given: jnp.where(counts, jnp.minimum(given, _LARGEST), jnp.inf)  # noqa: E731
    if then is None:
        order = jnp.argsort(finite(scores), axis=-1, stable=True)
    else:
        places = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
        order = jax.lax.sort((finite(scores), finite(then), places), num_keys=2, is_stable=True)[2]
    return jnp.argsort(order, axis=-1).astype(jnp.int32)


def equal_shares(chosen: jax.Array) -> jax.Array:
    """Shares of the mean of those chosen, of bool `[..., K]`; zeros where nobody is."""
    many = jnp.maximum(chosen.sum(-1, keepdims=True), 1)
    return chosen.astype(jnp.float32) / many.astype(jnp.float32)


def num_bad(f: Any) -> Any:
    """Refuses what is no int of at least 0; a traced integer becomes an int32."""
    if isinstance(f, Tracer) and f.shape == () and jnp.issubdtype(f.dtype, jnp.integer):
        return f.astype(jnp.int32)
    return checks.nonnegative_int(f=f)
