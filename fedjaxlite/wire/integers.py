"""What codecs share that sum in the integers mod 2^32: whole words, and the wires on which they can."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.wire.aggregator import Wire

PyTree = Any


def words_like(tree: PyTree) -> PyTree:
    """The shapes of a tree whose every entry is a whole word, uint32."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.uint32), tree)


def to_word(numbers: jax.Array) -> jax.Array:
    """Integers, int32, as integers mod 2^32 in uint32: the same bits."""
    return jax.lax.bitcast_convert_type(numbers, jnp.uint32)


def most_summed(name: str, wire: Wire) -> int:
    """The most messages of weight 1 that a sum counts: capacity x weight cap.

    Raises:
      ValueError: for scalars without a bound, which have no range, and weights that are no integers with a cap.
    """
    for scalar in wire.scalars:
        if scalar not in wire.scalar_bounds:
            raise ValueError(
                f"`{name}` needs a bound on the scalar {scalar!r}; the algorithm declares none. Add it to "
                "Algorithm.scalar_bounds."
            )
    if wire.weight_cap is None:
        raise ValueError(
            f"`{name}` sums integers, so weights must be integers with a cap: got float weights, or a weighted_mean "
            "without a cap. Use fl.weighted_mean(weight_cap=...) with an algorithm that weighs by example counts, or "
            "fl.mean(); neither goes with a sampler that scales weights."
        )
    return wire.capacity * wire.weight_cap
