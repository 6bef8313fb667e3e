"""Outputs and targets in the forms that metrics read: classes, scores of yes or no, columns of numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks

Rows = tuple[jax.Array, jax.Array, jax.Array]


def check_ignored(ignored_ids: Any) -> tuple[int, ...] | None:
    """Ids of tokens that do not count; None for those of `sequence_cross_entropy`."""
    if ignored_ids is None:
        return None
    if not isinstance(ignored_ids, (tuple, list)):
        raise TypeError(
            f"`ignored_ids` is {checks.shown(ignored_ids)}; expected a tuple of ints such as (0,), or None."
        )
    for index, token in enumerate(ignored_ids):
        if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
            raise TypeError(f"`ignored_ids[{index}]` is {token!r}; expected an int, the id of a token not to score.")
    return tuple(int(token) for token in ignored_ids)


def as_classes(
    name: str, outputs: Any, targets: Any, weight: jax.Array, ignored: tuple[int, ...] | None = None
) -> Rows:
    """Rows of classes: logits float32 `[n, C]`, labels int32 `[n]`, weights `[n]`.

    Classes `[B]` with logits `[B, C]` are n = B rows; yes or no `[B]` with logits `[B]` or `[B, 1]` are two classes;
    several yes-or-no labels `[B, M]` with `[B, M]` are n = B M rows; tokens `[B, T]` with logits `[B, T, C]` n = B T,
    those of `ignored` (0 where that is None) with weight 0. A row whose label is none of the classes, or whose logits
    hold NaN, has a weight of NaN.
    """
    outputs, targets = _arrays(name, outputs, targets)
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs[..., 0]
    if outputs.shape == targets.shape and targets.ndim in (1, 2):
        labels, right = yes_or_no(targets)
        logits = jnp.stack([jnp.zeros_like(outputs), outputs], axis=-1).reshape(-1, 2)
        weight = jnp.broadcast_to(weight.reshape(-1, *(1,) * (targets.ndim - 1)), targets.shape).reshape(-1)
        return logits, labels.reshape(-1), _poisoned(weight, ~right.reshape(-1), logits)
    fits = outputs.ndim == targets.ndim + 1 and outputs.shape[:-1] == targets.shape and targets.ndim in (1, 2)
    if not fits or not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(
            f"the metric {name!r} got outputs {_shape(outputs)} and targets {targets.dtype} {_shape(targets)}; "
            "expected classes (ints [B] with outputs [B, C]), yes or no ([B] with [B] or [B, 1], [B, M] with [B, M]) "
            "or tokens (ints [B, T] with [B, T, C])."
        )
    classes = outputs.shape[-1]
    if targets.ndim == 2:
        weight = jnp.broadcast_to(weight[:, None], targets.shape)
        for token in (0,) if ignored is None else ignored:
            weight = jnp.where(targets == token, 0.0, weight)
        weight = weight.reshape(-1)
    elif ignored:
        for token in ignored:
            weight = jnp.where(targets == token, 0.0, weight)
    labels, logits = targets.reshape(-1).astype(jnp.int32), outputs.reshape(-1, classes)
    return logits, labels, _poisoned(weight, (labels < 0) | (labels >= classes), logits)


def as_scores(name: str, outputs: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    """Scores float32 `[B, K]` that rank rows, and which of them are hits, bool `[B, K]`.

    K is 1 for yes or no and for two classes, M for M yes-or-no labels, C for classes, each against the rest; a score is
    then the log odds of the class, which orders rows as its probability does and does not round to 1. A row that
    cannot be judged has scores of NaN.
    """
    outputs, targets = _arrays(name, outputs, targets)
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs[..., 0]
    if outputs.shape == targets.shape and targets.ndim in (1, 2):
        labels, right = yes_or_no(targets)
        columns = lambda values: values.reshape(values.shape[0], -1)  # noqa: E731
        return columns(jnp.where(right, outputs, jnp.nan)), columns(labels == 1)
    if targets.ndim != 1 or outputs.ndim != 2 or not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(
            f"the metric {name!r} got outputs {_shape(outputs)} and targets {targets.dtype} {_shape(targets)}; "
            "expected yes or no ([B] with [B] or [B, 1], [B, M] with [B, M]) or classes (ints [B] with [B, C])."
        )
    classes = outputs.shape[1]
    labels = targets.astype(jnp.int32)
    wrong = (labels < 0) | (labels >= classes) | jnp.isnan(outputs).any(axis=1)
    hits = jax.lax.broadcasted_iota(jnp.int32, outputs.shape, 1) == labels[:, None]
    odds = outputs[:, 1:] - outputs[:, :1] if classes == 2 else log_odds(outputs)
    return jnp.where(wrong[:, None], jnp.nan, odds), hits[:, 1:] if classes == 2 else hits


def log_odds(logits: jax.Array) -> jax.Array:
    """`[n, C]`, the logarithm of p / (1 - p) for each class."""
    below = logits - jnp.max(logits, axis=1, keepdims=True)
    first = (
        jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) == jnp.argmax(logits, axis=1).astype(jnp.int32)[:, None]
    )
    each = jnp.exp(below)
    rest = jnp.sum(jnp.where(first, 0.0, each), axis=1, keepdims=True)
    # 1 is the largest of them: taken off the sum, it would leave nothing of a small rest.
    return below - jnp.log(jnp.where(first, rest, 1.0 + rest - each))


def as_columns(name: str, outputs: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    """Outputs and targets of numbers as float32 `[B, M]`."""
    outputs, targets = _arrays(name, outputs, targets)
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs[..., 0]
    if outputs.shape != targets.shape or targets.ndim < 1:
        raise ValueError(
            f"the metric {name!r} got outputs {_shape(outputs)} and targets {_shape(targets)}; expected the same "
            "shape, [B, ...], or outputs [B, 1] with targets [B]."
        )
    rows = targets.shape[0]
    return outputs.reshape(rows, -1), targets.astype(jnp.float32).reshape(rows, -1)


def yes_or_no(targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Labels int32 that are 1 for yes, and whether they were 0 or 1 at all."""
    if targets.dtype == bool:
        return targets.astype(jnp.int32), jnp.ones(targets.shape, bool)
    return (targets == 1).astype(jnp.int32), (targets == 0) | (targets == 1)


def _arrays(name: str, outputs: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    if not hasattr(outputs, "dtype") or not hasattr(targets, "dtype"):
        raise ValueError(
            f"the metric {name!r} reads arrays; the model's outputs are a {type(outputs).__name__} and the targets a "
            f"{type(targets).__name__}. Write a fl.metrics.Metric whose `batch` picks what to measure."
        )
    return jnp.asarray(outputs, jnp.float32), jnp.asarray(targets)


def _poisoned(weight: jax.Array, wrong: jax.Array, logits: jax.Array) -> jax.Array:
    """Weights that are NaN in rows that count and cannot be judged: NaN is noticed, a row left out is not."""
    wrong = wrong | jnp.isnan(logits).any(axis=1)
    return jnp.where(wrong & (weight != 0), jnp.nan, weight)


def _shape(array: Any) -> str:
    return f"[{', '.join(map(str, ('B', *array.shape[1:])))}]" if array.ndim else "[]"
