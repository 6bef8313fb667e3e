"""The undo journal: what rows were before a round overwrote them, on the disk before it does.

journal/20.0.undo    what process 0 overwrote after round 20, up to the next checkpoint's round
journal/20.1.undo    likewise process 1

A file is a sequence of records, one for each write: header, ids, what the table said of them, and the rows of those
that it knew. A record is flushed before the first byte of its rows is overwritten. So the last record of a file may be
half written, by a crash, and then nothing was overwritten: it is as if it were not there. Undoing all records behind a
round, the newest first, gives the rows of that round, however far the last write had come; and since what is written
then does not depend on what is there, being interrupted and done again does no harm.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjaxlite.streaming.client_store import files

_MAGIC = b"FLundo1\n"
_HEAD = struct.Struct("<8sQQQI")  # magic, round, rows named, bytes behind the header, their checksum
_CHECK = struct.Struct("<I")  # of the header itself
HEADER = _HEAD.size + _CHECK.size


class Piece(NamedTuple):
    """One file of a journal.

    Attributes:
      after: the round behind which its records begin.
      process: who wrote it.
      path: where it is.
    """

    after: int
    process: int
    path: Path


class Record(NamedTuple):
    """One write that can be undone.

    Attributes:
      round: the round that overwrote.
      path: the file.
      at: the byte at which it begins there.
      end: the byte behind it.
    """

    round: int
    path: Path
    at: int
    end: int


class Undo(NamedTuple):
    """What a record says.

    Attributes:
      ids: int64 `[n]`, the clients.
      marks: uint32 `[n]`, what the table said of them; 0 for a row that was never written.
      rows: uint8 `[m, size]`, the old rows of those that had one.
    """

    ids: np.ndarray
    marks: np.ndarray
    rows: np.ndarray


def begin(folder: Path, after: int, process: int) -> Path:
    """A file for the records behind a round, empty and on the disk."""
    path = folder / f"{after}.{process}.undo"
    files.made(path)
    return path


def pieces(folder: Path) -> list[Piece]:
    """The files of a journal, those of the newest rounds first."""
    found = []
    for path in folder.glob("*.undo"):
        after, process, _ = path.name.split(".")
        found.append(Piece(int(after), int(process), path))
    return sorted(found, reverse=True)


def append(file: int, at: int, number: int, undo: Undo) -> int:
    """Writes a record at a place of a file and waits until it is on the disk; returns the place behind it."""
    body = b"".join((undo.ids.tobytes(), undo.marks.tobytes(), undo.rows.tobytes()))
    head = _HEAD.pack(_MAGIC, number, len(undo.ids), len(body), zlib.crc32(body))
    files.put(file, head + _CHECK.pack(zlib.crc32(head)) + body, at)
    files.flushed(file)
    return at + HEADER + len(body)


def records(path: Path) -> list[Record]:
    """The whole records of a file, in order; one that a crash left half written at its end is none.

    Raises:
      ValueError: one is damaged that whole ones follow, so that it once was whole.
    """
    found, at = [], 0
    with path.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        while at < length:
            record = _record(file.fileno(), path, at)
            if record is None:
                _nothing_behind(file.fileno(), path, at, length)
                break
            found.append(record)
            at = record.end
    return found


def read(record: Record, size: int) -> Undo:
    """What a record says; `size` is that of a row."""
    with record.path.open("rb") as file:
        whole = _whole(file.fileno(), record.at)
    if whole is None:
        raise ValueError(f"{str(record.path)!r} is not what was written.")
    count, body = whole
    ids = np.frombuffer(body, "<i8", count)
    marks = np.frombuffer(body, "<u4", count, ids.nbytes)
    known = int(np.count_nonzero(marks))
    rows = np.frombuffer(body, np.uint8, known * size, ids.nbytes + marks.nbytes)
    return Undo(ids, marks, rows.reshape(known, size))


def undone(folder: Path, number: int, undo: Callable[[Record], None], settle: Callable[[], None]) -> None:
    """Takes back all that was overwritten after a round, and cuts the journal there.

    Args:
      folder: the journal.
      number: the round to go back to.
      undo: puts back what a record says; called for the newest record first.
      settle: waits until what was put back is on the disk.

    Raises:
      ValueError: the journal does not go back so far, or is damaged.
    """
    there = pieces(folder)
    if not there or there[-1].after > number:
        since = f"goes back to round {there[-1].after}" if there else "is empty"
        raise ValueError(f"the journal in {str(folder)!r} {since}, and round {number} was asked for.")
    found = {piece: records(piece.path) for piece in there if _may_hold(piece, there, number)}
    behind = [record for held in found.values() for record in held if record.round > number]
    for record in sorted(behind, key=lambda r: (r.round, r.at), reverse=True):
        undo(record)
    settle()
    # The newest first, each gone for good before an older one goes, and none that begins by this round: whatever is
    # left when this is cut short, undoing it once more gives the same rows.
    for piece, held in found.items():
        if piece.after > number:
            files.deleted(piece.path)
        else:
            files.cut(piece.path, max((record.end for record in held if record.round <= number), default=0))


def forget(folder: Path, before: int) -> None:
    """Deletes what is needed only to go back behind a round."""
    there = pieces(folder)
    following = sorted({piece.after for piece in there})
    for piece in reversed(there):  # the oldest first: what is left never has a hole
        later = [after for after in following if after > piece.after]
        if later and later[0] <= before:
            files.deleted(piece.path)


def _may_hold(piece: Piece, there: list[Piece], number: int) -> bool:
    """Whether a file may hold records behind a round: not where the next one begins by then."""
    return not any(piece.after < other.after <= number for other in there)


def _record(file: int, path: Path, at: int) -> Record | None:
    """The whole record at a place, or None."""
    head = _head(file, at)
    if head is None or _whole(file, at) is None:
        return None
    number, _, length, _ = head
    return Record(number, path, at, at + HEADER + length)


def _whole(file: int, at: int) -> tuple[int, bytes] | None:
    """How many rows a record names, and what stands behind its header, where that is what was written."""
    head = _head(file, at)
    if head is None:
        return None
    _, count, length, checksum = head
    if length > os.fstat(file).st_size - at - HEADER:
        return None
    body = bytearray(length)
    files.take(file, body, at + HEADER)
    return (count, bytes(body)) if zlib.crc32(body) == checksum else None


def _head(file: int, at: int) -> tuple[int, int, int, int] | None:
    raw = bytearray(HEADER)
    if files.take(file, raw, at) < HEADER:
        return None
    magic, number, count, length, checksum = _HEAD.unpack_from(raw)
    known = magic == _MAGIC and _CHECK.unpack_from(raw, _HEAD.size)[0] == zlib.crc32(raw[: _HEAD.size])
    return (number, count, length, checksum) if known else None


def _nothing_behind(file: int, path: Path, at: int, length: int) -> None:
    """Refuses a broken record that whole ones follow: a crash breaks the last one alone."""
    for place in _places_of(file, _MAGIC, at + 1, length):
        if _whole(file, place) is not None:
            raise ValueError(
                f"{str(path)!r} is damaged at byte {at}: what client states were before cannot be told any more, and "
                "the run cannot go on from its checkpoint. Put back a copy of the folder, or begin anew with others."
            )


def _places_of(file: int, word: bytes, start: int, stop: int) -> Iterator[int]:
    step = 1 << 24
    for first in range(start, stop, step):
        raw = bytearray(min(step + len(word) - 1, stop - first))
        files.take(file, raw, first)
        place = raw.find(word)
        while place >= 0:
            yield first + place
            place = raw.find(word, place + 1)
