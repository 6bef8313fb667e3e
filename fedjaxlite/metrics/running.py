"""Several metrics over batches: what is carried from one batch to the next, and what comes of it in the end."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.metrics.metric import Metric, by_name, feature
from fedjaxlite.metrics.sums import add

PyTree = Any


class Kept(NamedTuple):
    """What metrics have of one batch.

    Attributes:
      sums: dict by name of the trees of metrics that keep sums.
      rows: dict by name of the trees `[B, ...]` of those that keep rows.
    """

    sums: Mapping[str, PyTree]
    rows: Mapping[str, PyTree]


def of_batch(metrics: Sequence[Metric], outputs: Any, batch: Mapping[str, Any], weight: jax.Array) -> Kept:
    """What a batch gives to every metric.

    Args:
      metrics: checked.
      outputs: of the model, `[B, ...]`.
      batch: dict of `[B, ...]`.
      weight: float32 `[B]`, or `[R, B]` for R resamples at once, whose sums get a leading axis R.
    """
    sums, rows = {}, {}
    for metric in metrics:
        targets = batch if metric.targets is None else feature(batch, metric.targets, metric.name)
        if metric.keep == "rows":
            rows[metric.name] = _rows(metric, metric.batch(outputs, targets, weight), weight)
            continue

        def one(weight: jax.Array, metric: Metric = metric, targets: Any = targets) -> PyTree:
            return jax.tree.map(jnp.asarray, metric.batch(outputs, targets, weight))

        # A few resamples at a time: what a metric makes of a batch on the way may be larger than its sums.
        several = weight.ndim == 2
        sums[metric.name] = jax.lax.map(one, weight, batch_size=min(100, weight.shape[0])) if several else one(weight)
    return Kept(sums, rows)


def _rows(metric: Metric, tree: PyTree, weight: jax.Array) -> PyTree:
    tree = jax.tree.map(jnp.asarray, tree)
    for leaf in jax.tree.leaves(tree):
        if leaf.shape[:1] != weight.shape[-1:]:
            raise ValueError(
                f"the metric {metric.name!r} keeps rows, and its `batch` gave an array of shape {list(leaf.shape)} for "
                f'a batch of {weight.shape[-1]}; expected [B, ...]. A metric of sums has keep="sums".'
            )
    return tree


def nothing(shapes: Mapping[str, PyTree]) -> PyTree:
    """The sums before the first batch, in two parts each, of the shapes of `Kept.sums`."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), dict(shapes))
    return zeros, zeros


def added(metrics: Sequence[Metric], carry: PyTree, sums: Mapping[str, PyTree], *, resamples: bool = False) -> PyTree:
    """The sums with those of one more batch."""
    high, low = dict(carry[0]), dict(carry[1])
    for metric in metrics:
        if metric.keep == "rows":
            continue
        name, more = metric.name, sums[metric.name]
        if metric.merge is not None:
            merge = jax.vmap(metric.merge) if resamples else metric.merge
            high[name] = merge(high[name], more)
            continue
        parts = [add(*each) for each in zip(*map(jax.tree.leaves, (high[name], low[name], more)), strict=True)]
        structure = jax.tree.structure(more)
        high[name], low[name] = (jax.tree.unflatten(structure, [part[i] for part in parts]) for i in (0, 1))
    return high, low


def finished(metrics: Sequence[Metric], carry: PyTree, rows: Mapping[str, PyTree], weight: Any) -> dict[str, jax.Array]:
    """All results by name: scalars and arrays.

    Args:
      metrics: checked.
      carry: of `added`, without a leading axis of resamples.
      rows: dict by name of trees `[n, ...]`.
      weight: float32 `[n]` of these rows, or None without any.
    """
    results: dict[str, jax.Array] = {}
    for metric in metrics:
        if metric.keep == "rows":
            value = metric.finish(rows[metric.name], weight)
        else:
            high, low = carry[0][metric.name], carry[1][metric.name]
            value = metric.finish(high if metric.merge is not None else jax.tree.map(jnp.add, high, low))
        results.update(by_name(metric, value))
    return results
