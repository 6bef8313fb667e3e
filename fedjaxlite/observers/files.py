"""Observers that write: records as JSON lines, scalars for TensorBoard."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers import records, records_log
from fedjaxlite.observers.observer import History, Observer, Start


def to_jsonl(path: str | os.PathLike[str]) -> Observer:
    """Writes every record as one line of strict JSON, handed to the operating system at once.

    Args:
      path: the file; lines are appended, after those of rounds from the first of this run on are removed.

    Returns:
      an Observer.
    """
    logs: list[records_log.Log] = []

    def start(start: Start) -> None:
        records.cut(path, int(records.here(start.state.round)))
        logs.append(records_log.append_to(path))

    def end(history: History) -> None:
        del history
        while logs:
            logs.pop().close()

    return Observer(round=lambda record, state: logs[-1].write(record), start=start, end=end)


def to_tensorboard(log_dir: str | os.PathLike[str]) -> Observer:
    """Writes every scalar of every record for TensorBoard; needs tensorboardX.

    Where the aggregator adds noise for privacy, what no guarantee covers stands in a group of its own, as
    "simulation_only/loss".

    Args:
      log_dir: the folder for the event files.

    Returns:
      an Observer.

    Raises:
      ModuleNotFoundError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "writing for TensorBoard needs tensorboardX: pip install tensorboardX, or leave tensorboard=True out."
        ) from error
    writers: list[Any] = []

    def start(start: Start) -> None:
        first = int(records.here(start.state.round)) + 1
        writers.append(SummaryWriter(str(Path(log_dir)), purge_step=first if first > 1 else None))

    def each(record: Mapping[str, Any], state: RoundState) -> None:
        del state
        for name, value in records.numbers_of(record).items():
            writers[-1].add_scalar(name, value, record["round"])

    def end(history: History) -> None:
        del history
        while writers:
            writers.pop().close()

    return Observer(each, start, end)
