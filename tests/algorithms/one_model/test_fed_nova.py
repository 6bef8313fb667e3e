"""FedNova: the coefficients of its local solvers, where it is FedAvg, and which objective it and FedAvg minimize."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_nova import fed_nova
from fedjaxlite.algorithms.one_model.fed_prox import fed_prox

PEOPLE = helpers.regression((4, 9, 1, 6))
SOLVERS = ((0.0, 0.0), (0.6, 0.0), (0.0, 3.0), (0.6, 1.5))
"""(rho, mu): plain, momentum, proximal, both."""
FIRST = np.float64([0.5, -1.0, 0.2, 0.1])


def quadratic(x: Any, batch: Any, key: Any) -> jax.Array:
    return batch["a"] / 2 * (x - batch["b"]) ** 2


def coefficients(steps: int, rho: float, alpha: float) -> np.ndarray:
    """a_i: entry j is how far, in units of the rate, a gradient of one in step j alone moves the local model."""
    vector = []
    for impulse in range(steps):
        moved = momentum = 0.0
        for step in range(steps):
            momentum = rho * momentum + (step == impulse) - alpha * moved
            moved += momentum
        vector.append(moved)
    return np.asarray(vector)


def test_coefficients_are_the_paper_s() -> None:
    """Of the test itself: section 4.1's vectors for momentum and for the proximal term."""
    power = np.arange(5, 0, -1)
    np.testing.assert_allclose(coefficients(5, 0.6, 0.0), (1 - 0.6**power) / 0.4)
    np.testing.assert_allclose(coefficients(5, 0.0, 0.3), 0.7 ** (power - 1))
    assert (coefficients(20, 0.6, 0.03) >= 0).all()


def local_by_numpy(data: Any, steps: int, rate: float, rho: float, mu: float) -> np.ndarray:
    """A client's delta from FIRST, in stored order and batches of 2."""
    x, y = np.concatenate([data["x"], np.ones((len(data["x"]), 1))], axis=1), data["y"]
    own, momentum, per_epoch = FIRST.copy(), np.zeros(4), -(-len(y) // 2)
    for step in range(steps):
        rows = slice((step % per_epoch) * 2, (step % per_epoch + 1) * 2)
        momentum = rho * momentum + 2 * x[rows].T @ (x[rows] @ own - y[rows]) / len(y[rows]) + mu * (own - FIRST)
        own = own - rate * momentum
    return FIRST - own


def one_round(algorithm: fl.Algorithm, sampler: fl.Sampler, aggregator: Any = None) -> Any:
    start = {"w": jnp.float32(FIRST[:3]), "b": jnp.float32(FIRST[3])}
    run = fl.rounds(algorithm, sampler=sampler, aggregator=aggregator or fl.weighted_mean(), execution=helpers.ONE)
    return run.step(run.init(start, PEOPLE, key=jax.random.key(0), noise_key=jax.random.key(0)), PEOPLE)


def test_one_round_of_every_solver_against_numpy_with_stragglers() -> None:
    """Also that |a_i| is the L1 norm of these vectors at the steps that were taken."""
    rate, sampler = 0.02, fl.sampling.with_stragglers(fl.sampling.full(4), 0.7, 0.0)
    local: dict[str, Any] = {"client_lr": rate, "batch_size": 2, "epochs": 2, "shuffle": False}
    nova = lambda rho, mu: one_round(fed_nova(helpers.linear_loss, rho=rho, mu=mu, **local), sampler)  # noqa: E731
    states, infos = jax.jit(jax.vmap(nova))(*jnp.float32(SOLVERS).T)
    work, sizes = np.asarray(sampler.sample(states.keys.sample[0], 0, PEOPLE).work), np.asarray(PEOPLE.num_examples)
    counts = [max(1, int(np.ceil(w * 2 * -(-n // 2) - 1e-4))) for w, n in zip(work, sizes, strict=True)]
    assert (work < 1).any()
    assert len(set(counts)) > 2
    for i, (rho, mu) in enumerate(SOLVERS):
        norms = [np.abs(coefficients(steps, rho, rate * mu)).sum() for steps in counts]
        deltas = [local_by_numpy(PEOPLE.client(k), counts[k], rate, rho, mu) for k in range(4)]
        mean = np.average([d / norm for d, norm in zip(deltas, norms, strict=True)], axis=0, weights=sizes)
        got = np.concatenate([states.params["w"][i], np.reshape(states.params["b"][i], (1,))])
        np.testing.assert_allclose(infos.clients["norm"][i], norms, rtol=1e-5)
        np.testing.assert_allclose(got, FIRST - np.average(norms, weights=sizes) * mean, atol=1e-5)


def test_equal_numbers_of_steps_are_fed_avg() -> None:
    """With the same local solver: momentum in its optimizer, the proximal term of FedProx."""
    local: dict[str, Any] = {"batch_size": 3, "steps": 4}
    everyone = fl.sampling.full(4)

    def both(rho: Any, mu: Any) -> Any:
        sgd = optax.sgd(0.02, momentum=rho)
        nova = fed_nova(helpers.linear_loss, client_lr=0.02, rho=rho, mu=mu, **local)
        plain = fed_prox(helpers.linear_loss, mu=mu, client_optimizer=sgd, **local)
        return one_round(nova, everyone)[0].params, one_round(plain, everyone)[0].params

    got, want = jax.jit(jax.vmap(both))(*jnp.float32(SOLVERS).T)
    assert helpers.max_difference(got, want) < 2e-6
    assert float(np.abs(np.asarray(got["w"]) - FIRST[:3]).max(axis=1).min()) > 0.01


class Unequal:
    """f_1 = x^2 / 2 with 1 example and f_2 = 2 (x - 1)^2 with 5, one step an example: K = (1, 5)."""

    a, b, sizes = np.float64([1, 4]), np.float64([0, 1]), np.int64([1, 5])
    owner = np.repeat([0, 1], sizes)
    people = fl.Population.from_arrays({"a": np.float32(a)[owner], "b": np.float32(b)[owner]}, client_ids=owner)
    optimum = 20 / 21

    @classmethod
    def rest(cls, algorithm: fl.Algorithm) -> Any:
        run = fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.weighted_mean(), execution=helpers.ONE)
        key = jax.random.key(0)
        return run.steps(run.init(jnp.float32(0.9), cls.people, key=key, noise_key=key), cls.people, 400)[0].params


def test_the_objective_that_is_minimized() -> None:
    """x* = sum c_i b_i / sum c_i with c_i = p_i (1 - (1 - rate a_i)^K_i), for FedNova over K_i.

    At a small rate that is the optimum, 20 / 21, and for FedAvg 100 / 101: it counts client 2 five times.
    """
    rates = np.float64([0.002, 0.1])
    local: dict[str, Any] = {"batch_size": 1, "shuffle": False}
    sgd = optax.sgd
    nova = lambda rate: Unequal.rest(fed_nova(quadratic, client_lr=rate, **local))  # noqa: E731
    plain = lambda rate: Unequal.rest(fed_prox(quadratic, mu=0.0, client_optimizer=sgd(rate), **local))  # noqa: E731
    points = {name: jax.jit(jax.vmap(fn))(jnp.float32(rates)) for name, fn in {"nova": nova, "plain": plain}.items()}
    for i, rate in enumerate(rates):
        moved = Unequal.sizes / 6 * (1 - (1 - rate * Unequal.a) ** Unequal.sizes)
        for name, c in {"plain": moved, "nova": moved / Unequal.sizes}.items():
            assert float(points[name][i]) == pytest.approx((c * Unequal.b).sum() / c.sum(), abs=5e-5)
    assert abs(float(points["nova"][0]) - Unequal.optimum) < 1e-3
    assert abs(float(points["plain"][0]) - 100 / 101) < 1e-3


@pytest.mark.parametrize("tau_eff", ["norm", "steps"])
def test_effective_steps_are_bounded_and_travel_as_integers(tau_eff: Any) -> None:
    """The mean of |a_i| or of tau_i, each cut to what 6 steps give, times the same direction."""
    rate, rho, mu = 0.02, 0.3, 10.0
    options: dict[str, Any] = {"tau_eff": tau_eff, "max_steps": 6, "batch_size": 2, "epochs": 2, "shuffle": False}
    algorithm = fed_nova(helpers.linear_loss, client_lr=rate, rho=rho, mu=mu, **options)
    bound = 6.0 if tau_eff == "steps" else 6 / 0.7
    assert algorithm.scalar_bounds["tau"] == pytest.approx(bound)
    chain = fl.chain(fl.weighted_mean(weight_cap=9), fl.clip_by_global_norm(100.0), fl.quantize(bits=24))
    state, _ = one_round(algorithm, fl.sampling.full(4), chain)
    sizes, counts = np.asarray(PEOPLE.num_examples), [4, 10, 2, 6]
    norms = [coefficients(steps, rho, rate * mu).sum() for steps in counts]
    deltas = [local_by_numpy(PEOPLE.client(k), counts[k], rate, rho, mu) / norms[k] for k in range(4)]
    taus = np.minimum(counts if tau_eff == "steps" else norms, bound)
    want = FIRST - np.average(taus, weights=sizes) * np.average(deltas, axis=0, weights=sizes)
    np.testing.assert_allclose(state.params["w"], want[:3], atol=2e-4)


def test_statistics_are_averaged_and_clients_without_examples_do_not_count() -> None:
    def loss(variables: Any, batch: Any, key: Any) -> Any:
        wide = variables.params["w"].astype(jnp.float32) - batch["b"]
        return wide**2, fl.LossAux(state={"mean": jnp.mean(batch["b"])})

    people = fl.Population.from_arrays(
        {"b": np.float32([0, 1, 1, 1])}, client_ids=np.array([0, 1, 1, 1]), order=[0, 1, 2], allow_empty=True
    )
    start = fl.Variables({"w": jnp.ones((), jnp.bfloat16)}, {"mean": jnp.float32(7.0)})
    algorithm = fed_nova(loss, client_lr=0.1, rho=0.5, batch_size=1)
    _, state, info = helpers.one_run(algorithm, people, start)
    assert float(state.params.state["mean"]) == pytest.approx(0.75)
    assert info.clients["norm"].tolist() == [1.0, 4.25, 0.0]
    # tau_eff = (1 + 3 * 4.25) / 4; only client 0 moves, by 0.1 * 2 in its one step, with a weight of 1 / 4
    assert float(state.params.params["w"]) == pytest.approx(1 - 3.4375 * 0.2 / 4, abs=0.005)
    assert (state.params.params["w"].dtype, int(info.num_nonfinite)) == (jnp.bfloat16, 0)


def test_errors() -> None:
    def build(**options: Any) -> Any:
        return fed_nova(helpers.linear_loss, **{"client_lr": 0.1, **options})

    with pytest.raises(ValueError, match="`client_lr` is 0; expected a finite number above 0"):
        build(client_lr=0)
    with pytest.raises(ValueError, match=r"`rho` is 1; expected a number in \[0, 1\)"):
        build(rho=1)
    with pytest.raises(ValueError, match="`mu` is -1; expected a number of at least 0"):
        build(mu=-1)
    with pytest.raises(ValueError, match="`client_lr` is 0.1 and `mu` is 20; expected a product of at most 1"):
        build(mu=20)
    with pytest.raises(ValueError, match="`tau_eff` is 3; expected one of 'norm', 'steps'"):
        build(tau_eff=3)
    with pytest.raises(ValueError, match="`max_steps` is 0; expected an int of at least 1. It is the most"):
        build(max_steps=0)
