"""Losses of numbers: squared error, Huber's, quantiles."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.losses.loss import Loss, LossAux
from fedjaxlite.losses.missing import check_missing, filled, mean_of_present, present, weight_of
from fedjaxlite.losses.outputs import aligned, check_model, outputs_of
from fedjaxlite.models.types import Model

PyTree = Any


def squared_error(model: Model, *, missing: str | None = None) -> Loss:
    """Mean squared error per example.

    Args:
      model: outputs `[B, ...]`; `batch["y"]` holds numbers of the same shape. Outputs `[B, 1]` fit targets `[B]`.
      missing: where targets may be missing, "nan" if those are NaN, or the name of a feature of the targets' shape that
        is true (not 0) for them. They count neither in the loss nor in the metric, and an example weighs as many as its
        targets that are there, so that the mean over a batch is the mean over targets. None: all count.

    Returns:
      a Loss, the mean of squared differences over an example's entries, with metric "absolute_error". Both are float32,
      under `jax_enable_x64` too.

    Raises:
      TypeError: for a `missing` that is no name. ValueError: when called, for shapes that do not fit, or a feature that
        is not there.

    Example:
      >>> from fedjaxlite import models
      >>> model = models.from_functions(lambda key: jnp.zeros(3), lambda params, x: x @ params)
      >>> batch = {"x": jnp.ones((2, 3)), "y": jnp.array([1.0, 2.0])}
      >>> print(squared_error(model)(model.init(jax.random.key(0)), batch, None)[0])
      [1. 4.]
    """
    return _of_errors(model, lambda error: error * error, missing, "squared_error")


def huber(model: Model, *, delta: float = 1.0, missing: str | None = None) -> Loss:
    """Huber's loss per example: half the squared error up to delta, and delta times the distance less delta / 2 beyond.

    Args:
      model: as `squared_error`'s.
      delta: above 0, in the unit of the targets; errors beyond it pull with the same force, however large.
      missing: as `squared_error`'s.

    Returns:
      a Loss, the mean over an example's entries, with metric "absolute_error".

    Raises:
      TypeError, ValueError: for a delta that is not above 0; otherwise as `squared_error`.

    Source: Huber (1964), Robust estimation of a location parameter, https://doi.org/10.1214/aoms/1177703732

    Example:
      >>> from fedjaxlite import models
      >>> model = models.from_functions(lambda key: jnp.zeros(3), lambda params, x: x @ params)
      >>> batch = {"x": jnp.ones((2, 3)), "y": jnp.array([1.0, 4.0])}
      >>> print(huber(model)(model.init(jax.random.key(0)), batch, None)[0])
      [0.5 3.5]
    """
    delta = checks.positive(delta=delta)

    def of(error: jax.Array) -> jax.Array:
        near = jnp.minimum(jnp.abs(error), delta)
        return near * (jnp.abs(error) - 0.5 * near)

    return _of_errors(model, of, missing, "huber")


def _of_errors(model: Model, of: Callable[[jax.Array], jax.Array], missing: str | None, name: str) -> Loss:
    """A loss of the difference of outputs and targets."""
    check_model(model)
    missing = check_missing(missing)
    what = f"{name} of `{model.name}`"

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        outputs, state = outputs_of(model, params, batch, key)
        there = present(batch, batch["y"], missing, what)
        outputs, targets = aligned(outputs, batch["y"], what)
        error = outputs - filled(targets, there)
        losses, off = (mean_of_present(values, there) for values in (of(error), jnp.abs(error)))
        return losses, LossAux(state, {"absolute_error": off}, weight_of(there))

    return Loss(fn, model.cross_example, model, name)


def quantile(model: Model, *, quantiles: Sequence[float], missing: str | None = None) -> Loss:
    """Quantile (pinball) loss: what is smallest at the quantiles of a target, for intervals of prediction.

    Args:
      model: outputs `[B, Q]`, one a quantile; or `[B]` for a single one.
      quantiles: Q numbers between 0 and 1, both excluded, such as (0.05, 0.5, 0.95).
      missing: as `squared_error`'s, for targets `[B]`.

    Returns:
      a Loss of `batch["y"]`, numbers `[B]`: the mean over the quantiles. It gives no metric.

    Raises:
      TypeError, ValueError: for quantiles that are none; when called, for shapes that do not fit.

    Source: Koenker, Bassett (1978), Regression quantiles, https://doi.org/10.2307/1913643

    Example:
      >>> from fedjaxlite import models
      >>> model = models.from_functions(lambda key: jnp.zeros((3, 2)), lambda params, x: x @ params)
      >>> batch = {"x": jnp.ones((2, 3)), "y": jnp.array([1.0, -1.0])}
      >>> print(quantile(model, quantiles=(0.5, 0.9))(model.init(jax.random.key(0)), batch, None))
      (Array([0.7, 0.3], dtype=float32), LossAux(state=None, metrics={}, example_weight=None))
    """
    check_model(model)
    missing = check_missing(missing)
    if isinstance(quantiles, str) or not isinstance(quantiles, Sequence) or not quantiles:
        raise TypeError(
            f"`quantiles` is {checks.shown(quantiles)}; expected numbers between 0 and 1, such as (0.05, 0.5, 0.95)."
        )
    named: dict[str, Any] = {f"quantiles[{i}]": level for i, level in enumerate(quantiles)}
    given = [checks.number(**{name: level}) for name, level in named.items()]
    levels = np.asarray(given, np.float32)
    if not ((levels > 0) & (levels < 1)).all():
        raise ValueError(f"`quantiles` is {list(quantiles)}; expected numbers between 0 and 1, both excluded.")

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        outputs, state = outputs_of(model, params, batch, key)
        outputs = outputs[:, None] if outputs.ndim == 1 else outputs
        there = present(batch, batch["y"], missing, f"quantile of `{model.name}`")
        targets = filled(batch["y"].astype(jnp.float32), there)
        if targets.ndim != 1 or outputs.shape != (*targets.shape, len(levels)):
            raise ValueError(
                f"quantile of `{model.name}` got outputs of shape {list(outputs.shape)} and targets of shape "
                f"{list(targets.shape)}; expected [B, {len(levels)}], one a quantile, and [B]."
            )
        short = targets[:, None] - outputs.astype(jnp.float32)
        level = jnp.asarray(levels)[None]
        losses = jnp.mean(jnp.maximum(level * short, (level - 1.0) * short), axis=1)
        return mean_of_present(losses, there), LossAux(state, {}, weight_of(there))

    return Loss(fn, model.cross_example, model, "quantile")
