"""Client states in a folder: a sparse file of rows, which takes what was written and no more, and an undo journal.

store.json   whose rows they are; written last, so that a folder without it holds nothing yet
first.row    the state of a client that was never written
rows.bin     client i's row at i times its size; the leaves one after the other, as store.json lists them
table.bin    uint32 a client: 0 for a row that was never written, else the row's checksum
journal/     what was overwritten since the oldest checkpoint kept (journal.py)
.lock        held by the first process of the run that writes
"""

import contextlib
import errno
import json
import logging
import os
import uuid
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.storage import locked, replace_text
from fedjaxlite.streaming.client_store import files, journal
from fedjaxlite.streaming.client_store.journal import Record, Undo

LOG = logging.getLogger("fedjaxlite.streaming")
FORMAT = "fedjaxlite client states 1"
_OWN = {"store.json", "first.row", "rows.bin", "table.bin", "journal", ".lock"}
_ENTRY = np.dtype("<u4")


class Folder(NamedTuple):
    """Open files of a folder of client states.

    Attributes:
      path: the folder.
      name: what the folder was called at random when it was made; a checkpoint that belongs to it says so.
      rows: file of rows.
      table: file of the table.
      size: bytes of a row.
      num_clients: rows.
    """

    path: Path
    name: str
    rows: int
    table: int
    size: int
    num_clients: int


def is_there(where: str) -> bool:
    """Whether a folder holds client states."""
    return (Path(where) / "store.json").exists()


def prepare(path: Path, who: Mapping[str, Any], first: np.ndarray, held: contextlib.ExitStack) -> None:
    """Makes a folder for the states of these clients, or finds it, and locks it for as long as `held` lasts.

    Raises:
      ValueError: the folder holds the states of other clients, or something else.
      RuntimeError: another run has it open.
      OSError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        _told(path)  # refuses what is none of ours before anything is written to it
        if held.enter_context(locked(path / ".lock", partial(_taken, path))):
            LOG.warning("%s cannot be locked: see to it yourself that one run alone writes to it", path)
        told = _told(path)
        if told is None:
            _make(path, who, first)
            return
    except OSError as error:
        raise type(error)(
            error.errno,
            f"`client_states` is {str(path)!r}, where client states cannot be kept: {error.strerror or error}. Give a "
            "folder on a disk with room for them",
        ) from error
    wrong = [f"{name} is {_short(who[name])} and was {_short(told[name])}" for name in who if who[name] != told[name]]
    if wrong:
        raise ValueError(
            f"`client_states` is {str(path)!r}, which holds the states of other clients: {'; '.join(wrong)}. Give "
            "another folder, or go on with the population, the algorithm and the first model that they were made by."
        )


def opened(path: Path, size: int, num_clients: int) -> Folder:
    """The files of a folder that `prepare` made, for reading and writing."""
    told = _told(path) or {}
    rows = os.open(path / "rows.bin", os.O_RDWR)
    table = os.open(path / "table.bin", os.O_RDWR)
    return Folder(path, told["name"], rows, table, size, num_clients)


def closed(folder: Folder) -> None:
    """Closes the files."""
    for file in (folder.rows, folder.table):
        with contextlib.suppress(OSError):
            os.close(file)


def reached(path: Path) -> int | None:
    """The round after which a run that ended left the rows; None where a run is going on, or was killed."""
    there = journal.pieces(path / "journal")
    newest = [piece for piece in there if piece.after == there[0].after]
    return newest[0].after if newest and not any(piece.path.stat().st_size for piece in newest) else None


def read(folder: Folder, ids: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The rows of some clients; `first` is that of a client whose row was never written.

    Raises:
      OSError: a row is not what was written.
    """
    marks = _marks(folder, ids)
    rows = np.empty((len(ids), folder.size), np.uint8)
    known = np.flatnonzero(marks)
    rows[marks == 0] = first
    for place in known.tolist():
        files.take(folder.rows, rows[place], int(ids[place]) * folder.size)
        if checksum(rows[place]) != marks[place]:
            raise OSError(errno.EIO, _damaged(folder, ids[place]))
    return rows


def old(folder: Folder, ids: np.ndarray) -> Undo:
    """What is to be put back if the rows of these clients are overwritten and that is undone."""
    marks = _marks(folder, ids)
    known = ids[marks != 0]
    rows = np.empty((len(known), folder.size), np.uint8)
    for row, i in zip(rows, known.tolist(), strict=True):
        files.take(folder.rows, row, i * folder.size)
    return Undo(ids, marks, rows)


def overwrite(folder: Folder, ids: np.ndarray, rows: np.ndarray) -> None:
    """Writes the rows of some clients, which have to be in the journal."""
    for i, row in zip(ids.tolist(), rows, strict=True):
        files.put(folder.rows, row, i * folder.size)
        files.put(folder.table, np.array(checksum(row), _ENTRY).tobytes(), i * _ENTRY.itemsize)


def rewind(folder: Folder, number: int) -> None:
    """Puts back the rows of a round, from the journals of all processes that ever wrote to the folder."""

    def undo(record: Record) -> None:
        said = journal.read(record, folder.size)
        known = said.ids[said.marks != 0]
        for i, row in zip(known.tolist(), said.rows, strict=True):
            files.put(folder.rows, row, i * folder.size)
        for i, mark in zip(said.ids.tolist(), said.marks, strict=True):
            files.put(folder.table, mark.tobytes(), i * _ENTRY.itemsize)

    journal.undone(folder.path / "journal", number, undo, lambda: settled(folder))


def settled(folder: Folder) -> None:
    """Waits until all rows that were written are on the disk."""
    files.flushed(folder.rows)
    files.flushed(folder.table)


def checksum(row: np.ndarray) -> int:
    """What the table says of a row; never 0."""
    return max(1, zlib.crc32(row.data))


def _marks(folder: Folder, ids: np.ndarray) -> np.ndarray:
    marks = np.zeros(len(ids), _ENTRY)
    for place, i in enumerate(ids.tolist()):
        files.take(folder.table, marks[place : place + 1].view(np.uint8), i * _ENTRY.itemsize)
    return marks


def _told(path: Path) -> Mapping[str, Any] | None:
    """What a folder says of itself; None where it holds nothing yet."""
    found = {p.name for p in path.iterdir()}
    if "store.json" in found:
        told = json.loads((path / "store.json").read_text(encoding="utf-8"))
        if told.get("format") != FORMAT:
            raise ValueError(f"`client_states` is {str(path)!r}, whose content is not of the form {FORMAT!r}.")
        return told
    other = sorted(name for name in found - _OWN if not name.endswith(".tmp"))
    if other:
        raise ValueError(
            f"`client_states` is {str(path)!r}, which holds something else ({', '.join(other[:3])}). Give a folder "
            "of its own."
        )
    return None


def _make(path: Path, who: Mapping[str, Any], first: np.ndarray) -> None:
    path.chmod(0o700)  # client states are of one client each
    (path / "journal").mkdir(exist_ok=True)
    count, size = who["num_clients"], first.nbytes
    for name, length in (("rows.bin", count * size), ("table.bin", count * _ENTRY.itemsize)):
        with (path / name).open("wb") as file:
            file.truncate(length)
            files.flushed(file.fileno())
    with (path / "first.row").open("wb") as file:
        file.write(first.tobytes())
        files.flushed(file.fileno())
    replace_text(path / "store.json", json.dumps({"format": FORMAT, "name": uuid.uuid4().hex, **who}, indent=1))
    files.folder_flushed(path)


def _taken(path: Path, who: str) -> str:
    return (
        f"`client_states` is {str(path)!r}, where another run keeps its clients' states ({who}). Two would overwrite "
        "each other: wait for it, end it, or give another folder."
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _damaged(folder: Folder, client: Any) -> str:
    return (
        f"the state of client {client} in {str(folder.path)!r} is not what was written: the disk or another program "
        "changed it. Put back a copy of the folder together with the run's checkpoints, or begin anew"
    )
