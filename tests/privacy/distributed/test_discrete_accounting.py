"""Renyi divergences of discrete noise: the papers' formulas, and divergences summed by hand."""

import math

import numpy as np
import pytest
from scipy import special, stats

from fedjaxlite.privacy.distributed.discrete_accounting import (
    discrete_gaussian_excess,
    discrete_gaussian_rdp,
    rounded_l1_bound,
    skellam_rdp,
)


@pytest.mark.parametrize(
    ("n", "sigma2", "d", "l2", "l1", "tau", "rdp"),
    [
        (100, 1, 250, 10, 10 * math.sqrt(250), 5.477887e-4, [1.01739762, 4.06959047]),
        (100, 0.5, 250, 10, 10 * math.sqrt(250), 0.1657994, [16.28713884, 49.44985783]),
        (100, 4, 250, 10, 100, 7.157e-17, [0.25, 1.0]),
    ],
)
def test_the_discrete_gaussian_of_the_paper(
    n: int, sigma2: float, d: int, l2: float, l1: float, tau: float, rdp: list[float]
) -> None:
    """Kairouz, Liu, Steinke (2021), proposition 14, evaluated with the authors' formulas."""
    assert discrete_gaussian_excess(sigma2, n) == pytest.approx(tau, rel=1e-3)
    found = discrete_gaussian_rdp(l2=l2, l1=l1, local_variance=sigma2, num_clients=n, dim=d)(np.array([2.0, 8.0]))
    assert found.tolist() == pytest.approx(rdp, abs=1e-8)


@pytest.mark.parametrize(
    ("l2", "l1", "mu", "rdp"),
    [
        (10, 100, 1000, [0.100225, 0.400525, 1.601725]),
        (10, 100, 100, [1.0225, 4.0525, 16.1725]),
        (1, 1, 1, [2.5, 5.5, 17.5]),
    ],
)
def test_skellam_of_the_paper(l2: float, l1: float, mu: float, rdp: list[float]) -> None:
    """Agarwal, Kairouz, Liu (2021), evaluated with the authors' formula."""
    assert skellam_rdp(l2=l2, l1=l1, variance=mu)([2, 8, 32]).tolist() == pytest.approx(rdp, abs=1e-9)


def test_epsilon_of_a_round() -> None:
    """n = 100 clients with local variance 4, an L2 sensitivity of 20 in 2^20 dimensions, delta = 1e-5."""
    rdp = pytest.importorskip("dp_accounting").rdp
    orders = np.arange(2, 400)
    l1 = rounded_l1_bound(20.0, 2**20)
    gaussian = discrete_gaussian_rdp(l2=20.0, l1=l1, local_variance=4.0, num_clients=100, dim=2**20)
    skellam = skellam_rdp(l2=20.0, l1=l1, variance=400.0)
    found = [rdp.compute_epsilon(orders, divergence(orders), 1e-5)[0] for divergence in (gaussian, skellam)]
    assert found == pytest.approx([4.75273, 4.76210], rel=2e-3)
    assert found[0] < found[1]


@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize("mu", [2.0, 30.0])
def test_the_formula_covers_the_true_divergence_of_skellam(mu: float, shift: int) -> None:
    """By summation of scipy's probabilities of one entry; for much noise close to it, so that a wrong factor shows."""
    k = np.arange(-200, 201)
    log_p = stats.skellam.logpmf(k, mu / 2, mu / 2)
    log_q = stats.skellam.logpmf(k - shift, mu / 2, mu / 2)
    fine = np.isfinite(log_p) & np.isfinite(log_q)
    for order in (1.5, 2, 5):
        true = special.logsumexp(order * log_p[fine] + (1 - order) * log_q[fine]) / (order - 1)
        bound = skellam_rdp(l2=shift, l1=shift, variance=mu)([order])[0]
        assert true <= bound
        assert mu < 10 or bound < 1.5 * true


def test_the_formula_covers_the_true_divergence_of_summed_discrete_gaussians() -> None:
    """The sum of n = 3 of them by convolution, in a regime where tau counts."""
    k = np.arange(-30, 31)
    one = np.exp(-(k**2) / (2 * 0.6))
    one /= one.sum()
    p = np.convolve(np.convolve(one, one), one)
    for order in (2.0, 4.0):
        q = np.concatenate([[0.0], p[:-1]])  # shifted by one
        fine = (q > 0) & (p > 1e-250)
        true = special.logsumexp(order * np.log(q[fine]) + (1 - order) * np.log(p[fine])) / (order - 1)
        bound = discrete_gaussian_rdp(l2=1.0, l1=1.0, local_variance=0.6, num_clients=3, dim=1)([order])[0]
        assert true <= bound <= true + 1.1 * discrete_gaussian_excess(0.6, 3)


def test_orders_between_integers_get_the_next_one() -> None:
    rdp = skellam_rdp(l2=3.0, l1=5.0, variance=20.0)
    assert rdp([2.5, 3.0]).tolist() == [rdp([3])[0]] * 2


def test_no_noise_costs_everything() -> None:
    assert skellam_rdp(l2=1.0, l1=1.0, variance=0.0)([2.0]).tolist() == [math.inf]
    no_noise = discrete_gaussian_rdp(l2=1.0, l1=1.0, local_variance=0.0, num_clients=4, dim=3)
    assert no_noise([2.0]).tolist() == [math.inf]


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="`orders` holds 1.0; expected Renyi orders above 1"):
        skellam_rdp(l2=1.0, l1=1.0, variance=1.0)([1.0])
    with pytest.raises(ValueError, match="`l2` is -1.0; expected a number of at least 0. It is in grid units"):
        skellam_rdp(l2=-1.0, l1=1.0, variance=1.0)
    with pytest.raises(ValueError, match="`num_clients` is 0"):
        discrete_gaussian_rdp(l2=1.0, l1=1.0, local_variance=1.0, num_clients=0, dim=3)
