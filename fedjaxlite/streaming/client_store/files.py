"""Reads, writes and flushes at a place of a file: whole, or an error. Threads may share a file."""

import contextlib
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

HERE = hasattr(os, "preadv")
"""Whether this system reads and writes at a place, as folders of client states need it."""


def put(file: int, data: Any, at: int) -> None:
    """Writes all of `data` at a place."""
    left = memoryview(data).cast("B")
    while left:
        wrote = os.pwrite(file, left, at)
        left, at = left[wrote:], at + wrote


def take(file: int, into: Any, at: int) -> int:
    """Fills `into` from a place; returns the bytes that there were, fewer where the file ends."""
    left, done = memoryview(into).cast("B"), 0
    while left:
        got = os.preadv(file, [left], at + done)
        if not got:
            break
        left, done = left[got:], done + got
    return done


def flushed(file: int) -> None:
    """Waits until what was written to a file is on the disk."""
    os.fsync(file)


def made(path: Path) -> None:
    """Makes an empty file, on the disk with its name."""
    path.touch()
    with path.open("rb+") as file:
        flushed(file.fileno())
    folder_flushed(path.parent)


def cut(path: Path, length: int) -> None:
    """Cuts a file that is longer, on the disk."""
    if path.stat().st_size > length:
        with path.open("rb+") as file:
            file.truncate(length)
            flushed(file.fileno())


def deleted(path: Path) -> None:
    """Deletes a file, on the disk."""
    path.unlink()
    folder_flushed(path.parent)


def folder_flushed(path: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def locked(path: Path, refusal: Callable[[str], str]) -> Generator[bool]:
    """Holds the operating system's lock on a file, which goes with the process however that ends.

    Args:
      path: the file; it is made where it is missing and stays.
      refusal: the error's text where somebody else holds it, of what they wrote into the file.

    Yields:
      whether there is a lock: not where the system has no `flock`, or the file system passes none on.

    Raises:
      RuntimeError: somebody holds it.
    """
    if fcntl is None:
        yield False
        return
    with path.open("a+", encoding="utf-8") as file:
        held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RuntimeError(refusal(file.read().strip() or "unknown")) from None
        except OSError:
            held = False
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield held
