"""Metrics of the class that a model decides for."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.metrics.metric import Metric, ratio
from fedjaxlite.metrics.sums import total
from fedjaxlite.metrics.targets import as_classes, check_ignored

PyTree = Any
Ids = tuple[int, ...] | None


def accuracy(*, ignored_ids: Ids = None) -> Metric:
    """The share of examples whose class is the model's first choice.

    Args:
      ignored_ids: targets that do not count. None is (0,) for tokens `[B, T]`, as in
        `fl.losses.sequence_cross_entropy`, and none for classes.

    Returns:
      a Metric "accuracy", as `sklearn.metrics.accuracy_score`. It reads classes (ints `[B]`, outputs `[B, C]`), yes or
      no (`[B]` or `[B, M]`, logits of that shape; above 0 is yes) and tokens (ints `[B, T]`, outputs `[B, T, C]`). NaN
      without examples, and for labels that are no class and outputs of NaN.

    Example:
      >>> import numpy as np
      >>> metric = accuracy()
      >>> float(metric.finish(metric.batch(np.float32([[0, 1], [2, 1]]), np.int32([1, 1]), np.float32([1, 1]))))
      0.5
    """
    return _choice("accuracy", 1, ignored_ids)


def top_k(k: int, *, ignored_ids: Ids = None) -> Metric:
    """The share of examples whose class is among the model's k first choices.

    Args:
      k: how many; where classes tie, the one of the smaller index comes first.
      ignored_ids: see `accuracy`.

    Returns:
      a Metric "top_5" for k = 5, as `sklearn.metrics.top_k_accuracy_score` where nothing ties.

    Raises:
      TypeError, ValueError: for a k below 1.

    Example:
      >>> import numpy as np
      >>> metric = top_k(2)
      >>> float(metric.finish(metric.batch(np.float32([[3, 2, 1], [3, 2, 1]]), np.int32([1, 2]), np.float32([1, 1]))))
      0.5
    """
    k = checks.positive_int(k=k)
    return _choice(f"top_{k}", k, ignored_ids)


def _choice(name: str, k: int, ignored_ids: Ids) -> Metric:
    ignored = check_ignored(ignored_ids)

    def batch(outputs: Any, y: Any, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, labels, weight = as_classes(name, outputs, y, weight, ignored)
        classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
        own = jnp.sum(jnp.where(classes == labels[:, None], logits, 0.0), axis=1, keepdims=True)
        before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
        return total(jnp.sum(before, axis=1) < k, weight), total(jnp.ones_like(weight), weight)

    return Metric(name, batch, ratio, "higher")


def balanced_accuracy() -> Metric:
    """The mean over classes of the share of a class's examples that are told right.

    Returns:
      a Metric "balanced_accuracy", as `sklearn.metrics.balanced_accuracy_score`: classes without an example are left
      out of the mean. It reads classes and yes or no `[B]`, see `accuracy`; NaN without examples.

    Source: Brodersen, Ong, Stephan, Buhmann (2010), The balanced accuracy and its posterior distribution,
    https://doi.org/10.1109/ICPR.2010.764

    Example:
      >>> import numpy as np
      >>> metric = balanced_accuracy()
      >>> float(metric.finish(metric.batch(np.float32([1, 1, 1, 1]), np.int32([1, 1, 1, 0]), np.float32([1, 1, 1, 1]))))
      0.5
    """

    def finish(counts: dict[str, jax.Array]) -> jax.Array:
        return _mean(counts["right"] / _or_one(counts["labeled"]), counts["labeled"] != 0)

    return _by_class("balanced_accuracy", finish)


def macro_f1() -> Metric:
    """The mean over classes of F1, the harmonic mean of precision and recall.

    Returns:
      a Metric "macro_f1", as `sklearn.metrics.f1_score(average="macro")`: a class that is neither labeled nor predicted
      is left out of the mean. For yes or no the mean of both classes. NaN without examples.

    Example:
      >>> import numpy as np
      >>> metric = macro_f1()
      >>> float(metric.finish(metric.batch(np.float32([1, 1, -1]), np.int32([1, 1, 0]), np.float32([1, 1, 1]))))
      1.0
    """

    def finish(counts: dict[str, jax.Array]) -> jax.Array:
        both = counts["labeled"] + counts["predicted"]
        return _mean(2.0 * counts["right"] / _or_one(both), both != 0)

    return _by_class("macro_f1", finish)


def confusion_matrix() -> Metric:
    """How many examples of each class were taken for which.

    Returns:
      a Metric "confusion_matrix": float32 `[C, C]`, rows are the labels and columns the model's choices, as
      `sklearn.metrics.confusion_matrix`; weights instead of counts where examples have some. It is an array, so it has
      no direction and no quantiles over clients: `ClientReport.arrays` holds one a client.

    Example:
      >>> import numpy as np
      >>> metric = confusion_matrix()
      >>> metric.finish(metric.batch(np.float32([1, -1, 1]), np.int32([1, 1, 0]), np.float32([1, 1, 1]))).tolist()
      [[0.0, 1.0], [1.0, 1.0]]
    """
    name = "confusion_matrix"

    def batch(outputs: Any, y: Any, weight: jax.Array) -> jax.Array:
        labeled, predicted, weight = _hits(name, outputs, y, weight)
        return jnp.einsum("nc,nd->cd", labeled * weight[:, None], predicted, precision="highest")

    return Metric(name, batch, lambda matrix: matrix, None)


def _by_class(name: str, finish: Any) -> Metric:
    def batch(outputs: Any, y: Any, weight: jax.Array) -> dict[str, jax.Array]:
        labeled, predicted, weight = _hits(name, outputs, y, weight)
        parts = {"right": labeled * predicted, "labeled": labeled, "predicted": predicted}
        return {part: total(values, weight) for part, values in parts.items()}

    return Metric(name, batch, finish, "higher")


def _hits(name: str, outputs: Any, y: Any, weight: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One-hot labels and choices `[n, C]`, and weights."""
    if jnp.ndim(y) == 2:
        raise ValueError(
            f"the metric {name!r} got targets [B, {jnp.shape(y)[1]}]; expected one class an example, [B]. Measure "
            "several labels one by one: fl.metrics.Metric(..., batch=lambda outputs, y, w: metric.batch(outputs[:, 0], "
            "y[:, 0], w))."
        )
    logits, labels, weight = as_classes(name, outputs, y, weight)
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    choice = jnp.argmax(logits, axis=1).astype(jnp.int32)
    labeled, predicted = ((classes == of[:, None]).astype(jnp.float32) for of in (labels, choice))
    return labeled, predicted, jnp.where(weight == 0, 0.0, weight)


def _mean(values: jax.Array, some: jax.Array) -> jax.Array:
    """The mean over the classes that are there; NaN where there is none."""
    return jnp.sum(jnp.where(some, values, 0.0)) / jnp.sum(some).astype(jnp.float32)


def _or_one(count: jax.Array) -> jax.Array:
    return jnp.where(count == 0, 1.0, count)
