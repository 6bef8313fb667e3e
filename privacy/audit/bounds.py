"""From the scores of an attack to a lower bound on epsilon that holds with a stated confidence."""

import math
from typing import Any

import numpy as np

import fedjaxlite as fl

_SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""How many of the canaries are guessed about, for the one-run bound; the confidence is shared among these tries."""


def epsilon_one_run(scores: Any, included: Any, *, delta: float, confidence: float = 0.95) -> float:
    """A lower bound on epsilon from one run with many canaries.

    The r / 2 largest scores are guessed to be of included canaries, the r / 2 smallest of the others. If the run is
    (epsilon, delta)-DP, the number of right guesses is stochastically at most a binomial one with success probability
    e^epsilon / (1 + e^epsilon), up to a term of delta; the bound is the largest epsilon that this refutes. Several r
    are tried, fixed beforehand, each with its part of the error.

    Args:
      scores: numbers `[m]`, larger where the attacker believes that the canary was included.
      included: bool `[m]`, fair and independent coins.
      delta: of the guarantee that is audited.
      confidence: the chance that the bound holds, over coins and noise.

    Returns:
      epsilon, at least 0. Even a perfect attack gives no more than about ln(m / 3) at 95 % confidence.

    Raises:
      ValueError: for arrays that do not fit, or numbers out of range.

    Guarantees:
      For an (epsilon, delta)-DP run the result is at most epsilon with probability `confidence`.

    Source: Steinke, Nasr, Jagielski (2023), https://arxiv.org/abs/2305.08846, theorem 5.2 and algorithm 1.

    Example:
      >>> coins = np.arange(1000) % 2 == 0
      >>> round(epsilon_one_run(np.where(coins, 1.0, 0.0), coins, delta=1e-6), 1)
      5.1
    """
    scores, included = _checked(scores, included, delta, confidence)
    order = np.argsort(scores, kind="stable")
    best = 0.0
    for share in _SHARES:
        half = int(share * len(scores) / 2)
        if half:
            right = int(included[order[-half:]].sum()) + int((~included[order[:half]]).sum())
            level = (1 - confidence) / len(_SHARES)
            best = max(best, _refuted(right, 2 * half, len(scores), delta, level))
    return best


def epsilon_many_runs(scores_in: Any, scores_out: Any, *, delta: float, confidence: float = 0.95) -> float:
    """A lower bound on epsilon from many independent runs, each with its canary in or out.

    A threshold is chosen on one half of the runs, and its true and false positive rates are bounded on the other half
    by Clopper and Pearson's intervals: epsilon >= ln((TPR - delta) / FPR), and likewise for the complement.

    Args:
      scores_in: numbers, one of each run with the canary; at least 4.
      scores_out: one of each run without; at least 4.
      delta: of the guarantee that is audited.
      confidence: the chance that the bound holds.

    Returns:
      epsilon, at least 0.

    Raises:
      ValueError: for too few scores, or numbers out of range.

    Guarantees:
      For runs that are (epsilon, delta)-DP the result is at most epsilon with probability `confidence`.

    Source: Jagielski, Ullman, Oprea (2020), https://arxiv.org/abs/2006.07709, algorithm 1.

    Example:
      >>> round(epsilon_many_runs(np.full(400, 1.0), np.zeros(400), delta=1e-6), 1)
      3.8
    """
    scores_in, scores_out = np.asarray(scores_in, np.float64), np.asarray(scores_out, np.float64)
    if min(scores_in.size, scores_out.size) < 4:
        raise ValueError(
            f"there are {scores_in.size} scores with the canary and {scores_out.size} without; expected at least 4 of "
            "each. Do more runs."
        )
    both = np.concatenate([scores_in, scores_out])
    coins = np.concatenate([np.ones(scores_in.size, bool), np.zeros(scores_out.size, bool)])
    _checked(both, coins, delta, confidence)
    threshold, above = _best_threshold(scores_in[::2], scores_out[::2], delta)
    held_in, held_out = scores_in[1::2], scores_out[1::2]
    hit = (held_in >= threshold) if above else (held_in < threshold)
    alarm = (held_out >= threshold) if above else (held_out < threshold)
    level = (1 - confidence) / 2
    # Under add-or-remove both orders of the two hypotheses have to hold.
    if above:
        rates = _lower(hit.sum(), hit.size, level), _upper(alarm.sum(), alarm.size, level)
    else:
        rates = _lower(alarm.sum(), alarm.size, level), _upper(hit.sum(), hit.size, level)
    return max(0.0, _log_ratio(*rates, delta))


def _checked(scores: Any, included: Any, delta: float, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    scores, included = np.asarray(scores, np.float64), np.asarray(included, bool)
    if scores.ndim != 1 or scores.shape != included.shape or not scores.size:
        raise ValueError(
            f"`scores` has shape {list(scores.shape)} and `included` {list(included.shape)}; expected [m] for both, "
            "one entry a canary."
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"`scores` holds {scores[~np.isfinite(scores)][0]}; expected finite numbers.")
    fl.checks.fraction(delta=delta)
    if not 0.5 < confidence < 1:
        raise ValueError(f"`confidence` is {confidence}; expected a number in (0.5, 1), such as 0.95.")
    return scores, included


def _refuted(right: int, guesses: int, num_canaries: int, delta: float, level: float) -> float:
    """The largest epsilon at which so many right guesses are too unlikely."""
    low, high = 0.0, 30.0
    if _p_value(right, guesses, num_canaries, low, delta) > level:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        if _p_value(right, guesses, num_canaries, middle, delta) <= level:
            low = middle
        else:
            high = middle
    return low


def _p_value(right: int, guesses: int, num_canaries: int, epsilon: float, delta: float) -> float:
    """A bound on the chance of at least so many right guesses under (epsilon, delta)-DP."""
    from scipy import stats

    success = 1 / (1 + math.exp(-epsilon))
    beta = float(stats.binom.sf(right - 1, guesses, success))
    # The mean chance of falling short of `right` by at most i, largest over i: what delta can move.
    short = stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, success)
    alpha = float(np.max(np.cumsum(short) / np.arange(1, right + 1))) if right else 0.0
    return min(1.0, beta + 2 * num_canaries * delta * alpha)


def _best_threshold(scores_in: np.ndarray, scores_out: np.ndarray, delta: float) -> tuple[float, bool]:
    """The threshold whose rates, with one more error each, give the largest epsilon; and whether above it means in."""
    best, chosen = -math.inf, (math.inf, True)
    for threshold in np.unique(np.concatenate([scores_in, scores_out])):
        hits, alarms = (scores_in >= threshold).sum(), (scores_out >= threshold).sum()
        n_in, n_out = scores_in.size, scores_out.size
        above = _log_ratio(hits / (n_in + 1), (alarms + 1) / (n_out + 1), delta)
        below = _log_ratio((n_out - alarms) / (n_out + 1), (n_in - hits + 1) / (n_in + 1), delta)
        if max(above, below) > best:
            best, chosen = max(above, below), (float(threshold), above >= below)
    return chosen


def _log_ratio(true_rate: float, false_rate: float, delta: float) -> float:
    return math.log((true_rate - delta) / false_rate) if true_rate > delta and false_rate > 0 else -math.inf


def _lower(count: int, total: int, level: float) -> float:
    from scipy import stats

    return float(stats.beta.ppf(level, count, total - count + 1)) if count else 0.0


def _upper(count: int, total: int, level: float) -> float:
    from scipy import stats

    return float(stats.beta.ppf(1 - level, count + 1, total - count)) if count < total else 1.0
