"""The table [serve.data]: what a server knows of data that stay with their owners, in the place of a data set."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import fedjaxlite as fl
from fedjaxlite.cli import methods
from fedjaxlite.cli.loading import Data
from fedjaxlite.cli.settings import Settings
from fedjaxlite.data.host_arrays import MAX_EXAMPLES
from fedjaxlite.deploy.device import data as files
from fedjaxlite.deploy.device.artifact import DTYPES, dtype_of

TABLE = "data"
_KNOWN = ("clients", "capacity", "features", "classes", "examples", "test")
_NEEDED = {
    "clients": "how many may ever be enrolled, such as clients = 20",
    "capacity": "the most examples of one client, such as capacity = 64",
    "features": 'one example of each feature in [serve.data.features], such as x = "float32[8, 8, 1]" and y = "int32"',
}
_DTYPES = sorted(name for name in DTYPES if not name.endswith("64"))
_EXAMPLE = re.compile(r"\s*(\w+)\s*(?:\[\s*((?:\d+\s*(?:,\s*\d+\s*)*)?)\])?\s*")


def data_of(table: Any, config: Path, settings: Settings) -> Data:
    """The data of a server that reads none of its clients'.

    Args:
      table: [serve.data] of the file.
      config: the file, for messages.
      settings: its options, of which some need examples.

    Returns:
      Data whose clients have shapes and no memory: every number is 0, and every label the last class. The test set is
      what `test` names, or None.

    Raises:
      ValueError: for what is missing, unknown or of another kind in the table, and for options that need examples.
    """
    where = f"{str(config)!r} has"
    if not isinstance(table, Mapping):
        raise ValueError(f"{where} data = {table!r} in [serve]; expected a table [serve.data].")
    _check_options(settings, config)
    for name in table:
        if name not in _KNOWN:
            raise ValueError(f"{where} {name!r} in [serve.data]; known are {', '.join(_KNOWN)}.")
    for name, what in _NEEDED.items():
        if name not in table:
            raise ValueError(f"{where} no {name} in [serve.data]; expected {what}.")
    for name in ("clients", "capacity", "classes", "examples"):
        if name in table and (type(table[name]) is not int or table[name] < 1):
            raise ValueError(f"{where} {name} = {table[name]!r} in [serve.data]; expected an int of at least 1.")
    features = _features(table["features"], where)
    clients, capacity, most = table["clients"], table["capacity"], table["clients"] * table["capacity"]
    rows = table.get("examples", min(most, MAX_EXAMPLES))
    if not clients <= rows <= min(most, MAX_EXAMPLES):
        raise ValueError(
            f"{where} examples = {rows} in [serve.data]; expected {clients} to {min(most, MAX_EXAMPLES)}, those of "
            f"{clients} clients together that have up to {capacity} each; or leave it out."
        )
    fill = _last_class(table, features, where)
    arrays = {
        name: np.broadcast_to(np.asarray(fill.get(name, 0)).astype(leaf.dtype), (rows, *leaf.shape))
        for name, leaf in features.items()
    }
    offsets = (np.arange(clients + 1, dtype=np.int64) * rows // clients).astype(np.int32)
    test = _test(table, features, where) if "test" in table else None
    return Data(fl.Population(arrays, offsets, capacity), test, None, None)


def _check_options(settings: Settings, config: Path) -> None:
    """Refuses options that ask for examples of clients."""
    reasons = {"warm_start": "trains on a part of the clients' examples"}
    asked = [(name, why) for name, why in reasons.items() if getattr(settings, name)]
    if methods.find(settings.algorithm).stands_for == "centers":
        asked.append((f"algorithm = {settings.algorithm!r}", "draws its first centers from the clients' examples"))
    for name, why in asked:
        raise ValueError(
            f"{str(config)!r} has {name}, which {why}, and [serve.data], by which the server has none. Take one of the "
            "two out."
        )


def _features(table: Any, where: str) -> dict[str, Any]:
    if not isinstance(table, Mapping) or not table:
        raise ValueError(f"{where} features = {table!r} in [serve.data]; expected {_NEEDED['features']}.")
    return {name: one_example(name, text, where) for name, text in table.items()}


def one_example(name: str, text: Any, where: str) -> Any:
    """The shape and dtype of one example, as an array without memory."""
    found = _EXAMPLE.fullmatch(text) if isinstance(text, str) else None
    dtype = found.group(1) if found else ""
    sizes = [int(size) for size in (found.group(2) or "").split(",") if size.strip()] if found else []
    if dtype not in _DTYPES or not all(sizes):
        raise ValueError(
            f"{where} {name} = {text!r} in [serve.data.features]; expected the dtype and shape of one example, such as "
            f'"float32[8, 8, 1]", or "int32" for a number; with one of {", ".join(_DTYPES)}.'
        )
    return np.broadcast_to(np.zeros((), dtype_of(dtype)), sizes)


def _last_class(table: Mapping[str, Any], features: Mapping[str, Any], where: str) -> dict[str, int]:
    """The largest label, from which models tell how many outputs they have."""
    labels, classes = features.get("y"), table.get("classes")
    if labels is None or labels.dtype.kind not in "iu":
        if classes is not None:
            raise ValueError(f"{where} classes = {classes} in [serve.data] and no integers y that it could be of.")
        return {}
    if classes is None:
        raise ValueError(
            f"{where} labels y of {labels.dtype} and no classes in [serve.data]; expected one more than the largest "
            "label, such as classes = 10: of texts, how many tokens there are."
        )
    if classes - 1 > np.iinfo(labels.dtype).max:
        raise ValueError(f"{where} classes = {classes} in [serve.data], more than {labels.dtype} of y can tell apart.")
    return {"y": classes - 1}


def _test(table: Mapping[str, Any], features: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
    """The server's own examples, in the format of a device's."""
    if not isinstance(table["test"], str):
        raise ValueError(f"{where} test = {table['test']!r} in [serve.data]; expected the path of an .npz file.")
    specs = {name: {"shape": list(leaf.shape), "dtype": leaf.dtype.name} for name, leaf in features.items()}
    try:
        arrays = files.read(table["test"])
        files.check(arrays, {"features": specs, "capacity": MAX_EXAMPLES})
    except ValueError as error:
        told = str(error).replace("the program takes", "[serve.data] says")
        raise ValueError(f"{where} test = {table['test']!r} in [serve.data]: {told}") from error
    return arrays
