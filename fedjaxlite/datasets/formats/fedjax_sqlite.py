"""FedJAX's SQLite files: a row a client, its examples as one compressed message."""

import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fedjaxlite.data.incoming import choice, gather
from fedjaxlite.data.population import Population
from fedjaxlite.datasets.formats import leaf, sqlite

_TABLES = {"federated_data": ("client_id", "data", "num_examples")}
_NDARRAY, _COMPLEX, _SCALAR, _BYTES_NDARRAY = 1, 2, 3, 4
"""Extension types of its messages."""


def from_fedjax_sqlite(
    path: str | os.PathLike[str],
    *,
    features: Sequence[str] | Mapping[str, str] | None = None,
    encode: Mapping[str, Callable[[Any], Any]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    clients: Sequence[str] | None = None,
    num_clients: int | None = None,
    parse: Callable[[bytes], Mapping[str, Any]] | None = None,
    check_finite: bool = True,
    allow_empty: bool = False,
) -> Population:
    """Reads a file of FedJAX's `SQLiteFederatedData`, without FedJAX.

    Args:
      path: the file, such as federated_emnist.sqlite.
      features: which arrays to take, such as {"pixels": "x", "label": "y"} for names of one's own; None takes all.
      encode: for an array that holds texts (as bytes), a function of one value.
      shapes: the shape of one row, by the array's name in the file.
      clients: ids, in the order that the result has; None takes all.
      num_clients: take the first so many; None takes all.
      parse: what FedJAX calls `parse_examples`: from a client's bytes to its arrays. None reads what FedJAX writes,
        msgpack compressed by zlib.
      check_finite: refuse NaN and infinity.
      allow_empty: let a client have no example.

    Returns:
      A Population, clients in the order in which they were written, as FedJAX has them; ids as strings (their bytes
      read as UTF-8).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError, TypeError: the file is of another format, or a client's arrays are not like the others'; the text
        names file and client.

    Guarantees:
      A client whose number of examples is not what its row states is refused.

    Source:
      Ro, Suresh and Wu (2021), FedJAX: federated learning simulation with JAX. https://arxiv.org/abs/2108.02117

    Example:
      >>> import fedjaxlite as fl
      >>> people = fl.datasets.from_fedjax_sqlite(      # doctest: +SKIP
      ...     "emnist_train.sqlite", features={"pixels": "x", "label": "y"}, shapes={"pixels": (28, 28, 1)})
    """
    wanted = choice.wanted(features, encode, shapes)
    chosen = choice.clients(clients, num_clients)
    options = leaf.checks_of(check_finite, allow_empty)
    if parse is not None:
        choice.checks.is_function_of("data", parse=parse)
    with sqlite.opened(path, _TABLES, "FedJAX's files") as (connection, source):
        read = _read_clients(_rows(connection, chosen), parse or _examples, source)
        return gather.of_clients(gather.chunks_of(read, source), wanted, chosen, source=source, **options)


def _rows(connection: sqlite3.Connection, chosen: choice.Clients) -> Iterator[tuple[bytes, bytes, int]]:
    query = "SELECT client_id, data, num_examples FROM federated_data"
    if chosen.names is None:
        limit = -1 if chosen.most is None else chosen.most
        yield from sqlite.each(connection.execute(f"{query} ORDER BY rowid LIMIT ?", [limit]))
        return
    for name in chosen.names:
        key = name if isinstance(name, bytes) else str(name).encode()
        yield from sqlite.each(connection.execute(f"{query} WHERE client_id = ?", [key]))


def _read_clients(
    rows: Iterator[tuple[bytes, bytes, int]], parse: Callable[[bytes], Mapping[str, Any]], source: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for client_id, data, stated in rows:
        name = client_id.decode("utf-8", "backslashreplace") if isinstance(client_id, bytes) else str(client_id)
        try:
            arrays = parse(data)
        except (zlib.error, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"the data of client {name!r} in {source} are not what FedJAX writes, arrays by msgpack and zlib "
                f"({type(error).__name__}: {error}); pass parse= for another form."
            ) from error
        if not isinstance(arrays, Mapping) or not arrays:
            raise ValueError(f"the data of client {name!r} in {source} hold no dict of arrays; pass parse=.")
        first = next(iter(arrays.values()))
        size = len(first) if np.ndim(first) else stated  # of a scalar the error is told where arrays are joined
        if stated != size:
            raise ValueError(f"client {name!r} in {source} has {size} examples, but its row states {stated}.")
        yield name, arrays


def _examples(data: bytes) -> Mapping[str, Any]:
    import msgpack

    return msgpack.unpackb(zlib.decompress(data), ext_hook=_extension, raw=False)


def _extension(code: int, data: bytes) -> Any:
    """An array or scalar of its nested message: shape, dtype's name and bytes; of texts the shape and a list."""
    import msgpack

    if code == _COMPLEX:
        raise ValueError("a complex number, which no feature can be")
    if code not in (_NDARRAY, _SCALAR, _BYTES_NDARRAY):
        raise ValueError(f"extension type {code}")
    if code == _BYTES_NDARRAY:
        shape, values = msgpack.unpackb(data, raw=True)
        texts = np.empty(len(values), object)
        texts[:] = values
        return texts.reshape(shape)
    shape, dtype, buffer = msgpack.unpackb(data, raw=True)
    array = np.frombuffer(buffer, _dtype(dtype.decode())).reshape(shape)
    return array[()] if code == _SCALAR else array


def _dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
