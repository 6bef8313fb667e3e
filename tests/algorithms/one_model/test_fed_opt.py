"""Adaptive servers against algorithm 2 of the paper in plain NumPy, and what they leave of their clients."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_opt import (
    adaptive_server_optimizer,
    fed_adagrad,
    fed_adam,
    fed_avg_m,
    fed_yogi,
)

PEOPLE = helpers.regression((4, 9, 1, 6))
SGD = optax.sgd(0.05)
MAKERS = {"adagrad": fed_adagrad, "adam": fed_adam, "yogi": fed_yogi}


def algorithm_2(
    rule: str, deltas: np.ndarray, rates: Any, beta1: float, beta2: float, tau: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """x and v after every round of the paper's algorithm 2 from x = 0; its Delta is minus a delta."""
    x, m, v = np.zeros(deltas.shape[1]), np.zeros(deltas.shape[1]), np.full(deltas.shape[1], tau**2)
    seen = []
    for delta, rate in zip(deltas, rates, strict=True):
        m = beta1 * m + (1 - beta1) * -delta
        squared = delta**2
        if rule == "adagrad":
            v = v + squared
        elif rule == "adam":
            v = beta2 * v + (1 - beta2) * squared
        else:
            v = v - (1 - beta2) * squared * np.sign(v - squared)
        x = x + rate * m / (np.sqrt(v) + tau)
        seen.append((x, v))
    return seen


@pytest.mark.parametrize("rule", MAKERS)
def test_servers_follow_the_paper_s_algorithm_2(rule: str) -> None:
    """Deltas of 0.001 to 10, on both sides of the accumulators, so that Yogi's sign takes both values."""
    rng = np.random.default_rng(0)
    deltas = rng.normal(size=(12, 40)) * 10.0 ** rng.uniform(-3, 1, size=(12, 40))
    beta1, beta2, tau, rate = 0.9, 0.8, 0.05, 0.3
    server = adaptive_server_optimizer(rule, server_lr=rate, beta1=beta1, beta2=beta2, tau=tau)
    update = jax.jit(server.update)
    x = jnp.zeros((40,))
    state: Any = server.init(x)
    signs = set()
    for delta, (want_x, want_v) in zip(deltas, algorithm_2(rule, deltas, [rate] * 12, beta1, beta2, tau), strict=True):
        signs |= set(np.sign(np.asarray(state.square) - delta**2).tolist())
        step, state = update(jnp.float32(delta), state)
        x = optax.apply_updates(x, step)
        np.testing.assert_allclose(state.square, want_v, rtol=1e-5)
        np.testing.assert_allclose(x, want_x, rtol=1e-5, atol=1e-5)
    assert signs == {-1.0, 1.0}
    assert int(state.steps) == 12


def gradient(params: np.ndarray, data: dict[str, np.ndarray]) -> np.ndarray:
    """Of the mean squared error of the linear model; the bias comes last."""
    x = np.concatenate([data["x"], np.ones((len(data["x"]), 1))], axis=1)
    return 2 * x.T @ (x @ params - data["y"]) / len(x)


def mean_delta(params: np.ndarray) -> np.ndarray:
    """Of one full-batch step of SGD a client, weighted by examples."""
    steps = [0.05 * gradient(params, PEOPLE.client(k)) for k in range(4)]
    return np.average(steps, axis=0, weights=np.asarray(PEOPLE.num_examples))


def flat(params: Any) -> np.ndarray:
    return np.concatenate([params["w"], np.reshape(params["b"], (1,))])


def test_rounds_are_fed_avg_s_clients_under_the_adaptive_server() -> None:
    """One full-batch step a client, weighted by examples, with the defaults and a rate that falls with the rounds."""
    schedule = lambda count: 0.1 / (1.0 + count.astype(jnp.float32))  # noqa: E731
    algorithm = fed_adam(helpers.linear_loss, client_optimizer=SGD, server_lr=schedule, batch_size=None)
    _, state, _ = helpers.one_run(algorithm, PEOPLE, helpers.linear_params(), num_rounds=4)
    x, deltas, rates = np.zeros(4), np.zeros((0, 4)), [0.1 / (1 + t) for t in range(4)]
    for t in range(4):
        deltas = np.concatenate([deltas, mean_delta(x)[None]])
        x = algorithm_2("adam", deltas, rates[: t + 1], 0.9, 0.99, 1e-3)[-1][0]
    np.testing.assert_allclose(flat(state.params), x, atol=2e-5)
    assert np.abs(x).max() > 0.05


@pytest.mark.parametrize("rule", MAKERS)
def test_presets_have_the_paper_s_defaults(rule: str) -> None:
    """Of appendix D: no momentum for Adagrad, 0.9 and 0.99 for the others, tau = 0.001."""
    algorithm = MAKERS[rule](helpers.linear_loss, client_optimizer=SGD, server_lr=0.1)
    beta1, beta2 = (0.0, 0.0) if rule == "adagrad" else (0.9, 0.99)
    deltas = np.random.default_rng(1).normal(size=(3, 4)) * 0.01
    state = algorithm.init(helpers.linear_params())
    for delta in deltas:
        mean = {"w": jnp.float32(delta[:3]), "b": jnp.float32(delta[3])}
        state = algorithm.server_update(state, fl.Aggregate(mean, jnp.float32(1), 1, {}), jax.random.key(0))
    want = algorithm_2(rule, deltas, [0.1] * 3, beta1, beta2, 1e-3)[-1][0]
    np.testing.assert_allclose(flat(state.params), want, rtol=1e-4, atol=1e-6)


def test_there_is_no_bias_correction() -> None:
    """The first step of optax's Adam is of size eta; the paper's is (1 - beta1) Delta / (sqrt(v) + tau) of it."""
    server = adaptive_server_optimizer("adam", server_lr=1.0, beta1=0.9, beta2=0.99, tau=1e-3)
    step, _ = server.update(jnp.float32(2.0), server.init(jnp.float32(0.0)))
    assert float(step) == pytest.approx(-0.1 * 2.0 / (np.sqrt(0.99 * 1e-6 + 0.01 * 4.0) + 1e-3), rel=1e-5)
    assert abs(float(step) + 1.0) > 0.004


def test_momentum_of_the_server() -> None:
    """x = x - eta sum_j beta^(t - j) delta_j; with the defaults of 1 and 0.9, and without momentum, which is FedAvg."""
    deltas = np.float64([[1, 2, 3, 4], [0, 1, 0, -1], [2, 0, 0, 1]])
    for options, rate, beta in (({}, 1.0, 0.9), ({"server_lr": 0.5, "momentum": 0.0}, 0.5, 0.0)):
        algorithm = fed_avg_m(helpers.linear_loss, client_optimizer=SGD, **options)
        state, x, velocity = algorithm.init(helpers.linear_params()), np.zeros(4), np.zeros(4)
        for delta in deltas:
            mean = {"w": jnp.float32(delta[:3]), "b": jnp.float32(delta[3])}
            state = algorithm.server_update(state, fl.Aggregate(mean, jnp.float32(1), 1, {}), jax.random.key(0))
            velocity = beta * velocity + delta
            x = x - rate * velocity
        np.testing.assert_allclose(flat(state.params), x, rtol=1e-6)


def test_without_moments_a_huge_tau_is_plain_averaging() -> None:
    """beta = 0: v = Delta^2, and eta = tau takes the step Delta / (|Delta| / tau + 1)."""
    for rule in ("adam", "yogi"):
        server = adaptive_server_optimizer(rule, server_lr=1e6, beta1=0.0, beta2=0.0, tau=1e6)
        step, _ = server.update(jnp.float32([3.0, -0.2]), server.init(jnp.zeros((2,))))
        np.testing.assert_allclose(step, [-3.0, 0.2] if rule == "adam" else np.float32([-1.5, 0.1]), rtol=2e-5)


def test_narrow_floats_keep_their_dtype_and_have_wide_moments() -> None:
    server = adaptive_server_optimizer("yogi", server_lr=0.1, beta1=0.9, beta2=0.99)
    params = {"w": jnp.zeros((2,), jnp.bfloat16), "b": jnp.float32(0)}
    updates, state = server.update(jax.tree.map(jnp.ones_like, params), server.init(params))
    assert jax.tree.map(lambda u: str(u.dtype), updates) == {"w": "bfloat16", "b": "float32"}
    assert {leaf.dtype for leaf in jax.tree.leaves((state.mean, state.square))} == {jnp.dtype(jnp.float32)}


def test_hyperparameters_may_be_vmapped() -> None:
    def one_round(values: Any) -> Any:
        algorithm = fed_adam(
            helpers.linear_loss, client_optimizer=SGD, server_lr=values[0], beta1=values[1], beta2=values[1],
            tau=values[2], batch_size=None,
        )  # fmt: skip
        run = fl.rounds(algorithm, sampler=fl.sampling.full(4), aggregator=fl.weighted_mean(), execution=helpers.ONE)
        state = run.init(helpers.linear_params(), PEOPLE, key=jax.random.key(0), noise_key=jax.random.key(0))
        return run.step(state, PEOPLE)[0].params

    grid = jnp.float32([[0.1, 0.9, 1e-3], [0.2, 0.5, 0.1]])
    together = jax.jit(jax.vmap(one_round))(grid)
    alone = [jax.tree.map(lambda leaf, i=i: leaf[i], together) for i in range(2)]
    want = algorithm_2("adam", mean_delta(np.zeros(4))[None], [0.2], 0.5, 0.5, 0.1)[0][0]
    np.testing.assert_allclose(alone[1]["w"], want[:3], rtol=1e-4, atol=1e-6)
    assert helpers.max_difference(alone[0], alone[1]) > 0.01


def test_records_name_the_method_and_its_hyperparameters() -> None:
    algorithm = fed_yogi(helpers.linear_loss, client_optimizer=SGD, server_lr=0.1, epochs=2)
    assert (algorithm.name, algorithm.hparams["beta2"], algorithm.hparams["epochs"]) == ("fed_yogi", 0.99, 2)
    assert fed_adagrad(helpers.linear_loss, client_optimizer=SGD, server_lr=0.1).hparams["beta1"] == 0.0


def test_errors() -> None:
    def adam(**options: Any) -> Any:
        return fed_adam(helpers.linear_loss, **{"client_optimizer": SGD, "server_lr": 0.1, **options})

    with pytest.raises(ValueError, match=r"`beta1` is 1.0; expected a number in \[0, 1\)"):
        adam(beta1=1.0)
    with pytest.raises(ValueError, match="`tau` is 0; expected a finite number above 0"):
        adam(tau=0)
    with pytest.raises(ValueError, match="`server_lr` is -1; expected a finite number above 0"):
        adam(server_lr=-1)
    with pytest.raises(TypeError, match="`fed_adam` got a `server_optimizer`, and sets its own"):
        adam(server_optimizer=optax.sgd(1.0))
    with pytest.raises(ValueError, match="`momentum` is 1; expected a number in"):
        fed_avg_m(helpers.linear_loss, client_optimizer=SGD, momentum=1)
    with pytest.raises(ValueError, match="`rule` is 'sgd'; expected one of 'adagrad', 'adam', 'yogi'"):
        adaptive_server_optimizer("sgd", server_lr=1.0, beta1=0.0)
