"""Rows of some clients, read from a folder straight to where they are wanted."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.data import host_arrays
from fedjaxlite.data.on_disk.header import Column


class Extents(NamedTuple):
    """Stretches of rows, `[M]` each.

    Attributes:
      source: int64, the first row in the population.
      target: int64, the first row in what is filled.
      rows: int64, how many.
    """

    source: np.ndarray
    target: np.ndarray
    rows: np.ndarray


def extents(first: np.ndarray, sizes: np.ndarray, at: np.ndarray) -> Extents:
    """Clients' rows as stretches; clients that follow each other on both sides are one stretch."""
    first, sizes, at = (np.asarray(a, np.int64) for a in (first, sizes, at))
    some = sizes > 0
    first, sizes, at = first[some], sizes[some], at[some]
    if not len(first):
        return Extents(first, at, sizes)
    goes_on = (first[1:] == first[:-1] + sizes[:-1]) & (at[1:] == at[:-1] + sizes[:-1])
    begins = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    return Extents(first[begins], at[begins], np.add.reduceat(sizes, begins))


def copy_rows(population: Any, wanted: Extents, into: Mapping[str, np.ndarray]) -> None:
    """Fills arrays with rows of a Population, in memory or on a disk.

    Files are read, not mapped: what a mapping touches counts as this process's memory for as long as it lies in the
    system's cache, and each first touch waits alone. Here the system is told of all stretches before the first is
    waited for.

    Args:
      population: the source.
      wanted: which rows, and where they go.
      into: by feature a C-contiguous array `[rows, ...]` of the feature's dtype.

    Raises:
      OSError: the storage failed, or a file is shorter than its header says.
    """
    if not population.on_disk:
        for name, out in into.items():
            feature = population.features[name]
            for source, target, rows in zip(*(part.tolist() for part in wanted), strict=True):
                out[target : target + rows] = feature[source : source + rows]
        return
    columns = {column.name: column for column in population.stored.header.columns}
    order = np.argsort(wanted.source, kind="stable")  # in the order of the disk
    ordered = Extents(*(part[order] for part in wanted))
    for name, out in into.items():
        _copy_column(population.stored.folder, columns[name], ordered, out)


def _copy_column(folder: Path, column: Column, wanted: Extents, out: np.ndarray) -> None:
    width = column.row_bytes
    if not width or not len(wanted.rows):
        return
    target = out.reshape(-1).view(np.uint8).data
    begins, starts, lengths = ((part * width).tolist() for part in (wanted.source, wanted.target, wanted.rows))
    with (folder / column.file).open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise") and len(begins) > 1:
            for begin, length in zip(begins, lengths, strict=True):
                os.posix_fadvise(file.fileno(), begin, length, os.POSIX_FADV_WILLNEED)
        for begin, start, length in zip(begins, starts, lengths, strict=True):
            _read_at(file, begin, target[start : start + length], folder / column.file)


def _read_at(file: Any, begin: int, into: memoryview, path: Path) -> None:
    done = 0
    while done < len(into):
        if hasattr(os, "preadv"):
            count = os.preadv(file.fileno(), [into[done:]], begin + done)
        else:
            file.seek(begin + done)
            count = file.readinto(into[done:])
        if not count:
            raise OSError(f"{os.fspath(path)!r} ends before its header says; it was cut off after it was opened.")
        done += count


def rows_of(population: Any, wanted: Extents, rows: int) -> dict[str, np.ndarray]:
    """Rows of every feature in memory of their own, `[rows, ...]`, which the stretches fill."""
    host_arrays.check_countable(rows)
    into = {
        name: host_arrays.aligned((rows, *feature.shape[1:]), feature.dtype)
        for name, feature in population.features.items()
    }
    copy_rows(population, wanted, into)
    return into


def rows_between(population: Any, start: int, stop: int) -> dict[str, np.ndarray]:
    """Rows `start` to `stop` of every feature, in memory of their own."""
    return rows_of(population, _one(start, 0, stop - start), stop - start)


def _one(source: int, target: int, rows: int) -> Extents:
    return Extents(*(np.array([n], np.int64) for n in (source, target, rows)))


def column_blocks(population: Any, name: str, rows: int = 1 << 20) -> Iterator[tuple[int, np.ndarray]]:
    """A feature block by block: the first row of each, and its rows in memory of their own."""
    feature = population.features[name]
    total = int(feature.shape[0])
    rows = max(1, min(rows, (1 << 25) // max(1, feature.nbytes // max(1, total))))
    for start in range(0, total, rows):
        block = host_arrays.aligned((min(rows, total - start), *feature.shape[1:]), feature.dtype)
        copy_rows(population, _one(start, 0, len(block)), {name: block})
        yield start, block


def clients_between(population: Any, most_clients: int, most_bytes: int) -> Iterator[tuple[int, int]]:
    """All clients in pieces `[first, stop)` of at most so many, and of at most so many bytes unless one has more."""
    row_bytes = sum(feature.nbytes for feature in population.features.values()) / max(1, num_rows(population))
    offsets, first = population.offsets, 0
    while first < population.num_clients:
        limit = int(offsets[first]) + max(1, int(most_bytes / max(row_bytes, 1e-9)))
        stop = min(first + most_clients, population.num_clients)
        ends = np.asarray(offsets[first + 1 : stop + 1])
        stop = first + max(1, int(np.searchsorted(ends, limit, side="right")))
        yield first, stop
        first = stop


def num_rows(population: Any) -> int:
    """n_total."""
    return int(population.offsets[-1])
