"""The two passes over a table: keys and words into memory, then inputs straight to the place where they stay.

So a table of a million rows lies in memory once, as the float32 matrix that it becomes, beside a block of its rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.data import host_arrays
from fedjaxlite.datasets.tables import kinds as kinds_
from fedjaxlite.datasets.tables import words as words_
from fedjaxlite.datasets.tables.sources import Part


class Keys(NamedTuple):
    """What the first pass found.

    Attributes:
      rows: how many each part has.
      values: float64 `[n]` of columns of numbers, NaN where missing; int64 of those of whole numbers without a gap.
      coded: columns of text, as codes.
    """

    rows: tuple[int, ...]
    values: Mapping[str, np.ndarray]
    coded: Mapping[str, words_.Coded]

    def missing(self, column: str) -> np.ndarray:
        """Bool `[n]`, where a column has no value."""
        if column in self.coded:
            return self.coded[column].codes < 0
        values = self.values[column]
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)


class Place(NamedTuple):
    """Where a column goes in `x`, and its codes where it is one of categories.

    Attributes:
      start: the first column of `x`.
      width: how many columns it takes.
      codes: int32 `[n]`, or None for numbers.
      one_hot: whether each word has a column.
    """

    start: int
    width: int
    codes: np.ndarray | None = None
    one_hot: bool = False


def where_in(parts: Sequence[Part], rows: Sequence[int], row: int) -> str:
    """A row of all parts, counted from 0, for messages: its number in its file."""
    for part, count in zip(parts, rows, strict=True):
        if row < count:
            return part.row(row)
        row -= count
    return f"row {row + 1}"


def read_keys(
    parts: Sequence[Part], columns: Sequence[str], kinds: Mapping[str, str], missing_words: Sequence[str]
) -> Keys:
    """The first pass: some columns, whole."""
    chunks: dict[str, list[np.ndarray]] = {column: [] for column in columns}
    tables: dict[str, dict[str, int]] = {column: {} for column in columns if kinds[column] == "text"}
    rows = []
    for part in parts:
        rows.append(0)
        asked = list(columns) or list(part.kinds)[:1]  # of one column at least, to count its rows
        for batch in part.batches(asked, kinds):
            rows[-1] += batch.num_rows
            for column in columns:
                array = batch.column(column)
                if column in tables:
                    chunks[column].append(words_.codes_of(array, tables[column], missing_words))
                else:
                    chunks[column].append(_values(array, kinds[column]))
    kinds_.arrow().default_memory_pool().release_unused()  # the blocks, before the inputs come
    coded = {column: words_.of_text(chunks.pop(column), table) for column, table in tables.items()}
    values = {column: np.concatenate([*own, np.zeros(0, np.int64)]) for column, own in chunks.items()}
    return Keys(tuple(rows), values, coded)


def _values(array: Any, kind: str) -> np.ndarray:
    if kind == "int" and not array.null_count:
        return array.to_numpy()
    return kinds_.numbers(array, kind)


class Inputs(NamedTuple):
    """What the second pass made.

    Attributes:
      x: float32 `[n, d]`, in the order of the ranks, NaN where a value is missing.
      missing: by column, how many values, and the first row without one.
      beyond: by column, the first row whose value is infinite, or beyond float32.
    """

    x: np.ndarray
    missing: Mapping[str, tuple[int, int]]
    beyond: Mapping[str, int]


def read_inputs(
    parts: Sequence[Part], places: Mapping[str, Place], kinds: Mapping[str, str], rank: np.ndarray, width: int
) -> Inputs:
    """The second pass: inputs block by block, each row to its place.

    Args:
      parts: as in the first pass.
      places: the inputs.
      kinds: what columns are read as.
      rank: int `[n]`, the row of `x` that each row of the table becomes.
      width: d.
    """
    x = host_arrays.aligned((len(rank), width), np.float32)
    missing: dict[str, tuple[int, int]] = {}
    beyond: dict[str, int] = {}
    numeric = [column for column, place in places.items() if place.codes is None]
    for start, count, batch in _blocks(parts, numeric, kinds, len(rank)):
        block = np.empty((count, width), np.float32)
        for column, place in places.items():
            if place.codes is None:
                values = kinds_.numbers(batch.column(column), kinds[column])
                gaps = np.isnan(values)
                with np.errstate(over="ignore"):
                    block[:, place.start] = values
                infinite = np.isinf(block[:, place.start])
                if infinite.any():
                    beyond.setdefault(column, start + int(np.argmax(infinite)))
            else:
                codes = place.codes[start : start + count]
                gaps = codes < 0
                block[:, place.start : place.start + place.width] = _written(codes, place)
            if gaps.any():
                before, first = missing.get(column, (0, start + int(np.argmax(gaps))))
                missing[column] = (before + int(gaps.sum()), first)
        x[rank[start : start + count]] = block
    return Inputs(x, missing, beyond)


def _blocks(parts: Sequence[Part], numeric: Sequence[str], kinds: Mapping[str, str], total: int) -> Any:
    """Blocks of rows: where each starts, its length, and the batch of its columns of numbers."""
    start = 0
    if not numeric:  # categories only, which are in memory already
        for start in range(0, total, 65_536):
            yield start, min(65_536, total - start), None
        return
    for part in parts:
        for batch in part.batches(numeric, kinds):
            yield start, batch.num_rows, batch
            start += batch.num_rows


def _written(codes: np.ndarray, place: Place) -> np.ndarray:
    """Codes as numbers `[b, 1]`, or one-hot `[b, width]`; NaN for what is missing."""
    numbers = (codes[:, None] == np.arange(place.width)) if place.one_hot else codes[:, None]
    written = numbers.astype(np.float32)
    written[codes < 0] = np.nan
    return written
