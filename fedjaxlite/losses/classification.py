"""Losses of one label an example: categorical and binary cross-entropy."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.losses.categorical import correct, labels_of, negative_log_likelihood, row_is_padding
from fedjaxlite.losses.class_weights import check_class_weights, weights_of
from fedjaxlite.losses.loss import Loss, LossAux
from fedjaxlite.losses.missing import check_missing, filled, mean_of_present, present, weight_of
from fedjaxlite.losses.outputs import aligned, check_model, num_outputs, outputs_of
from fedjaxlite.models.types import Model

PyTree = Any


def cross_entropy(model: Model, *, label_smoothing: float = 0.0, class_weights: Any = None) -> Loss:
    """Cross entropy of a class per example.

    Args:
      model: outputs logits `[B, C]`; `batch["y"]` holds ints `[B]` in [0, C).
      label_smoothing: the share of probability spread evenly over all classes, in [0, 1).
      class_weights: `[C]` of at least 0, what an example's loss is multiplied by for its class; None is 1 for all. The
        mean over a batch still divides by the number of examples, so that a client with one class alone feels its
        weight; divided by the sum of the weights, as PyTorch does by default, it would not.

    Returns:
      a Loss with metric "accuracy" (1 where the largest logit is the label's). Both are float32, under `jax_enable_x64`
      too.

    Raises:
      ValueError: for a `label_smoothing` outside [0, 1), weights that are none or are not one a class, or a model of
        one output; or when called, for shapes that do not fit.
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
    weights = check_class_weights(class_weights, classes)
    what = f"cross_entropy of `{model.name}`"

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        logits, state = outputs_of(model, params, batch, key)
        labels = labels_of(logits, batch["y"], what, "[B, C]", "[B]")
        losses = negative_log_likelihood(logits, labels, label_smoothing, row_is_padding(batch, labels))
        if weights is not None:
            losses = losses * weights_of(weights, labels, logits.shape[-1], what)
        return losses, LossAux(state, {"accuracy": correct(logits, labels)})

    return Loss(fn, model.cross_example, model, "cross_entropy")


def binary_cross_entropy(model: Model, *, missing: str | None = None) -> Loss:
    """Logistic loss of yes-or-no labels, one or several per example.

    Args:
      model: outputs logits `[B]`, `[B, 1]` or `[B, M]`; `batch["y"]` holds `[B]` or `[B, M]` bools, ints or floats in
        [0, 1].
      missing: where labels may be missing, "nan" if those are NaN, or the name of a feature of the labels' shape that
        is true (not 0) for them. They count neither in the loss nor in the metric, and an example weighs as many as its
        labels that are there, so that the mean over a batch is the mean over labels. None: all count.

    Returns:
      a Loss, the mean over an example's M labels, with metric "accuracy" (the share of labels on the right side). Both
      are float32, under `jax_enable_x64` too.

    Raises:
      TypeError: for a `missing` that is no name. ValueError: when called, for shapes that do not fit, or a feature that
        is not there.

    Example:
      >>> from fedjaxlite import models
      >>> model = models.logistic(num_classes=1, input_shape=(4,))
      >>> batch = {"x": jnp.ones((2, 4)), "y": jnp.array([0, 1])}
      >>> print(binary_cross_entropy(model)(model.init(jax.random.key(0)), batch, None)[0])
      [0.6931472 0.6931472]
    """
    check_model(model)
    missing = check_missing(missing)
    what = f"binary_cross_entropy of `{model.name}`"

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        outputs, state = outputs_of(model, params, batch, key)
        there = present(batch, batch["y"], missing, what)
        logits, targets = aligned(outputs, batch["y"], what)
        targets = filled(targets, there)
        losses = -targets * jax.nn.log_sigmoid(logits) - (1.0 - targets) * jax.nn.log_sigmoid(-logits)
        right = ((logits > 0) == (targets > 0.5)).astype(jnp.float32)
        losses, right = (mean_of_present(values, there) for values in (losses, right))
        return losses, LossAux(state, {"accuracy": right}, weight_of(there))

    return Loss(fn, model.cross_example, model, "binary_cross_entropy")
