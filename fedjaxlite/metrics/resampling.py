"""The bootstrap of examples by weights, which streams over batches: intervals without keeping a single row."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LEVEL = 0.95
"""Of the intervals."""

# P(a draw is at most k), k = 0, 1, ... for a Poisson distribution of mean 1; past 10 float32 knows no more.
_AT_MOST = np.cumsum(np.exp(-1.0) / np.cumprod([1.0, *range(1, 11)])).astype(np.float32)


def resampled(key: jax.Array, weight: jax.Array, num: int) -> jax.Array:
    """Weights float32 `[num, B]` of resamples: how often each example is drawn, times its own weight `[B]`.

    How often is Poisson of mean 1, for each example independently of all others: the bootstrap of n draws with
    replacement, whose number of draws varies with a standard deviation of sqrt(n). So a batch needs to know nothing of
    the others.

    Source: Chamandy, Muralidharan, Najmi, Naidu (2012), Estimating uncertainty for massive data streams,
    https://research.google/pubs/estimating-uncertainty-for-massive-data-streams/
    """
    uniform = jax.random.uniform(key, (num, *weight.shape), jnp.float32)
    times = jnp.zeros(uniform.shape, jnp.float32)
    for limit in _AT_MOST:
        times = times + (uniform >= limit).astype(jnp.float32)
    return jnp.where(weight[None] == 0, 0.0, times * weight[None])


def interval(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The ends of the central 95 % of resamples `[..., R]`; those that are NaN (one class alone) are left out."""
    tail = (1.0 - LEVEL) / 2
    ends: Any = jnp.nanquantile(values, jnp.float32([tail, 1.0 - tail]), axis=-1)
    return ends[0], ends[1]
