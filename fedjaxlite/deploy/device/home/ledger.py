"""What left the device: a line of JSON for every message, written before it is sent, for its owner to read.

A line has `time` (UTC), `kind`, `sent` and `received` (bytes of the message and its frame; TLS adds 22 to each record
of 16 KiB), and where they apply `round`, `attempt`, `program`, `sha256` and `norm` of the update, `num_examples` as
told, `reason`.
"""

import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MOST_BYTES = 16 << 20
"""A longer log makes place for a new one, and is kept beside it; the one before that is dropped."""


class Used(NamedTuple):
    """What a device spent within a day.

    Attributes:
      bytes: sent and received.
      rounds: works begun, evaluations among them.
      last: when the last training was, seconds since 1970; None where none was.
    """

    bytes: int = 0
    rounds: int = 0
    last: float | None = None


class Summary(NamedTuple):
    """What a log tells in total.

    Attributes:
      messages: how many were sent.
      sent: their bytes.
      received: bytes that came.
      updates: how many updates left in the clear, whole or in part.
      sums: how many left in a secure sum.
      evaluations: how many lists of metrics left.
      largest_norm: L2 norm of the largest update in the clear; None where none has one.
      programs: sha256 of those that ran.
      refused: how many tasks were refused by the device.
      first: time of the first line; "" for an empty log.
      last: of the last.
    """

    messages: int
    sent: int
    received: int
    updates: int
    sums: int
    evaluations: int
    largest_norm: float | None
    programs: tuple[str, ...]
    refused: int
    first: str
    last: str


def record(path: Path, now: float, kind: str, facts: Mapping[str, Any], *, sent: int = 0, received: int = 0) -> None:
    """Adds a line.

    Args:
      path: the log.
      now: seconds since 1970.
      kind: of the message, or of what happened on the device: "train", "evaluate", "refused".
      facts: what JSON can hold.
      sent: bytes that leave.
      received: bytes that came.
    """
    time = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": time, "kind": kind, "sent": sent, "received": received, **facts}, allow_nan=False)
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(number, line.encode() + b"\n")
        long = os.fstat(number).st_size > MOST_BYTES
    finally:
        os.close(number)
    if long:
        path.replace(_older(path))


def lines(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The lines of a log, those that made place for it first; one that a full disk cut off is left out."""
    for part in (_older(Path(path)), Path(path)):
        try:
            with part.open("rb") as file:
                for line in file:
                    try:
                        told = json.loads(line)
                    except ValueError:
                        continue
                    if isinstance(told, dict) and {"time", "kind", "sent", "received"} <= set(told):
                        yield told
        except FileNotFoundError:
            continue


def used(path: str | os.PathLike[str], now: float, *, seconds: float = 86400.0) -> Used:
    """What was spent within the last day.

    Args:
      path: the log.
      now: seconds since 1970.
      seconds: the length of a day.

    Returns:
      `Used`; a work that was begun again after a restart is one.
    """
    spent, works, last = 0, set[Any](), None
    for line in lines(path):
        at = datetime.datetime.fromisoformat(line["time"]).timestamp()
        if line["kind"] == "train":
            last = at
        if at > now - seconds:
            spent += line["sent"] + line["received"]
            if line["kind"] in ("train", "evaluate"):
                works.add((line["kind"], line.get("program"), line.get("round"), line.get("attempt")))
    return Used(spent, len(works), last)


def summary(path: str | os.PathLike[str]) -> Summary:
    """A log in total.

    Args:
      path: the log; one that is not there yet is empty.

    Returns:
      `Summary`.
    """
    told = list(lines(path))
    messages = [line for line in told if line["sent"]]

    def works(kind: str, *names: str) -> set[tuple[Any, ...]]:
        return {tuple(line.get(name) for name in names) for line in messages if line["kind"] == kind}

    norms = [line["norm"] for line in messages if line.get("norm") is not None]
    return Summary(
        messages=len(messages),
        sent=sum(line["sent"] for line in told),
        received=sum(line["received"] for line in told),
        updates=len(works("put", "program", "round", "sha256")),
        sums=len(works("secure", "program", "round", "attempt")),
        evaluations=len(works("evaluated", "program", "round", "time")),
        largest_norm=max(norms, default=None),
        programs=tuple(sorted({line["program"] for line in told if line["kind"] == "train"})),
        refused=sum(line["kind"] == "refused" for line in told),
        first=told[0]["time"] if told else "",
        last=told[-1]["time"] if told else "",
    )


def text(told: Summary) -> str:
    """A summary for a person.

    Example:
      >>> print(text(Summary(3, 2048, 10, 1, 0, 0, 0.5, ("ab12",), 0, "2026-01-01", "2026-01-02")))
      from 2026-01-01 to 2026-01-02
      sent      2,048 bytes in 3 messages
      received  10 bytes
      updates   1 in the clear (largest norm 0.5), 0 in secure sums
      metrics   0 times
      refused   0 tasks
      program   ab12
    """
    if not told.first:
        return "nothing has left this device."
    norm = "none of floats" if told.largest_norm is None else f"{told.largest_norm:.4g}"
    rows = [
        f"from {told.first} to {told.last}",
        f"sent      {told.sent:,} bytes in {told.messages:,} messages",
        f"received  {told.received:,} bytes",
        f"updates   {told.updates:,} in the clear (largest norm {norm}), {told.sums:,} in secure sums",
        f"metrics   {told.evaluations:,} times",
        f"refused   {told.refused:,} tasks",
        *(f"program   {program}" for program in told.programs),
    ]
    return "\n".join(rows)


def norm_of(leaves: Sequence[Any]) -> float | None:
    """The L2 norm of an update's floats; None where it has none, or one that is not finite: codes have no norm."""
    squares = [float(np.sum(np.square(leaf.astype(np.float64)))) for leaf in map(np.asarray, leaves) if _is_float(leaf)]
    norm = float(np.sqrt(sum(squares))) if squares else None
    return norm if norm is None or np.isfinite(norm) else None


def _is_float(leaf: np.ndarray) -> bool:
    return leaf.dtype.kind == "f" or leaf.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def _older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")
