"""Epsilon against published figures: each with its source, and with the tolerance that its digits and method allow.

Figures by privacy loss distributions of other libraries ("PRV") are upper estimates up to 0.0101 above ours, which is
their stated error of 0.01; figures by Rényi divergences depend on the grid of orders.
"""

import math

import numpy as np
import pytest

from fedjaxlite.privacy.accounting import (
    composed_epsilon,
    gaussian_delta,
    gaussian_epsilon,
    rdp_epsilon,
    zcdp_epsilon,
)
from fedjaxlite.privacy.accounting.backend import gaussian_sigma, renyi, silent

OPACUS = "Opacus, accountants_test.py"
JAX_PRIVACY = "jax_privacy, docstring of its accounting"
DP_ACCOUNTING = "dp_accounting 0.6.0"
TUTORIAL = "TensorFlow Privacy, MNIST tutorial: n = 60000, batch 256, T = ceil(epochs n / 256)"
slow = pytest.mark.slow


def by(method: str, rate: float, noise: float, rounds: int, delta: float, **options) -> float:
    return gaussian_epsilon(noise_multiplier=noise, rate=rate, num_rounds=rounds, delta=delta, method=method, **options)


@pytest.mark.parametrize(
    ("rate", "noise", "rounds", "delta", "want", "tolerance", "source"),
    [
        (0.04, 1.5, 2250, 1e-5, 7.32911117143, 2e-3, OPACUS),
        (0.04, 1.5, 2250, 1e-5, 7.329335, 1e-6, DP_ACCOUNTING),
        (0.1, 3.0, 512, 1e-6, 4.050970, 1e-6, DP_ACCOUNTING),
        (1.0, 4.530877117, 1, 1e-6, 1.0, 2e-3, "dp_accounting, rdp_privacy_accountant_test.py"),
        (1.0, 1.0, 1, 1e-5, 4.728507, 1e-6, DP_ACCOUNTING),
        (0.04, 1.3562, 2000, 1e-5, 8.0, 2e-4, OPACUS),
        (0.01, 4.0, 10000, 1e-5, 1.035490, 1e-5, DP_ACCOUNTING),
        (5000 / 763430, 1.0, 4120, 1e-9, 3.855885, 1e-6, DP_ACCOUNTING),
        (256 / 60000, 1.1, 3515, 1e-5, 1.281144, 1e-6, DP_ACCOUNTING),
        (256 / 60000, 1.1, 14063, 1e-5, 2.5967, 3e-5, TUTORIAL),
        (256 / 60000, 1.3, 3516, 1e-5, 0.9546, 6e-5, TUTORIAL),
        (256 / 60000, 0.7, 10547, 1e-5, 6.3197, 2e-5, TUTORIAL),
        (1e-3, 0.7138, 1500, 1e-6, 2.0, 1e-3, "pfl-research CIFAR10, noise cohort 1000 of 1e6, epsilon 2"),
        (1e-3, 0.7248, 3000, 1e-6, 2.0, 1e-3, "pfl-research CIFAR10, noise cohort 1000 of 1e6, epsilon 2"),
        (0.01, 1.0, 8, 1e-6, 1.297277, 1e-6, "banded matrix, 16 bands over 128 rounds: 8 compositions"),
        (1.0, 1.13 / math.sqrt(11), 1, 1e-6, 18.709610, 1e-6, "a tree over 1600 rounds, one participation"),
        (1.0, 8.83 / math.sqrt(11), 1, 1e-6, 1.773192, 1e-6, "a tree over 1600 rounds, one participation"),
        (1.0, 2.33 / math.sqrt(11), 1, 1e-6, 7.825, 1e-4, "a tree over 1600 rounds, one participation"),
        (1.0, 4.03 / math.sqrt(11), 1, 1e-6, 4.194, 2e-4, "a tree over 1600 rounds, one participation"),
        (1.0, 6.83 / math.sqrt(11), 1, 1e-6, 2.343, 3e-4, "a tree over 1600 rounds, one participation"),
    ],
)
def test_epsilon_by_renyi_divergences(rate, noise, rounds, delta, want, tolerance, source) -> None:
    assert by("rdp", rate, noise, rounds, delta) == pytest.approx(want, rel=tolerance), source


@pytest.mark.parametrize(
    ("rate", "noise", "rounds", "delta", "want", "tolerance", "source"),
    [
        (0.04, 1.5, 2250, 1e-5, 6.768787, 1e-5, DP_ACCOUNTING),
        (0.1, 3.0, 512, 1e-6, 3.769687, 1e-5, DP_ACCOUNTING),
        (0.1, 3.0, 512, 1e-6, 3.77, 1e-3, JAX_PRIVACY),
        (0.1, 9.66, 512, 1e-6, 1.00021, 1e-5, JAX_PRIVACY),
        (0.1, 3.0, 155, 1e-6, 1.99626, 1e-5, JAX_PRIVACY),
        (0.1, 3.0, 156, 1e-6, 2.00294, 1e-5, JAX_PRIVACY),
        pytest.param(0.04, 1.290023, 2000, 1e-5, 8.0, 1e-4, "Opacus: z = 1.2915 by PRV", marks=slow),
        pytest.param(0.01, 4.0, 10000, 1e-5, 0.946999, 1e-5, "at most 1.26, Abadi et al. (2016)", marks=slow),
        pytest.param(5000 / 763430, 1.0, 4120, 1e-9, 3.55377, 1e-5, DP_ACCOUNTING, marks=slow),
        pytest.param(256 / 60000, 1.1, 3515, 1e-5, 1.133745, 1e-5, DP_ACCOUNTING, marks=slow),
        pytest.param(256 / 60000, 1.1, 14063, 1e-5, 2.3818, 3e-5, TUTORIAL, marks=slow),
        pytest.param(256 / 60000, 1.3, 3516, 1e-5, 0.8646, 1e-4, TUTORIAL, marks=slow),
        pytest.param(256 / 60000, 0.7, 10547, 1e-5, 5.6397, 2e-5, TUTORIAL, marks=slow),
        pytest.param(1e-3, 0.6162, 1500, 1e-6, 2.0, 1e-3, "pfl-research CIFAR10, 1000 of 1e6", marks=slow),
        pytest.param(1e-3, 0.6329, 3000, 1e-6, 2.0, 1e-3, "pfl-research CIFAR10, likewise", marks=slow),
        (0.01, 1.0, 8, 1e-6, 0.566819, 1e-5, "banded matrix, 16 bands over 128 rounds: 8 compositions"),
        pytest.param(1e-3, 1.0, 10**4, 1e5**-1.1, 0.5167, 2e-4, DP_ACCOUNTING, marks=slow),
        (1.0, 1.0, 1, 1e-5, 4.377178, 1e-6, "Balle, Wang (2018), exact"),
        (1.0, 20.0, 400, 1e-5, 4.37718, 1e-6, "Balle, Wang (2018), exact: rounds of a Gaussian are one"),
        (1.0, 4.224679, 1, 1e-6, 1.0, 1e-6, "Balle, Wang (2018), exact"),
    ],
)
def test_epsilon_by_loss_distributions(rate, noise, rounds, delta, want, tolerance, source) -> None:
    assert by("pld", rate, noise, rounds, delta) == pytest.approx(want, rel=tolerance), source


@pytest.mark.parametrize(
    ("rate", "noise", "rounds", "delta", "prv"),
    [
        (0.04, 1.5, 2250, 1e-5, 6.777395712),
        (0.001, 0.8, 100, 1e-6, 0.270403364),
        (0.05, 1.5, 100, 1e-6, 1.953853136),
        (0.05, 3.0, 1000, 1e-6, 2.527574326),
        pytest.param(0.05, 2.0, 20000, 1e-6, 24.421718570, marks=slow),
    ],
)
def test_epsilon_is_within_the_stated_error_of_another_accountant(rate, noise, rounds, delta, prv) -> None:
    """Opacus, prv_accountant tests, after Gopi, Lee, Wutschitz (2021); its eps_error is 0.01."""
    assert prv - 0.012 <= by("pld", rate, noise, rounds, delta) <= prv


@pytest.mark.parametrize(
    ("rate", "noise", "rounds", "want"), [(0.2, 0.5, 3, 0.15594), (1.0, math.sqrt(3), 3, 0.126936)]
)
def test_delta_of_epsilon_one(rate, noise, rounds, want) -> None:
    """dp_accounting, pld_privacy_accountant_test.py, to its own 1e-3."""
    assert gaussian_delta(noise_multiplier=noise, rate=rate, num_rounds=rounds, epsilon=1.0) == pytest.approx(
        want, abs=1e-3 if rate < 1 else 1e-6
    )


@pytest.mark.parametrize(
    ("sigma", "epsilon", "want"), [(1, 1, 0.1269367), (1, 2, 0.02092364), (2, 1, 0.006829595), (4, 0.5, 0.002708880)]
)
def test_delta_of_the_analytic_gaussian(sigma, epsilon, want) -> None:
    """Balle, Wang (2018), theorem 8, evaluated; and the inverse, algorithm 1."""
    assert gaussian_delta(noise_multiplier=sigma, epsilon=epsilon) == pytest.approx(want, rel=2e-6)
    assert gaussian_epsilon(noise_multiplier=sigma, delta=want) == pytest.approx(epsilon, rel=1e-6)
    assert gaussian_sigma(epsilon, want) == pytest.approx(sigma, rel=1e-6)


def test_renyi_divergences_of_a_sampled_gaussian() -> None:
    """dp_accounting, rdp_privacy_accountant_test.py: q = 0.01, z = 2.5, 50 rounds."""
    orders, rdp = renyi("gaussian", 2.5, 0.01, (1.5, 2.5, 5.0, 50.0, 100.0))
    want = [6.70579741e-4, 1.08548710e-3, 2.18075656e-3, 2.38460375e-2, 1.67416308e2]
    assert orders.tolist() == [1.5, 2.5, 5.0, 50.0, 100.0]
    np.testing.assert_allclose(50 * rdp, want, rtol=1e-6)


def test_renyi_divergences_at_integer_orders_by_their_closed_form() -> None:
    """Mironov, Talwar, Zhang (2019), section 3.3: E[L^a] is a binomial sum, here in exact integers of Python."""
    rate, noise = 0.1, 1.3
    for order, found in zip(*renyi("gaussian", noise, rate, (2.0, 3.0, 7.0, 20.0)), strict=True):
        a = int(order)
        terms = (
            math.comb(a, k) * (1 - rate) ** (a - k) * rate**k * math.exp(k * (k - 1) / 2 / noise**2)
            for k in range(a + 1)
        )
        assert found == pytest.approx(math.log(sum(terms)) / (a - 1), rel=1e-9)


MCMAHAN = {1: 0.97, 10: 0.98, 100: 1.00, 10**3: 1.07, 10**4: 1.18, 10**5: 2.21, 10**6: 7.50}
CKS20 = {1: 0.70, 10: 0.70, 100: 0.72, 10**3: 0.77, 10**4: 0.88, 10**5: 1.90, 10**6: 6.83}


@pytest.mark.parametrize("rounds", MCMAHAN)
def test_table_1_of_mcmahan_2018(rounds) -> None:
    """https://arxiv.org/abs/1710.06963: K = 1e5, cohorts of 100, z = 1, delta = K^-1.1, two digits of print.

    The paper has the classic conversion over integer orders; today's conversion is about 0.3 lower.
    """
    delta = 1e5**-1.1
    classic = by("rdp", 1e-3, 1.0, rounds, delta, orders=range(2, 34), conversion="classic")
    assert classic == pytest.approx(MCMAHAN[rounds], abs=0.0051)
    assert by("rdp", 1e-3, 1.0, rounds, delta) == pytest.approx(CKS20[rounds], abs=0.0051)


@pytest.mark.parametrize(("noise", "rounds", "want"), [(1.1, 14063, 3.0084), (1.3, 3516, 1.1923), (0.7, 10547, 7.1016)])
def test_the_tutorial_of_dp_sgd_by_the_classic_conversion(noise, rounds, want) -> None:
    """3.01, 1.19 and 7.10 in the tutorial's text."""
    assert by("rdp", 256 / 60000, noise, rounds, 1e-5, conversion="classic") == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize(
    ("rho", "delta", "want"),
    [(0.5, 1e-5, 4.728387), (0.1, 1e-6, 2.141942), (0.81, 1e-10, 8.922), (79 / 98, 1e-10, 8.90)],
)
def test_concentrated_differential_privacy(rho, delta, want) -> None:
    """Canonne, Kamath, Steinke (2020), proposition 12; DP-FTRL's Gboard model has rho 0.81 and epsilon 8.90."""
    assert zcdp_epsilon(rho, delta) == pytest.approx(want, rel=5e-4)
    assert zcdp_epsilon(rho, delta) <= rho + 2 * math.sqrt(rho * math.log(1 / delta))


def test_concentrated_differential_privacy_on_the_usual_grid_of_orders() -> None:
    """2.143044 for rho = 0.1 at delta 1e-6 on dp_accounting's orders; at the best order it is 2.141939."""
    orders, rdp = renyi("gaussian", 1 / math.sqrt(0.2))
    assert rdp_epsilon(orders, rdp, 1e-6) == pytest.approx(2.143044, abs=1e-6)
    assert 2.141939 - 1e-6 < zcdp_epsilon(0.1, 1e-6) < 2.141939 + 1e-4


@pytest.mark.parametrize(("rho", "want"), [(0.15068, 3.4240), (0.0143426, 0.99355)])
def test_a_gaussian_of_known_concentration(rho, want) -> None:
    """BandMF's Gboard models state rho and the exact epsilon of that Gaussian, at delta 1e-10."""
    assert gaussian_epsilon(noise_multiplier=1 / math.sqrt(2 * rho), delta=1e-10) == pytest.approx(want, rel=3e-5)


def test_a_renyi_curve_may_hold_infinities_and_may_be_zero() -> None:
    assert rdp_epsilon([2.0, 3.0], [math.inf, 1.0], 1e-5) == rdp_epsilon([3.0], [1.0], 1e-5)
    assert rdp_epsilon([2.0, 3.0], [math.inf, math.inf], 1e-5) == math.inf
    assert rdp_epsilon([2.0, 3.0], [0.0, 0.0], 1e-5) == 0.0


def test_composition_of_local_randomizers_against_loss_distributions() -> None:
    """30 answers by randomized response of epsilon 0.3, at REPLACE_ONE; the oracle's grid rounds up."""
    import dp_accounting as dp

    epsilon, count, delta = 0.3, 30, 1e-5
    accountant = dp.pld.PLDAccountant(dp.NeighboringRelation.REPLACE_ONE)
    with silent():
        for _ in range(count):  # its `compose(event, count)` does not count for this event
            accountant.compose(dp.RandomizedResponseDpEvent(2 / (1 + math.exp(epsilon)), 2))
    want = accountant.get_epsilon(delta)
    found = composed_epsilon(epsilon, 0.0, count, delta)
    assert want - 2e-3 <= found <= want + 1e-9
    advanced = epsilon * math.sqrt(2 * count * math.log(1 / delta)) + count * epsilon * math.expm1(epsilon)
    assert found < min(count * epsilon, advanced)


def test_composition_of_local_randomizers_at_its_ends() -> None:
    assert composed_epsilon(2.0, 0.0, 1, 1e-300) == pytest.approx(2.0)
    assert composed_epsilon(0.5, 0.0, 4, 1e-300) == pytest.approx(2.0)  # basic composition
    assert composed_epsilon(0.0, 0.0, 5, 1e-5) == 0.0
    assert composed_epsilon(1.0, 1e-6, 11, 1e-5) == math.inf  # the deltas alone are more
    assert composed_epsilon(math.inf, 0.0, 1, 1e-5) == math.inf
    assert composed_epsilon(1.0, 1e-7, 10, 1e-5) > composed_epsilon(1.0, 0.0, 10, 1e-5)
    # k = 2, epsilon = 1: delta at epsilon 1 is p^2 (1 - exp(1 - 2)) with p = e / (1 + e), by hand.
    delta = (math.e / (1 + math.e)) ** 2 * (1 - math.exp(-1))
    assert composed_epsilon(1.0, 0.0, 2, delta) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("method", ["pld", "rdp"])
def test_no_noise_is_an_infinite_epsilon(method) -> None:
    assert gaussian_epsilon(noise_multiplier=0.0, delta=1e-5, rate=0.1, method=method) == math.inf
    assert gaussian_delta(noise_multiplier=0.0, epsilon=1.0) == 1.0


@slow
def test_very_little_noise_is_accounted_for_without_a_huge_grid() -> None:
    """At z = 0.001 losses reach half a million; half of that is what a Gaussian's own divergence says."""
    assert by("pld", 0.5, 1e-3, 1, 1e-5) == pytest.approx(0.5e6, rel=0.02)  # of 5e9 points it would be otherwise


def test_orders_that_do_not_converge_are_left_out_without_a_word(caplog, recwarn) -> None:
    """dp_accounting logs "_compute_log_a_frac failed to converge" here."""
    assert by("rdp", 0.001, 0.3, 100, 1e-6) < 200
    assert caplog.records == []
    assert list(recwarn) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"noise_multiplier": -1.0}, "`noise_multiplier` is -1.0; expected a number of at least 0"),
        (
            {"delta": 0.0},
            r"`delta` is 0.0; expected a finite number above 0. It is the chance that the guarantee fails",
        ),
        ({"delta": 1.0}, r"`delta` is 1.0; expected a number in \(0, 1\)"),
        ({"rate": 0.0}, r"`rate` is 0.0; expected a number in \(0, 1\]. It is the chance of a client in each round"),
        ({"rate": 1.5}, r"`rate` is 1.5; expected a number in \(0, 1\]"),
        ({"num_rounds": 0}, "`num_rounds` is 0; expected an int of at least 1"),
        ({"method": "moments"}, "`method` is 'moments'; expected one of 'pld', 'rdp'"),
        ({"orders": [2.0]}, '`orders` and `conversion` belong to Rényi divergences; pass method="rdp" with them'),
        ({"method": "rdp", "conversion": "best"}, "`conversion` is 'best'; expected one of 'cks20', 'classic'"),
    ],
)
def test_numbers_out_of_range_are_refused(options, text) -> None:
    with pytest.raises(ValueError, match=text):
        gaussian_epsilon(**{"noise_multiplier": 1.0, "delta": 1e-5, **options})


def test_the_extra_is_named_where_it_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    with pytest.raises(ModuleNotFoundError, match=r'needs dp-accounting, .* pip install "fedjaxlite\[privacy\]"'):
        gaussian_epsilon(noise_multiplier=1.0, delta=1.23e-5, rate=0.123)
