"""Clips: an update's norm or entries, bounded."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Bounds, ClientInfo, Message, Wire

PyTree = Any


def clip_by_global_norm(clip_norm: Any) -> Aggregator:
    """Scales a client's whole update down to an L2 norm of at most `clip_norm`.

    Args:
      clip_norm: a number above 0, infinity for no clipping, or a tracer.

    Returns:
      an Aggregator. Afterwards the wire knows the bound: every entry is at most `clip_norm` too. Weights and scalars
      are not touched.

    Raises:
      ValueError, TypeError: if `clip_norm` is not a number above 0; when built, if values are integers already.
    """
    clip_norm = checks.nonnegative(clip_norm=clip_norm, remedy="Infinity switches clipping off.")
    if not checks.is_traced(clip_norm) and float(clip_norm) == 0:
        raise ValueError("`clip_norm` is 0; expected a number above 0: a clip norm of 0 would erase every update.")
    unbounded = not checks.is_traced(clip_norm) and math.isinf(float(clip_norm))

    def init(wire: Wire) -> tuple[Any, Wire]:
        needs_floats("clip_by_global_norm", wire)
        return (), wire._replace(bounds=prepare((), wire.bounds)[1])

    def prepare(state: Any, bounds: Bounds) -> tuple[Any, Bounds]:
        if unbounded:
            return state, bounds
        return state, bounds._replace(l2=_least(bounds.l2, clip_norm), linf=_least(bounds.linf, clip_norm))

    def encode(state: Any, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        del state, client
        if unbounded:
            return message, client_state
        norm = global_norm(message.value)
        factor = jnp.minimum(1.0, jnp.asarray(clip_norm, jnp.float32) / jnp.maximum(norm, jnp.float32(1e-30)))
        value = jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), message.value)
        return message._replace(value=value), client_state

    hparams = {"clip_norm": clip_norm}
    return Aggregator(init=init, encode=encode, prepare=prepare, name="clip_by_global_norm", hparams=hparams)


def clip_by_value(max_abs: Any) -> Aggregator:
    """Clips every entry of a client's update to [-max_abs, max_abs], which bounds the range of a later `quantize`.

    Args:
      max_abs: a finite number above 0, or a tracer.

    Returns:
      an Aggregator.

    Raises:
      ValueError, TypeError: if `max_abs` is not a finite number above 0; when built, if values are integers already.
    """
    max_abs = checks.positive(max_abs=max_abs)

    def init(wire: Wire) -> tuple[Any, Wire]:
        needs_floats("clip_by_value", wire)
        return (), wire._replace(bounds=prepare((), wire.bounds)[1])

    def prepare(state: Any, bounds: Bounds) -> tuple[Any, Bounds]:
        return state, bounds._replace(linf=_least(bounds.linf, max_abs))

    def encode(state: Any, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        del state, client
        limit = jnp.asarray(max_abs, jnp.float32)
        clip = lambda leaf: jnp.clip(leaf, -limit.astype(leaf.dtype), limit.astype(leaf.dtype))  # noqa: E731
        return message._replace(value=jax.tree.map(clip, message.value)), client_state

    hparams = {"max_abs": max_abs}
    return Aggregator(init=init, encode=encode, prepare=prepare, name="clip_by_value", hparams=hparams)


def needs_floats(name: str, wire: Wire) -> None:
    """Refuses a wire of integers or masked messages, naming the first leaf and the remedy."""
    path, leaf = jax.tree_util.tree_flatten_with_path(wire.value)[0][0]
    if wire.masked:
        raise ValueError(f"`{name}` stands behind a mask; a masked message cannot be changed. Put `{name}` before it.")
    if wire.group != "float" or not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` needs float leaves, got {leaf.dtype}{list(leaf.shape)} at {checks.path_str(path)} "
            f"({'integers mod 2^32' if wire.group == 'mod32' else 'not floats'}); put `{name}` before {_packer(wire)}."
        )


def _packer(wire: Wire) -> str:
    return "`quantize`" if wire.apart is None else f"`{wire.apart}`"


def global_norm(tree: PyTree) -> jax.Array:
    """The L2 norm over all leaves, in float32 and relative to the largest entry, so that no square overflows.

    Its gradient at zero is zero, where the norm itself has none.

    Args:
      tree: a pytree of floats.

    Returns:
      float32 `[]`; NaN or infinite where an entry is.

    Example:
      >>> float(global_norm({"w": jnp.float32([3.0, 0.0]), "b": jnp.float32(4.0)}))
      5.0
      >>> jax.grad(global_norm)(jnp.zeros(2)).tolist()
      [0.0, 0.0]
    """
    checks.numeric_leaves("tree", tree)
    leaves = [jnp.asarray(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
    largest = jnp.float32(0.0)
    for leaf in leaves:
        largest = jnp.maximum(largest, jnp.max(jnp.abs(leaf), initial=0.0))
    # Compilers divide by multiplying with 1 / unit, which processors take for 0 if it is below the normal numbers.
    unit = jax.lax.stop_gradient(jnp.clip(largest, jnp.finfo(jnp.float32).tiny, 2.0**126))
    square = sum((jnp.sum(jnp.square(leaf / unit)) for leaf in leaves), jnp.float32(0.0))
    zero = square == 0  # the slope of a square root at zero is infinite; NaN is not zero, and stays
    return jnp.where(zero, 0.0, unit * jnp.sqrt(jnp.where(zero, 1.0, square)))


def _least(a: Any, b: Any) -> Any:
    if a is None:
        return b
    return jnp.minimum(a, b) if checks.is_traced((a, b)) else min(a, b)
