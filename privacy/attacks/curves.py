"""Receiver operating characteristics: what a guess about membership gets right, at what rate of false alarms."""

from typing import Any, NamedTuple

import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.attacks.scores import numbers


class Roc(NamedTuple):
    """A curve, from nobody accused to everybody accused.

    Attributes:
      fpr: float64 `[T]`, ascending from 0 to 1: the share of non-members whose score reaches the threshold.
      tpr: float64 `[T]`, ascending from 0 to 1: the share of members whose score does.
      thresholds: float64 `[T]`, descending from infinity.
    """

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray


def roc(scores: Any, member: Any) -> Roc:
    """The curve of a score that is larger for members.

    Args:
      scores: numbers `[n]`; infinities are fine, NaN is not.
      member: bool `[n]`, who is a member in truth.

    Returns:
      a Roc with one point per distinct score, so that ties are one step, and the point of nobody.

    Raises:
      ValueError: for shapes that differ, NaN, or without any member or any non-member.

    Example:
      >>> curve = roc([0.9, 0.8, 0.3, 0.1], [True, False, True, False])
      >>> curve.tpr.tolist(), curve.fpr.tolist()
      ([0.0, 0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5, 1.0])
    """
    values = numbers("scores", scores, "[n]")
    truth = fl.checks.as_array("member", member, "bool [n]")
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(
            f"`scores` has shape {list(values.shape)} and `member` {list(truth.shape)}; expected [n] both."
        )
    if truth.dtype != bool:
        raise ValueError(f"`member` has dtype {truth.dtype}; expected bools, True for members.")
    if np.isnan(values).any():
        raise ValueError("`scores` holds NaN; expected numbers: a threshold cannot be compared with NaN.")
    if not truth.any() or truth.all():
        raise ValueError(
            f"`member` has {int(truth.sum())} True of {truth.size}; expected members and non-members: a rate of false "
            "alarms needs both."
        )
    order = np.argsort(-values, kind="stable")
    ranked, hits = values[order], truth[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # of each run of equal scores
    true, false = np.cumsum(hits)[last], np.cumsum(~hits)[last]
    start = np.zeros(1)
    return Roc(
        np.concatenate([start, false / false[-1]]),
        np.concatenate([start, true / true[-1]]),
        np.concatenate([[np.inf], ranked[last]]),
    )


def auc(curve: Roc) -> float:
    """The area under a curve: the chance that a member scores above a non-member, ties counted half.

    Args:
      curve: from `roc`.

    Returns:
      a float in [0, 1]; 0.5 is guessing.

    Example:
      >>> auc(roc([0.9, 0.8, 0.3, 0.1], [True, False, True, False]))
      0.75
    """
    fl.checks.one_instance(Roc, "the curve of privacy.attacks.roc", curve=curve)
    return float(np.trapezoid(curve.tpr, curve.fpr))


def tpr_at_fpr(curve: Roc, fpr: float = 1e-3) -> float:
    """The share of members found while at most a share `fpr` of the non-members is accused; nothing is interpolated.

    Args:
      curve: from `roc`. With n non-members a rate below 1 / n means no false alarm at all.
      fpr: the rate of false alarms that is allowed, in (0, 1].

    Returns:
      a float in [0, 1].

    Raises:
      ValueError: for an `fpr` outside of (0, 1].

    Source: Carlini et al. (2022), https://arxiv.org/abs/2112.03570, section III: report it at .1 % or below.

    Example:
      >>> tpr_at_fpr(roc([0.9, 0.8, 0.3, 0.1], [True, False, True, False]), 0.01)
      0.5
    """
    fl.checks.one_instance(Roc, "the curve of privacy.attacks.roc", curve=curve)
    fpr = fl.checks.probability(fpr=fl.checks.concrete(fpr=fpr))
    return float(curve.tpr[curve.fpr <= fpr].max())
