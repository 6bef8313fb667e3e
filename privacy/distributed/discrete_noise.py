"""Integer noise, sampled from a table: the discrete Gaussian, and Skellam (the difference of two Poisson variables).

A float sampler of Gaussian noise is not Gaussian: the gaps between its outputs depend on them, and tell about what they
hide (Mironov 2012). Here the probability of every integer is computed to 50 digits, rounded to a multiple of 2^-96, and
sampled exactly with 96 random bits by Walker's alias method: one column of the table and one comparison for each draw.

    columns   2^k of equal probability, each split between its own integer and one other, its alias
    a draw    k bits choose a column, the other 96 - k decide between the two

Sources:
  Canonne, Kamath, Steinke (2020), "The Discrete Gaussian for Differential Privacy", https://arxiv.org/abs/2004.00010.
  Agarwal, Kairouz, Liu (2021), "The Skellam Mechanism ...", https://arxiv.org/abs/2110.04995.
  Walker (1977), "An Efficient Method for Generating Discrete Random Variables ...", https://doi.org/10.1145/355744.355749.
"""

import decimal
import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl

BITS = 96
"""Random bits of a draw: probabilities are multiples of 2^-96."""

MAX_COLUMNS = 2**20


class NoiseTable(NamedTuple):
    """An alias table over the integers from `lowest` on.

    Attributes:
      thresholds: uint32 `[2^k, 3]`, the share of a column that is its own: a number of 96 - k bits, high words first.
      alias: int32 `[2^k]`, the integer that has the rest of the column.
      lowest: int32 scalar, the integer of column 0.
    """

    thresholds: Any
    alias: Any
    lowest: Any


def sampling_distance(draws: float) -> float:
    """A bound on the total variation between so many draws from tables and draws from the true distributions.

    Every integer's probability is off by at most 2^-97, and there are at most 2^20 of them, so a draw is off by less
    than 2^-76. An (epsilon, delta) of the true distribution becomes delta + (1 + exp(epsilon)) times this.

    Example:
      >>> sampling_distance(1e6 * 100 * 1000) < 2e-12  # a million entries, 100 clients, 1000 rounds
      True
    """
    return draws * 2.0**-76


def noise_bound(kind: str, variance: float) -> int:
    """The largest noise that a table draws: beyond it lies a probability of less than 2^-96.

    Args:
      kind: "discrete_gaussian" or "skellam".
      variance: its parameter, at least 0.

    Returns:
      an int, by Chernoff's bound: 2 exp(-k^2 / (2 variance)) for the discrete Gaussian, which is sub-Gaussian;
      2 exp(sqrt(k^2 + variance^2) - variance - k asinh(k / variance)) for Skellam. 0 for variance 0.

    Example:
      >>> noise_bound("discrete_gaussian", 100.0), noise_bound("skellam", 100.0)
      (116, 122)
    """
    return _bound(kind, float(variance), BITS)


def _bound(kind: str, variance: float, bits: int) -> int:
    if variance == 0:
        return 0
    nats = (bits + 1) * math.log(2)
    gaussian = math.ceil(math.sqrt(2 * variance * nats))
    if kind == "discrete_gaussian":
        return gaussian
    low, high = 0, gaussian + math.ceil(nats) + 1  # enough, by Bernstein's inequality
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _skellam_exponent(middle, variance) >= nats else (middle + 1, high)
    return low


def _skellam_exponent(k: int, variance: float) -> float:
    return k * math.asinh(k / variance) - k * k / (math.hypot(k, variance) + variance)


def discrete_gaussian_weights(variance: float) -> list[int]:
    """The discrete Gaussian's probabilities of 0, 1, ... `noise_bound`, as multiples of 2^-96 that sum to 1.

    Args:
      variance: sigma^2 above 0, the parameter in exp(-k^2 / (2 sigma^2)).

    Returns:
      list of ints; the distribution is symmetric, and its probability of 0 takes what rounding leaves.

    Source: Canonne, Kamath, Steinke (2020), https://arxiv.org/abs/2004.00010, definition 1.

    Example:
      >>> [round(w / 2**96, 4) for w in discrete_gaussian_weights(1.0)[:3]]
      [0.3989, 0.242, 0.054]
    """
    with decimal.localcontext(prec=50):
        ratio = (-1 / (2 * decimal.Decimal(variance))).exp()
        square, term, terms = ratio * ratio, decimal.Decimal(1), [decimal.Decimal(1)]
        for _ in range(noise_bound("discrete_gaussian", variance)):
            term, ratio = term * ratio, ratio * square
            terms.append(term)
        return _normalized(terms)


def skellam_weights(variance: float) -> list[int]:
    """The probabilities of 0, 1, ... `noise_bound` of a symmetric Skellam variable, as multiples of 2^-96.

    Args:
      variance: mu above 0; the difference of two Poisson variables of mean mu / 2.

    Returns:
      list of ints, as of `discrete_gaussian_weights`. The probability of k is exp(-mu) I_k(mu): Bessel functions by
      their recurrence from far outside inwards, which is stable (Miller's algorithm).

    Example:
      >>> [round(w / 2**96, 4) for w in skellam_weights(1.0)[:3]]
      [0.4658, 0.2079, 0.0499]
    """
    bound = noise_bound("skellam", variance)
    start = _bound("skellam", variance, 4 * BITS)
    with decimal.localcontext(prec=50):
        factor = 2 / decimal.Decimal(variance)
        outer, term, terms = decimal.Decimal(0), decimal.Decimal(1), []
        for k in range(start, 0, -1):
            outer, term = term, outer + factor * k * term
            if k <= bound + 1:
                terms.append(term)
        return _normalized(terms[::-1])


def _normalized(terms: list[decimal.Decimal]) -> list[int]:
    total = terms[0] + 2 * sum(terms[1:])
    unit = decimal.Decimal(2) ** BITS / total
    weights = [int((term * unit).to_integral_value()) for term in terms]
    weights[0] += 2**BITS - weights[0] - 2 * sum(weights[1:])
    return weights


@lru_cache(maxsize=16)
def _table(kind: str, variance: float) -> tuple[np.ndarray, np.ndarray, int]:
    if variance == 0:
        weights = [2**BITS]
    else:
        weights = discrete_gaussian_weights(variance) if kind == "discrete_gaussian" else skellam_weights(variance)
    bound = len(weights) - 1
    both = weights[:0:-1] + weights
    log_columns = max(1, (len(both) - 1).bit_length())
    columns = 2**log_columns
    both += [0] * (columns - len(both))
    own, alias = _vose(both, 2 ** (BITS - log_columns))
    words = b"".join(threshold.to_bytes(12, "big") for threshold in own)
    thresholds = np.frombuffer(words, ">u4").reshape(columns, 3).astype(np.uint32)
    return thresholds, np.asarray(alias, np.int32) - bound, -bound


def _vose(weights: list[int], column: int) -> tuple[list[int], list[int]]:
    """Splits columns of equal weight between their own entry and an alias, exactly (Vose 1991)."""
    left, own, alias = list(weights), [column] * len(weights), list(range(len(weights)))
    small = [i for i, weight in enumerate(left) if weight < column]
    large = [i for i, weight in enumerate(left) if weight > column]
    while small:
        low, high = small.pop(), large[-1]
        own[low], alias[low] = left[low], high
        left[high] -= column - left[low]
        if left[high] <= column:
            large.pop()
            if left[high] < column:
                small.append(high)
    return own, alias


def noise_table(kind: str, variance: float) -> NoiseTable:
    """The table to sample from.

    Args:
      kind: "discrete_gaussian" or "skellam".
      variance: sigma^2 of the discrete Gaussian, mu of Skellam; a concrete number of at least 0. Costs a second for
        10^6 columns, twice `noise_bound`, and is kept.

    Returns:
      a NoiseTable.

    Raises:
      ValueError, TypeError: for another kind, a variance that is no finite number of at least 0, or one whose table
        would have more than 2^20 columns.

    Example:
      >>> noise_table("skellam", 4.0).alias.shape
      (128,)
    """
    kind = fl.checks.one_of(("discrete_gaussian", "skellam"), kind=kind)
    if fl.checks.is_traced(variance):
        raise TypeError("`variance` is traced; expected a concrete number, since the table's size follows from it.")
    variance = fl.checks.nonnegative(variance=variance)
    if not math.isfinite(variance) or 2 * noise_bound(kind, variance) + 1 > MAX_COLUMNS:
        raise ValueError(
            f"`variance` is {variance!r}; expected one whose noise fits in a table of {MAX_COLUMNS} integers. Use a "
            "coarser grid."
        )
    thresholds, alias, lowest = _table(kind, float(variance))
    return NoiseTable(jnp.asarray(thresholds), jnp.asarray(alias), jnp.int32(lowest))


def draw(table: NoiseTable, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Independent draws.

    Args:
      table: from `noise_table`.
      key: a random key.
      shape: of the result.

    Returns:
      int32 of that shape.

    Guarantees:
      The distribution is the table's exactly, given uniform bits: every probability is within 2^-97 of the true one, 0
      (which takes what rounding leaves) within 2^-77, and no draw is beyond `noise_bound`.

    Example:
      >>> x = draw(noise_table("discrete_gaussian", 4.0), jax.random.key(0), (10000,)).astype(jnp.float32)
      >>> bool(abs(x.var() - 4.0) < 0.2)
      True
    """
    log_columns = (table.alias.shape[0] - 1).bit_length()
    high, middle, low = jax.random.bits(key, (3, *shape), jnp.uint32)
    column = (high >> jnp.uint32(32 - log_columns)).astype(jnp.int32)
    rest = high & jnp.uint32(2 ** (32 - log_columns) - 1)
    own = table.thresholds[column]
    a, b, c = own[..., 0], own[..., 1], own[..., 2]
    below = (rest < a) | ((rest == a) & ((middle < b) | ((middle == b) & (low < c))))
    return jnp.where(below, table.lowest + column, table.alias[column])
