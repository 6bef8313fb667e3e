"""q-FedAvg against its equations in NumPy, federated averaging, and the fair optimum in closed form."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.groups_and_fairness.q_fed_avg import q_fed_avg, q_fed_sgd

QS = (0.0, 0.5, 1.0, 3.0)


def quadratic(x: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return batch["a"] / 2 * (x - batch["b"]) ** 2


def people(a: Any, b: Any) -> fl.Population:
    return fl.Population.from_arrays({"a": np.float32(a), "b": np.float32(b)}, client_ids=np.arange(len(a)))


def test_q_0_is_federated_averaging_with_equal_weights() -> None:
    data, start = helpers.regression((4, 9, 1, 6)), helpers.linear_params()
    fair = q_fed_avg(helpers.linear_loss, q=0, client_lr=0.02, batch_size=4, epochs=2)
    plain = helpers.fed_avg(0.02, batch_size=4, epochs=2)
    _, got, info = helpers.one_run(fair, data, start, num_rounds=3)
    _, want, _ = helpers.one_run(plain, data, start, aggregator=fl.mean(), num_rounds=3)
    assert helpers.max_difference(got.params, want.params) < 1e-6
    assert helpers.max_difference(got.params, start) > 0.1
    assert set(info.metrics) == {"loss", "start_loss", "local_steps"}


def in_numpy(a: np.ndarray, b: np.ndarray, q: float, rate: float, num_steps: int, x: float, num_rounds: int) -> float:
    """Algorithm 2 of the paper with its own L, in double precision."""
    lipschitz = 1 / rate
    for _ in range(num_rounds):
        loss, local = a / 2 * (x - b) ** 2 + 1e-10, np.full_like(a, x)
        for _ in range(num_steps):
            local = local - rate * a * (local - b)
        delta_w = lipschitz * (x - local)
        h = q * loss ** (q - 1) * delta_w**2 + lipschitz * loss**q
        x = x - (loss**q * delta_w).sum() / h.sum()
    return x


def test_rounds_are_the_paper_s_equations_for_several_q_at_once() -> None:
    """Three local steps, one client that starts with a loss of zero; q is a tracer."""
    a, b, start = [1.0, 4.0, 2.0], [0.0, 1.0, 0.3], 0.3
    data = people(a, b)

    def after(q: jax.Array) -> jax.Array:
        algorithm = q_fed_avg(quadratic, q=q, client_lr=0.1, batch_size=1, steps=3)
        run = fl.rounds(algorithm, sampler=fl.sampling.full(3), aggregator=fl.mean(), execution=helpers.ONE)
        return run.steps(run.init(jnp.float32(start), data, key=jax.random.key(0)), data, 4)[0].params

    got = jax.jit(jax.vmap(after))(jnp.float32(QS))
    want = [in_numpy(np.array(a), np.array(b), q, 0.1, 3, np.float64(np.float32(start)), 4) for q in QS]
    assert got.tolist() == pytest.approx(want, abs=2e-6)
    assert np.ptp(want) > 0.02


def test_q_fed_sgd_ends_at_the_fair_optimum() -> None:
    """Clients at 0, 0, 1: 2 x^(2q + 1) = (1 - x)^(2q + 1), from the mean 1/3 for q = 0 towards 1/2, the fairest."""
    data = people([1.0, 1.0, 1.0], [0.0, 0.0, 1.0])

    def fixed_point(q: jax.Array) -> jax.Array:
        algorithm = q_fed_sgd(quadratic, q=q, server_lr=0.5)
        run = fl.rounds(algorithm, sampler=fl.sampling.full(3), aggregator=fl.mean(), execution=helpers.ONE)
        return run.steps(run.init(jnp.float32(0.9), data, key=jax.random.key(0)), data, 200)[0].params

    got = jax.jit(jax.vmap(fixed_point))(jnp.float32(QS))
    assert got.tolist() == pytest.approx([1 / (1 + 2 ** (1 / (2 * q + 1))) for q in QS], abs=1e-5)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`q` is -1; expected a number of at least 0"):
        q_fed_avg(quadratic, q=-1, client_lr=0.1)
    with pytest.raises(ValueError, match=r"`client_lr` is 0; expected a finite number above 0"):
        q_fed_avg(quadratic, q=1, client_lr=0)
    with pytest.raises(ValueError, match=r"`server_lr` is -0.1"):
        q_fed_sgd(quadratic, q=1, server_lr=-0.1)
    with pytest.raises(ValueError, match=r"exactly one of them"):
        q_fed_avg(quadratic, q=1, client_lr=0.1, epochs=1, steps=2)
