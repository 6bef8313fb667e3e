"""The focal loss: examples that a model is sure of count less."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.losses.categorical import correct, labels_of, negative_log_likelihood, row_is_padding
from fedjaxlite.losses.class_weights import check_class_weights, weights_of
from fedjaxlite.losses.loss import Loss, LossAux
from fedjaxlite.losses.outputs import aligned, check_model, num_outputs, outputs_of, row_mean
from fedjaxlite.models.types import Model

PyTree = Any
_LEAST = 1e-12
"""Of 1 - p: below it, the gradient of its power is 0 and not infinite."""


def focal(model: Model, *, gamma: float = 2.0, class_weights: Any = None) -> Loss:
    """Focal loss, -(1 - p)^gamma log p of what is right: for classes of which some are rare.

    Args:
      model: outputs logits `[B, C]` of classes, with `batch["y"]` ints `[B]` in [0, C); or, for yes or no, logits
        `[B]`, `[B, 1]` or `[B, M]`, with `batch["y"]` 0 or 1 of shape `[B]` or `[B, M]`.
      gamma: at least 0; 0 is cross entropy.
      class_weights: `[C]` of at least 0, what an example counts for by its class; `[2]` for yes or no, where
        (1 - alpha, alpha) is the paper's alpha. None is 1 for all.

    Returns:
      a Loss with metric "accuracy", as `cross_entropy`'s or `binary_cross_entropy`'s, without weights. The mean over a
      batch divides by the number of examples.

    Raises:
      TypeError, ValueError: for a gamma below 0, or weights that are none; when called, for shapes that do not fit.

    Guarantees: a class outside [0, C) gives a loss and a gradient of NaN, unless its row is masked.

    Source: Lin, Goyal, Girshick, He, Dollár (2017), Focal loss for dense object detection,
    https://arxiv.org/abs/1708.02002, equations 4 and 5.

    Example:
      >>> from fedjaxlite import models
      >>> model = models.logistic(num_classes=2, input_shape=(4,))
      >>> batch = {"x": jnp.ones((1, 4)), "y": jnp.array([1])}
      >>> print(focal(model)(model.init(jax.random.key(0)), batch, None)[0])  # (1 - 1/2)^2 log 2
      [0.1732868]
    """
    check_model(model)
    gamma = checks.nonnegative(gamma=gamma)
    weights = check_class_weights(class_weights, num_outputs(model))
    what = f"focal of `{model.name}`"

    def dimmed(losses: jax.Array) -> jax.Array:
        if not checks.is_traced(gamma) and gamma == 0:
            return losses
        return jnp.power(jnp.maximum(-jnp.expm1(-losses), _LEAST), gamma) * losses

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        outputs, state = outputs_of(model, params, batch, key)
        if outputs.ndim == 2 and outputs.shape[1] > 1 and batch["y"].ndim == 1:
            labels = labels_of(outputs, batch["y"], what, "[B, C]", "[B]")
            losses = negative_log_likelihood(outputs, labels, 0.0, row_is_padding(batch, labels))
            own = weights_of(weights, labels, outputs.shape[1], what)
            return dimmed(losses) * own, LossAux(state, {"accuracy": correct(outputs, labels)})
        losses, right, labels = _yes_or_no(outputs, batch["y"], what)
        own = weights_of(weights, labels, 2, what)
        return row_mean(dimmed(losses) * own), LossAux(state, {"accuracy": row_mean(right)})

    return Loss(fn, model.cross_example, model, "focal")


def _yes_or_no(outputs: jax.Array, targets: jax.Array, what: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-log p of the answer, whether it was given, and the answer as int32."""
    logits, wanted = aligned(outputs, targets, what)
    losses = -jax.nn.log_sigmoid(jnp.where(wanted > 0.5, logits, -logits))
    # A target that is neither 0 nor 1 (NaN, say) has no answer to be sure of.
    losses = losses * jnp.where((wanted == 0) | (wanted == 1), 1.0, np.float32(np.nan))
    return losses, ((logits > 0) == (wanted > 0.5)).astype(jnp.float32), (wanted > 0.5).astype(jnp.int32)
