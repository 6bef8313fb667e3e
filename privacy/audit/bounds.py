"""From the scores of an attack to a lower bound on epsilon that holds with a stated confidence."""

import itertools
import math
from typing import Any, NamedTuple

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
      5.3
    """
    scores, included, delta, confidence = _checked(scores, included, delta, confidence)
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
      4.0
    """
    scores_in, scores_out = numbers("scores_in", scores_in), numbers("scores_out", scores_out)
    for name, scores in {"scores_in": scores_in, "scores_out": scores_out}.items():
        if scores.ndim != 1:
            raise ValueError(f"`{name}` has shape {list(scores.shape)}; expected [m], one number a run.")
    if min(scores_in.size, scores_out.size) < 4:
        raise ValueError(
            f"`scores_in` has {scores_in.size} scores with the canary and `scores_out` {scores_out.size} without; "
            "expected at least 4 of each. Do more runs."
        )
    both = np.concatenate([scores_in, scores_out])
    coins = np.concatenate([np.ones(scores_in.size, bool), np.zeros(scores_out.size, bool)])
    _, _, delta, confidence = _checked(both, coins, delta, confidence)
    level = (1 - confidence) / 2
    best = max(_bounds_of_events(scores_in[::2], scores_out[::2], delta, level, None))
    found = _bounds_of_events(scores_in[1::2], scores_out[1::2], delta, level, best.threshold)
    return max(0.0, next(bound.epsilon for bound in found if bound[2:] == best[2:]))


class _Bound(NamedTuple):
    """A bound by one event: scores on one side of a threshold, more likely under one of the hypotheses."""

    epsilon: float
    threshold: float
    above: bool
    more_often_in: bool


def _bounds_of_events(
    scores_in: np.ndarray, scores_out: np.ndarray, delta: float, level: float, threshold: float | None
) -> list[_Bound]:
    """For each kind of event, its bound at a threshold, or at the threshold where it is largest.

    Differential privacy bounds the ratio both ways and for every event: both sides of a threshold, and either
    hypothesis on top.
    """
    both = np.sort(np.concatenate([scores_in, scores_out]))
    thresholds = np.unique(both) if threshold is None else np.array([threshold])
    below = [np.searchsorted(np.sort(scores), thresholds, side="left") for scores in (scores_in, scores_out)]
    bounds = []
    for above, more_often_in in itertools.product((True, False), (True, False)):
        counts = [
            (scores.size - less if above else less, scores.size)
            for scores, less in zip((scores_in, scores_out), below, strict=True)
        ]
        more, less = counts if more_often_in else counts[::-1]
        found = _log_ratio(_lower(*more, level), _upper(*less, level), delta)
        best = int(np.argmax(found))
        bounds.append(_Bound(float(found[best]), float(thresholds[best]), above, more_often_in))
    return bounds


class _Checked(NamedTuple):
    scores: np.ndarray
    included: np.ndarray
    delta: float
    confidence: float


def _checked(scores: Any, included: Any, delta: Any, confidence: Any) -> _Checked:
    scores = numbers("scores", scores)
    included = fl.checks.as_array("included", included, "bool [m]")
    if included.dtype != bool:
        raise TypeError(f"`included` has dtype {included.dtype}; expected bools, True for canaries that took part.")
    if scores.ndim != 1 or scores.shape != included.shape or not scores.size:
        raise ValueError(
            f"`scores` has shape {list(scores.shape)} and `included` {list(included.shape)}; expected [m] for both, "
            "one entry a canary."
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"`scores` holds {scores[~np.isfinite(scores)][0]}; expected finite numbers.")
    delta = fl.checks.fraction(delta=fl.checks.concrete(delta=delta))
    confidence = fl.checks.fraction(confidence=fl.checks.concrete(confidence=confidence))
    if not 0.5 < confidence < 1:
        raise ValueError(f"`confidence` is {confidence}; expected a number in (0.5, 1), such as 0.95.")
    return _Checked(scores, included, delta, confidence)


def numbers(name: str, value: Any) -> np.ndarray:
    """float64, from concrete real numbers; refuses everything else, by the argument's name."""
    value = fl.checks.concrete(**{name: value})
    return fl.checks.real_array(shape="[m]", **{name: value}).astype(np.float64)


def _refuted(right: int, guesses: int, num_canaries: int, delta: float, level: float) -> float:
    """The largest epsilon at which so many right guesses are too unlikely."""
    low, high = 0.0, 30.0
    if _p_value(right, guesses, num_canaries, low, delta) > level:
        return 0.0
    for _ in range(30):
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


def _log_ratio(true_rate: np.ndarray, false_rate: np.ndarray, delta: float) -> np.ndarray:
    possible = true_rate > delta
    return np.where(possible, np.log(np.where(possible, true_rate - delta, 1.0) / false_rate), -np.inf)


def _lower(count: Any, total: int, level: float) -> np.ndarray:
    """Clopper and Pearson's lower bound on a rate."""
    from scipy import stats

    count = np.asarray(count)
    return np.where(count > 0, stats.beta.ppf(level, np.maximum(count, 1), total - count + 1), 0.0)


def _upper(count: Any, total: int, level: float) -> np.ndarray:
    """Clopper and Pearson's upper bound on a rate."""
    from scipy import stats

    count = np.asarray(count)
    return np.where(count < total, stats.beta.ppf(1 - level, count + 1, np.maximum(total - count, 1)), 1.0)
