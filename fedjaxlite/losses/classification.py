"""Losses of one label an example: categorical and binary cross-entropy."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.losses.categorical import correct, labels_of, negative_log_likelihood, row_is_padding
from fedjaxlite.losses.loss import Loss, LossAux
from fedjaxlite.losses.outputs import aligned, check_model, num_outputs, outputs_of, row_mean
from fedjaxlite.models.types import Model

PyTree = Any


def cross_entropy(model: Model, *, label_smoothing: float = 0.0) -> Loss:
    """Cross entropy of a class per example.

    Args:
      model: outputs logits `[B, C]`; `batch["y"]` holds ints `[B]` in [0, C).
      label_smoothing: the share of probability spread evenly over all classes, in [0, 1).

    Returns:
      a Loss with metric "accuracy" (1 where the largest logit is the label's). Both are float32, under `jax_enable_x64`
      too.

    Raises:
      ValueError: for a `label_smoothing` outside [0, 1), or a model of one output; or when called, for shapes that do
        not fit.
      TypeError: when called, for labels that are not ints.

    Guarantees: a label outside [0, C) gives a loss and a gradient of NaN, so that it is noticed, unless its row is
    masked.

    Example:
      >>> from fedjaxlite import models
      >>> model = models.logistic(num_classes=10)
      >>> loss_fn = cross_entropy(model)
      >>> batch = {"x": jnp.zeros((2, 8, 8, 1)), "y": jnp.array([3, 7])}
      >>> losses, aux = loss_fn(model.init(jax.random.key(0)), batch, jax.random.key(1))
      >>> print(losses)
      [2.3025851 2.3025851]
    """
    check_model(model)
    label_smoothing = checks.fraction(label_smoothing=label_smoothing)
    classes = num_outputs(model)
    if classes is not None and classes < 2:
        raise ValueError(
            f"`model` is `{model.name}` with {classes} output; expected one a class, 2 at least. For yes-or-no labels "
            "take fl.losses.binary_cross_entropy(model)."
        )

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        logits, state = outputs_of(model, params, batch, key)
        labels = labels_of(logits, batch["y"], f"cross_entropy of `{model.name}`", "[B, C]", "[B]")
        losses = negative_log_likelihood(logits, labels, label_smoothing, row_is_padding(batch, labels))
        return losses, LossAux(state, {"accuracy": correct(logits, labels)})

    return Loss(fn, model.cross_example, model, "cross_entropy")


def binary_cross_entropy(model: Model) -> Loss:
    """Logistic loss of yes-or-no labels, one or several per example.

    Args:
      model: outputs logits `[B]`, `[B, 1]` or `[B, M]`; `batch["y"]` holds `[B]` or `[B, M]` bools, ints or floats in
        [0, 1].

    Returns:
      a Loss, the mean over an example's M labels, with metric "accuracy" (the share of labels on the right side). Both
      are float32, under `jax_enable_x64` too.

    Raises:
      ValueError: when called, for shapes that do not fit.

    Example:
      >>> from fedjaxlite import models
      >>> model = models.logistic(num_classes=1, input_shape=(4,))
      >>> batch = {"x": jnp.ones((2, 4)), "y": jnp.array([0, 1])}
      >>> print(binary_cross_entropy(model)(model.init(jax.random.key(0)), batch, None)[0])
      [0.6931472 0.6931472]
    """
    check_model(model)

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        outputs, state = outputs_of(model, params, batch, key)
        logits, targets = aligned(outputs, batch["y"], f"binary_cross_entropy of `{model.name}`")
        losses = -targets * jax.nn.log_sigmoid(logits) - (1.0 - targets) * jax.nn.log_sigmoid(-logits)
        right = ((logits > 0) == (targets > 0.5)).astype(jnp.float32)
        return row_mean(losses), LossAux(state, {"accuracy": row_mean(right)})

    return Loss(fn, model.cross_example, model, "binary_cross_entropy")
