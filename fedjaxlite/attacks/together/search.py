"""A search along a line with a fixed number of evaluations, inside of a program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SMALLEST, LARGEST = 1 / 16, 128.0
"""The factors that a search begins with."""


def largest_on_line(value: Callable[[jax.Array], jax.Array], evaluations: int) -> tuple[jax.Array, jax.Array]:
    """Where a function of a number is largest, as far as so many evaluations tell.

    The first half are a geometric grid from 1/16 to 128. Each of the others halves the wider of the two gaps beside the
    best so far, which homes in on a smooth maximum as on an edge behind which a rule sees through the attack. One
    after the other, so that memory is that of one evaluation.

    Args:
      value: of a float32 scalar; NaN never wins.
      evaluations: how many.

    Returns:
      `(where, value)`.
    """
    first = (evaluations + 1) // 2
    grid = jnp.asarray(np.geomspace(SMALLEST, LARGEST, first) if first > 1 else [1.0], jnp.float32)
    grid = jnp.concatenate([grid, jnp.zeros((evaluations - first,), jnp.float32)])

    def step(found: tuple[jax.Array, jax.Array], i: jax.Array) -> tuple[Any, None]:
        places, values = found
        place = jnp.where(i < first, grid[i], _in_the_wider_gap(places, values, jnp.arange(evaluations) < i))
        reached = value(place)
        reached = jnp.where(jnp.isnan(reached), -jnp.inf, reached)
        return (places.at[i].set(place), values.at[i].set(reached)), None

    start = (jnp.zeros((evaluations,), jnp.float32), jnp.full((evaluations,), -jnp.inf, jnp.float32))
    (places, values), _ = jax.lax.scan(step, start, jnp.arange(evaluations, dtype=jnp.int32))
    best = values.argmax()
    return places[best], values[best]


def _in_the_wider_gap(places: jax.Array, values: jax.Array, known: jax.Array) -> jax.Array:
    best = places[jnp.where(known, values, -jnp.inf).argmax()]
    below = jnp.where(known & (places < best), places, 0.0).max()
    above = jnp.where(known & (places > best), places, jnp.inf).min()
    above = jnp.where(jnp.isfinite(above), above, best)
    return jnp.where(above - best > best - below, (best + above) / 2, (below + best) / 2)
