"""Reads, writes and flushes at a place of a file: whole, or an error. Threads may share a file."""

import os
from pathlib import Path
from typing import Any

from fedjaxlite.storage import to_disk

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
    to_disk(path)
