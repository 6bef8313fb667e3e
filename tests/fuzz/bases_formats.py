"""Valid calls of the readers of other formats, and of what makes populations of other libraries' data."""

import json
import sqlite3
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
from calls import Base

import fedjaxlite as fl

# Kept by name, so that the folder lives as long as the tests.
_HELD = tempfile.TemporaryDirectory(prefix="fedjaxlite-fuzz-")
FOLDER = Path(_HELD.name)


def leaf() -> Path:
    """A file of LEAF's, of two users."""
    path = FOLDER / "leaf" / "all_data_0.json"
    path.parent.mkdir()
    users = {"u": {"x": [[0.5, 1.0]], "y": [1]}, "v": {"x": [[1.5, 2.0], [0.0, 1.0]], "y": [0, 1]}}
    path.write_text(json.dumps({"users": ["u", "v"], "num_samples": [1, 2], "user_data": users}))
    return path.parent


def fedjax_file() -> Path:
    """A file of FedJAX's, of one client."""
    array = np.arange(3, dtype=np.int32)
    packed = msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True))
    path = FOLDER / "fedjax.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE federated_data (client_id BLOB PRIMARY KEY, data BLOB, num_examples INTEGER)")
        data = zlib.compress(msgpack.packb({"y": packed}))
        connection.execute("INSERT INTO federated_data VALUES (?, ?, 3)", [b"u", data])
    connection.close()
    return path


def tff_file() -> Path:
    """A file of TFF's, of one example: the feature y, int64 [7]."""
    message = bytes([10, 12, 10, 10, 10, 1, ord("y"), 18, 5, 26, 3, 10, 1, 7])
    path = FOLDER / "tff.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE examples (split_name TEXT, client_id TEXT, serialized_example_proto BLOB);"
            "CREATE TABLE client_metadata (client_id TEXT, split_name TEXT, num_examples INTEGER);"
            "INSERT INTO client_metadata VALUES ('u', 'train', 1);"
        )
        connection.execute("INSERT INTO examples VALUES ('train', 'u', ?)", [message])
    connection.close()
    return path


def folder() -> Path:
    """A folder of two clients' arrays."""
    path = FOLDER / "arrays"
    path.mkdir()
    for name in ("u", "v"):
        np.savez(path / f"{name}.npz", x=np.ones((2, 2), np.float32), y=np.arange(2))
    return path


class Rows:
    """What of a `datasets.Dataset` is asked for, around an Arrow table."""

    features = None

    def __init__(self, table: Any) -> None:
        self.table = table
        self.column_names = table.column_names

    def with_format(self, kind: str) -> "Rows":
        del kind
        return self

    def iter(self, batch_size: int) -> Any:
        del batch_size
        return iter([self.table])


class Partitions:
    """What of a partitioner of Flower's is asked for."""

    num_partitions = 2

    def load_partition(self, i: int) -> Rows:
        return Rows(pa.table({"y": [i, i + 1]}))


FEDERATED = SimpleNamespace(clients=lambda: iter([(b"u", SimpleNamespace(all_examples=lambda: {"y": [1, 2]}))]))
PATH = {"path": ("path", "folder", "file")}

FORMATS: dict[str, Base] = {
    "datasets.from_leaf": Base(fl.datasets.from_leaf, {"path": leaf()}, words=PATH),
    "datasets.from_fedjax_sqlite": Base(fl.datasets.from_fedjax_sqlite, {"path": fedjax_file()}, words=PATH),
    "datasets.from_tff_sqlite": Base(fl.datasets.from_tff_sqlite, {"path": tff_file()}, words=PATH),
    "datasets.from_folder": Base(fl.datasets.from_folder, {"path": folder()}, words=PATH),
    "datasets.from_huggingface": Base(
        fl.datasets.from_huggingface, {"dataset": Rows(pa.table({"who": ["a", "b"], "y": [1, 2]})), "client": "who"}
    ),
    "datasets.encode_characters": Base(
        fl.datasets.encode_characters, {"alphabet": "abc", "length": 2}, use=lambda encode: encode("cab")
    ),
    "datasets.encode_words": Base(
        fl.datasets.encode_words, {"vocabulary": ["a", "b"], "length": 2}, use=lambda encode: encode("b a c")
    ),
    "interop.from_fedjax": Base(fl.interop.from_fedjax, {"federated_data": FEDERATED}),
    "interop.from_flower": Base(fl.interop.from_flower, {"partitions": Partitions()}),
    "interop.from_torch": Base(
        fl.interop.from_torch,
        {"dataset": [([0.0, 1.0], 0), ([1.0, 2.0], 1)], "client_ids": ["a", "b"]},
        words={"dataset": ("dataset", "client_ids", "item")},
    ),
}
