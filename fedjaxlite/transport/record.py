"""The book of an authority: one JSON file, held by one writer at a time, and written all or nothing."""

import contextlib
import json
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from fedjaxlite.transport.errors import TransportError
from fedjaxlite.transport.whole_file import write_whole

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

BOOK = "book.json"
PATIENCE = 30.0
EMPTY: dict[str, Any] = {"format": "fedjaxlite authority 1", "next": 0, "tokens": {}}


@contextlib.contextmanager
def alone(folder: Path) -> Generator[None]:
    """Holds the authority's folder: other processes and threads that ask for it wait, for half a minute.

    Raises:
      TransportError: somebody else holds it for longer.
    """
    with os.fdopen(os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600), "wb") as lock:
        if fcntl is not None:  # a lock of a file ends with the process that holds it, however that ends
            end = time.monotonic() + PATIENCE
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise TransportError(
                            f"the authority in {str(folder)!r} is in use by another process."
                        ) from None
                    time.sleep(0.01)
        yield


def read(folder: Path) -> dict[str, Any]:
    """The book.

    Raises:
      TransportError: there is none, or it is damaged.
    """
    try:
        book = json.loads((folder / BOOK).read_bytes())
    except FileNotFoundError:
        raise TransportError(f"{str(folder)!r} holds no authority; make one with authority.create.") from None
    except ValueError as error:
        raise TransportError(f"{str(folder / BOOK)!r} is damaged: {error}; take it from a backup.") from None
    if not isinstance(book, dict) or book.get("format") != EMPTY["format"]:
        raise TransportError(f"{str(folder / BOOK)!r} is of another format; expected {EMPTY['format']!r}.")
    return book


def write(folder: Path, book: dict[str, Any]) -> None:
    """Writes the book."""
    write_whole(folder / BOOK, json.dumps(book, sort_keys=True).encode())
