"""Means and deviations of columns, to float32 of the pooled examples' however far from zero they lie.

A sum of squares of numbers such as 1e6 ± 1 has no digit left for the 1. So clients send sums of what is shifted and
scaled by numbers that they are given: first by nothing, for a rough mean; then by it, for a rough deviation; then by
both, where all sums are close to zero and their rounding is too. With bounds, as noise needs them, values are shifted
and scaled by the bounds, and one sum is enough.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.preprocessing import columns as columns_of
from fedjaxlite.preprocessing import sums as sums_of
from fedjaxlite.preprocessing.sums import About

TERMS = 3
"""A value within bounds, its square, and the count."""

FLOOR = 1e-2
"""Of half the width of the bounds: the least deviation, where noise may have taken a variance to nothing or below."""

_MOST = 1e30
"""A square beyond it counts as this, in the first sums; the last are of what has a deviation near 1."""

_LEAST = 1e-12
"""Of the mean, a deviation that is the rounding of 0: two neighboring float32 numbers are 6e-8 of it apart."""


class Moments(NamedTuple):
    """float64 `[C]`: the means and deviations (divided by the count, not by one less)."""

    mean: np.ndarray
    deviation: np.ndarray


def measure(rows: jax.Array, mask: jax.Array, shared: Any) -> dict[str, jax.Array]:
    """Sums of (x - shift) / scale and of its square less a guess of it, over known entries within bounds."""
    values = rows.astype(jnp.float32)
    known = jnp.isfinite(values) & mask[:, None]
    values = jnp.where(known, values, shared["shift"][None])
    values = jnp.clip(values, shared["low"][None], shared["high"][None])
    values = (values - shared["shift"][None]) / shared["scale"][None]
    squares = jnp.minimum(values * values, _MOST) - shared["guess"][None]
    total = jnp.stack([jnp.where(known, part, 0.0).sum(0) for part in (values, squares)])
    return {"total": total, "count": known.astype(jnp.float32).sum(0), "strange": jnp.int32(0)}


def moments(
    about: About,
    bounds: np.ndarray | None,
    *,
    aggregator: fl.Aggregator | None,
    execution: fl.Execution,
) -> tuple[Callable[..., Moments], Callable[..., fl.Computation]]:
    """Means and deviations of the columns of a step.

    Args:
      about: the step.
      bounds: of its columns, or None.
      aggregator: `fl.mean()` if None.
      execution: lanes and devices.

    Returns:
      `learn(population, cohort, key, noise_key) -> Moments`, and what makes a Computation of a function around it.
    """
    column_sum = sums_of.column_sum(measure, about, terms=TERMS, aggregator=aggregator, execution=execution)
    limited, noised = column_sum.limits.limited, column_sum.limits.noised

    def learn(population: fl.Population, cohort: fl.Cohort, key: jax.Array, noise_key: Any) -> Moments:
        sums_of.check_feature(about.step, about.feature, population.features)
        row_shape = population.features[about.feature].shape[1:]
        chosen = columns_of.indices(about.step, about.columns, row_shape)
        low, high = columns_of.bounds_of(about.step, bounds, len(chosen))

        def call(number: int, shift: np.ndarray, scale: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, ...]:
            given = {"shift": shift, "scale": scale, "guess": guess, "low": low, "high": high}
            shared = {name: jnp.asarray(values, jnp.float32) for name, values in given.items()}
            got = column_sum.call(shared, population, cohort, key, noise_key, number)
            if not limited:
                sums_of.nobody(about, got.counts, row_shape)
            # What clients used was rounded to float32; taking its own value for it makes the rounding no error.
            used = {name: np.asarray(values, np.float64) for name, values in shared.items()}
            return got.mean[0], got.mean[1] + used["guess"], used["shift"], used["scale"]

        none, one = np.zeros(len(chosen)), np.ones(len(chosen))
        if limited:
            center, half = (low + high) / 2, (high - low) / 2
            return _within_bounds(*call(0, center, half, none), noised=noised)
        first, square, shift, _ = call(0, none, one, none)
        size = np.maximum(np.abs(first), np.sqrt(square))
        near, square, shift, scale = call(1, shift + first, np.where(size > 0, size, 1.0), none)
        rough = scale * np.sqrt(np.maximum(square - near**2, 0.0))
        some = rough > _LEAST * size
        near, square, shift, scale = call(2, shift + scale * near, np.where(some, rough, 1.0), np.where(some, 1.0, 0.0))
        mean, deviation = shift + scale * near, scale * np.sqrt(np.maximum(square - near**2, 0.0))
        return Moments(mean, np.where(deviation > _LEAST * np.abs(mean), deviation, 0.0))

    def computation(name: str, run: Callable[..., Any]) -> fl.Computation:
        return column_sum.computation(name, run, 1 if limited else 3)

    return learn, computation


def _within_bounds(
    near: np.ndarray, square: np.ndarray, center: np.ndarray, half: np.ndarray, *, noised: bool
) -> Moments:
    """Moments that values within bounds can have, whatever noise was added: no more is known where nobody counts."""
    known = np.isfinite(near)
    near = np.where(known, np.clip(near, -1.0, 1.0), 0.0)
    variance = np.where(known, square - near**2, 1.0)
    least = FLOOR**2 if noised else 0.0
    return Moments(center + half * near, half * np.sqrt(np.clip(variance, least, 1.0)))
