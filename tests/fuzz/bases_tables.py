"""Valid calls of the readers of tables and of what splits a population."""

import pyarrow as pa
from bases_engine import PEOPLE
from calls import Base

from fedjaxlite import datasets, partition

VISITS = pa.table(
    {
        "hospital": ["b", "a", "b", "a", "b"],
        "age": [50, 61, 44, 38, 70],
        "sex": ["f", "m", "m", "f", "f"],
        "visit": [3, 1, 2, 3, 3],
        "ill": [True, False, False, True, True],
    }
)

TABLES: dict[str, Base] = {
    "datasets.from_table": Base(
        datasets.from_table,
        {"source": VISITS, "client": "hospital", "label": "ill", "test": "within"},
        words={
            "label": ("target",),
            "target": ("label",),
            "classes": ("label",),
            "group": ("column",),
            "features": ("column",),
        },
    ),
    "partition.folds": Base(partition.folds, {"population": PEOPLE, "k": 2, "by": "stratified", "label": "label"}),
}
