"""Partitions: which client owns which example, as pure, seeded functions.

Every name here but `train_test_split`, `holdout_clients` and `folds`, which split a population, makes a `Partitioner`:
called with a dict of arrays it says who owns each example.
`fl.datasets.load(..., partition=...)` and `fl.datasets.federate(arrays, partition)` apply it.

| clients differ in | partition |
|---|---|
| nothing | `iid` |
| label mix | `dirichlet`, `dirichlet_fixed_size`, `label_shards`, `k_classes` |
| amount of data | `quantity` |
| their features | `feature_noise`, `feature_rotation` (around any other partition) |
| what the data say | `by_key` |

What comes in: functions of plain arrays and a seed that say who owns what. How examples are held is `data/`.
"""

from fedjaxlite.partition.basic import by_key as by_key
from fedjaxlite.partition.basic import iid as iid
from fedjaxlite.partition.basic import quantity as quantity
from fedjaxlite.partition.cross_validation import folds as folds
from fedjaxlite.partition.feature import feature_noise as feature_noise
from fedjaxlite.partition.feature import feature_rotation as feature_rotation
from fedjaxlite.partition.label import dirichlet as dirichlet
from fedjaxlite.partition.label import dirichlet_fixed_size as dirichlet_fixed_size
from fedjaxlite.partition.label import k_classes as k_classes
from fedjaxlite.partition.label import label_shards as label_shards
from fedjaxlite.partition.partitioner import Partitioner as Partitioner
from fedjaxlite.partition.split import holdout_clients as holdout_clients
from fedjaxlite.partition.split import train_test_split as train_test_split

__all__ = [
    "Partitioner",
    "by_key",
    "dirichlet",
    "dirichlet_fixed_size",
    "feature_noise",
    "feature_rotation",
    "folds",
    "holdout_clients",
    "iid",
    "k_classes",
    "label_shards",
    "quantity",
    "train_test_split",
]
