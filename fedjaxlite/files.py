"""Files written all or nothing: arrays as one .npz with a JSON header, and text."""

import contextlib
import json
import os
import uuid
import zipfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

# What zipfile, numpy and json raise on content that is not what was written.
_DAMAGE = (zipfile.BadZipFile, KeyError, EOFError, ValueError, TypeError, AttributeError, NotImplementedError)


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
    """Writes arrays and a JSON header to one file, all or nothing: a reader never sees half of it.

    Args:
      path: where to; an existing file is replaced.
      arrays: dict of numpy arrays of plain dtypes.
      header: anything JSON can hold.
    """
    members = {f"array{i}": _plain(array) for i, array in enumerate(arrays.values())}
    described = {"arrays": [[name, str(array.dtype)] for name, array in arrays.items()], "header": dict(header)}
    text = np.frombuffer(json.dumps(described).encode(), np.uint8)
    with _in_place_of(path) as file:
        np.savez(file, allow_pickle=False, header=text, **members)


def read_npz(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what `write_npz` wrote.

    Returns:
      The arrays by name, and the header.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is of another kind, or damaged.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            described = json.loads(archive["header"].tobytes())
            arrays = {
                name: _restored(archive[f"array{i}"], dtype) for i, (name, dtype) in enumerate(described["arrays"])
            }
            return arrays, described["header"]
    except _DAMAGE as error:
        raise ValueError(f"{os.fspath(path)!r} is no file of this library, or damaged ({error}).") from error


def replace_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file all or nothing: a reader, or a crash, finds the old content or the new."""
    with _in_place_of(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def _in_place_of(path: str | os.PathLike[str]) -> Generator[IO[bytes], None, None]:
    """A file that takes the place of `path` once it is written whole, and is gone where that fails."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _plain(array: np.ndarray) -> np.ndarray:
    """An array that np.save can describe; bfloat16 and its like go as their bits."""
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array


def _restored(array: np.ndarray, dtype: str) -> np.ndarray:
    if str(array.dtype) == dtype:
        return array
    import jax.numpy as jnp

    return array.view(jnp.dtype(dtype))
