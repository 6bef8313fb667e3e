"""What a column holds, in seven kinds, and its values as NumPy's arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

KINDS = ("null", "bool", "int", "float", "date", "text", "other")
_MICROSECONDS_A_DAY = 86_400e6


def arrow() -> Any:
    """The package pyarrow.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('tables are read by pyarrow; pip install "fedjaxlite[tables]".') from error
    return pyarrow


def kind_of(dtype: Any) -> str:
    """One of `KINDS` for an Arrow data type."""
    types = arrow().types
    if types.is_dictionary(dtype):
        return kind_of(dtype.value_type)
    for kind, tests in (
        ("null", (types.is_null,)),
        ("bool", (types.is_boolean,)),
        ("int", (types.is_integer,)),
        ("float", (types.is_floating, types.is_decimal)),
        ("date", (types.is_date, types.is_timestamp)),
        ("text", (types.is_string, types.is_large_string, _is_string_view)),
    ):
        if any(test(dtype) for test in tests):
            return kind
    return "other"


def _is_string_view(dtype: Any) -> bool:
    return str(dtype) == "string_view"


def common(kinds: set[str]) -> str:
    """The kind that values of all of these kinds can be read as; text, where there is no narrower one."""
    some = kinds - {"null"}
    if not some:
        return "null"
    if len(some) == 1:
        return next(iter(some))
    if some == {"int", "float"}:
        return "float"
    return "other" if "other" in some else "text"


def read_as(kind: str) -> Any:
    """The Arrow data type that a column of this kind is read as. Text comes as codes, so that no word lies twice."""
    pa = arrow()
    return {
        "null": pa.float64(),
        "bool": pa.bool_(),
        "int": pa.int64(),
        "float": pa.float64(),
        "date": pa.timestamp("us"),
        "text": pa.dictionary(pa.int32(), pa.string()),
    }[kind]


def cast(array: Any, kind: str) -> Any:
    """An Arrow array as `read_as(kind)`; for frames and files that carry their own types."""
    pa, wanted = arrow(), read_as(kind)
    if array.type == wanted:
        return array
    if kind == "text":
        if not pa.types.is_dictionary(array.type):
            return array.cast(pa.string()).dictionary_encode()
        return pa.DictionaryArray.from_arrays(array.indices.cast(pa.int32()), array.dictionary.cast(pa.string()))
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(wanted, safe=False)


def numbers(array: Any, kind: str) -> np.ndarray:
    """Float64 `[n]` of an array that was read as `kind`, NaN where a value is missing; dates in days since 1970."""
    pa = arrow()
    if kind == "date":
        array = array.cast(pa.int64())
    if kind == "bool":
        array = array.cast(pa.int8())
    values = np.asarray(array.to_numpy(zero_copy_only=False), np.float64)  # Arrow makes NaN of what is missing
    return values / _MICROSECONDS_A_DAY if kind == "date" else values


def say(kind: str) -> str:
    """A kind in words, for messages."""
    words: Mapping[str, str] = {
        "null": "nothing but missing values",
        "bool": "true and false",
        "int": "whole numbers",
        "float": "numbers",
        "date": "dates",
        "text": "text",
        "other": "lists, records or bytes",
    }
    return words[kind]
