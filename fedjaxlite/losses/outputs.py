"""What losses share: a model's outputs, targets that fit them, and means over what is not the batch."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.models.types import Model

PyTree = Any


def outputs_of(model: Model, params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[Any, PyTree | None]:
    """The model's outputs, and its new state in training."""
    for name in ("x", "y"):
        if name not in batch:
            raise ValueError(
                f"the batch has no `{name}`, only {sorted(batch)}; the library's losses read the features `x` and `y`. "
                "Rename the feature, or write the loss as a function of (params, batch, key)."
            )
    train = key is not None
    made = model.apply(params, batch["x"], key=key, train=train, mask=batch.get("mask"))
    outputs, state = made if model.stateful else (made, None)
    return outputs, state if train else None


def aligned(outputs: jax.Array, targets: jax.Array, what: str) -> tuple[jax.Array, jax.Array]:
    """Outputs and targets as float32 of one shape."""
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs[..., 0]
    if outputs.shape != targets.shape:
        raise ValueError(
            f"{what} got outputs of shape {list(outputs.shape)} and targets of shape {list(targets.shape)}; expected "
            "the same shape, [B, ...]. Reshape `y`, or build the model with as many outputs as there are targets."
        )
    return outputs.astype(jnp.float32), targets.astype(jnp.float32)


def row_mean(values: jax.Array) -> jax.Array:
    """`[B]`, the mean over all axes but the first."""
    return jnp.mean(values.reshape(values.shape[0], -1), axis=1)
