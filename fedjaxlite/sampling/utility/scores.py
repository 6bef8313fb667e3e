"""What clients are worth to a server that chooses: closed forms, elementwise on arrays of clients."""

from typing import Any

import jax
import jax.numpy as jnp

_LARGEST = 1e30
"""Utilities end here, so that sums of them stay finite."""


def statistical_utility(num_examples: Any, loss: Any) -> Any:
    """Oort's statistical utility, n times the root mean square of the examples' losses, from their mean.

    A client tells its mean loss and not each example's, and the mean stands for the root mean square, which is never
    smaller: the two are equal where all examples of a client have the same loss. A loss that is no finite number above
    0 counts as 0, so that a client whose training broke is the last choice and not the first.

    Args:
      num_examples: int32 `[...]`.
      loss: float32 `[...]`, mean over a client's examples.

    Returns:
      float32 `[...]`.

    Source: Lai, Zhu, Madhyastha, Chowdhury (2021), "Oort", https://arxiv.org/abs/2010.06081, section 4.2.

    Example:
      >>> statistical_utility(jnp.array([10, 20]), jnp.array([2.0, 0.5])).tolist()
      [20.0, 10.0]
    """
    return jnp.minimum(jnp.asarray(num_examples).astype(jnp.float32) * sound(loss), jnp.float32(_LARGEST))


def sound(loss: Any) -> Any:
    """float32: a loss, or 0 where it is no finite number above 0."""
    loss = jnp.asarray(loss, jnp.float32)
    return jnp.where(jnp.isfinite(loss) & (loss > 0), loss, jnp.float32(0))


def system_utility(seconds: Any, preferred_seconds: Any, alpha: Any) -> Any:
    """Oort's penalty of slow clients: (T / t)^alpha for a client that takes t > T seconds, and 1 for others.

    Args:
      seconds: float32 `[...]`, t; 0 where nothing is known.
      preferred_seconds: float32 `[]`, T; infinity punishes nobody.
      alpha: float32 `[]`, at least 0.

    Returns:
      float32 `[...]` in [0, 1].

    Source: Lai, Zhu, Madhyastha, Chowdhury (2021), "Oort", https://arxiv.org/abs/2010.06081, equation 1.

    Example:
      >>> system_utility(jnp.array([5.0, 10.0, 20.0]), 10.0, 2.0).tolist()
      [1.0, 1.0, 0.25]
    """
    seconds, preferred = jnp.asarray(seconds, jnp.float32), jnp.asarray(preferred_seconds, jnp.float32)
    slow = seconds > preferred
    share = jnp.where(slow, preferred, jnp.float32(1)) / jnp.where(slow, seconds, jnp.float32(1))
    return share ** jnp.asarray(alpha, jnp.float32)


def staleness_bonus(round_number: Any, last_round: Any) -> Any:
    """Oort's bonus of clients that were not asked for long: sqrt(0.1 ln(R) / L).

    Args:
      round_number: int32 `[]`, R, counted from 1.
      last_round: int32 `[...]`, L, in which a client took part last, counted from 1; 0 for never gives 0.

    Returns:
      float32 `[...]`.

    Source: Lai, Zhu, Madhyastha, Chowdhury (2021), "Oort", https://arxiv.org/abs/2010.06081, algorithm 1.

    Example:
      >>> [round(float(bonus), 4) for bonus in staleness_bonus(100, jnp.array([1, 25, 0]))]
      [0.6786, 0.1357, 0.0]
    """
    last = jnp.asarray(last_round, jnp.int32)
    logarithm = jnp.log(jnp.asarray(round_number, jnp.int32).astype(jnp.float32))
    bonus = jnp.sqrt(jnp.float32(0.1) * logarithm / jnp.maximum(last, 1).astype(jnp.float32))
    return jnp.where(last > 0, bonus, jnp.float32(0))


def scaled(utility: Any, known: Any, clip_quantile: Any) -> Any:
    """Utilities from about 0 to 1, cut at a quantile of those that are known.

    The cap is entry min(floor(q m), m - 1) of the m known utilities in ascending order. With u the least of them, a
    client gets (min(U, cap) - 0.999 u) / (cap - 0.999 u). A bonus of about 1 says something beside that, and nothing
    beside raw utilities. The authors' program divides by the range before the cut, which one outlier can stretch.

    Args:
      utility: float32 `[N]`, at least 0.
      known: bool `[N]`.
      clip_quantile: float32 `[]` in (0, 1], q.

    Returns:
      float32 `[N]` in [0, 1]; 0 where nothing is known, or all that is known is 0.

    Example:
      >>> utility = jnp.array([1.0, 2.0, 3.0, 1000.0])
      >>> [round(float(u), 2) for u in scaled(utility, jnp.array([True, True, True, True]), 0.5)]
      [0.0, 0.5, 1.0, 1.0]
    """
    utility = jnp.asarray(utility, jnp.float32)
    count = jnp.sum(known, dtype=jnp.int32)
    rank = jnp.floor(jnp.asarray(clip_quantile, jnp.float32) * count.astype(jnp.float32)).astype(jnp.int32)
    cap = nth_smallest(utility, known, jnp.minimum(rank, count - 1))
    cap = jnp.where(count > 0, cap, jnp.float32(0))
    least = jnp.float32(0.999) * jnp.min(jnp.where(known, utility, cap))
    width = cap - least
    part = (jnp.minimum(utility, cap) - least) / jnp.where(width > 0, width, jnp.float32(1))
    return jnp.where(known & (width > 0), jnp.clip(part, 0, 1), jnp.float32(0))


def nth_smallest(values: Any, known: Any, rank: Any) -> Any:
    """float32: the known value of this rank from 0, found bit by bit: 31 counts cost a tenth of a sort.

    Args:
      values: float32 `[N]`, at least 0, whose bits are in the order of the numbers.
      known: bool `[N]`.
      rank: int32 `[]`, may be traced, below the number of known ones; infinity where there are none.
    """
    bits = jax.lax.bitcast_convert_type(jnp.where(known, values, jnp.inf) + jnp.float32(0), jnp.int32)

    def one(turn: Any, found: Any) -> Any:
        larger = found | (jnp.int32(1) << (jnp.int32(30) - turn))
        return jnp.where(jnp.sum(bits < larger, dtype=jnp.int32) <= rank, larger, found)

    found = jax.lax.fori_loop(jnp.int32(0), jnp.int32(31), one, jnp.int32(0))
    return jax.lax.bitcast_convert_type(found, jnp.float32)


def predicted_availability(present: Any, rounds: Any) -> Any:
    """The chance that a client is there, from how often it was: (times + 1) / (rounds + 2), Laplace's rule.

    Args:
      present: float32 `[...]`, rounds in which it was there.
      rounds: float32, broadcast, rounds in which one looked.

    Returns:
      float32 `[...]` in (0, 1).

    Example:
      >>> predicted_availability(jnp.array([0.0, 1.0, 2.0]), 2.0).tolist()
      [0.25, 0.5, 0.75]
    """
    return (jnp.asarray(present, jnp.float32) + jnp.float32(1)) / (jnp.asarray(rounds, jnp.float32) + jnp.float32(2))
