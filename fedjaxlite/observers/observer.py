"""An observer: a few functions that look on while a run goes. The loop knows nothing of what they do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from fedjaxlite.data.frames import frame_of_rows
from fedjaxlite.data.population import Population
from fedjaxlite.directions import Direction
from fedjaxlite.execution.bytes_sent import Traffic
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers.records import Record
from fedjaxlite.wire.aggregator import Wire


class Stop(NamedTuple):
    """What an observer returns to end the run after this round.

    Attributes:
      reason: why; it becomes `History.stopped`.
      extra: scalars to add to the round's record.
      failed: the run did not end well: nothing is left to train on. It becomes `History.failed`; the command line ends
        with code 3 then.
    """

    reason: str
    extra: Mapping[str, float] = {}
    failed: bool = False


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
      better: "lower" or "higher" for those of `metrics` of which it was said.
      folder: where the run is kept, or None.
    """

    rounds: Rounds
    state: RoundState
    population: Population
    num_rounds: int
    traffic: Traffic
    records: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, float]
    wire: Wire | None = None
    better: Mapping[str, Direction] = {}
    folder: Path | None = None


class History(NamedTuple):
    """What a run leaves.

    Attributes:
      state: the last RoundState.
      records: one dict a round; see `fedjaxlite.records`.
      stopped: why the run ended before its last round, or None.
      failed: whether that was since it could not go on well: no update was finite, or the loss left all bounds.
    """

    state: RoundState
    records: list[Record]
    stopped: str | None = None
    failed: bool = False

    def to_frame(self, library: str = "pandas") -> Any:
        """The records as a data frame, a row a round; what a round's record does not have is missing there.

        Args:
          library: "pandas" or "polars".

        Raises:
          ValueError: for another library. ModuleNotFoundError: it is not installed.

        Example:
          >>> records = [{"round": 1, "loss": 0.5}, {"round": 2, "loss": 0.4, "test_loss": 0.6}]
          >>> History(None, records).to_frame()["test_loss"].tolist()
          [nan, 0.6]
        """
        return frame_of_rows(self.records, library)


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
