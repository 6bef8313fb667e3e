"""Budgets while a run goes: the running epsilon, the end before the budget is passed, and what records say of the noise.

One tiny run of twelve rounds, whose budget ends at round 7 whatever the rounds in a dispatch.
"""

import functools
import io
import json
import math

import helpers
import jax
import pytest

import fedjaxlite as fl
from fedjaxlite.observers import progress, records
from fedjaxlite.privacy.accounting import epsilon, max_rounds, running_epsilon, stop_at_epsilon
from fedjaxlite.privacy.central.adaptive_clip import adaptive_gaussian
from fedjaxlite.privacy.central.gaussian import gaussian

DELTA, BUDGET, LAST = 1e-5, 3.4, 7
PEOPLE = helpers.regression((3,) * 40)


@functools.cache
def composed(noise: float = 2.0, adaptive: bool = False) -> fl.Rounds:
    codec = adaptive_gaussian(noise_multiplier=0.5) if adaptive else gaussian(clip_norm=1.0, noise_multiplier=noise)
    return fl.rounds(
        helpers.fed_avg(),
        sampler=fl.sampling.poisson(0.5, capacity=40),
        aggregator=fl.chain(fl.mean(over=20), codec),
        execution=helpers.ONE,
    )


def first(rounds: fl.Rounds) -> fl.RoundState:
    return rounds.init(helpers.linear_params(), PEOPLE, key=jax.random.key(0), noise_key=jax.random.key(1))


def go(*observers, rounds=None, state=None, **options) -> fl.observers.History:
    rounds = composed() if rounds is None else rounds
    state = first(rounds) if state is None else state
    options = {"num_rounds": 12, "rounds_per_dispatch": 5, "progress": False, **options}
    return fl.train(rounds, state, PEOPLE, observers=observers, **options)


def stop(budget: float = BUDGET, delta: float = DELTA) -> fl.observers.Observer:
    return stop_at_epsilon(epsilon=budget, delta=delta)


@functools.cache
def budgeted() -> fl.observers.History:
    """The run that the others are compared with."""
    return go(running_epsilon(delta=DELTA), stop())


def test_the_budget_is_as_the_module_says() -> None:
    assert max_rounds(composed(), PEOPLE, epsilon=BUDGET, delta=DELTA) == LAST


def test_the_run_ends_before_the_round_that_passes_the_budget() -> None:
    history = budgeted()
    assert int(history.state.round) == len(history.records) == LAST
    assert history.stopped == "the privacy budget of epsilon 3.4 at delta 1e-05 ends at round 7"
    spent = [epsilon(composed(), PEOPLE, num_rounds=t, delta=DELTA) for t in (LAST, LAST + 1)]
    assert spent[0] <= BUDGET < spent[1]
    assert history.records[-1]["epsilon"] == spent[0]


def test_the_run_ends_there_whatever_the_rounds_in_a_dispatch() -> None:
    history = go(stop(), rounds_per_dispatch=1)
    assert int(history.state.round) == LAST
    assert helpers.max_difference(history.state.params, budgeted().state.params) < 1e-5


def test_a_run_that_was_killed_ends_there_too_with_the_same_bits(tmp_path) -> None:
    def die(record, state):
        if record["round"] == 6:
            raise RuntimeError("killed")

    options = {"out_dir": tmp_path, "checkpoint_every": 5}
    with pytest.raises(RuntimeError, match="killed"):
        go(running_epsilon(delta=DELTA), stop(), die, **options)
    history = go(running_epsilon(delta=DELTA), stop(), resume=True, **options)
    assert int(history.state.round) == LAST
    assert helpers.max_difference(history.state.params, budgeted().state.params) == 0
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(1, LAST + 1))
    assert [line["epsilon"] for line in lines] == [record["epsilon"] for record in budgeted().records]
    # And once more: there is nothing left to run, and the reason is told again.
    again = go(stop(), resume=True, **options)
    assert (int(again.state.round), again.stopped) == (LAST, budgeted().stopped)
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == LAST


def test_a_budget_that_is_not_reached_changes_nothing() -> None:
    history = go(stop(100.0), num_rounds=5)
    assert (int(history.state.round), history.stopped) == (5, None)


def test_a_budget_below_the_first_round_is_refused_before_it(tmp_path) -> None:
    with pytest.raises(
        ValueError, match="the first round alone costs epsilon 1.354 at .* more than the budget of 0.5. Use"
    ):
        go(stop(0.5), out_dir=tmp_path)
    assert not (tmp_path / "records.jsonl").exists()
    with pytest.raises(ValueError, match="the first round alone costs epsilon inf at delta 1e-05"):
        go(stop(), rounds=composed(0.0))


def test_a_state_beyond_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="the state has done 7 rounds, which cost epsilon 3.* of 2 ended at round 2"):
        go(stop(2.0), state=budgeted().state)


def test_a_run_without_a_mechanism_is_refused() -> None:
    plain = fl.rounds(
        helpers.fed_avg(),
        sampler=fl.sampling.full(40),
        aggregator=fl.mean(),
        execution=helpers.ONE,
    )
    for observer in (stop(), running_epsilon(delta=DELTA)):
        with pytest.raises(ValueError, match="holds no mechanism of differential privacy"):
            go(observer, rounds=plain)


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="`epsilon` is -1; expected a finite number above 0. It is the budget"):
        stop_at_epsilon(epsilon=-1, delta=DELTA)
    for observer in (functools.partial(stop_at_epsilon, epsilon=1.0), running_epsilon):
        with pytest.raises(ValueError, match=r"`delta` is 1; expected a number in \(0, 1\)"):
            observer(delta=1)
    with pytest.raises(ValueError, match="`every` is 0; expected an int of at least 1"):
        running_epsilon(delta=DELTA, every=0)


def test_a_delta_that_is_too_large_is_warned_of_when_the_run_starts() -> None:
    with pytest.warns(UserWarning, match="`delta` is 0.1 for 40 clients; take less than 1/40"):
        go(stop(100.0, delta=0.1), num_rounds=5)


def test_the_running_epsilon_is_that_of_all_rounds_so_far() -> None:
    every = [record["epsilon"] for record in budgeted().records]
    assert every == [epsilon(composed(), PEOPLE, num_rounds=t, delta=DELTA) for t in range(1, LAST + 1)]
    some = go(running_epsilon(delta=DELTA, every=3), num_rounds=5).records
    assert [record["round"] for record in some if "epsilon" in record] == [1, 3, 5]
    assert some[-1]["epsilon"] == every[4]


def test_long_runs_have_about_twenty_values() -> None:
    observer, rounds = running_epsilon(delta=DELTA), composed(40.0)
    observer.start(fl.observers.Start(rounds, first(rounds), PEOPLE, 200, None, (), {}))
    values = [t for t in range(1, 201) if t % 10 in (0, 1) and observer.round({"round": t}, None)]
    assert values == [1, *range(10, 201, 10)]


def test_without_noise_the_running_epsilon_is_infinite_and_the_file_stays_json() -> None:
    observer, rounds = running_epsilon(delta=DELTA), composed(0.0)
    observer.start(fl.observers.Start(rounds, first(rounds), PEOPLE, 12, None, (), {}))
    record = {"round": 1, **observer.round({"round": 1}, None)}
    assert record["epsilon"] == math.inf
    assert json.loads(records.to_line(record)) == {"round": 1, "epsilon": None}


def test_records_say_what_is_simulation_only_and_what_the_aggregator_tells() -> None:
    record = go(rounds=composed(adaptive=True), num_rounds=5).records[-1]
    assert record["simulation_only"] == ["nonfinite", "examples", "local_steps", "loss"]
    assert record["adaptive_gaussian_clip_norm"] > 0
    assert "adaptive_gaussian_unclipped_fraction" in record
    assert records.to_line(record).count("\n") == 1


def test_progress_shows_epsilon_and_that_the_loss_is_not_covered() -> None:
    file = io.StringIO()
    show = progress.progress(file=file)
    traffic = composed().traffic(helpers.linear_params(), PEOPLE)
    show.start(fl.observers.Start(composed(), first(composed()), PEOPLE, 1, traffic, (), {}))
    record = {"round": 1, "loss": 0.5, "epsilon": 1.2345, "reported": 3, "nonfinite": 0}
    show.round({**record, "simulation_only": ["examples", "loss"]}, None)
    assert "loss 0.5000 (simulation only)  epsilon 1.23" in file.getvalue()
