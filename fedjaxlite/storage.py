"""Storage: files written all or nothing, and what fails while a run goes on and is tried again for about a minute.

Arrays are one .npz with a JSON header. A disk that fills up is cleared by somebody, a server of files comes back after
its restart, a folder is mounted again: none of that should cost a night's run; a place that stays g
"""

import contextlib
import errno
import gc
import json
import logging
import os
import platform
import re
import time
import uuid
import zipfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

LOG = logging.getLogger("fedjaxlite.storage")
Result = TypeVar("Result")

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds between one try and the next: eight tries in 61.5 seconds, and however long each of them takes."""

_NAMES = (
    *("ENOSPC", "EDQUOT"),  # full: until somebody frees some space
    *("EIO", "EAGAIN", "EBUSY", "ENOMEM", "EINTR", "EREMOTEIO"),
    *("ESTALE", "ETIMEDOUT", "ENOLINK", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EPIPE"),
    *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH", "ESHUTDOWN", "ENOLCK"),
    *("ENOENT", "ENOTDIR", "ENODEV", "ENXIO"),  # a folder that is gone: until it is mounted again
)

PASSING = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))
"""What may pass, by its number. What is forbidden, too large or read-only stays so, and is not tried again."""


class StorageError(OSError):
    """Storage failed while a run went on, and did not come back; the text names the last whole checkpoint."""


def patiently(
    do: Callable[[], Result],
    what: str,
    *,
    undo: Callable[[], None] = lambda: None,
    of: tuple[type[Exception], ...] = (OSError,),
) -> Result:
    """Does something with storage; where that fails in a way that may pass, again, with longer and longer waits.

    Args:
      do: what to do; it is called again from its beginning.
      what: what did not come about, for messages: "the record of round 3 could not be written to 'records.jsonl'".
      undo: clears what a failed try left, before the next one and before the error.
      of: the exceptions that are failures of storage; others are not caught.

    Returns:
      what `do` returns.

    Raises:
      StorageError: at once for what does not pass, else after the last of the tries. It has the number of the error,
        where there is one.

    Example:
      >>> patiently(lambda: 3, "nothing")
      3
    """
    begin = time.monotonic()
    for tries, wait in enumerate((*WAITS, None), start=1):
        try:
            return do()
        except of as error:
            code, text = _told(error)
        undo()
        if wait is None or code not in PASSING:
            # Outside of `except`, and once what failed is gone: else complaints of what it left behind would follow
            # this error when the interpreter ends, and hide it.
            gc.collect()
            again = f" ({tries} tries in {time.monotonic() - begin:.0f} seconds)" if tries > 1 else ""
            raise failed(code, f"{what}: {text}{again}")
        LOG.warning("%s: %s; tried again in %g seconds", what, text, wait)
        time.sleep(wait)
    raise AssertionError  # the last try returns or raises


def failed(code: int | None, text: str) -> StorageError:
    """A StorageError with a number, or without one."""
    return StorageError(code, text) if code else StorageError(text)


def words_of(error: OSError) -> str:
    """The words of an error, without the number in front."""
    return error.strerror or str(error)


def _told(error: Any) -> tuple[int | None, str]:
    """The number of an error, and what it means; storage layers below Python have both in their text alone."""
    text, code = str(error).strip(), getattr(error, "errno", None)
    found = re.search(r"\[OS error (\d+)", text)
    if code is None and found:
        code = int(found[1])
    full = "RESOURCE_EXHAUSTED" in text and "ut of memory" not in text
    if code is None and ("No space left" in text or full):
        code = errno.ENOSPC
    return code, os.strerror(code) if code else (text.splitlines() or [type(error).__name__])[0]


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


def to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if os.name != "posix":  # elsewhere neither folders nor files that were opened to read can be flushed
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


NO_FLOCK = "this system has no flock"


@contextlib.contextmanager
def locked(path: Path, refusal: Callable[[str], str]) -> Generator[str]:
    """Holds the operating system's lock on a file, which goes with the process however that ends.

    Args:
      path: the file; it is made where it is missing and stays.
      refusal: the error's text where somebody else holds it, of what they wrote into the file.

    Yields:
      why there is no lock, empty where there is one: `NO_FLOCK`, or in the system's words, as of a file system that
      passes none on.

    Raises:
      RuntimeError: somebody holds it.
    """
    if fcntl is None:
        yield NO_FLOCK
        return
    with path.open("a+", encoding="utf-8") as file:
        why = ""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RuntimeError(refusal(file.read().strip() or "unknown")) from None
        except OSError as error:
            why = words_of(error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield why
