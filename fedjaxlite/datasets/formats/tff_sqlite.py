"""TensorFlow Federated's SQLite files: a row an example, each a `tf.train.Example`."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from fedjaxlite import checks
from fedjaxlite.data.incoming import choice, gather
from fedjaxlite.data.population import Population
from fedjaxlite.datasets.formats import sqlite, tf_example

_TABLES = {
    "examples": ("split_name", "client_id", "serialized_example_proto"),
    "client_metadata": ("client_id", "split_name"),
}


def from_tff_sqlite(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    features: Sequence[str] | Mapping[str, str] | None = None,
    encode: Mapping[str, Callable[[Any], Any]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    clients: Sequence[str] | None = None,
    num_clients: int | None = None,
    check_finite: bool = True,
) -> Population:
    """Reads a file of TFF's `SqlClientData`, without TensorFlow.

    Such files are those that `tff.simulation.datasets` downloads: EMNIST, CIFAR-100, Shakespeare, Stack Overflow.

    Args:
      path: the file, unpacked.
      split: "train", "test" or another `split_name` of the file; None takes the examples of all, as TFF does.
      features: which to take, such as {"pixels": "x", "label": "y"} for names of one's own; None takes all.
      encode: for a feature of texts a function of one value: bytes, or a list of them where an example has several.
      shapes: the shape of one row, such as {"pixels": (28, 28, 1)}: the file holds flat lists. A feature with one value
        in each example is a number per example.
      clients: ids, in the order that the result has; None takes all.
      num_clients: take the first so many of the sorted ids; None takes all.
      check_finite: refuse NaN and infinity.

    Returns:
      A Population, clients sorted by id and examples in the order of the file, as TFF has them. Whole numbers are
      int32, others float32.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError, TypeError: the file is of another format, there is no such split, or examples differ in shape; the
        text names file and client.

    Guarantees:
      A client whose number of examples is not what `client_metadata` states, where it does, is refused.

    Source:
      https://www.tensorflow.org/federated/api_docs/python/tff/simulation/datasets/SqlClientData

    Example:
      >>> import fedjaxlite as fl
      >>> train = fl.datasets.from_tff_sqlite(      # doctest: +SKIP
      ...     "emnist_all.sqlite", split="train",
      ...     features={"pixels": "x", "label": "y"}, shapes={"pixels": (28, 28, 1)})
    """
    wanted = choice.wanted(features, encode, shapes)
    chosen = choice.clients(clients, num_clients)
    checks.flag(check_finite=check_finite)
    if split is not None:
        checks.text(split=split)
    with sqlite.opened(path, _TABLES, "TFF's files") as (connection, source):
        stated = _stated(connection, split, source)
        if chosen.most is not None:
            choice.check_found(chosen, list(stated), source)
            chosen = choice.Clients(tuple(sorted(stated)[: chosen.most]), None)
        elif chosen.names is not None:
            choice.check_found(chosen, list(stated), source)
        batches = _batches(_rows(connection, split, chosen), source)
        made = gather.of_rows(batches, wanted, chosen, source=source, check_finite=check_finite)
    _check_whole(made, stated, chosen, source)
    return made


def _stated(connection: sqlite3.Connection, split: str | None, source: str) -> dict[str, int | None]:
    """The clients of a split, and how many examples the file says they have."""
    columns = [row[1] for row in connection.execute('PRAGMA table_info("client_metadata")')]
    count = "SUM(num_examples)" if "num_examples" in columns else "NULL"
    splits = [row[0] for row in connection.execute("SELECT DISTINCT split_name FROM client_metadata ORDER BY 1")]
    if split is not None and split not in splits:
        raise ValueError(f"`split` is {split!r}; {choice.nearest(split, splits, f'the splits of {source} are')}")
    condition, values = ("", []) if split is None else (" WHERE split_name = ?", [split])
    query = f"SELECT client_id, {count} FROM client_metadata{condition} GROUP BY client_id ORDER BY client_id"
    return dict(connection.execute(query, values))


def _rows(connection: sqlite3.Connection, split: str | None, chosen: choice.Clients) -> Iterator[tuple[str, bytes]]:
    """Ids and messages in the order of the file, which needs no sorting; of some clients by the file's own index."""
    query = "SELECT client_id, serialized_example_proto FROM examples"
    condition, values = ("", []) if split is None else ("split_name = ?", [split])
    if chosen.names is None:
        where = f" WHERE {condition}" if condition else ""
        yield from sqlite.each(connection.execute(f"{query}{where} ORDER BY rowid", values))
        return
    more = f" AND {condition}" if condition else ""
    for name in chosen.names:
        yield from sqlite.each(connection.execute(f"{query} WHERE client_id = ?{more} ORDER BY rowid", [name, *values]))


def _batches(rows: Iterator[tuple[str, bytes]], source: str) -> Iterator[tuple[list[str], dict[str, list[Any]], str]]:
    done = 0
    while batch := list(islice(rows, gather.CHUNK_ROWS)):
        raw: dict[str, list[Any]] = {}
        for row, (client, message) in enumerate(batch):
            where = f"example {done + row} of client {client!r} in {source}"
            try:
                example = tf_example.values(message)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{where} is no tf.train.Example: {error}.") from error
            if row == 0:
                raw = {name: [] for name in example}
            if example.keys() != raw.keys():
                raise ValueError(f"{where} has features {sorted(example)}, but others have {sorted(raw)}.")
            for name, value in example.items():
                raw[name].append(value[0] if len(value) == 1 else value)
        yield [client for client, _ in batch], raw, f"{source} from example {done} on"
        done += len(batch)


def _check_whole(made: Population, stated: Mapping[str, int | None], chosen: choice.Clients, source: str) -> None:
    names = [] if made.names is None else made.names.tolist()
    sizes = dict(zip(names, made.num_examples.tolist(), strict=True))
    for name in stated if chosen.names is None else chosen.names:
        if stated[name] is not None and stated[name] != sizes.get(name, 0):
            raise ValueError(
                f"client {name!r} in {source} has {sizes.get(name, 0)} examples, but `client_metadata` states "
                f"{stated[name]}; the file is not whole."
            )
