"""CSV files by Arrow: which kinds its columns are of, its rows block by block, and what is wrong in which line."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedjaxlite.datasets.tables import kinds as kinds_

BLOCK = 1 << 19
"""Bytes that are parsed at a time. Arrow reads 32 blocks ahead, so that this is the memory that a file needs."""

HEAD = 1 << 22
"""Bytes that tell the kinds of columns."""


class Format(NamedTuple):
    """How CSV files are written.

    Attributes:
      columns: names of the columns of files without a header; None where the first line has them.
      delimiter: one character; None for commas, and tabs in files named .tsv.
      missing_words: what stands for a missing value.
      encoding: of the text.
    """

    columns: tuple[str, ...] | None
    delimiter: str | None
    missing_words: tuple[str, ...]
    encoding: str


class UnlikeKind(Exception):
    """A value that is not of its column's kind: the caller reads the column as another kind, or refuses."""

    def __init__(self, path: str, column: str, row: int | None, value: str) -> None:
        super().__init__(f"{column!r} in {path!r}: {value!r}")
        self.path, self.column, self.row, self.value = path, column, row, value


def kinds_in(path: str, how: Format) -> dict[str, str]:
    """The file's columns with their kinds, as its first block has them."""
    invalid = kinds_.arrow().ArrowInvalid
    try:
        try:
            reader = _open(_head(path), path, how, {}, None, threads=True)
        except invalid:  # the head may end within a quoted value, and the file be sound
            reader = _open(path, path, how, {}, None, threads=True)
    except invalid as error:
        raise _explained(path, how, None, {}, error) from error
    with reader:
        names, types = reader.schema.names, reader.schema.types
    _check_header(path, how, names)
    found = {}
    for name, dtype in zip(names, types, strict=True):
        if str(dtype) == "binary":
            raise ValueError(
                f"column {name!r} of {path!r} is not {how.encoding}; pass its encoding, such as encoding='latin-1'."
            )
        if name in found:
            raise ValueError(f"{path!r} has two columns named {name!r}; rename one of them in its header.")
        found[name] = kinds_.kind_of(dtype)
    return found


def batches(path: str, how: Format, names: Sequence[str], kinds: Mapping[str, str]) -> Iterator[Any]:
    """Record batches with the columns `names`, each read as its kind.

    Raises:
      UnlikeKind: a value cannot be read so.
    """
    try:
        with _open(path, path, how, kinds, names, threads=True) as reader:
            yield from reader
    except kinds_.arrow().ArrowInvalid as error:
        raise _explained(path, how, names, kinds, error) from error


def _head(path: str) -> Any:
    """The first whole lines of a file, as a stream."""
    pa = kinds_.arrow()
    with pa.input_stream(path) as file:
        head = file.read(HEAD)
    return pa.BufferReader(head if len(head) < HEAD else head[: head.rfind(b"\n") + 1])


def _open(
    file: Any, path: str, how: Format, kinds: Mapping[str, str], names: Sequence[str] | None, *, threads: bool
) -> Any:
    from pyarrow import csv

    tabs = os.path.basename(path).lower().split(".")[1:2] == ["tsv"]  # noqa: PTH119
    delimiter = how.delimiter or ("\t" if tabs else ",")
    spaced = [word for text in how.missing_words for word in (text, f" {text}")]
    return csv.open_csv(
        file,
        read_options=csv.ReadOptions(
            use_threads=threads,
            block_size=BLOCK if file is path else HEAD,
            column_names=how.columns,
            encoding=how.encoding,
        ),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            null_values=spaced,
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            column_types={name: kinds_.read_as(kind) for name, kind in kinds.items()},
            include_columns=list(names) if names is not None else None,
        ),
    )


def _explained(
    path: str, how: Format, names: Sequence[str] | None, kinds: Mapping[str, str], error: Exception
) -> Exception:
    """The error once more from one thread, which knows the row; rows are counted from 1 after the header."""
    message = str(error)
    if "Empty CSV" in message:
        return ValueError(f"{path!r}: it is empty.")
    if "Row #" not in message:
        try:
            with _open(path, path, how, kinds, names, threads=False) as reader:
                for _ in reader:
                    pass
        except kinds_.arrow().ArrowInvalid as again:
            message = str(again)
    at = re.match(
        r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to [^:]+: invalid value '(.*)'$",
        message,
        re.DOTALL,
    )
    if at is None or not kinds:
        return ValueError(f"{path!r} cannot be read as CSV: {message}.{_remedy(message, how)}")
    row = int(at[2]) - (how.columns is None) if at[2] else None
    return UnlikeKind(path, list(kinds_in(path, how))[int(at[1])], row, at[3])


def _remedy(message: str, how: Format) -> str:
    found = re.search(r"Expected (\d+) columns, got (\d+)", message)
    if found is None:
        return ""
    if how.columns is not None:
        return f" `columns` names {len(how.columns)} columns."
    return " A value that holds the delimiter has to be quoted; files without a header need columns=[...]."


def _check_header(path: str, how: Format, names: Sequence[str]) -> None:
    """A file that is read with the wrong delimiter, or whose first line are values, says so by its names."""
    other = next((d for d in (";", "\t", "|", ",") if len(names) == 1 and d in names[0]), None)
    if other is not None:
        raise ValueError(
            f"{path!r} has one column, {names[0]!r}, which holds {other!r}; pass delimiter={other!r} if it separates "
            "the columns."
        )
    if how.columns is None and names and all(_is_value(name, how) for name in names):
        raise ValueError(
            f"the first line of {path!r} holds {', '.join(names[:4])} ...: values, and no names of columns; pass "
            f"columns=[...] with {len(names)} names for files without a header."
        )


def _is_value(name: str, how: Format) -> bool:
    try:
        float(name)
    except ValueError:
        return name.strip() in how.missing_words
    return True
