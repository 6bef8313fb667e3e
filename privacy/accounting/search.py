"""Searches over epsilon as a function of noise or of rounds, with few evaluations: each may cost a second."""

import math
from collections.abc import Callable
from typing import Any

_LIMIT = 2.0**20
_TOLERANCE = 1e-5


def least_noise(epsilon_at: Callable[[float], float], target: float) -> float:
    """The least noise multiplier whose epsilon is at most the target: to five digits, and on the safe side.

    Args:
      epsilon_at: a falling function of the noise multiplier.
      target: above 0.

    Returns:
      a noise multiplier `z` with `epsilon_at(z) <= target`.

    Raises:
      ValueError: if no noise gets there.

    Example:
      >>> round(least_noise(lambda z: 3 / z, 1.5), 4)
      2.0
    """
    low, at_low, high = _bracket(epsilon_at, target)
    if math.isinf(low):
        return high
    low, high = math.log(low), math.log(high)
    while math.isinf(at_low) and high - low > _TOLERANCE:
        middle = (low + high) / 2
        found = epsilon_at(math.exp(middle))
        low, at_low, high = (middle, found, high) if found > target else (low, at_low, middle)
    root = high
    if math.isfinite(at_low):
        root = _crossing(epsilon_at, target, low, high)
    found, step = math.exp(root), _TOLERANCE / 2
    while epsilon_at(found) > target:
        found, step = found * (1 + step), step * 2
    return found


def _bracket(epsilon_at: Callable[[float], float], target: float) -> tuple[float, float, float]:
    """A noise multiplier with more than the target, its epsilon, and one with no more; the first may be infinite."""
    high, found = 1.0, epsilon_at(1.0)
    if found <= target:
        while high > 1 / _LIMIT:
            found = epsilon_at(high / 2)
            if found > target:
                return high / 2, found, high
            high /= 2
        return math.inf, math.nan, high
    while high < _LIMIT:
        low, at_low, high = high, found, high * 2
        found = epsilon_at(high)
        if found <= target:
            return low, at_low, high
    raise ValueError(
        f"no noise multiplier up to {_LIMIT:g} gives an epsilon of {target:g}: it is {found:.4g} there. Check that "
        "`make_rounds` uses its argument, or ask for a larger epsilon or delta, or fewer rounds."
    )


def _crossing(epsilon_at: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where the curve meets the target, in logarithms, in which it is nearly a line."""
    from scipy.optimize import brentq

    solve: Any = brentq

    def distance(x: float) -> float:
        # Where epsilon is 0 it has no logarithm, and any number below the target will do.
        return math.log(max(epsilon_at(math.exp(x)), target * 1e-3) / target)

    return float(solve(distance, low, high, xtol=_TOLERANCE / 4, rtol=1e-12))


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
