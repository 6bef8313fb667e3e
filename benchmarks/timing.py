"""Taking turns: programs are timed one after the other, again and again, so that all see the same disturbances."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax


class Spread(NamedTuple):
    """A median, and the smallest and largest value that was seen."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The Spread of some values.

    Example:
      >>> spread([3.0, 1.0, 2.0])
      Spread(median=2.0, low=1.0, high=3.0)
    """
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """The Spread of our time over theirs, turn by turn.

    Each ratio is of two runs that followed each other, so a machine that slows down for both leaves it as it is.

    Example:
      >>> ratios([2.0, 4.0, 3.0], [1.0, 2.0, 1.0])
      Spread(median=2.0, low=2.0, high=3.0)
    """
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def seconds(run: Callable[[], Any]) -> float:
    """The time of one call, until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


Name = TypeVar("Name", bound=Hashable)


def take_turns(runs: Mapping[Name, Callable[[], Any]], turns: int) -> dict[Name, list[float]]:
    """Times every program once in every turn, in the order given.

    Args:
      runs: by name, what returns arrays; already compiled.
      turns: how often.

    Returns:
      by name, the seconds of each turn.
    """
    times: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return times
