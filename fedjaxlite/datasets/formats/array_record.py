"""ArrayRecord files: records of bytes, such as `tf.train.Example`s, streamed into a packed folder by client."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.incoming import choice, columns, hf_dataset
from fedjaxlite.data.population import Population
from fedjaxlite.datasets.formats import tf_example

_RECORDS = 4096


def from_array_record(
    source: Any,
    folder: str | os.PathLike[str],
    *,
    client: str,
    decode: Callable[[bytes], Mapping[str, Any]] | None = None,
    features: Sequence[str] | Mapping[str, str] | None = None,
    encode: Mapping[str, Callable[[Any], Any]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    num_classes: int | None = None,
    check_finite: bool = True,
    buffer_bytes: int = 1 << 26,
) -> Population:
    """Streams ArrayRecord files into a folder, a record an example, and opens it as a Population on the disk.

    Args:
      source: a file, or a list of files, in order.
      folder: to be made, or empty; see `Population.write_rows`.
      client: the feature of a record that says whose it is: an int, or a text. Its records need not be together.
      decode: a function from a record's bytes to a dict of its features, `client` among them; None reads
        `tf.train.Example`s, without TensorFlow.
      features: which to take, such as {"pixels": "x", "label": "y"} for names of one's own; None takes all but
        `client`.
      encode: for a feature of texts a function of one value.
      shapes: the shape of one row, by feature: an Example holds flat lists.
      num_classes: feature `y` must hold labels in `[0, num_classes)`; None for no such check.
      check_finite: refuse NaN and infinity.
      buffer_bytes: about as much is held at a time.

    Returns:
      The Population on the disk: clients sorted by id, records in the order of the files.

    Raises:
      ModuleNotFoundError: array_record is not installed. FileNotFoundError: there is no such file.
      ValueError, TypeError: a file of another format, a record that cannot be read or names no client, or features that
        differ; the text names file and record.

    Source:
      https://github.com/google/array_record

    Example:
      >>> import fedjaxlite as fl
      >>> people = fl.datasets.from_array_record(             # doctest: +SKIP
      ...     ["speech-00000.array_record", "speech-00001.array_record"], "packed", client="speaker")
    """
    wanted = choice.wanted(features, encode, shapes)
    checks.text(client=client)
    if decode is not None:
        checks.is_function_of("record", decode=decode)
    read = decode or _example
    blocks = (block for path in _paths(source) for block in _blocks(path, client, read, wanted))
    return Population.write_rows(
        folder, blocks, num_classes=num_classes, check_finite=check_finite, buffer_bytes=buffer_bytes
    )


def _example(record: bytes) -> dict[str, Any]:
    return {name: value[0] if len(value) == 1 else value for name, value in tf_example.values(record).items()}


def _paths(source: Any) -> list[Path]:
    found = []
    for path in source if isinstance(source, (list, tuple)) and source else [source]:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"`source` is {checks.shown(source)}; expected a file, or a list of files.")
        found.append(Path(path).expanduser())
        if not found[-1].is_file():
            raise FileNotFoundError(f"`source` is {os.fspath(path)!r}; there is no such file.")
    return found


def _blocks(
    path: Path, client: str, decode: Callable[[bytes], Mapping[str, Any]], wanted: choice.Wanted
) -> Iterator[tuple[list[Any], dict[str, np.ndarray]]]:
    try:
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("ArrayRecord files are read by array_record; pip install array_record.") from error
    reader = array_record_module.ArrayRecordReader(str(path))
    if not reader.ok() or not reader.num_records():
        raise ValueError(f"{str(path)!r} is no ArrayRecord file, is damaged, or holds no record.")
    try:
        for start in range(0, reader.num_records(), _RECORDS):
            records = _read(reader, start, str(path))
            owners, raw = _columns(records, client, decode, str(path), start)
            spelled = hf_dataset.others(wanted, [*raw, client], client)

            def where(row: int, owners: Any = owners, start: int = start) -> str:
                return f"record {start + row} of {str(path)!r} (client {owners[row]!r})"

            yield owners, columns.arrays(raw, spelled, where)
    finally:
        if reader.ok():  # else closing it tells once more what was wrong
            reader.close()


def _read(reader: Any, start: int, path: str) -> Sequence[bytes]:
    stop = min(start + _RECORDS, reader.num_records())
    try:
        return reader.read(start, stop)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"records {start} to {stop} of {path!r} cannot be read: {error}.") from error


def _columns(
    records: Sequence[bytes], client: str, decode: Callable[[bytes], Mapping[str, Any]], path: str, start: int
) -> tuple[list[Any], dict[str, list[Any]]]:
    owners: list[Any] = []
    raw: dict[str, list[Any]] = {}
    for row, record in enumerate(records):
        where = f"record {start + row} of {path!r}"
        try:
            found = dict(decode(record))
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{where} cannot be decoded: {error}. Give decode=, a function of its bytes.") from error
        if client not in found:
            raise ValueError(f"{where} has no {client!r}; {choice.nearest(client, found, 'its features are')}")
        owners.append(_owner(found.pop(client), where))
        raw = raw or {name: [] for name in found}
        if found.keys() != raw.keys():
            raise ValueError(f"{where} has features {sorted(found)}, but others have {sorted(raw)}.")
        for name, value in found.items():
            raw[name].append(value)
    return owners, raw


def _owner(value: Any, where: str) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, (str, int, np.integer)) and not isinstance(value, bool):
        return value if isinstance(value, str) else int(value)
    raise TypeError(f"{where} has the client {checks.shown(value)}; expected an int or a text.")
