"""Pools as reshapes and folds of slices, with the gradients that XLA's window reductions have."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjaxlite.lowering.windows import Span, can_cut, pad, pieces, spans, split

Rule = Callable[[Array], Array]


def max_rule(avals: Sequence[Any], params: Mapping[str, Any]) -> Rule | None:
    """One `reduce_window_max` without a window reduction.

    Args:
      avals: shape and dtype of the input.
      params: the primitive's parameters.

    Returns:
      A function of the input, or None where the pool stays: dtypes that are not floating, base dilation, empty
      arrays, overlapping windows of too many entries. Among equal entries the first one of a window has the gradient,
      as XLA's `select_and_scatter` gives it; of NaNs it is not said which.
    """
    windows = _windows(avals[0], params)
    if windows is None:
        return None
    return functools.partial(_tiled_max if _all_tile(windows) else _folded_max, windows=windows)


def sum_rule(avals: Sequence[Any], params: Mapping[str, Any]) -> Rule | None:
    """One `reduce_window_sum` (average pools are that and a division) without a window reduction.

    Args:
      avals: shape and dtype of the input.
      params: the primitive's parameters.

    Returns:
      A function of the input, or None under the conditions of `max_rule`. Floats of 16 bits are added up in 32.
    """
    windows = _windows(avals[0], params)
    return None if windows is None else functools.partial(_sum, windows=windows)


def _windows(aval: Any, params: Mapping[str, Any]) -> tuple[Span, ...] | None:
    if not jnp.issubdtype(aval.dtype, jnp.floating) or 0 in aval.shape or set(params["base_dilation"]) - {1}:
        return None
    windows = spans(
        aval.shape,
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        params["base_dilation"],
        params["window_dilation"],
    )
    return windows if can_cut(windows) else None


def _all_tile(windows: Sequence[Span]) -> bool:
    return all(span.tiles for span in windows)


def _tiled_max(x: Array, *, windows: tuple[Span, ...]) -> Array:
    tiles, inside = split(pad(x, windows, -math.inf), windows)
    return _first_max(tiles, inside)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _first_max(x: Array, axes: tuple[int, ...]) -> Array:
    """The maximum over `axes`. The first of equal entries has the derivative, which `jnp.max` would split."""
    return jnp.max(x, axes)


@_first_max.defjvp
def _first_max_jvp(axes: tuple[int, ...], primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    out = _first_max(x, axes)
    order, last = lax.full(x.shape, 0, jnp.int32), 1
    for axis in reversed(axes):
        order = order + last * lax.broadcasted_iota(jnp.int32, x.shape, axis)
        last *= x.shape[axis]
    largest = (x == jnp.expand_dims(out, axes)) | (x != x)  # the second half is for NaN
    first = jnp.min(jnp.where(largest, order, last), axes, keepdims=True)
    return out, jnp.sum(jnp.where(order == first, tangent, jnp.zeros_like(tangent)), axes)


def _folded_max(x: Array, *, windows: tuple[Span, ...]) -> Array:
    x = pad(x, windows, -math.inf)
    # From the last axis to the first, so that the first of equal entries in row-major order wins.
    for axis, span in reversed(list(enumerate(windows))):
        if span.size > 1 or span.stride > 1:
            x = functools.reduce(_later_if_larger, pieces(x, axis, span))
    return x


def _later_if_larger(best: Array, entry: Array) -> Array:
    return lax.select((entry > best) | (entry != entry), entry, best)


def _sum(x: Array, *, windows: tuple[Span, ...]) -> Array:
    wide = pad(x.astype(jnp.float32) if x.dtype.itemsize < 4 else x, windows, 0.0)
    if _all_tile(windows):
        wide, inside = split(wide, windows)
        return jnp.sum(wide, inside).astype(x.dtype)
    for axis, span in enumerate(windows):
        if span.size > 1 or span.stride > 1:
            wide = functools.reduce(lax.add, pieces(wide, axis, span))
    return wide.astype(x.dtype)
