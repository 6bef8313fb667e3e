"""Agnostic federated learning: the projection, the saddle point, and what a cohort's means estimate."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite.algorithms.groups_and_fairness.afl import afl, project_to_simplex

project = jax.jit(project_to_simplex)


def quadratic(x: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return batch["a"] / 2 * (x - batch["b"]) ** 2


def people(a: Any, b: Any) -> fl.Population:
    return fl.Population.from_arrays({"a": np.float32(a), "b": np.float32(b)}, client_ids=np.arange(len(a)))


def projected(values: np.ndarray) -> np.ndarray:
    """The projection by bisection of its threshold."""
    low, high = values.min() - 1, values.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(values - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(values - high, 0)


@given(st.lists(st.floats(-5, 5, width=32), min_size=6, max_size=6))
def test_projection_is_the_nearest_point_of_the_simplex(values: list[float]) -> None:
    vector = np.float32(values)
    got = np.asarray(project(vector), np.float64)
    assert got == pytest.approx(projected(vector.astype(np.float64)), abs=1e-5)
    assert got.min() >= 0
    assert got.sum() == pytest.approx(1, abs=1e-5)
    others = np.random.default_rng(0).dirichlet(np.full(6, 0.3), size=500)
    distances = ((others - vector) ** 2).sum(1)
    assert ((got - vector) ** 2).sum() <= distances.min() + 1e-4


def test_projection_in_small_cases() -> None:
    assert project(jnp.float32([7.0])).tolist() == [1.0]
    assert project(jnp.float32([0.25, 0.75])).tolist() == [0.25, 0.75]
    assert project(jnp.float32([-3.0, 5.0, 5.0])).tolist() == [0.0, 0.5, 0.5]


def test_it_ends_where_the_worst_mixture_s_losses_are_equal() -> None:
    """x^2 / 2 and 2 (x - 1)^2 are equal at x = 2/3, where lambda = (2/3, 1/3) makes the mixture's gradient zero."""
    data = people([1.0, 4.0], [0.0, 1.0])
    algorithm = afl(
        quadratic, lambda_lr=0.2, groups=np.arange(2), client_optimizer=optax.sgd(0.1), batch_size=1, steps=1
    )
    run = fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.mean(), execution=helpers.ONE)
    state, info = run.steps(run.init(jnp.float32(0.1), data, key=jax.random.key(0)), data, 600)
    assert float(state.params) == pytest.approx(2 / 3, abs=1e-4)
    assert state.server_state.mixture.tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-3)
    assert info.clients["start_loss"][-1].tolist() == pytest.approx([2 / 9, 2 / 9], abs=1e-4)


COHORTS = [[0, 2], [1, 3], [3, 2], [0, 1]]
"""Pairs out of four clients: groups 0, 0, 1, 0, of which the last cohort has nobody of group 1."""


def in_numpy(a: np.ndarray, b: np.ndarray, rate: float, lambda_lr: float) -> tuple[float, np.ndarray]:
    groups, shares = np.array([0, 0, 1, 0]), np.array([0.75, 0.25])
    x, mixture = 0.4, np.array([0.5, 0.5])
    for ids in COHORTS:
        delta, losses = 0.0, np.zeros(2)
        for i in ids:
            local = x
            for _ in range(3):
                local -= rate * a[i] * (local - b[i])
            delta += mixture[groups[i]] / shares[groups[i]] * (x - local) / 2
            losses[groups[i]] += a[i] / 2 * (x - b[i]) ** 2 / shares[groups[i]] / 2
        x, mixture = x - delta, projected(mixture + lambda_lr * losses)
    return x, mixture


def run_of(sampler: fl.Sampler, lambda_lr: float = 0.3) -> fl.Rounds:
    algorithm = afl(
        quadratic, lambda_lr=lambda_lr, groups=[0, 0, 1, 0], client_optimizer=optax.sgd(0.05), batch_size=1, steps=3
    )
    return fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=helpers.ONE)


def test_rounds_of_some_clients_are_the_equations() -> None:
    a, b = [1.0, 4.0, 2.0, 3.0], [0.0, 1.0, -1.0, 0.5]
    data, run = people(a, b), run_of(fl.sampling.replay(COHORTS))
    state, _ = run.steps(run.init(jnp.float32(0.4), data, key=jax.random.key(0)), data, len(COHORTS))
    x, mixture = in_numpy(np.array(a), np.array(b), 0.05, 0.3)
    assert float(state.params) == pytest.approx(x, abs=1e-6)
    assert state.server_state.mixture.tolist() == pytest.approx(mixture, abs=1e-6)
    assert mixture[0] != pytest.approx(0.5, abs=0.05)


def test_a_client_drawn_at_random_gives_everyone_s_step_on_average() -> None:
    """Over all cohorts of one client: the mean of the new models and (inside the simplex) mixtures is that of a full round."""
    data = people([1.0, 4.0, 2.0, 3.0], [0.0, 1.0, -1.0, 0.5])
    single, everyone = run_of(fl.sampling.replay([[0], [1], [2], [3]]), 0.02), run_of(fl.sampling.full(4), 0.02)
    first = single.init(jnp.float32(0.4), data, key=jax.random.key(0))
    alone = [single.step(first._replace(round=jnp.int32(r)), data)[0].server_state for r in range(4)]
    together, _ = everyone.step(everyone.init(jnp.float32(0.4), data, key=jax.random.key(0)), data)
    assert np.mean([float(s.params) for s in alone]) == pytest.approx(float(together.params), abs=1e-6)
    mixtures = np.stack([s.mixture for s in alone])
    assert mixtures.mean(0) == pytest.approx(np.asarray(together.server_state.mixture), abs=1e-6)
    assert np.ptp(mixtures, axis=0).min() > 0.01


def test_groups_can_come_from_the_data() -> None:
    data = fl.Population.from_arrays({"x": np.float32([1, 2, 3]), "g": np.int32([0, 1, 1])}, client_ids=[0, 1, 2])
    algorithm = afl(
        lambda p, batch, key: (p - batch["x"]) ** 2 / 2,
        lambda_lr=0.1,
        groups=lambda data: data.features["g"].at[data.offset].get(mode="clip"),
        shares=[1 / 3, 2 / 3],
        client_optimizer=optax.sgd(1.0),
    )
    _, state, _ = helpers.one_run(algorithm, data, jnp.float32(0))
    assert float(state.params) == pytest.approx(0.5 * 1 + 0.5 * (2 + 3) / 2)
    losses = np.array([0.5, (2 + 4.5) / 2])
    assert state.server_state.mixture.tolist() == pytest.approx(projected(0.5 + 0.1 * losses), abs=1e-6)


def test_what_is_refused() -> None:
    make = lambda **options: afl(quadratic, **{"lambda_lr": 0.1, "client_optimizer": optax.sgd(0.1), **options})  # noqa: E731
    with pytest.raises(ValueError, match=r"`lambda_lr` is 0; expected a finite number above 0"):
        make(lambda_lr=0, groups=[0, 1])
    with pytest.raises(ValueError, match=r"groups \[0, 2\]; expected 0 to G - 1, each with at least one client"):
        make(groups=[0, 2])
    with pytest.raises(ValueError, match=r"groups \[-1, 0\]"):
        make(groups=[-1, 0])
    with pytest.raises(TypeError, match=r"`groups` is float64\[2\]; expected int \[N\]"):
        make(groups=[0.0, 1.0])
    with pytest.raises(ValueError, match=r"Give `shares`, or an array of groups"):
        make(groups=lambda data: 0)
    with pytest.raises(ValueError, match=r"expected \[G\] numbers above 0 with sum 1"):
        make(groups=lambda data: 0, shares=[0.5, 0.6])
    with pytest.raises(ValueError, match=r"`shares` is given, and is counted from `groups`"):
        make(groups=[0, 1], shares=[0.5, 0.5])
