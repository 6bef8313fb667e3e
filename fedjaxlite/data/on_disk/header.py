"""What a folder of a population holds: one JSON file, sealed by its own hash and written last."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks, storage

FORMAT = "fedjaxlite population folder 1"
FILE = "population.json"
OFFSETS, SIZES, NAMES, NAME_KEYS, NAME_PLACES = (
    "offsets.bin",
    "sizes.bin",
    "names.bin",
    "name_keys.bin",
    "name_places.bin",
)


class Column(NamedTuple):
    """One feature.

    Attributes:
      name: the feature's.
      dtype: as NumPy names it, such as "float32" or "bfloat16"; little-endian.
      shape: of one row.
      file: raw rows, one after the other.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * dtype_of(self.dtype).itemsize


class Header(NamedTuple):
    """What a folder holds.

    Attributes:
      num_clients: N.
      num_examples: n_total.
      min_size: examples of the smallest client.
      max_size: of the largest.
      columns: the features.
      offsets: "int32", or "int64" where there are more rows than int32 counts.
      num_sizes: how many different sizes there are: the rows of sizes.bin, int64 `[num_sizes, 2]`.
      names: NumPy's text of the names' dtype ("<i8", "<U12"); None where clients have none.
      fingerprint: that of the Population, taken when it was written.
    """

    num_clients: int
    num_examples: int
    min_size: int
    max_size: int
    columns: tuple[Column, ...]
    offsets: str
    num_sizes: int
    names: str | None
    fingerprint: str

    @property
    def place_dtype(self) -> str:
        """The dtype of a client's index in the index of names."""
        return "int32" if self.num_clients < 2**31 else "int64"

    def bytes_of_files(self) -> dict[str, int]:
        """The files beside the header, and their sizes in bytes."""
        found = {column.file: column.row_bytes * self.num_examples for column in self.columns}
        found[OFFSETS] = np.dtype(self.offsets).itemsize * (self.num_clients + 1)
        found[SIZES] = 16 * self.num_sizes
        if self.names is not None:
            found[NAMES] = np.dtype(self.names).itemsize * self.num_clients
            found[NAME_KEYS] = 8 * self.num_clients
            found[NAME_PLACES] = np.dtype(self.place_dtype).itemsize * self.num_clients
        return found


def dtype_of(name: str) -> np.dtype:
    """The dtype of a name, those of ml_dtypes included."""
    try:
        return np.dtype(name)
    except TypeError:
        import jax.numpy as jnp

        return np.dtype(jnp.dtype(name))


def path_of(folder: Any) -> Path:
    """The absolute path of an argument `folder`.

    Raises:
      TypeError, ValueError: it is no path.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"`folder` is {checks.shown(folder)}; expected the path of a folder.")
    text = os.fsdecode(folder)
    if not text or "\0" in text:
        raise ValueError(f"`folder` is {text!r}; expected the path of a folder.")
    return Path(text).expanduser().absolute()


def write(folder: Path, header: Header) -> None:
    """Seals a folder: from now on it is whole."""
    fields = header._asdict()
    fields["columns"] = [column._asdict() for column in header.columns]
    content = {"format": FORMAT, "byteorder": "little", **fields}
    storage.replace_text(folder / FILE, json.dumps({**content, "seal": _seal(content)}, indent=1) + "\n")


def read(folder: Path) -> Header:
    """The header of a folder.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: it holds no population, half of one, one of another version, or one whose header was changed; the
        text says which.
    """
    if not folder.is_dir():
        kind = "which is a file" if folder.exists() else "and there is no such folder"
        error = ValueError if folder.exists() else FileNotFoundError
        raise error(
            f"`folder` is {os.fspath(folder)!r}, {kind}; expected one that Population.write made. Population.load "
            "reads .npz files, fl.datasets.from_parquet makes folders of Parquet files."
        )
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{os.fspath(folder)!r} {_without_header(folder)}") from None
    try:
        content = json.loads(text)
        form, seal = content.get("format"), content.pop("seal", None)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{os.fspath(folder / FILE)!r} is damaged ({error}). Write the population again.") from error
    if form != FORMAT:
        raise ValueError(
            f"{os.fspath(folder / FILE)!r} has the format {form!r}; this version of the library reads {FORMAT!r}."
        )
    if seal != _seal(content):
        raise ValueError(
            f"{os.fspath(folder / FILE)!r} is damaged: it is not what was sealed when the population was written. "
            "Write it again."
        )
    columns = tuple(
        Column(column["name"], column["dtype"], tuple(column["shape"]), column["file"]) for column in content["columns"]
    )
    return Header(**{name: content[name] for name in Header._fields if name != "columns"}, columns=columns)


def _without_header(folder: Path) -> str:
    if (folder / OFFSETS).exists() or any(folder.glob("feature_*.bin")):
        return (
            f"holds half a population: {FILE}, which is written last, is not there, so that its writing was cut off or "
            "still goes on. Delete the folder and write it again."
        )
    return (
        f"holds no population: there is no {FILE} in it. Expected a folder that Population.write made; "
        "fl.datasets.from_parquet makes one of Parquet files."
    )


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
