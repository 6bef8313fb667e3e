"""Searches over epsilon as a function of noise or of rounds, with few evaluations: each may cost a second."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

_LIMIT = 2.0**20
_TOLERANCE = 5e-6
"""Of a noise multiplier, in its logarithm: five digits, together with what is unsure of a slope."""

Curve = Callable[[float], float]
"""From a noise multiplier to epsilon; falling."""


class _Point(NamedTuple):
    """A point of a curve, in logarithms, in which curves of epsilon are nearly lines.

    Attributes:
      x: of the noise multiplier.
      above: of epsilon over the target; infinite where epsilon is.
    """

    x: float
    above: float


def least_noise(epsilon_at: Curve, target: float, rough: Sequence[tuple[Curve, float]] = ()) -> float:
    """The least noise multiplier whose epsilon is at most the target: to five digits, and on the safe side.

    Args:
      epsilon_at: a falling function of the noise multiplier.
      target: above 0.
      rough: curves near to it which cost less, the cheapest first, each with how close to its crossing to come, in
        logarithms. They decide where `epsilon_at` is tried, and nothing else.

    Returns:
      a noise multiplier `z` with `epsilon_at(z) <= target`.

    Raises:
      ValueError: if no noise gets there.

    Example:
      >>> round(least_noise(lambda z: 3 / z, 1.5), 4)
      2.0
    """
    start, slope = 0.0, -1.0
    for curve, tolerance in rough:
        found, slope = _crossing(curve, target, start, slope, tolerance)
        if found is None:
            slope = -1.0
        elif math.isfinite(found.above):
            start = found.x - found.above / slope
    found, _ = _crossing(epsilon_at, target, start, slope, _TOLERANCE)
    if found is not None:
        return math.exp(found.x)
    raise ValueError(
        f"no noise multiplier up to {_LIMIT:g} gives an epsilon of {target:g}: it is {epsilon_at(_LIMIT):.4g} there. "
        "Check that `make_rounds` uses its argument, or ask for a larger epsilon or delta, or fewer rounds."
    )


def _crossing(curve: Curve, target: float, start: float, slope: float, tolerance: float) -> tuple[_Point | None, float]:
    """A point with no more than the target, not farther than the tolerance from one with more; and the slope there.

    Newton's method with the slope of the last two points, kept between those that are known to lie on either side.
    There is no point where the curve stays above the target; where it stays below, the point is the limit's.
    """
    limit = math.log(_LIMIT)
    low, high, last = _Point(-math.inf, math.inf), _Point(math.inf, -math.inf), None
    x, width, turn = start, math.inf, 0
    while True:
        x = min(max(x, -limit), limit)
        here = _Point(x, _above(curve(math.exp(x)), target))
        slope = _slope(last, here, slope)
        low, high = (here, high) if here.above > 0 else (low, here)
        if high.x - low.x <= tolerance or high.x == -limit:
            return high, slope
        if low.x == limit:
            return None, slope
        if here is high and here.above > -math.inf and here.above / slope <= tolerance:
            return high, slope
        # A little beyond the crossing, so that the next point is on the safe side.
        guess = x - here.above / slope + tolerance / 2 if math.isfinite(here.above) else math.nan
        guess = min(max(guess, x - 4), x + 4)
        known = math.isfinite(high.x - low.x)
        turn = 0 if high.x - low.x <= width / 2 else turn + 1
        width = high.x - low.x if turn == 0 else width
        if known and (not low.x < guess < high.x or turn > 2):
            guess = (low.x + high.x) / 2
        elif math.isnan(guess):
            guess = x + (math.log(2) if here.above > 0 else -math.log(2))
        last, x = here, guess


def _above(epsilon: float, target: float) -> float:
    return math.log(epsilon / target) if 0 < epsilon < math.inf else math.inf if epsilon > 0 else -math.inf


def _slope(last: _Point | None, here: _Point, otherwise: float) -> float:
    """Of the line through two points, or what was thought before."""
    if last is None or not math.isfinite(here.above - last.above) or abs(here.x - last.x) < 1e-8:
        return otherwise
    return min((here.above - last.above) / (here.x - last.x), -1e-3)  # flat ones are left behind in long steps


def most_rounds(epsilon_at: Callable[[int], float], target: float, at_most: int, start: int = 1) -> int:
    """The most rounds whose epsilon is at most the target.

    Args:
      epsilon_at: a rising function of the number of rounds; large numbers of them may be slow, and are tried last.
      target: above 0.
      at_most: where to stop looking.
      start: where to begin, from 1 to `at_most`.

    Returns:
      a number in [0, at_most].

    Example:
      >>> most_rounds(lambda rounds: 0.1 * rounds**0.5, 1.0, 10_000)
      100
    """
    low, at_low = start, epsilon_at(start)
    if at_low > target:
        high, at_high, low = low, at_low, 1
        at_low = at_high if high == 1 else epsilon_at(1)
        if at_low > target:
            return 0
    else:
        while True:
            if low == at_most:
                return at_most
            high = min(at_most, low * 2 if low < 4 else int(low * 1.5))
            at_high = epsilon_at(high)
            if at_high > target:
                break
            low, at_low = high, at_high
    halve = False
    while high - low > 1:
        width = high - low
        guess = (low + high) // 2 if halve else _interpolated((low, at_low), (high, at_high), target)
        guess = min(max(guess, low + 1), high - 1)
        found = epsilon_at(guess)
        if found <= target:
            low, at_low = guess, found
        else:
            high, at_high = guess, found
        halve = not halve and high - low > width // 2  # the line helped little: take the middle once
    return low


def _interpolated(low: tuple[int, float], high: tuple[int, float], target: float) -> int:
    """Where the line through two points, in logarithms of both axes, meets the target; the middle if there is none."""
    (x, at_x), (y, at_y) = low, high
    if not (0 < at_x < at_y < math.inf):
        return (x + y) // 2
    share = math.log(target / at_x) / math.log(at_y / at_x)
    return int(math.exp(math.log(x) + share * math.log(y / x)))
