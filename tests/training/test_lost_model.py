"""A model that is no longer finite ends the run at once, and round and clients are named."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_runs
from small_runs import go, kept

import fedjaxlite as fl
from fedjaxlite.observers import records
from fedjaxlite.training.faults import lost_model

pytestmark = pytest.mark.usefixtures("no_pictures")

FROM = 5
"""The round that loses the model."""


def step_size(count):
    return jnp.where(count < FROM - 1, 1.0, jnp.inf)


@functools.cache
def overflowing(donate: bool = False) -> fl.Rounds:
    """The server's optimizer overflows in a round; clients report finite updates until then."""
    return fl.rounds(
        small_runs.counting(server=optax.sgd(step_size)),
        sampler=fl.sampling.full(6),
        aggregator=fl.weighted_mean(),
        execution=fl.Execution(devices=1, lanes=2, donate=donate),
    )


@functools.cache
def two_too_large() -> fl.Rounds:
    """Two clients send what is finite alone and infinite in the sum; a third is NaN and left out."""
    inner = small_runs.counting(rate=1e-3)

    def client_update(shared, client_state, data, key):
        output = inner.client_update(shared, client_state, data, key)
        now = client_state >= FROM - 1
        add = jnp.where(now & (data.id == 4), jnp.nan, jnp.where(now & ((data.id == 1) | (data.id == 2)), 3e38, 0.0))
        return output._replace(update={**output.update, "b": output.update["b"] + add})

    return fl.rounds(
        inner._replace(client_update=client_update),
        sampler=fl.sampling.full(6),
        aggregator=fl.mean(),
        execution=fl.Execution(devices=1, lanes=1),
    )


def test_the_run_stops_at_once_and_names_round_and_clients(tmp_path, caplog) -> None:
    history = go(tmp_path, 40, run=two_too_large())
    assert history.failed
    assert history.stopped.startswith("the model is not finite after round 5: NaN or infinity in ")
    said = history.stopped.partition("; ")[2]
    assert said.startswith("the largest entries of updates in it were of clients 1 (3e+38), 2 (3e+38), ")
    assert "; updates that were not finite, and were left out, were of clients 4. Lower" in said
    assert [r["round"] for r in history.records] == [1, 2, 3, 4, 5, 6]  # with the dispatch that it is in
    assert any(r.levelno == logging.ERROR and "ended after round 6" in r.getMessage() for r in caplog.records)


def test_the_lost_model_is_not_saved_and_the_last_checkpoint_goes_on(tmp_path) -> None:
    go(tmp_path, 40, run=overflowing())
    assert kept(tmp_path) == ["2", "4"]
    assert [r["round"] for r in records.read(tmp_path / "records.jsonl")] == [1, 2, 3, 4, 5, 6]
    again = go(tmp_path, 40, run=overflowing(), resume=True)
    assert again.stopped.startswith("the model is not finite after round 5: NaN or infinity in ['b'], ['w']")


def test_names_are_those_that_the_clients_came_with() -> None:
    named = fl.Population.from_arrays(
        {name: np.asarray(rows) for name, rows in small_runs.people().features.items()},
        client_ids=np.repeat(list("abcdef"), 5),
    )
    run = two_too_large()
    state = run.init(small_runs.PARAMS, named, key=jax.random.key(1))
    history = fl.train(run, state, named, num_rounds=9, rounds_per_dispatch=1, progress=False)
    assert "of clients b (3e+38), c (3e+38), " in history.stopped
    assert history.records[-1]["round"] == FROM


def test_where_the_state_before_is_gone_the_records_say_what_they_can() -> None:
    history = go(None, 40, run=overflowing(donate=True))
    # Round 6 found no finite client, so the model was lost before it.
    assert history.stopped.startswith("the model is not finite after round 5: NaN or infinity in ['b'], ['w']; updates")
    assert "were left out, were of clients 0, 1, 2, 3, 4, 5. Lower" in history.stopped


def test_it_goes_on_where_that_was_asked_for() -> None:
    history = go(None, 12, run=overflowing(), stop_at_nan=False, lost_rounds=None, diverged_rounds=None)
    assert (len(history.records), history.stopped, history.failed) == (12, None, False)
    assert not np.isfinite(history.state.params["w"]).any()
    with pytest.raises(TypeError, match="`stop_at_nan` is 0; expected True or False"):
        go(None, 2, stop_at_nan=0)


def test_what_is_not_finite_from_the_beginning_is_not_watched(caplog) -> None:
    run = overflowing()
    masked = {**small_runs.PARAMS, "mask": np.float32([0, -np.inf])}
    state = run.init(masked, small_runs.people(), key=jax.random.key(1))
    seen = lost_model.watch(run, state)
    assert "holds NaN or infinity in ['mask'] from the beginning; nobody watches there" in caplog.text
    assert seen(state) == []
    worse = {**masked, "w": np.float32([0, np.nan, 0]), "b": np.float32(-np.inf)}
    assert seen(state._replace(server_state=state.server_state._replace(params=worse))) == ["['b']", "['w']"]
