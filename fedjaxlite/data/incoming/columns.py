"""Raw columns as arrays of numbers: which are taken, what encodes them, and what one row looks like."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.incoming.choice import Wanted, nearest

ADVICE = (
    "a model needs numbers: encode={{{0!r}: a function of one value}} makes them, such as "
    "fl.datasets.encode_words(...); or leave the column out with features=[...]"
)


def arrays(raw: Mapping[str, Any], wanted: Wanted, where: Callable[[int], str]) -> dict[str, np.ndarray]:
    """The columns that are wanted, as arrays `[n, ...]` under their own names.

    Args:
      raw: by name in the source, n values each: an array, or a list of numbers, lists or whatever `encode` takes.
      wanted: what to take.
      where: says whose row an index is, for messages.

    Raises:
      TypeError, ValueError: there is no such column, or it does not make an array of numbers; the text says where.
    """
    check_columns(wanted, raw)
    chosen = {column: column for column in raw} if wanted.features is None else wanted.features
    made = {}
    for column, name in chosen.items():
        values = raw[column]
        if column in wanted.encode:
            values = _encoded(column, values, wanted.encode[column], where)
        made[name] = _shaped(column, _numbers(column, values, where), wanted.shapes.get(column), where)
    return made


def check_columns(wanted: Wanted, columns: Iterable[str]) -> None:
    """Refuses names of columns that are not there.

    Raises:
      ValueError: names the argument, and the nearest column.
    """
    columns = list(columns)
    asked = {"features": wanted.features or {}, "encode": wanted.encode, "shapes": wanted.shapes}
    for argument, names in asked.items():
        for name in names:
            if name not in columns:
                raise ValueError(f"`{argument}` names {name!r}; {nearest(name, columns, 'the columns are')}")
            if wanted.features is not None and name not in wanted.features:
                raise ValueError(
                    f"`{argument}` names {name!r}, which `features` leaves out; take it, or drop it there."
                )


def _encoded(column: str, values: Any, function: Callable[[Any], Any], where: Callable[[int], str]) -> list[Any]:
    made = []
    for row, value in enumerate(values):
        try:
            made.append(function(value))
        except Exception as error:
            error.add_note(f"encode[{column!r}] raised this on {checks.shown(value)}, {where(row)}.")
            raise
    for row, value in enumerate(made):
        if value is None or isinstance(value, (str, bytes)):
            raise TypeError(
                f"encode[{column!r}] made {checks.shown(value)} of {checks.shown(values[row])}, {where(row)}; expected "
                "a number, or an array of numbers of one shape for every value."
            )
    return made


def _numbers(column: str, values: Any, where: Callable[[int], str]) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(_unlike(column, values, where)) from None
    if array.dtype.kind in "iufb" or array.dtype.kind == "V":
        return array
    for row, value in enumerate(values):
        text = _first_odd(value)
        if text is not None:
            kind = "nothing (null)" if text == "None" else text
            remedy = "fill it in, or leave the row out" if text == "None" else ADVICE.format(column)
            raise TypeError(f"column {column!r} holds {kind} at {where(row)}; {remedy}.")
    if array.dtype.kind == "O":
        raise ValueError(_unlike(column, values, where))
    raise TypeError(f"column {column!r} has dtype {array.dtype}; {ADVICE.format(column)}.")


def _first_odd(value: Any) -> str | None:
    """What in a value is no number, as text; None where all of it is."""
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object):
        return next((odd for odd in map(_first_odd, value) if odd is not None), None)
    if isinstance(value, (bool, int, float, np.number, np.bool_)):
        return None
    if isinstance(value, np.ndarray):
        return None if value.dtype.kind in "iufb" else checks.shown(value)
    return checks.shown(value)


def _unlike(column: str, values: Any, where: Callable[[int], str]) -> str:
    first = _shape_of(values[0])
    for row, value in enumerate(values):
        if _shape_of(value) != first:
            return (
                f"column {column!r} has {_told(_shape_of(value))} at {where(row)}, and {_told(first)} at {where(0)}; "
                f"expected one shape. Pad or cut them by encode={{{column!r}: a function of one value}}."
            )
    return f"column {column!r} makes no array of numbers; {ADVICE.format(column)}."


def _shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of a value, or None where it is ragged in itself."""
    try:
        return np.shape(value)
    except ValueError:
        return None


def _told(shape: tuple[int, ...] | None) -> str:
    return "rows of unlike lengths" if shape is None else "one number" if shape == () else f"shape {list(shape)}"


def _shaped(column: str, array: np.ndarray, shape: tuple[int, ...] | None, where: Callable[[int], str]) -> np.ndarray:
    if shape is None:
        return array
    if int(np.prod(shape)) != int(np.prod(array.shape[1:])):
        raise ValueError(
            f"`shapes` has {list(shape)} for {column!r}, but its rows have {_told(array.shape[1:])}, as at {where(0)}; "
            "expected as many numbers."
        )
    return array.reshape(len(array), *shape)
