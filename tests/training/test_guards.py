"""Guards: a run with nothing left to gain ends, says which rounds and clients, and can be told to go on."""

import math

import jax
import jax.numpy as jnp
import pytest
import small_runs
from small_runs import begin, composed, go, people

import fedjaxlite as fl
from fedjaxlite.observers import records, stop_when_diverged, stop_when_lost
from fedjaxlite.observers.observer import Start


def lost_from(number: int) -> fl.Rounds:
    """The small run, whose clients hold NaN from some round on."""
    inner = composed().algorithm

    def client_update(shared, client_state, data, key):
        output = inner.client_update(shared, client_state, data, key)
        bad = shared["w"][0] * 0 + jnp.where(shared["b"] >= number - 1, jnp.nan, 0.0)
        return output._replace(
            update=jax.tree.map(lambda x: x + bad.astype(x.dtype), {**output.update, "b": -1.0 + bad})
        )

    parts = {"sampler": fl.sampling.uniform(3), "aggregator": fl.mean(), "execution": composed().execution}
    return fl.rounds(inner._replace(client_update=client_update), **parts)


def start_of(num_rounds: int, *, earlier=()) -> Start:
    return Start(composed(), begin(), people(), num_rounds, None, earlier, {}, None)


def test_a_run_without_any_finite_update_ends_and_names_rounds_and_clients(tmp_path) -> None:
    history = go(tmp_path, 20, run=lost_from(3), lost_rounds=4)
    assert history.failed
    assert history.stopped.startswith("no client's update was finite in rounds 3 to 6; the clients were ")
    seen = set()
    for number in range(2, 6):
        cohort = fl.sampling.uniform(3).sample(begin().keys.sample, number, people())
        seen |= set(cohort.ids.tolist())
    assert f"clients were {', '.join(map(str, sorted(seen)))}. Look for NaN" in history.stopped
    assert small_runs.kept(tmp_path)[-1] == "6"


def test_it_goes_on_where_that_was_asked_for(caplog) -> None:
    history = go(None, 20, run=lost_from(3), lost_rounds=None, diverged_rounds=None)
    assert (len(history.records), history.stopped, history.failed) == (20, None, False)
    assert "no client's update was finite" not in caplog.text


def test_a_short_run_in_which_nothing_was_finite_is_a_failure() -> None:
    history = go(None, 2, run=lost_from(1))
    assert history.failed
    assert "no client's update was finite in rounds 1 to 2" in history.stopped


def test_rounds_that_were_lost_at_the_end_are_told(caplog) -> None:
    history = go(None, 8, run=lost_from(5))
    assert not history.failed
    assert "the run ends, and no client's update was finite in rounds 5 to 8" in caplog.text


def lines(*pairs: tuple[int, int]) -> list[records.Record]:
    return [{"round": i, "reported": n, "nonfinite": bad} for i, (n, bad) in enumerate(pairs, start=1)]


def answers(watch: fl.observers.Observer, found: list[records.Record]) -> list[str | None]:
    return [None if (answer := watch.round(record, None)) is None else answer.reason for record in found]


def test_one_finite_client_is_enough_and_empty_rounds_say_nothing() -> None:
    watch = stop_when_lost(rounds=3)
    watch.start(start_of(99))
    assert answers(watch, lines((3, 3), (3, 3), (3, 2), (3, 3), (0, 0), (3, 3)))[-1] is None
    assert answers(watch, [{"round": 7, "reported": 3, "nonfinite": 3}])[0].startswith(
        "no client's update was finite in rounds 4, 6 to 7"
    )


def test_nobody_at_all_is_a_failure_after_ten_times_as_many_rounds() -> None:
    watch = stop_when_lost(rounds=2)
    watch.start(start_of(99))
    told = answers(watch, lines(*[(0, 0)] * 20))
    assert told[:19] == [None] * 19
    assert told[19].startswith("nobody reported in rounds 1 to 20")


def test_a_resumed_run_counts_on_and_passes_over_lost_records() -> None:
    watch = stop_when_lost(rounds=3)
    watch.start(start_of(99, earlier=[*lines((3, 3), (3, 3)), {"round": 3, "missing": True}]))
    assert "rounds 1 to 2, 4" in answers(watch, [{"round": 4, "reported": 3, "nonfinite": 3}])[0]


def test_a_diverging_run_ends() -> None:
    run = fl.rounds(
        small_runs.counting(rate=1.0),
        sampler=fl.sampling.uniform(3),
        aggregator=fl.mean(),
        execution=composed().execution,
    )
    history = go(None, 60, run=run, evaluate=fl.evaluate(small_runs.loss_fn, people()), lost_rounds=None)
    assert history.failed
    assert "loss is out of bounds in rounds" in history.stopped
    assert len(history.records) < 60
    free = go(None, 20, run=run, lost_rounds=None, diverged_rounds=None)
    assert len(free.records) == 20


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([2.3, math.inf, math.inf, math.inf], True),
        ([2.3, math.nan, 1.0, math.nan, math.nan], False),
        ([5e33, 5e33, 5e33], True),
        ([1e10, 2e12, 3e13, 1e12], False),  # a loss in large units may move
        ([1e10, 2e16, 3e16, 1e17], True),
        ([1e-9, 5.0, 5.0, 5.0], False),  # from next to nothing to something
        ([1e-9, 5e7, 5e7, 5e7], True),
        ([0.0, 0.0, 0.0], False),
        ([-5.0, -9.0, 2.0, 3.0, 4.0], False),
    ],
)
def test_what_is_out_of_bounds(values, ends) -> None:
    watch = stop_when_diverged(rounds=3)
    watch.start(start_of(99))
    told = answers(watch, [{"round": i, "test_loss": v} for i, v in enumerate(values, start=1)])
    assert (told[-1] is not None) == ends
    assert told[:-1] == [None] * (len(values) - 1)


def test_the_loss_of_a_round_that_nobody_was_finite_in_is_passed_over() -> None:
    watch = stop_when_diverged(rounds=1)
    watch.start(start_of(99))
    assert answers(watch, [{"round": 1, "reported": 2, "nonfinite": 2, "loss": math.nan}]) == [None]
    assert answers(watch, [{"round": 2, "reported": 2, "nonfinite": 1, "loss": math.nan}]) != [None]


@pytest.mark.parametrize("name", ["lost_rounds", "diverged_rounds"])
def test_limits_that_are_none_are_refused(name) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is 0; expected an int of at least 1. None never ends a run"):
        go(None, 2, **{name: 0})
    with pytest.raises(TypeError, match=f"`{name}` is 1.5"):
        go(None, 2, **{name: 1.5})
