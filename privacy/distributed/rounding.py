"""Conditional stochastic rounding: vectors onto the integer grid, unbiased but for the rare ones that grow too long.

Rounding to integers can lengthen a vector by sqrt(d), and noise has to cover what it lengthens. A vector that is
rounded at random rarely comes out so long, so it is rounded again until it does not.

Source: Kairouz, Liu, Steinke (2021), https://arxiv.org/abs/2102.06387, theorem 1 and proposition 22.
"""

import math

import jax
import jax.numpy as jnp

import fedjaxlite as fl

SLACK = 1.0 - 2.0**-16
"""What is left of a squared bound for the test, so that rounding in float32 lets nothing longer pass."""

BLOCK = 32
"""How many squares are added at a time."""


def rounded_norm_bound(norm: float, dim: int, beta: float = math.exp(-0.5)) -> float:
    """The L2 norm that a vector may have after conditional rounding.

    Args:
      norm: c, the vector's L2 norm before, in grid units.
      dim: d, its entries.
      beta: in [0, 1), the largest chance that one attempt is too long. 0 gives c + sqrt(d), which no rounding exceeds.

    Returns:
      min(c + sqrt(d), sqrt(c^2 + d / 4 + sqrt(2 ln(1 / beta)) (c + sqrt(d) / 2))).

    Raises:
      ValueError, TypeError: for a negative norm, a dim that is no int of at least 1, a beta outside [0, 1).

    Source: Kairouz, Liu, Steinke (2021), https://arxiv.org/abs/2102.06387, theorem 1, equation 2.

    Example:
      >>> round(rounded_norm_bound(10.0, 250), 6), round(rounded_norm_bound(10.0, 250, beta=0.0), 6)
      (13.431519, 25.811388)
    """
    norm = fl.checks.nonnegative(norm=norm)
    dim = fl.checks.positive_int(dim=dim)
    beta = fl.checks.fraction(beta=beta, remedy="It is the chance that one attempt at rounding is too long.")
    always = norm + math.sqrt(dim)
    if beta == 0:
        return always
    likely = norm**2 + dim / 4 + math.sqrt(2 * math.log(1 / beta)) * (norm + math.sqrt(dim) / 2)
    return min(always, math.sqrt(likely))


def attempts(beta: float) -> int:
    """How often to round before giving up, so that this happens with a chance of at most 2^-40; at most 1000."""
    return 1 if beta == 0 else min(1000, math.ceil(40 * math.log(2) / math.log(1 / beta)))


def conditional_round(
    vector: jax.Array, *, largest: int, bound: float, key: jax.Array, max_attempts: int = 56
) -> jax.Array:
    """Rounds every entry up or down at random, anew until the L2 norm is within a bound.

    Args:
      vector: float32 `[d]`, in grid units; entries of more than `largest` are cut to it.
      largest: an int below 2^23, the largest entry.
      bound: the largest L2 norm of the result, such as `rounded_norm_bound` gives; below 2^60.
      key: a random key.
      max_attempts: how often to round before entries are cut towards zero instead; see `attempts`.

    Returns:
      int32 `[d]`. One attempt is unbiased; the condition biases the result by what it excludes, which is little, since
      attempts rarely fail.

    Guarantees:
      The result's norm is at most `bound` and no entry is larger than `largest`, whatever the vector (NaN included) and
      however float32 rounds: a result that cannot be shown to fit is replaced by the vector with its entries cut
      towards zero, and by zeros if that does not fit either (a vector that was longer than the bound to begin with).

    Source: Kairouz, Liu, Steinke (2021), https://arxiv.org/abs/2102.06387, algorithm 1 with the condition of theorem 1.

    Example:
      >>> conditional_round(jnp.array([2.0, -3.0, 0.0]), largest=3, bound=3.7, key=jax.random.key(0)).tolist()
      [2, -3, 0]
    """
    vector = jnp.clip(jnp.where(jnp.isnan(vector), 0.0, vector), -float(largest), float(largest))
    low = jnp.floor(vector)
    share = vector - low  # exact: both lie on the same grid of floats

    def attempt(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        number, _, _ = carry
        draws = jax.random.uniform(jax.random.fold_in(key, number), vector.shape, jnp.float32)
        rounded = low + (draws < share).astype(jnp.float32)
        return number + 1, rounded, fits(rounded, bound)

    def again(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        number, _, done = carry
        return ~done & (number < max_attempts)

    _, rounded, done = jax.lax.while_loop(again, attempt, (jnp.int32(0), low, jnp.bool_(False)))
    cut = jnp.trunc(vector)
    cut = jnp.where(fits(cut, bound), cut, 0.0)
    return jnp.where(done, rounded, cut).astype(jnp.int32)


def fits(vector: jax.Array, bound: float) -> jax.Array:
    """A bool scalar: whether a vector's L2 norm is certainly at most `bound`, in float32.

    Squares are added in blocks of 32, then those sums, and so on: whatever the order within a block, a level is wrong
    by at most 2^-19 of itself, and the six levels of up to 2^30 entries by less than the slack of 2^-16.
    """
    squares = jnp.square(vector)
    while squares.size > 1:
        rows = min(BLOCK, squares.size)
        columns = -(-squares.size // rows)
        # Blocks are columns: a sum over rows is a sum of vectors, which processors do many at a time.
        squares = jnp.sum(jnp.pad(squares, (0, rows * columns - squares.size)).reshape(rows, columns), axis=0)
    return squares[0] <= jnp.float32(bound * bound * SLACK)
