"""Whose messages did not count: in `PassInfo`, in the records of a run by name, and over its rounds."""

from pathlib import Path
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.wire.rows import with_left_out

FAILS = 100
VALUES = (1.0, 50.0, 2.0, FAILS, 3.0, 70.0)
NAMES = ("ann", "bea", "cy", "dan", "eva", "fay")
"""Bea's and Fay's updates are too large, and Dan's is not finite."""


def _people() -> fl.Population:
    arrays = [{"x": np.full(2, value, np.float32)} for value in VALUES]
    return fl.Population.from_clients(arrays, names=NAMES)


def _update(data: fl.ClientData) -> jax.Array:
    x = helpers.first_value(data)
    return jnp.where(x == FAILS, jnp.inf, x)[None]


def _chain(*before: fl.Aggregator) -> fl.Aggregator:
    return fl.chain(fl.mean(), *before, fl.robust.norm_filter(10.0), fl.robust.mean())


@pytest.mark.parametrize("devices", [1, pytest.param(4, marks=helpers.needs_devices(4))])
def test_a_sum_names_whom_a_rule_did_not_see(devices: int) -> None:
    def client(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
        return fl.ClientOutput(_update(data), jnp.float32(1))

    cohort = fl.sampling.cohort(jnp.array([5, 3, 0, 1, 4, 2]), jnp.array([True] * 5 + [False]))
    execution = fl.Execution(devices=devices, lanes=1)
    total = fl.federated_sum(client, aggregator=_chain(), execution=execution)
    aggregate, info = total((), _people(), cohort, key=jax.random.key(0))
    assert info.clients["nonfinite"].tolist() == [False, True, False, False, False, False]
    assert info.clients["left_out"].tolist() == [True, False, False, True, False, False]
    assert aggregate.left_out is not None
    assert int(aggregate.num_clients) == 2
    np.testing.assert_allclose(aggregate.value, [2.0], rtol=1e-6)
    assert "left_out" not in _sum_of(client, fl.mean(), cohort).clients


def _sum_of(client: Any, aggregator: fl.Aggregator, cohort: Any) -> fl.PassInfo:
    total = fl.federated_sum(client, aggregator=aggregator, execution=helpers.ONE)
    aggregate, info = total((), _people(), cohort, key=jax.random.key(0))
    assert aggregate.left_out is None
    return info


def test_records_name_them_and_a_run_counts_them(tmp_path: Path) -> None:
    people = _people()
    run = fl.rounds(
        helpers.sender(_update),
        sampler=fl.sampling.replay(np.array([[0, 1, 2], [3, 4, 5], [1, 3, 5]])),
        aggregator=_chain(),
        execution=helpers.ONE,
    )
    state = run.init(jnp.zeros(1), people, key=jax.random.key(0))
    watch = [fl.observers.to_jsonl(tmp_path / "records.jsonl")]
    history = fl.train(run, state, people, num_rounds=3, progress=False, observers=watch, rounds_per_dispatch=3)
    named = [(r.get("nonfinite_clients"), r.get("left_out_clients")) for r in history.records]
    assert named == [(None, ["bea"]), (["dan"], ["fay"]), (["dan"], ["bea", "fay"])]
    assert fl.records.read(tmp_path / "records.jsonl")[1]["left_out_clients"] == ["fay"]
    counted = fl.observers.left_out(history.records)
    assert counted["dan"] == {"nonfinite": 2, "left_out": 0}
    assert counted["fay"] == counted["bea"] == {"nonfinite": 0, "left_out": 2}
    assert set(counted) == {"dan", "fay", "bea"}


def test_names_are_behind_the_noise_too() -> None:
    info = {
        "id": np.array([4, 7]),
        "nonfinite": np.array([False, True]),
        "bytes_up": np.zeros(2),
        "bytes_down": np.zeros(2),
    }
    told = fl.PassInfo(2, 2, 1, 3, 0, {}, info)
    for noise in ({"noised": True}, {"noised_locally": True}):
        [record] = fl.records.of_dispatch(told, first=1, num_rounds=1, seconds=1.0, **noise)
        assert record["nonfinite_clients"] == [7]
        assert "nonfinite_clients" in record["simulation_only"]


def test_rows_that_are_no_clients_leave_nobody_out() -> None:
    present = jnp.array([True, True, False])
    ids = jnp.array([3, 5, -1])
    rows = fl.Rows((), present.astype(jnp.float32), present, ids, None, None)  # type: ignore[arg-type]
    fewer = rows._replace(present=jnp.array([True, False, False]))
    assert with_left_out(fewer, rows).left_out.tolist() == [False, True, False]
    buckets = rows._replace(present=jnp.array([True]), ids=jnp.array([-1]))
    assert with_left_out(buckets, with_left_out(fewer, rows)).left_out.tolist() == [False, True, False]
    mixed = rows._replace(present=jnp.array([False, True, True]), ids=jnp.full(3, -1))
    assert not with_left_out(mixed, rows).left_out.any()
