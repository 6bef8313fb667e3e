"""FedProx on quadratics whose rounds are known in closed form, against NumPy, and its adaptive mu."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.algorithms.one_model.fed_prox import AdaptiveState, fed_prox, fed_prox_adaptive

TWO = fl.Population.from_arrays({"a": np.float32([1, 4]), "b": np.float32([0, 1])}, client_ids=np.arange(2))
PEOPLE = helpers.regression((4, 9, 1, 6))
START = {"w": jnp.float32([0.5, -1.0, 0.2]), "b": jnp.float32(0.1)}


def quadratic(x: Any, batch: Any, key: Any) -> jax.Array:
    return batch["a"] / 2 * (x - batch["b"]) ** 2


@jax.jit
@jax.vmap
def after(mu: Any, rate: Any, local_steps: Any) -> tuple[Any, Any]:
    """The model from 0.3, after one round and after 80."""
    algorithm = fed_prox(quadratic, mu=mu, client_optimizer=optax.sgd(rate), batch_size=1, steps=local_steps)
    run = fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.mean(), execution=helpers.ONE)
    state = run.init(jnp.float32(0.3), TWO, key=jax.random.key(0), noise_key=jax.random.key(0))
    return run.step(state, TWO)[0].params, run.steps(state, TWO, 80)[0].params


def test_rounds_and_fixed_points_on_quadratics() -> None:
    """A client moves by c_i (x - b_i), c_i = a_i / (a_i + mu) (1 - (1 - rate (a_i + mu))^K)."""
    mus, rates, steps = [0.0, 1.0, 10.0, 0.0, 1.0], [0.4, 2 / 7, 0.08, 0.1, 0.1], [60, 60, 60, 10, 3]
    first, last = after(jnp.float32(mus), jnp.float32(rates), jnp.int32(steps))
    a, b = np.float64([1, 4]), np.float64([0, 1])
    for i, (mu, rate, count) in enumerate(zip(mus, rates, steps, strict=True)):
        c = a / (a + mu) * (1 - (1 - rate * (a + mu)) ** count)
        assert float(first[i]) == pytest.approx(0.3 - np.mean(c * (0.3 - b)), abs=1e-6)
        assert float(last[i]) == pytest.approx((c * b).sum() / c.sum(), abs=2e-6)
    exact = [0.5, 0.6153846154, (4 / 14) / (1 / 11 + 4 / 14)]  # 60 steps solve the subproblem to float32
    np.testing.assert_allclose(last[:3], exact, atol=2e-6)


def prox_by_numpy(mu: float, work: np.ndarray, rate: float, batch: int, epochs: int) -> tuple[np.ndarray, list[int]]:
    """One round from START in stored order; a straggler stops after ceil(work * steps)."""
    start = np.concatenate([START["w"], [0.1]]).astype(np.float64)
    deltas, counts = [], []
    for k in range(4):
        data = PEOPLE.client(k)
        x, y = np.concatenate([data["x"], np.ones((len(data["x"]), 1))], axis=1), data["y"]
        per_epoch = -(-len(y) // batch)
        steps = max(1, int(np.ceil(work[k] * per_epoch * epochs - 1e-4)))
        own = start.copy()
        for step in range(steps):
            rows = slice((step % per_epoch) * batch, (step % per_epoch + 1) * batch)
            grad = 2 * x[rows].T @ (x[rows] @ own - y[rows]) / len(y[rows])
            own = own - rate * (grad + mu * (own - start))
        deltas.append(start - own)
        counts.append(steps)
    return start - np.average(deltas, axis=0, weights=np.asarray(PEOPLE.num_examples)), counts


def test_one_round_with_stragglers_against_numpy_and_mu_0_is_fed_avg() -> None:
    sampler = fl.sampling.with_stragglers(fl.sampling.full(4), 1.0, 0.0)
    local: dict[str, Any] = {"client_optimizer": optax.sgd(0.03), "batch_size": 2, "epochs": 2, "shuffle": False}

    def one_round(algorithm: fl.Algorithm) -> Any:
        run = fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=helpers.ONE)
        return run.step(run.init(START, PEOPLE, key=jax.random.key(0), noise_key=jax.random.key(0)), PEOPLE)

    pulled = jax.jit(jax.vmap(lambda mu: one_round(fed_prox(helpers.linear_loss, mu=mu, **local))))
    states, infos = pulled(jnp.float32([2.0, 0.0]))
    work = np.asarray(sampler.sample(states.keys.sample[0], 0, PEOPLE).work)
    want, counts = prox_by_numpy(2.0, work, 0.03, 2, 2)
    for i, mu in enumerate((2.0, 0.0)):
        got = np.concatenate([states.params["w"][i], np.reshape(states.params["b"][i], (1,))])
        np.testing.assert_allclose(got, prox_by_numpy(mu, work, 0.03, 2, 2)[0], atol=1e-5)
    assert infos.clients["local_steps"][0].tolist() == counts != [4, 10, 2, 6]
    plain, _ = one_round(algorithms.fed_avg(helpers.linear_loss, **local))
    assert helpers.max_difference(jax.tree.map(lambda leaf: leaf[1], states.params), plain.params) < 1e-6
    assert np.abs(want - np.concatenate([plain.params["w"], np.reshape(plain.params["b"], (1,))])).max() > 1e-3


def test_the_model_s_state_has_no_proximal_term_and_narrow_floats_stay_narrow() -> None:
    """Statistics are replaced by each batch's mean, whatever mu is."""

    def loss(variables: Any, batch: Any, key: Any) -> Any:
        wide = variables.params["w"].astype(jnp.float32) - batch["b"]
        return wide**2, fl.LossAux(state={"mean": jnp.mean(batch["b"])})

    start = fl.Variables({"w": jnp.ones((), jnp.bfloat16)}, {"mean": jnp.float32(7.0)})
    algorithm = fed_prox(loss, mu=5.0, client_optimizer=optax.sgd(0.1), batch_size=1, steps=3)
    _, state, _ = helpers.one_run(algorithm, TWO, start, aggregator=fl.mean())
    assert state.params.params["w"].dtype == jnp.bfloat16
    assert float(state.params.state["mean"]) == pytest.approx(0.5)


def adaptive(**options: Any) -> fl.Algorithm:
    local = {"client_optimizer": optax.sgd(0.02), "batch_size": 8, "epochs": 1}
    return fed_prox_adaptive(helpers.linear_loss, **{**local, **options})


def test_mu_rises_with_the_loss_and_falls_after_five_falls_in_a_row() -> None:
    algorithm = adaptive(mu=0.1)
    losses = [5, 6, 6, 5, 4, 3, 2, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 1, 0.5]
    #         start, up, same, five falls, five falls, 4 falls, up, one fall
    want = [1, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1]
    state, got = algorithm.init(START), []
    update = jax.jit(algorithm.server_update)
    zeros = jax.tree.map(jnp.zeros_like, START)
    for loss in losses:
        aggregate = fl.Aggregate(zeros, jnp.float32(2), jnp.int32(2), {"loss": jnp.float32(loss)})
        state = update(state, aggregate, None)
        got.append(float(state.mu))
    np.testing.assert_allclose(got, np.float64(want) / 10, atol=1e-6)
    nobody = fl.Aggregate(zeros, jnp.float32(0), jnp.int32(0), {"loss": jnp.float32(0)})
    assert helpers.max_difference(update(state, nobody, None), state) == 0.0


def test_mu_stays_at_0_or_above() -> None:
    algorithm = adaptive(mu=0.05, patience=1)
    state = algorithm.init(START)._replace(loss=jnp.float32(2.0))
    aggregate = fl.Aggregate(jax.tree.map(jnp.zeros_like, START), jnp.float32(1), 1, {"loss": jnp.float32(1.0)})
    assert float(algorithm.server_update(state, aggregate, jax.random.key(0)).mu) == 0.0


def test_clients_send_the_loss_of_the_model_they_got_and_train_with_the_server_s_mu() -> None:
    """The loss of all examples, of stragglers too, cut to its bound; mu is the state's, not the first one. As integers."""
    sampler = fl.sampling.with_stragglers(fl.sampling.full(4), 1.0, 0.0)
    own = np.float64([helpers.linear_loss(START, PEOPLE.client(k), None).mean() for k in range(4)])
    most = float(np.sort(own)[2:].mean())  # between the largest two
    algorithm = adaptive(mu=0.0, max_loss=most, batch_size=2, epochs=2, shuffle=False)
    chain = fl.chain(fl.weighted_mean(weight_cap=9), fl.clip_by_global_norm(10.0), fl.quantize(bits=24))
    run, state, _ = helpers.one_run(algorithm, PEOPLE, START, sampler=sampler, aggregator=chain, num_rounds=0)
    state = state._replace(server_state=state.server_state._replace(mu=jnp.float32(2.0)))
    state, info = run.step(state, PEOPLE)
    server: AdaptiveState = state.server_state
    sent = np.minimum(own, most)
    np.testing.assert_allclose(info.clients["start_loss"], sent, rtol=1e-5)
    assert float(server.loss) == pytest.approx(np.average(sent, weights=np.asarray(PEOPLE.num_examples)), rel=1e-5)
    work = np.asarray(sampler.sample(state.keys.sample, 0, PEOPLE).work)
    want, _ = prox_by_numpy(2.0, work, 0.02, 2, 2)
    np.testing.assert_allclose(server.params["w"], want[:3], atol=3e-5)
    assert (algorithm.scalar_bounds, run.client_params(state, 0).keys()) == ({"loss": most}, START.keys())


def test_errors() -> None:
    sgd = optax.sgd(0.1)
    with pytest.raises(ValueError, match="`mu` is -1; expected a number of at least 0"):
        fed_prox(helpers.linear_loss, mu=-1, client_optimizer=sgd)
    with pytest.raises(ValueError, match="`mu_step` is 0; expected a finite number above 0"):
        adaptive(mu_step=0)
    with pytest.raises(ValueError, match="`patience` is 0; expected an int of at least 1"):
        adaptive(patience=0)
    with pytest.raises(ValueError, match="`max_loss` is inf; expected a finite number above 0"):
        adaptive(max_loss=float("inf"))
    with pytest.raises(ValueError, match="expected exactly one of them"):
        fed_prox(helpers.linear_loss, mu=1, client_optimizer=sgd, epochs=1, steps=1)
