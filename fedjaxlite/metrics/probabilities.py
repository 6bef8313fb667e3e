"""Metrics of a model's probabilities: how likely it held what came, and whether it was as sure as it was right."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.metrics.classification import Ids
from fedjaxlite.metrics.metric import Metric, ratio
from fedjaxlite.metrics.sums import total
from fedjaxlite.metrics.targets import as_classes, check_ignored


def negative_log_likelihood(*, ignored_ids: Ids = None) -> Metric:
    """The mean of -log p of the class that is right, in nats.

    Args:
      ignored_ids: see `fl.metrics.accuracy`.

    Returns:
      a Metric "negative_log_likelihood", as `sklearn.metrics.log_loss` of the softmax of the outputs, which are logits;
      of the sigmoid for yes or no. NaN without examples, and for labels that are no class.

    Example:
      >>> import numpy as np
      >>> metric = negative_log_likelihood()
      >>> sums = metric.batch(np.zeros((1, 4), np.float32), np.int32([2]), np.ones(1, np.float32))
      >>> round(float(metric.finish(sums)), 4)
      1.3863
    """
    return _likelihood("negative_log_likelihood", ratio, ignored_ids)


def perplexity(*, ignored_ids: Ids = None) -> Metric:
    """The exponential of `negative_log_likelihood`: among how many equally likely tokens a model is undecided.

    Args:
      ignored_ids: targets that are no real tokens; None is (0,) for tokens `[B, T]`, as in
        `fl.losses.sequence_cross_entropy`.

    Returns:
      a Metric "perplexity", from 1 on; NaN without tokens.

    Example:
      >>> import numpy as np
      >>> metric, tokens = perplexity(), np.int32([[3, 1, 0]])
      >>> round(float(metric.finish(metric.batch(np.zeros((1, 3, 5), np.float32), tokens, np.ones(1, np.float32)))), 4)
      5.0
    """
    return _likelihood("perplexity", lambda sums: jnp.exp(ratio(sums)), ignored_ids)


def _likelihood(name: str, finish: Any, ignored_ids: Ids) -> Metric:
    ignored = check_ignored(ignored_ids)

    def batch(outputs: Any, y: Any, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, labels, weight = as_classes(name, outputs, y, weight, ignored)
        return total(_nll(logits, labels), weight), total(jnp.ones_like(weight), weight)

    return Metric(name, batch, finish, "lower")


def _nll(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log p `[n]`: exact for a p near 1, where the difference of two large numbers would not be."""
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    first = jnp.argmax(logits, axis=1).astype(jnp.int32)
    most = jnp.max(logits, axis=1)
    own = jnp.sum(jnp.where(classes == labels[:, None], logits, 0.0), axis=1)
    others = jnp.where(classes == first[:, None], 0.0, jnp.exp(logits - most[:, None]))
    return (most - own) + jnp.log1p(jnp.sum(others, axis=1))


def expected_calibration_error(*, bins: int = 15) -> Metric:
    """How far a model's confidence is from its accuracy, in the mean over bins of like confidence.

    Args:
      bins: equal parts of [0, 1], each with its upper end.

    Returns:
      a Metric "expected_calibration_error": confidence is the probability of the first choice (of either answer, for
      yes or no), a bin counts by its examples. NaN without examples.

    Source: Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural networks,
    https://arxiv.org/abs/1706.04599, equation 3.

    Example:
      >>> import numpy as np
      >>> metric = expected_calibration_error()
      >>> sums = metric.batch(np.zeros((2, 2), np.float32), np.int32([0, 0]), np.ones(2, np.float32))
      >>> float(metric.finish(sums))  # half sure and always right
      0.5
    """

    def finish(table: jax.Array) -> jax.Array:
        return jnp.sum(jnp.abs(table[:, 1] - table[:, 2])) / jnp.sum(table[:, 0])

    return _binned("expected_calibration_error", bins, finish, "lower")


def reliability(*, bins: int = 15) -> Metric:
    """How often a model is right where it is how sure: what a reliability diagram shows.

    Args:
      bins: see `expected_calibration_error`.

    Returns:
      a Metric "reliability": float32 `[bins, 3]`, of each bin the examples (or their weight), the mean confidence and
      the accuracy, NaN both in a bin without examples. `fl.plots.reliability` draws it.

    Source: Guo, Pleiss, Sun, Weinberger (2017), https://arxiv.org/abs/1706.04599, section 2.

    Example:
      >>> import numpy as np
      >>> metric = reliability(bins=2)
      >>> sums = metric.batch(np.float32([[0, 9], [0, 9]]), np.int32([1, 0]), np.ones(2, np.float32))
      >>> metric.finish(sums).round(2).tolist()
      [[0.0, nan, nan], [2.0, 1.0, 0.5]]
    """

    def finish(table: jax.Array) -> jax.Array:
        count = table[:, :1]
        return jnp.concatenate([count, table[:, 1:] / jnp.where(count == 0, jnp.nan, count)], axis=1)

    return _binned("reliability", bins, finish, None)


def _binned(name: str, bins: int, finish: Any, better: Any) -> Metric:
    bins = checks.positive_int(bins=bins)

    def batch(outputs: Any, y: Any, weight: jax.Array) -> jax.Array:
        logits, labels, weight = as_classes(name, outputs, y, weight)
        classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
        first = jnp.argmax(logits, axis=1).astype(jnp.int32)
        others = jnp.where(classes == first[:, None], 0.0, jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True)))
        sure = 1.0 / (1.0 + jnp.sum(others, axis=1))
        place = jnp.clip(jnp.ceil(sure * bins).astype(jnp.int32) - 1, 0, bins - 1)
        hit = jax.lax.broadcasted_iota(jnp.int32, (*place.shape, bins), 1) == place[:, None]
        each = jnp.stack([jnp.ones_like(sure), sure, (first == labels).astype(jnp.float32)], axis=1)
        return total(jnp.where(hit[:, :, None], each[:, None, :], 0.0), weight)

    return Metric(name, batch, finish, better)
