"""Mime and MimeLite against NumPy, and where they are the centralized optimizer, FedAvg, or the true optimum."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.mime import mime, mime_lite

SIZES = (4, 1, 3)
RNG = np.random.default_rng(1)
OWNER = np.repeat(np.arange(3), SIZES)
A = RNG.uniform(0.5, 2.0, len(OWNER)).astype(np.float32)
B = (RNG.normal(size=len(OWNER)) + 2.0 * OWNER).astype(np.float32)
OPTIMUM = float((A * B).sum() / A.sum())
RATE, DECAY = 0.05, 0.6
PEOPLE = fl.Population.from_arrays({"a": A, "b": B}, client_ids=OWNER)


def loss(x: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return batch["a"] / 2 * (x - batch["b"]) ** 2


def gradient(x: float, rows: np.ndarray) -> float:
    return float((A[rows] * (x - B[rows])).mean())


def by_hand(x: float, rounds: int, kind: str) -> tuple[float, float]:
    """Heavy-ball momentum as the base, batches of 2 in stored order, two epochs."""
    trace, control = 0.0, 0.0
    for _ in range(rounds):
        mean_gradient = gradient(x, np.arange(len(A)))
        control = mean_gradient if kind == "exact" else control
        ends = []
        for k in range(3):
            rows, y = np.flatnonzero(k == OWNER), x
            for start in [*range(0, len(rows), 2)] * 2:
                batch = rows[start : start + 2]
                g = gradient(y, batch)
                g += 0.0 if kind == "lite" else control - gradient(x, batch)
                y -= RATE * (g + DECAY * trace)
            ends.append(y)
        x = float(np.average(ends, weights=SIZES))
        trace = mean_gradient + DECAY * trace
        control = mean_gradient
    return x, trace


@pytest.mark.parametrize("kind", ["lite", "old", "exact"])
def test_rounds_are_those_of_numpy(kind: str) -> None:
    options: dict[str, Any] = {
        "base_optimizer": optax.sgd(RATE, momentum=DECAY),
        "batch_size": 2,
        "epochs": 2,
        "shuffle": False,
    }
    exchanges = 2 if kind == "exact" else 1
    algorithm = mime_lite(loss, **options) if kind == "lite" else mime(loss, exchanges=exchanges, **options)
    run, state, info = helpers.one_run(algorithm, PEOPLE, jnp.float32(0.5), num_rounds=4 * exchanges)
    x, trace = by_hand(0.5, 4, kind)
    assert float(state.params) == pytest.approx(x, abs=1e-5)
    assert float(jax.tree.leaves(state.server_state.statistics)[0]) == pytest.approx(trace, abs=1e-4)
    assert info.clients["local_steps"].tolist() == [4, 2, 4]
    # Up: the delta and the gradient, or one of them, and the weight. Down: x and s, then c, then which round it is.
    sizes = {"lite": (4 + 4 + 4, 4 + 4), "old": (4 + 4 + 4, 4 + 4 + 4), "exact": (4 + 4, 4 + 4 + 4 + 1)}
    assert run.traffic(jnp.float32(0.5), PEOPLE) == sizes[kind]
    if kind != "lite":
        for _ in range(100):
            state, _ = run.step(state, PEOPLE)
        assert float(state.params) == pytest.approx(OPTIMUM, abs=1e-4)


def test_one_full_step_is_the_centralized_optimizer() -> None:
    """Adam, whose step is not linear in the gradient: every client steps along the mean gradient c."""
    adam = optax.adam(0.1)
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam itself needs it
        algorithm = mime(loss, base_optimizer=adam, batch_size=None, steps=1, exchanges=2)
        _, state, _ = helpers.one_run(algorithm, PEOPLE, jnp.float32(0.5), num_rounds=6)
        want = jnp.float32(0.5)
        statistics = adam.init(want)
        for _ in range(3):
            updates, statistics = adam.update(jnp.float32(gradient(float(want), np.arange(len(A)))), statistics, want)
            want = want + updates
    assert float(state.params) == pytest.approx(float(want), abs=1e-6)
    assert helpers.max_difference(state.server_state.statistics, statistics) < 1e-6


def test_mime_lite_with_plain_sgd_is_federated_averaging() -> None:
    options: dict[str, Any] = {"batch_size": 2, "epochs": 1}
    ours = mime_lite(loss, base_optimizer=optax.sgd(RATE), **options)
    theirs = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(RATE), **options)
    states = [helpers.one_run(a, PEOPLE, jnp.float32(0.5), num_rounds=2)[1] for a in (ours, theirs)]
    assert float(states[0].params) == float(states[1].params)


def test_the_fixed_point_with_full_batches_and_an_old_control_is_the_optimum() -> None:
    algorithm = mime(loss, base_optimizer=optax.sgd(RATE), batch_size=None, steps=5)
    run, state, _ = helpers.one_run(algorithm, PEOPLE, jnp.float32(0.5))
    assert float(state.params) == 0.5  # the first round only measures
    for _ in range(100):
        state, _ = run.step(state, PEOPLE)
    assert float(state.params) == pytest.approx(OPTIMUM, abs=1e-4)


def test_a_round_without_reports_changes_nothing() -> None:
    algorithm = mime(loss, base_optimizer=optax.sgd(RATE, momentum=DECAY), batch_size=2, exchanges=2)
    sampler = fl.sampling.replay([[0, 1, 2], [-1, -1, -1], [0, 1, 2]])
    run, first, _ = helpers.one_run(algorithm, PEOPLE, jnp.float32(0.5), sampler=sampler)
    second, _ = run.step(first, PEOPLE)
    assert helpers.max_difference(first.server_state, second.server_state) == 0
    third, _ = run.step(second, PEOPLE)
    assert bool(first.server_state.measuring) is False
    assert bool(third.server_state.measuring) is True
    assert float(third.params) != 0.5


def test_stragglers_empty_clients_and_a_clipped_quantized_chain() -> None:
    data = fl.Population.from_arrays({"a": A, "b": B}, client_ids=OWNER, order=[0, 1, 2, 9], allow_empty=True)
    algorithm = mime(loss, base_optimizer=optax.sgd(RATE), batch_size=1, epochs=2)
    chain = fl.chain(fl.weighted_mean(weight_cap=8), fl.clip_by_global_norm(5.0), fl.quantize(bits=16))
    sampler = fl.sampling.with_stragglers(fl.sampling.full(4), 1.0, 0.2)
    _, state, info = helpers.one_run(algorithm, data, jnp.float32(0.5), sampler=sampler, aggregator=chain, num_rounds=2)
    taken = info.clients["local_steps"].tolist()
    assert taken[3] == 0
    assert all(1 <= t <= 2 * n for t, n in zip(taken, SIZES, strict=False))
    assert sum(taken) < 16
    assert np.isfinite(float(state.params))
    assert float(state.params) != 0.5


def test_state_that_is_not_trained_is_averaged() -> None:
    """A running mean of the batch beside one parameter: control variates have the trainable structure."""

    def counting(variables: Any, batch: Any, key: Any) -> Any:
        del key
        return (variables.params - batch["b"]) ** 2 / 2, fl.LossAux(state=variables.state + 1.0)

    start = fl.Variables(jnp.float32(0.5), jnp.float32(0.0))
    algorithm = mime(counting, base_optimizer=optax.sgd(RATE), batch_size=2, epochs=1, shuffle=False)
    _, state, _ = helpers.one_run(algorithm, PEOPLE, start, num_rounds=2)
    assert float(state.params.state) == pytest.approx(2 * np.average([2, 1, 2], weights=SIZES), rel=1e-6)
    assert float(state.params.params) != 0.5
    assert jax.tree.structure(state.server_state.control) == jax.tree.structure(0.0)


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`exchanges` is 3; expected one of 1, 2"):
        mime(loss, base_optimizer=optax.sgd(0.1), exchanges=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`base_optimizer` steps uphill: its learning rate"):
        mime_lite(loss, base_optimizer=optax.sgd(-0.1))
    with pytest.raises(ValueError, match=r"expected exactly one of them"):
        mime(loss, base_optimizer=optax.sgd(0.1), epochs=1, steps=1)
