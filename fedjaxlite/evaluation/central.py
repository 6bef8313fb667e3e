"""Evaluation of one model on data in one place."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks, losses
from fedjaxlite.data.population import Population
from fedjaxlite.local.gradients import batch_loss
from fedjaxlite.lowering import lower
from fedjaxlite.models.types import Model

PyTree = Any


def loss_for(model_or_loss: Any, features: Mapping[str, Any]) -> Callable[..., Any]:
    """The loss to evaluate with: the one given, or the usual one for a model and the kind of its labels.

    Args:
      model_or_loss: a loss function `(params, batch, key) -> [B]`, or a Model.
      features: the data, whose "y" decides for a Model: integers `[n]` take cross entropy, integers `[n, T]` the
        sequence cross entropy, floats the squared error.

    Returns:
      a loss function, with convolutions lowered where that is faster in a loop (`fedjaxlite.lower`).
    """
    if not isinstance(model_or_loss, Model):
        checks.is_callable(loss=model_or_loss)
        return lower(model_or_loss)
    if "y" not in features:
        raise ValueError(f'the data have no feature "y", only {sorted(features)}; give a loss function, not a Model.')
    labels = features["y"]
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        return lower(losses.squared_error(model_or_loss))
    return lower(
        losses.sequence_cross_entropy(model_or_loss) if labels.ndim > 1 else losses.cross_entropy(model_or_loss)
    )


def evaluate(model_or_loss: Any, data: Any, *, batch_size: int = 500) -> Callable[[PyTree], dict[str, jax.Array]]:
    """Central evaluation: the loss and its metrics over a whole data set.

    Args:
      model_or_loss: a Model, or a loss function `(params, batch, key) -> [B]`.
      data: dict of arrays `[n, ...]`, or a Population, whose clients are pooled.
      batch_size: rows at a time.

    Returns:
      `f(params) -> {"loss": ..., ...}` of float32 scalars, compiled once; exact means over all rows, weighted by
      tokens where the loss is. Losses get `key=None`: no dropout, running statistics.

    Raises:
      TypeError, ValueError: for data that are no dict of equally long arrays, or hold no rows.

    Example:
      >>> square = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> float(evaluate(square, {"x": np.float32([1, 3])})(jnp.float32(0))["loss"])
      5.0
    """
    checks.positive_int(batch_size=batch_size)
    features = data.features if isinstance(data, Population) else data
    if not isinstance(features, Mapping) or not features:
        raise TypeError(f"`data` is a {type(data).__name__}; expected a dict of arrays [n, ...], or a Population.")
    rows = {name: np.shape(array)[0] for name, array in features.items()}
    n = next(iter(rows.values()))
    if n == 0 or len(set(rows.values())) > 1:
        raise ValueError(f"`data` has features of {rows} rows; expected the same number, at least 1, in each of them.")
    loss_fn = loss_for(model_or_loss, features)
    size = min(batch_size, n)
    arrays = {name: jnp.asarray(array) for name, array in features.items()}

    @jax.jit
    def run(params: PyTree, arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        def batch(index: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
            rows = index * size + jnp.arange(size, dtype=jnp.int32)
            mask = rows < n
            taken = {name: array[jnp.minimum(rows, n - 1)] for name, array in arrays.items()}
            return {**taken, "mask": mask}, mask

        def add(total: Any, index: jax.Array) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, metric_sums(loss_fn, params, *batch(index))), None

        shapes = jax.eval_shape(lambda: metric_sums(loss_fn, params, *batch(jnp.int32(0))))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (sums, weight), _ = jax.lax.scan(add, zeros, jnp.arange(-(-n // size), dtype=jnp.int32))
        return jax.tree.map(lambda total: total / jnp.where(weight > 0, weight, 1.0), sums)

    return lambda params: run(params, arrays)


def metric_sums(
    loss_fn: Callable[..., Any], params: PyTree, batch: Any, mask: Any
) -> tuple[dict[str, jax.Array], jax.Array]:
    """A batch's loss and metrics as sums, and the weight to divide them by."""
    reduced = batch_loss(loss_fn, params, batch, mask, None)
    means = {"loss": reduced.loss, **reduced.metrics}
    return {name: mean * reduced.weight for name, mean in means.items()}, reduced.weight


def fixed_key() -> jax.Array:
    """A key for what draws nothing that matters: evaluation is no experiment with chance."""
    return jax.random.key(0, impl="threefry2x32")
