"""Budgets while a run goes: the running epsilon, the end before the budget is passed, and what records say of the noise.

One tiny run of twelve rounds, whose budget ends at round 7 whatever the rounds in a dispatch, and whose clients send a
number without training. Under much noise, losses are few, and figures soon computed.
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

DELTA, BUDGET, LAST = 1e-5, 0.64, 7
PEOPLE = helpers.regression((3,) * 40)


@functools.cache
def composed(noise: float = 8.0, adaptive: bool = False) -> fl.Rounds:
    codec = adaptive_gaussian(noise_multiplier=0.5) if adaptive else gaussian(clip_norm=1.0, noise_multiplier=noise)
    return fl.rounds(
        helpers.fed_avg() if adaptive else helpers.sends(),
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
    assert history.stopped == (
        "the privacy budget of epsilon 0.64 at delta 1e-05 (if the seed is secret; without amplification it is 1.26) "
        "ends at round 7"
    )
    spent = [epsilon(composed(), PEOPLE, num_rounds=t, delta=DELTA) for t in (LAST, LAST + 1)]
    assert spent[0] <= BUDGET < spent[1]
    assert history.records[-1]["epsilon"] == spent[0]


def test_the_run_ends_there_whatever_the_rounds_in_a_dispatch() -> None:
    history = go(stop(), rounds_per_dispatch=1)
    assert int(history.state.round) == LAST
    assert helpers.max_difference(history.state.params, budgeted().state.params) < 1e-5


@pytest.mark.whole
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
        ValueError, match="the first round alone costs epsilon 0.2269 at .* more than the budget of 0.1. Use"
    ):
        go(stop(0.1), out_dir=tmp_path)
    assert not (tmp_path / "records.jsonl").exists()
    with pytest.raises(ValueError, match="the first round alone costs epsilon inf at delta 1e-05"):
        go(stop(), rounds=composed(0.0))


def test_a_state_beyond_the_budget_is_refused() -> None:
    with pytest.raises(
        ValueError, match="the state has done 7 rounds, which cost epsilon 0.6.* of 0.35 ended at round 2"
    ):
        go(stop(0.35), state=budgeted().state)


def test_a_run_without_a_mechanism_is_refused() -> None:
    plain = fl.rounds(
        helpers.sends(),
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


COHORT = ["selected", "reported", "nonfinite", "examples", "bytes_up", "bytes_down", "seconds", "elapsed"]


def test_records_say_what_is_simulation_only_and_what_the_aggregator_tells() -> None:
    record = go(rounds=composed(adaptive=True), num_rounds=5).records[-1]
    assert record["simulation_only"] == [*COHORT, "local_steps", "loss"]
    assert record["adaptive_gaussian_clip_norm"] > 0
    assert "adaptive_gaussian_unclipped_fraction" in record
    assert records.to_line(record).count("\n") == 1


def test_whatever_a_record_holds_is_released_or_marked() -> None:
    """What a real server may publish: what follows from the noised models, and nothing of who took part."""
    clients = fl.evaluate_clients(helpers.linear_loss, PEOPLE, execution=helpers.ONE)
    evaluate = {"test": fl.evaluate(helpers.linear_loss, PEOPLE), "own": clients}
    state_of = {"personal": lambda state: {"loss": 1.0}}
    history = go(running_epsilon(delta=DELTA), evaluate=evaluate, evaluate_state=state_of, num_rounds=5)
    for record in history.records:
        unmarked = set(record) - set(record["simulation_only"]) - {"simulation_only"}
        assert unmarked <= {"round", "epsilon", "epsilon_unamplified", "test_loss"}
    marked = history.records[-1]["simulation_only"]
    assert {"own_loss", "own_loss_worst10", "personal_loss"} <= set(marked)
    assert "test_loss" in history.records[-1]
    plain = fl.rounds(helpers.sends(), sampler=fl.sampling.full(40), aggregator=fl.mean(over=40), execution=helpers.ONE)
    assert "simulation_only" not in go(rounds=plain, num_rounds=1, evaluate=evaluate).records[-1]


def test_progress_shows_epsilon_and_that_the_loss_is_not_covered() -> None:
    told = shown({"round": 1, "loss": 0.5, "epsilon": 1.2345, "simulation_only": ["examples", "loss"]})
    assert "loss 0.5000 (simulation only)  epsilon 1.23" in told


def test_progress_shows_what_is_not_covered_and_what_an_epsilon_rests_on() -> None:
    record = {"round": 1, "epsilon": 1.2345, "epsilon_unamplified": 45.67, "own_accuracy": 0.5, "nonfinite": 1}
    told = shown({**record, "reported": 3, "simulation_only": [*COHORT, "own_accuracy"]})
    assert "own accuracy 50.00% (simulation only)" in told
    assert "epsilon 1.23 (if the seed is secret; else 45.7)" in told
    assert "1 of 3 reports not finite (simulation only)" in told


def shown(record) -> str:
    file = io.StringIO()
    show = progress.progress(file=file)
    traffic = composed().traffic(helpers.linear_params(), PEOPLE)
    show.start(fl.observers.Start(composed(), first(composed()), PEOPLE, 1, traffic, (), {}))
    show.round(record, None)
    return file.getvalue()


def test_event_files_keep_what_is_not_covered_apart(tmp_path, monkeypatch) -> None:
    import tensorboardX

    written = []
    monkeypatch.setattr(
        tensorboardX.SummaryWriter, "add_scalar", lambda self, name, value, step: written.append(name), raising=True
    )
    go(running_epsilon(delta=DELTA), num_rounds=5, out_dir=tmp_path, tensorboard=True)
    assert {"simulation_only/bytes_up", "simulation_only/loss", "epsilon"} <= set(written)
    assert not {"loss", "reported", "seconds"} & set(written)


def test_curves_mark_what_is_not_covered() -> None:
    rows = [
        {"round": r, "bytes_up": 1, "bytes_down": 1, "loss": 1 / r, "epsilon": r, "epsilon_unamplified": 5 * r,
         "simulation_only": ["bytes_up", "bytes_down", "loss"]}
        for r in (1, 2)
    ]  # fmt: skip
    over = fl.plots.curves({"a": rows}, metric="loss", over="bytes").axes[0]
    assert over.get_xlabel() == "sent so far, up and down, by all clients (simulation only)"
    assert over.get_ylabel() == "loss (simulation only)"
    drawn = fl.plots.epsilon({"a": rows}).axes[0]
    assert [line.get_label() for line in drawn.lines] == ["a", "a (where the seed is known)"]
    assert drawn.lines[1].get_ydata().tolist() == [5.0, 10.0]
    public = [{**row, "simulation_only": []} for row in rows]
    assert "simulation" not in fl.plots.curves({"a": public}, metric="loss", over="bytes").axes[0].get_xlabel()


def test_a_run_with_secret_cohorts_resumes_with_the_same_bits(tmp_path) -> None:
    """Every `init` draws other secrets; the checkpoint's are what goes on."""

    def die(record, state):
        if record["round"] == 6:
            raise RuntimeError("killed")

    rounds = composed()
    start, again = (rounds.init(helpers.linear_params(), PEOPLE, key=jax.random.key(0)) for _ in range(2))
    whole = go(state=start, num_rounds=10)
    with pytest.raises(RuntimeError, match="killed"):
        go(die, state=start, num_rounds=10, out_dir=tmp_path, checkpoint_every=5)
    resumed = go(state=again, num_rounds=10, out_dir=tmp_path, checkpoint_every=5, resume=True)
    assert helpers.max_difference(resumed.state.params, whole.state.params) == 0
    assert [r["reported"] for r in resumed.records] == [r["reported"] for r in whole.records]
    assert jax.random.key_data(resumed.state.keys.sample).tolist() != jax.random.key_data(again.keys.sample).tolist()


def test_a_run_that_goes_on_is_resumed_by_one_with_the_same_past(tmp_path) -> None:
    state = composed(1.0).steps(first(composed(1.0)), PEOPLE, 2)[0]
    onwards = composed().go_on(state, PEOPLE)
    go(state=onwards, num_rounds=4, out_dir=tmp_path)
    history = go(state=onwards, num_rounds=6, out_dir=tmp_path, resume=True)
    assert [segment.begin for segment in history.state.ledger.segments] == [0, 2]
    with pytest.raises(ValueError, match="of another run: .*before.round_1.*"):
        go(state=first(composed()), num_rounds=8, out_dir=tmp_path, resume=True)
