"""The log-likelihood of a class among C, shared by losses of labels and of sequences."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks

PyTree = Any


def negative_log_likelihood(logits: jax.Array, labels: jax.Array, smoothing: Any, quiet: jax.Array) -> jax.Array:
    """Cross entropies `[...]` of logits `[..., C]`; NaN for labels outside [0, C) except where `quiet`."""
    logits = logits.astype(jnp.float32)
    classes = logits.shape[-1]
    # A comparison instead of a gather: the gradient of a gather is a scatter, which is slow under vmap.
    hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == labels[..., None]
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    losses = normalizer - jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)
    if checks.is_traced(smoothing) or smoothing:
        losses = (1.0 - smoothing) * losses + smoothing * (normalizer - jnp.mean(logits, axis=-1))
    wrong = ((labels < 0) | (labels >= classes)) & ~quiet
    return losses * jnp.where(wrong, jnp.nan, 1.0)


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where the largest logit is the label's, else 0."""
    return (jnp.argmax(logits, axis=-1).astype(jnp.int32) == labels).astype(jnp.float32)


def labels_of(logits: Any, labels: Any, what: str, logits_shape: str, labels_shape: str) -> jax.Array:
    """The labels as int32, refused where they do not fit the logits."""
    if logits.ndim != logits_shape.count(",") + 1 or tuple(logits.shape[:-1]) != tuple(labels.shape):
        raise ValueError(
            f"{what} got logits of shape {list(logits.shape)} and labels of shape {list(labels.shape)}; expected "
            f"{logits_shape} and {labels_shape}. Labels are class indices: drop a trailing axis of 1 with "
            "`y[..., 0]`, turn one-hot rows into indices with `y.argmax(-1)`."
        )
    if logits.shape[-1] < 2:
        raise ValueError(
            f"{what} got logits of shape {list(logits.shape)}; expected one a class, 2 at least. For yes-or-no labels "
            "take fl.losses.binary_cross_entropy(model)."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{what} got labels of dtype {labels.dtype}; expected ints. Convert with `y.astype('int32')`.")
    return jnp.asarray(labels, jnp.int32)


def row_is_padding(batch: Mapping[str, jax.Array], labels: jax.Array) -> jax.Array:
    """Bool of the shape of `labels`, True in padding rows."""
    if "mask" not in batch:
        return jnp.zeros(labels.shape, bool)
    padding = ~jnp.asarray(batch["mask"], bool)
    return jnp.broadcast_to(padding.reshape(-1, *(1,) * (labels.ndim - 1)), labels.shape)
