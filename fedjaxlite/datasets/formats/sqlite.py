"""A SQLite file, opened for reading alone, with the tables that a format has."""

import sqlite3
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedjaxlite.datasets.formats import parts

_MAGIC = b"SQLite format 3\x00"
_PACKED = {b"\x5d\x00\x00": "xz --format=lzma --decompress", b"\xfd7zXZ\x00": "xz --decompress", b"\x1f\x8b": "gunzip"}


@contextmanager
def opened(path: Any, tables: Mapping[str, tuple[str, ...]], what: str) -> Generator[tuple[sqlite3.Connection, str]]:
    """A connection that cannot write, and the file as messages call it.

    Args:
      path: the file.
      tables: the columns that each table must have.
      what: whose format it is, for messages.

    Raises:
      FileNotFoundError: there is no such file. ValueError: it is no SQLite file, or lacks a table or column.
    """
    file = parts.existing(path)
    source = repr(str(file))
    _check_magic(file, source)
    connection = sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro", uri=True)
    try:
        for table, columns in tables.items():
            found = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
            missing = [column for column in columns if column not in found]
            if missing:
                there = ", ".join(
                    r[0] for r in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                )
                lacks = f"column {missing[0]!r} of table {table!r}" if found else f"table {table!r}"
                raise ValueError(f"{source} has no {lacks}, which {what} have; its tables are: {there or 'none'}.")
        yield connection, source
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{source} cannot be read: {error}.") from error
    finally:
        connection.close()


def each(cursor: Iterator[Any]) -> Iterator[Any]:
    """The rows; a reader that stops half-way leaves the cursor to the connection, which may be closed by then."""
    for row in cursor:  # noqa: UP028
        yield row


def _check_magic(file: Path, source: str) -> None:
    if file.is_dir():
        raise ValueError(f"{source} is a folder; expected a SQLite file.")
    with file.open("rb") as begin:
        head = begin.read(len(_MAGIC))
    if head == _MAGIC:
        return
    for magic, command in _PACKED.items():
        if head.startswith(magic):
            raise ValueError(f"{source} is compressed; unpack it first: {command} {source}")
    raise ValueError(f"{source} is no SQLite file: it begins with {head[:8]!r}.")
