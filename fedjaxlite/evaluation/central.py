"""Evaluation of one model on data in one place."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks, losses
from fedjaxlite.data.population import Population
from fedjaxlite.directions import Direction
from fedjaxlite.evaluation import from_disk
from fedjaxlite.evaluation.measuring import finished, measuring, steps, with_ends
from fedjaxlite.keys import as_key
from fedjaxlite.losses.outputs import output_shape
from fedjaxlite.metrics.metric import Metric
from fedjaxlite.models.types import Model
from fedjaxlite.platforms import platform_of

PyTree = Any


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A function that measures a model, and what its loss declares of its metrics.

    Attributes:
      fn: `fn(params)`, or of a state; gives a dict of scalars, or a report.
      better: "lower" or "higher" for metrics that are not the library's own.
    """

    fn: Callable[..., Any]
    better: Mapping[str, Direction] = field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What `fn` gives."""
        return self.fn(*args, **kwargs)


def loss_for(model_or_loss: Any, features: Mapping[str, Any]) -> Callable[..., Any]:
    """The loss to evaluate with: the one given, or that of a Model where the data leave no other.

    Args:
      model_or_loss: a loss function `(params, batch, key) -> [B]`, or a Model.
      features: the data. Integers "y" `[n]` and outputs `[B, C]` of a Model are classes and take cross entropy,
        integers `[n, T]` and outputs `[B, T, C]` the sequence cross entropy; C of at least 2.

    Returns:
      a loss function.

    Raises:
      TypeError: for what is neither a Model nor a function.
      ValueError: for a Model and labels that may be meant in several ways; the text says which loss to give.
    """
    if not isinstance(model_or_loss, Model):
        checks.is_function_of("params", "batch", "key", model_or_loss=model_or_loss)
        return model_or_loss
    model = model_or_loss
    if "y" not in features:
        raise ValueError(f'the data have no feature "y", only {sorted(features)}; give a loss function, not a Model.')
    arrays = {name: array if hasattr(array, "dtype") else np.asarray(array) for name, array in features.items()}
    labels, outputs = arrays["y"], output_shape(model, arrays)
    one_more = len(outputs) == labels.ndim and outputs[:-1] == labels.shape[1:] and outputs[-1] > 1
    if jnp.issubdtype(labels.dtype, jnp.integer) and one_more and labels.ndim in (1, 2):
        return losses.cross_entropy(model) if labels.ndim == 1 else losses.sequence_cross_entropy(model)
    shape = lambda sizes: f"[{', '.join(map(str, ('B', *sizes)))}]"  # noqa: E731
    raise ValueError(
        f"`{model.name}` gives outputs {shape(outputs)} and `y` is {labels.dtype} {shape(labels.shape[1:])}: its loss "
        "cannot be told; a Model is enough for classes: ints [B] with outputs [B, C], ints [B, T] with [B, T, C], C of "
        "at least 2. Give a loss in the place of the model: fl.losses.binary_cross_entropy(model) for yes or no, "
        "fl.losses.squared_error(model) for numbers, or a function of (params, batch, key)."
    )


def evaluate(
    model_or_loss: Any,
    data: Any,
    *,
    batch_size: int = 500,
    metrics: Sequence[Metric] = (),
    model: Model | None = None,
    bootstrap: int | None = None,
    key: Any = None,
) -> Evaluation:
    """Central evaluation: the loss, its metrics and those of `fl.metrics` over a whole data set.

    Args:
      model_or_loss: a loss function `(params, batch, key) -> [B]`; or a Model, of classes: ints "y" `[n]` and logits
        `[B, C]` take cross entropy, ints `[n, T]` and logits `[B, T, C]` the sequence cross entropy. For yes-or-no
        labels and for numbers give the loss, such as `fl.losses.binary_cross_entropy(model)`.
      data: dict of arrays `[n, ...]`, or a Population, whose clients are pooled. One on a disk is gone through piece by
        piece; what metrics keep of every row (exact areas under curves) is held in memory.
      batch_size: rows at a time.
      metrics: a list of `fl.metrics`, such as [fl.metrics.auroc()]. One that has the name of a metric that the loss
        gives itself, such as "accuracy", takes its place.
      model: the Model whose outputs the metrics read, where `model_or_loss` is a plain function, which tells none.
      bootstrap: so many resamples of the examples, such as 1000, for intervals; None for none.
      key: of the resamples; None draws the same in every call.

    Returns:
      `f(params) -> {"loss": ..., ...}` of float32 scalars, compiled once; exact means over all rows, weighted by
      tokens where the loss is. Losses get `key=None`: no dropout, running statistics. A metric that is an array (a
      confusion matrix) is one in the dict. With `bootstrap`, "m_low" and "m_high" beside each scalar "m": the
      percentile interval of 95 % over resamples, in which every example counts a Poisson number of times of mean 1 (the
      bootstrap of draws with replacement, in one pass over the data); resamples for which the metric is undefined are
      left out.

    Raises:
      TypeError, ValueError: for data that are no dict of equally long arrays, or hold no rows; for a Model whose loss
        the data do not tell; for metrics of a loss that does not tell its model.

    Example:
      >>> square = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> float(evaluate(square, {"x": np.float32([1, 3])})(jnp.float32(0))["loss"])
      5.0
    """
    batch_size = checks.positive_int(batch_size=batch_size)
    features = rows_of(data)
    n = next(np.shape(array)[0] for array in features.values())
    loss_fn = loss_for(model_or_loss, features)
    what = measuring(loss_fn, model_or_loss, metrics, model, bootstrap)
    draw = fixed_key() if key is None else as_key(key, "key")
    size = min(batch_size, n)
    if isinstance(data, Population) and data.on_disk:
        return Evaluation(from_disk.evaluated(what, data, size, draw), what.better)
    arrays = {name: jnp.asarray(array) for name, array in features.items()}

    @partial(jax.jit, static_argnums=0)
    def run(platform: str, params: PyTree, arrays: Mapping[str, jax.Array], draw: jax.Array) -> dict[str, jax.Array]:
        of_batch, nothing, added = steps(what, platform)

        def at(index: jax.Array) -> Any:
            rows = index * size + jnp.arange(size, dtype=jnp.int32)
            mask = rows < n
            taken = {name: array[jnp.minimum(rows, n - 1)] for name, array in arrays.items()}
            return of_batch(params, {**taken, "mask": mask}, mask, jax.random.fold_in(draw, index)), mask

        def add(total: Any, index: jax.Array) -> tuple[Any, Any]:
            batch, mask = at(index)
            return added(total, batch), (batch.rows, mask)

        zeros = nothing(jax.eval_shape(lambda: at(jnp.int32(0))[0]))
        total, kept = jax.lax.scan(add, zeros, jnp.arange(-(-n // size), dtype=jnp.int32))
        rows, mask = kept
        return with_ends(finished(what, total, rows, mask, draw, empty=1.0))

    return Evaluation(lambda params: run(platform_of((params, arrays)), params, arrays, draw), what.better)


def rows_of(data: Any) -> Mapping[str, Any]:
    """The features of data in one place, refused unless they are equally long arrays with rows."""
    features = data.features if isinstance(data, Population) else data
    if not isinstance(features, Mapping) or not features:
        raise TypeError(f"`data` is a {type(data).__name__}; expected a dict of arrays [n, ...], or a Population.")
    for name, array in features.items():
        checks.real_array(**{f"data[{name!r}]": array})
    rows = {name: next(iter(np.shape(array)), 0) for name, array in features.items()}
    if not all(rows.values()) or len(set(rows.values())) > 1:
        raise ValueError(f"`data` has features of {rows} rows; expected the same number, at least 1, in each of them.")
    return features


def fixed_key() -> jax.Array:
    """A key for what draws nothing that matters: evaluation is no experiment with chance."""
    return jax.random.key(0, impl="threefry2x32")
