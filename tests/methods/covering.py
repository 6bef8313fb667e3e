"""Which method is tested with which aggregator in which layout, so that together all pairs are met.

A method is compiled once, in a layout of its own; all participations and all laws go through that program, and its
trajectory is held against the one recorded in the reference layout, whichever layout that is. The aggregator follows
from the method's name alone, so that golden values outlive other entries.

Five layouts reach all paths of a round: one lane, or several that do not divide the cohort, each on one device and on
four (or as many as there are); and several on four by `pmap`. The whole product, which is run now and then, is every method with every
aggregator in every layout, one round a call and all rounds in one: ten programs each, about 40 minutes in all on one core.
"""

import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from helpers import available

import fedjaxlite as fl
from methods.method import Method

AGGREGATORS: dict[str, Callable[[], fl.Aggregator]] = {
    "mean": fl.mean,
    "weighted_mean": fl.weighted_mean,
    "quantize": lambda: fl.chain(fl.weighted_mean(weight_cap=8), fl.clip_by_global_norm(0.5), fl.quantize(bits=16)),
}
REFERENCE = fl.Execution(lanes=1, devices=1)
LAYOUTS: dict[str, fl.Execution] = {
    "1 lane": REFERENCE,
    "3 lanes": fl.Execution(lanes=3, devices=1),
    "1 lane on 4 by shard_map": fl.Execution(lanes=1, devices=available(4)),
    "3 lanes on 4 by shard_map": fl.Execution(lanes=3, devices=available(4)),
    "3 lanes on 4 by pmap": fl.Execution(lanes=3, devices=available(4), mapping="pmap"),
}
WAYS = ("step", "steps")
"""One round a call, or all rounds in one."""


class Cell(NamedTuple):
    """One test of a method: what it is compiled with besides the reference layout."""

    aggregator: str
    layout: str
    way: str


def aggregators(method: Method) -> tuple[str, ...]:
    """The names of the aggregators that a method is not refused with."""
    return tuple(name for name in AGGREGATORS if name != "quantize" or method.refuses_quantize is None)


def executions() -> tuple[tuple[str, str], ...]:
    """Every layout and way, the reference's own first."""
    return tuple(itertools.product(LAYOUTS, WAYS))


def assigned(methods: Sequence[Method]) -> dict[str, Cell]:
    """A cell for every method: the layout that its aggregator has met least, by one round a call."""
    met: Counter[tuple[str, str]] = Counter()
    cells: dict[str, Cell] = {}
    for method in methods:
        names = aggregators(method)
        own = names[zlib.crc32(method.name.encode()) % len(names)]
        layout = min(LAYOUTS, key=lambda layout: met[own, layout])
        met[own, layout] += 1
        cells[method.name] = Cell(own, layout, "step")
    return cells


def pairs(cell: Cell) -> set[tuple[str, str]]:
    """What meets what in a cell."""
    return {(cell.aggregator, cell.layout)}


def all_pairs() -> set[tuple[str, str]]:
    """What should meet."""
    return set(itertools.product(AGGREGATORS, LAYOUTS))
