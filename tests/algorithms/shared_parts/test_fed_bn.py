"""FedBN: scales and running statistics stay at the clients; against NumPy."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import personal_problems as problems
from methods.partial import scaled_loss

import fedjaxlite as fl
from fedjaxlite.algorithms.shared_parts.fed_bn import fed_bn

RATE = 0.05
LOSS = fl.losses.declare(scaled_loss, cross_example=True)


def start() -> fl.Variables:
    params = {"w": jnp.float32([0.5, -1.0]), "norm": {"scale": jnp.float32([1.0, 2.0])}}
    return fl.Variables(params, {"norm": {"mean": jnp.float32([0.3, 0.0])}})


def trained(w: Any, scale: Any, mean: Any, batches: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps on mean ((x - mean of the batch) * scale @ w - y)^2, which move the running mean half way."""
    for x, y in batches:
        centered = x[:, :2] - x[:, :2].mean(0)
        residual = 2 * (centered * scale @ w - y) / len(x)
        w, scale = w - RATE * (centered * scale).T @ residual, scale - RATE * (centered * w).T @ residual
        mean = 0.5 * mean + 0.5 * x[:, :2].mean(0)
    return w, scale, mean


def test_rounds_against_numpy_with_scales_and_statistics_of_ones_own() -> None:
    people = problems.linear()
    algorithm = fed_bn(LOSS, client_optimizer=optax.sgd(RATE), batch_size=problems.BATCH, epochs=2, shuffle=False)
    run = fl.rounds(algorithm, sampler=problems.sampler(), aggregator=fl.weighted_mean(), execution=helpers.ONE)
    state = run.init(start(), people, key=jax.random.key(0))
    shared = np.array([0.5, -1.0])
    own = {k: (np.array([1.0, 2.0]), np.array([0.3, 0.0])) for k in range(4)}
    for cohort in problems.COHORTS:
        state, _ = run.step(state, people)
        weights, sizes = [], []
        for k in (k for k in cohort if k >= 0 and problems.SIZES[k]):
            x, y = problems.rows(people, k)
            w, *kept = trained(shared, *own[k], problems.batches(x, y, 2, problems.work_of(cohort, k)))
            own[k] = (kept[0], kept[1])
            weights.append(w)
            sizes.append(len(x))
        shared = np.average(weights, axis=0, weights=sizes)
    np.testing.assert_allclose(state.params.params["w"], shared, atol=1e-5)
    assert helpers.max_difference(state.params.state, start().state) == 0  # no client's statistics reach the server
    report = fl.evaluate_clients(LOSS, people, rounds=run, execution=helpers.ONE)(state)
    for k, (scale, mean) in own.items():
        model = run.client_params(state, k)
        np.testing.assert_allclose(model.params["w"], shared, atol=1e-5)
        np.testing.assert_allclose(model.params["norm"]["scale"], scale, atol=1e-5)
        np.testing.assert_allclose(model.state["norm"]["mean"], mean, atol=1e-5)
        if problems.SIZES[k]:
            x, y = problems.rows(people, k)
            want = np.mean(((x[:, :2] - mean) * scale @ shared - y) ** 2)
            np.testing.assert_allclose(report.metrics["loss"][k], want, rtol=1e-4)
    assert np.abs(own[0][1] - own[1][1]).max() > 0.05
    assert run.traffic(start(), people) == (8 + 4, 8)


def test_what_is_personal() -> None:
    """Normalization by its name, and all state; a model without state keeps its scales alone."""
    algorithm = fed_bn(LOSS, client_optimizer=optax.sgd(RATE))
    own = algorithm.init_client(start()._replace(state={"norm": {"mean": jnp.zeros(2)}, "count": jnp.int32(0)}))
    assert sorted(leaf.shape for leaf in jax.tree.leaves(own)) == [(), (2,), (2,)]
    plain = fed_bn(LOSS, client_optimizer=optax.sgd(RATE)).init_client(start().params)
    assert [leaf.tolist() for leaf in jax.tree.leaves(plain)] == [[1.0, 2.0]]
