"""Losses of numbers: squared error."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.losses.loss import Loss, LossAux
from fedjaxlite.losses.outputs import aligned, check_model, outputs_of, row_mean
from fedjaxlite.models.types import Model

PyTree = Any


def squared_error(model: Model) -> Loss:
    """Mean squared error per example.

    Args:
      model: outputs `[B, ...]`; `batch["y"]` holds numbers of the same shape. Outputs `[B, 1]` fit targets `[B]`.

    Returns:
      a Loss, the mean of squared differences over an example's entries, with metric "absolute_error". Both are float32,
      under `jax_enable_x64` too.

    Raises:
      ValueError: when called, for shapes that do not fit.

    Example:
      >>> from fedjaxlite import models
      >>> model = models.from_functions(lambda key: jnp.zeros(3), lambda params, x: x @ params)
      >>> batch = {"x": jnp.ones((2, 3)), "y": jnp.array([1.0, 2.0])}
      >>> print(squared_error(model)(model.init(jax.random.key(0)), batch, None)[0])
      [1. 4.]
    """
    check_model(model)

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        outputs, state = outputs_of(model, params, batch, key)
        outputs, targets = aligned(outputs, batch["y"], f"squared_error of `{model.name}`")
        error = outputs - targets
        return row_mean(error * error), LossAux(state, {"absolute_error": row_mean(jnp.abs(error))})

    return Loss(fn, model.cross_example, model, "squared_error")
