"""Parquet files larger than memory: streamed into a packed folder, grouped by client."""

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.incoming import arrow, choice, columns, hf_dataset
from fedjaxlite.data.population import Population

_ROWS = 8192
_NO_IMAGES = arrow.Images(frozenset(), None, False)


def from_parquet(
    source: Any,
    folder: str | os.PathLike[str],
    *,
    client: str,
    features: Sequence[str] | Mapping[str, str] | None = None,
    encode: Mapping[str, Callable[[Any], Any]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    num_classes: int | None = None,
    check_finite: bool = True,
    buffer_bytes: int = 1 << 26,
) -> Population:
    """Streams Parquet files into a folder, a row an example, and opens it as a Population on the disk.

    Nothing is held but a buffer of rows and the clients' ids, so that files may be larger than memory. Those that fit
    in memory, with missing values, categories and dates, are a matter of `from_table`.

    Args:
      source: a file, a folder of files, a pattern ("visits/*.parquet"), or a list of them.
      folder: to be made, or empty; see `Population.write_rows`.
      client: the column whose value says whose a row is: ints or strings. Its rows need not be together.
      features: which columns to take, such as {"pixels": "x", "label": "y"} for names of one's own; None takes all but
        `client`.
      encode: for a column of texts, or of another type that holds no numbers, a function of one value.
      shapes: the shape of one row, by column.
      num_classes: feature `y` must hold labels in `[0, num_classes)`; None for no such check.
      check_finite: refuse NaN and infinity.
      buffer_bytes: about as much is held at a time.

    Returns:
      The Population on the disk: clients sorted by id, rows in the order of the files. `Population.open(folder)` opens
      it again.

    Raises:
      ModuleNotFoundError: pyarrow is not installed. FileNotFoundError: there is no such file.
      ValueError, TypeError: no Parquet file, a column that is not there or holds no numbers, rows without a value or a
        client, or of unlike shapes; the text names file and row.

    Example:
      >>> import pathlib, tempfile
      >>> import fedjaxlite as fl
      >>> import pyarrow as pa, pyarrow.parquet as pq
      >>> table = pa.table({"hospital": ["Bern", "Basel", "Bern"], "x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})
      >>> with tempfile.TemporaryDirectory() as place:
      ...     pq.write_table(table, pathlib.Path(place, "visits.parquet"))
      ...     people = fl.datasets.from_parquet(
      ...         pathlib.Path(place, "visits.parquet"), pathlib.Path(place, "packed"), client="hospital")
      ...     people.names.tolist(), people.client("Bern")["x"].tolist()
      (['Basel', 'Bern'], [[1.0, 2.0], [5.0, 6.0]])
    """
    wanted = choice.wanted(features, encode, shapes)
    checks.text(client=client)
    blocks = (block for path in _paths(source) for block in _blocks(path, client, wanted))
    return Population.write_rows(
        folder, blocks, num_classes=num_classes, check_finite=check_finite, buffer_bytes=buffer_bytes
    )


def _paths(source: Any) -> list[Path]:
    if isinstance(source, (list, tuple)) and source:
        return [path for one in source for path in _paths(one)]
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"`source` is {checks.shown(source)}; expected a Parquet file, a folder or a pattern of them.")
    text = os.fspath(Path(source).expanduser())
    path = Path(text)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*.parquet") if p.is_file())
    else:
        found = [path] if path.is_file() else sorted(Path(p) for p in glob.glob(text, recursive=True))  # noqa: PTH207
    if not found:
        raise FileNotFoundError(f"`source` is {text!r}; there is no Parquet file, seen from {str(Path.cwd())!r}.")
    return found


def _blocks(
    path: Path, client: str, wanted: choice.Wanted
) -> Iterator[tuple[Sequence[Any] | np.ndarray, dict[str, np.ndarray]]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('Parquet files are read by pyarrow; pip install "fedjaxlite[tables]".') from error
    try:
        file = parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{str(path)!r} cannot be read as Parquet: {error}") from error
    with file:
        names = file.schema_arrow.names
        if client not in names:
            raise ValueError(f"`client` is {client!r}; {choice.nearest(client, names, f'the columns of {path} are')}")
        spelled = hf_dataset.others(wanted, names, client)
        asked = list(dict.fromkeys([client, *(spelled.features or ())]))
        start = 0
        for batch in file.iter_batches(batch_size=_ROWS, columns=asked):
            table, part = pa.Table.from_batches([batch]), f"{str(path)!r} from row {start} on"
            owners = _owners(table, client, part)

            def where(row: int, owners: Any = owners, start: int = start) -> str:
                return f"row {start + row} of {str(path)!r} (client {owners[row]!r})"

            yield owners, columns.arrays(arrow.raw_columns(table, spelled, _NO_IMAGES, part), spelled, where)
            start += len(owners)


def _owners(table: Any, client: str, part: str) -> Any:
    """Ints as an array, which millions of rows go through fast; texts as a list."""
    import pyarrow as pa

    column = table.column(client)
    if pa.types.is_integer(column.type) and not column.null_count:
        return column.to_numpy()
    return arrow.ids(table, client, {}, part)
