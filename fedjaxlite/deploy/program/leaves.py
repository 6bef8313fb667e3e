"""Trees as flat lists of plain arrays: what two processes can exchange."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.keys import is_random_key
from fedjaxlite.wire.aggregator import Message

PyTree = Any


def leaves_of(tree: PyTree) -> list[Any]:
    """The leaves of a tree as plain arrays: random keys become the words that they are made of."""
    return [_raw(leaf) for leaf in jax.tree.leaves(tree)]


def unflattened(like: PyTree, leaves: Sequence[Any]) -> PyTree:
    """A tree of plain arrays, with random keys where `like` has them."""
    structs, tree = jax.tree.flatten(like)
    made = [wrapped(leaf) if is_random_key(struct) else leaf for struct, leaf in zip(structs, leaves, strict=True)]
    return tree.unflatten(made)


def wrapped(words: Any) -> jax.Array:
    """The random key of its words, uint32 `[..., 2]`."""
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def as_words(message: Message) -> jax.Array:
    """All of a message of integers as one uint32 vector, as a secure sum takes it."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(message)])


def of_words(like: Message, words: Any) -> Message:
    """The message of shapes `like` in a vector of `as_words`; of a sum of vectors the sum of messages."""
    structs, tree = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in structs])[:-1]
    parts = zip(jnp.split(jnp.asarray(words), ends), structs, strict=True)
    return tree.unflatten([part.reshape(struct.shape) for part, struct in parts])


def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """A leaf's shape and dtype."""
    leaf = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _raw(leaf: Any) -> Any:
    if not is_random_key(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.key_data(leaf)
