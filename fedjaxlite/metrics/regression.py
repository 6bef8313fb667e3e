"""Metrics of numbers."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.metrics.metric import Metric, ratio
from fedjaxlite.metrics.sums import add, total
from fedjaxlite.metrics.targets import as_columns


def mean_absolute_error() -> Metric:
    """The mean distance of outputs from targets.

    Returns:
      a Metric "mean_absolute_error", as `sklearn.metrics.mean_absolute_error`, in the targets' unit; of targets
      `[B, ...]` the mean over entries too. NaN without examples, and where a target is NaN.

    Example:
      >>> import numpy as np
      >>> metric = mean_absolute_error()
      >>> float(metric.finish(metric.batch(np.float32([1, 2]), np.float32([1, 5]), np.float32([1, 1]))))
      1.5
    """

    def batch(outputs: Any, y: Any, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        found, wanted = as_columns("mean_absolute_error", outputs, y)
        return total(jnp.mean(jnp.abs(found - wanted), axis=1), weight), total(jnp.ones_like(weight), weight)

    return Metric("mean_absolute_error", batch, ratio, "lower")


def root_mean_squared_error() -> Metric:
    """The root of the mean squared distance of outputs from targets.

    Returns:
      a Metric "root_mean_squared_error", as `sklearn.metrics.root_mean_squared_error`, in the targets' unit; of several
      targets the mean of their roots. NaN without examples, and where a target is NaN.

    Example:
      >>> import numpy as np
      >>> metric = root_mean_squared_error()
      >>> float(metric.finish(metric.batch(np.float32([1, 2, 3, 4]), np.float32([1, 2, 3, 8]), np.ones(4, np.float32))))
      2.0
    """

    def batch(outputs: Any, y: Any, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        found, wanted = as_columns("root_mean_squared_error", outputs, y)
        return total(jnp.square(found - wanted), weight), total(jnp.ones_like(weight), weight)

    return Metric("root_mean_squared_error", batch, lambda sums: jnp.mean(jnp.sqrt(sums[0] / sums[1])), "lower")


def r2() -> Metric:
    """The coefficient of determination: 1 less squared errors over the targets' squared distances from their mean.

    Returns:
      a Metric "r2", as `sklearn.metrics.r2_score`: the mean over several targets. NaN where all targets are alike,
      which scikit-learn calls 0 or 1, and so for a client of one example.

    Guarantees: squared distances are taken from each batch's mean and merged (Chan, Golub, LeVeque), so that a large
    mean cancels nothing.

    Source: Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance,
    https://doi.org/10.1080/00031305.1983.10483115

    Example:
      >>> import numpy as np
      >>> metric = r2()
      >>> sums = metric.batch(np.float32([29, 31, 39]), np.float32([30, 30, 39]), np.ones(3, np.float32))
      >>> round(float(metric.finish(sums)), 4)
      0.963
    """

    def batch(outputs: Any, y: Any, weight: jax.Array) -> dict[str, jax.Array]:
        found, wanted = as_columns("r2", outputs, y)
        count = total(jnp.ones_like(weight), weight)
        some = _or_one(count)
        rough = total(wanted, weight) / some
        off = wanted - rough[None]
        rest = total(off, weight) / some  # what rounding left of the mean
        spread = total(jnp.square(off), weight) - count * jnp.square(rest)
        zeros = jnp.zeros_like(spread)
        error = total(jnp.square(found - wanted), weight)
        sums = {"spread": spread, "spread_low": zeros, "error": error, "error_low": zeros}
        return {"count": count, "mean": rough + rest, **sums}

    def finish(sums: dict[str, jax.Array]) -> jax.Array:
        spread, error = sums["spread"] + sums["spread_low"], sums["error"] + sums["error_low"]
        return jnp.mean(1.0 - error / jnp.where(spread > 0, spread, jnp.nan))

    return Metric("r2", batch, finish, "higher", merge=_merged)


def _merged(a: dict[str, jax.Array], b: dict[str, jax.Array]) -> dict[str, jax.Array]:
    count = a["count"] + b["count"]
    share = b["count"] / _or_one(count)
    apart = b["mean"] - a["mean"]
    # A side without examples has no mean to be apart from.
    between = jnp.where((a["count"] == 0) | (b["count"] == 0), 0.0, jnp.square(apart) * a["count"] * share)
    merged = {"count": count, "mean": a["mean"] + apart * share}
    for name, more in (("spread", (b["spread"], between)), ("error", (b["error"],))):
        high, low = a[name], a[f"{name}_low"] + b[f"{name}_low"]
        for one in more:
            high, low = add(high, low, one)
        merged |= {name: high, f"{name}_low": low}
    return merged


def _or_one(count: jax.Array) -> jax.Array:
    return jnp.where(count == 0, 1.0, count)
