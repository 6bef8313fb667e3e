"""Observers: what looks on while a run goes, round by round: progress, records, early stopping, and one's own.

An observer is a few functions. The loop knows nothing of what they do, so a running epsilon, a bandwidth budget or a
live plot is an observer like those below.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from fedjaxlite import checks, records
from fedjaxlite.aggregation import Wire
from fedjaxlite.population import Population
from fedjaxlite.program import Traffic
from fedjaxlite.records import Record
from fedjaxlite.rounds import Rounds
from fedjaxlite.state import RoundState


class Stop(NamedTuple):
    """What an observer returns to end the run after this round.

    Attributes:
      reason: why; it becomes `History.stopped`.
      extra: scalars to add to the round's record.
    """

    reason: str
    extra: Mapping[str, float] = {}


class LastRound(NamedTuple):
    """What an observer returns to end the run at a round that it knows before the run begins.

    Attributes:
      round: the last round that may run, counted from the run's beginning.
      reason: why; it becomes `History.stopped` if the run gets there before its own last round.
    """

    round: int
    reason: str


class Start(NamedTuple):
    """What observers are told before the first round.

    Attributes:
      rounds: the composed run.
      state: the first state; after a resume, the restored one.
      population: the training data.
      num_rounds: the round at which the run ends; in `Observer.last_round` the one that was asked for.
      traffic: bytes of one client in one round.
      records: the records of the rounds done before, after a resume.
      metrics: the evaluation of the first state, under the names that records use; empty without `evaluate`.
      wire: the facts at the end of the aggregator's chain.
    """

    rounds: Rounds
    state: RoundState
    population: Population
    num_rounds: int
    traffic: Traffic
    records: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, float]
    wire: Wire | None = None


class History(NamedTuple):
    """What a run leaves.

    Attributes:
      state: the last RoundState.
      records: one dict a round; see `fedjaxlite.records`.
      stopped: why the run ended before its last round, or None.
    """

    state: RoundState
    records: list[Record]
    stopped: str | None = None


def _ignore_start(start: Start) -> None:
    del start


def _ignore_round(record: Mapping[str, Any], state: RoundState) -> None:
    del record, state


def _ignore_end(history: History) -> None:
    del history


def _any_round(start: Start) -> None:
    del start


class Observer(NamedTuple):
    """Functions that a run calls; a plain function is taken for `round`.

    Attributes:
      round: `round(record, state)`, after every round and in order. Returns None; or a dict of scalars, which are
        added to the record that later observers (and the file of records) see; or `Stop`. Rounds run several in a
        dispatch; `state` is the one after the last of them.
      start: `start(start)`, once, before the first round. May raise, which ends the run before any training.
      end: `end(history)`, once, also after an error.
      every_round: asks for dispatches of a single round, so that a `Stop` takes effect at once and `state` is always
        that of the record.
      last_round: `last_round(start)`, once, before any `start`. Returns None, or a LastRound beyond which no round
        runs, whatever the rounds in a dispatch; a run that is resumed there has nothing left to do. It must give the
        same round when the run is resumed. May raise, likewise.

    Example:
      >>> seen = []
      >>> watch = Observer(round=lambda record, state: seen.append(record["round"]))
      >>> watch.round({"round": 1}, None)
      >>> seen
      [1]
    """

    round: Callable[[Mapping[str, Any], RoundState], Mapping[str, float] | Stop | None] = _ignore_round
    start: Callable[[Start], None] = _ignore_start
    end: Callable[[History], None] = _ignore_end
    every_round: bool = False
    last_round: Callable[[Start], LastRound | None] = _any_round


def as_observer(value: Any, position: int) -> Observer:
    """An Observer, from one or from a plain function; refuses anything else, by its position."""
    if isinstance(value, Observer):
        return value
    if callable(value):
        return Observer(round=cast("Callable[..., Any]", value))
    raise TypeError(
        f"`observers[{position}]` is {value!r}; expected a function `(record, state)` that returns None, a dict or "
        "Stop, or an Observer of such functions."
    )


def to_jsonl(path: str | os.PathLike[str]) -> Observer:
    """Writes every record as one line of strict JSON, handed to the operating system at once.

    Args:
      path: the file; lines are appended, after those of rounds from the first of this run on are removed.

    Returns:
      an Observer.
    """
    logs: list[records.Log] = []

    def start(start: Start) -> None:
        records.cut(path, int(records.here(start.state.round)))
        logs.append(records.append_to(path))

    def end(history: History) -> None:
        del history
        while logs:
            logs.pop().close()

    return Observer(round=lambda record, state: logs[-1].write(record), start=start, end=end)


def to_tensorboard(log_dir: str | os.PathLike[str]) -> Observer:
    """Writes every scalar of every record for TensorBoard; needs tensorboardX.

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
        for name, value in record.items():
            if name != "round" and isinstance(value, (int, float)):
                writers[-1].add_scalar(name, value, record["round"])

    def end(history: History) -> None:
        del history
        while writers:
            writers.pop().close()

    return Observer(each, start, end)


def stop_at(target: Mapping[str, float]) -> Observer:
    """Ends the run at the first evaluated round that reaches every target.

    Args:
      target: such as {"accuracy": 0.97}. A name is that of an evaluated metric in the records, or that name without
        "test_". Metrics with "loss" or "error" in their name are to fall to the target, all others to rise to it.

    Returns:
      an Observer.

    Raises:
      TypeError, ValueError: for targets that are no finite numbers; before the first round, for names that the
        evaluation does not give.
    """
    if not isinstance(target, Mapping) or not target:
        raise TypeError(f'`target` is {target!r}; expected a dict such as {{"accuracy": 0.97}}.')
    for name, value in target.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"`target[{name!r}]` is {value!r}; expected a finite number.")
    resolved: dict[str, float] = {}

    def start(start: Start) -> None:
        for name, value in target.items():
            found = next((n for n in (name, f"test_{name}") if n in start.metrics), None)
            if found is None:
                known = ", ".join(start.metrics) or "nothing, since there is no `evaluate`"
                raise ValueError(f"`target` names {name!r}, but the evaluation gives {known}. Name one of those.")
            resolved[found] = float(value)

    def each(record: Mapping[str, Any], state: RoundState) -> Stop | None:
        del state
        for name, value in resolved.items():
            if name not in record or not _reached(name, record[name], value):
                return None
        reached = " and ".join(f"{name} reached {record[name]:.4g}" for name in resolved)
        return Stop(f"{reached} at round {record['round']}")

    return Observer(each, start)


def _reached(name: str, value: float, target: float) -> bool:
    return value <= target if _falls(name) else value >= target


def _falls(name: str) -> bool:
    return "loss" in name or "error" in name


def early_stop(metric: str, *, patience: int, min_change: float = 0.0) -> Observer:
    """Ends the run when a metric has not improved for some of its values.

    Args:
      metric: a name in the records, such as "test_loss"; rounds without it are passed over. Better is lower for names
        with "loss" or "error" in them, else higher. A value that is not finite is no improvement.
      patience: how many values in a row without improvement are too many.
      min_change: what counts as improvement.

    Returns:
      an Observer. After a resume it goes on from the records of the rounds before.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Example:
      >>> watch = early_stop("test_loss", patience=2)
      >>> [watch.round({"round": i, "test_loss": v}, None) for i, v in enumerate([3.0, 2.0, 2.5])]
      [None, None, None]
      >>> watch.round({"round": 3, "test_loss": 2.0}, None).reason
      'test_loss has not improved since round 1'
    """
    checks.positive_int(patience=patience)
    checks.nonnegative(min_change=min_change)
    best: dict[str, float] = {}

    def each(record: Mapping[str, Any], state: RoundState | None) -> Stop | None:
        del state
        if metric not in record:
            return None
        value = -record[metric] if _falls(metric) else record[metric]
        if math.isfinite(value) and value > best.get("value", -math.inf) + min_change:
            best.update(value=value, round=record["round"], waited=0)
            return None
        best["waited"] = best.get("waited", 0) + 1
        if best["waited"] < patience:
            return None
        return Stop(f"{metric} has not improved since round {best.get('round', 0)}")

    def start(start: Start) -> None:
        best.clear()
        for record in start.records:
            each(record, None)

    return Observer(each, start)
