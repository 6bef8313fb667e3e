"""One-shot averaging: closed forms on means, rounds that add up, and the bias that subsampling takes out."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.one_shot import one_shot


def point(x: Any, batch: Any, key: Any) -> jax.Array:
    del key
    return (x - batch["x"]) ** 2 / 2


def rate_of_decay(log_rate: Any, batch: Any, key: Any) -> jax.Array:
    """Minus the log likelihood of an exponential distribution, in the log of its rate: minimal at -log(mean)."""
    del key
    return jnp.exp(log_rate) * batch["x"] - log_rate


def decays(num_clients: int, size: int, seed: int = 0) -> fl.Population:
    values = np.random.default_rng(seed).exponential(size=num_clients * size)
    return fl.Population.from_arrays({"x": np.float32(values)}, client_ids=np.repeat(np.arange(num_clients), size))


def run_of(algorithm: fl.Algorithm, sampler: fl.Sampler, lanes: int = 1) -> fl.Rounds:
    execution = fl.Execution(lanes=lanes, devices=1)
    return fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=execution)


def test_several_rounds_are_one_round_with_everyone() -> None:
    """Means of clients of 1, 2, 5 and 2 examples, in cohorts of unequal weight: the pooled mean, exactly once each."""
    data = helpers.one_value_each([0.0, 1.0, 4.0, -3.0], [1, 2, 5, 2])
    algorithm = one_shot(point, client_optimizer=optax.sgd(0.5), steps=40)
    run = run_of(algorithm, fl.sampling.replay([[2, 1], [0, -1], [3, -1], [-1, -1]]))
    state, _ = run.steps(run.init(jnp.float32(9.0), data, key=jax.random.key(0)), data, 4)
    assert float(state.params) == pytest.approx((2 + 20 - 6) / 10, abs=1e-6)
    assert float(state.server_state.weight) == 10
    assert float(state.server_state.start) == 9


def test_subsampling_combines_two_fits() -> None:
    """Each client's result is (w - r v) / (1 - r) for a window of 3 out of 5 examples, r = 0.6."""
    data = decays(4, 5)
    algorithm = one_shot(rate_of_decay, client_optimizer=optax.sgd(0.5), steps=100, subsample=0.5)
    run = run_of(algorithm, fl.sampling.replay([[0], [1], [2], [3]]))
    first = run.init(jnp.float32(0.0), data, key=jax.random.key(1))
    for client in range(4):
        state, _ = run.step(first._replace(round=jnp.int32(client)), data)
        x = data.client(client)["x"].astype(np.float64)
        whole, parts = -np.log(x.mean()), [-np.log(x[i : i + 3].mean()) for i in range(3)]
        possible = [(whole - 0.6 * part) / 0.4 for part in parts]
        assert min(abs(float(state.params) - p) for p in possible) < 1e-4


@pytest.mark.slow
def test_subsampling_takes_out_the_bias() -> None:
    """-log(mean of n) is log(n) - digamma(n) too high: 0.0508 for n = 10, 0.1033 for 5, so 2 w - v by -0.0017.

    Against the pooled estimate, which has the draw in common; tolerances of four standard errors, false-alarm rate
    below 1e-4.
    """
    data = decays(2000, 10)
    results = []
    for subsample in (None, 0.5):
        algorithm = one_shot(rate_of_decay, client_optimizer=optax.sgd(0.5), steps=40, subsample=subsample)
        run = run_of(algorithm, fl.sampling.full(2000), lanes=250)
        state, _ = run.step(run.init(jnp.float32(0.0), data, key=jax.random.key(0)), data)
        results.append(float(state.params))
    plain, corrected = results
    x = np.asarray(data.features["x"], np.float64).reshape(2000, 10)
    assert plain == pytest.approx(-np.log(x.mean(1)).mean(), abs=1e-4)
    pooled = -np.log(x.mean())
    assert plain - pooled == pytest.approx(0.0508, abs=0.008)
    assert corrected - pooled == pytest.approx(-0.0017, abs=0.028)


def test_a_client_too_small_to_subsample_is_not_corrected() -> None:
    data = helpers.one_value_each([2.0, 4.0], [1, 3])
    algorithm = one_shot(point, client_optimizer=optax.sgd(0.5), steps=40, subsample=0.4)
    run = run_of(algorithm, fl.sampling.full(2))
    state, _ = run.step(run.init(jnp.float32(0.0), data, key=jax.random.key(0)), data)
    assert float(state.params) == pytest.approx((2 + 3 * 4) / 4, abs=1e-5)


def test_what_is_refused() -> None:
    sgd = optax.sgd(0.1)
    with pytest.raises(ValueError, match=r"`subsample` is 1; expected a number in \(0, 1\), or None"):
        one_shot(point, client_optimizer=sgd, steps=1, subsample=1)
    with pytest.raises(ValueError, match=r"`subsample` is 0; expected a number in \(0, 1\]"):
        one_shot(point, client_optimizer=sgd, steps=1, subsample=0)
    with pytest.raises(ValueError, match=r"`epochs` is None and `steps` is None; expected exactly one"):
        one_shot(point, client_optimizer=sgd)
