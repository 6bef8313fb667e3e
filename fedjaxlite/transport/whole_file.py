"""Files that are there whole or not at all, for one writer at a time."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file of mode 0600 all or nothing: a reader, or a kill, finds the old bytes or the new.

    A temporary file that a kill left is overwritten by the next.
    """
    other = path.with_name(f".{path.name}.tmp")
    number = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(number, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    other.replace(path)
    to_disk(path.parent)


def to_disk(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    if os.name != "posix":  # elsewhere folders cannot be flushed
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
