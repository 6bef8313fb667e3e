"""FedDyn against NumPy, its invariants, and its fixed point: the true optimum, whoever takes part."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_dyn import fed_dyn

A, B = np.float32([1, 4, 2, 0.5, 0]), np.float32([0, 1, -1, 3, 0])
SIZES = (1, 3, 2, 1, 0)  # which must not matter: clients weigh alike; the last has no examples, and so no curvature
OPTIMUM = float((A * B).sum() / A.sum())
RATE, STEPS, ALPHA = 0.1, 3, 0.8


def loss(x: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return batch["a"] / 2 * (x - batch["b"]) ** 2


def people() -> fl.Population:
    owner = np.repeat(np.arange(5), SIZES)
    return fl.Population.from_arrays({"a": A[owner], "b": B[owner]}, owner, order=list(range(5)), allow_empty=True)


def make(**options: Any) -> fl.Algorithm:
    settings: dict[str, Any] = {"alpha": ALPHA, "num_clients": 5, "batch_size": None, "steps": STEPS, **options}
    return fed_dyn(loss, client_optimizer=optax.sgd(RATE), **settings)


def by_hand(x: float, cohorts: list[list[int]]) -> tuple[float, float, np.ndarray, float]:
    linear, h, last = np.zeros(5), 0.0, x
    for cohort in cohorts:
        if not cohort:
            continue
        ends = []
        for k in cohort:
            y = x
            for _ in range(STEPS):
                y -= RATE * (A[k] * (y - B[k]) - linear[k] + ALPHA * (y - x))
            linear[k] += ALPHA * (x - y)
            ends.append(y)
        h += ALPHA / 5 * sum(x - y for y in ends)
        last = float(np.mean(ends))
        x = last - h / ALPHA
    return x, h, linear, last


def test_rounds_are_those_of_numpy_with_absent_clients_and_a_round_without_any() -> None:
    cohorts = [[0, 1, 2], [1, 3, 4], [], [2, 3, 0], [1]]
    sampler = fl.sampling.replay([[*c, *[-1] * (3 - len(c))] for c in cohorts])
    algorithm = make()
    run, state, _ = helpers.one_run(algorithm, people(), jnp.float32(0.3), sampler=sampler, num_rounds=5)
    x, h, linear, last = by_hand(0.3, cohorts)
    assert float(state.params) == pytest.approx(x, abs=1e-5)
    assert float(state.server_state.h) == pytest.approx(h, abs=1e-6)
    assert np.asarray(state.clients.algorithm) == pytest.approx(linear, abs=1e-5)
    assert linear[4] == 0.0
    assert float(make(evaluate="clients").params(state.server_state)) == pytest.approx(last, abs=1e-5)
    assert run.traffic(jnp.float32(0.3), people()) == (4 + 4, 4)  # a delta and a weight up, the model down


def test_the_fixed_point_is_the_optimum_under_any_participation() -> None:
    sampler = fl.sampling.with_dropout(fl.sampling.uniform(3), 0.3)
    run = fl.rounds(make(), sampler=sampler, aggregator=fl.mean(), execution=helpers.ONE)
    state = run.init(jnp.float32(0.3), people(), key=jax.random.key(0))
    state, infos = run.steps(state, people(), 400)
    assert float(state.params) == pytest.approx(OPTIMUM, abs=1e-4)
    assert set(np.unique(infos.num_reported)) == {0, 1, 2, 3}  # every kind of round was there
    gradients = A * (OPTIMUM - B)
    assert np.asarray(state.clients.algorithm) == pytest.approx(gradients, abs=1e-3)
    assert float(state.server_state.h) == pytest.approx(float(state.clients.algorithm.mean()), abs=1e-5)


def test_a_linear_term_is_the_gradient_where_the_local_problem_is_solved() -> None:
    _, state, _ = helpers.one_run(make(steps=300), people(), jnp.float32(0.3))
    # v solves a (v - b) + alpha (v - w) = 0, so the new linear term alpha (w - v) is a (v - b).
    v = (A * B + ALPHA * 0.3) / (A + ALPHA)
    assert np.asarray(state.clients.algorithm) == pytest.approx(A * (v - B), abs=1e-5)
    assert float(state.params) == pytest.approx(float(v.mean() - (0.3 - v).mean()), abs=1e-5)


def test_narrow_floats_keep_their_type_and_rates_may_be_traced() -> None:
    params = {"w": jnp.zeros((3,), jnp.bfloat16), "b": jnp.float32(0.0)}

    def linear_loss(params: Any, batch: Any, key: Any) -> jax.Array:
        return helpers.linear_loss({**params, "w": params["w"].astype(jnp.float32)}, batch, key)

    @jax.jit
    def after(alpha: Any) -> Any:
        algorithm = fed_dyn(linear_loss, alpha=alpha, num_clients=2, client_optimizer=optax.sgd(0.02))
        data = helpers.regression((4, 2))
        run = fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.mean(), execution=helpers.ONE)
        key = jax.random.key(0)
        return run.step(run.init(params, data, key=key, noise_key=key), data)[0].server_state

    state = after(jnp.float32(0.5))
    assert state.params["w"].dtype == state.h["w"].dtype == jnp.bfloat16
    assert bool(jnp.any(state.h["w"] != 0))
    assert bool(jnp.isfinite(state.params["b"]))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"alpha": 0.0}, ValueError, r"`alpha` is 0\.0; expected a finite number above 0"),
        ({"num_clients": 0}, ValueError, r"`num_clients` is 0; expected an int of at least 1\. It is the number of"),
        ({"evaluate": "mean"}, ValueError, r"`evaluate` is 'mean'; expected one of 'server', 'clients'"),
        ({"epochs": 1}, ValueError, r"expected exactly one of them"),
    ],
)
def test_arguments_out_of_range_are_refused(options: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        make(**options)
