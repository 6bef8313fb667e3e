"""So many clients by score: the best ones, or in proportion; equal ones by the key and never by their ids."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.sampling.systems import Latency
from fedjaxlite.sampling.types import Cohort, Seen, Setting

NOBODY = -jnp.inf
"""The score of a client that must not be chosen."""

# Streams of a round's key, beside that of the candidates themselves.
TIES, EXPLORE = 1, 2


def uniforms(key: Any, n: int) -> Any:
    """float32 `[n]` in (0, 1), fine where they are small, which is where the first arrivals lie."""
    bits = jax.random.bits(key, (n,), jnp.uint32)
    return jnp.minimum((bits.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-32), jnp.float32(1 - 2.0**-24))


def best(key: Any, scores: Any, count: int) -> tuple[Any, Any]:
    """The places of the `count` largest scores, of equal ones any with the same chance.

    Args:
      key: consumed.
      scores: float32 `[n]`, `n >= count`; `NOBODY` is never chosen, infinity comes first.
      count: static.

    Returns:
      int32 `[count]`, distinct, and bool `[count]`, False where nobody was left.
    """
    least = jax.lax.top_k(scores, count)[0][-1]
    # Whoever is above the last one is in, and lots decide among those who are level with it.
    lots = jnp.where(scores > least, jnp.float32(1), -uniforms(key, scores.shape[0]))
    order = jnp.where((scores >= least) & (scores > NOBODY), lots, NOBODY)
    told, places = jax.lax.top_k(order, count)
    return places.astype(jnp.int32), told > NOBODY


def in_proportion(key: Any, weights: Any, eligible: Any, count: int) -> tuple[Any, Any]:
    """Distinct places, each next one in proportion to its weight among those that are left.

    They are the first arrivals of independent exponential clocks. A weight of 0 counts as 1e-12: it comes after all
    others and is drawn where they do not suffice.

    Returns:
      int32 `[count]` in the order of arrival, and bool `[count]`, False where nobody was left.
    """
    arrival = -jnp.log1p(-uniforms(key, weights.shape[0])) / jnp.maximum(weights, jnp.float32(1e-12))
    told, places = jax.lax.top_k(jnp.where(eligible, -arrival, NOBODY), count)
    return places.astype(jnp.int32), told > NOBODY


def learned(known: Any, ids: Any, told: Any, values: Any) -> Any:
    """`known` `[N]` with `values` `[C]` written at the ids of slots that told something."""
    return known.at[jnp.where(told, ids, known.shape[0])].set(values, mode="drop")


def heard_of(seen: Seen) -> tuple[Any, Any]:
    """Bool `[C]` twice: whose messages came in time, and which of them counted."""
    came = seen.cohort.selected & seen.cohort.reported
    return came, came & seen.in_sum


def seconds_of(latency: Latency, key: Any, round_number: Any, cohort: Cohort, population: Any) -> Any:
    """float32 `[C]`, what a latency tells of a cohort; anything of another shape is refused."""
    seconds = latency(key, round_number, cohort, population)
    if getattr(seconds, "shape", None) != cohort.ids.shape:
        given, expected = checks.shown(seconds), f"float32 {list(cohort.ids.shape)}, the seconds of each slot"
        raise TypeError(f"`latency` returned {given}; expected {expected}.")
    return jnp.asarray(seconds).astype(jnp.float32)


def setting_of(population: Any) -> Setting:
    """What of a setting a population alone tells."""
    return Setting(population.num_clients, population.num_examples, 0, 0, None, 0)


def fits(what: str, cohort_size: int, num_clients: int) -> None:
    """Refuses a population that is smaller than so many clients."""
    if cohort_size > num_clients:
        raise ValueError(
            f"`{what}` is {cohort_size}, but the population has {num_clients} clients. Use a {what} of {num_clients} "
            "or less, or a population with more clients."
        )
