"""How many clients have how many examples, as a short table: what bounds the rows of a cohort."""

from collections.abc import Iterable
from typing import Any

import numpy as np


def table_of(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """The different sizes, largest first, and how many clients have each: int64 `[M, 2]`.

    n examples have at most `sqrt(2 n)` different sizes, so that the table is short where clients are millions.
    """
    counts: dict[int, int] = {}
    for sizes in blocks:
        for size, count in zip(*(a.tolist() for a in np.unique(sizes, return_counts=True)), strict=True):
            counts[size] = counts.get(size, 0) + count
    return np.array(sorted(counts.items(), reverse=True), np.int64).reshape(-1, 2)


def sum_of_largest(table: np.ndarray, count: int) -> int:
    """The examples of the `count` largest clients together: no cohort of so many has more."""
    before = np.cumsum(table[:, 1]) - table[:, 1]
    taken = np.clip(count - before, 0, table[:, 1])
    return int((taken * table[:, 0]).sum())


def most_rows(population: Any, count: int) -> int:
    """The most examples that `count` clients of a Population can have together, exactly.

    Args:
      population: in memory, or opened from a folder, whose table is read instead of its sizes.
      count: K.
    """
    table = size_table(population)
    return sum_of_largest(table, count)


def size_table(population: Any) -> np.ndarray:
    """The table of `table_of` for a Population."""
    if population.on_disk:
        return population.stored.size_table
    return table_of([np.diff(np.asarray(population.offsets, np.int64))])
