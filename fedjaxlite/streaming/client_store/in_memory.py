"""Client states in host memory, which takes what was written and no more; a checkpoint copies it."""

import logging
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import platforms
from fedjaxlite.streaming.client_store import files

LOG = logging.getLogger("fedjaxlite.streaming")
_NORESERVE = 0x4000  # Linux's MAP_NORESERVE, which Python names from 3.13 on
_AT_ONCE = 1 << 26
"""Bytes that are copied at a time."""


class Memory(NamedTuple):
    """Rows in memory.

    Attributes:
      rows: uint8 `[clients of one's own, size]`; pages that nobody wrote to take no memory.
      written: bool, which rows were ever written.
      first: the id of the first.
    """

    rows: np.ndarray
    written: np.ndarray
    first: int


def opened(own: tuple[int, int], size: int) -> Memory:
    """Room for the rows of some clients."""
    count = own[1] - own[0]
    largest = platforms.host_memory()
    if largest is not None and count * size > largest:
        LOG.warning(
            "client states may grow to %.3g GB in host memory, and this machine has %.3g: they take what was trained "
            "so far, and a run that trains all clients ends by running out. client_states=<folder> keeps them on disk",
            *(count * size / 1e9, largest / 1e9),
        )
    return Memory(_zeros(count, size), np.zeros(count, bool), own[0])


def read(memory: Memory, ids: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The rows of some clients; `first` is that of a client whose row was never written."""
    here = ids - memory.first
    return np.where(memory.written[here][:, None], memory.rows[here], first)


def write(memory: Memory, ids: np.ndarray, rows: np.ndarray) -> None:
    """Overwrites the rows of some clients."""
    memory.rows[ids - memory.first] = rows
    memory.written[ids - memory.first] = True


def save(memory: Memory, folder: Path, process: int) -> None:
    """Writes the rows that were ever written to a file of a folder."""
    ids = np.flatnonzero(memory.written)
    folder.mkdir(exist_ok=True)
    with (folder / f"{process}.rows").open("wb") as file:
        file.write(np.array([len(ids), memory.rows.shape[1]], "<i8").tobytes())
        file.write((ids + memory.first).astype("<i8").tobytes())
        step = max(1, _AT_ONCE // max(1, memory.rows.shape[1]))
        for start in range(0, len(ids), step):
            file.write(memory.rows[ids[start : start + step]].tobytes())


def load(memory: Memory, folder: Path) -> None:
    """Takes over the rows that one or several processes saved, where they are one's own."""
    memory.written[:] = False
    size = memory.rows.shape[1]
    for path in sorted(folder.glob("*.rows")):
        with path.open("rb") as file:
            count, _ = np.fromfile(file, "<i8", 2).tolist()
            ids = np.fromfile(file, "<i8", count)
            behind, step = file.tell(), max(1, _AT_ONCE // max(1, size))
            mine = (ids >= memory.first) & (ids < memory.first + len(memory.written))
            for start in range(0, count, step):
                here = slice(start, start + step)
                if mine[here].any():
                    part = np.empty((len(ids[here]), size), np.uint8)
                    files.take(file.fileno(), part, behind + start * size)
                    write(memory, ids[here][mine[here]], part[mine[here]])


def _zeros(count: int, size: int) -> np.ndarray:
    """Zeros that take memory as they are written to, also where there may be more of them than the machine has."""
    if not count * size:
        return np.zeros((count, size), np.uint8)
    flags: Mapping[str, Any] = {}
    if hasattr(mmap, "MAP_ANONYMOUS"):
        flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_NORESERVE if os.uname().sysname == "Linux" else 0)}
    try:
        return np.frombuffer(mmap.mmap(-1, count * size, **flags), np.uint8).reshape(count, size)
    except (OSError, ValueError, OverflowError) as error:
        raise MemoryError(
            f"no room for the client states in host memory: {count} clients of {size} bytes ({count * size / 1e9:.3g} "
            f"GB). Keep them in a folder: Execution(client_states='a/folder'). ({error})"
        ) from None
