"""Writing to a folder of client states: first the journal, then the rows; and where both stand."""

import contextlib
import os
from dataclasses import dataclass

import numpy as np

from fedjaxlite.streaming.client_store import in_folder, journal
from fedjaxlite.streaming.client_store.in_folder import Folder


@dataclass
class Standing:
    """Where the writing to a folder stands; the functions of this file change it.

    Attributes:
      folder: the open folder.
      process: who writes.
      begin: the round after which the rows of a new folder are.
      round: the round after which the rows are; None where only the journal knows.
      after: the round behind which the journal's file begins.
      file: the journal's file, once there is one.
      at: the byte behind its last record.
      lost: why rows could not be flushed: the system forgets such pages, and a second try would seem to have written
        them.
    """

    folder: Folder
    process: int
    begin: int
    round: int | None
    after: int
    file: int | None = None
    at: int = 0
    lost: OSError | None = None


def standing(folder: Folder, process: int, begin: int) -> Standing:
    """Where the writing to a folder stands that was just opened."""
    found = in_folder.reached(folder.path) if journal.pieces(folder.path / "journal") else begin
    return Standing(folder, process, begin, found, found or 0)


def round_of(now: Standing) -> int:
    """The round after which the rows are.

    Raises:
      ValueError: they are in the middle of one.
    """
    if now.round is None:
        raise ValueError(
            f"the client states in {str(now.folder.path)!r} are in the middle of a round: the run that wrote them was "
            "killed. Go on with it by resume=True (--resume on the command line), or give another folder."
        )
    return now.round


def write(now: Standing, number: int, ids: np.ndarray, rows: np.ndarray) -> None:
    """Overwrites rows, once what was there is in the journal."""
    if number < round_of(now) or number <= now.after:
        raise ValueError(f"the states of round {number} come after those of round {round_of(now)}.")
    file = _turn(now, now.after) if now.file is None else now.file
    now.at = journal.append(file, now.at, number, in_folder.old(now.folder, ids))
    now.round = number
    in_folder.overwrite(now.folder, ids, rows)


def mark(now: Standing, number: int) -> None:
    """Waits until all rows are on the disk; what comes after goes to another file of the journal."""
    if number < round_of(now):
        raise ValueError(f"round {number} is to be marked, and the states are those of round {round_of(now)}.")
    try:
        if now.lost is None:
            in_folder.settled(now.folder)
    except OSError as error:
        now.lost = error
    if now.lost is not None:
        # Without a number, so that nobody waits for it to pass.
        raise OSError(
            f"client states could not be written to the disk of {str(now.folder.path)!r}: {now.lost.strerror}. What "
            "was written since the last checkpoint may be lost: go on from it."
        )
    if now.file is None or number > now.after:
        _turn(now, number)


def rewind(now: Standing, number: int) -> None:
    """Goes back to the end of a round; the first process for all."""
    close(now)
    if now.process == 0:
        if journal.pieces(now.folder.path / "journal"):
            in_folder.rewind(now.folder, number)
        elif number != now.begin:
            where = str(now.folder.path)
            raise ValueError(f"{where!r} holds no client states of round {number}: nobody wrote to it yet.")
    _turn(now, number)


def close(now: Standing) -> None:
    """Closes the journal's file."""
    if now.file is not None:
        with contextlib.suppress(OSError):
            os.close(now.file)
        now.file = None


def _turn(now: Standing, after: int) -> int:
    """Begins another file of the journal, and gives it."""
    close(now)
    path = journal.begin(now.folder.path / "journal", after, now.process)
    file = os.open(path, os.O_RDWR)
    now.file, now.at, now.after, now.round = file, 0, after, after
    return file
