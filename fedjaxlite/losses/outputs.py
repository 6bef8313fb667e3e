"""What losses share: a model's outputs, targets that fit them, and means over what is not the batch."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.models.types import Model

PyTree = Any


def outputs_of(model: Model, params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[Any, PyTree | None]:
    """The model's outputs, and its new state in training."""
    _has(batch, "x", "y")
    train = key is not None
    made = model.apply(params, batch["x"], key=key, train=train, mask=batch.get("mask"))
    outputs, state = made if model.stateful else (made, None)
    return outputs, state if train else None


def model_outputs(model: Model, params: PyTree, batch: Mapping[str, jax.Array]) -> Any:
    """The model's outputs in evaluation; the batch needs no targets."""
    _has(batch, "x")
    made = model.apply(params, batch["x"], key=None, train=False, mask=batch.get("mask"))
    return made[0] if model.stateful else made


def _has(batch: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if name not in batch:
            raise ValueError(
                f"the batch has no `{name}`, only {sorted(batch)}; the library's losses read the features `x` and `y`. "
                "Rename the feature, or write the loss as a function of (params, batch, key)."
            )


def output_shape(model: Model, features: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of the model's outputs for one example of the data, found without computing anything."""
    rows = {name: jax.ShapeDtypeStruct((1, *np.shape(x)[1:]), _dtype(x)) for name, x in features.items()}
    key = jax.random.key(0, impl="threefry2x32")
    return jax.eval_shape(lambda rows: outputs_of(model, model.init(key), rows, None)[0], rows).shape[1:]


def _dtype(array: Any) -> Any:
    return jax.dtypes.canonicalize_dtype(array.dtype)


def num_outputs(model: Model) -> int | None:
    """How many numbers a model gives an example, where its hyperparameters say so."""
    told = model.hparams["features"][-1:] if model.name == "mlp" and "features" in model.hparams else ()
    told = (model.hparams["num_classes"],) if "num_classes" in model.hparams else told
    return told[0] if told and isinstance(told[0], int) else None


def check_model(model: Any) -> None:
    """Refuses what is no Model."""
    checks.one_instance(Model, "a Model, such as fl.models.logistic(num_classes=10)", model=model)


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
