"""Clients' names on a disk: written block by block, and found by an index of 8 bytes a client."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.data import host_arrays
from fedjaxlite.data.on_disk import header as header_

LONGEST = 256
"""Characters: every name takes the room of the longest."""


class Index(NamedTuple):
    """What finds a name.

    Attributes:
      keys: int64 `[N]`, ascending: the names themselves where they are ints, else hashes of them.
      places: int `[N]`, the client that each key is of.
    """

    keys: np.ndarray
    places: np.ndarray


def block_of(names: Any, before: np.dtype | None) -> np.ndarray:
    """Some clients' names as an array, of the kind of those before.

    Raises:
      TypeError: no ints or strings, or not of one kind. ValueError: a text that is too long or ends with a NUL.
    """
    kinds = {type(name) for name in names}
    if len(kinds) > 1 and not all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in kinds):
        told = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"the clients' names are of types {told}; expected ints, or strings.")
    made = host_arrays.as_ids("the clients' names", list(names))
    if made.dtype.kind == "u" and made.size and int(made.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"a client's name is {made.max()}; expected ints of at most 2**63 - 1.")
    made = made.astype(np.int64) if made.dtype.kind in "iu" else made
    if before is not None and before.kind != made.dtype.kind:
        told = {"i": "ints", "U": "strings", "S": "bytes"}
        raise TypeError(
            f"the clients' names are {told[made.dtype.kind]} such as {made[0].item()!r}, and {told[before.kind]} "
            "before; expected one kind."
        )
    for name in names if made.dtype.kind in "US" else ():
        if len(name) > LONGEST or name[-1:] in ("\0", b"\0"):
            raise ValueError(f"a client's name is {str(name)[:40]!r}...; expected at most {LONGEST} characters.")
    return made


def keys_of(names: np.ndarray) -> np.ndarray:
    """Int64 `[M]`: what names are looked up by. The same on every machine."""
    if names.dtype.kind in "iu":
        return names.astype(np.int64)
    texts = names.tolist()
    hashed = b"".join(
        hashlib.blake2b(t if isinstance(t, bytes) else t.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for t in texts
    )
    return np.frombuffer(hashed, "<i8")


def write(folder: Path, blocks: Callable[[], Iterable[np.ndarray]], num_clients: int) -> str:
    """Writes names and their index; both passes hold a block of names, and 16 bytes a client.

    Args:
      folder: where to.
      blocks: gives the names in order, any number of times.
      num_clients: N.

    Returns:
      NumPy's text of their dtype.

    Raises:
      ValueError: two clients have one name.
    """
    dtype = max((block.dtype for block in blocks()), key=lambda kind: kind.itemsize)
    keys, at = np.empty(num_clients, np.int64), 0
    with (folder / header_.NAMES).open("wb") as file:
        for block in blocks():
            file.write(block.astype(dtype).tobytes())
            keys[at : at + len(block)] = keys_of(block)
            at += len(block)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    _refuse_twice(folder, keys, order, dtype)
    keys.tofile(folder / header_.NAME_KEYS)
    order.astype(np.int32 if num_clients < 2**31 else np.int64, copy=False).tofile(folder / header_.NAME_PLACES)
    return dtype.str


def _refuse_twice(folder: Path, keys: np.ndarray, order: np.ndarray, dtype: np.dtype) -> None:
    same = np.flatnonzero(keys[1:] == keys[:-1])
    if not len(same):
        return
    known = np.memmap(folder / header_.NAMES, dtype, "r")
    for begin in same.tolist():
        # Two texts may have one hash; the same text twice is what cannot be.
        end = begin + 1
        while end < len(keys) and keys[end] == keys[begin]:
            if known[order[end]] == known[order[begin]]:
                raise ValueError(
                    f"client {known[order[begin]].item()!r} comes twice, as client {order[begin]} and as client "
                    f"{order[end]}; expected every client once. Rows of a client that do not come together are a "
                    "matter of Population.write_rows."
                )
            end += 1


def find(index: Index, names: np.ndarray, wanted: Any) -> int | None:
    """The client of a name; None where nobody has it."""
    if names.dtype.kind == "i" and not -(2**63) <= int(wanted) < 2**63:
        return None
    key = keys_of(np.array([wanted]))[0]
    at = int(np.searchsorted(index.keys, key))
    while at < len(index.keys) and index.keys[at] == key:
        place = int(index.places[at])
        if names[place].item() == wanted:
            return place
        at += 1
    return None
