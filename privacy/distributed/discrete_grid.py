"""The grid of distributed noise: how clip norm, rounding and noise share the bits of an entry."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.distributed.discrete_accounting import discrete_gaussian_rdp, rounded_l1_bound, skellam_rdp
from fedjaxlite.privacy.distributed.discrete_noise import noise_bound
from fedjaxlite.privacy.distributed.rounding import rounded_norm_bound

MARGIN = 1.0 - 2.0**-16
"""What is left of the clip norm on the grid, for the rounding of float32 in the rotation."""


class Grid(NamedTuple):
    """A grid, in whose steps everything here is measured.

    Attributes:
      clip: int, the clip norm.
      dim: int, entries of the vector.
      l2: float, the largest L2 norm of a client's integers before noise.
      l1: float, their largest L1 norm.
      local_variance: float, the variance of one client's noise.
      noise: int, the largest noise of one client in an entry.
      survivors: int, the clients whose noise is in the sum at least.
    """

    clip: int
    dim: int
    l2: float
    l1: float
    local_variance: float
    noise: int
    survivors: int

    @property
    def std(self) -> float:
        """The standard deviation of the noise in the sum of the fewest survivors."""
        return math.sqrt(self.survivors * self.local_variance)


def make_grid(kind: str, noise_multiplier: float, *, bits: int, min_survivors: int, dim: int, beta: float) -> Grid:
    """The finest grid on which one client's rounded entry and noise fit into so many bits.

    Args:
      kind: "skellam" or "discrete_gaussian".
      noise_multiplier: z, the standard deviation of the noise of all survivors over the clip norm; at least 0.
      bits: b, from 2 to 20: integers from -(2^(b-1) - 1) to 2^(b-1) - 1.
      min_survivors: n.
      dim: d, entries.
      beta: of conditional rounding.

    Returns:
      a Grid whose clip is the largest int c with c + noise_bound((z c)^2 / n) <= 2^(b-1) - 1.

    Raises:
      TypeError, ValueError: for numbers out of range, a traced noise multiplier, or where no c of at least 1 fits.

    Example:
      >>> grid = make_grid("skellam", 1.0, bits=16, min_survivors=100, dim=1024, beta=0.5)
      >>> grid.clip, grid.noise, grid.clip + grid.noise <= 2**15 - 1
      (15172, 17594, True)
    """
    if fl.checks.is_traced(noise_multiplier):
        raise TypeError(
            "`noise_multiplier` is traced; expected a concrete number, since the table of discrete noise and the grid "
            "follow from it. Build one chain for each value."
        )
    noise_multiplier = fl.checks.nonnegative(noise_multiplier=noise_multiplier, remedy="0 switches the noise off.")
    bits, min_survivors = fl.checks.positive_int(bits=bits, min_survivors=min_survivors)
    if not 2 <= bits <= 20:
        raise ValueError(
            f"`bits` is {bits}; expected 2 to 20: one bit is the sign, and noise is drawn from a table of all integers."
        )
    levels = 2 ** (bits - 1) - 1
    beta = fl.checks.fraction(beta=beta, remedy="It is the chance that one attempt at rounding is too long.")

    def fits(clip: int) -> bool:
        return clip + noise_bound(kind, _local_variance(noise_multiplier, clip, min_survivors)) <= levels

    if not fits(1):
        raise ValueError(
            f"`bits={bits}` holds integers up to {levels}, which leaves no step for the clip norm beside noise of "
            f"noise_multiplier={noise_multiplier!r} shared by {min_survivors} clients. Use more bits or survivors."
        )
    low, high = 1, levels
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    variance = _local_variance(noise_multiplier, low, min_survivors)
    l2 = rounded_norm_bound(float(low), dim, beta)
    return Grid(low, dim, l2, rounded_l1_bound(l2, dim), variance, noise_bound(kind, variance), min_survivors)


def _local_variance(noise_multiplier: float, clip: int, survivors: int) -> float:
    return (float(noise_multiplier) * clip) ** 2 / survivors


def check_range(name: str, grid: Grid, *, bits: int, capacity: int) -> None:
    """Refuses a cohort whose sum could leave the integers from -2^31 to 2^31 - 1, or never have enough survivors."""
    if grid.survivors > capacity:
        raise ValueError(
            f"`min_survivors` of `{name}` is {grid.survivors}, and the cohort has {capacity} slots: every round would "
            f"be discarded. Use at most {capacity}, or a larger cohort."
        )
    largest = grid.clip + grid.noise
    if capacity * largest > 2**31 - 1:
        most = ((2**31 - 1) // capacity + 1).bit_length()
        raise ValueError(
            f"`{name}(bits={bits})` can overflow: capacity {capacity} x (entry {grid.clip} + noise {grid.noise}) = "
            f"{capacity * largest}, more than 2^31 - 1. Here at most {most} bits fit."
        )


def rdp_of(kind: str, grid: Grid) -> Callable[[Any], np.ndarray]:
    """A round's Renyi divergences as a function of the orders, from the sensitivities of the rounded integers."""
    if kind == "skellam":
        return skellam_rdp(l2=grid.l2, l1=grid.l1, variance=grid.survivors * grid.local_variance)
    return discrete_gaussian_rdp(
        l2=grid.l2, l1=grid.l1, local_variance=grid.local_variance, num_clients=grid.survivors, dim=grid.dim
    )
