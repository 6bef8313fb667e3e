"""What is said of several seeds: means with confidence intervals, and rounds to a target."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedjaxlite.plots import series


class Interval(NamedTuple):
    """A mean over seeds, with the half width of its 95 % confidence interval (Student's t); NaN of one seed."""

    mean: float
    half: float

    def __str__(self) -> str:
        return number(self.mean) if math.isnan(self.half) else f"{number(self.mean)} ± {number(self.half, 2)}"


def number(value: float, digits: int = 3) -> str:
    """A number for people: so many significant digits, and all of those before the point.

    Example:
      >>> number(0.12345), number(1468.0), number(2.0)
      ('0.123', '1468', '2')
    """
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e9 else f"{value:.{digits}g}"


def interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The Interval of independent values; its half width is NaN for fewer than two.

    Example:
      >>> interval([1.0, 2.0, 3.0])
      Interval(mean=2.0, half=2.48...)
    """
    mean, half = series.interval(np.asarray(values, np.float64).reshape(-1, 1))
    return Interval(float(mean[0]), float("nan") if half is None else float(half[0]))


def rounds_to(
    curve: np.ndarray | Sequence[float], target: float, every: int = 1, *, interpolate: bool = False
) -> float:
    """The round at which a curve reaches a target, or NaN.

    Args:
      curve: `[T]`, measured after every `every` rounds.
      target: what to reach.
      every: rounds between measurements.
      interpolate: as McMahan et al. (2017) count: the curve is made monotone, best so far, and the crossing is
        interpolated linearly between two measurements; else the round of the first measurement at the target.

    Example:
      >>> curve = np.array([0.1, 0.6, 0.5, 0.9])
      >>> rounds_to(curve, 0.7), rounds_to(curve, 0.7, interpolate=True)
      (4.0, 3.33...)
    """
    best = np.fmax.accumulate(np.asarray(curve, np.float64))
    reached = np.flatnonzero(best >= target)
    if not reached.size:
        return float("nan")
    at = int(reached[0])
    if not interpolate or at == 0 or best[at] == best[at - 1]:
        return float((at + 1) * every)
    return float((at + (target - best[at - 1]) / (best[at] - best[at - 1])) * every)
