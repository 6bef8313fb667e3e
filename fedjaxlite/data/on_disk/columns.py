"""Rows on their way to a disk: checked, cast, held to the kind of those before them, appended."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.on_disk.header import Column


class Checked(NamedTuple):
    """What is asked of rows.

    Attributes:
      num_classes: labels in feature `y` lie in `[0, num_classes)`; None for no such check.
      check_finite: refuse NaN and infinity.
      buffer_bytes: about as much is held in memory at a time.
    """

    num_classes: int | None
    check_finite: bool
    buffer_bytes: int


def checked(num_classes: Any, check_finite: Any, buffer_bytes: Any) -> Checked:
    """The options of a writer.

    Raises:
      TypeError, ValueError: the text names the argument.
    """
    num_classes = None if num_classes is None else int(checks.positive_int(num_classes=num_classes))
    return Checked(
        num_classes, checks.flag(check_finite=check_finite), int(checks.positive_int(buffer_bytes=buffer_bytes))
    )


def iterated(expected: str, **named: Any) -> Iterator[Any]:
    """Iterates over what a writer is given.

    Args:
      expected: what each of it should be.
      **named: by the argument's name.

    Raises:
      TypeError: it cannot be iterated over, or is a text or a dict.
    """
    ((name, given),) = named.items()
    with contextlib.suppress(TypeError):  # a scalar array has the method, and refuses
        if not isinstance(given, (str, bytes, Mapping)):
            return iter(given)
    raise TypeError(f"`{name}` is {checks.shown(given)}; expected an iterable that gives {expected}.")


def alike(one: np.dtype, other: np.dtype) -> bool:
    """Whether two dtypes are written as one: int64 as int32, float64 as float32."""
    if one == other:
        return True
    wide = {"int64": "int32", "float64": "float32"}
    return wide.get(one.name, one.name) == wide.get(other.name, other.name)


def columns_of(features: Mapping[str, np.ndarray]) -> tuple[Column, ...]:
    """The columns of features that were cast."""
    return tuple(
        Column(name, str(array.dtype), tuple(array.shape[1:]), f"feature_{i}.bin")
        for i, (name, array) in enumerate(features.items())
    )


def cast(
    features: Mapping[str, Any],
    before: Sequence[Column] | None,
    what: Checked,
    where: Callable[[int], str],
    told: tuple[str, str],
) -> dict[str, np.ndarray]:
    """A block's features as they go to the disk.

    Args:
      features: arrays `[n, ...]`.
      before: the columns of the first block; None for the first one.
      what: is asked.
      where: says whose row an index is.
      told: what this block and the first one are called.

    Raises:
      TypeError, ValueError: a value that cannot be, or rows of another kind than those before.
    """
    made = host_arrays.as_features(features, where=where, check_finite=what.check_finite, num_classes=what.num_classes)
    if before is None:
        return made
    expected = {column.name: column for column in before}
    if set(made) != set(expected):
        raise ValueError(f"{told[0]} has features {sorted(made)}, but {told[1]} has {sorted(expected)}.")
    for name, array in made.items():
        column = expected[name]
        if (str(array.dtype), tuple(array.shape[1:])) != (column.dtype, column.shape):
            here, there = (
                f"{dtype}{list(shape) if shape else ''}"
                for dtype, shape in ((array.dtype, array.shape[1:]), (column.dtype, column.shape))
            )
            raise ValueError(
                f"feature {name!r} of {told[0]} is {here}, but that of {told[1]} is {there}; expected one dtype and "
                "shape of rows everywhere. Cast them before they are written."
            )
    return {name: made[name] for name in expected}


def append(folder: Path, columns: Sequence[Column], features: Mapping[str, np.ndarray]) -> None:
    """Adds rows at the ends of the columns' files."""
    for column in columns:
        with (folder / column.file).open("ab", buffering=0) as file:
            write_all(file, features[column.name])


def write_all(file: Any, array: np.ndarray) -> None:
    """Writes an array's bytes; a raw file may take fewer than it is given."""
    left = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while len(left):
        left = left[file.write(left) :]
