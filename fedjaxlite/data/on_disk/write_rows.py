"""Rows whose clients are mixed into a folder: put down as they come, counted, divided, each brought to its place.

Three passes, none of which holds more than a buffer of rows beside the clients' ids and counts: rows and owners go to
the disk as they come; then each row to a part that holds the rows of some clients, as many parts as buffers make up
all; then part by part into the order of the clients. So the disk holds all rows twice for a while.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.on_disk import columns as columns_
from fedjaxlite.data.on_disk import folder as folder_
from fedjaxlite.data.on_disk import names
from fedjaxlite.data.on_disk.header import Column, dtype_of

_EXPECTED = "pairs (client_ids [b], dict of arrays [b, ...])"
_NAMES_AT_ONCE = 1 << 16


class Heap(NamedTuple):
    """Rows as they came.

    Attributes:
      folder: holds a file a feature, and one of owners.
      columns: the features.
      blocks: the dtype of each block's owners, and how many rows it has.
      names: the clients' ids, ascending.
    """

    folder: Path
    columns: tuple[Column, ...]
    blocks: list[tuple[str, int]]
    names: np.ndarray


def write(folder: str | os.PathLike[str], blocks: Iterable[Any], what: columns_.Checked) -> Path:
    """Writes a folder of rows in any order; see `Population.write_rows`."""
    each = columns_.iterated(_EXPECTED, blocks=blocks)
    with folder_.begun(folder) as room:
        heap = _heaped(room / folder_.PARTS, each, what)
        sizes = np.zeros(len(heap.names), np.int64)
        width = 8 + sum(column.row_bytes for column in heap.columns)
        rows = max(1, what.buffer_bytes // width)
        for owner in _owners(heap, rows):
            sizes += np.bincount(owner, minlength=len(sizes))
        firsts = _firsts(sizes, rows)
        _divide(heap, firsts, rows)
        for part in range(len(firsts)):
            _place(room, heap, part)
        pieces = range(0, len(sizes), _NAMES_AT_ONCE)
        folder_.finish(
            room,
            heap.columns,
            lambda: (sizes[i : i + _NAMES_AT_ONCE] for i in pieces),
            lambda: (heap.names[i : i + _NAMES_AT_ONCE] for i in pieces),
        )
    return room


def _heaped(folder: Path, blocks: Iterable[Any], what: columns_.Checked) -> Heap:
    layout: tuple[Column, ...] | None = None
    kinds: list[tuple[str, int]] = []
    known: np.ndarray | None = None
    new: list[np.ndarray] = []
    done = 0
    for number, given in enumerate(blocks):
        ids, features = _block(number, given, None if known is None else known.dtype)

        def where(row: int, done: int = done, ids: np.ndarray = ids) -> str:
            return f"row {done + row} (client {ids[row].item()!r})"

        made = columns_.cast(features, layout, what, where, (f"block {number}", "block 0"))
        layout = columns_.columns_of(made) if layout is None else layout
        columns_.append(folder, layout, made)
        with (folder / "owners").open("ab") as file:
            file.write(ids.tobytes())
        kinds.append((ids.dtype.str, len(ids)))
        done += len(ids)
        new.append(np.unique(ids))
        if known is None or sum(map(len, new)) > len(known):  # merged as often as they double
            known, new = _merged(known, new), []
    if known is None or layout is None or not done:
        raise ValueError("`blocks` gave no rows; expected at least one.")
    return Heap(folder, layout, kinds, _merged(known, new))


def _merged(known: np.ndarray | None, new: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([*([] if known is None else [known]), *new]))


def _block(number: int, given: Any, before: np.dtype | None) -> tuple[np.ndarray, Mapping[str, Any]]:
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], Mapping):
        raise TypeError(f"block {number} of `blocks` is {checks.shown(given)}; expected {_EXPECTED}.")
    try:
        rows = host_arrays.num_rows(given[1])
        ids = host_arrays.as_ids("client_ids", given[0])
        ids = names.block_of(ids.tolist() if ids.dtype.kind in "US" else ids, before if len(ids) else None)
    except (TypeError, ValueError) as error:
        raise type(error)(f"block {number} of `blocks`: {error}") from None
    if len(ids) != rows:
        raise ValueError(
            f"block {number} of `blocks` has {len(ids)} client_ids and {rows} rows; expected one owner a row."
        )
    return ids, given[1]


def _owners(heap: Heap, rows: int) -> Iterator[np.ndarray]:
    """The place of each row's client among the names, of about so many rows at a time, however they came."""
    waiting: list[np.ndarray] = []
    with (heap.folder / "owners").open("rb") as file:
        for dtype, count in heap.blocks:
            kind = np.dtype(dtype)
            ids = np.frombuffer(file.read(kind.itemsize * count), kind)
            waiting.append(np.searchsorted(heap.names, ids))
            if sum(map(len, waiting)) >= rows:
                yield np.concatenate(waiting)
                waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _firsts(sizes: np.ndarray, rows: int) -> np.ndarray:
    """The first client of each part: a part is about so many rows, or one client that has more."""
    part = (np.cumsum(sizes) - sizes) // rows
    return np.flatnonzero(np.concatenate([[True], part[1:] != part[:-1]]))


def _divide(heap: Heap, firsts: np.ndarray, rows: int) -> None:
    """Each row to its part; rows of a part keep their order."""
    files = {column.name: (heap.folder / column.file).open("rb") for column in heap.columns}
    try:
        for owner in _owners(heap, rows):
            part = np.searchsorted(firsts, owner, side="right") - 1
            order = np.argsort(part, kind="stable")
            ends = np.cumsum(np.bincount(part, minlength=len(firsts)))
            arrays: dict[str, np.ndarray] = {"owner": owner}
            for column in heap.columns:
                arrays[column.name] = _read(files[column.name], column, len(owner))
            for name, array in arrays.items():
                _deal(heap.folder / _part_name(heap, name), array[order], ends)
    finally:
        for file in files.values():
            file.close()
    for column in heap.columns:
        (heap.folder / column.file).unlink()


def _read(file: Any, column: Column, rows: int) -> np.ndarray:
    flat = np.frombuffer(file.read(rows * column.row_bytes), np.uint8)
    return flat.view(dtype_of(column.dtype)).reshape(rows, *column.shape)


def _part_name(heap: Heap, name: str) -> str:
    return name if name == "owner" else next(column.file for column in heap.columns if column.name == name)


def _deal(stem: Path, array: np.ndarray, ends: np.ndarray) -> None:
    begin = 0
    for part, end in enumerate(ends.tolist()):
        if end > begin:
            with stem.with_name(f"{stem.name}.{part}").open("ab", buffering=0) as file:
                columns_.write_all(file, array[begin:end])
        begin = end


def _place(room: Path, heap: Heap, part: int) -> None:
    """A part's rows in the order of its clients to the ends of the columns; a feature at a time."""
    owners = heap.folder / f"owner.{part}"
    order = np.argsort(np.fromfile(owners, np.int64), kind="stable")
    for column in heap.columns:
        path = heap.folder / f"{column.file}.{part}"
        rows = np.fromfile(path, np.uint8).view(dtype_of(column.dtype)).reshape(len(order), *column.shape)
        columns_.append(room, [column], {column.name: rows[order]})
        path.unlink()
    owners.unlink()
