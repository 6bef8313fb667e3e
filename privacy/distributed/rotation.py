"""The update as one vector, and the random rotation of the wire that spreads its norm evenly over its entries.

After it no entry is much larger than norm / sqrt(d), whatever the vector was, so that rounding to a grid costs every
vector the same. Here d is a power of two, for which the rotation is H D / sqrt(d), as in the source.

Source: Kairouz, Liu, Steinke (2021), https://arxiv.org/abs/2102.06387, section 4.2.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl

PyTree = Any

padded_size = fl.compression.padded_size
rotate = fl.compression.rotate
rotate_back = fl.compression.rotate_back


def flatten(tree: PyTree, size: int | None = None) -> jax.Array:
    """All leaves as one float32 vector, in the order of `jax.tree.leaves`, with zeros up to `size`.

    Example:
      >>> flatten({"a": jnp.ones((1, 2)), "b": jnp.float32(3.0)}, 4).tolist()
      [1.0, 1.0, 3.0, 0.0]
    """
    parts = [jnp.asarray(leaf).astype(jnp.float32).reshape(-1) for leaf in jax.tree.leaves(tree)]
    vector = jnp.concatenate(parts)
    return vector if size is None else jnp.pad(vector, (0, size - vector.size))


def unflatten(vector: jax.Array, template: PyTree) -> PyTree:
    """The inverse of `flatten`: a tree of the structure and shapes of `template`; what is left over is dropped.

    Example:
      >>> unflatten(jnp.arange(4.0), {"a": jnp.zeros((1, 2)), "b": jnp.zeros(())})["b"].item()
      2.0
    """
    leaves, treedef = jax.tree.flatten(template)
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])
    starts = [0, *ends[:-1]]
    parts = [vector[a:b].reshape(leaf.shape) for a, b, leaf in zip(starts, ends, leaves, strict=True)]
    return jax.tree.unflatten(treedef, parts)
