"""Metrics of the order in which a model puts examples: areas under curves, exact by sorting or by stated bins."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.metrics.metric import Metric
from fedjaxlite.metrics.sums import by_halves, total
from fedjaxlite.metrics.targets import as_scores

PyTree = Any


def auroc(*, bins: int | None = None) -> Metric:
    """The area under the ROC curve: how often a positive example scores above a negative one; a tie counts half.

    Args:
      bins: None for the exact area, by sorting, for which the scores of all examples are kept. So many equal parts of
        the probabilities [0, 1] for constant memory: scores of one part tie, which moves the area by at most half the
        share of pairs that share a part.

    Returns:
      a Metric "auroc", as `sklearn.metrics.roc_auc_score`. It reads yes or no (`[B]`, logits `[B]` or `[B, 1]`), two
      classes, several yes-or-no labels `[B, M]` (the mean over labels) and classes `[B]` with outputs `[B, C]` (each
      against the rest, the mean over classes, `multi_class="ovr"`). Labels or classes without a positive or without a
      negative example are left out of that mean; NaN where none is left.

    Source: Hanley, McNeil (1982), The meaning and use of the area under a ROC curve,
    https://doi.org/10.1148/radiology.143.1.7063747

    Example:
      >>> import numpy as np
      >>> metric, one = auroc(), np.ones(4, np.float32)
      >>> float(metric.finish(metric.batch(np.float32([0.1, 0.4, 0.35, 0.8]), np.int32([0, 0, 1, 1]), one), one))
      0.75
    """
    return _ranking("auroc", _area, bins)


def auprc(*, bins: int | None = None) -> Metric:
    """The area under the precision-recall curve as average precision: the mean precision at the positive examples.

    Args:
      bins: see `auroc`.

    Returns:
      a Metric "auprc", as `sklearn.metrics.average_precision_score`, whose curve has steps and is not interpolated;
      the mean over labels or classes that have a positive example. NaN where none has, which scikit-learn calls 0.

    Example:
      >>> import numpy as np
      >>> metric, one = auprc(), np.ones(4, np.float32)
      >>> found = metric.finish(metric.batch(np.float32([0.1, 0.4, 0.35, 0.8]), np.int32([0, 0, 1, 1]), one), one)
      >>> round(float(found), 4)
      0.8333
    """
    return _ranking("auprc", _average_precision, bins)


def _ranking(name: str, area: Any, bins: int | None) -> Metric:
    def rows(outputs: Any, y: Any, weight: jax.Array) -> dict[str, jax.Array]:
        del weight
        scores, hits = as_scores(name, outputs, y)
        return {"score": scores, "hit": hits}

    def of_rows(rows: dict[str, jax.Array], weight: jax.Array) -> jax.Array:
        one = lambda score, hit: area(*_groups(score, hit, weight))  # noqa: E731
        return _mean(jax.vmap(one, in_axes=1)(rows["score"], rows["hit"]))

    if bins is None:
        return Metric(name, rows, of_rows, "higher", keep="rows")
    parts: int = checks.positive_int(bins=bins)

    def counts(outputs: Any, y: Any, weight: jax.Array) -> jax.Array:
        scores, hits = as_scores(name, outputs, y)
        place = jnp.clip((jax.nn.sigmoid(scores) * parts).astype(jnp.int32), 0, parts - 1)
        wrong = jnp.isnan(scores).any(axis=1) & (weight != 0)
        weight = jnp.where(wrong, jnp.nan, weight)
        here = jax.lax.broadcasted_iota(jnp.int32, (*place.shape, parts), 2) == place[:, :, None]
        return total(here[:, :, None, :] & jnp.stack([hits, ~hits], axis=2)[..., None], weight)

    def of_counts(table: jax.Array) -> jax.Array:
        def one(table: jax.Array) -> jax.Array:
            hits, misses = table[0, ::-1], table[1, ::-1]
            ends = jnp.cumsum(hits), jnp.cumsum(misses)
            return area(hits, misses, *ends, ends[1] - misses)

        return _mean(jax.vmap(one)(table))

    return Metric(name, counts, of_counts, "higher")


def _groups(score: jax.Array, hit: jax.Array, weight: jax.Array) -> tuple[jax.Array, ...]:
    """Rows `[n]` from the highest score down, in groups of equal scores.

    Returns:
      hits, misses, the sums of hits and of misses to the end of a row's group, and that of misses to its start.
    """
    wrong = jnp.isnan(score) & (weight != 0)
    weight = jnp.where(wrong.any(), jnp.nan, weight)
    score = jnp.where(jnp.isnan(score), -jnp.inf, score)
    # The order does not depend on the weights: resamples share one sort. Padding counts for nothing, wherever it comes.
    order = jnp.argsort(score, descending=True, stable=True)
    below = -score[order]
    first, behind = (jnp.searchsorted(below, below, side=side) for side in ("left", "right"))
    weight, hit = weight[order], hit[order].astype(jnp.float32)
    both = jnp.stack([weight * hit, weight * (1.0 - hit)])
    sums = jnp.concatenate([jnp.zeros((2, 1), jnp.float32), jnp.cumsum(both, axis=1)], axis=1)
    return both[0], both[1], sums[0, behind], sums[1, behind], sums[1, first]


def _area(hits: jax.Array, misses: jax.Array, end_hits: jax.Array, end: jax.Array, start: jax.Array) -> jax.Array:
    del end_hits
    positive, negative = by_halves(hits), by_halves(misses)
    # The two sums round differently: without the bounds an area of 0 could print as -0.00.
    below = jnp.clip(1.0 - 0.5 * (start + end) / jnp.where(negative == 0, jnp.nan, negative), 0.0, 1.0)
    return by_halves(hits * below) / positive


def _average_precision(
    hits: jax.Array, misses: jax.Array, end_hits: jax.Array, end: jax.Array, start: jax.Array
) -> jax.Array:
    del misses, start
    precision = end_hits / jnp.where(end_hits + end == 0, 1.0, end_hits + end)
    return by_halves(hits * precision) / by_halves(hits)


def _mean(areas: jax.Array) -> jax.Array:
    """The mean over labels or classes that have an area; NaN where none has."""
    there = ~jnp.isnan(areas)
    return jnp.sum(jnp.where(there, areas, 0.0)) / jnp.sum(there).astype(jnp.float32)


def roc_curve(outputs: Any, labels: Any, *, weight: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ROC curve of scores, for `fl.plots.roc`.

    Args:
      outputs: `[n]` or `[n, 1]`, higher for yes; or logits `[n, 2]` of two classes.
      labels: `[n]`, 0 or 1, or bools.
      weight: `[n]` of at least 0, or None for one each.

    Returns:
      false positive rates, true positive rates and thresholds, float64 `[T]`, from (0, 0) at infinity to (1, 1); a
      point for each distinct score of some weight. Rates are NaN where there is no negative, or no positive, example.

    Raises:
      TypeError, ValueError: for arrays of other shapes, labels other than 0 and 1, NaN among scores.

    Example:
      >>> import numpy as np
      >>> false, true, at = roc_curve(np.float32([0.1, 0.4, 0.35, 0.8]), [0, 0, 1, 1])
      >>> false.tolist(), true.tolist()
      ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    scores, hit, weight = _checked(outputs, labels, weight)
    scores, hit, weight = scores[weight > 0], hit[weight > 0], weight[weight > 0]
    order = np.argsort(-scores, kind="stable")
    scores, hit, weight = scores[order], hit[order], weight[order]
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.zeros(0, int)
    true, false = np.cumsum(weight * hit)[last], np.cumsum(weight * ~hit)[last]
    rates = [np.append(0.0, each) / (each[-1] if len(each) and each[-1] > 0 else np.nan) for each in (false, true)]
    return rates[0], rates[1], np.append(np.inf, scores[last])


def _checked(outputs: Any, labels: Any, weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    checks.concrete("A curve has as many points as there are distinct scores.", outputs=outputs, labels=labels)
    scores, given = checks.real_array(outputs=outputs, labels=labels)
    scores = np.asarray(scores, np.float64)
    if scores.ndim == 2 and scores.shape[1] == 2:
        scores = scores[:, 1] - scores[:, 0]
    scores = scores.reshape(-1) if scores.shape == (scores.size, 1) else scores
    if scores.ndim != 1 or given.shape != scores.shape:
        raise ValueError(
            f"`outputs` has shape {list(np.shape(outputs))} and `labels` {list(np.shape(given))}; expected scores [n], "
            "[n, 1] or [n, 2] and labels [n]. Of several classes take one against the rest."
        )
    hit = np.asarray(given) == 1
    if not (hit | (np.asarray(given) == 0)).all():
        row = int(np.flatnonzero(~hit & (np.asarray(given) != 0))[0])
        raise ValueError(f"`labels[{row}]` is {np.asarray(given)[row].item()!r}; expected 0 or 1.")
    if np.isnan(scores).any():
        raise ValueError(f"`outputs` is NaN in row {int(np.flatnonzero(np.isnan(scores))[0])}; expected a score.")
    checks.concrete(weight=weight)
    weight = np.ones(len(scores)) if weight is None else np.asarray(checks.real_array(weight=weight), np.float64)
    if weight.shape != scores.shape or not (weight >= 0).all():
        raise ValueError(f"`weight` has shape {list(weight.shape)}; expected {len(scores)} numbers of at least 0.")
    return scores, hit, weight
