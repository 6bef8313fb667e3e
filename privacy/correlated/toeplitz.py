"""Banded Toeplitz strategies for prefix sums: their coefficients, their error, and what one client can change.

A strategy is a lower-triangular Toeplitz matrix C with b bands, given by its first column c_0 ... c_(b-1). What is
protected is `C x` for the sums x of the rounds, with white noise z; what a server adds up are the prefix sums
`A x + A C^-1 z`. Two rounds of one client that are b or more apart meet in no row of C, so a client counts as one
column for every round that it takes part in.

Everything here is NumPy on the host, in float64, and in units of the white noise's standard deviation and of one
client's clipped contribution. `noise_streams.py` draws the noise.

Source: Fichtenberger, Henzinger, Upadhyay (2022), https://arxiv.org/abs/2202.11205 (square root);
Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu (2023), https://arxiv.org/abs/2306.08153 (bands);
Kalinin, Lampert (2024), https://arxiv.org/abs/2405.13763 (sensitivity).
"""

from functools import lru_cache
from typing import Any

import numpy as np

import fedjaxlite as fl

ERRORS = ("mean", "max")


def square_root_coefficients(bands: int) -> np.ndarray:
    """The first coefficients of the square root of the prefix sums, 1, 1/2, 3/8, 5/16, ...

    With as many bands as rounds they are the Toeplitz strategy of the least maximal error for one participation.

    Args:
      bands: b.

    Returns:
      float64 `[b]`.

    Source: Fichtenberger, Henzinger, Upadhyay (2022), https://arxiv.org/abs/2202.11205, equation 2.

    Example:
      >>> (square_root_coefficients(5) * 128).tolist()
      [128.0, 64.0, 48.0, 40.0, 35.0]
    """
    bands = fl.checks.positive_int(bands=bands)
    odd = 2.0 * np.arange(1, bands) - 1.0
    return np.concatenate([[1.0], np.cumprod(odd / (odd + 1.0))])


def inverse_coefficients(coefficients: Any, num_rounds: int) -> np.ndarray:
    """The first column of the inverse of a banded Toeplitz matrix.

    Args:
      coefficients: c, float `[b]`, c_0 above 0.
      num_rounds: n, the size of the matrix.

    Returns:
      float64 `[n]`.

    Raises:
      ValueError: for coefficients that are not a vector of finite numbers with c_0 above 0.

    Example:
      >>> (inverse_coefficients(square_root_coefficients(5), 5) * 128).tolist()
      [128.0, -64.0, -16.0, -8.0, -5.0]
    """
    c = _column(coefficients, num_rounds)
    inverse = np.zeros(num_rounds)
    inverse[0] = 1.0 / c[0]
    backwards = c[:0:-1] / c[0]
    for t in range(1, num_rounds):
        past = inverse[max(0, t - len(backwards)) : t]
        inverse[t] = -(backwards[len(backwards) - len(past) :] @ past)
    return inverse


def column_norms(coefficients: Any, num_rounds: int) -> np.ndarray:
    """The L2 norms of the columns of a banded Toeplitz matrix, of which the last b - 1 are cut off.

    Args:
      coefficients: c, float `[b]`.
      num_rounds: n, the size of the matrix.

    Returns:
      float64 `[n]`.

    Example:
      >>> column_norms([3.0, 4.0], 3).tolist()
      [5.0, 5.0, 3.0]
    """
    c = _column(coefficients, num_rounds)
    left = np.minimum(num_rounds - np.arange(num_rounds), len(c))
    return np.sqrt(np.cumsum(np.square(c)))[left - 1]


def cumulative_variances(coefficients: Any, num_rounds: int, *, normalized: bool = False) -> np.ndarray:
    """The variance of the noise that a model carries after each round, under a server that sums with rate 1.

    Args:
      coefficients: c, float `[b]`.
      num_rounds: n.
      normalized: whether the columns of the strategy are scaled to norm 1.

    Returns:
      float64 `[n]`, the squared norms of the rows of `A C^-1`, in units of the white noise's variance.

    Source: Choquette-Choo et al. (2023), https://arxiv.org/abs/2306.08153, section 2.

    Example:
      >>> cumulative_variances([1.0], 3).tolist()
      [1.0, 2.0, 3.0]
    """
    inverse = inverse_coefficients(coefficients, num_rounds)
    scale = column_norms(coefficients, num_rounds) if normalized else np.ones(num_rounds)
    row, variances = np.zeros(num_rounds), np.zeros(num_rounds)
    for t in range(num_rounds):
        row[: t + 1] += scale[t] * inverse[t::-1]
        variances[t] = row @ row
    return variances


def squared_sensitivity(
    coefficients: Any,
    num_rounds: int,
    *,
    max_participations: int = 1,
    min_separation: int = 1,
    normalized_for: int | None = None,
) -> float:
    """How much one client can change `C x`: the largest squared L2 norm over what it may take part in.

    Args:
      coefficients: c, float `[b]`.
      num_rounds: n, the rows of C that are released.
      max_participations: k, the most rounds of one client.
      min_separation: two of its rounds are at least this far apart; 1 promises nothing.
      normalized_for: T, at least n, if the columns of C for T rounds are scaled to norm 1; None for a plain C.

    Returns:
      the squared sensitivity for contributions of norm 1, exactly. With as much separation as bands the client's
      columns are orthogonal, so it is the sum of the k largest of their squared norms that are far enough apart.

    Raises:
      ValueError: with less separation than bands, for coefficients that are negative or increase, and for normalized
        ones: the worst case is known for plain nonnegative ones that do not increase.

    Source: Choquette-Choo et al. (2023), https://arxiv.org/abs/2306.08153, section 3.1; with less separation Kalinin,
      Lampert (2024), https://arxiv.org/abs/2405.13763, theorem 2.

    Example:
      >>> round(squared_sensitivity(square_root_coefficients(8), 8), 6)
      1.718379
      >>> squared_sensitivity([0.8, 0.6], 10, max_participations=3, min_separation=2)
      3.0
    """
    max_participations, min_separation = fl.checks.positive_int(
        max_participations=max_participations, min_separation=min_separation
    )
    c = _column(coefficients, num_rounds)
    if max_participations == 1 or min_separation >= len(c):
        norms = np.square(column_norms(c, num_rounds))
        if normalized_for is not None:
            norms = norms / np.square(column_norms(coefficients, normalized_for))[:num_rounds]
        return _largest_sum(norms, max_participations, min_separation)
    if normalized_for is not None or np.any(c < 0) or np.any(np.diff(c) > 0):
        raise ValueError(
            f"{len(c)} bands with a separation of {min_separation} have a known sensitivity for plain nonnegative "
            "coefficients that do not increase. Use a separation of at least the number of bands."
        )
    starts = np.arange(0, num_rounds, min_separation)[:max_participations]
    total = np.zeros(num_rounds)
    for start in starts:
        total[start : start + len(c)] += c[: num_rounds - start]
    return float(total @ total)


def _largest_sum(values: np.ndarray, count: int, gap: int) -> float:
    """The largest sum of at most `count` nonnegative values whose places are at least `gap` apart."""
    best = np.zeros(len(values) + gap)  # by the first place that may be used
    for _ in range(min(count, -(-len(values) // gap))):
        with_one = values + best[gap:]
        best[: len(values)] = np.maximum.accumulate(with_one[::-1])[::-1]
    return float(best[0])


def optimal_coefficients(num_rounds: int, bands: int, *, error: str = "mean") -> np.ndarray:
    """Coefficients of b bands with little error for their sensitivity, from the square root's by quasi-Newton steps.

    They minimize the error of the prefix sums times the sensitivity of participations that are b rounds apart, which is
    the norm of c for any number of them. The scaling of the last b - 1 columns is not part of the objective.

    Args:
      num_rounds: n.
      bands: b, at most n.
      error: "mean", the root mean square over rounds; or "max", the last round's.

    Returns:
      float64 `[b]` with norm 1. Computed once for the same arguments.

    Raises:
      TypeError, ValueError: no ints of at least 1, more bands than rounds, or an unknown error.

    Source: Choquette-Choo et al. (2023), https://arxiv.org/abs/2306.08153, section 4, for Toeplitz matrices; McKenna
      (2024), "Scaling up the Banded Matrix Factorization Mechanism", https://arxiv.org/abs/2405.15913.

    Example:
      >>> optimal_coefficients(100, 3).round(3).tolist()
      [0.719, 0.532, 0.447]
    """
    check_bands(num_rounds, bands)
    error = fl.checks.one_of(ERRORS, error=error)
    return np.array(_optimized(int(num_rounds), int(bands), error))


def check_bands(num_rounds: int, bands: int) -> None:
    """Refuses numbers of rounds and bands that are no ints of at least 1, or more bands than rounds."""
    num_rounds, bands = fl.checks.positive_int(num_rounds=num_rounds, bands=bands)
    if bands > num_rounds:
        raise ValueError(
            f"`bands` is {bands} for num_rounds={num_rounds}; expected at most one band a round. Use fewer bands."
        )


@lru_cache(maxsize=64)
def _optimized(num_rounds: int, bands: int, error: str) -> tuple[float, ...]:
    from scipy.optimize import minimize

    n = num_rounds
    weights = np.arange(n, 0, -1) / n if error == "mean" else np.ones(n)

    def objective(free: np.ndarray) -> tuple[float, np.ndarray]:
        """Log of error times squared sensitivity, and its gradient; c_0 is 1, since scaling changes nothing."""
        c = np.concatenate([[1.0], free])
        inverse = inverse_coefficients(c, n)
        rows = np.cumsum(inverse)  # A C^-1 is Toeplitz too
        total, norm = weights @ np.square(rows), c @ c
        by_inverse = np.cumsum((2.0 * weights * rows)[::-1])[::-1]
        twice = np.convolve(inverse, inverse)[:n]  # the derivative of 1 / c is -1 / c^2, for power series too
        by_c = np.array([-(by_inverse[j:] @ twice[: n - j]) for j in range(1, bands)])
        return float(np.log(total) + np.log(norm)), by_c / total + 2.0 * free / norm

    start = square_root_coefficients(bands)
    if bands > 1:
        start[1:] = minimize(objective, start[1:], jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return tuple((start / np.linalg.norm(start)).tolist())


def _column(coefficients: Any, num_rounds: int) -> np.ndarray:
    """The coefficients that fit into a matrix of so many rounds."""
    num_rounds = fl.checks.positive_int(num_rounds=num_rounds)
    c = np.asarray(coefficients, np.float64)
    if c.ndim != 1 or not c.size or not np.all(np.isfinite(c)) or c[0] <= 0:
        raise ValueError(
            f"`coefficients` is {coefficients!r}; expected a vector of finite numbers, the first of them above 0, "
            "such as square_root_coefficients(bands)."
        )
    return c[:num_rounds]
