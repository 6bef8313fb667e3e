"""A folder of a population: opened without a pass over it, begun, and finished by its header."""

import contextlib
import mmap
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.data.on_disk import digest, names, sizes
from fedjaxlite.data.on_disk import header as header_
from fedjaxlite.data.on_disk.header import Column, Header

PARTS = "parts"
"""What lies in a folder only while it is written."""


class Stored(NamedTuple):
    """Where an opened Population lies.

    Attributes:
      folder: absolute.
      header: what it holds.
      size_table: int64 `[M, 2]` of `sizes.table_of`.
      name_index: what finds a name; None where clients have none.
    """

    folder: Path
    header: Header
    size_table: np.ndarray
    name_index: names.Index | None


class Opened(NamedTuple):
    """The parts of a Population that lies on a disk."""

    features: dict[str, np.ndarray]
    offsets: np.ndarray
    names: np.ndarray | None
    stored: Stored


def opened(folder: str | os.PathLike[str], verify: bool) -> Opened:
    """A folder's arrays as read-only maps.

    Raises:
      FileNotFoundError, ValueError: see `header.read`; files of other sizes than the header says, and with `verify`
        content of another fingerprint.
    """
    path = header_.path_of(folder)
    header = header_.read(path)
    _check_files(path, header)
    if verify and digest.fingerprint(path, header) != header.fingerprint:
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: its content has not the fingerprint it was written with. Write it again."
        )
    features = {}
    for column in header.columns:
        flat = _map(path / column.file, header_.dtype_of(column.dtype), random=True)
        features[column.name] = flat.reshape(header.num_examples, *column.shape)
    offsets = _map(path / header_.OFFSETS, np.dtype(header.offsets))
    table = np.fromfile(path / header_.SIZES, np.int64).reshape(-1, 2)
    known = index = None
    if header.names is not None:
        known = _map(path / header_.NAMES, np.dtype(header.names))
        keys = _map(path / header_.NAME_KEYS, np.dtype(np.int64), random=True)
        index = names.Index(keys, _map(path / header_.NAME_PLACES, np.dtype(header.place_dtype), random=True))
    return Opened(features, offsets, known, Stored(path, header, table, index))


def _check_files(path: Path, header: Header) -> None:
    for name, expected in header.bytes_of_files().items():
        try:
            found = (path / name).stat().st_size
        except FileNotFoundError:
            raise ValueError(f"{os.fspath(path)!r} is damaged: {name!r} is missing. Copy or write it again.") from None
        if found != expected:
            raise ValueError(
                f"{os.fspath(path)!r} is damaged: {name!r} has {found:,} bytes, and its header says {expected:,}. "
                "A copy may have been cut off; copy or write it again."
            )


def _map(path: Path, dtype: np.dtype, *, random: bool = False) -> np.ndarray:
    """A read-only array of a file's content; `random` keeps the system from reading on behind what is touched."""
    if not path.stat().st_size:
        return np.frombuffer(b"", np.uint8).view(dtype)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if random and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, np.uint8).view(dtype)


@contextlib.contextmanager
def begun(folder: str | os.PathLike[str]) -> Generator[Path, None, None]:
    """A new folder, which is gone where its writing fails.

    Raises:
      ValueError: it holds something already.
    """
    path = header_.path_of(folder)
    was_there = path.is_dir()
    if path.exists() and not was_there:
        raise ValueError(f"`folder` is {os.fspath(path)!r}, which is a file; expected a folder that is to be made.")
    if was_there and any(path.iterdir()):
        holds = "a population" if (path / header_.FILE).exists() else "something"
        raise ValueError(
            f"`folder` is {os.fspath(path)!r}, which holds {holds} already; expected one that is empty, or that is to "
            "be made. Delete it first, or take another."
        )
    path.mkdir(parents=True, exist_ok=True)
    try:
        (path / PARTS).mkdir()
        yield path
    except BaseException:
        for inside in path.iterdir():
            shutil.rmtree(inside) if inside.is_dir() else inside.unlink(missing_ok=True)
        if not was_there:
            path.rmdir()
        raise


def finish(
    folder: Path,
    columns: Sequence[Column],
    size_blocks: Callable[[], Iterable[np.ndarray]],
    name_blocks: Callable[[], Iterable[np.ndarray]] | None,
) -> None:
    """Writes offsets, sizes and names beside the features, and seals the folder.

    Args:
      folder: of `begun`, with the columns' files.
      columns: the features.
      size_blocks: gives the clients' sizes in order, any number of times.
      name_blocks: gives the clients' names in order; None where they have none.
    """
    table = sizes.table_of(size_blocks())
    num_clients, num_examples = int(table[:, 1].sum()), int((table[:, 0] * table[:, 1]).sum())
    dtype = np.dtype(np.int32 if num_examples < 2**31 else np.int64)
    with (folder / header_.OFFSETS).open("wb") as file:
        last = np.zeros(1, np.int64)
        last.astype(dtype).tofile(file)
        for block in size_blocks():
            ends = last[-1] + np.cumsum(block)
            ends.astype(dtype).tofile(file)
            last = ends if len(ends) else last
    table.tofile(folder / header_.SIZES)
    kind = None if name_blocks is None else names.write(folder, name_blocks, num_clients)
    shutil.rmtree(folder / PARTS)
    header = Header(
        num_clients=num_clients,
        num_examples=num_examples,
        min_size=int(table[-1, 0]),
        max_size=int(table[0, 0]),
        columns=tuple(columns),
        offsets=dtype.name,
        num_sizes=len(table),
        names=kind,
        fingerprint="",
    )
    header = header._replace(fingerprint=digest.fingerprint(folder, header))
    for name in header.bytes_of_files():  # on the disk before the header is
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())
    _check_files(folder, header)
    header_.write(folder, header)


def about(stored: Any) -> str:
    """A folder and its size, for messages."""
    size = sum(stored.header.bytes_of_files().values())
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return (
        f"{size:.3g} {unit} in {os.fspath(stored.folder)!r}"
        if size < 1000
        else f"{size:,.0f} {unit} in {os.fspath(stored.folder)!r}"
    )
