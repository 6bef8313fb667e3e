"""FedKSeed: slopes, directions that both sides share, sums that are the model, bytes, and that it learns."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.algorithms import fed_kseed, kseed_model
from fedjaxlite.algorithms.one_model.fed_kseed import direction, two_point_slope

PARAMS = {"w": jnp.float32([0.3, -0.2, 1.0]), "b": jnp.float32(0.1)}
PEOPLE = helpers.regression((4, 9, 1, 6))


def make(loss: Any = helpers.linear_loss, **options: Any) -> fl.Algorithm:
    return fed_kseed(loss, **{"client_lr": 0.01, "num_seeds": 32, "batch_size": 4, **options})


def sent(algorithm: fl.Algorithm, params: Any, client: int) -> fl.ClientOutput:
    shared = algorithm.broadcast(algorithm.init(params))
    data = fl.client_view(PEOPLE, client, key=jax.random.key(client))
    return jax.jit(lambda shared: algorithm.client_update(shared, (), data, data.key))(shared)


def pool(params: Any, number: int, seed: int = 0) -> np.ndarray:
    """All directions, `[K, d]` in double precision, leaf by leaf."""
    rows = jax.jit(jax.vmap(lambda j: direction(params, j, seed)))(jnp.arange(number, dtype=jnp.int32))
    return np.concatenate([np.reshape(leaf, (number, -1)) for leaf in jax.tree.leaves(rows)], axis=1).astype(np.float64)


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


@pytest.mark.parametrize("eps", [1e-3, 0.5, 8.0])
def test_the_slope_is_exact_on_linear_functions(eps: float) -> None:
    rng = np.random.default_rng(0)
    slopes, z = (jnp.float32(rng.normal(size=5)) for _ in range(2))
    line = lambda w: fl.BatchLoss(w @ slopes + 2.0, jnp.float32(1), {}, None)  # noqa: E731
    seen, got = two_point_slope(line, jnp.zeros(5), z, eps)
    assert float(got) == pytest.approx(np.asarray(slopes, np.float64) @ np.asarray(z, np.float64), rel=1e-3)
    assert float(seen.loss) == pytest.approx(2.0, rel=1e-5)


def test_a_step_on_a_linear_loss_is_the_slope_along_one_direction() -> None:
    linear = lambda params, batch, key: batch["x"] @ params["w"] + params["b"]  # noqa: E731
    out = sent(make(linear, steps=1, batch_size=None, perturbation=0.1), PARAMS, 1)
    rows = np.asarray(PEOPLE.features["x"], np.float64)[4:13]
    gradient = np.r_[1.0, rows.mean(0)]  # "b" comes first
    (j,) = np.flatnonzero(out.update)
    assert float(out.update[j]) == pytest.approx(0.01 * gradient @ pool(PARAMS, 32)[j], rel=1e-3)


def test_local_steps_against_numpy() -> None:
    """The client's walk in double precision from the directions that its sums name: w - y is what the sums say."""
    eps, lr = 1e-2, 0.01
    out = sent(make(steps=6, num_seeds=5, batch_size=None, perturbation=eps, client_lr=lr), PARAMS, 1)
    key = jax.random.fold_in(jax.random.key(1), 3)
    draw = jax.jit(jax.vmap(lambda t: jax.random.randint(jax.random.fold_in(key, t), (), 0, 5)))
    drawn = draw(jnp.arange(6)).tolist()
    x, y = (np.asarray(PEOPLE.features[name], np.float64)[4:13] for name in "xy")
    loss = lambda w: ((x @ w[1:] + w[0] - y) ** 2).mean()  # noqa: E731
    w, update, z = flat(PARAMS), np.zeros(5), pool(PARAMS, 5)
    for j in drawn:
        g = (loss(w + eps * z[j]) - loss(w - eps * z[j])) / (2 * eps)
        w, update[j] = w - lr * g * z[j], update[j] + lr * g
    np.testing.assert_allclose(out.update, update, rtol=2e-3, atol=1e-5)
    rebuilt = jax.jit(lambda sums: kseed_model(PARAMS, sums))(-out.update)
    np.testing.assert_allclose(flat(rebuilt), w, rtol=1e-3, atol=1e-5)
    assert int(out.info["local_steps"]) == 6


@pytest.mark.slow
def test_scalars_survive_a_sum() -> None:
    """The mean of the clients' scalars makes the mean of the clients' models."""
    algorithm = make(steps=3)
    run, state, _ = helpers.one_run(algorithm, PEOPLE, PARAMS)
    key = jax.random.fold_in(
        run.init(PARAMS, PEOPLE, key=jax.random.key(0), noise_key=jax.random.key(0)).keys.client, 0
    )
    shared, models = algorithm.broadcast(algorithm.init(PARAMS)), []
    for client in range(4):
        data = fl.client_view(PEOPLE, client, key=jax.random.fold_in(key, client))
        update = algorithm.client_update(shared, (), data, data.key).update
        models.append(flat(kseed_model(PARAMS, -update)))
    want = np.average(models, axis=0, weights=[4, 9, 1, 6])
    assert np.abs(want - flat(PARAMS)).max() > 1e-3
    np.testing.assert_allclose(flat(run.params(state)), want, atol=1e-5)


@pytest.mark.parametrize("server_optimizer", [None, optax.sgd(0.5, momentum=0.9)])
def test_the_model_is_the_first_one_and_the_sums(server_optimizer: Any) -> None:
    _, state, _ = helpers.one_run(
        make(server_optimizer=server_optimizer, seed=3), PEOPLE, PARAMS, num_rounds=8
    )  # fmt: skip
    server = state.server_state
    assert helpers.max_difference(server.params, PARAMS) > 0.01
    rebuilt = jax.jit(lambda sums: kseed_model(PARAMS, sums, seed=3))(server.sums)
    assert helpers.max_difference(rebuilt, server.params) < 1e-5
    want = flat(PARAMS) + np.asarray(server.sums, np.float64) @ pool(PARAMS, 32, seed=3)
    np.testing.assert_allclose(flat(server.params), want, atol=1e-5)


def test_16384_bytes_each_way_whatever_the_model() -> None:
    for num_features in (3, 5000):
        people, params = helpers.regression((2, 3), num_features), helpers.linear_params(num_features)
        run = fl.rounds(make(num_seeds=4096), sampler=fl.sampling.full(2), aggregator=fl.mean())
        weight = 4
        assert tuple(run.traffic(params, people)) == (16384 + weight, 16384)


def test_directions_are_normal_and_their_own() -> None:
    """4,000 entries of a pool by a Kolmogorov-Smirnov test: false alarm 1e-6."""
    params = {"a": jnp.zeros((10,)), "b": jnp.zeros((30,))}
    z = pool(params, 100)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-6
    assert len(np.unique(z)) > 3990
    assert not np.isclose(z, pool(params, 100, seed=1)).any()


@pytest.mark.slow
def test_it_learns() -> None:
    """Of what least squares can gain over the first model, it gains nine tenths in 150 rounds."""
    algorithm = make(client_lr=0.005, num_seeds=256, steps=5, batch_size=10)
    people = helpers.regression((20, 30, 10, 40))
    run = fl.rounds(algorithm, sampler=fl.sampling.full(4), aggregator=fl.weighted_mean(), execution=helpers.ONE)
    state = run.init(helpers.linear_params(), people, key=jax.random.key(0))
    state, _ = run.steps(state, people, 150)
    x, y = (np.asarray(people.features[name], np.float64) for name in "xy")
    x = np.c_[np.ones(len(x)), x]  # "b" comes first
    loss = lambda w: ((x @ w - y) ** 2).mean()  # noqa: E731
    least, first = loss(np.linalg.lstsq(x, y)[0]), loss(np.zeros(4))
    assert loss(flat(run.params(state))) < least + 0.1 * (first - least)


@pytest.mark.whole
def test_clipped_quantized_and_masked_as_any_other_update() -> None:
    chain = fl.chain(fl.weighted_mean(weight_cap=9), fl.clip_by_global_norm(1.0), privacy.secure_sum(bits=20))
    run, masked, _ = helpers.one_run(make(), PEOPLE, PARAMS, aggregator=chain)
    _, plain, _ = helpers.one_run(make(), PEOPLE, PARAMS)
    assert helpers.max_difference(run.params(masked), run.params(plain)) < 1e-3


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="`num_seeds` is 0; expected an int of at least 1"):
        make(num_seeds=0)
    with pytest.raises(ValueError, match="`perturbation` is 0.0; expected a finite number above 0"):
        make(perturbation=0.0)
    with pytest.raises(ValueError, match="`client_lr` is -1; expected a finite number above 0"):
        make(client_lr=-1)
    with pytest.raises(ValueError, match="declared cross_example"):
        make(fl.losses.declare(helpers.linear_loss, cross_example=True), batch_size=None)
    with pytest.raises(ValueError, match=r"`sums` is float32\[0\]; expected float32\[K\], one for each direction"):
        kseed_model(PARAMS, jnp.zeros(0))
    with pytest.raises(ValueError, match=r"`sums` is .*; expected an array \[K\] of real numbers"):
        kseed_model(PARAMS, jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"state that is not trained.*Use a model without such state"):
        make().init(fl.Variables(PARAMS, {"mean": jnp.zeros(3)}))
