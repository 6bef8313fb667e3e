"""What a round of distributed discrete noise costs, as Renyi differential privacy.

All sensitivities and variances are in grid units, of the vectors after rounding. Neighbors differ in one client's
vector, which is replaced by zeros; everybody adds noise in both.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import fedjaxlite as fl


def rounded_l1_bound(l2: float, dim: int) -> float:
    """The L1 norm of an integer vector of a given L2 norm: min(sqrt(d) l2, l2^2).

    Example:
      >>> rounded_l1_bound(10.0, 10_000), rounded_l1_bound(10.0, 25)
      (100.0, 50.0)
    """
    return min(math.sqrt(dim) * l2, l2 * l2)


def discrete_gaussian_excess(local_variance: float, num_clients: int) -> float:
    """tau, how far the sum of n discrete Gaussians is from the discrete Gaussian of n times their variance.

    Args:
      local_variance: sigma^2 of one client's noise.
      num_clients: n.

    Returns:
      10 sum over k < n of exp(-2 pi^2 sigma^2 k / (k + 1)); it vanishes fast: 1e-7 n at sigma^2 = 2.

    Source: Kairouz, Liu, Steinke (2021), https://arxiv.org/abs/2102.06387, theorem 1.

    Example:
      >>> round(discrete_gaussian_excess(0.5, 100), 7)
      0.1657994
    """
    k = np.arange(1, num_clients, dtype=np.float64)
    return float(10.0 * np.exp(-2 * math.pi**2 * local_variance * k / (k + 1)).sum())


def discrete_gaussian_rdp(
    *, l2: float, l1: float, local_variance: float, num_clients: int, dim: int
) -> Callable[[Any], np.ndarray]:
    """The Renyi divergences of a sum with n clients' discrete Gaussian noise in every entry.

    Args:
      l2: how far one client's vector can be from zero, in the L2 norm.
      l1: the same in the L1 norm.
      local_variance: sigma^2 of one client's noise; 0 gives infinity.
      num_clients: n, the clients whose noise is in the sum at least.
      dim: d.

    Returns:
      `rdp(orders) -> float64`, of the shape of `orders`, all above 1:
      min(a/2 D2^2 + tau d, a/2 (D2^2 + 2 D1 tau + tau^2 d), a/2 (D2 + sqrt(d) tau)^2), with D2 = l2 / (sqrt(n) sigma)
      and D1 = l1 / (sqrt(n) sigma).

    Raises:
      ValueError, TypeError: for numbers out of range.

    Source: Kairouz, Liu, Steinke (2021), https://arxiv.org/abs/2102.06387, proposition 14.

    Example:
      >>> rdp = discrete_gaussian_rdp(l2=10.0, l1=100.0, local_variance=4.0, num_clients=100, dim=250)
      >>> [round(value, 8) for value in rdp([2, 8]).tolist()]
      [0.25, 1.0]
    """
    _check(l2=l2, l1=l1, variance=local_variance)
    num_clients, dim = fl.checks.positive_int(num_clients=num_clients, dim=dim)

    def rdp(orders: Any) -> np.ndarray:
        order = _orders(orders)
        if local_variance == 0:
            return np.full_like(order, 0.0 if l2 == 0 else np.inf)
        tau = discrete_gaussian_excess(local_variance, num_clients)
        std = math.sqrt(num_clients * local_variance)
        d2, d1 = l2 / std, l1 / std
        loose = order / 2 * d2**2 + tau * dim
        by_l1 = order / 2 * (d2**2 + 2 * d1 * tau + tau**2 * dim)
        by_l2 = order / 2 * (d2 + math.sqrt(dim) * tau) ** 2
        return np.minimum(np.minimum(loose, by_l1), by_l2)

    return rdp


def skellam_rdp(*, l2: float, l1: float, variance: float) -> Callable[[Any], np.ndarray]:
    """The Renyi divergences of a sum with Skellam noise in every entry.

    Args:
      l2: how far one client's vector can be from zero, in the L2 norm.
      l1: the same in the L1 norm.
      variance: mu of the whole sum's noise, which is Skellam's too; 0 gives infinity.

    Returns:
      `rdp(orders) -> float64`, of the shape of `orders`, all above 1: a l2^2 / (2 mu) +
      min(((2a - 1) l2^2 + 6 l1) / (4 mu^2), 3 l1 / (2 mu)). The theorem is for integers a; other orders get the value
      of the next one, which is no less than theirs.

    Raises:
      ValueError, TypeError: for numbers out of range.

    Source: Agarwal, Kairouz, Liu (2021), https://arxiv.org/abs/2110.04995, section 3.

    Example:
      >>> [round(value, 6) for value in skellam_rdp(l2=10.0, l1=100.0, variance=1000.0)([2, 8, 32]).tolist()]
      [0.100225, 0.400525, 1.601725]
    """
    _check(l2=l2, l1=l1, variance=variance)

    def rdp(orders: Any) -> np.ndarray:
        order = np.ceil(_orders(orders))
        if variance == 0:
            return np.full_like(order, 0.0 if l2 == 0 else np.inf)
        by_square = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2)
        return order * l2**2 / (2 * variance) + np.minimum(by_square, 3 * l1 / (2 * variance))

    return rdp


def _orders(orders: Any) -> np.ndarray:
    order = np.asarray(orders, np.float64)
    if not np.all(order > 1):
        raise ValueError(f"`orders` holds {float(order.min())!r}; expected Renyi orders above 1.")
    return order


def _check(**numbers: Any) -> None:
    for name, value in numbers.items():
        fl.checks.nonnegative("It is in grid units.", **{name: value})
