"""Records: one dict of plain numbers a round, and the file of JSON lines that holds them.

The lines are strict JSON. A number that is not finite is written as null and read back as NaN.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedjaxlite.execution.cohort_pass import PassInfo
from fedjaxlite.observers.left_out import LEFT_OUT, named_in_each
from fedjaxlite.sampling import Seconds
from fedjaxlite.storage import replace_text

__all__ = ["read"]  # what users need of it: the file of a run, as a list of records

OWN = ("round", "selected", "reported", "nonfinite", "examples", "bytes_up", "bytes_down", "seconds", "elapsed")
"""What every record has beside the metrics of training and evaluation."""

OF_THE_COHORT = OWN[1:]
"""What of it tells how many clients took part."""

Record = dict[str, Any]


def of_dispatch(
    infos: PassInfo,
    *,
    first: int,
    num_rounds: int,
    seconds: float,
    noised: bool = False,
    noised_locally: bool = False,
    names: np.ndarray | None = None,
) -> list[Record]:
    """The records of the rounds of one dispatch.

    Args:
      infos: what `rounds.step` returned, or `rounds.steps` with a leading axis of rounds.
      first: the number of the first of them, from 1.
      num_rounds: how many.
      seconds: wall time of the whole dispatch, shared equally.
      noised: the chain holds a mechanism of privacy.
      noised_locally: the local training adds noise of its own, for single examples.
      names: of all clients, `[N]`; None names them by their index.

    Returns:
      one dict a round: "round", "selected", "reported", "nonfinite", "examples", the mean metrics of local training
      ("loss" and what the algorithm gives; NaN where no client is in the sum), what the aggregator tells of itself (an
      adaptive clip norm), "bytes_up", "bytes_down", "seconds". A metric whose name is one of these gets the prefix
      "train_", or "aggregator_". Where clients' messages did not count, two lists name them: "nonfinite_clients", and
      "left_out_clients", which something before a rule left out; `fl.observers.left_out` counts them over rounds. With
      `noised`, "simulation_only" lists what no guarantee covers: what was measured on the clients past the noise, and
      what follows from the cohort. One client more or less is what the noise hides, and it would show in a count of
      clients, in their bytes, and in the time that they took: sums are divided by a fixed number so that the true one
      need not leave the server. With `noised_locally` alone, it lists what was measured on the clients; how many of
      them there are is told.
    """
    sent = {name: _per_round(infos.clients, name, num_rounds) for name in ("bytes_up", "bytes_down")}
    facts = {name: np.asarray(here(infos.clients[name])) for name in ("id", *LEFT_OUT) if name in infos.clients}
    who = named_in_each(facts, num_rounds, names)
    infos = infos._replace(clients={})
    rows = jax.tree.map(lambda leaf: np.asarray(here(leaf)).reshape((num_rounds,)), infos)
    records = []
    for i in range(num_rounds):
        reported, selected = int(rows.num_reported[i]), int(rows.num_selected[i])
        nonfinite = int(rows.num_nonfinite[i])
        nobody = reported <= nonfinite
        metrics = {
            f"train_{name}" if name in OWN else name: math.nan if nobody else float(values[i])
            for name, values in rows.metrics.items()
        }
        told = {
            f"aggregator_{name}" if name in OWN or name in metrics else name: float(values[i])
            for name, values in rows.aggregator.items()
        }
        record: Record = {
            "round": first + i,
            "selected": selected,
            "reported": reported,
            "nonfinite": nonfinite,
            "examples": int(rows.num_examples[i]),
            **metrics,
            **told,
            **of_sampler(rows.sampler, i),
            **{name: int(of_rounds[i]) for name, of_rounds in sent.items()},
            "seconds": seconds / num_rounds,
        }
        named = {name: of_rounds[i] for name, of_rounds in who.items() if of_rounds[i]}
        record |= named
        if noised:
            record["simulation_only"] = [*OF_THE_COHORT, *metrics, *named]
        elif noised_locally:
            record["simulation_only"] = ["nonfinite", "examples", *metrics, *named]
        records.append(record)
    return records


def of_sampler(told: Any, round_number: int) -> dict[str, float]:
    """What a sampler with a memory tells of one round, times in seconds."""
    at = lambda values: values[round_number].item()  # noqa: E731
    return {
        name: at(values.whole) + at(values.part) if isinstance(values, Seconds) else at(values)
        for name, values in told.items()
    }


def here(leaf: Any) -> Any:
    """An array that every device holds whole, as one device of this process has it; anything else as it is."""
    replicated = isinstance(leaf, jax.Array) and leaf.is_fully_replicated
    return leaf.addressable_data(0) if replicated and len(leaf.sharding.device_set) > 1 else leaf


def scalars_of(result: Any, where: str) -> dict[str, float]:
    """What an evaluation returned, as plain numbers.

    Args:
      result: a mapping from names to scalars, or an object with a `summary()` that gives one (a ClientReport).
      where: whose result it is, for messages.

    Raises:
      TypeError: it is neither, or holds something that is no scalar.
    """
    summary = getattr(result, "summary", None)
    result = summary() if callable(summary) else result
    if not isinstance(result, Mapping):
        raise TypeError(
            f"{where} returned a {type(result).__name__}; expected a dict of scalars such as fl.evaluate gives, or a "
            "ClientReport. Wrap the function so that it returns one."
        )
    numbers = {}
    for name, value in result.items():
        if np.ndim(here(value)) != 0 or isinstance(value, (str, bytes)) or value is None:
            array = np.ndim(here(value)) != 0
            remedy = (
                " An array, such as a confusion matrix, has no place in a record: measure it after training."
                if array
                else ""
            )
            raise TypeError(f"{where} returned {value!r} for {name!r}; expected a scalar.{remedy}")
        numbers[str(name)] = np.asarray(here(value)).item()
    return numbers


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record as trackers show them, without that of the round.

    Where the aggregator adds noise for privacy, what no guarantee covers stands in a group of its own.

    Example:
      >>> numbers_of({"round": 3, "loss": 0.5, "test_loss": 0.6, "simulation_only": ["loss"]})
      {'simulation_only/loss': 0.5, 'test_loss': 0.6}
    """
    unseen = record.get("simulation_only", ())
    return {
        f"simulation_only/{name}" if name in unseen else name: value
        for name, value in record.items()
        if name != "round" and isinstance(value, (int, float))
    }


def to_line(record: Mapping[str, Any]) -> str:
    r"""One line of strict JSON, newline included.

    Example:
      >>> to_line({"round": 1, "loss": float("nan")})
      '{"round": 1, "loss": null}\n'
    """
    return json.dumps({name: _plain(value) for name, value in record.items()}, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: str | os.PathLike[str]) -> list[Record]:
    """Reads a file of records; null becomes NaN, and a last line that was cut off while being written is left out.

    Args:
      path: a `records.jsonl`.

    Returns:
      the records in the order of the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line before the last is no record.
    """
    lines = Path(path).read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(of_line(line))
        except ValueError as error:
            if number == len(lines):
                break  # no newline follows: the process ended while it wrote this line
            raise ValueError(
                f"line {number} of {os.fspath(path)!r} is no record ({error}). Repair it, or remove the file."
            ) from None
    return records


def of_line(line: bytes) -> Record:
    """The record of a line of a file; a ValueError says what else it is."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    if (
        not isinstance(record, dict)
        or isinstance(record.get("round"), bool)
        or not isinstance(record.get("round"), int)
    ):
        raise ValueError('it has no "round"')
    return {name: math.nan if value is None else value for name, value in record.items()}


def cut(path: str | os.PathLike[str], last_round: int) -> list[Record]:
    """Removes the records after a round from a file, all or nothing, so that a resumed run can go on behind them.

    Args:
      path: a `records.jsonl`; if there is none, nothing happens.
      last_round: the last round to keep.

    Returns:
      the records that are left.
    """
    if not Path(path).exists():
        return []
    kept = [record for record in read(path) if record["round"] <= last_round]
    replace_text(path, "".join(to_line(record) for record in kept))
    return kept


def _per_round(clients: Mapping[str, Any], name: str, num_rounds: int) -> np.ndarray:
    """The sum over a round's clients, int64 `[num_rounds]`."""
    return np.asarray(here(clients[name])).reshape(num_rounds, -1).sum(1, dtype=np.int64)
