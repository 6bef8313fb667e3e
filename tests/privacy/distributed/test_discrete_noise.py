"""Discrete noise: tables that hold the distributions exactly, draws by chi-square, known variances."""

import math

import jax
import numpy as np
import pytest
from scipy import stats

from fedjaxlite.privacy.distributed import discrete_noise as noise

FALSE_ALARM = 1e-4
"""Of each chi-square test, over seeds; the seeds are fixed."""


draw = jax.jit(noise.draw, static_argnums=2)


def probabilities(kind: str, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """(integers, probabilities) by other means: scipy's Skellam, and the definition in float64."""
    k = np.arange(-noise.noise_bound(kind, variance), noise.noise_bound(kind, variance) + 1)
    if kind == "skellam":
        return k, stats.skellam.pmf(k, variance / 2, variance / 2)
    weights = np.exp(-(k.astype(np.float64) ** 2) / (2 * variance))
    return k, weights / weights.sum()


def recovered(kind: str, variance: float) -> dict[int, int]:
    """The probabilities that a table draws, in units of 2^-96, as exact ints."""
    table = noise.noise_table(kind, variance)
    own = [sum(int(word) << (32 * (2 - i)) for i, word in enumerate(row)) for row in np.asarray(table.thresholds)]
    column = 2**96 // len(own)
    drawn: dict[int, int] = {}
    for i, (weight, alias) in enumerate(zip(own, np.asarray(table.alias).tolist(), strict=True)):
        for integer, part in ((int(table.lowest) + i, weight), (alias, column - weight)):
            drawn[integer] = drawn.get(integer, 0) + part
    return drawn


@pytest.mark.parametrize("kind", ["discrete_gaussian", "skellam"])
@pytest.mark.parametrize("variance", [0.25, 7.3, 900.0])
def test_a_table_holds_its_distribution_exactly(kind: str, variance: float) -> None:
    drawn = recovered(kind, variance)
    half = noise.discrete_gaussian_weights(variance) if kind == "discrete_gaussian" else noise.skellam_weights(variance)
    assert half[0] + 2 * sum(half[1:]) == 2**96
    assert {k: w for k, w in drawn.items() if w} == {
        sign * k: w for k, w in enumerate(half) for sign in (-1, 1) if w > 0
    }
    k, p = probabilities(kind, variance)
    np.testing.assert_allclose([drawn.get(int(i), 0) / 2**96 for i in k], p, rtol=1e-9, atol=2**-90)
    assert 2 * sum(p[: len(p) // 2 - len(half) + 1]) < 2**-90  # nothing to speak of lies beyond


@pytest.mark.parametrize(("sigma2", "variance"), [(0.25, 0.21501268), (0.5, 0.49897913), (1.0, 0.99999979), (4.0, 4.0)])
def test_the_variance_of_the_discrete_gaussian(sigma2: float, variance: float) -> None:
    """True variances by summation of the definition; a little below sigma^2 (Canonne, Kamath, Steinke 2020, fact 2)."""
    weights = noise.discrete_gaussian_weights(sigma2)
    assert 2 * sum(k * k * w for k, w in enumerate(weights)) / 2**96 == pytest.approx(variance, abs=5e-9)


@pytest.mark.parametrize("mu", [0.3, 4.0, 250.0])
def test_the_variance_of_skellam(mu: float) -> None:
    weights = noise.skellam_weights(mu)
    assert 2 * sum(k * k * w for k, w in enumerate(weights)) / 2**96 == pytest.approx(mu, rel=1e-12)


def chi_square(draws: np.ndarray, kind: str, variance: float) -> float:
    """The p-value of draws, with cells of fewer than 10 expected draws merged at both ends."""
    k, p = probabilities(kind, variance)
    counts = np.array([(draws == i).sum() for i in k])
    big = p * draws.size >= 10
    first, last = np.flatnonzero(big)[[0, -1]]
    merge = lambda x: np.concatenate([[x[: first + 1].sum()], x[first + 1 : last], [x[last:].sum()]])  # noqa: E731
    expected = merge(p) * draws.size
    return float(stats.chisquare(merge(counts), expected * (draws.size / expected.sum())).pvalue)


@pytest.mark.parametrize("kind", ["discrete_gaussian", "skellam"])
@pytest.mark.parametrize("variance", [0.25, 4.0, 400.0])
def test_draws_have_their_distribution(kind: str, variance: float) -> None:
    draws = np.asarray(draw(noise.noise_table(kind, variance), jax.random.key(11), (500, 400)))
    assert draws.dtype == np.int32
    assert chi_square(draws, kind, variance) > FALSE_ALARM
    assert chi_square(draws, kind, 1.05 * variance) < FALSE_ALARM  # and it would notice
    assert np.abs(draws).max() <= noise.noise_bound(kind, variance)


@pytest.mark.slow
def test_draws_are_independent_and_follow_the_key() -> None:
    """Correlations of 40000 pairs within 5 standard deviations: a false alarm once in 10^6 seeds."""
    table = noise.noise_table("skellam", 50.0)
    a, b = (np.asarray(noise.draw(table, jax.random.key(i), (40_000,)), np.float64) for i in (1, 2))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(4e4)
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 5 / math.sqrt(4e4)
    again = noise.draw(table, jax.random.key(1), (40_000,))
    assert (np.asarray(again) == a).all()
    rows = jax.vmap(lambda key: noise.draw(table, key, (9,)))(jax.random.split(jax.random.key(0), 3))
    assert (rows[2] == noise.draw(table, jax.random.split(jax.random.key(0), 3)[2], (9,))).all()


def test_no_variance_is_no_noise() -> None:
    for kind in ("skellam", "discrete_gaussian"):
        assert not np.asarray(draw(noise.noise_table(kind, 0.0), jax.random.key(0), (100,))).any()
        assert noise.noise_bound(kind, 0.0) == 0


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`kind` is 'laplace'; expected one of 'discrete_gaussian', 'skellam'"):
        noise.noise_table("laplace", 1.0)
    with pytest.raises(ValueError, match="`variance` is -1.0; expected a number of at least 0"):
        noise.noise_table("skellam", -1.0)
    with pytest.raises(ValueError, match="expected one whose noise fits in a table of 1048576 integers. Use a coarser"):
        noise.noise_table("skellam", 1e12)
    with pytest.raises(TypeError, match="`variance` is traced; expected a concrete number"):
        jax.eval_shape(lambda v: noise.noise_table("skellam", v), 1.0)
