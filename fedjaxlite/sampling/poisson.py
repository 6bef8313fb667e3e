"""Poisson sampling: every client decides for itself, so the size of the cohort is random."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.sampling import draws
from fedjaxlite.sampling.types import Accounting, Cohort, Sampler, cohort


def poisson(rate: float, capacity: int, *, max_overflow: float = 1e-6) -> Sampler:
    """Each client independently with probability `rate`.

    In a round with more clients than slots, who is cut is drawn at random, each client equally likely, and counted in
    `Cohort.overflow`; `check` refuses a capacity where that happens more often than `max_overflow` a round. An
    accountant that wants to be exact adds `num_rounds * (1 + exp(epsilon)) * overflow_probability(...)` to delta.

    Args:
      rate: q in (0, 1], concrete. The rate that is used is the next multiple of 2^-32 below: never above q, and
        not the 2^-23 steps of a float32 draw.
      capacity: slots of a cohort; `poisson_capacity` computes what suffices.
      max_overflow: the largest probability of an overflow in a round, in (0, 1]; 1 allows any capacity.

    Returns:
      A Sampler with accounting "poisson". Rounds without any client happen and are part of the mechanism.

    Raises:
      TypeError, ValueError: a rate or max_overflow outside (0, 1], a capacity that is no int of at least 1; by
        `check`, a capacity that is too small, with one that suffices.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjaxlite.data.population import Population
      >>> sampler = poisson(rate=0.1, capacity=40)
      >>> sampler.check(num_clients=100)
      >>> drawn = sampler.sample(jax.random.key(0), 0, Population({}, jnp.arange(101), max_size=1))
      >>> drawn.ids.shape, int(drawn.overflow)
      ((40,), 0)
    """
    capacity = checks.positive_int(capacity=capacity)
    rate = _concrete_rate(rate)
    checks.concrete(max_overflow=max_overflow)
    max_overflow = checks.probability(
        "It bounds the chance that a round has more clients than slots.", max_overflow=max_overflow
    )
    rate, slots, threshold = float(rate), int(capacity), int(float(rate) * 2**32)
    if threshold == 0:
        raise ValueError(f"`rate` is {rate!r}; expected at least 2^-32, the resolution of the draw.")

    def sample(key: Any, round_number: Any, population: Any) -> Cohort:
        n = population.num_clients
        own = draws.round_key(key, round_number, draws.COHORT)
        counts = draws.running_count(draws.chosen(own, n, np.uint32(threshold - 1)))
        count = counts[-1]
        slot = jnp.arange(slots, dtype=jnp.int32)
        first = jax.random.bits(draws.round_key(key, round_number, draws.OVERFLOW), (), jnp.uint32) >> jnp.uint32(1)
        some = jnp.maximum(count, 1)
        rank = jnp.where(count > slots, (first.astype(jnp.int32) % some + slot) % some, slot)
        ids = draws.nth_true(counts, rank)
        return cohort(ids, slot < count, overflow=jnp.maximum(count - slots, 0))

    def check(num_clients: int) -> None:
        chance = overflow_probability(num_clients, rate, slots)
        if chance > max_overflow:
            raise ValueError(
                f"poisson(rate={rate}, capacity={slots}) on {num_clients} clients draws {rate * num_clients:.6g} "
                f"a round on average and more than {slots} with probability {chance:.3g}, above max_overflow="
                f"{max_overflow}. Use capacity={poisson_capacity(num_clients, rate, max_overflow)} or more, or a "
                "lower rate."
            )

    accounting = Accounting(
        "poisson",
        rate=rate,
        amplification=True,
        note=f"Neighbors add or remove one client. At most {slots} clients a round; overflow is cut and counted.",
    )
    return Sampler(sample, slots, accounting, f"poisson({rate})", may_overflow=True, check=check)


def overflow_probability(num_clients: int, rate: float, capacity: int) -> float:
    """The chance that a Poisson round has more clients than slots: P(Binomial(N, q) > capacity).

    Args:
      num_clients: N.
      rate: q in (0, 1].
      capacity: slots.

    Returns:
      A probability, to about nine digits.

    Example:
      >>> round(overflow_probability(2, 0.5, 1), 6)
      0.25
    """
    num_clients, capacity = checks.positive_int(num_clients=num_clients, capacity=capacity)
    rate = _concrete_rate(rate)
    return _beyond(num_clients, rate, capacity)


def _concrete_rate(rate: Any) -> float:
    checks.concrete("Capacity and epsilon follow from it.", rate=rate)
    return float(checks.probability("It is the chance of each client in each round.", rate=rate))


def _beyond(num_clients: int, rate: float, capacity: int) -> float:
    if capacity >= num_clients:
        return 0.0
    if rate >= 1:
        return 1.0
    # Terms far beyond both the mean and the capacity are below the precision of the sum.
    reach = 40 * math.sqrt(num_clients * rate * (1 - rate)) + 200
    last = min(num_clients, math.ceil(max(capacity + 1, num_clients * rate) + reach))
    first = capacity + 1
    log_first = (
        math.lgamma(num_clients + 1)
        - math.lgamma(first + 1)
        - math.lgamma(num_clients - first + 1)
        + first * math.log(rate)
        + (num_clients - first) * math.log1p(-rate)
    )
    k = np.arange(first, last, dtype=np.float64)
    ratios = np.log(num_clients - k) - np.log(k + 1) + math.log(rate) - math.log1p(-rate)
    logs = log_first + np.concatenate([[0.0], np.cumsum(ratios)])
    return min(1.0, float(np.exp(logs - logs.max()).sum() * math.exp(logs.max())))


def poisson_capacity(num_clients: int, rate: float, max_overflow: float = 1e-6) -> int:
    """The smallest capacity with which a Poisson round overflows with at most a given probability.

    Args:
      num_clients: N.
      rate: q in (0, 1].
      max_overflow: probability in (0, 1].

    Returns:
      An int in [1, N].

    Example:
      >>> poisson_capacity(100, 0.1)
      27
    """
    num_clients, rate = checks.positive_int(num_clients=num_clients), _concrete_rate(rate)
    checks.concrete("The capacity follows from it.", max_overflow=max_overflow)
    max_overflow = checks.probability("It bounds the chance of an overflow in a round.", max_overflow=max_overflow)
    low, high = 1, num_clients
    while low < high:
        middle = (low + high) // 2
        enough = _beyond(num_clients, rate, middle) <= max_overflow
        low, high = (low, middle) if enough else (middle + 1, high)
    return low
