"""Arrow tables as raw columns: numbers, lists of one length, images, and what `encode` makes numbers of."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.data.incoming import pictures
from fedjaxlite.data.incoming.choice import Wanted
from fedjaxlite.data.incoming.columns import ADVICE


class Images(NamedTuple):
    """How images are read.

    Attributes:
      columns: which columns hold them.
      channels: 1, 3, 4, or None for what each has.
      raw: whether pixels stay uint8; else they become float32 in [0, 1].
    """

    columns: frozenset[str]
    channels: int | None
    raw: bool


def raw_columns(table: Any, wanted: Wanted, images: Images, source: str) -> dict[str, Any]:
    """The columns of a table that are wanted, as `columns.arrays` takes them.

    Args:
      table: a `pyarrow.Table`.
      wanted: which columns; those with an `encode` are left as Python's values.
      images: which of them are images, and how they are read.
      source: the table, for messages.

    Raises:
      ValueError, TypeError: a column with missing values, lists of unlike lengths, or of a type that is no number's.
    """
    names = table.column_names if wanted.features is None else wanted.features
    return {name: _column(name, table.column(name), wanted, images, source) for name in names}


def check_labels(table: Any, class_names: Mapping[str, list[str]], source: str) -> None:
    """Refuses rows without a class, which `datasets` gives the number -1, in the columns of classes of a table."""
    for name in class_names:
        if name in table.column_names:
            labels = table.column(name).to_numpy()
            if (labels < 0).any():  # a missing value is NaN here, and told where numbers are made
                raise ValueError(
                    f"column {name!r} has no class (-1) in row {int(np.argmax(labels < 0))} of {source}; filter such "
                    f"rows out, or leave the column out with features=[...]."
                )


def ids(table: Any, column: str, class_names: Mapping[str, list[str]], source: str) -> list[Any]:
    """The client of each row: ints or strings; the names of classes where the column holds classes."""
    values = table.column(column).to_pylist()
    if None in values:
        raise ValueError(f"column {column!r} names no client in row {values.index(None)} of {source}; fill it in.")
    known = class_names.get(column)
    return values if known is None else [known[value] for value in values]


def _column(name: str, column: Any, wanted: Wanted, images: Images, source: str) -> Any:
    if name in images.columns:
        if name in wanted.encode:
            return [pictures.pixels(v, images.channels, f"{name!r}") for v in _encoded_images(name, column, source)]
        return _decoded(name, column, images, source)
    if name in wanted.encode:
        return column.to_pylist()
    return _numbers(name, column.combine_chunks(), source)


def _numbers(name: str, column: Any, source: str) -> np.ndarray:
    import pyarrow as pa

    kind = column.type
    if isinstance(column, pa.ChunkedArray):  # combine_chunks keeps several where one would be too long
        return np.concatenate([_numbers(name, part, source) for part in column.chunks])
    if isinstance(kind, pa.BaseExtensionType):
        return _numbers(name, column.storage, source)
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ValueError(
            f"column {name!r} holds nothing (null) in row {row} of {source}; fill it in, drop the row, or make numbers "
            f"of it by encode={{{name!r}: a function of one value}}."
        )
    if pa.types.is_dictionary(kind):
        return _numbers(name, column.dictionary_decode(), source)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
        if len(lengths) > 1:
            raise ValueError(
                f"column {name!r} has lists of {lengths[0]} to {lengths[-1]} entries in {source}; expected one length. "
                f"Pad or cut them by encode={{{name!r}: a function of one value}}."
            )
        inner = _numbers(name, column.flatten(), f"all entries of the lists of {source}")
        return inner.reshape(len(column), -1, *inner.shape[1:]) if len(column) else inner[:, None]
    raise TypeError(f"column {name!r} of {source} has the type {kind}; {ADVICE.format(name)}.")


def _encoded_images(name: str, column: Any, source: str) -> list[Any]:
    found = []
    for row, value in enumerate(column.to_pylist()):
        image = value if not isinstance(value, dict) else value.get("bytes") or value.get("path")
        if image is None:
            raise ValueError(f"column {name!r} holds no image in row {row} of {source}; fill it in, or drop the row.")
        found.append(image)
    return found


def _decoded(name: str, column: Any, images: Images, source: str) -> np.ndarray:
    made = []
    for row, value in enumerate(_encoded_images(name, column, source)):
        pixels = pictures.pixels(value, images.channels, f"column {name!r} in row {row} of {source}")
        if made and pixels.shape != made[0].shape:
            raise ValueError(
                f"column {name!r} has an image of shape {list(pixels.shape)} in row {row} of {source}, and "
                f"{list(made[0].shape)} before it; bring images to one size, for example by encode={{{name!r}: a "
                "function of an array}, or pass channels= where only these differ."
            )
        made.append(pixels)
    stacked = np.stack(made)
    return stacked if images.raw else pictures.as_floats(stacked)
