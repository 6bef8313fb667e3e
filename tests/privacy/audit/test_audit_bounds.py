"""Lower bounds on epsilon: against closed forms and published values, and their error rate under a true mechanism."""

import math

import numpy as np
import pytest
from scipy import stats

from fedjaxlite.privacy import accounting, audit
from fedjaxlite.privacy.audit import bounds

# Canaries at the quantiles of a normal distribution, shifted where they were included, delta 1e-6 at 95 %: what the
# auditor of jax_privacy 2.0.0 gives for them by one run and by many (https://github.com/google-deepmind/jax_privacy, its
# auditing tests), and what is true of a Gaussian mechanism with that shift. Ours abstains where jax_privacy guesses by
# one threshold, and chooses its threshold on other runs where jax_privacy divides the error among all thresholds.
PUBLISHED = {1.0: (1.13346, 1.78717), 2.0: (2.311945, 3.82795), 4.0: (4.395568, 6.41251)}


def quantile_scores(shift: float, n: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    base = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return base + shift, base


@pytest.mark.parametrize("shift", PUBLISHED)
def test_published_values(shift: float) -> None:
    one, many = PUBLISHED[shift]
    inside, outside = quantile_scores(shift)
    coins = np.arange(20_000) < 10_000
    found = audit.epsilon_one_run(np.concatenate([inside, outside]), coins, delta=1e-6)
    true = accounting.gaussian_epsilon(noise_multiplier=1 / shift, rate=1.0, num_rounds=1, delta=1e-6)
    assert one < found < true
    found = audit.epsilon_many_runs(inside, outside, delta=1e-6)
    assert 0.95 * many < found < true


def test_a_perfect_attack_has_a_closed_form() -> None:
    """All r guesses right, delta 0: the p-value is (e^eps / (1 + e^eps))^r."""
    level = 0.05 / len(bounds._SHARES)
    want = -math.log(level ** (-1 / 500) - 1)
    coins = np.arange(500) % 2 == 0
    assert audit.epsilon_one_run(coins.astype(float), coins, delta=0.0) == pytest.approx(want, rel=1e-6)


def test_delta_weakens_the_bound_as_in_the_theorem() -> None:
    """The p-value against the theorem's sum written out for a small case."""
    m, r, v, eps, delta = 30, 20, 17, 0.5, 1e-3
    p = 1 / (1 + math.exp(-eps))
    beta = sum(math.comb(r, k) * p**k * (1 - p) ** (r - k) for k in range(v, r + 1))
    short = [math.comb(r, k) * p**k * (1 - p) ** (r - k) for k in range(v - 1, -1, -1)]
    alpha = max(sum(short[:i]) / i for i in range(1, v + 1))
    assert bounds._p_value(v, r, m, eps, delta) == pytest.approx(beta + 2 * m * delta * alpha, rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
@pytest.mark.slow
def test_bounds_hold_for_randomized_response(epsilon: float) -> None:
    """Guarantee: at most 5 % of audits of an epsilon-DP mechanism exceed epsilon.

    Randomized response is as leaky as pure DP allows. Of 100 audits with an error rate of 5 %, more than 14 fail with
    probability 1e-4.
    """
    rng = np.random.default_rng(0)
    keep = 1 / (1 + math.exp(-epsilon))
    over_one = over_many = 0
    for _ in range(100):
        coins = rng.random(400) < 0.5
        told = np.where(rng.random(400) < keep, coins, ~coins) + 1e-3 * rng.random(400)
        over_one += audit.epsilon_one_run(told, coins, delta=0.0) > epsilon
        over_many += audit.epsilon_many_runs(told[coins], told[~coins], delta=0.0) > epsilon
    assert over_one <= 14
    assert over_many <= 14


def test_no_attack_gives_zero() -> None:
    rng = np.random.default_rng(1)
    coins = rng.random(1000) < 0.5
    assert audit.epsilon_one_run(rng.random(1000), coins, delta=1e-5) < 0.3
    assert audit.epsilon_one_run(-coins.astype(float), coins, delta=1e-5) == 0.0


def test_an_attack_that_is_upside_down_counts_for_many_runs() -> None:
    inside, outside = quantile_scores(2.0, 2000)
    assert audit.epsilon_many_runs(outside, inside, delta=1e-6) > 2.0


def test_wrong_arguments() -> None:
    coins = np.array([True, False, True, False])
    with pytest.raises(ValueError, match=r"`scores` has shape \[3\] and `included` \[4\]; expected \[m\] for both"):
        audit.epsilon_one_run(np.zeros(3), coins, delta=0.0)
    with pytest.raises(ValueError, match="`scores` holds nan; expected finite numbers"):
        audit.epsilon_one_run(np.array([0, 1, np.nan, 2]), coins, delta=0.0)
    with pytest.raises(ValueError, match=r"`delta` is 1.0; expected a number in \[0, 1\)"):
        audit.epsilon_one_run(np.zeros(4), coins, delta=1.0)
    with pytest.raises(ValueError, match=r"`confidence` is 0.2; expected a number in \(0.5, 1\)"):
        audit.epsilon_one_run(np.zeros(4), coins, delta=0.0, confidence=0.2)
    with pytest.raises(
        ValueError, match="`scores_in` has 2 scores with the canary and `scores_out` 9 without; expected at least 4"
    ):
        audit.epsilon_many_runs(np.zeros(2), np.zeros(9), delta=0.0)
