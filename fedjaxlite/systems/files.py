"""Devices and traces of files: tables, and the pickles of another simulator, read as data.

A pickle may name any function to call; here it may name none.
"""

import csv
import math
import os
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.systems.devices import OPTIONAL, REQUIRED, Devices
from fedjaxlite.systems.devices import checked as devices_checked
from fedjaxlite.systems.traces import Availability, availability

_FORWARD_AND_BACKWARD = 3.0
"""Times the forward pass: FedScale's capacities are of inference."""
_BYTES_PER_KBIT = 128.0
"""FedScale counts 1024 bytes * 8 as 8 kbit."""


def devices_from_file(path: Any, num_clients: int | None = None, *, examples_per_step: int = 1) -> Devices:
    """Devices from a CSV file, or from FedScale's `client_device_capacity`.

    A file that ends in .csv has a header of the names of `Devices`, the first four at least, and a row a client.
    Anything else is FedScale's pickle: a dict of `{"computation": ms, "communication": kbps}` by client, with the
    milliseconds of inference on one example; training takes three times as long, and both directions have the same
    bandwidth. Only plain values are read from it: a pickle that names a function is refused.

    Args:
      path: the file.
      num_clients: N; rows are taken again from the first where there are more clients. None for as many as there are.
      examples_per_step: of a FedScale file: the batch size, or 1 where an algorithm does not tell its steps.

    Returns:
      Devices, in the file's order; of FedScale in the order of ids.

    Raises:
      OSError, TypeError, ValueError: a file that is missing, damaged, or holds numbers out of range.

    Source: `client_metadata.py` of https://github.com/SymbioticLab/FedScale.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "devices.csv"
      >>> names = "seconds_per_step,up_bytes_per_second,down_bytes_per_second,latency_seconds"
      >>> _ = path.write_text(names + chr(10) + "0.5,1e6,2e6,0.1")
      >>> devices_from_file(path, 2).seconds_per_step.tolist()
      [0.5, 0.5]
    """
    path = _path_of(path)
    if num_clients is not None:
        num_clients = checks.positive_int(num_clients=num_clients)
    examples_per_step = checks.positive_int(examples_per_step=examples_per_step)
    read = _devices_from_csv(path) if path.suffix.lower() == ".csv" else _devices_from_fedscale(path, examples_per_step)
    try:
        devices = devices_checked(Devices(**read))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if num_clients is None:
        return devices
    rows = jnp.arange(num_clients, dtype=jnp.int32) % devices.seconds_per_step.shape[0]
    return jax.tree.map(lambda column: column[rows], devices)


def _path_of(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise TypeError(f"`path` is {checks.shown(path)}; expected the name of a file.")
    found = Path(os.fspath(path)) if isinstance(os.fspath(path), str) else None
    if found is None or not found.is_file():
        raise FileNotFoundError(f"`path` is {checks.shown(path)}; there is no such file.")
    return found


def _devices_from_csv(path: Path) -> dict[str, Any]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True, skipinitialspace=True))
    names = [] if not rows else list(rows[0])
    unknown = [name for name in names if name not in REQUIRED + OPTIONAL]
    missing = [name for name in REQUIRED if name not in names]
    if missing or unknown:
        what = f"no column {missing[0]}" if missing else f"a column {unknown[0]!r}"
        expected = f"a header of {', '.join(REQUIRED)} and any of {', '.join(OPTIONAL)}, and a row a client"
        raise ValueError(f"{path} has {what}; expected {expected}.")
    return {name: np.asarray([_number(path, at, name, row[name]) for at, row in enumerate(rows)]) for name in names}


def _devices_from_fedscale(path: Path, examples_per_step: int) -> dict[str, Any]:
    table = _read_dict(path)
    speeds, bandwidths = [], []
    for client in _in_order(table):
        row = table[client]
        if not isinstance(row, dict) or not {"computation", "communication"} <= set(row):
            raise ValueError(
                f'{path} has {checks.shown(row)} for client {client!r}; expected {{"computation": milliseconds an '
                'example, "communication": kbps}.'
            )
        speeds.append(_number(path, client, "computation", row["computation"]))
        bandwidths.append(_number(path, client, "communication", row["communication"]))
    step = np.asarray(speeds) * (_FORWARD_AND_BACKWARD * examples_per_step / 1000.0)
    bandwidth = np.asarray(bandwidths) * _BYTES_PER_KBIT
    return dict(zip(REQUIRED, (step, bandwidth, bandwidth, np.zeros_like(step)), strict=True))


def _number(path: Path, client: Any, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"{path}: `{name}` of client {client!r} is {checks.shown(value)}; expected a number.")
    return number


def availability_from_file(path: Any, num_clients: int | None = None, *, period: int | None = None) -> Availability:
    """Availability from a CSV file, or from FedScale's `client_behave_trace`.

    A file that ends in .csv has the header client,begin,end and a row for each window, in seconds. Anything else is
    FedScale's pickle: a dict of `{"active": [...], "inactive": [...], "finish_time": ...}` by client: there from each
    "active" to the "inactive" of the same place, and again after the finish time. Only plain values are read from it.

    Args:
      path: the file.
      num_clients: N; clients are taken again from the first where there are more. None for as many as there are.
      period: whole seconds of a CSV file; None for the end of its last window, rounded up.

    Returns:
      An Availability, clients in the order of their ids where these are numbers, else as they come.

    Raises:
      OSError, TypeError, ValueError: a file that is missing, damaged, or holds windows that make no sense.

    Source: Lai et al. (2022), "FedScale", https://arxiv.org/abs/2105.11367; Yang et al. (2021), "Characterizing
    Impacts of Heterogeneity in Federated Learning upon Large-Scale Smartphone Data", https://arxiv.org/abs/2006.06983.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp()) / "trace.csv"
      >>> _ = path.write_text(chr(10).join(["client,begin,end", "0,10,20", "1,0,60"]))
      >>> from fedjaxlite.systems.traces import seconds_until
      >>> seconds_until(availability_from_file(path), jnp.array([0, 1]), jnp.float32(30)).tolist()
      [40.0, 0.0]
    """
    path = _path_of(path)
    if num_clients is not None:
        num_clients = checks.positive_int(num_clients=num_clients)
    if path.suffix.lower() == ".csv":
        windows, periods = _windows_from_csv(path, None if period is None else checks.positive_int(period=period))
    else:
        if period is not None:
            raise ValueError(
                f"`period` is {period!r}, and the `path` {path} has its own; leave it out, or pass a .csv file."
            )
        windows, periods = _windows_from_fedscale(path)
    try:
        trace = availability(windows, period=periods)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if num_clients is None:
        return trace
    rows = jnp.arange(num_clients, dtype=jnp.int32) % len(windows)
    return jax.tree.map(lambda column: column[rows], trace)


def _windows_from_csv(path: Path, period: int | None) -> tuple[dict[Any, Any], Any]:
    windows: dict[Any, Any] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        if reader.fieldnames is None or list(reader.fieldnames) != ["client", "begin", "end"]:
            raise ValueError(f"{path} begins with {reader.fieldnames}; expected the header client,begin,end.")
        for row in reader:
            try:
                window = (float(row["begin"]), float(row["end"]))
            except (TypeError, ValueError) as error:
                expected = "client,begin,end with numbers of seconds"
                raise ValueError(f"{path}, line {reader.line_num}: {error}; expected {expected}.") from error
            windows.setdefault(row["client"], []).append(window)
    ends = [end for rows in windows.values() for _, end in rows if math.isfinite(end)]
    made = period if period is not None else max(1, math.ceil(max(ends, default=1)))
    return {client: windows[client] for client in _in_order(windows)}, made


def _windows_from_fedscale(path: Path) -> tuple[dict[Any, Any], Any]:
    table = _read_dict(path)
    windows, periods = {}, []
    for client in _in_order(table):
        row = table[client]
        try:
            begins, ends, period = row["active"], row["inactive"], math.ceil(row["finish_time"])
            windows[client] = list(zip(begins, ends, strict=True))
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            expected = '{"active": [...], "inactive": [...], "finish_time": ...} with lists of the same length'
            raise ValueError(f"{path} has {checks.shown(row)} for client {client!r}; expected {expected}.") from error
        periods.append(period)
    return windows, np.asarray(periods)


class _Plain(pickle.Unpickler):
    """Builds what the format itself knows (dicts, lists, tuples, numbers, text) and looks nothing up."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(
            f"it asks for {module_name}.{global_name}, and only dicts, lists, numbers and text are read: a pickle "
            "that names functions can run anything. Save it again with plain Python values."
        )


def _read_dict(path: Path) -> dict[Any, Any]:
    """The dict in a pickle of plain Python values, which is not empty.

    Raises:
      ValueError: a pickle of anything else, one that names a class or function, or no pickle.
    """
    try:
        with path.open("rb") as file:
            value = _Plain(file).load()
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(f"{path}: this pickle is not read: {error or type(error).__name__}") from error
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{path} holds {type(value).__name__}; expected a dict of clients that is not empty.")
    return value


def _in_order(table: dict[Any, Any]) -> list[Any]:
    """The ids of a dict in the order of their numbers, where all are numbers, or text of them; else as they come."""
    try:
        return sorted(table, key=int)
    except (TypeError, ValueError):
        return list(table)
