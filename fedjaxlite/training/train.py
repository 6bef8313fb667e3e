"""Training: the loop around rounds. It evaluates, tells observers, keeps records and checkpoints, and resumes."""

import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

from fedjaxlite import checks, exit_codes, processes, streaming
from fedjaxlite.data.population import Population
from fedjaxlite.directions import Direction, directions
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers import records
from fedjaxlite.observers.files import to_jsonl, to_tensorboard
from fedjaxlite.observers.guards import stop_when_diverged, stop_when_lost
from fedjaxlite.observers.observer import History, Observer, Start, as_observer
from fedjaxlite.observers.progress import progress as show_progress
from fedjaxlite.observers.records import Record
from fedjaxlite.observers.recovery import recover
from fedjaxlite.observers.stopping import stop_at
from fedjaxlite.storage import StorageError
from fedjaxlite.training import checkpoints, curves, preemption, run_config, run_folder
from fedjaxlite.training.faults.fewer_lanes import recomposed
from fedjaxlite.training.faults.last_words import how_to_go_on, storage_failed
from fedjaxlite.training.identity import Identity, agreed_folder, flat, identity, programs
from fedjaxlite.training.loop import MOST_ROUNDS, Pace, Run, piece_of, run_loop
from fedjaxlite.training.measures import measures
from fedjaxlite.training.run_folder import RunFolder

_MUCH = 1 << 28
"""Bytes of client states of which it is worth saying that they are copied."""
LOG = logging.getLogger("fedjaxlite.training")


def train(
    rounds: Rounds,
    state: RoundState,
    population: Population,
    *,
    num_rounds: int,
    evaluate: Any = None,
    evaluate_state: Any = None,
    evaluate_every: int = 1,
    out_dir: str | os.PathLike[str] | None = None,
    observers: Iterable[Any] = (),
    progress: bool = True,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 2,
    keep_records: int | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    lost_rounds: int | None = 10,
    diverged_rounds: int | None = 10,
    stop_at_nan: bool = True,
    target: Mapping[str, float] | None = None,
    better: Mapping[str, Direction] | None = None,
    rounds_per_dispatch: int | None = None,
    tensorboard: bool = False,
    config: Mapping[str, Any] | None = None,
) -> History:
    """Trains for a number of rounds, with evaluation, records, checkpoints and a way to go on after a crash.

    Args:
      rounds: the composed run, from `fl.rounds`.
      state: where to start, from `rounds.init` (or a later state).
      population: what `rounds.init` got.
      num_rounds: the round at which the run ends, counted from the run's beginning, not from `state`.
      evaluate: `f(params)` that returns a dict of scalars or a ClientReport, such as `fl.evaluate(model, test)`; or a
        dict of such functions by name. Metrics are recorded as "test_accuracy", with the function's name in front;
        a single function is called "test".
      evaluate_state: likewise, `f(state)`, for personalized models (`fl.evaluate_clients(..., rounds=rounds)`); a
        single function is called "clients".
      evaluate_every: rounds between evaluations; the last round is always evaluated. One evaluation comes before the
        first round, so that what is wrong with it shows before any training.
      out_dir: a folder for `records.jsonl` (one line a round, written at once), `config.toml`, `curves.png` and
        `checkpoints/`. None keeps nothing.
      observers: functions `(record, state)` or `fedjaxlite.observers.Observer`s.
      progress: show progress on the standard output: a bar on a terminal, else a line now and then.
      checkpoint_every: rounds between checkpoints; None makes one every half minute, by the clock of the first process.
        The last round always has one, and so has the last whole round of a run that SIGTERM, or Ctrl-C of a single
        process, ends.
      keep_checkpoints: how many to keep, the newest.
      keep_records: how many records the History holds, the newest; None holds all, about a kilobyte a round. The file
        in `out_dir` has all of them anyway.
      resume: go on from the newest whole checkpoint of `out_dir` if there is one; `state` then only says what to
        expect. Needed wherever `out_dir` holds a run.
      accept_changes: go on although what clients, server or sampler compute is not what it was (a rate, a dropout's
        chance, the loss); it is told as a warning, and noted in config.toml. Else such a checkpoint is refused.
      lost_rounds: ends the run, as failed, after so many rounds in a row in which clients reported and no update was
        finite; None never does. See `fedjaxlite.observers.stop_when_lost`.
      diverged_rounds: ends the run, as failed, when a loss was out of all bounds for so many of its values in a row;
        None never does. See `fedjaxlite.observers.stop_when_diverged`.
      stop_at_nan: ends the run, as failed, with the dispatch after which its model holds NaN or infinity, and names
        the round and the clients that did it. No checkpoint is made then: the last one is of a model that can go on.
        False goes on all the same.
      target: ends the run at the first evaluated round that reaches it, such as {"accuracy": 0.97}; see
        `fedjaxlite.observers.stop_at`.
      better: which way metrics of your own are better, such as {"mae": "lower"}, where a target or early stopping asks
        and their loss does not say (`fedjaxlite.losses.declare`).
      rounds_per_dispatch: the most rounds in one XLA program; None allows 10. The largest number up to it is taken
        that divides `evaluate_every` and `checkpoint_every`: the pieces of a run must not depend on where it resumes.
      tensorboard: also write event files to `out_dir`; needs tensorboardX.
      config: tables to add to config.toml, such as the program's own arguments, or {"warm_start": record}.

    Returns:
      a History `(state, records, stopped, failed)`. A record holds "round", "selected", "reported", "nonfinite",
      "examples", the mean metrics of local training ("loss" ...), what the aggregator tells of itself, the metrics of
      the evaluation, "bytes_up" and "bytes_down" (all clients of the round together), "seconds" (the wall time of a
      dispatch over its rounds, without evaluation; the first includes compilation) and "elapsed" (seconds of the run
      so far, with everything). Where the aggregator adds noise for privacy, "simulation_only" lists what is in the
      record and no guarantee covers: what was measured on the clients past the noise, and what tells how many of them
      took part.

    Raises:
      TypeError, ValueError: for arguments that do not fit, a checkpoint of another run, or checkpoints of which none is
        whole; before any training.
      FileExistsError: `out_dir` holds a run and `resume` is False. OSError: it cannot be written to. RuntimeError:
        another run is going on in `out_dir`; or the device is out of memory with a single lane.
      StorageError: later, an OSError of `fedjaxlite.storage`: the disk is full, or `out_dir` is gone or not to be
        reached, and stayed so through a minute of tries. The text names the last checkpoint, which is whole.
      SystemExit: with code 143, after a SIGTERM to a run with an `out_dir`: the rounds of the dispatch end, a
        checkpoint is made, and a warning says how to go on. A second SIGTERM ends the process at once. So it is in the
        main thread, unless the program handles or ignores SIGTERM itself; the handler is put back afterwards.

    Guarantees:
      Where the device is out of memory, lanes are halved and the run goes on from the same state; it is told as a
      warning, in the record of the first round ("lanes_left"), and in config.toml.
      A run that is killed at any moment and resumed with the same arguments, on as many devices, ends with the same
      bits as one that was not (on accelerators, with XLA's deterministic operations). So it does where bytes of its
      newest checkpoint were changed: the one before is used. A resumed run's records have no silent hole: those of
      rounds that were lost read `{"round": r, "missing": True}`.

    What happens is told to the logger "fedjaxlite", on which the library installs no handler: warnings and failures
    reach the standard error, the rest whatever the program sets up.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp, numpy as np, optax
      >>> from fedjaxlite import algorithms
      >>> data = fl.Population.from_arrays({"x": np.float32([1, 2, 3, 6])}, client_ids=[0, 0, 1, 1])
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.2), batch_size=None)
      >>> run = fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.weighted_mean())
      >>> state = run.init(jnp.float32(0), data, key=jax.random.key(0))
      >>> history = train(run, state, data, num_rounds=3, evaluate=fl.evaluate(loss, data), progress=False)
      >>> [round(record["test_loss"], 2) for record in history.records]
      [6.74, 4.67, 3.92]
    """
    _check(rounds, state, population, num_rounds, config)
    checks.positive_count(evaluate_every=evaluate_every, keep_checkpoints=keep_checkpoints)
    optional: dict[str, Any] = {"checkpoint_every": checkpoint_every, "keep_records": keep_records}
    for name, value in optional.items():
        if value is not None:
            checks.positive_count(**{name: value})
    if resume and out_dir is None:
        raise ValueError("`resume` is True without an `out_dir`; give the folder of the run that is to go on.")
    if accept_changes and not resume:
        raise ValueError(
            "`accept_changes` is True without `resume`; it is about the checkpoint that a run goes on from."
        )
    measure, ways = measures(rounds, evaluate, evaluate_state), directions("better", better)
    if tensorboard and out_dir is None:
        raise ValueError("`tensorboard` is True without an `out_dir`; give a folder for the event files.")
    watching = [as_observer(value, i) for i, value in enumerate(observers)]
    watching += [stop_at(target, better=ways)] if target is not None else []
    watching += _guards(lost_rounds, diverged_rounds)
    asked = [evaluate_every if measure else None, checkpoint_every]
    pace = Pace(
        num_rounds=num_rounds,
        piece=piece_of(rounds, rounds_per_dispatch, watching, [every for every in asked if every]),
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
    )
    keeps = {"keep_checkpoints": keep_checkpoints, "resume": resume, "accept_changes": accept_changes}
    guards = {"target": target, "lost_rounds": lost_rounds, "diverged_rounds": diverged_rounds}
    guards |= {"stop_at_nan": stop_at_nan}
    told = {**pace._asdict(), "evaluate": measure is not None, **keeps, **guards, "state": state}
    out_dir = agreed_folder(rounds, told, out_dir)
    _tell_of_copies(rounds, state)
    show = (show_progress(),) if progress and processes.is_first() else ()
    run = Run(rounds, population, measure, tuple(watching), pace, None, ways)
    run = run._replace(keep_records=keep_records or MOST_ROUNDS, stop_at_nan=checks.flag(stop_at_nan=stop_at_nan))
    if out_dir is None:
        _check_round(state, num_rounds)
        with streaming.kept_states(rounds, state, population) as states:
            run = run._replace(observers=(*run.observers, *show), states=states)
            return run_loop(run, streaming.knowing(state, states), [])
    folder = Folder(out_dir, keep_checkpoints, resume, accept_changes, tensorboard, config or {})
    with preemption.noticed() as ended:
        history = _kept(run._replace(asked=ended), state, folder, show)
    if history.stopped == "SIGTERM" or ended():
        if processes.is_first():
            LOG.warning("%s", how_to_go_on(history, num_rounds, out_dir))
        raise SystemExit(exit_codes.TERMINATED)
    return history


def _tell_of_copies(rounds: Rounds, state: RoundState) -> None:
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state.clients))
    if size >= _MUCH and not rounds.execution.donate and not rounds.execution.states_elsewhere:
        LOG.info(
            "every dispatch copies %.3g GB of client states: Execution(donate=True) does not, nor does one with "
            "client_states='host' or a folder; more rounds_per_dispatch copy less often",
            size / 1e9,
        )


class Folder(NamedTuple):
    """What was asked for of a run's folder: the arguments of `train`, by their names."""

    out_dir: str | os.PathLike[str]
    keep_checkpoints: int
    resume: bool
    accept_changes: bool
    tensorboard: bool
    config: Mapping[str, Any]


def _kept(run: Run, state: RoundState, asked: Folder, show: tuple[Observer, ...]) -> History:
    """A run that keeps its records and checkpoints in a folder, which it has for itself while it goes."""
    rounds, population, num_rounds = run.rounds, run.population, run.pace.num_rounds
    with (
        run_folder.held(asked.out_dir, resume=asked.resume) as folder,
        streaming.kept_states(rounds, state, population, resume=asked.resume) as states,
    ):
        who = identity(rounds, state, population)
        who["program"]["rounds_per_dispatch"] = run.pace.piece
        processes.same(flat(who))
        kept = checkpoints.open_at(
            folder.checkpoints,
            who,
            keep=asked.keep_checkpoints,
            accept_changes=asked.accept_changes,
            again=lambda lanes: programs(rounds, state, population, lanes),
            clients=states.store if states else None,
        )
        before, earlier = kept.restore(state), []
        if before is None:
            _check_round(state, num_rounds)
            began = int(records.here(state.round))
        else:
            state, began = before.state, before.began
            if before.fewer is not None:  # as many as the rounds before had
                run = run._replace(rounds=recomposed(rounds, before.fewer), fewer=before.fewer)
            earlier = _earlier(folder, began, int(records.here(state.round)))
        state = streaming.knowing(state, states)
        told = (
            "a run of %d rounds begins in %s" if before is None else "the run in %s goes on from round %d to round %d"
        )
        done = int(records.here(state.round))
        LOG.info(told, *((num_rounds, folder.path) if before is None else (folder.path, done, num_rounds)))
        writing = _writing(folder, who, asked, before)
        watching = (*run.observers, *writing, *show)
        run = run._replace(observers=watching, kept=kept, began=began, folder=folder.path, states=states)
        try:
            history = run_loop(run, state, earlier)
        except StorageError as error:
            raise storage_failed(error, kept) from error
        if processes.is_first() and history.stopped != "SIGTERM":
            try:
                every = history.records if run.keep_records == MOST_ROUNDS else records.read(folder.records)
                if curves.can_be_drawn(every):
                    curves.plot(every, folder.curves, title=f"{rounds.algorithm.name}, {rounds.sampler.name}")
            except OSError as error:  # all that the run computed is safe
                LOG.warning("%s could not be written: %s", folder.curves, error.strerror or error)
    return history


def _guards(lost_rounds: Any, diverged_rounds: Any) -> list[Observer]:
    """What ends a run that has nothing left to gain."""
    for name, value in {"lost_rounds": lost_rounds, "diverged_rounds": diverged_rounds}.items():
        if value is not None:
            checks.positive_count(**{name: value}, remedy="None never ends a run for that.")
    lost = [] if lost_rounds is None else [stop_when_lost(lost_rounds)]
    return lost + ([] if diverged_rounds is None else [stop_when_diverged(diverged_rounds)])


def _writing(
    folder: RunFolder, who: Identity, asked: Folder, before: checkpoints.Restored | None
) -> tuple[Observer, ...]:
    """The observers that write files; only the first process has them."""

    def write_config(start: Start) -> None:
        # An observer like the others, so that nothing is written where an evaluation or an observer refuses to start.
        about = {} if before else run_config.describe(start.rounds, start.state, start.population, who, start.traffic)
        resumed = None if before is None else _resumed(before, start)
        run_config.write(folder, about, asked.config, resumed=resumed)

    if not processes.is_first():
        return ()
    extra = (to_tensorboard(folder.tensorboard),) if asked.tensorboard else ()
    return (Observer(start=write_config), to_jsonl(folder.records), *extra)


def _resumed(before: checkpoints.Restored, start: Start) -> dict[str, Any]:
    """What config.toml says of a run that goes on."""
    missing = [record["round"] for record in start.records if record.get("missing")]
    return {
        "from_round": int(records.here(start.state.round)),
        **({"changed": list(before.changed)} if before.changed else {}),
        **({"missing_records": missing} if missing else {}),
    }


def _earlier(folder: RunFolder, began: int, done: int) -> list[Record]:
    """The records of the rounds before; the first process repairs their file where it has to be, and tells all."""
    return processes.by_first(lambda: recover(folder.records, began, done))


def _check(rounds: Any, state: Any, population: Any, num_rounds: Any, config: Any) -> None:
    checks.positive_count(num_rounds=num_rounds)
    if num_rounds > MOST_ROUNDS:
        raise ValueError(f"`num_rounds` is {num_rounds}; expected at most {MOST_ROUNDS}, which a state can count.")
    if not isinstance(rounds, Rounds):
        raise TypeError(f"`rounds` is a {type(rounds).__name__}; expected what fl.rounds(...) returns.")
    if not isinstance(state, RoundState):
        raise TypeError(f"`state` is a {type(state).__name__}; expected a RoundState, as rounds.init(...) returns.")
    if not isinstance(population, Population):
        raise TypeError(f"`population` is a {type(population).__name__}; expected the Population that `init` got.")
    if config is not None and not isinstance(config, Mapping):
        raise TypeError(f"`config` is a {type(config).__name__}; expected a dict of tables for config.toml.")
    rounds.sampler.check(population.num_clients)
    rounds.check(state, population)
    began = state.ledger.last.begin if state.ledger.last else 0  # an aggregator that goes on begins anew
    for part, before in ((rounds.sampler, 0), (rounds.aggregator, began)):
        if part.num_rounds is not None and num_rounds - before > part.num_rounds:
            raise ValueError(
                f"`num_rounds` is {num_rounds}, but {part.name} knows {before + part.num_rounds} rounds; ask for fewer."
            )


def _check_round(state: RoundState, num_rounds: int) -> None:
    done = int(records.here(state.round))
    if done >= num_rounds:
        raise ValueError(
            f"`num_rounds` is {num_rounds}, and `state` has done {done} rounds already. num_rounds counts from the "
            f"beginning of the run: ask for more than {done}, such as {done + num_rounds} for {num_rounds} more."
        )
