"""REFL's weights of late messages: the equation as it is printed, in plain NumPy, and ages that come from a server."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite import algorithms, robust, systems

K, SIZE = 7, 4
TOLD = systems.staleness.told()


def weights_of(x: np.ndarray, ages: np.ndarray, beta: float, scale: float, base: np.ndarray) -> np.ndarray:
    """Those of the messages in `x`, client by client, in float64."""
    fresh = ages == 0
    n, found = fresh.sum(), base.copy()
    if not (~fresh).any():
        return found
    far = np.zeros(len(x))
    if n:
        mean = (base[fresh, None] * x[fresh]).sum(0) / base[fresh].sum()
        for s in np.flatnonzero(~fresh):
            far[s] = np.sum((mean - (x[s] + n * mean) / (n + 1)) ** 2) / np.sum(mean**2)
        far /= far.max() or 1.0
    for s in np.flatnonzero(~fresh):
        found[s] *= (1 - beta) / (ages[s] + 1) + beta * (1 - np.exp(-far[s]) / scale)
    return found


@jax.jit
def applied(x: Any, ages: Any, present: Any, weights: Any, beta: Any, scale: Any) -> Any:
    steps = [robust.stale_weights(beta=beta, scale=scale), robust.mean()]
    half = {"a": x[:, :1], "b": x[:, 1:]}
    found = robust.apply(steps, half, ages=ages, present=present, weights=weights)
    return jnp.concatenate([found["a"], found["b"]])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    ages=st.lists(st.sampled_from([0, 0, 1, 2, 9]), min_size=K, max_size=K),
    absent=st.sets(st.integers(0, K - 1), max_size=K - 1),
    beta=st.sampled_from([0.0, 0.35, 1.0]),
    scale=st.sampled_from([1.0, 10.0]),
)
def test_the_equation_in_plain_numpy(
    seed: int, ages: list[int], absent: set[int], beta: float, scale: float
) -> None:  # fmt: skip
    draw = np.random.default_rng(seed)
    x, base = draw.normal(size=(K, SIZE)).astype(np.float32), draw.integers(1, 5, K).astype(np.float32)
    there, old = np.array([i not in absent for i in range(K)]), np.array(ages)
    found = applied(x, old.astype(np.int32), there, base, np.float32(beta), np.float32(scale))
    weights = weights_of(x[there].astype(np.float64), old[there], beta, scale, base[there].astype(np.float64))
    if weights.sum() > 0:
        np.testing.assert_allclose(found, weights @ x[there] / weights.sum(), rtol=2e-5, atol=2e-6)


def test_weights_where_the_equation_has_no_numbers() -> None:
    def found(x: list[float], ages: list[int]) -> float:
        there = np.arange(K) < len(x)
        rows, old = np.zeros((K, SIZE), np.float32), np.zeros(K, np.int32)
        rows[: len(x), 0], old[: len(x)] = x, ages
        return float(applied(rows, old, there, np.ones(K, np.float32), np.float32(0.5), np.float32(1.0))[0])

    assert found([1.0, 4.0], [1, 3]) == pytest.approx((1.0 / 2 + 4.0 / 4) / (1 / 2 + 1 / 4))  # nobody is fresh
    assert found([2.0, 2.0, 2.0], [0, 1, 1]) == pytest.approx(2.0)  # all say the same
    far = 1 - np.exp(-1.0)  # a mean of zero is as good as any
    assert found([0.0, 3.0], [0, 1]) == pytest.approx(3 * (0.25 + far / 2) / (1 + 0.25 + far / 2))
    assert found([1.0, 5.0], [0, 0]) == pytest.approx(3.0)
    assert np.isfinite(found([1e30, -1e36, 2e37], [0, 1, 1]))


def test_bad_calls_are_refused_by_name() -> None:
    x, ages = jnp.ones((3, 2)), jnp.array([0, 1, 2], jnp.int32)
    with pytest.raises(ValueError, match=r"`beta` is 1.5; expected a number in \[0, 1\]"):
        robust.stale_weights(beta=1.5)
    with pytest.raises(ValueError, match=r"`scale` is 0.5; expected a number of at least 1. The paper has 1."):
        robust.stale_weights(scale=0.5)
    with pytest.raises(
        ValueError, match=r"by their ages, and nobody tells them. Take a server that does: fl.systems.f"
    ):
        robust.apply([robust.stale_weights(), robust.mean()], x)
    with pytest.raises(ValueError, match=r"`median` counts every client as one: .* \(or `stale_weights` does\)"):
        robust.apply([robust.stale_weights(), robust.median()], x, ages=ages)
    with pytest.raises(ValueError, match=r"`ages` has shape \[2\]; expected int32 \[3\]"):
        robust.apply([robust.stale_weights(), robust.mean()], x, ages=ages[:2])
    with pytest.raises(ValueError, match=r"`staleness` is told, which leaves weights to what aggregates; that divides"):
        systems.fed_async(3, service=systems.service.constant(1.0), staleness=TOLD)

    def fewer(state: Any, rows: fl.Rows, key: Any) -> Any:
        del key
        less = lambda tree: jax.tree.map(lambda leaf: leaf[:2], tree)  # noqa: E731
        return rows._replace(
            values=less(rows.values), weights=rows.weights[:2], present=rows.present[:2], ids=rows.ids[:2]
        ), state

    with pytest.raises(ValueError, match=r"sees 2 rows and 3 ages. What stands before it made others of the rows"):
        robust.apply([fl.restack(fewer, name="fewer"), robust.stale_weights(), robust.mean()], x, ages=ages)


def test_ages_go_through_buckets_and_choices() -> None:
    @jax.jit
    def found(x: Any, ages: Any) -> Any:
        chosen = robust.one_of([[robust.stale_weights(beta=0.0), robust.mean()], robust.mean()], 0)
        steps = [robust.bucketing(size=3), robust.stale_weights(beta=0.0), robust.mean()]
        return [robust.apply(rule, x, ages=ages)[0] for rule in (steps, chosen)]

    x, ages = jnp.float32([[0.0], [3.0], [6.0]]), jnp.array([0, 3, 3], jnp.int32)
    assert [float(value) for value in found(x, ages)] == [3.0, 1.5]  # one bucket, whatever it weighs; and no buckets


def loss(params: Any, batch: Any, key: Any) -> Any:
    del key
    return (params - batch["x"]) ** 2


def sent(state: Any, rows: fl.Rows, key: Any) -> Any:
    """Keeps what stands before the rule."""
    del key
    return rows, {"ages": jnp.where(rows.present, rows.ages, 0), "weights": rows.weights, "x": rows.values}


def nothing_sent(update: Any) -> Any:
    del update
    return {"ages": jnp.zeros(3, jnp.int32), "weights": jnp.zeros(3), "x": jnp.zeros((3, 1))}


def test_a_server_tells_ages_and_its_step_is_the_weighted_mean() -> None:
    x = np.random.default_rng(1).normal(size=12).astype(np.float32)
    data = fl.Population.from_arrays({"x": x}, client_ids=np.arange(12))
    algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.2), batch_size=1, epochs=1)
    service = systems.service.exponential(1.0)
    sampler = systems.fed_buff(3, concurrency=8, service=service, staleness=TOLD)
    seen = fl.restack(sent, name="sent", init=nothing_sent)
    chain = fl.chain(fl.mean(), seen, robust.stale_weights(), robust.mean())
    execution = fl.Execution(lanes=1, devices=helpers.available(2))
    rounds = fl.rounds(algorithm, sampler=sampler, aggregator=chain, execution=execution)
    state, late = rounds.init(jnp.float32(0), data, key=jax.random.key(0)), 0
    for _ in range(6):
        before = float(algorithm.params(state.server_state))
        state, info = rounds.step(state, data)
        kept = jax.device_get(next(part for part in state.aggregator_state if isinstance(part, dict)))
        assert kept["ages"].mean() == pytest.approx(float(info.sampler["staleness_mean"]))
        weights = weights_of(kept["x"].astype(np.float64), kept["ages"], 0.35, 1.0, np.ones(3))
        step = before - float(algorithm.params(state.server_state))
        assert step == pytest.approx(weights @ kept["x"][:, 0] / weights.sum(), rel=1e-4, abs=1e-6)
        late += int((kept["ages"] > 0).sum())
    assert late > 5
