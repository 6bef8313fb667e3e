"""Chunks of clients, or of rows with their owners, packed into one Population without a second copy of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.data import host_arrays, population
from fedjaxlite.data.incoming import choice, columns
from fedjaxlite.data.population import Population

CHUNK_BYTES, CHUNK_CLIENTS, CHUNK_ROWS = 1 << 25, 4096, 4096
"""What is read before it becomes arrays: large enough that no client costs much by itself, small beside the data."""


class Chunk(NamedTuple):
    """Some clients, one after the other.

    Attributes:
      names: their ids.
      sizes: how many rows each has.
      raw: their columns, as `columns.arrays` takes them.
      source: what they were read from, for messages.
    """

    names: list[Any]
    sizes: list[int]
    raw: Mapping[str, Any]
    source: str


def of_clients(
    chunks: Iterable[Chunk],
    wanted: choice.Wanted,
    chosen: choice.Clients,
    *,
    source: str,
    check_finite: bool,
    allow_empty: bool = False,
    untyped: bool = False,
) -> Population:
    """The Population of clients that come one after the other.

    Args:
      chunks: the clients; those not chosen are left out already.
      wanted: which columns, and what becomes of them.
      chosen: which clients there should be; where they are named, the result has their order.
      source: all that is read, for messages.
      check_finite: as in `Population.from_arrays`.
      allow_empty: let a client have no row.
      untyped: whether 1 and 1.0 may stand in one column, as in JSON.

    Raises:
      TypeError, ValueError: what does not fit together; the text names client, row and file.
    """
    names: list[Any] = []
    sizes: list[int] = []
    seen: dict[Any, str] = {}

    def stream() -> Iterator[tuple[dict[str, np.ndarray], Callable[[int], str], str]]:
        for chunk in _handed_on(chunks):
            _check_new(chunk, seen)
            names.extend(chunk.names)
            sizes.extend(chunk.sizes)
            where = _where(chunk.names, chunk.sizes, chunk.source)
            part = (columns.arrays(chunk.raw, wanted, where), where, chunk.source) if sum(chunk.sizes) else None
            del chunk
            if part is not None:
                yield part
            del part

    features = _collected(stream(), check_finite, untyped)
    choice.check_found(chosen, names, source)
    if not names:
        raise ValueError(f"there are no clients in {source}.")
    if not features:
        raise ValueError(f"no client in {source} has an example.")
    made = population.packed(features, np.asarray(sizes), ids_of(names, source), allow_empty)
    if chosen.names is None or list(chosen.names) == names:
        return made
    place = {name: i for i, name in enumerate(names)}
    return made.select([place[name] for name in chosen.names])


def of_rows(
    batches: Iterable[tuple[list[Any], Mapping[str, Any], str]],
    wanted: choice.Wanted,
    chosen: choice.Clients,
    *,
    source: str,
    check_finite: bool,
) -> Population:
    """The Population of rows that come with the id of the client that owns each, in any order.

    Args:
      batches: ids `[n]`, columns of n values, and where they are from; rows of clients not chosen are left out already.
      wanted: as in `of_clients`; so are the rest.
      chosen: the result has their order, else that of sorted ids.
      source: all that is read.
      check_finite: as in `Population.from_arrays`.
    """
    owners: list[np.ndarray] = []

    def stream() -> Iterator[tuple[dict[str, np.ndarray], Callable[[int], str], str]]:
        for ids, raw, part in batches:
            if ids:
                owners.append(ids_of(ids, part))
                where = _where_row(ids, part)
                yield columns.arrays(raw, wanted, where), where, part

    features = _collected(stream(), check_finite, untyped=False)
    if not owners:
        choice.check_found(chosen, [], source)
        raise ValueError(f"there are no examples in {source}.")
    if len({part.dtype.kind for part in owners}) > 1:
        raise TypeError(
            f"the ids of clients in {source} are ints in some rows and strings in others; expected one kind."
        )
    ids = np.concatenate(owners)
    found = np.unique(ids)
    choice.check_found(chosen, found.tolist(), source)
    order = None if chosen.names is None else np.asarray(chosen.names)
    names, owner = host_arrays.owners(ids, order)
    sizes = np.bincount(owner, minlength=len(names))
    if (owner[1:] < owner[:-1]).any():
        rows = np.argsort(owner, kind="stable")
        for name in list(features):  # one feature at a time: two copies of one, never of all
            features[name] = host_arrays.take(features.pop(name), rows)
    return population.packed(features, sizes, names, allow_empty=False)


def chunks_of(clients: Iterable[tuple[Any, Mapping[str, Any]]], source: str) -> Iterator[Chunk]:
    """Clients that come as one dict of arrays each, several to a chunk.

    Args:
      clients: a client's id, and its arrays `[n_i, ...]`.
      source: what they are read from.

    Raises:
      TypeError, ValueError: a client's arrays differ in length, or in what they are from those of the client before.
    """
    names: list[Any] = []
    sizes: list[int] = []
    parts: dict[str, list[np.ndarray]] = {}
    num_bytes = 0
    for name, given in clients:
        one = {
            column: host_arrays.as_rows(column, v, f" of client {name!r} in {source}") for column, v in given.items()
        }
        sizes.append(_size_of(name, one, source))
        if names and one.keys() != parts.keys():
            raise ValueError(
                f"client {name!r} in {source} has columns {sorted(one)}, but client {names[0]!r} has {sorted(parts)}; "
                "expected the same of every client."
            )
        names.append(name)
        for column, array in one.items():
            parts.setdefault(column, []).append(array)
            num_bytes += array.nbytes
        if num_bytes >= CHUNK_BYTES or len(names) >= CHUNK_CLIENTS:
            yield Chunk(names, sizes, _concatenated(names, parts, source), source)
            names, sizes, parts, num_bytes = [], [], {}, 0
    if names:
        yield Chunk(names, sizes, _concatenated(names, parts, source), source)


def ids_of(names: list[Any], source: str) -> np.ndarray:
    """Ids of one kind, ints or strings, as an array."""
    kinds = {type(name) for name in names}
    if len(kinds) > 1 and not all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in kinds):
        told = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"the ids of clients in {source} are of types {told}; expected ints, or strings.")
    return host_arrays.as_ids(f"the ids of clients in {source}", names)


def _collected(
    stream: Iterable[tuple[dict[str, np.ndarray], Callable[[int], str], str]], check_finite: bool, untyped: bool
) -> dict[str, np.ndarray]:
    """The parts of a stream cast, checked against the first, and joined feature by feature."""
    parts: dict[str, list[np.ndarray]] = {}
    first = ""
    for features, where, source in _handed_on(stream):
        cast = host_arrays.as_features(features, where=where, check_finite=check_finite)
        if parts and set(cast) != set(parts):
            raise ValueError(
                f"{source} has columns {sorted(cast)}, but {first} has {sorted(parts)}; expected the same."
            )
        first = first or source
        for name, array in cast.items():
            _check_like(name, array, parts.get(name, [array])[0], (source, first), untyped)
            parts.setdefault(name, []).append(array)
        del features, cast
    return {name: _joined(name, parts.pop(name)) for name in list(parts)}


def _handed_on(parts: Iterable[Any]) -> Iterator[Any]:
    """The parts, none held here while the next is read: a loop that deletes its own never has two in memory."""
    source = iter(parts)
    while True:
        try:
            yield next(source)
        except StopIteration:
            return


def _check_like(name: str, array: np.ndarray, before: np.ndarray, sources: tuple[str, str], untyped: bool) -> None:
    alike = array.shape[1:] == before.shape[1:]
    if alike and (untyped or array.dtype == before.dtype):
        return
    here, there = (f"{a.dtype}{list(a.shape[1:]) or ''}" for a in (array, before))
    raise ValueError(
        f"feature {name!r} is {here} in {sources[0]}, but {there} before that, in {sources[1]}; expected one kind "
        "everywhere. Bring them together with encode= or shapes=."
    )


def _joined(name: str, parts: list[np.ndarray]) -> np.ndarray:
    """One array of all the parts, which are let go one by one."""
    kinds = {part.dtype for part in parts}
    dtype = parts[0].dtype
    if len(kinds) > 1:
        dtype = np.dtype(np.float32 if any(kind.kind == "f" for kind in kinds) else np.int32)
    rows = sum(len(part) for part in parts)
    host_arrays.check_countable(rows)
    out = host_arrays.aligned((rows, *parts[0].shape[1:]), dtype)
    parts.reverse()
    start = 0
    while parts:
        part = parts.pop()
        if dtype.kind == "f" and part.dtype.kind in "iu" and np.abs(part.astype(np.int64)).max(initial=0) > 2**24:
            raise ValueError(
                f"feature {name!r} holds fractions, and whole numbers beyond 2**24, which float32 does not hold "
                "exactly; scale it with encode=."
            )
        out[start : start + len(part)] = part
        start += len(part)
    return out


def _check_new(chunk: Chunk, seen: dict[Any, str]) -> None:
    for name in chunk.names:
        if name in seen:
            both = f"{seen[name]} and in {chunk.source}" if seen[name] != chunk.source else f"{chunk.source} twice"
            raise ValueError(f"client {name!r} is in {both}; expected every client once.")
        seen[name] = chunk.source


def _size_of(name: Any, one: Mapping[str, np.ndarray], source: str) -> int:
    try:
        return host_arrays.num_rows(one)
    except (TypeError, ValueError) as error:
        raise type(error)(f"client {name!r} in {source}: {error}") from None


def _concatenated(names: list[Any], parts: dict[str, list[np.ndarray]], source: str) -> dict[str, np.ndarray]:
    joined = {}
    for column, arrays in parts.items():
        kinds = {(a.dtype.kind, a.dtype.itemsize if a.dtype.kind not in "SU" else 0, a.shape[1:]) for a in arrays}
        if len(kinds) > 1:
            like = (arrays[0].dtype, arrays[0].shape[1:])
            other = next(i for i, a in enumerate(arrays) if (a.dtype, a.shape[1:]) != like)
            here, there = (f"{arrays[i].dtype}{list(arrays[i].shape[1:]) or ''}" for i in (other, 0))
            raise ValueError(
                f"column {column!r} is {here} at client {names[other]!r} in {source}, but {there} at client "
                f"{names[0]!r}; expected one kind everywhere."
            )
        joined[column] = np.concatenate(arrays)
    return joined


def _where(names: list[Any], sizes: list[int], source: str) -> Callable[[int], str]:
    ends = np.cumsum(sizes)

    def where(row: int) -> str:
        i = int(np.searchsorted(ends, row, side="right"))
        return f"row {row - int(ends[i] - sizes[i])} of client {names[i]!r} in {source}"

    return where


def _where_row(ids: list[Any], part: str) -> Callable[[int], str]:
    return lambda row: f"row {row} of {part} (client {ids[row]!r})"
