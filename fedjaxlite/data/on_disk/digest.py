"""The fingerprint of a population: one hash, whether it lies in memory or on a disk."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedjaxlite.data.on_disk import header as header_

PREFIX = "fedjaxlite population 1"
"""What every fingerprint of a Population begins with."""
_BLOCK = 1 << 23


def fingerprint(folder: Path, header: header_.Header) -> str:
    """Reads all features and offsets once: SHA-256, 64 hex digits."""
    digest = hashlib.sha256(PREFIX.encode())
    for column in sorted(header.columns):
        shape = (header.num_examples, *column.shape)
        digest.update(f"\n{column.name!r} {column.dtype} {shape}\n".encode())
        for block in _blocks(folder / column.file):
            digest.update(block)
    for block in _blocks(folder / header_.OFFSETS):
        digest.update(block)
    return digest.hexdigest()


def of_arrays(features: Mapping[str, Any], offsets: Any) -> str:
    """The fingerprint of a population in memory."""
    digest = hashlib.sha256(PREFIX.encode())
    for name in sorted(features):
        array = np.ascontiguousarray(features[name])
        digest.update(f"\n{name!r} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    digest.update(np.ascontiguousarray(offsets, dtype=np.int32).data)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[memoryview]:
    room = np.empty(_BLOCK, np.uint8)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(room.data):
            yield room.data[:count]
