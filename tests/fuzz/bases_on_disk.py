"""Valid calls of what writes populations to a disk; each call finds its folder empty, and leaves none."""

import functools
import shutil
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bases_formats import FOLDER
from calls import Base

import fedjaxlite as fl

PACKED = FOLDER / "packed"


def leaving_nothing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A writer whose folder is gone after the call, wherever an odd value put it."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        made = function(*args, **options)
        shutil.rmtree(made.stored.folder)
        return made.num_clients

    return call


def parquet() -> Any:
    """A file of two clients' rows."""
    path = FOLDER / "rows.parquet"
    pq.write_table(pa.table({"who": ["a", "b", "a"], "x": [0.5, 1.0, 1.5], "y": [0, 1, 1]}), path)
    return path


ROWS = {"x": [0.5, 1.0], "y": [0, 1]}
MADE = FOLDER / "made"
fl.Population.write(MADE, [ROWS])

ON_DISK: dict[str, Base] = {
    "Population.open": Base(fl.Population.open, {"folder": MADE}),
    "Population.write": Base(
        leaving_nothing(fl.Population.write), {"folder": PACKED, "clients": [ROWS]}, words={"clients": ("client",)}
    ),
    "Population.write_rows": Base(
        leaving_nothing(fl.Population.write_rows),
        {"folder": PACKED, "blocks": [(["a", "b"], ROWS)]},
        words={"blocks": ("block", "client_ids", "feature")},
    ),
    "datasets.from_parquet": Base(
        leaving_nothing(fl.datasets.from_parquet),
        {"source": parquet(), "folder": PACKED, "client": "who"},
        words={"source": ("source", "file"), "folder": ("folder",)},
    ),
}
