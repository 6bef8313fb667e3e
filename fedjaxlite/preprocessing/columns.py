"""Columns of a feature: which of them a step is about, its bounds for them, and rows that may be written into."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

import fedjaxlite as fl

Per = Literal["examples", "clients"]
Columns = Sequence[int] | Sequence[str] | None
"""Column numbers, names that `pipeline(..., column_names=...)` knows, or None for all."""
Bounds = Any
"""(low, high) for all columns, or one such pair for each of them."""

UNKNOWN = "..."
"""In names before a step is fitted: a number of columns that is not known yet, so what comes behind has no place."""

_ALIGNMENT = 64
"""Bytes; JAX takes such an array on a CPU as it is, without a copy."""


def checked_columns(columns: Any) -> tuple[int, ...] | None:
    """Distinct column numbers in the order given; None stays None, for all of them.

    Raises:
      TypeError, ValueError: for what is no list of distinct ints from 0 on.
    """
    if columns is None:
        return None
    expected = "a list of distinct column numbers, such as [0, 3], or None for all columns"
    listed = listing(columns)
    if not listed:
        raise TypeError(f"`columns` is {fl.checks.shown(columns)}; expected {expected}.")
    chosen = tuple(fl.checks.nonnegative_int(columns=column) for column in listed)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"`columns` is {list(chosen)}, which names a column twice; expected {expected}.")
    return chosen


def are_names(columns: Any) -> bool:
    """Whether columns are given by their names."""
    listed = listing(columns)
    return bool(listed) and all(isinstance(column, str) for column in listed or ())


def positions(step: str, columns: Sequence[str], names: tuple[str, ...]) -> list[int]:
    """The numbers of columns that are given by name.

    Raises:
      ValueError: for a name that no column has; with the one that is meant, perhaps.
    """
    found: list[int] = []
    known = names[: names.index(UNKNOWN)] if UNKNOWN in names else names
    for column in columns:
        if column not in known:
            near = fl.checks.nearest(column, known)
            meant = f"; did you mean {near!r}?" if near is not None else f"; expected some of {list(known)}."
            if column in names:
                meant = ": it comes behind the categories that one_hot finds. Put this step, or that one, elsewhere."
            raise ValueError(f"`columns` of {step} names {column!r}, which is none at this step{meant}")
        found.append(names.index(column))
    return found


def indices(step: str, columns: tuple[int, ...] | None, row_shape: tuple[int, ...]) -> np.ndarray:
    """int32 `[C]`, the columns among the flattened entries of a row.

    Args:
      step: for messages.
      columns: from `checked_columns`.
      row_shape: of a row of the feature; `[]` is one column.

    Raises:
      ValueError: for a column that rows do not have.
    """
    width = int(np.prod(row_shape, dtype=np.int64))
    if columns is None:
        return np.arange(width, dtype=np.int32)
    if max(columns) >= width:
        raise ValueError(
            f"`columns` of {step} holds {max(columns)}, but rows have {width} column{'s' if width > 1 else ''} at this "
            f"step (shape {list(row_shape)}); expected numbers from 0 to {width - 1}."
        )
    return np.asarray(columns, np.int32)


def checked_bounds(bounds: Any, num_columns: int | None) -> np.ndarray | None:
    """float64 `[2]` or `[C, 2]`, or None.

    Args:
      bounds: (low, high), or a pair a column.
      num_columns: of the columns that were named, where they were.

    Raises:
      TypeError, ValueError: for what is no such pairs, or not ascending.
    """
    if bounds is None:
        return None
    expected = "(low, high) with low below high, or one such pair for each column"
    fl.checks.concrete("Build the step outside of jit.", bounds=bounds)
    pairs = np.asarray(fl.checks.real_array(bounds=bounds, shape="[2] or [C, 2]"), np.float64)
    if pairs.ndim not in (1, 2) or pairs.shape[-1] != 2 or pairs.size == 0:
        raise ValueError(f"`bounds` has shape {list(pairs.shape)}; expected {expected}.")
    if not np.isfinite(pairs).all() or not (pairs[..., 0] < pairs[..., 1]).all() or np.abs(pairs).max() > 1e30:
        raise ValueError(f"`bounds` is {pairs.tolist()}; expected {expected}, finite and within 1e30.")
    if pairs.ndim == 2 and num_columns is not None and len(pairs) != num_columns:
        raise ValueError(f"`bounds` has {len(pairs)} pairs for {num_columns} columns; expected {expected}.")
    return pairs


def bounds_of(step: str, bounds: np.ndarray | None, num_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """float64 `[C]` twice, the lower and the upper bounds; infinite ones without bounds."""
    if bounds is None:
        return np.full(num_columns, -np.inf), np.full(num_columns, np.inf)
    if bounds.ndim == 2 and len(bounds) != num_columns:
        raise ValueError(
            f"`bounds` of {step} has {len(bounds)} pairs for {num_columns} columns; expected one pair for all, or one "
            "for each."
        )
    pairs = np.broadcast_to(bounds, (num_columns, 2))
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def checked_codes(codes: Any) -> tuple[int, int]:
    """(low, high), the range of whole numbers that codes lie in, both included.

    Raises:
      TypeError, ValueError: for what is no pair of ints that ascend, and for more than 2^20 of them.
    """
    expected = "(low, high), the smallest and the largest code, as ints with low at most high"
    listed = listing(codes)
    if listed is None or len(listed) != 2:
        raise TypeError(f"`codes` is {fl.checks.shown(codes)}; expected {expected}.")
    plain: list[int] = []
    for code in listed:
        if isinstance(code, (bool, np.bool_)) or not isinstance(code, (int, np.integer)):
            raise TypeError(f"`codes` is {fl.checks.shown(codes)}; expected {expected}.")
        plain.append(int(code))
    low, high = plain
    if low > high or max(abs(low), abs(high)) >= 2**31:
        raise ValueError(f"`codes` is {(low, high)}; expected {expected}, within 2^31.")
    if high - low >= 2**20:
        raise ValueError(
            f"`codes` is {(low, high)}, which are {high - low + 1} codes; expected at most 2^20, since every client "
            "sends a number for each. Renumber them, or find the frequent ones by vocabulary(..., threshold=...)."
        )
    return low, high


def listing(value: Any) -> list[Any] | None:
    """What a flat sequence or array holds, as plain values; None for anything else."""
    if isinstance(value, np.ndarray):
        return value.tolist() if value.ndim == 1 else None
    return list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else None


def flat(rows: Any) -> Any:
    """`[n, C]`: the entries of a row one after the other."""
    return rows.reshape(rows.shape[0], int(np.prod(rows.shape[1:], dtype=np.int64)))


def writable(rows: Any, dtype: Any = None) -> np.ndarray:
    """The rows where they may be written into and have the dtype; else a copy of one's own that JAX takes as it is.

    Args:
      rows: an array `[n, ...]`.
      dtype: wanted; None keeps it.
    """
    rows = np.asarray(rows)
    dtype = rows.dtype if dtype is None else np.dtype(dtype)
    if rows.flags.writeable and rows.dtype == dtype and rows.flags.c_contiguous:
        return rows
    own = empty(rows.shape, dtype)
    own[...] = rows
    return own


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that JAX takes on a CPU without a copy."""
    num_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    room = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % _ALIGNMENT
    return room[begin : begin + num_bytes].view(dtype).reshape(shape)


def is_float(dtype: Any) -> bool:
    """Whether entries can be missing: NaN is a float."""
    return bool(jax.numpy.issubdtype(dtype, jax.numpy.floating))


def only_numbers(step: str, rows: Any) -> None:
    """Refuses a feature of booleans' like that arithmetic says nothing about."""
    if not (is_float(rows.dtype) or np.dtype(rows.dtype).kind in "iub"):
        raise TypeError(f"{step} is about numbers; the feature has dtype {rows.dtype}.")
