"""The loop under `train`: dispatches of rounds, evaluations, observers and checkpoints, at a fixed pace."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from fedjaxlite import checks, processes, streaming
from fedjaxlite.data.population import Population
from fedjaxlite.directions import Direction
from fedjaxlite.execution.bytes_sent import traffic_on
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers import records
from fedjaxlite.observers.observer import History, LastRound, Observer, Start, Stop
from fedjaxlite.observers.records import Record
from fedjaxlite.training import preemption
from fedjaxlite.training.checkpoints import Checkpoints
from fedjaxlite.training.faults import fewer_lanes, lost_model
from fedjaxlite.training.measures import Measures

LOG = logging.getLogger("fedjaxlite.training")

MOST_ROUNDS = 2**31 - 1
"""The rounds that a state can count."""

_DISPATCH = 10
"""Rounds in a dispatch where nothing asks for fewer: enough to hide its cost, few enough that progress is seen."""

_SECONDS = 30.0
"""Between checkpoints where their number is left open."""


class Pace(NamedTuple):
    """When what happens, as a function of the round alone (but for checkpoints whose number is left open).

    Attributes:
      num_rounds: the last round.
      piece: rounds in a dispatch.
      evaluate_every: rounds between evaluations.
      checkpoint_every: rounds between checkpoints, or None for one every half minute.
    """

    num_rounds: int
    piece: int
    evaluate_every: int
    checkpoint_every: int | None

    def length(self, done: int) -> int:
        """Rounds of the next dispatch: up to the next multiple of the piece."""
        return min((done // self.piece + 1) * self.piece, self.num_rounds) - done

    def evaluates(self, done: int) -> bool:
        """Whether to evaluate after so many rounds."""
        return done % self.evaluate_every == 0 or done == self.num_rounds

    def saves(self, done: int, since: float) -> bool:
        """Whether to make a checkpoint after so many rounds, `since` seconds after the last."""
        if done == self.num_rounds:
            return True
        if self.checkpoint_every is not None:
            return done % self.checkpoint_every == 0
        return since >= _SECONDS


class Run(NamedTuple):
    """What does not change while the loop goes.

    Attributes:
      rounds: the composed run.
      population: the training data.
      measure: all evaluations as one function of the state, or None.
      observers: in the order in which they are told.
      pace: when what happens.
      kept: where checkpoints go, or None.
      better: which way metrics are better, as the user says.
      asked: whether the process was asked to end (by SIGTERM).
      began: the round at which the records of the run's folder begin.
      folder: where the run is kept, or None.
      fewer: the lanes that are left, where the device was out of memory with more.
      keep_records: the most records in memory, the newest.
      stop_at_nan: whether the run ends, as failed, when its model is no longer finite.
      lost: what tells that: the parts of a state's model that are not finite.
      states: the clients' states where they are kept outside of the devices, after the rounds that the state has done.
      stream: what runs the rounds where data or client states stream; `run_loop` opens it.
      now: the rounds that fit, where data or client states stream.
    """

    rounds: Rounds
    population: Population
    measure: Measures | None
    observers: tuple[Observer, ...]
    pace: Pace
    kept: Checkpoints | None
    better: Mapping[str, Direction] = {}
    asked: Callable[[], bool] = lambda: False
    began: int = 0
    folder: Path | None = None
    fewer: int | None = None
    keep_records: int = MOST_ROUNDS
    stop_at_nan: bool = True
    lost: Callable[[RoundState], list[str]] = lambda state: []
    states: streaming.Kept | None = None
    stream: streaming.Stream | None = None
    now: Callable[[], Rounds] | None = None


def run_loop(run: Run, state: RoundState, earlier: list[Record]) -> History:
    """Runs from a state to the last round, or until an observer or SIGTERM stops it.

    Args:
      run: what to run.
      state: where to start.
      earlier: the records of the rounds before.

    Returns:
      a History of all rounds, `earlier` included, as far as their records are kept.
    """
    if int(records.here(state.round)) >= run.pace.num_rounds:
        return History(state, earlier[-run.keep_records :])
    if not streaming.streams(run.rounds.execution, run.population):
        return _looped(run, state, earlier)
    store = run.states.store if run.states else None
    rounds, now = fewer_lanes.halving(run.rounds, run.population)
    with streaming.opened(rounds, run.population, state, run.pace.num_rounds, store) as stream:
        if run.states is not None:
            run.states.follow(stream.settle)
        history = _looped(run._replace(stream=stream, now=now), state, earlier)
        if store is not None and run.kept is None:
            stream.settle()
            store.mark(int(records.here(history.state.round)))
        return history


def _looped(run: Run, state: RoundState, earlier: list[Record]) -> History:
    done, pace = int(records.here(state.round)), run.pace
    history, stop, started = list(earlier), None, []
    saved, saved_at = done, time.monotonic()
    begin = time.monotonic() - _elapsed(earlier)
    try:
        start = _first_look(run, state, earlier)
        last = _last_round(run.observers, start)
        run = run._replace(pace=pace._replace(num_rounds=last.round), lost=_watched(run, state))
        pace = run.pace
        if done >= pace.num_rounds:
            return History(state, history, last.reason)
        for observer in run.observers:
            observer.start(start._replace(num_rounds=pace.num_rounds))
            started.append(observer)
        while done < pace.num_rounds and stop is None:
            run, state, new, lost = _dispatch(run, state, start, begin)
            done, stop = done + len(new), lost
            for record in new:
                history.append(record)
                told = _tell(run.observers, record, state)
                stop = stop or told
            del history[: max(0, len(history) - run.keep_records)]
            if run.kept is None:
                saved_at = _bounded(run, done, saved_at)
                continue
            asked, since = preemption.anywhere(run.asked(), time.monotonic() - saved_at)
            stop = stop or (Stop("SIGTERM") if asked else None)
            # A model that is lost is not saved: what was saved before is what one would go on from.
            if lost is None and (stop or pace.saves(done, since)):
                _save(run, state)
                saved, saved_at = done, time.monotonic()
        stop = stop or (Stop(last.reason) if last.reason else None)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        stop = Stop("interrupted" if interrupted else f"{type(error).__name__}: {error}", failed=not interrupted)
        # Of several processes each is interrupted somewhere else, and a checkpoint takes all of them in one round.
        alone = processes.count() == 1
        if isinstance(error, KeyboardInterrupt) and alone and run.kept and done > saved and not _deleted(state):
            _save(run, state)
        raise
    finally:
        ended = History(state, history, stop.reason if stop else None, bool(stop and stop.failed))
        for observer in reversed(started):
            observer.end(ended)
    LOG.log(logging.ERROR if ended.failed else logging.INFO, "ended after round %d: %s", done, ended.stopped or "done")
    return ended


def _watched(run: Run, state: RoundState) -> Callable[[RoundState], list[str]]:
    return lost_model.watch(run.rounds, state) if run.stop_at_nan else run.lost


def _bounded(run: Run, done: int, since: float) -> float:
    """Without checkpoints nobody goes back: what could undo client states is forgotten now and then."""
    if run.states is None or run.stream is None or time.monotonic() - since < _SECONDS:
        return since
    run.stream.settle()
    run.states.store.mark(done)
    run.states.store.forget(done)
    return time.monotonic()


def _save(run: Run, state: RoundState) -> None:
    if run.kept is None:
        return
    if run.stream is not None:
        run.stream.settle()
    run.kept.save(state, run.began, run.fewer)


def _elapsed(earlier: list[Record]) -> float:
    """Seconds of the rounds before; those of the last record that has them."""
    return next((record["elapsed"] for record in reversed(earlier) if "elapsed" in record), 0.0)


def _first_look(run: Run, state: RoundState, earlier: list[Record]) -> Start:
    """What observers are told before the first round."""
    params = run.rounds.params(state)
    wire = run.rounds.wire(params, run.population)
    traffic = traffic_on(wire, run.rounds.algorithm, params)
    metrics = run.measure(state).metrics if run.measure else {}
    better: dict[str, Direction] = {**run.better, **(run.measure.better(metrics, run.better) if run.measure else {})}
    return Start(
        run.rounds,
        state,
        run.population,
        run.pace.num_rounds,
        traffic,
        tuple(earlier),
        metrics,
        wire,
        better,
        run.folder,
    )


def _last_round(watching: tuple[Observer, ...], start: Start) -> LastRound:
    """The first of the last rounds that observers ask for; the run's own, without a reason, where none is before it."""
    last = LastRound(start.num_rounds, "")
    for observer in watching:
        asked = observer.last_round(start)
        if asked is not None and asked.round < last.round:
            last = asked
    return last


def _dispatch(
    run: Run, state: RoundState, start: Start, begin: float
) -> tuple[Run, RoundState, list[Record], Stop | None]:
    """Runs some rounds, evaluates if it is time to, and makes their records.

    Returns:
      the run, with fewer lanes where those it had did not fit; the state; the records; and a Stop where the model of
      that state is not finite.
    """
    done, before = int(records.here(state.round)), time.monotonic()
    length = run.pace.length(done)
    asked, stream = run.rounds, run.stream.run if run.stream else None
    rounds, (new_state, infos) = fewer_lanes.dispatched(
        *(asked, state, run.population, length),
        stepwise=run.pace.piece == 1,
        stream=stream,
        now=run.now or (lambda: asked),
    )
    if rounds is not asked:
        fewer_lanes.note(run.folder, rounds.execution.lanes, done + 1)
        run = run._replace(rounds=rounds, fewer=rounds.execution.lanes)
    old, state, seconds = state, new_state, time.monotonic() - before
    new = records.of_dispatch(
        infos,
        first=done + 1,
        num_rounds=length,
        seconds=seconds,
        noised=start.wire is not None and start.wire.noised,
        noised_locally=bool(run.rounds.algorithm.mechanisms),
        names=run.population.names,
    )
    if rounds is not asked:
        new[0]["lanes_left"] = rounds.execution.lanes
    for i, record in enumerate(new, start=1):
        record["elapsed"] = before - begin + seconds * i / length
    if run.measure and run.pace.evaluates(done + length):
        found = run.measure(state)
        new[-1].update(found.metrics)
        if "simulation_only" in new[-1]:
            new[-1]["simulation_only"] += found.on_clients
        new[-1]["elapsed"] = time.monotonic() - begin
    lost = run.lost(state)
    reason = lost_model.told(lost, run.lost, lost_model.Dispatch(rounds, old, run.population, new)) if lost else ""
    return run, state, new, Stop(reason, failed=True) if lost else None


def _tell(watching: tuple[Observer, ...], record: Record, state: RoundState) -> Stop | None:
    """Tells every observer, adds to the record what they give, and returns the first Stop, if any says so."""
    stop = None
    for observer in watching:
        answer = observer.round(record, state)
        if isinstance(answer, Stop):
            stop = stop or answer
            record.update(answer.extra)
        elif isinstance(answer, Mapping):
            record.update(records.scalars_of(answer, "an observer"))
    return stop


def _deleted(state: RoundState) -> bool:
    """Whether a dispatch that was cut short had taken over the memory of this state."""
    return any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def piece_of(rounds: Rounds, most: int | None, watching: list[Observer], asked: list[int]) -> int:
    """Rounds in a dispatch: the largest number allowed that divides the intervals asked for.

    Args:
      rounds: the composed run.
      most: what the user allows, or None.
      watching: the observers, any of which may ask for single rounds.
      asked: the intervals between evaluations and checkpoints.
    """
    if most is not None:
        checks.positive_count(rounds_per_dispatch=most)
    # Client states that are kept elsewhere are written after a round that the loop has seen whole.
    single = rounds.execution.states_elsewhere or not rounds.execution.jit
    if single or any(observer.every_round for observer in watching):
        return 1
    most = _DISPATCH if most is None else int(most)
    interval = math.gcd(*(every for every in asked if every <= MOST_ROUNDS))
    if interval == 0:
        return min(most, MOST_ROUNDS)
    small = [n for n in range(1, math.isqrt(interval) + 1) if interval % n == 0]
    return max(n for n in [*small, *(interval // n for n in small)] if n <= most)
