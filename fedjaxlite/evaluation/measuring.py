"""What every evaluation does with a batch: one forward pass for the loss and all metrics, carried to the end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks, losses
from fedjaxlite.directions import Direction
from fedjaxlite.local.batch_loss import LossRows, call_loss, loss_rows, reduced
from fedjaxlite.losses.outputs import model_outputs
from fedjaxlite.lowering import lower
from fedjaxlite.metrics import running
from fedjaxlite.metrics.metric import Metric, by_name, check_metrics, directions_of
from fedjaxlite.metrics.resampling import interval, resampled
from fedjaxlite.models.types import Model

PyTree = Any
_OF_ROWS = 2**31 - 1
"""A fixed fold_in, of no batch."""
_MOST = 100_000
"""Resamples, whose weights for a batch are in memory at once."""
_AT_ONCE = 2**20
"""Rows times resamples that are drawn at a time."""


class Measuring(NamedTuple):
    """What is measured.

    Attributes:
      loss_fn: `(params, batch, key) -> [B]`, or with a LossAux.
      metrics: checked; empty for the loss alone.
      model: whose outputs the metrics read, or None without metrics.
      resamples: how many the intervals are of; 0 for none.
    """

    loss_fn: Callable[..., Any]
    metrics: tuple[Metric, ...] = ()
    model: Model | None = None
    resamples: int = 0

    @property
    def better(self) -> dict[str, Direction]:
        """Which way the metrics are better, where the loss or the metric says so."""
        own = self.loss_fn.better if isinstance(self.loss_fn, losses.Loss) else {}
        return {**own, **directions_of(self.metrics)}

    @property
    def keeps_rows(self) -> bool:
        """Whether a metric is finished from all rows."""
        return any(metric.keep == "rows" for metric in self.metrics)


class Sums(NamedTuple):
    """What is carried from batch to batch.

    Attributes:
      loss: the loss and the metrics that it gives itself, as sums.
      weight: the weight to divide them by.
      metrics: of `running.added`.
    """

    loss: Mapping[str, jax.Array]
    weight: jax.Array
    metrics: PyTree


class Found(NamedTuple):
    """What came of it, by name.

    Attributes:
      values: scalars and arrays.
      low: the lower end of the 95 % interval of each scalar; empty without resamples.
      high: the upper end.
    """

    values: Mapping[str, jax.Array]
    low: Mapping[str, jax.Array]
    high: Mapping[str, jax.Array]


def measuring(
    loss_fn: Callable[..., Any], model_or_loss: Any, metrics: Any, model: Model | None, bootstrap: int | None
) -> Measuring:
    """Checks what is to be measured.

    Args:
      loss_fn: of `loss_for`.
      model_or_loss: what the user gave.
      metrics: a list of fl.metrics.
      model: whose outputs the metrics read, where neither is told by `model_or_loss`.
      bootstrap: resamples, or None.

    Raises:
      TypeError, ValueError: for what is no metric or no Model; for metrics of a loss that tells no model.
    """
    chosen = check_metrics(metrics)
    if model is not None:
        checks.one_instance(Model, "a Model, such as fl.models.logistic(num_classes=10), or None", model=model)
    resamples = 0 if bootstrap is None else checks.positive_int(bootstrap=bootstrap)
    if resamples > _MOST:
        raise ValueError(f"`bootstrap` is {resamples}; expected at most {_MOST:,} resamples, such as 1000.")
    told = model_or_loss if isinstance(model_or_loss, Model) else getattr(model_or_loss, "model", None)
    model = told if model is None else model
    if chosen and model is None:
        name = getattr(loss_fn, "name", None) or getattr(loss_fn, "__name__", type(loss_fn).__name__)
        raise ValueError(
            f"`metrics` read the outputs of a model, and the loss `{name}` does not tell which one it has. Give it: "
            "model=..., a Model such as fl.models.from_functions(init, apply); or declare the loss with it: "
            "fl.losses.declare(loss, model=...)."
        )
    return Measuring(loss_fn, chosen, model if chosen else None, resamples)


class _Batch(NamedTuple):
    """A batch's part: sums, those of resamples with a leading axis R, and rows `[B, ...]`."""

    sums: Sums
    resampled: Sums | None
    rows: Mapping[str, PyTree]


class Steps(NamedTuple):
    """Functions of one program: `of_batch(params, batch, mask, key)`, `nothing(shapes)`, `added(carry, batch)`."""

    of_batch: Callable[..., _Batch]
    nothing: Callable[[_Batch], Any]
    added: Callable[[Any, _Batch], Any]


def steps(what: Measuring, platform: str | None) -> Steps:
    """The steps of a loop over batches, lowered where that is faster in a loop."""
    metrics = what.metrics

    def both(params: PyTree, batch: Mapping[str, Any], key: Any) -> tuple[Any, Any]:
        # Traced together, so that what the loss and the outputs have in common is computed once.
        model = what.model
        return call_loss(what.loss_fn, params, batch, key), None if model is None else model_outputs(
            model, params, batch
        )

    lowered = lower(both, platform=platform)

    def of_batch(params: PyTree, batch: Mapping[str, Any], mask: jax.Array, key: Any) -> _Batch:
        loss, outputs = lowered(params, batch, None)
        rows = loss_rows(lambda params, batch, key: loss, params, batch, mask, None)
        weight = mask.astype(jnp.float32)
        kept = running.of_batch(metrics, outputs, batch, weight)
        sums = Sums(*_loss_sums(rows), dict(kept.sums))
        if not what.resamples:
            return _Batch(sums, None, kept.rows)
        drawn = resampled(key, weight, what.resamples)
        again = running.of_batch([m for m in metrics if m.keep == "sums"], outputs, batch, drawn).sums
        losses = {"loss": rows.losses, **rows.metrics}
        product = lambda values: jnp.matmul(drawn, values, precision="highest")  # noqa: E731
        return _Batch(sums, Sums(jax.tree.map(product, losses), product(rows.weight), dict(again)), kept.rows)

    def nothing(shapes: _Batch) -> tuple[Sums, Sums | None]:
        def of(sums: Sums) -> Sums:
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sums)
            return zeros._replace(metrics=running.nothing(sums.metrics))

        return of(shapes.sums), None if shapes.resampled is None else of(shapes.resampled)

    def added(carry: tuple[Sums, Sums | None], batch: _Batch) -> tuple[Sums, Sums | None]:
        def of(old: Sums, new: Sums, resamples: bool) -> Sums:
            loss, weight = jax.tree.map(jnp.add, (old.loss, old.weight), (new.loss, new.weight))
            return Sums(loss, weight, running.added(metrics, old.metrics, new.metrics, resamples=resamples))

        again = None if batch.resampled is None or carry[1] is None else of(carry[1], batch.resampled, True)
        return of(carry[0], batch.sums, False), again

    return Steps(of_batch, nothing, added)


def _loss_sums(rows: LossRows) -> tuple[dict[str, jax.Array], jax.Array]:
    """A batch's loss and the metrics of the loss as sums, and the weight to divide them by."""
    of_batch = reduced(rows)
    means = {"loss": of_batch.loss, **of_batch.metrics}
    return {name: mean * of_batch.weight for name, mean in means.items()}, of_batch.weight


def finished(
    what: Measuring, carry: tuple[Sums, Sums | None], rows: Mapping[str, PyTree], mask: Any, key: Any, *, empty: float
) -> Found:
    """The results.

    Args:
      what: is measured.
      carry: after the last batch.
      rows: dict of trees `[T, B, ...]`, of all batches.
      mask: bool `[T, B]` of the rows; None where none are kept.
      key: for resamples of rows.
      empty: what the sums of the loss are divided by where there is nothing to measure: 0 makes NaN.
    """
    values = _means(carry[0], empty)
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), dict(rows))
    weight = None if mask is None else mask.reshape(-1).astype(jnp.float32)
    own = running.finished(what.metrics, carry[0].metrics, rows, weight)
    _no_clash(what.metrics, own)
    values = {**values, **own}
    if carry[1] is None:
        return Found(values, {}, {})
    again = _means(carry[1], empty)
    of_sums = [metric for metric in what.metrics if metric.keep == "sums"]
    if of_sums:
        again |= jax.vmap(lambda sums: running.finished(of_sums, sums, {}, None))(carry[1].metrics)
    if what.keeps_rows and mask is not None:
        again |= _rows_again([m for m in what.metrics if m.keep == "rows"], rows, mask, key, what.resamples)
    scalars = [name for name, value in values.items() if value.ndim == 0]
    low, high = interval(jnp.stack([again[name].astype(jnp.float32) for name in scalars]))
    named = lambda ends: {name: ends[i] for i, name in enumerate(scalars)}  # noqa: E731
    return Found(values, named(low), named(high))


def with_ends(found: Found) -> dict[str, jax.Array]:
    """The values, and the ends of their intervals beside them."""
    low = {f"{name}_low": value for name, value in found.low.items()}
    return {**found.values, **low, **{f"{name}_high": value for name, value in found.high.items()}}


def _means(sums: Sums, empty: float) -> dict[str, jax.Array]:
    weight = sums.weight if empty == 0 else jnp.where(sums.weight > 0, sums.weight, empty)
    return {name: total / weight for name, total in sums.loss.items()}


def _no_clash(metrics: tuple[Metric, ...], own: Mapping[str, Any]) -> None:
    if "loss" in own:
        raise ValueError(
            f"a metric of {[metric.name for metric in metrics]} is called 'loss', as the loss is; expected another "
            "name: metric._replace(name=...)."
        )


def _rows_again(
    metrics: Sequence[Metric], rows: Mapping[str, PyTree], mask: jax.Array, key: Any, resamples: int
) -> dict[str, jax.Array]:
    """Metrics of rows under resampled weights, `[R]` each."""
    blocks = mask.astype(jnp.float32)

    def one(key: jax.Array) -> dict[str, jax.Array]:
        # Block by block, so that more padding changes nothing of what is drawn.
        own = jax.vmap(lambda i, weight: resampled(jax.random.fold_in(key, i), weight, 1)[0])
        drawn = own(jnp.arange(blocks.shape[0], dtype=jnp.int32), blocks).reshape(-1)
        found = [by_name(metric, metric.finish(rows[metric.name], drawn)) for metric in metrics]
        return {name: value for of_metric in found for name, value in of_metric.items()}

    keys = jax.random.split(jax.random.fold_in(key, _OF_ROWS), resamples)
    return jax.lax.map(one, keys, batch_size=int(np.clip(_AT_ONCE // mask.size, 1, resamples)))
