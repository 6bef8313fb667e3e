"""PrivUnit: its exact privacy ratio, its mean, and the distributions it draws from."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import some_often
from scipy import integrate, special, stats

import fedjaxlite as fl
from fedjaxlite import testing
from fedjaxlite.privacy.local.priv_unit import (
    _cap,
    _inside,
    _outside,
    best_cap,
    exponential_rate,
    levels,
    priv_unit,
    random_direction,
    random_level,
)

FALSE_ALARM = 1e-4
"""Of each Kolmogorov-Smirnov test, over seeds; the seeds are fixed."""
CASES = [(3, 1.0), (10, 4.0), (100, 8.0), (100_000, 16.0)]


@pytest.mark.parametrize(("dim", "epsilon"), CASES)
def test_the_ratio_of_densities_is_within_epsilon_and_near_it(dim: int, epsilon: float) -> None:
    """The cap's share of the sphere by integration of (1 - t^2)^((d-3)/2), independently of beta functions."""
    cap = best_cap(dim, epsilon)
    density = lambda t: np.exp((dim - 3) / 2 * np.log1p(-t * t))  # noqa: E731
    far = min(1.0, cap.gamma + 20 / math.sqrt(dim))
    inside = integrate.quad(density, cap.gamma, far, epsabs=0, epsrel=1e-10)[0]
    whole = 2 * integrate.quad(density, 0, min(1.0, 40 / math.sqrt(dim)), epsabs=0, epsrel=1e-10)[0]
    share = inside / whole
    assert cap.cap == pytest.approx(share, rel=1e-5)
    ratio = math.log(cap.keep / share) - math.log((1 - cap.keep) / (1 - share))
    assert epsilon - 1e-3 < ratio <= epsilon + 1e-5
    assert cap.epsilon <= epsilon


@pytest.mark.parametrize(("dim", "epsilon"), [(3, 1.0), (10, 4.0), (40, 8.0)])
def test_the_mean_is_the_paper_s_normalization(dim: int, epsilon: float) -> None:
    """m of Bhowmick et al. (2018), equation 17, with unnormalized incomplete beta functions."""
    cap = best_cap(dim, epsilon)
    alpha, tau = (dim - 1) / 2, (1 + cap.gamma) / 2
    whole = special.beta(alpha, alpha)
    lower = special.betainc(alpha, alpha, tau) * whole
    scale = (1 - cap.gamma**2) ** alpha / (2 ** (dim - 2) * (dim - 1))
    assert cap.mean == pytest.approx(scale * (cap.keep / (whole - lower) - (1 - cap.keep) / lower), rel=1e-5)


def test_no_other_split_of_epsilon_does_better() -> None:
    """A finer search of the split finds a mean that is larger by less than a thousandth."""
    caps = [_cap(50, 6.0, share) for share in np.linspace(0, 6.0, 1001).tolist()]
    finer = max(cap.mean for cap in caps if cap is not None)
    assert best_cap(50, 6.0).mean == pytest.approx(finer, rel=1e-3)


@pytest.mark.parametrize(("dim", "epsilon"), some_often(CASES, 4))
def test_inner_products_are_those_of_uniform_points(dim: int, epsilon: float) -> None:
    """Inside of the cap and outside, against the exact distribution functions."""
    cap = best_cap(dim, epsilon)
    keys = jax.random.split(jax.random.key(1), 2000)
    alpha = (dim - 1) / 2
    below = lambda t: special.betainc(alpha, alpha, (1 + t) / 2)  # noqa: E731
    above = lambda t: special.betainc(alpha, alpha, (1 - t) / 2)  # noqa: E731
    both = jax.jit(jax.vmap(lambda key: (_inside(cap, key), _outside(cap, key))))(keys)
    inside, outside = (np.asarray(drawn, np.float64) for drawn in both)
    assert inside.min() >= cap.gamma > outside.max()
    assert stats.kstest(1 - above(inside) / cap.cap, "uniform").pvalue > FALSE_ALARM
    assert stats.kstest(below(outside) / (1 - cap.cap), "uniform").pvalue > FALSE_ALARM


def test_candidates_pass_often_enough() -> None:
    """The acceptance rate of the rejection step by integration, over dimensions and caps."""
    for dim in (3, 4, 10, 1000, 10**6):
        for epsilon in (0.5, 2.0, 8.0, 30.0):
            cap = best_cap(dim, epsilon)
            a, rate = (dim - 3) / 2, exponential_rate(dim, cap.gamma)
            t = cap.gamma + np.linspace(0, min(1 - cap.gamma, 60 / rate), 200_001)[:-1]
            log_f = a * np.log1p(-t * t) if a else np.zeros_like(t)
            log_ratio = log_f + rate * (t - cap.gamma)
            accepted = integrate.trapezoid(np.exp(log_f - log_ratio.max()), t) * rate
            assert 0.3 < accepted <= 1.001, (dim, epsilon, accepted)


def test_directions_are_unit_vectors_of_the_stated_mean() -> None:
    """Four standard errors of every entry of a mean of 4000: a false alarm once in 1000 seeds."""
    cap = best_cap(8, 3.0)
    unit = jnp.float32([0.6, -0.8, 0, 0, 0, 0, 0, 0])
    drawn = np.asarray(
        jax.jit(jax.vmap(lambda key: random_direction(cap, unit, key)))(jax.random.split(jax.random.key(0), 4000))
    )
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-5)
    assert (np.abs(drawn.mean(0) - cap.mean * np.asarray(unit)) < 4 * drawn.std(0) / math.sqrt(4000)).all()


@pytest.mark.parametrize("epsilon", [0.3, 2.0, 6.0, 12.0])
def test_levels_are_unbiased_and_private_by_enumeration(epsilon: float) -> None:
    spec = levels(epsilon)
    other = spec.miss / 2**32 / spec.top
    keep = 1 - spec.miss / 2**32
    assert math.log(keep / other) == pytest.approx(spec.epsilon)
    assert epsilon - 1e-3 < spec.epsilon <= epsilon
    for own in range(spec.top + 1):
        probabilities = np.full(spec.top + 1, other)
        probabilities[own] = keep
        mean = (probabilities * spec.estimate(np.arange(spec.top + 1))).sum()
        assert mean == pytest.approx(own / spec.top, abs=1e-9)


def test_drawn_levels_have_these_probabilities() -> None:
    """Four standard errors of a mean of 4000, for numbers on and between levels."""
    spec = levels(3.0)
    draw = jax.jit(jax.vmap(lambda share, key: random_level(spec, share, key), in_axes=(None, 0)))
    for share in (0.0, 0.4, 1.0):
        drawn = np.asarray(draw(jnp.float32(share), jax.random.split(jax.random.key(2), 4000)))
        assert abs(drawn.mean() - share) < 4 * drawn.std() / math.sqrt(4000)
        possible = spec.estimate(np.arange(spec.top + 1))
        assert np.abs(drawn[:, None] - possible[None, :]).min(1).max() < 1e-5


def wire(template: Any, **facts: Any) -> fl.Wire:
    return fl.Wire(jax.eval_shape(lambda: template), jax.ShapeDtypeStruct((), jnp.int32), {}, {}, capacity=8)._replace(
        **facts
    )


def reports(codec: fl.Aggregator, updates: Any, count: int) -> Any:
    """`count` reports of each of the updates, which have a leading axis; from clients whose updates were not finite."""
    chain = fl.chain(fl.mean(), codec)
    template = jax.tree.map(lambda leaf: leaf[0], updates)
    state, _ = chain.init(wire(template))

    def one(update: Any, key: jax.Array) -> fl.Message:
        info = fl.ClientInfo(jnp.int32(0), jnp.float32(0.0), jax.random.key(9), jnp.bool_(True), 0, key)
        return chain.encode(state, chain.init_client(update), fl.Message(update, jnp.int32(3), {}), info)[0]

    keys = jax.random.split(jax.random.key(4), count)
    return jax.jit(jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None)))(updates, keys)


def test_a_report_is_the_clipped_update_on_average() -> None:
    """Four standard errors of each of 18 means: a false alarm once in 800 seeds. Long, short and no updates."""
    scales = np.float32([10.0, 0.3, 0.0])
    update = np.float32([1, 0, -2, 2, 0, 0])
    updates = scales[:, None] * update
    tree = {"a": jnp.asarray(updates[:, :3]), "b": jnp.asarray(updates[:, 3:].reshape(3, 1, 3))}
    found = reports(priv_unit(clip_norm=2.0, epsilon=10.0), tree, 4000)
    flat = np.concatenate([np.asarray(leaf).reshape(3, 4000, 3) for leaf in jax.tree.leaves(found.value)], 2)
    want = updates * np.minimum(1.0, 2.0 / np.maximum(np.linalg.norm(updates, axis=1, keepdims=True), 1e-9))
    assert (np.abs(flat.mean(1) - want) < 4 * flat.std(1) / math.sqrt(4000)).all()
    assert (np.asarray(found.weight) == 1).all()


def test_the_budget_is_split_and_reports_are_bounded() -> None:
    chain = fl.chain(fl.mean(), priv_unit(clip_norm=2.0, epsilon=10.0, norm_share=0.3))
    _, end = chain.init(wire({"x": jnp.zeros((20,))}))
    assert end.mechanisms[0].options == {"epsilon": 10.0, "delta": 0.0}
    assert best_cap(20, 7.0).epsilon + levels(3.0).epsilon <= 10.0
    found = reports(priv_unit(clip_norm=2.0, epsilon=10.0, norm_share=0.3), {"x": jnp.ones((1, 20))}, 500)
    norms = np.linalg.norm(np.asarray(found.value["x"][0]), axis=1)
    assert norms.max() <= float(end.bounds.l2) * (1 + 1e-5)
    fl.chain(fl.mean(), priv_unit(clip_norm=2.0, epsilon=10.0), fl.quantize(bits=8)).init(wire({"x": jnp.zeros((20,))}))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"clip_norm": -1.0}, ValueError, "`clip_norm` is -1.0; expected"),
        ({"epsilon": 0.0}, ValueError, "`epsilon` is 0.0; expected a finite number above 0"),
        ({"epsilon": math.inf}, ValueError, "`epsilon` is inf; expected a finite number above 0"),
        ({"norm_share": 1.0}, ValueError, r"`norm_share` is 1.0; expected a number in \(0, 1\)"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        priv_unit(**{"clip_norm": 1.0, "epsilon": 1.0, **arguments})


@pytest.mark.whole
def test_the_laws_of_codecs() -> None:
    testing.check_aggregator(fl.chain(fl.mean(), priv_unit(clip_norm=1.0, epsilon=4.0)), jnp.zeros((4,)), laws=[])


def test_updates_that_it_cannot_take_are_refused() -> None:
    chain = fl.chain(fl.mean(), priv_unit(clip_norm=1.0, epsilon=1.0))
    with pytest.raises(ValueError, match="`priv_unit` needs an update of at least 3 entries, got 2"):
        chain.init(wire({"x": jnp.zeros((2,))}))
    scalars = {"s": jax.ShapeDtypeStruct((), jnp.float32)}
    with pytest.raises(ValueError, match=r"`priv_unit` has no epsilon for scalars, and the algorithm sends \['s'\]"):
        chain.init(wire({"x": jnp.zeros((5,))}, scalars=scalars, scalar_bounds={"s": 1.0}))
    with pytest.raises(ValueError, match="`priv_unit` noises updates and not weights"):
        fl.chain(fl.weighted_mean(), priv_unit(clip_norm=1.0, epsilon=1.0)).init(wire({"x": jnp.zeros((5,))}))
    with pytest.raises(TypeError, match="`epsilon` is traced; expected a concrete number"):
        jax.eval_shape(lambda e: priv_unit(clip_norm=1.0, epsilon=e) and e, 1.0)
