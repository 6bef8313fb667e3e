"""Training: the loop around rounds. It evaluates, tells observers, keeps records and checkpoints, and resumes."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from fedjaxlite import checks
from fedjaxlite.data.population import Population
from fedjaxlite.directions import Direction, directions
from fedjaxlite.execution.composition import Rounds
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers import records
from fedjaxlite.observers.files import to_jsonl, to_tensorboard
from fedjaxlite.observers.observer import History, Observer, Start, as_observer
from fedjaxlite.observers.progress import progress as show_progress
from fedjaxlite.observers.records import Record
from fedjaxlite.observers.stopping import stop_at
from fedjaxlite.training import checkpoints, curves, run_config, run_folder
from fedjaxlite.training.checkpoints import Checkpoints
from fedjaxlite.training.loop import Pace, Run, piece_of, run_loop
from fedjaxlite.training.measures import measures
from fedjaxlite.training.run_folder import RunFolder


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
    resume: bool = False,
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
      checkpoint_every: rounds between checkpoints; None makes one every half minute (with several processes, about ten
        in all). The last round always has one, and so has the last whole round of a run that Ctrl-C ends.
      keep_checkpoints: how many to keep, the newest.
      resume: go on from the newest checkpoint of `out_dir` if there is one; `state` then only says what to expect.
        Needed wherever `out_dir` holds a run.
      target: ends the run at the first evaluated round that reaches it, such as {"accuracy": 0.97}; see
        `fedjaxlite.observers.stop_at`.
      better: which way metrics of your own are better, such as {"mae": "lower"}, where a target or early stopping asks
        and their loss does not say (`fedjaxlite.losses.declare`).
      rounds_per_dispatch: the most rounds in one XLA program; None allows 10. The largest number up to it is taken
        that divides `evaluate_every` and `checkpoint_every`: the pieces of a run must not depend on where it resumes.
      tensorboard: also write event files to `out_dir`; needs tensorboardX.
      config: tables to add to config.toml, such as the program's own arguments, or {"warm_start": record}.

    Returns:
      a History `(state, records, stopped)`. A record holds "round", "selected", "reported", "nonfinite", "examples",
      the mean metrics of local training ("loss" ...), what the aggregator tells of itself, the metrics of the
      evaluation, "bytes_up" and "bytes_down" (all clients of the round together), "seconds" (the wall time of a
      dispatch over its rounds, without evaluation; the first includes compilation) and "elapsed" (seconds of the run
      so far, with everything). Where the aggregator adds noise for privacy, "simulation_only" lists what is in the
      record but past the noise, so that no guarantee covers it.

    Raises:
      TypeError, ValueError: for arguments that do not fit, or a checkpoint of another run; before any training.
      FileExistsError: `out_dir` holds a run and `resume` is False. OSError: it cannot be written to; or, later, the
        disk is full, which leaves the last checkpoint whole.

    Guarantees:
      A run that is killed at any moment and resumed with the same arguments, on as many devices, ends with the same
      bits as one that was not (on accelerators, with XLA's deterministic operations).

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
    checks.positive_int(evaluate_every=evaluate_every, keep_checkpoints=keep_checkpoints)
    if checkpoint_every is not None:
        checks.positive_int(checkpoint_every=checkpoint_every)
    if resume and out_dir is None:
        raise ValueError("`resume` is True without an `out_dir`; give the folder of the run that is to go on.")
    measure, ways = measures(rounds, evaluate, evaluate_state), directions("better", better)
    if tensorboard and out_dir is None:
        raise ValueError("`tensorboard` is True without an `out_dir`; give a folder for the event files.")
    watching = [as_observer(value, i) for i, value in enumerate(observers)]
    watching += [stop_at(target, better=ways)] if target is not None else []
    asked = [evaluate_every if measure else None, checkpoint_every]
    pace = Pace(
        num_rounds=num_rounds,
        piece=piece_of(rounds, rounds_per_dispatch, watching, [every for every in asked if every]),
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
    )
    show = (show_progress(),) if progress and jax.process_index() == 0 else ()
    run = Run(rounds, population, measure, tuple(watching), pace, None, ways)
    if out_dir is None:
        _check_round(state, num_rounds)
        return run_loop(run._replace(observers=(*run.observers, *show)), state, [])
    folder = run_folder.prepare(out_dir, resume=resume)
    if jax.process_count() > 1:  # nobody writes before everybody has looked
        multihost_utils.sync_global_devices("fedjaxlite.train")
    who = checkpoints.identity(rounds, state, population)
    kept = checkpoints.open_at(folder.checkpoints, who, keep=keep_checkpoints)
    try:
        resumed, earlier = kept.latest() is not None, []
        if resumed:
            state, earlier = _resumed(kept, folder, state)
        else:
            _check_round(state, num_rounds)
        writing = _writing(folder, who, config or {}, tensorboard=tensorboard, resumed=resumed)
        watching = (*run.observers, *writing, *show)
        history = run_loop(run._replace(observers=watching, kept=kept), state, earlier)
    finally:
        kept.close()
    if history.records and jax.process_index() == 0:
        curves.plot(history.records, folder.curves, title=f"{rounds.algorithm.name}, {rounds.sampler.name}")
    return history


def _writing(
    folder: RunFolder, who: checkpoints.Identity, config: Mapping[str, Any], *, tensorboard: bool, resumed: bool
) -> tuple[Observer, ...]:
    """The observers that write files; only the first process has them."""

    def write_config(start: Start) -> None:
        # An observer like the others, so that nothing is written where an evaluation or an observer refuses to start.
        about = {} if resumed else run_config.describe(start.rounds, start.state, start.population, who)
        done = int(records.here(start.state.round))
        run_config.write(folder, about, config, from_round=done if resumed else None)

    if jax.process_index() != 0:
        return ()
    extra = (to_tensorboard(folder.tensorboard),) if tensorboard else ()
    return (Observer(start=write_config), to_jsonl(folder.records), *extra)


def _resumed(kept: Checkpoints, folder: RunFolder, like: RoundState) -> tuple[RoundState, list[Record]]:
    """The newest state, and the records up to it."""
    state = kept.restore(like)
    found = records.read(folder.records) if folder.records.exists() else []
    return state, [record for record in found if record["round"] <= int(records.here(state.round))]


def _check(rounds: Any, state: Any, population: Any, num_rounds: Any, config: Any) -> None:
    checks.positive_int(num_rounds=num_rounds)
    if not isinstance(rounds, Rounds):
        raise TypeError(f"`rounds` is a {type(rounds).__name__}; expected what fl.rounds(...) returns.")
    if not isinstance(state, RoundState):
        raise TypeError(f"`state` is a {type(state).__name__}; expected a RoundState, as rounds.init(...) returns.")
    if not isinstance(population, Population):
        raise TypeError(f"`population` is a {type(population).__name__}; expected the Population that `init` got.")
    if config is not None and not isinstance(config, Mapping):
        raise TypeError(f"`config` is a {type(config).__name__}; expected a dict of tables for config.toml.")
    rounds.sampler.check(population.num_clients)
    for part in (rounds.sampler, rounds.aggregator):
        if part.num_rounds is not None and num_rounds > part.num_rounds:
            raise ValueError(
                f"`num_rounds` is {num_rounds}, but {part.name} knows {part.num_rounds} rounds; ask for fewer."
            )


def _check_round(state: RoundState, num_rounds: int) -> None:
    done = int(records.here(state.round))
    if done >= num_rounds:
        raise ValueError(
            f"`num_rounds` is {num_rounds}, and `state` has done {done} rounds already. num_rounds counts from the "
            f"beginning of the run: ask for more than {done}, such as {done + num_rounds} for {num_rounds} more."
        )
