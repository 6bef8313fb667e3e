"""The accountant on plain numbers: what a Gaussian mechanism costs, for papers' tables and for planning."""

import math
from typing import Any

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import backend
from fedjaxlite.privacy.accounting.conversions import check_delta, rdp_epsilon


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
    _check(noise_multiplier, rate, num_rounds)
    check_delta(delta)
    fl.checks.one_of(("pld", "rdp"), method=method)
    noise, rate = float(noise_multiplier), float(rate)
    if method == "rdp":
        grid = None if orders is None else tuple(float(order) for order in orders)
        if noise == 0:
            return math.inf
        found, rdp = backend.renyi("gaussian", noise, rate, grid)
        return rdp_epsilon(found, num_rounds * rdp, float(delta), conversion)
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
    _check(noise_multiplier, rate, num_rounds)
    fl.checks.nonnegative(epsilon=epsilon)
    if noise_multiplier == 0:
        return 1.0
    if rate == 1:  # rounds of a Gaussian are one with less noise
        losses = backend.loss_distribution("gaussian", float(noise_multiplier) / math.sqrt(num_rounds), 1.0, 1)
    else:
        losses = backend.loss_distribution("gaussian", float(noise_multiplier), float(rate), int(num_rounds))
    return float(losses.get_delta_for_epsilon(float(epsilon)))


def pld_epsilon(noise_multiplier: float, rate: float, num_rounds: int, delta: float, coarser: float = 1.0) -> float:
    """As `gaussian_epsilon` by "pld", for numbers that have been checked, on a grid that may be coarser."""
    if noise_multiplier == 0:
        return math.inf
    if rate == 1:
        return backend.gaussian_epsilon(noise_multiplier / math.sqrt(num_rounds), delta)
    losses = backend.loss_distribution("gaussian", noise_multiplier, rate, num_rounds, coarser)
    return float(losses.get_epsilon_for_delta(delta))


def _check(noise_multiplier: Any, rate: Any, num_rounds: Any) -> None:
    fl.checks.nonnegative(noise_multiplier=noise_multiplier)
    fl.checks.probability("It is the chance of a client in each round.", rate=rate)
    fl.checks.positive_int(num_rounds=num_rounds)
