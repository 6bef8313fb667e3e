"""The accountants on plain numbers, for papers' tables and for planning, and conversions from other accounts.

What a Gaussian mechanism costs; and the epsilon of Rényi curves, of concentrated DP, and of compositions of
(epsilon, delta).
"""

import math
from typing import Any

import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import backend

ORDERS = tuple(np.unique(np.concatenate([np.linspace(1.01, 11, 1000), np.geomspace(11, 1e4, 600)])).tolist())
"""A fine grid of orders, for curves that are cheap at any order."""

INTEGER_ORDERS = (*range(2, 65), *range(72, 129, 8), 160, 192, 256, 384, 512, 768, 1024)
"""A grid of integers."""


def gaussian_epsilon(
    *,
    noise_multiplier: float,
    delta: float,
    rate: float = 1.0,
    num_rounds: int = 1,
    method: str = "pld",
    orders: Any = None,
    conversion: str = "cks20",
) -> float:
    """The epsilon of rounds of a Gaussian mechanism, for neighbors that add or remove one client.

    This takes the word of its caller for how clients are sampled and what is clipped. For a run, use
    `privacy.epsilon`, which reads both off the program.

    Args:
      noise_multiplier: standard deviation over sensitivity, at least 0.
      delta: in (0, 1).
      rate: the chance of a client in each round, independently of all others (Poisson), in (0, 1].
      num_rounds: T.
      method: "pld", privacy loss distributions (exact for rate 1); or "rdp", Rényi divergences, looser.
      orders: of the Rényi divergences; None for dp-accounting's default grid. Only with "rdp".
      conversion: "cks20" or "classic"; see `rdp_epsilon`. Only with "rdp".

    Returns:
      epsilon; infinite without noise.

    Raises:
      TypeError, ValueError: arguments out of range.
      ModuleNotFoundError: dp-accounting is not installed.

    Source: Abadi et al. (2016), "Deep Learning with Differential Privacy", https://arxiv.org/abs/1607.00133; the
    accountants are those of https://github.com/google/differential-privacy.

    Example:
      >>> round(gaussian_epsilon(noise_multiplier=1.0, delta=1e-5), 4)
      4.3772
      >>> round(gaussian_epsilon(noise_multiplier=1.0, delta=1e-5, method="rdp"), 4)
      4.7285
    """
    noise_multiplier, rate, num_rounds = _checked(noise_multiplier, rate, num_rounds)
    delta = check_delta(delta)
    fl.checks.one_of(("pld", "rdp"), method=method)
    noise, rate = float(noise_multiplier), float(rate)
    if method == "rdp":
        grid = None if orders is None else _grid(orders)
        if noise == 0:
            return math.inf
        found, rdp = backend.renyi("gaussian", noise, rate, grid)
        return rdp_epsilon(found, num_rounds * rdp, float(delta), conversion)
    fl.checks.one_of(("cks20", "classic"), conversion=conversion)
    if orders is not None or conversion != "cks20":
        raise ValueError('`orders` and `conversion` belong to Rényi divergences; pass method="rdp" with them.')
    return pld_epsilon(noise, rate, num_rounds, float(delta))


def gaussian_delta(*, noise_multiplier: float, epsilon: float, rate: float = 1.0, num_rounds: int = 1) -> float:
    """The delta of rounds of a Gaussian mechanism at an epsilon, by privacy loss distributions.

    Args:
      noise_multiplier: standard deviation over sensitivity, at least 0.
      epsilon: at least 0.
      rate: the chance of a client in each round, independently of all others (Poisson), in (0, 1].
      num_rounds: T.

    Returns:
      delta, for neighbors that add or remove one client; 1 without noise.

    Raises:
      TypeError, ValueError: arguments out of range.
      ModuleNotFoundError: dp-accounting is not installed.

    Source: Koskela, Jälkö, Honkela (2020), "Computing Tight Differential Privacy Guarantees Using FFT",
    https://arxiv.org/abs/1906.03049.

    Example:
      >>> round(gaussian_delta(noise_multiplier=1.0, epsilon=1.0), 5)
      0.12694
    """
    noise_multiplier, rate, num_rounds = _checked(noise_multiplier, rate, num_rounds)
    epsilon = fl.checks.nonnegative(epsilon=fl.checks.concrete(epsilon=epsilon))
    if noise_multiplier == 0:
        return 1.0
    if math.isinf(noise_multiplier):
        return 0.0
    try:
        losses = _losses(noise_multiplier, rate, num_rounds)
        return float(losses.get_delta_for_epsilon(float(epsilon)))
    except OverflowError:  # losses beyond every float: whatever is said is known
        return 1.0


def _losses(noise_multiplier: float, rate: float, num_rounds: int) -> Any:
    if rate == 1:  # rounds of a Gaussian are one with less noise
        return backend.loss_distribution("gaussian", noise_multiplier / math.sqrt(num_rounds), 1.0, 1)
    return backend.loss_distribution("gaussian", noise_multiplier, rate, num_rounds)


def pld_epsilon(noise_multiplier: float, rate: float, num_rounds: int, delta: float, coarser: float = 1.0) -> float:
    """As `gaussian_epsilon` by "pld", for numbers that have been checked, on a grid that may be coarser."""
    if noise_multiplier == 0:
        return math.inf
    if rate == 1:
        return backend.gaussian_epsilon(noise_multiplier / math.sqrt(num_rounds), delta)
    losses = backend.loss_distribution("gaussian", noise_multiplier, rate, num_rounds, coarser)
    return float(losses.get_epsilon_for_delta(delta))


def _grid(orders: Any) -> tuple[float, ...]:
    grid = fl.checks.real_array(shape="[n]", ndim=1, orders=fl.checks.concrete(orders=orders))
    if not grid.size or not (np.isfinite(grid) & (grid > 1)).all():
        raise ValueError(f"`orders` is {orders!r}; expected finite numbers above 1, at least one.")
    return tuple(float(order) for order in grid)


def _checked(noise_multiplier: Any, rate: Any, num_rounds: Any) -> tuple[float, float, int]:
    fl.checks.concrete(noise_multiplier=noise_multiplier, rate=rate)
    return (
        float(fl.checks.nonnegative(noise_multiplier=noise_multiplier)),
        float(fl.checks.probability("It is the chance of a client in each round.", rate=rate)),
        fl.checks.positive_int(num_rounds=num_rounds),
    )


def rdp_epsilon(orders: Any, rdp: Any, delta: float, conversion: str = "cks20") -> float:
    """The epsilon that a Rényi curve gives.

    Args:
      orders: `[n]`, above 1.
      rdp: `[n]`, the Rényi divergence at each order, all rounds together.
      delta: in (0, 1).
      conversion: "cks20", or the looser "classic" of older papers.

    Returns:
      the smallest epsilon over the orders, at least 0. Both the conversion and the grid of orders change it, so a
      figure by Rényi divergences is comparable only where both are said.

    Source: "cks20" is proposition 12 of Canonne, Kamath, Steinke (2020), "The Discrete Gaussian for Differential
    Privacy", https://arxiv.org/abs/2004.00010; "classic" is proposition 3 of Mironov (2017), "Rényi Differential
    Privacy", https://arxiv.org/abs/1702.07476.

    Example:
      >>> orders = np.arange(2, 65)
      >>> rho = 0.1 * orders
      >>> round(rdp_epsilon(orders, rho, 1e-6), 3), round(rdp_epsilon(orders, rho, 1e-6, "classic"), 3)
      (2.143, 2.451)
    """
    fl.checks.one_of(("cks20", "classic"), conversion=conversion)
    delta = check_delta(delta)
    fl.checks.concrete(orders=orders, rdp=rdp)
    orders, rdp = (values.astype(np.float64) for values in fl.checks.real_array(orders=orders, rdp=rdp, shape="[n]"))
    if orders.ndim != 1 or orders.shape != rdp.shape or not orders.size:
        raise ValueError(
            f"`orders` has shape {list(orders.shape)} and `rdp` {list(rdp.shape)}; expected [n] both, a divergence for "
            "each order."
        )
    with np.errstate(all="ignore"):
        if conversion == "classic":
            epsilon = rdp - math.log(delta) / (orders - 1)
        else:
            epsilon = rdp + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
            # Orders next to 1 bound nothing here, and are not numerically stable.
            epsilon = np.where(orders > 1.01, epsilon, np.inf)
            # A small divergence bounds the distance in total variation, so that delta alone is enough.
            epsilon = np.where(delta**2 + np.expm1(-rdp) > 0, 0.0, epsilon)
    epsilon = np.where(np.isnan(epsilon), np.inf, epsilon)
    return max(0.0, float(epsilon.min()))


def zcdp_epsilon(rho: float, delta: float) -> float:
    """The epsilon of rho-zero-concentrated differential privacy, by the conversion of `rdp_epsilon` on a fine grid.

    Args:
      rho: at least 0.
      delta: in (0, 1).

    Raises:
      TypeError, ValueError: arguments out of range.

    Source: Canonne, Kamath, Steinke (2020), https://arxiv.org/abs/2004.00010, proposition 12 with RDP(a) = rho a.

    Example:
      >>> round(zcdp_epsilon(0.5, 1e-5), 4)
      4.7284
    """
    rho = fl.checks.nonnegative(rho=fl.checks.concrete(rho=rho))
    delta = check_delta(delta)
    orders = np.asarray(ORDERS)
    return rdp_epsilon(orders, float(rho) * orders, delta)


def composed_epsilon(epsilon: float, delta_each: float, compositions: int, delta: float) -> float:
    """The epsilon of several adaptive releases, each (epsilon, delta_each)-differentially private and no more is known.

    Args:
      epsilon: of one release, at least 0.
      delta_each: of one release, in [0, 1).
      compositions: how many.
      delta: what all of them together may spend, in (0, 1).

    Returns:
      the smallest epsilon that holds for every such composition; infinite where `delta_each` alone spends `delta`.

    Guarantees:
      It is at most the sum `compositions * epsilon` of basic composition (where `delta_each` is 0), and at most the
      bound of advanced composition.

    Source: Kairouz, Oh, Viswanath (2015), "The Composition Theorem for Differential Privacy",
    https://arxiv.org/abs/1311.0776, theorem 3.3; here for any epsilon, not only the multiples of the theorem.

    Example:
      >>> composed_epsilon(1.0, 0.0, 1, 1e-9) <= 1.0
      True
      >>> composed_epsilon(0.1, 0.0, 100, 1e-6) < 100 * 0.1
      True
    """
    epsilon = float(fl.checks.nonnegative(epsilon=fl.checks.concrete(epsilon=epsilon)))
    delta_each = float(fl.checks.fraction(delta_each=fl.checks.concrete(delta_each=delta_each)))
    compositions, delta = fl.checks.positive_int(compositions=compositions), check_delta(delta)
    if math.isinf(epsilon):
        return math.inf
    left = compositions * math.log1p(-delta_each)  # log of the chance that no release fails outright
    if -math.expm1(left) >= delta:
        return math.inf
    failures = -math.expm1(math.log1p(-delta) - left)  # what is left of delta for randomized response of epsilon
    if compositions * epsilon == 0:
        return 0.0
    # Randomized response is the worst such release: `told` of its k answers are true under one neighbor, k - told under
    # the other.
    told = np.arange(compositions + 1)
    log_choose = _log_factorial(compositions) - _log_factorial(told) - _log_factorial(compositions - told)
    log_true, log_false = -math.log1p(math.exp(-epsilon)), -epsilon - math.log1p(math.exp(-epsilon))
    log_p = log_choose + told * log_true + (compositions - told) * log_false
    loss = (2 * told - compositions) * epsilon

    def spent(total: float) -> float:
        above = loss > total
        return float(np.sum(np.exp(log_p[above]) * -np.expm1(total - loss[above])))

    low, high = 0.0, compositions * epsilon
    if spent(low) <= failures:
        return 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > failures else (low, middle)
    return high


def _log_factorial(n: Any) -> Any:
    return np.vectorize(math.lgamma, otypes=[np.float64])(np.asarray(n, np.float64) + 1)


def check_delta(delta: Any) -> float:
    """The delta as a float; refuses one that is traced, or outside of (0, 1)."""
    remedy = "It is the chance that the guarantee fails; take less than one over the number of clients."
    plain = float(fl.checks.positive(remedy, delta=fl.checks.concrete(delta=delta)))
    if not plain < 1:
        raise ValueError(f"`delta` is {delta!r}; expected a number in (0, 1). {remedy}")
    return plain
