"""What a table can be read from: files by name, and whatever speaks Arrow; as parts that can be read twice."""

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedjaxlite import checks
from fedjaxlite.datasets.tables import csv_files
from fedjaxlite.datasets.tables import kinds as kinds_

CSV = (".csv", ".tsv", ".data", ".txt")
PARQUET = (".parquet", ".pq")
IPC = (".arrow", ".feather", ".ipc")
PACKED = (".gz", ".bz2", ".zst", ".lz4")
_ROWS = 16_384
_EXPECTED = (
    "a file (.csv, .csv.gz, .tsv, .data, .txt, .parquet, .arrow, .feather), a folder or a pattern of them such as "
    "'visits/*.csv', a list of these, a pyarrow Table, or a pandas or polars frame"
)


class Part(NamedTuple):
    """A file or a frame.

    Attributes:
      path: the file's path, or "" for a frame.
      kinds: its columns with their kinds, in order.
      coded: those whose type says that they are categories, as a frame's may.
      batches: `f(names, kinds)` gives record batches with these columns, each as its kind; any number of times.
    """

    path: str
    kinds: Mapping[str, str]
    coded: frozenset[str]
    batches: Callable[[Sequence[str], Mapping[str, str]], Iterator[Any]]

    def row(self, number: int) -> str:
        """A row counted from 0, for messages."""
        return f"row {number + 1}" + (f" of {self.path!r}" if self.path else "")


def parts_of(source: Any, how: csv_files.Format) -> list[Part]:
    """The parts of a source, in order; files of a folder or a pattern by name.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError, TypeError: it is no table, or parts have different columns.
    """
    if isinstance(source, (str, os.PathLike)):
        parts = [_file(path, how) for path in _paths(os.fspath(source))]
    elif isinstance(source, (list, tuple)):
        if not source:
            raise ValueError(f"`source` is an empty list; expected {_EXPECTED}.")
        parts = [part for one in source for part in parts_of(one, how)]
    else:
        parts = [_frame(source)]
    for part in parts[1:]:
        if set(part.kinds) != set(parts[0].kinds):
            odd = sorted(set(part.kinds) ^ set(parts[0].kinds))
            raise ValueError(
                f"{part.path!r} and {parts[0].path!r} have different columns: {odd[0]!r} is in one of them; expected "
                "the same columns in every file. Files without a header need columns=[...]."
            )
    return parts


def _paths(source: str) -> list[str]:
    source = os.path.expanduser(source)  # noqa: PTH111
    if Path(source).is_dir():
        found = sorted(str(path) for path in Path(source).iterdir() if path.is_file() and _suffix(str(path)))
        if not found:
            raise FileNotFoundError(f"`source` is the folder {source!r}, which holds no table; expected {_EXPECTED}.")
        return found
    if Path(source).is_file():
        return [source]
    found = sorted(glob.glob(source, recursive=True))  # noqa: PTH207
    if not found:
        what = "nothing matches the pattern" if glob.has_magic(source) else "there is no file"
        raise FileNotFoundError(f"`source` is {source!r}; {what}, seen from {str(Path.cwd())!r}.")
    return [path for path in found if Path(path).is_file()]


def _suffix(path: str) -> str:
    """The suffix that tells a table's format, "" for other files."""
    ends = [end.lower() for end in Path(path).suffixes]
    if ends and ends[-1] in PACKED:
        ends = ends[:-1]
        return ends[-1] if ends and ends[-1] in CSV else ""
    return ends[-1] if ends and ends[-1] in (*CSV, *PARQUET, *IPC) else ""


def _file(path: str, how: csv_files.Format) -> Part:
    suffix = _suffix(path)
    if not suffix:
        raise ValueError(f"`source` is {path!r}, whose suffix tells no format of tables; expected {_EXPECTED}.")
    kinds_.arrow()
    if suffix in CSV:
        found = csv_files.kinds_in(path, how)
        return Part(path, found, frozenset(), lambda names, kinds: csv_files.batches(path, how, names, kinds))
    if how.columns is not None:
        raise ValueError(f"`columns` is for CSV files without a header; {path!r} has names of its own. Leave it out.")
    open_file, read = (_open_parquet, _read_parquet) if suffix in PARQUET else (_open_ipc, _read_ipc)
    try:
        with open_file(path) as file:
            schema = file.schema_arrow if suffix in PARQUET else file.schema
    except kinds_.arrow().ArrowInvalid as error:
        raise ValueError(f"`source` is {path!r}, which cannot be read as {suffix}: {error}") from error

    def batches(names: Sequence[str], kinds: Mapping[str, str]) -> Iterator[Any]:
        with open_file(path) as file:
            yield from _cast(read(file, names), names, kinds, path)

    return Part(path, _kinds_of(schema), _coded(schema), batches)


def _open_parquet(path: str) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(path)


def _read_parquet(file: Any, names: Sequence[str]) -> Iterator[Any]:
    return file.iter_batches(batch_size=_ROWS, columns=list(names))


def _open_ipc(path: str) -> Any:
    """A file with a footer, or a stream of messages: Arrow has the two under one suffix."""
    pa = kinds_.arrow()
    try:
        return pa.ipc.open_file(pa.memory_map(path))
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(pa.memory_map(path))


def _read_ipc(file: Any, names: Sequence[str]) -> Iterator[Any]:
    if hasattr(file, "num_record_batches"):
        batches = (file.get_batch(i) for i in range(file.num_record_batches))
    else:
        batches = iter(file)
    return (batch.select(list(names)) for batch in batches)


def _frame(source: Any) -> Part:
    """A part of what speaks Arrow: pyarrow's own, pandas, polars, and others with `__arrow_c_stream__`."""
    kind = type(source)
    known = kind.__module__.split(".")[0] in ("pandas", "polars") or hasattr(source, "__arrow_c_stream__")
    if not known and not hasattr(source, "__arrow_c_array__"):
        raise TypeError(f"`source` is {checks.shown(source)}; expected {_EXPECTED}.")
    pa = kinds_.arrow()
    if hasattr(source, "collect") and not hasattr(source, "__arrow_c_stream__"):
        source = source.collect()  # a lazy frame of polars
    named = [name for name in getattr(getattr(source, "index", None), "names", ()) if name is not None]
    if named:
        raise ValueError(
            f"`source` has an index named {named[0]!r}, which is no column; pass frame.reset_index() to make "
            "one of it, or frame.reset_index(drop=True) to leave it out."
        )
    try:
        if kind.__module__.split(".")[0] == "pandas":
            table = pa.Table.from_pandas(source, preserve_index=False)
        else:
            table = pa.Table.from_batches([source]) if isinstance(source, pa.RecordBatch) else pa.table(source)
    except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
        raise TypeError(f"`source` is a {kind.__name__} that Arrow cannot take: {error}") from error
    repeated = [name for i, name in enumerate(table.column_names) if name in table.column_names[:i]]
    if repeated:
        raise ValueError(f"`source` has two columns named {repeated[0]!r}; rename one of them.")

    def batches(names: Sequence[str], kinds: Mapping[str, str]) -> Iterator[Any]:
        return _cast(table.select(list(names)).to_batches(max_chunksize=_ROWS), names, kinds, "")

    return Part("", _kinds_of(table.schema), _coded(table.schema), batches)


def _kinds_of(schema: Any) -> dict[str, str]:
    return {name: kinds_.kind_of(dtype) for name, dtype in zip(schema.names, schema.types, strict=True)}


def _coded(schema: Any) -> frozenset[str]:
    is_dictionary = kinds_.arrow().types.is_dictionary
    return frozenset(name for name, dtype in zip(schema.names, schema.types, strict=True) if is_dictionary(dtype))


def _cast(batches: Any, names: Sequence[str], kinds: Mapping[str, str], path: str) -> Iterator[Any]:
    pa = kinds_.arrow()
    for batch in batches:
        try:
            columns = [kinds_.cast(batch.column(name), kinds[name]) for name in names]
        except pa.ArrowException as error:
            raise ValueError(f"`source`{f' {path!r}' if path else ''} cannot be read: {error}") from error
        yield pa.RecordBatch.from_arrays(columns, names=list(names))
