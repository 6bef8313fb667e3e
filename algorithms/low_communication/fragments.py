"""Equal pieces of a model's parameters in a row, one of which is exchanged in a round: the round's number mod P."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl


def check(params: Any, fragments: int) -> None:
    """Refuses a model that cannot be cut: one with state that is not trained, or with fewer numbers than pieces."""
    if isinstance(params, fl.Variables):
        raise TypeError(
            "`params` are fl.Variables; expected a model without state that is not trained (BatchNorm's statistics), "
            "which belongs to no fragment. Take `algorithms.di_lo_co`, or a model with another normalization."
        )
    fl.checks.float_leaves("params", params)
    if fragments > _count(params):
        raise ValueError(
            f"`fragments` is {fragments}, and the model has {_count(params)} parameters; expected at most so many."
        )


def rows(params: Any, fragments: int) -> jax.Array:
    """The parameters as `[P, ceil(n/P)]`, zeros behind the last."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    kinds = {leaf.dtype for leaf in leaves}
    kind = kinds.pop() if len(kinds) == 1 else jnp.dtype(jnp.float32)  # wide enough for bfloat16 beside float16
    flat = jnp.concatenate([leaf.ravel().astype(kind) for leaf in leaves])
    size = _size(params, fragments)
    return jnp.pad(flat, (0, fragments * size - flat.size)).reshape(fragments, size)


def joined(pieces: jax.Array, like: Any) -> Any:
    """The pytree that `rows` made pieces of."""
    return jax.tree.map(lambda leaf, part: part.astype(jnp.asarray(leaf).dtype), like, _split(pieces, like))


def piece(params: Any, number: jax.Array, fragments: int) -> jax.Array:
    """The fragment of a round, `[ceil(n/P)]`."""
    place = jnp.remainder(number, jnp.int32(fragments))
    return jax.lax.dynamic_index_in_dim(rows(params, fragments), place, keepdims=False)


def marked(which: jax.Array, like: Any) -> Any:
    """Bool `[P]` as a pytree of bools like the parameters: which of them lie in those fragments."""
    size = _size(like, which.shape[0])
    return _split(jnp.broadcast_to(which[:, None], (which.shape[0], size)), like)


def changed(number: jax.Array, last: jax.Array, fragments: int) -> tuple[jax.Array, jax.Array]:
    """Which fragments changed since a worker was last there.

    Args:
      number: int32 scalar, the round.
      last: int32 scalar, that in which it was there; -1 before it ever was, when it takes the whole model instead.
      fragments: P.

    Returns:
      bool `[P]` twice: those of rounds that it missed, and that of the round before this one.
    """
    before = number - 1
    places = jnp.arange(fragments, dtype=jnp.int32)
    exchanged = before - jnp.remainder(before - places, jnp.int32(fragments))
    new = (last >= 0) & (exchanged >= last)
    return new & (exchanged < before), new & (exchanged == before)


def beside(params: Any, number: jax.Array, last: jax.Array, fragments: int) -> jax.Array:
    """uint32: the bytes that a worker downloads beside one fragment; mod 2^32, since it may be less."""
    width = _width(params, fragments)
    one = width * _size(params, fragments)
    missed, late = changed(number, last, fragments)
    count = (missed.sum(dtype=jnp.uint32) + late.sum(dtype=jnp.uint32)).astype(jnp.uint32)
    whole = jnp.uint32(width * _count(params) % 2**32)
    return jnp.where(last >= 0, count * jnp.uint32(one % 2**32), whole) - jnp.uint32(one % 2**32)


def _width(params: Any, fragments: int) -> int:
    """The bytes of one number of a fragment."""
    return jax.eval_shape(lambda tree: rows(tree, fragments), params).dtype.itemsize


def _split(pieces: jax.Array, like: Any) -> Any:
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])
    flat = pieces.reshape(-1)
    parts = [flat[end - np.size(leaf) : end].reshape(np.shape(leaf)) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(structure, parts)


def _count(params: Any) -> int:
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))


def _size(params: Any, fragments: int) -> int:
    return -(-_count(params) // fragments)
