"""Example-level DP-SGD on the client: what an example can change, the noise, the draws, and what it costs."""

import math
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.privacy.local.dp_sgd import DPLocalTraining, dp_sgd, dp_sgd_epsilon
from fedjaxlite.privacy.local.per_example import clipped_sum, poisson_batches

PEOPLE, KEY = helpers.regression((4, 40, 1, 6)), jax.random.key(0)
START = {"w": jnp.float32([0.5, -1.0, 0.2]), "b": jnp.float32(0.1)}


def view(people: fl.Population, client: int) -> fl.ClientData:
    return fl.client_view(people, client, key=jax.random.key(0))


def local(loss: Any = helpers.linear_loss, rate_of_sgd: float = 0.1, **options: Any) -> DPLocalTraining:
    defaults = {"rate": 1.0, "expected_batch_size": 4.0, "steps": 2, "clip_norm": 1.0, "noise_multiplier": 1.0}
    return dp_sgd(loss, client_optimizer=optax.sgd(rate_of_sgd), **{**defaults, **options})


def program(train: Any, people: fl.Population = PEOPLE) -> Any:
    """`(client, key, params) -> LocalResult`, compiled once for all clients."""
    one = jax.jit(lambda client, key, params: train(params, fl.client_view(people, client, key=key)))
    return lambda client, key=KEY, params=START: one(client, key, params)


def trained(train: Any, client: int, params: Any = START) -> fl.LocalResult:
    return program(train)(client, params=params)


def test_without_noise_and_clip_it_is_gradient_descent() -> None:
    private = trained(local(noise_multiplier=0.0, clip_norm=math.inf, steps=3), 0)
    plain = trained(fl.local_sgd(helpers.linear_loss, client_optimizer=optax.sgd(0.1), batch_size=None, steps=3), 0)
    for name in START:
        np.testing.assert_allclose(private.params[name], plain.params[name], rtol=1e-5)
        np.testing.assert_allclose(private.delta[name], plain.delta[name], atol=1e-5)
    assert (int(private.num_steps), float(private.metrics["loss"])) == (3, pytest.approx(float(plain.metrics["loss"])))


def test_every_example_counts_for_its_clipped_gradient() -> None:
    every_example_counts({"micro_batch_size": 4, "sizes": "secret"}, {})


@pytest.mark.slow
def test_every_example_counts_for_its_clipped_gradient_whoever_knows_how_many_there_are() -> None:
    every_example_counts({"sizes": "secret"}, {"micro_batch_size": 4})


def every_example_counts(*ways: dict[str, Any]) -> None:
    """One step, by numpy: the gradient of (x w + b - y)^2 of each example, cut to C, over the expected batch size."""
    rows = slice(int(PEOPLE.offsets[3]), int(PEOPLE.offsets[4]))
    x, y = np.asarray(PEOPLE.features["x"])[rows], np.asarray(PEOPLE.features["y"])[rows]
    error = 2 * (x @ np.asarray(START["w"]) + 0.1 - y)
    grads = np.concatenate([error[:, None] * x, error[:, None]], 1)
    norms = np.linalg.norm(grads, axis=1)
    assert (norms > 5.0).any()
    assert (norms < 5.0).any()
    want = (grads * np.minimum(1, 5.0 / norms)[:, None]).sum(0) * 0.1
    options: dict[str, Any] = {"steps": 1, "clip_norm": 5.0, "noise_multiplier": 0.0, "expected_batch_size": 7.0}
    for way in ways:
        with jax.default_matmul_precision("highest"):
            done = trained(local(**options, **way), 3)
        size = 7 if "sizes" in way else 6
        np.testing.assert_allclose([*done.delta["w"], done.delta["b"]], want / size, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0.5, "expected_batch_size": 3.0},
        *(pytest.param(one, marks=pytest.mark.whole) for one in ({"rate": 0.3}, {"expected_batch_size": 3.0})),
    ],
)
def test_steps_are_along_the_mean_gradient_whatever_the_size_of_a_client(options: Any) -> None:
    """The mean of 400 first steps is the client's own gradient, within 5 standard errors; 10^5 seeds a false alarm."""
    train = local(
        steps=1, noise_multiplier=0.0, clip_norm=math.inf, **{"rate": None, "expected_batch_size": None, **options}
    )
    first_step = lambda client, key: train(START, fl.client_view(PEOPLE, client, key=key)).delta["w"]  # noqa: E731
    go = jax.jit(jax.vmap(first_step, in_axes=(None, 0)))
    plain = program(fl.local_sgd(helpers.linear_loss, client_optimizer=optax.sgd(0.1), batch_size=None, steps=1))
    for client in range(4):
        steps = np.asarray(go(client, jax.random.split(jax.random.key(client), 400)))
        whole = plain(client)
        error = 5 * steps.std(0) / 20 + 1e-5
        assert (np.abs(steps.mean(0) - np.asarray(whole.delta["w"])) < error).all(), client


def test_batches_have_the_size_that_was_asked_for() -> None:
    """At most 3 expected of 40 examples, each with the same chance; all of 1, which is fewer."""
    data = view(PEOPLE, 1)
    draw = jax.jit(jax.vmap(poisson_batches(data, 0.5, 1e-6, 3.0)))
    sizes = np.asarray(draw(jax.random.split(jax.random.key(0), 4000))[1]).sum(1)
    assert abs(sizes.mean() - 3.0) < 5 * math.sqrt(3 / 4000)
    _, mask = jax.jit(poisson_batches(view(PEOPLE, 2), 1.0, 1e-6, 3.0))(jax.random.key(0))
    assert np.asarray(mask).sum() == 1
    own = dp_sgd(
        helpers.linear_loss,
        client_optimizer=optax.sgd(0.1),
        expected_batch_size=3.0,
        steps=1,
        clip_norm=1.0,
        noise_multiplier=1.0,
    ).mechanisms[0]
    assert [own.rate_of(n) for n in (1, 3, 6, 300)] == [1.0, 1.0, 0.5, 0.01]


def test_a_client_weighs_its_examples_and_one_without_any_sends_nothing() -> None:
    features = {"x": np.ones((3, 3), np.float32), "y": np.ones(3, np.float32)}
    people = fl.Population(features, np.array([0, 2, 2, 3]), max_size=2)
    results = list(map(program(local(rate=0.5, steps=3), people), range(3)))
    assert [int(result.num_examples) for result in results] == [2, 0, 1]
    assert [int(result.num_steps) for result in results] == [3, 0, 3]
    assert not np.abs(results[1].delta["w"]).any()


def test_an_example_without_a_finite_gradient_counts_as_nothing() -> None:
    gradient = fl.value_and_grad(lambda params, batch, key: params * batch["x"])
    batch = {"x": jnp.float32([1.0, jnp.nan, -3.0, jnp.inf, 2.0])}
    mask = jnp.array([True, True, True, True, False])
    go = jax.jit(lambda *given: clipped_sum(gradient, *given, clip_norm=1.0))
    total, sums = go(jnp.float32(2.0), batch, mask, jax.random.key(0))
    assert float(total) == pytest.approx(1.0 - 1.0, abs=1e-4)
    assert float(sums["weight"]) == 4.0


def test_the_noise_has_the_stated_size_and_is_new_in_every_step() -> None:
    """Without gradients: std = rate z C sqrt(steps) / m, within 5 standard deviations; 10^6 seeds a false alarm."""
    zero = lambda params, batch, key: 0.0 * params.sum() + 0.0 * batch["y"]  # noqa: E731
    start = jnp.zeros((5000,))
    for steps in (1, 4):
        train = local(zero, steps=steps, clip_norm=0.5, noise_multiplier=3.0)
        done = trained(train, 0, start)
        std = 0.1 * 3.0 * 0.5 * math.sqrt(steps) / 4.0
        assert abs(np.var(done.delta) / std**2 - 1) < 5 * math.sqrt(2 / 5000)


def test_leaves_rounds_and_clients_have_noise_of_their_own() -> None:
    zero = lambda params, batch, key: 0.0 * (params["a"].sum() + params["b"].sum()) + 0.0 * batch["y"]  # noqa: E731
    start = {"a": jnp.zeros((3000,)), "b": jnp.zeros((3000,))}
    go = program(local(zero, steps=1))
    one, two = (go(0, jax.random.key(seed), start).delta for seed in (0, 1))
    for a, b in ((one["a"], one["b"]), (one["a"], two["a"])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(3000)  # a false alarm once in 10^6 seeds


def test_nobody_can_tell_how_many_examples_a_client_has() -> None:
    """A client without any takes all steps and adds its noise; the weight is the same for all."""
    features = {"x": np.ones((3, 3), np.float32), "y": np.ones(3, np.float32)}
    people = fl.Population(features, np.array([0, 2, 2, 3]), max_size=2)
    assert np.asarray(people.num_examples).tolist() == [2, 0, 1]
    train = local(steps=3, rate=0.5, expected_batch_size=4.0, sizes="secret")
    results = list(map(program(train, people), range(3)))
    assert [int(result.num_steps) for result in results] == [3, 3, 3]
    assert [int(result.num_examples) for result in results] == [8, 8, 8]
    assert np.abs(results[1].delta["w"]).min() > 0
    assert float(results[1].metrics["loss"]) == 0.0


def test_batches_hold_each_example_with_the_same_chance() -> None:
    """Of 4000 draws, 40 examples: counts within 5 standard deviations of binomial ones, and no pair goes together."""
    data = view(PEOPLE, 1)
    draw = poisson_batches(data, 0.1, 1e-6)
    batches, masks = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000))
    y = np.asarray(PEOPLE.features["y"])[4:44]
    got = np.asarray(batches["y"])
    inside = (got[:, :, None] == y) & np.asarray(masks)[:, :, None]
    assert inside.sum(2)[np.asarray(masks)].min() == 1  # only the client's own rows
    present = inside.any(1)
    assert present.sum() == np.asarray(masks).sum()  # none twice
    assert (np.abs(present.sum(0) - 400) < 5 * math.sqrt(4000 * 0.1 * 0.9)).all()
    pairs = np.corrcoef(present.T.astype(np.float64))
    assert np.abs(pairs[~np.eye(40, dtype=bool)]).max() < 5 / math.sqrt(4000)
    assert masks.shape[1] == fl.sampling.poisson_capacity(41, 0.1, 1e-6) < 40


def test_a_batch_that_is_too_small_leaves_examples_out() -> None:
    batch, mask = jax.eval_shape(poisson_batches(view(PEOPLE, 1), 0.5, 1.0), jax.random.key(0))
    assert mask.shape == batch["y"].shape == (fl.sampling.poisson_capacity(41, 0.5, 1.0),)


def test_full_rate_holds_everybody() -> None:
    batch, mask = jax.jit(poisson_batches(view(PEOPLE, 3), 1.0, 1e-6))(jax.random.key(0))
    assert np.asarray(mask).sum() == 6
    assert np.asarray(batch["y"])[:6].tolist() == np.asarray(PEOPLE.features["y"])[45:51].tolist()


def test_gradients_can_be_corrected_after_the_noise() -> None:
    zero = lambda params, batch, key: 0.0 * params.sum() + 0.0 * batch["y"]  # noqa: E731
    train = local(zero, noise_multiplier=0.0, steps=2)
    corrected = lambda params, data: train(params, data, lambda grads, params: grads + params)  # noqa: E731
    result = trained(corrected, 0, jnp.ones((3,)))
    np.testing.assert_allclose(result.params, 0.9**2, rtol=1e-6)


@pytest.mark.parametrize(
    ("rate", "z", "steps", "delta", "prv"),
    [(0.001, 0.8, 100, 1e-6, 0.270403364), (0.05, 1.5, 100, 1e-6, 1.953853136)],
)
def test_epsilon_of_all_steps(rate: float, z: float, steps: int, delta: float, prv: float) -> None:
    """Values of Opacus's test of its PRV accountant, an upper estimate about 0.0101 above privacy loss distributions."""
    pytest.importorskip("dp_accounting")
    train = local(rate=rate, noise_multiplier=z, steps=steps // 4)
    assert prv - 0.012 <= dp_sgd_epsilon(train, participations=4, delta=delta) <= prv


def test_epsilon_without_noise_or_with_overflow() -> None:
    pytest.importorskip("dp_accounting")
    assert dp_sgd_epsilon(local(noise_multiplier=0.0), participations=1, delta=1e-5) == math.inf
    with pytest.raises(ValueError, match=r"batches that overflow in 2 steps cost more than a hundredth of delta=1e-05"):
        dp_sgd_epsilon(local(rate=0.5, max_overflow=1e-6), participations=1, delta=1e-5)
    with pytest.raises(TypeError, match="`train` is a function; expected what privacy.dp_sgd"):
        dp_sgd_epsilon(helpers.linear_loss, participations=1, delta=1e-5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`participations` is 0"):
        dp_sgd_epsilon(local(), participations=0, delta=1e-5)


def test_in_rounds_of_federated_averaging() -> None:
    """Lanes and empty lanes beside: the same numbers for one lane and for three."""
    algorithm = algorithms.fed_avg_of(local(rate=0.5, steps=2, noise_multiplier=0.5))
    found = []
    for lanes in (1, 3):
        run, state, info = helpers.one_run(algorithm, PEOPLE, START, execution=fl.Execution(lanes=lanes, devices=1))
        found.append(run.params(state))
        assert info.clients["local_steps"].tolist() == [2, 2, 2, 2]
    for name in START:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"rate": 0.0}, ValueError, r"`rate` is 0.0; expected a number in \(0, 1\]. It is the chance of each example"),
        ({"rate": 1e-12}, ValueError, r"`rate` is 1e-12; expected at least 2\^-32"),
        ({"rate": None, "expected_batch_size": None}, ValueError, "neither `rate` nor `expected_batch_size` was given"),
        (
            {"rate": None, "sizes": "secret"},
            ValueError,
            "`sizes` is 'secret' and `rate` was not given; expected both, since neither may follow from a client's",
        ),
        ({"sizes": "hidden"}, ValueError, "`sizes` is 'hidden'; expected one of 'public', 'secret'"),
        ({"steps": 0}, ValueError, "`steps` is 0; expected an int of at least 1"),
        ({"expected_batch_size": 0}, ValueError, "`expected_batch_size` is 0; expected a finite number above 0"),
        ({"noise_multiplier": -1.0}, ValueError, "`noise_multiplier` is -1.0; expected a number of at least 0"),
        ({"clip_norm": 0.0}, ValueError, "`clip_norm` is 0; expected a number above 0"),
        (
            {"clip_norm": math.inf},
            ValueError,
            "`clip_norm` is infinite with noise_multiplier=1.0: noise without a clip",
        ),
        ({"max_overflow": 0.0}, ValueError, r"`max_overflow` is 0.0; expected a number in \(0, 1\]"),
        ({"micro_batch_size": 0}, ValueError, "`micro_batch_size` is 0"),
    ],
)
def test_bad_arguments_are_refused(options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        local(**options)


def test_losses_that_tie_examples_together_are_refused() -> None:
    tied = fl.losses.declare(helpers.linear_loss, cross_example=True)
    with pytest.raises(ValueError, match="the loss is declared cross_example: .* clipping protects none. Use a model"):
        local(tied)
    state = lambda params, batch, key: (batch["y"], fl.LossAux(state={"m": batch["y"].mean()}))  # noqa: E731
    with pytest.raises(ValueError, match="the loss gives a state .* sent without noise"):
        local(state)(START, view(PEOPLE, 0))
