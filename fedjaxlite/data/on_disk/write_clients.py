"""Clients one after the other into a folder: a buffer of them at a time."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.on_disk import columns as columns_
from fedjaxlite.data.on_disk import folder as folder_
from fedjaxlite.data.on_disk import names
from fedjaxlite.data.on_disk.header import Column

_CLIENTS = 4096
"""So many at most in a buffer: what each costs in Python stays small beside it."""
_EXPECTED = "a dict of arrays [n, ...] a client, or a pair (name, dict) where clients have names"


class Chunk(NamedTuple):
    """Some clients.

    Attributes:
      first: the index of the first of them.
      names: theirs, or None.
      clients: their arrays, by feature; all have the same features.
      sizes: how many rows each has.
    """

    first: int
    names: list[Any] | None
    clients: list[dict[str, np.ndarray]]
    sizes: list[int]


def write(folder: str | os.PathLike[str], clients: Iterable[Any], what: columns_.Checked, *, allow_empty: bool) -> Path:
    """Writes a folder of clients; see `Population.write`."""
    allow_empty = checks.flag(allow_empty=allow_empty)
    each = columns_.iterated(_EXPECTED, clients=clients)
    with folder_.begun(folder) as room:
        layout: tuple[Column, ...] | None = None
        empty: dict[str, np.ndarray] | None = None
        parts = Parts(room / folder_.PARTS, [], [])
        for chunk in _chunks(each, what.buffer_bytes, allow_empty):
            empty = empty or chunk.clients[0]
            layout = _write_chunk(room, chunk, layout, what)
            _note(parts, chunk)
        if empty is None:
            raise ValueError("`clients` gave none; expected at least one client.")
        if layout is None:  # nobody has a row
            nothing = columns_.cast(empty, None, what, str, ("", ""))
            layout = columns_.columns_of(nothing)
            columns_.append(room, layout, nothing)
        named = None if not parts.names else (lambda: _read_names(parts))
        folder_.finish(room, layout, lambda: _read_sizes(parts), named)
    return room


class Parts(NamedTuple):
    """What is known of clients while they are written: on the disk, beside the number and kind of each block."""

    folder: Path
    sizes: list[int]
    names: list[tuple[str, int]]


def _note(parts: Parts, chunk: Chunk) -> None:
    with (parts.folder / "sizes").open("ab") as file:
        np.asarray(chunk.sizes, np.int64).tofile(file)
    parts.sizes.append(len(chunk.sizes))
    if chunk.names is not None:
        before = np.dtype(parts.names[0][0]) if parts.names else None
        block = names.block_of(chunk.names, before)
        with (parts.folder / "names").open("ab") as file:
            file.write(block.tobytes())
        parts.names.append((block.dtype.str, len(block)))


def _read_sizes(parts: Parts) -> Iterator[np.ndarray]:
    with (parts.folder / "sizes").open("rb") as file:
        for count in parts.sizes:
            yield np.fromfile(file, np.int64, count)


def _read_names(parts: Parts) -> Iterator[np.ndarray]:
    with (parts.folder / "names").open("rb") as file:
        for dtype, count in parts.names:
            kind = np.dtype(dtype)
            yield np.frombuffer(file.read(kind.itemsize * count), kind)


def _chunks(clients: Iterable[Any], most_bytes: int, allow_empty: bool) -> Iterator[Chunk]:
    chunk, num_bytes, first = Chunk(0, None, [], []), 0, 0
    for index, given in enumerate(clients):
        name, one = _named(index, given, chunk if index else None)
        who = _who(index, name)
        arrays = _arrays(who, one)
        size = _size(who, arrays, allow_empty)
        if chunk.clients and set(arrays) != set(chunk.clients[0]):
            raise ValueError(
                f"{who} has features {sorted(arrays)}, but client {chunk.first} has {sorted(chunk.clients[0])}."
            )
        if not chunk.clients:
            chunk = Chunk(first, None if name is None else [], [], [])
        chunk.clients.append(arrays)
        chunk.sizes.append(size)
        if chunk.names is not None:
            chunk.names.append(name)
        num_bytes += sum(array.nbytes for array in arrays.values())
        if num_bytes >= most_bytes or len(chunk.sizes) >= _CLIENTS:
            yield chunk
            first, num_bytes = index + 1, 0
            chunk = Chunk(first, None if name is None else [], [], [])
    if chunk.clients:
        yield chunk


def _named(index: int, given: Any, before: Chunk | None) -> tuple[Any, Any]:
    pair = isinstance(given, tuple) and len(given) == 2
    if not pair and not isinstance(given, Mapping):
        raise TypeError(f"client {index} of `clients` is {checks.shown(given)}; expected {_EXPECTED}.")
    if before is not None and pair != (before.names is not None):
        raise TypeError(
            f"client {index} of `clients` comes {'with' if pair else 'without'} a name, and those before "
            f"{'without' if pair else 'with'} one; expected {_EXPECTED}."
        )
    if not pair:
        return None, given
    name, one = given
    if isinstance(name, (bool, np.bool_)) or not isinstance(name, (str, bytes, int, np.integer)):
        raise TypeError(f"the name of client {index} is {checks.shown(name)}; expected an int or a string.")
    if not isinstance(one, Mapping):
        raise TypeError(f"client {index} ({name!r}) of `clients` is {checks.shown(one)}; expected {_EXPECTED}.")
    return name, one


def _who(index: int, name: Any) -> str:
    return f"client {index}" if name is None else f"client {index} ({name!r})"


def _arrays(who: str, one: Mapping[str, Any]) -> dict[str, np.ndarray]:
    try:
        return {column: host_arrays.as_rows(column, array) for column, array in one.items()}
    except (TypeError, ValueError) as error:
        raise type(error)(f"{who}: {error}") from None


def _size(who: str, arrays: Mapping[str, np.ndarray], allow_empty: bool) -> int:
    try:
        size = host_arrays.num_rows(arrays)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{who}: {error}") from None
    if not size and not allow_empty:
        raise ValueError(
            f"{who} has no examples; leave it out, or pass allow_empty=True (an empty client that is sampled "
            "contributes nothing)."
        )
    return size


def _write_chunk(
    room: Path, chunk: Chunk, layout: tuple[Column, ...] | None, what: columns_.Checked
) -> tuple[Column, ...] | None:
    ends = np.cumsum(chunk.sizes)

    def client(i: int) -> str:
        return _who(chunk.first + i, None if chunk.names is None else chunk.names[i])

    def where(row: int) -> str:
        i = int(np.searchsorted(ends, row, side="right"))
        return f"row {row - int(ends[i] - chunk.sizes[i])} of {client(i)}"

    if not ends[-1]:  # what clients without rows say of dtypes does not count
        return layout
    joined = {name: _joined(name, chunk, client) for name in chunk.clients[0]}
    begins = client(int(np.flatnonzero(chunk.sizes)[0]))
    made = columns_.cast(joined, layout, what, where, (begins, "the first one with rows"))
    layout = columns_.columns_of(made) if layout is None else layout
    columns_.append(room, layout, made)
    return layout


def _joined(name: str, chunk: Chunk, client: Callable[[int], str]) -> np.ndarray:
    """A feature of all clients of a chunk that have rows, which are of one kind."""
    some = [i for i, size in enumerate(chunk.sizes) if size]
    first = chunk.clients[some[0]][name]
    for i in some[1:]:
        array = chunk.clients[i][name]
        if array.shape[1:] != first.shape[1:] or not columns_.alike(array.dtype, first.dtype):
            here, there = (f"{a.dtype}{list(a.shape[1:]) if a.ndim > 1 else ''}" for a in (array, first))
            raise ValueError(
                f"feature {name!r} of {client(i)} is {here}, but that of {client(some[0])} is {there}; expected one "
                "dtype and shape of rows everywhere. Cast them before they are written."
            )
    return np.concatenate([chunk.clients[i][name] for i in some])
