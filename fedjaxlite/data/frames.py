"""Data frames of pandas or polars, made of what the library returns; neither is needed otherwise."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedjaxlite import checks

LIBRARIES = ("pandas", "polars")


def frame_of_rows(rows: Sequence[Mapping[str, Any]], library: str) -> Any:
    """A frame of dicts, a row each; its columns are all of their names, in the order in which they come.

    Args:
      rows: dicts of plain values. A name that a row does not have is missing there: NaN among numbers, and else None
        (null in polars).
      library: "pandas" or "polars".

    Raises:
      ValueError: another library. ModuleNotFoundError: it is not installed.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return frame_of_columns({name: [row.get(name) for row in rows] for name in names}, library)


def frame_of_columns(columns: Mapping[str, Sequence[Any] | np.ndarray], library: str) -> Any:
    """A frame of columns of one length: lists in which None is what is missing, or arrays `[n]`.

    Args:
      columns: by name.
      library: "pandas" or "polars".

    Raises:
      ValueError: another library. ModuleNotFoundError: it is not installed.
    """
    library = checks.one_of(LIBRARIES, library=library)
    try:
        module: Any = importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"a frame of {library} needs {library}: pip install {library}, or take "
            f"library={LIBRARIES[library == LIBRARIES[0]]!r}."
        ) from error
    if library == "polars":
        return module.DataFrame({name: _plain(column) for name, column in columns.items()}, strict=False)
    return module.DataFrame({name: _for_pandas(module, _plain(column)) for name, column in columns.items()})


def _plain(column: Any) -> Any:
    """An array as it is; a list with NumPy's numbers as Python's own."""
    if isinstance(column, np.ndarray):
        return column
    return [value.item() if isinstance(value, np.generic) else value for value in column]


def _for_pandas(pandas: Any, column: Any) -> Any:
    """A list as pandas is to take it: numbers as numbers, with NaN for what is missing; anything else as it is."""
    if isinstance(column, np.ndarray):
        return column
    there = [value for value in column if value is not None]
    if there and all(isinstance(value, bool) for value in there):
        return pandas.array(column, dtype="boolean") if len(there) < len(column) else np.asarray(column)
    if there and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there):
        return np.asarray([np.nan if value is None else value for value in column])
    if there and all(isinstance(value, str) for value in there):
        return column
    return pandas.Series(column, dtype=object)
