"""The file of records while a run writes it: a line is there whole or not at all, whatever storage does meanwhile."""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from fedjaxlite.observers.records import to_line
from fedjaxlite.storage import patiently

LOG = logging.getLogger("fedjaxlite.observers")


class Log(NamedTuple):
    """A file of records that is open for more; see `append_to`.

    Attributes:
      write: `write(record)` appends one line and hands it to the operating system; again and again, for a minute, where
        the disk is full or fails.
      close: closes the file.
    """

    write: Callable[[Mapping[str, Any]], None]
    close: Callable[[], None]


def append_to(path: str | os.PathLike[str]) -> Log:
    """Opens a file of records to append to.

    Args:
      path: a `records.jsonl`, made if there is none.

    Returns:
      a Log.

    Raises:
      OSError: the file cannot be opened. `fedjaxlite.storage.StorageError`: by `write`, where the disk is full or
        fails, and that does not pass within a minute.

    Guarantees:
      A line is in the file whole or not at all, also where the disk was full for a while, or the file was deleted.
    """
    place, files = Path(path), [_opened(Path(path))]

    def put(number: int, line: bytes) -> None:
        if files and _gone(files[0], place):
            close()
        if not files:
            if not place.exists():
                LOG.warning("%s is gone; a new one begins with round %d", place, number)
            files.append(_opened(place))
        file = files[0]
        end, rest = file.seek(0, os.SEEK_END), memoryview(line)
        try:
            while rest:  # of a line that finds little space a part is written, and counted
                rest = rest[file.write(rest) or _full() :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise

    def write(record: Mapping[str, Any]) -> None:
        line = to_line(record).encode()
        what = f"the record of round {record['round']} could not be written to {os.fspath(path)!r}"
        patiently(lambda: put(record["round"], line), what, undo=close)

    def close() -> None:
        # What a full disk did not take is reported by `write`; closing must not hide that by failing again.
        while files:
            with contextlib.suppress(OSError):
                files.pop().close()

    return Log(write, close)


def _opened(place: Path) -> FileIO:
    """A file to append to, without the line that somebody did not get to the end of."""
    file: Any = place.open("ab+", buffering=0)
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        if file.read(1) != b"\n":
            file.truncate(place.read_bytes().rfind(b"\n") + 1)
    return file


def _full() -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _gone(file: FileIO, place: Path) -> bool:
    """Whether an open file was deleted: what is written to it then is lost without an error."""
    mine = os.fstat(file.fileno())
    if mine.st_nlink:
        return False
    try:
        return not os.path.samestat(mine, place.stat())
    except OSError:
        return True
