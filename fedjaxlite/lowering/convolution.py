"""Convolutions as patches and one matrix product, written so that the derivatives are matrix products too.

The patches are gathered one spatial axis after the other: k_h + k_w slices in place of k_h * k_w. That halves the
time to compile, and in the gradient of the input fewer and wider pieces are added up.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from fedjaxlite.lowering.windows import Span, can_cut, pad, pieces, spans


def convolution_rule(avals: Sequence[Any], params: Mapping[str, Any]) -> Callable[[Array, Array], Array] | None:
    """The matrix-product form of one `conv_general_dilated`.

    Args:
      avals: shapes and dtypes of the input and the kernel.
      params: the primitive's parameters.

    Returns:
      A function of the input and the kernel, or None where the convolution stays: batch groups (differentiation makes
      them, models do not), dtypes that are not floating or not the same, empty arrays, kernels of too many slices.
    """
    lhs, rhs = avals
    if params["batch_group_count"] != 1 or lhs.dtype != rhs.dtype or not jnp.issubdtype(lhs.dtype, jnp.floating):
        return None
    if 0 in (*lhs.shape, *rhs.shape):
        return None
    numbers = params["dimension_numbers"]
    windows = spans(
        [lhs.shape[d] for d in numbers.lhs_spec[2:]],
        [rhs.shape[d] for d in numbers.rhs_spec[2:]],
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
    )
    return functools.partial(_convolve, windows=windows, params=params) if can_cut(windows) else None


def _convolve(lhs: Array, rhs: Array, *, windows: tuple[Span, ...], params: Mapping[str, Any]) -> Array:
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    lead = 1 if groups > 1 else 0
    # With one channel a group, slices along the channels would be one entry wide: the patches go in front instead.
    in_front = rhs.shape[numbers.rhs_spec[1]] == 1
    depth, first = (lead, lead + 2) if in_front else (lead + lhs.ndim - 1, lead + 1)
    x = _arrange(_pad(lhs, numbers.lhs_spec, windows), numbers.lhs_spec, groups, in_front=in_front)
    for axis, span in enumerate(windows, start=first):
        x = _gather(x, axis, span, depth)
    groups_shape = (groups,) * lead
    x = x.reshape(*groups_shape, x.shape[depth], -1) if in_front else x.reshape(*groups_shape, -1, x.shape[depth])
    kernel = _matrix(rhs, numbers.rhs_spec, groups)
    out = lax.dot_general(
        x,
        kernel,
        (((lead,) if in_front else (lead + 1,), (0,)), ((0,), (1,)) if lead else ((), ())),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    if lead:
        out = lax.transpose(out, (1, 0, 2))
    batch, lengths = lhs.shape[numbers.lhs_spec[0]], [span.number for span in windows]
    return _restore(out.reshape(batch, *lengths, -1), numbers.out_spec)


def _pad(lhs: Array, spec: Sequence[int], windows: tuple[Span, ...]) -> Array:
    whole = {axis: Span(1, 1, 1, lhs.shape[axis], 0, 0, 0) for axis in spec[:2]}
    by_axis = whole | dict(zip(spec[2:], windows, strict=True))
    return pad(lhs, [by_axis[axis] for axis in range(lhs.ndim)], 0.0)


def _arrange(x: Array, spec: Sequence[int], groups: int, *, in_front: bool) -> Array:
    """To [groups, batch, *spatial, channels], or to [groups, channels, batch, *spatial]; no axis of one group."""
    batch, channel, *spatial = spec
    if groups == 1:
        order = (channel, batch, *spatial) if in_front else (batch, *spatial, channel)
        return lax.transpose(x, order)
    x = x.reshape(*x.shape[:channel], groups, -1, *x.shape[channel + 1 :])
    batch, *spatial = (axis + 1 if axis > channel else axis for axis in (batch, *spatial))
    order = (channel + 1, batch, *spatial) if in_front else (batch, *spatial, channel + 1)
    return lax.transpose(x, (channel, *order))


def _gather(x: Array, axis: int, span: Span, depth: int) -> Array:
    """Replaces positions along `axis` by windows, whose entries go in front of what is on axis `depth`."""
    if span.size == 1:
        return x if span.stride == 1 else pieces(x, axis, span)[0]
    if not span.tiles:
        return lax.concatenate(pieces(x, axis, span), depth)
    x = x.reshape(*x.shape[:axis], span.number, span.size, *x.shape[axis + 1 :])
    x = jnp.moveaxis(x, axis + 1, depth)
    return x.reshape(*x.shape[:depth], -1, *x.shape[depth + 2 :])


def _matrix(rhs: Array, spec: Sequence[int], groups: int) -> Array:
    """The kernel as [entries of a patch, outputs] or [entries of a patch, groups, outputs of a group]."""
    out, channel, *spatial = spec
    depth = math.prod(rhs.shape[axis] for axis in (channel, *spatial))
    # The last axis that was gathered stands first in a patch.
    rhs = lax.transpose(rhs, (*reversed(spatial), channel, out))
    return rhs.reshape(depth, groups, -1) if groups > 1 else rhs.reshape(depth, -1)


def _restore(out: Array, spec: Sequence[int]) -> Array:
    """From [batch, *spatial, channels] to the layout that the convolution was asked for."""
    batch, channel, *spatial = spec
    order = [0] * out.ndim
    order[channel] = out.ndim - 1
    for position, axis in enumerate(spatial, start=1):
        order[axis] = position
    order[batch] = 0
    return lax.transpose(out, order)
