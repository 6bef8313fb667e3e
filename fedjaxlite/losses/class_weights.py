"""Weights of classes, for losses of labels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks


def check_class_weights(class_weights: Any, classes: int | None) -> np.ndarray | None:
    """Weights as float32 `[C]`, refused unless they are finite, none below 0 and some above."""
    if class_weights is None:
        return None
    checks.concrete("Weights of classes are constants of a loss.", class_weights=class_weights)
    given = np.asarray(checks.real_array(shape="[C]", ndim=1, class_weights=class_weights), np.float64)
    if not np.isfinite(given).all() or (given < 0).any() or not (given > 0).any():
        raise ValueError(
            f"`class_weights` is {given.tolist()}; expected finite numbers of at least 0, one a class, and one above 0."
        )
    if classes is not None and len(given) != max(classes, 2):
        raise ValueError(f"`class_weights` has {len(given)} entries for a model of {max(classes, 2)} classes.")
    return given.astype(np.float32)


def weights_of(class_weights: np.ndarray | None, labels: jax.Array, classes: int, what: str) -> Any:
    """The weight of each label; 1.0 without weights."""
    if class_weights is None:
        return 1.0
    if len(class_weights) != classes:
        raise ValueError(
            f"{what} got {len(class_weights)} `class_weights` for {classes} classes; expected one a class."
        )
    hit = jax.lax.broadcasted_iota(jnp.int32, (*labels.shape, classes), labels.ndim) == labels[..., None]
    weights = jnp.asarray(class_weights).reshape(*(1,) * labels.ndim, classes)
    return jnp.sum(jnp.where(hit, weights, 0.0), axis=-1)
