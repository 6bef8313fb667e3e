"""dp-accounting behind one door: imported on first use, silent, and with its one known trap closed.

What is slow is kept: the privacy loss distribution and the Rényi curve of a single round, of which every number of
rounds is a power.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Generator
from functools import lru_cache
from typing import Any

import numpy as np

INTERVAL = 1e-4
"""The grid of privacy losses. Estimates are upper ones, so a coarser grid gives a larger epsilon."""

_POINTS = 500_000
"""About the most points of a grid; with very little noise, losses are too large for the usual interval."""


def library() -> Any:
    """dp_accounting.

    Raises:
      ModuleNotFoundError: it is not installed.
    """
    try:
        import dp_accounting
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'computing an epsilon needs dp-accounting, which the extra "privacy" installs: pip install '
            '"fedjaxlite[privacy]".'
        ) from error
    return dp_accounting


@contextlib.contextmanager
def silent() -> Generator[None]:
    """Hides what dp_accounting says of orders that it leaves out, and the overflows that made it."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """The exact epsilon of one Gaussian release of sensitivity 1.

    Source: Balle, Wang (2018), "Improving the Gaussian Mechanism for Differential Privacy",
    https://arxiv.org/abs/1805.06530, theorem 8.
    """
    if not sigma > 0:
        return math.inf
    with silent():
        return float(library().get_epsilon_gaussian(sigma, delta))


def gaussian_sigma(epsilon: float, delta: float) -> float:
    """The standard deviation with which one Gaussian release of sensitivity 1 has exactly this epsilon and delta.

    Source: Balle, Wang (2018), https://arxiv.org/abs/1805.06530, algorithm 1.
    """
    with silent():
        return float(library().get_sigma_gaussian(epsilon, delta))


def _interval(noise_multiplier: float) -> float:
    widest = 0.5 / noise_multiplier**2 + 12 / noise_multiplier
    return max(INTERVAL, widest / _POINTS)


@lru_cache(maxsize=64)
def _one_round(kind: str, noise_multiplier: float, rate: float, interval: float) -> Any:
    distributions = library().pld.privacy_loss_distribution
    make = distributions.from_laplace_mechanism if kind == "laplace" else distributions.from_gaussian_mechanism
    with silent():
        return make(noise_multiplier, value_discretization_interval=interval, sampling_prob=rate)


@lru_cache(maxsize=4)
def loss_distribution(kind: str, noise_multiplier: float, rate: float, num_rounds: int, coarser: float = 1.0) -> Any:
    """The privacy loss distribution of a number of rounds.

    Args:
      kind: "gaussian" or "laplace".
      noise_multiplier: standard deviation (of a Laplace: scale) over sensitivity, above 0.
      rate: the chance of a client in a round, in (0, 1].
      num_rounds: at least 1.
      coarser: how many times as coarse the grid of losses is to be.

    Returns:
      dp_accounting's PrivacyLossDistribution; `get_epsilon_for_delta` and `get_delta_for_epsilon` are upper bounds.
    """
    one = _one_round(kind, noise_multiplier, rate, coarser * _interval(noise_multiplier))
    if num_rounds == 1:
        return one
    with silent():
        return one.self_compose(num_rounds)


@lru_cache(maxsize=8)
def composed_losses(parts: tuple[tuple[str, float, float, int], ...], coarser: float = 1.0) -> Any:
    """The privacy loss distribution of rounds of several kinds, one after the other.

    Args:
      parts: of each kind ("gaussian" or "laplace", noise multiplier, rate, rounds) as in `loss_distribution`, or
        ("local", epsilon, delta, rounds).
      coarser: how many times as coarse the grid of losses is to be.

    Returns:
      dp_accounting's PrivacyLossDistribution, as `loss_distribution`.
    """
    # Distributions are convolved on one grid, the coarsest that any of them needs.
    interval = coarser * max([INTERVAL, *(_interval(noise) for kind, noise, _, _ in parts if kind != "local")])
    whole = None
    with silent():
        for kind, noise, rate, num_rounds in parts:
            one = _local(noise, rate, interval) if kind == "local" else _one_round(kind, noise, rate, interval)
            some = one if num_rounds == 1 else one.self_compose(num_rounds)
            whole = some if whole is None else whole.compose(some)
    return whole


def _local(epsilon: float, delta: float, interval: float) -> Any:
    pld = library().pld
    parameters = pld.common.DifferentialPrivacyParameters(epsilon, delta)
    return pld.privacy_loss_distribution.from_privacy_parameters(parameters, interval)


def default_orders() -> np.ndarray:
    """dp_accounting's grid of orders."""
    return np.asarray(library().rdp.RdpAccountant().orders, np.float64)


@lru_cache(maxsize=64)
def renyi(
    kind: str, noise_multiplier: float, rate: float = 1.0, orders: tuple[float, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The Rényi divergence of one round, for neighbors that add or remove one client.

    Args:
      kind: "gaussian" (Poisson sampled for a rate below 1), or "laplace" (rate 1 only).
      noise_multiplier: standard deviation (of a Laplace: scale) over sensitivity, above 0.
      rate: the chance of a client in a round, in (0, 1].
      orders: None for dp_accounting's default grid.

    Returns:
      (orders, divergences), to be multiplied by the number of rounds.
    """
    dp = library()
    event = dp.LaplaceDpEvent(noise_multiplier) if kind == "laplace" else dp.GaussianDpEvent(noise_multiplier)
    event = event if rate == 1 else dp.PoissonSampledDpEvent(rate, event)
    with silent():
        accountant = dp.rdp.RdpAccountant(None if orders is None else list(orders))
        accountant.compose(event)
        return accountant.orders, accountant.rdp


@lru_cache(maxsize=64)
def renyi_of_fixed_size(
    noise_multiplier: float, cohort_size: int, num_clients: int, orders: tuple[float, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The Rényi divergence of one round whose cohort of a fixed size is drawn without replacement.

    Args:
      noise_multiplier: standard deviation over the sensitivity to *adding* a client, which is half of the sensitivity
        to replacing one.
      cohort_size: K.
      num_clients: N, above K.
      orders: None for dp_accounting's default grid.

    Returns:
      (orders, divergences) for neighbors that replace one client.

    Source: Wang, Balle, Kasiviswanathan (2019), "Subsampled Rényi Differential Privacy and Analytical Moments
    Accountant", https://arxiv.org/abs/1808.00087, theorem 27.
    """
    dp = library()
    # dp_accounting takes a Gaussian's noise multiplier for the relation at hand: it does not double the sensitivity
    # where one client is replaced by another, so its callers have to.
    event = dp.SampledWithoutReplacementDpEvent(num_clients, cohort_size, dp.GaussianDpEvent(noise_multiplier / 2))
    with silent():
        grid = None if orders is None else list(orders)
        accountant = dp.rdp.RdpAccountant(grid, dp.NeighboringRelation.REPLACE_ONE)
        accountant.compose(event)
        return accountant.orders, accountant.rdp
