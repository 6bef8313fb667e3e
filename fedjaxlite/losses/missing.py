"""Targets that are partly not there: which entries count, and what an example weighs for it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks


def check_missing(missing: Any) -> str | None:
    """The name of what says which entries are missing, or None."""
    return None if missing is None else checks.text('It is "nan", or the name of a feature.', missing=missing)


def present(batch: Mapping[str, jax.Array], targets: jax.Array, missing: str | None, what: str) -> Any:
    """Which targets are there, bool of their shape; None where all have to be."""
    if missing is None:
        return None
    if missing == "nan":
        return ~jnp.isnan(targets)
    if missing not in batch:
        raise ValueError(
            f"{what} takes the feature {missing!r} for which targets are missing; the batch has {sorted(batch)}. Give "
            'missing="nan" where they are NaN.'
        )
    gone = batch[missing]
    if gone.shape != targets.shape:
        raise ValueError(
            f"{what} got the feature {missing!r} of shape {list(gone.shape)} and targets of shape "
            f"{list(targets.shape)}; expected the same shape, true where a target is missing."
        )
    return ~gone.astype(bool)


def filled(targets: jax.Array, there: Any) -> jax.Array:
    """The targets with 0 for what is missing: no NaN may reach a gradient, not even times 0."""
    return targets if there is None else jnp.where(there, targets, 0.0)


def mean_of_present(values: jax.Array, there: Any) -> jax.Array:
    """`[B]`, the mean over those of an example's entries that are there; 0 where none is."""
    rows = values.reshape(values.shape[0], -1)
    if there is None:
        return jnp.mean(rows, axis=1)
    some = there.reshape(rows.shape)
    return jnp.sum(jnp.where(some, rows, 0.0), axis=1) / jnp.maximum(weight_of(there), 1.0)


def weight_of(there: Any) -> Any:
    """float32 `[B]`, how many entries of each example are there; None where all have to be."""
    return None if there is None else jnp.sum(there.reshape(there.shape[0], -1), axis=1).astype(jnp.float32)
