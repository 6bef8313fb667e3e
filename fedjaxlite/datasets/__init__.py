"""Data sets: `load(name)` gives a training and a test part, ready for federated learning.

| name | what | where from |
|---|---|---|
| "digits" | 1,797 images of digits, 8 x 8 | scikit-learn, always there |
| "synthetic" | logistic regression, one model and one distribution a device | computed |
| "shakespeare" | next characters, one client a speaking role | `shakespeare_plays.jsonl`, or a text file |
| any other | e.g. "mnist", "cifar10", "emnist/letters" | prepared by TensorFlow Datasets; read without TensorFlow |

Data of one's own: `from_table` reads CSV, Parquet and Arrow files and frames.
Files of other federated data sets have readers of their own: `from_leaf` (JSON), `from_fedjax_sqlite`,
`from_tff_sqlite`, `from_folder` (arrays and images); `from_huggingface` takes a `datasets.Dataset` that is there.
Data larger than memory: `from_parquet` and `from_array_record` stream files into a folder, for `Population.open`.

What comes in: where examples come from, with a loader each; nothing here needs a network.
"""

import inspect
import os
from collections.abc import Callable
from typing import Any, overload

import numpy as np

from fedjaxlite.data.population import Population
from fedjaxlite.datasets import digits, shakespeare, synthetic, tfds
from fedjaxlite.datasets.tables.from_table import from_table as from_table
from fedjaxlite.datasets.tables.table import Table as Table
from fedjaxlite.partition.partitioner import Features, Partitioner
from fedjaxlite.partition.partitioner import federate as federate

__all__ = ["Table", "federate", "from_table", "load"]
from fedjaxlite.datasets.formats.array_folders import from_folder as from_folder
from fedjaxlite.datasets.formats.array_record import from_array_record as from_array_record
from fedjaxlite.datasets.formats.fedjax_sqlite import from_fedjax_sqlite as from_fedjax_sqlite
from fedjaxlite.datasets.formats.huggingface import from_huggingface as from_huggingface
from fedjaxlite.datasets.formats.leaf import from_leaf as from_leaf
from fedjaxlite.datasets.formats.parquet import from_parquet as from_parquet
from fedjaxlite.datasets.formats.text import encode_characters as encode_characters
from fedjaxlite.datasets.formats.text import encode_words as encode_words
from fedjaxlite.datasets.formats.tff_sqlite import from_tff_sqlite as from_tff_sqlite

__all__ = [
    "encode_characters",
    "encode_words",
    "federate",
    "from_array_record",
    "from_fedjax_sqlite",
    "from_folder",
    "from_huggingface",
    "from_leaf",
    "from_parquet",
    "from_tff_sqlite",
    "load",
]

_COMPUTED: dict[str, Callable[..., tuple[Any, Any]]] = {"digits": digits.load, "synthetic": synthetic.load}
_OWN = (*_COMPUTED, "shakespeare")


@overload
def load(
    name: str,
    *,
    partition: Partitioner | Callable[[Features], Any],
    data_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> tuple[Population, dict[str, np.ndarray]]: ...
@overload
def load(
    name: str, *, partition: None = None, data_dir: str | os.PathLike[str] | None = None, **options: Any
) -> tuple[Any, Any]: ...
def load(
    name: str,
    *,
    partition: Partitioner | Callable[[Features], Any] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """Loads a data set as training and test data.

    Args:
      name: "digits", "synthetic", "shakespeare", or the name of a TensorFlow Datasets data set, such as "mnist",
        "mnist:3.0.1" or "emnist/letters".
      partition: how to give the training examples to clients, one of `fl.partition` or a function from the arrays to
        `[n]` owners. None leaves them: a plain dict of arrays, or a Population where clients are natural. Given for
        such a data set, all its clients' examples are pooled first, and the test part becomes a plain dict.
      data_dir: the folder of prepared data. None takes the environment variable FEDJAXLITE_DATA, then TFDS_DATA_DIR.
        TFDS data may lie in the folder itself or in `tfds` below it. Data sets that are computed do not need it.
      **options: of the data set; see `digits.load`, `synthetic.load`, `shakespeare.load`, `tfds.load` in
        `fedjaxlite.datasets`. "synthetic" takes alpha, beta, num_clients, iid, seed; "shakespeare" path, seq_len,
        num_clients, seed; TFDS names train_split, test_split, features, cache.

    Returns:
      `(train, test)`. With a partition a Population and a dict of arrays `{"x": ..., "y": ...}`. Images are float32 in
      [0, 1], labels int32.

    Raises:
      ValueError: an unknown name or option; the text lists the known ones.
      FileNotFoundError: the data are not prepared; the text says where they were looked for and how to prepare them.

    Guarantees:
      The same arguments give the same arrays; nothing is ever downloaded.

    Example:
      >>> import fedjaxlite as fl
      >>> train, test = fl.datasets.load("digits", partition=fl.partition.iid(10))
      >>> train.num_clients, test["x"].shape, test["y"].dtype
      (10, (359, 8, 8, 1), dtype('int32'))
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` is {name!r}; expected the name of a data set, one of {', '.join(_OWN)}, or of TFDS.")
    if partition is not None and not callable(partition):
        raise TypeError(f"`partition` is {partition!r}; expected one of fl.partition, such as fl.partition.iid(100).")
    if name in _COMPUTED:
        _check_options(name, _COMPUTED[name], options)
        train, test = _COMPUTED[name](**options)
    elif name == "shakespeare":
        _check_options(name, shakespeare.load, options)
        train, test = shakespeare.load(data_dir=data_dir, **options)
    else:
        _check_options(name, tfds.load, options)
        train, test = tfds.load(name, data_dir=data_dir, own_names=_OWN, **options)
    if partition is None:
        return train, test
    return federate(_pooled(train), partition), _pooled(test)


def _pooled(data: Population | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(data.features) if isinstance(data, Population) else data


def _check_options(name: str, loader: Callable[..., Any], options: dict[str, Any]) -> None:
    parameters = inspect.signature(loader).parameters
    known = [option for option in parameters if option not in ("name", "data_dir", "own_names")]
    for option in options:
        if option not in known:
            takes = ", ".join(known) if known else "none"
            raise ValueError(f"data set {name!r} has no option {option!r}; it takes: {takes}.")
