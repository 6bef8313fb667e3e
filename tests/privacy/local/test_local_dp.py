"""Local noise: its size by the analytic Gaussian and Laplace's mechanism, on the client, whoever the client is."""

import math
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import fedjaxlite as fl
from fedjaxlite import testing
from fedjaxlite.privacy.local.local_dp import local_gaussian, local_laplace

FALSE_ALARM = 1e-4
"""Of each Kolmogorov-Smirnov test, over seeds; the seeds are fixed."""


def wire(template: Any, *, scalars: Any = None, **facts: Any) -> fl.Wire:
    bounds = dict(scalars or {})
    structs = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in bounds}
    facts = {"capacity": 8, **facts}
    return fl.Wire(jax.eval_shape(lambda: template), jax.ShapeDtypeStruct((), jnp.int32), structs, bounds, **facts)


def report(codec: fl.Aggregator, update: Any, seed: int = 0, scalars: Any = None, weight: float = 1.0) -> fl.Message:
    """What one client sends."""
    chain = fl.chain(fl.mean(), codec)
    state, _ = chain.init(wire(update, scalars=dict.fromkeys(scalars or {}, 2.0)))
    info = fl.ClientInfo(jnp.int32(0), jnp.float32(weight), jax.random.key(9), jnp.bool_(True), 0, jax.random.key(seed))
    message = fl.Message(update, jnp.int32(3), scalars or {})
    return jax.jit(chain.encode)(state, chain.init_client(update), message, info)[0]


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-5), (8.0, 1e-5)])
def test_the_gaussian_noise_has_the_size_that_the_guarantee_needs(epsilon: float, delta: float) -> None:
    """The exact epsilon of its standard deviation for a change of 2 C, by another function of the accountant."""
    dp = pytest.importorskip("dp_accounting")
    codec = local_gaussian(clip_norm=0.25, epsilon=epsilon, delta=delta)
    _, end = fl.chain(fl.mean(), codec).init(wire({"x": jnp.zeros((3,))}))
    (mechanism,) = end.mechanisms
    (release,) = mechanism.releases
    assert release.sensitivity == 0.5
    assert dp.get_epsilon_gaussian(release.std / 0.5, delta) == pytest.approx(epsilon, rel=1e-6)
    assert (mechanism.kind, mechanism.options) == ("local_gaussian", {"epsilon": epsilon, "delta": delta})
    noise = np.asarray(report(codec, {"x": jnp.zeros((20_000,))}).value["x"])
    assert stats.kstest(noise / release.std, "norm").pvalue > FALSE_ALARM
    assert stats.kstest(noise / release.std / 1.1, "norm").pvalue < FALSE_ALARM  # and it would notice


def test_the_laplace_noise_has_the_size_that_the_guarantee_needs() -> None:
    codec = local_laplace(clip_norm=0.25, epsilon=2.0)
    noise = np.asarray(report(codec, {"x": jnp.zeros((20_000,))}).value["x"])
    assert stats.kstest(noise, "laplace", args=(0, 2 * 0.25 / 2.0)).pvalue > FALSE_ALARM
    assert stats.kstest(noise, "laplace", args=(0, 0.25 / 2.0)).pvalue < FALSE_ALARM
    _, end = fl.chain(fl.mean(), codec).init(wire({"x": jnp.zeros((3,))}))
    assert end.mechanisms[0].options == {"epsilon": 2.0, "delta": 0.0}
    assert end.mechanisms[0].releases[0].std == pytest.approx(math.sqrt(2) * 0.25)


def test_updates_are_clipped_before_the_noise() -> None:
    free = {"epsilon": math.inf}
    update = {"x": jnp.float32([3.0, -4.0, 0.0])}
    two = report(local_gaussian(clip_norm=1.0, delta=1e-5, **free), update)
    one = report(local_laplace(clip_norm=1.0, **free), update)
    np.testing.assert_allclose(two.value["x"], [0.6, -0.8, 0.0], rtol=1e-4)
    np.testing.assert_allclose(one.value["x"], [3 / 7, -4 / 7, 0.0], rtol=1e-4)
    short = {"x": jnp.float32([0.1, 0.2, 0.0])}
    assert (report(local_laplace(clip_norm=1.0, **free), short).value["x"] == short["x"]).all()


def test_scalars_are_noised_with_the_update() -> None:
    codec = local_laplace(clip_norm=1.0, epsilon=1e6)
    found = report(codec, {"x": jnp.zeros((2,))}, scalars={"s": jnp.float32(5.0), "t": jnp.float32(jnp.nan)})
    assert abs(float(found.scalars["s"]) - 2.0) < 1e-3  # clipped to its bound
    assert abs(float(found.scalars["t"])) < 1e-3
    _, end = fl.chain(fl.mean(), codec).init(wire({"x": jnp.zeros((2,))}, scalars={"s": 2.0, "t": 4.0}))
    stds = [release.std * 1e6 for release in end.mechanisms[0].releases]
    assert stds == pytest.approx([math.sqrt(2) * 6, math.sqrt(2) * 12, math.sqrt(2) * 24])


def test_a_client_without_a_finite_update_cannot_be_told() -> None:
    found = report(local_gaussian(clip_norm=1.0, epsilon=1.0, delta=1e-5), {"x": jnp.zeros((50,))}, weight=0.0)
    assert float(found.weight) == 1.0
    assert np.abs(found.value["x"]).max() > 1.0


def test_noise_follows_the_noise_key_alone() -> None:
    codec = local_gaussian(clip_norm=1.0, epsilon=1.0, delta=1e-5)
    a, b = (np.asarray(report(codec, {"x": jnp.zeros((2000,))}, seed).value["x"]) for seed in (1, 2))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(2000)  # a false alarm once in 10^6 seeds
    tree = report(codec, {"a": jnp.zeros((2000,)), "b": jnp.zeros((2000,))}, 3).value
    assert abs(np.corrcoef(tree["a"], tree["b"])[0, 1]) < 5 / math.sqrt(2000)


def test_what_leaves_has_no_bound() -> None:
    chain = fl.chain(fl.mean(), local_laplace(clip_norm=1.0, epsilon=1.0))
    _, end = chain.init(wire({"x": jnp.zeros((2,), jnp.bfloat16)}))
    assert (end.bounds.l2, end.bounds.linf, end.noised, end.value["x"].dtype) == (None, None, True, jnp.float32)


def test_the_mean_of_rounds_is_near_the_truth() -> None:
    """60 clients, noise of standard deviation 0.06 in the mean; five of them: a false alarm once in 10^6 seeds."""
    people = helpers.one_value_each([0.5] * 60)
    codec = local_laplace(clip_norm=3.0, epsilon=18.0)
    algorithm = helpers.sender(lambda data: {"x": jnp.stack([helpers.first_value(data)] * 3)})
    start = {"x": jnp.zeros((3,))}
    run, state, _ = helpers.one_run(algorithm, people, start, aggregator=fl.chain(fl.mean(), codec))
    std = math.sqrt(2 / 60) * 2 * 3.0 / 18.0
    error = np.abs(np.asarray(run.params(state)["x"]) - 0.5)
    assert (error < 5 * std).all()
    assert (error > 0).all()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: local_gaussian(clip_norm=0, epsilon=1.0, delta=1e-5), ValueError, "`clip_norm` is 0; expected"),
        (
            lambda: local_gaussian(clip_norm=1.0, epsilon=0.0, delta=1e-5),
            ValueError,
            "`epsilon` is 0; expected a number",
        ),
        (lambda: local_gaussian(clip_norm=1.0, epsilon=-1, delta=1e-5), ValueError, "`epsilon` is -1; expected"),
        (lambda: local_gaussian(clip_norm=1.0, epsilon=1.0, delta=0), ValueError, "`delta` is 0; expected"),
        (
            lambda: local_gaussian(clip_norm=1.0, epsilon=1.0, delta=1),
            ValueError,
            r"`delta` is 1; expected .* \(0, 1\)",
        ),
        (lambda: local_laplace(clip_norm=math.inf, epsilon=1.0), ValueError, "`clip_norm` is inf; expected a finite"),
        (lambda: local_laplace(clip_norm=1.0, epsilon="1"), TypeError, "`epsilon` is '1'; expected"),
    ],
)
def test_bad_arguments_are_refused(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    ("chain", "facts", "text"),
    [
        ((fl.weighted_mean(),), {}, "`local_laplace` noises updates and not weights"),
        ((fl.mean(),), {"scaled": True}, "`local_laplace` noises updates and not weights"),
        ((fl.mean(), fl.clip_by_global_norm(1.0), fl.quantize(bits=8)), {}, "`local_laplace` clips floats"),
        ((fl.mean(), local_laplace(clip_norm=1.0, epsilon=1.0)), {}, "`local_laplace` is the second mechanism"),
    ],
)
def test_chains_that_give_clients_away_are_refused(chain: Any, facts: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fl.chain(*chain, local_laplace(clip_norm=1.0, epsilon=1.0)).init(wire({"x": jnp.zeros((2,))}, **facts))


def test_the_laws_of_codecs() -> None:
    testing.check_aggregator(fl.chain(fl.mean(), local_laplace(clip_norm=1.0, epsilon=1.0)), jnp.zeros((4,)), laws=[])


def test_quantization_of_unbounded_noise_is_refused() -> None:
    chain = fl.chain(fl.mean(), local_laplace(clip_norm=1.0, epsilon=1.0), fl.quantize(bits=8))
    with pytest.raises(ValueError, match="`quantize` needs a bound on the entries"):
        chain.init(wire({"x": jnp.zeros((2,))}))
