"""Rows over devices: each has its share, and rules see the same numbers for any of them."""

from functools import partial
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.benchmarks.wire import rules
from fedjaxlite.execution import side_by_side
from fedjaxlite.execution.lanes.cohort_inputs import Held
from fedjaxlite.execution.lanes.schedule import dealt
from fedjaxlite.execution.layout import AXIS, Execution, resolve

SLOTS = 6
FAILS = 100
VALUES = np.float32([3, -1, 4, FAILS, -5, 9, 2, 6])
"""What each client sends, times 1 to 7 and once more alone; one of them fails."""

LAYOUTS = [
    pytest.param({"devices": 1, "lanes": 2}, False, id="one device"),
    pytest.param({"devices": 2, "deterministic": True}, True, id="deterministic", marks=helpers.needs_devices(2)),
    pytest.param({"devices": 4, "lanes": 3}, False, id="free", marks=helpers.needs_devices(4)),
    pytest.param({"devices": 4, "lanes": 1}, True, id="tied", marks=helpers.needs_devices(4)),
    pytest.param({"devices": 4, "max_steps": 2}, False, id="static loops", marks=helpers.needs_devices(4)),
    pytest.param({"devices": 3, "lanes": 2, "mapping": "pmap"}, True, id="pmap", marks=helpers.needs_devices(3)),
]
"""Where, and whether clients keep states, which tie them to devices."""


def _update(data: fl.ClientData) -> Any:
    x = helpers.first_value(data)
    x = jnp.where(x == FAILS, jnp.nan, x)
    return {"seven": x * jnp.arange(1, 8, dtype=jnp.float32), "one": x.astype(jnp.bfloat16)}


def _seen(state: Any, rows: fl.Rows, key: Any) -> Any:
    """A rule that gives the largest entries, and keeps whatever it was given."""
    del state, key
    squares = rows.shares.add(sum(jnp.sum(v**2, axis=1) for v in jax.tree.leaves(rows.values)))
    kept = jax.vmap(rows.shares.whole)(rows.values)
    again = jax.tree.map(lambda v, own: jnp.abs(v - own).max(), rows.shares.mine(kept), rows.values)
    told = {"squares": squares, "weights": rows.weights, "present": rows.present, "ids": rows.ids, "again": again}
    return jax.tree.map(lambda v: v.max(0), rows.values), {"kept": kept, **told}


def _nothing_seen(update: Any) -> Any:
    zeros = jnp.zeros(SLOTS)
    told = {"squares": zeros, "weights": zeros, "present": zeros > 0, "ids": zeros.astype(jnp.int32)}
    kept = jax.tree.map(lambda u: jnp.zeros((SLOTS, *u.shape)), update)
    return {"kept": kept, **told, "again": jax.tree.map(lambda u: jnp.float32(0), update)}


@pytest.mark.parametrize(("where", "stateful"), helpers.some_often(LAYOUTS, 2))
def test_a_rule_sees_all_messages_in_the_order_of_the_cohort(where: dict[str, Any], stateful: bool) -> None:
    people = helpers.one_value_each(VALUES, sizes=[1, 5, 2, 1, 9, 3, 4, 2])
    algorithm = helpers.sender(_update, init_client=lambda params: jnp.float32(0) if stateful else ())
    chain = fl.chain(fl.weighted_mean(), fl.rule(_seen, name="seen", init=_nothing_seen, weighted=True))
    sampler = fl.sampling.with_dropout(fl.sampling.uniform(SLOTS), 0.3)
    run = fl.rounds(algorithm, sampler=sampler, aggregator=chain, execution=fl.Execution(**where))
    params = {"seven": jnp.zeros(7), "one": jnp.zeros(())}
    state = run.init(params, people, key=jax.random.key(3))
    counts = set()
    for _ in range(3):
        state, info = run.step(state, people)
        who, there = np.asarray(info.clients["id"]), np.asarray(info.clients["in_sum"])
        told = jax.device_get(state.aggregator_state[-1].own)
        counts.add(int(there.sum()))
        np.testing.assert_array_equal(told["present"], there)
        np.testing.assert_array_equal(told["ids"], np.where(there, who, -1))
        np.testing.assert_array_equal(told["weights"], np.where(there, info.clients["num_examples"], 0))
        sent = np.where(there, VALUES[who], 0)
        np.testing.assert_array_equal(told["kept"]["one"], sent)
        np.testing.assert_array_equal(told["kept"]["seven"], sent[:, None] * np.arange(1, 8))
        np.testing.assert_allclose(told["squares"], sent**2 * (1 + np.square(np.arange(1, 8)).sum()), rtol=1e-6)
        assert told["again"] == {"seven": 0, "one": 0}
        np.testing.assert_allclose(np.float32(run.params(state)["one"]), sent.max(), rtol=1e-2)
    assert len(counts) > 1, "some rounds lose more clients than others"


@helpers.needs_devices(4)
@pytest.mark.parametrize("make", [pytest.param("fed_avg", marks=pytest.mark.slow), "scaffold"])
def test_rounds_are_the_same_on_any_devices(make: str) -> None:
    """With something in front of the rule that draws entries, and a rule that asks for norms."""

    def noise(state: Any, rows: fl.Rows, key: Any) -> Any:
        drawn = rows.shares.mine(jax.tree.map(lambda u: jax.random.normal(key, u.shape), state))
        return rows._replace(values=jax.tree.map(lambda v, d: v + 0.1 * d[None], rows.values, drawn)), state

    def nearest_to_zero(state: Any, rows: fl.Rows, key: Any) -> Any:
        squares = rows.shares.add(sum(jnp.sum(v**2, axis=1) for v in jax.tree.leaves(rows.values)))
        least = jnp.argmin(jnp.where(rows.present, squares, jnp.inf))
        old = rows.shares.mine(state)
        value = jax.tree.map(lambda v, o: 0.5 * o + v[least], rows.values, old)
        return value, rows.shares.whole(value)

    people = helpers.regression((4, 9, 1, 6, 2, 7, 3))
    made: dict[str, fl.Algorithm] = {
        "fed_avg": helpers.fed_avg(),
        "scaffold": algorithms.scaffold(helpers.linear_loss, client_lr=0.02, num_clients=7, batch_size=8, epochs=1),
    }
    keep = lambda update: update  # noqa: E731
    codecs = (fl.restack(noise, name="noise", init=keep), fl.rule(nearest_to_zero, name="nearest", init=keep))
    found = []
    for where in ({"devices": 1, "lanes": 1}, {"devices": 4, "lanes": 2}):
        run = fl.rounds(
            made[make],
            sampler=fl.sampling.uniform(5),
            aggregator=fl.chain(fl.mean(), *codecs),
            execution=fl.Execution(**where),
        )
        state = run.init(helpers.linear_params(), people, key=jax.random.key(0))
        state, info = run.steps(state, people, 3)
        found.append(jax.device_get((run.params(state), state.aggregator_state, info)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *found)
    assert np.abs(found[0][0]["w"]).max() > 0.01


@helpers.needs_devices(2)
@pytest.mark.parametrize("last", [fl.robust.mean(), fl.stack(lambda values, weights, present: _mean(values, present))])
def test_one_sum_over_a_cohort_and_scalars_beside_it(last: fl.Aggregator) -> None:
    people = helpers.one_value_each(VALUES)
    double = fl.restack(lambda state, rows, key: (_doubled(rows), state), name="double")

    def client(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
        return fl.ClientOutput(_update(data)["seven"], jnp.float32(1), scalars={"x": helpers.first_value(data)})

    cohort = fl.sampling.cohort(jnp.array([0, 3, 5, 1, 2]), jnp.array([True, True, True, True, False]))
    for devices in (1, 2):
        execution = fl.Execution(devices=devices, lanes=2)
        total = fl.federated_sum(client, aggregator=fl.chain(fl.mean(), double, last), execution=execution)
        aggregate, info = total((), people, cohort, key=jax.random.key(0))
        assert (int(aggregate.num_clients), int(info.num_nonfinite)) == (3, 1)
        np.testing.assert_allclose(aggregate.value, 2 * 11 / 3 * np.arange(1, 8), rtol=1e-6)
        np.testing.assert_allclose(aggregate.scalars["x"], 11 / 3, rtol=1e-6)


def _doubled(rows: fl.Rows) -> fl.Rows:
    return rows._replace(values=jax.tree.map(lambda v: 2 * v, rows.values))


def _mean(values: Any, present: jax.Array) -> Any:
    return values.sum(0) / present.sum().astype(jnp.float32)


@helpers.needs_devices(4)
@given(seed=st.integers(0, 100))
def test_trading_gives_every_device_its_entries_block_by_block(seed: int) -> None:
    num, pieces, share = 10, 4, 11
    rng = np.random.default_rng(seed)
    active = rng.random(num) < 0.8
    work, sent = rng.random(num).astype(np.float32), rng.normal(size=(num, pieces * share)).astype(np.float32)
    got = np.asarray(_trade()(sent, work, active))
    np.testing.assert_array_equal(np.concatenate(got, axis=1), np.where(active[:, None], sent, 0))


def _trade(_made: dict[int, Any] = {}) -> Any:  # noqa: B006  (compiled once)
    layout = resolve(Execution(devices=4, lanes=1), 10)
    rows = side_by_side.room(10, 0, 4)
    assert rows == 3

    def body(sent: jax.Array, work: jax.Array, active: jax.Array) -> jax.Array:
        device = jax.lax.axis_index(AXIS)
        schedule = dealt(work, active, device=device, num_devices=4)
        where = side_by_side.held_by(schedule, 10, rows, layout)
        assert where.at is not None
        held = jnp.zeros((rows, *sent.shape[1:])).at[where.at].set(sent, mode="drop").reshape(rows * 4, -1)
        whose = jax.lax.psum(jnp.where(where.at < rows, device * rows + where.at + 1, 0), AXIS) - 1
        return side_by_side._traded(Held(rows, 4, where.at), whose, held)[None]

    if not _made:
        everywhere, split = jax.P(), jax.P(AXIS)
        mapped = jax.shard_map(body, mesh=layout.mesh, in_specs=(everywhere,) * 3, out_specs=split, check_vma=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(side_by_side, "_BLOCK", 12 * 4)  # three blocks, the last of three entries
            _made[0] = jax.jit(mapped).lower(*jax.eval_shape(lambda: _example())).compile()
    return _made[0]


def _example() -> Any:
    return jnp.zeros((10, 44)), jnp.zeros(10), jnp.zeros(10, bool)


def test_room_is_a_share_or_what_a_device_owns() -> None:
    assert [side_by_side.room(10, owned, 4) for owned in (0, 3, 4, 500)] == [3, 3, 4, 10]


class TestWhatIsTold:
    """Of the memory that a rule takes, before it takes it."""

    @pytest.mark.parametrize(
        ("last", "tied", "on_each"),
        [
            (fl.robust.mean(), False, 2),
            (fl.robust.mean(), True, 3),
            (fl.stack(lambda values, weights, present: values), False, 6),
        ],
        ids=["shared out", "where states are", "a function of all"],
    )
    def test_as_numbers(self, last: fl.Aggregator, tied: bool, on_each: int) -> None:
        chain = fl.chain(fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=8), last)
        algorithm = helpers.local_momentum() if tied else helpers.fed_avg()
        params = helpers.linear_params(9)
        wire = chain.init(fl.wire_of(params, capacity=6))[1]
        kept = side_by_side.kept_messages(algorithm, chain, wire, params, num_clients=12, num_devices=4)
        assert kept is not None
        assert (kept.messages, kept.message_bytes, kept.on_each) == (6, 40, on_each)
        assert kept.bytes_on_each == on_each * 40

    def test_in_a_plan_and_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        people, params = helpers.regression((2, 3, 1, 2)), helpers.linear_params(3)
        run = fl.rounds(
            helpers.fed_avg(),
            sampler=fl.sampling.full(4),
            aggregator=fl.chain(fl.mean(), fl.robust.mean()),
            execution=fl.Execution(devices=helpers.available(2)),
        )
        with caplog.at_level("INFO", logger="fedjaxlite.execution"):
            run.init(params, people, key=jax.random.key(0))
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith("robust_mean needs the messages of a round side by side: 4 of 0.0 kB")
        told = fl.plan(run, params, people, lanes_options=[1], budget_seconds=1e-6)
        assert told.kept is not None
        assert str(told.kept) == line
        assert line in str(told)

    def test_a_sum_keeps_nothing(self) -> None:
        chain, params = fl.chain(fl.mean(), fl.clip_by_value(1.0)), helpers.linear_params()
        wire = chain.init(fl.wire_of(params, capacity=6))[1]
        sizes = {"num_clients": 12, "num_devices": 4}
        assert side_by_side.kept_messages(helpers.fed_avg(), chain, wire, params, **sizes) is None


class TestMemory:
    """Of the compiled round on each device, in models."""

    @helpers.needs_devices(4)
    def test_a_device_keeps_its_share_of_the_messages_and_little_else(self) -> None:
        # 10 million parameters, of which none exists here.
        messages, beside, *_ = rules.measure("mean", clients=100, side=3163, devices=4, run=False)
        assert messages == 25
        assert beside is not None
        assert beside < 2

    @pytest.mark.slow
    @helpers.needs_devices(4)
    def test_a_round_that_runs_takes_what_was_told(self) -> None:
        one = rules.measure("mean", clients=100, side=2000, devices=4)
        assert one.messages == 25
        assert one.peak_adds is not None
        assert one.peak_adds < 2
