"""Some clients of a population that lies on a disk, as a population of all: the others have no rows in it."""

from collections.abc import Iterator

import numpy as np

from fedjaxlite.data import host_arrays
from fedjaxlite.data.on_disk import reading
from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.whole import CohortPopulation, Whole, cohort_population


def piece_of(population: Population, ids: np.ndarray, rows: int | None = None) -> CohortPopulation:
    """The clients `ids` with their rows in memory, in a population of as many clients as before.

    So whatever is computed at these clients is what it would be on the whole: they keep their indices.

    Args:
      population: in memory or on a disk.
      ids: int `[M]`, distinct clients.
      rows: to pad to, so that shapes stay; None for as many as there are.
    """
    offsets, ids = population.offsets, np.sort(np.asarray(ids)).astype(np.int64)
    starts = np.asarray(offsets[ids]).astype(np.int64)
    sizes = np.asarray(offsets[ids + 1]).astype(np.int64) - starts
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    rows = max(1, total) if rows is None else rows
    found = {
        name: host_arrays.aligned((rows, *feature.shape[1:]), feature.dtype)
        for name, feature in population.features.items()
    }
    reading.copy_rows(population, reading.extents(starts, sizes, ends - sizes), found)
    for array in found.values():
        array[total:] = np.zeros((), array.dtype)
    own = np.zeros(population.num_clients + 1, np.int32)
    own[ids + 1] = sizes
    whole = Whole(population.num_clients, reading.num_rows(population))
    return cohort_population(found, np.cumsum(own, dtype=np.int32), population.max_size, whole)


def cut(sizes: np.ndarray, most: int, most_rows: int) -> Iterator[slice]:
    """Clients in stretches of at most so many, that have at most so many rows together unless one has more.

    Example:
      >>> [(s.start, s.stop) for s in cut(np.array([3, 3, 9, 1, 1, 1]), 2, 6)]
      [(0, 2), (2, 3), (3, 5), (5, 6)]
    """
    ends, first = np.cumsum(sizes, dtype=np.int64), 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        stop = first + int(np.searchsorted(ends[first : first + most], before + most_rows, side="right"))
        stop = max(stop, first + 1)
        yield slice(first, stop)
        first = stop
