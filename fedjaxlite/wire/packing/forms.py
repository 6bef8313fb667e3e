"""The form of a value: its structure and shapes, static, so that what was packed can be unpacked.

A form is a pytree node without leaves: it rides in a codec's state at no cost, and survives jit, vmap and checkpoints.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.wire.aggregator import Wire

PyTree = Any


@jax.tree_util.register_static
@dataclass(frozen=True)
class Form:
    """The structure of a client's value.

    Attributes:
      tree: structure of the value.
      shapes: of its leaves.
      parts: structure of its weights, a tree prefix of the value; one leaf where a client has one weight.
      part_of: for each leaf, the number of the weight that it has.
    """

    tree: Any
    shapes: tuple[tuple[int, ...], ...]
    parts: Any
    part_of: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Entries of each leaf."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def part_sizes(self) -> tuple[int, ...]:
        """Entries of each part: the leaves with one weight."""
        sizes = [0] * self.parts.num_leaves
        for size, part in zip(self.sizes, self.part_of, strict=True):
            sizes[part] += size
        return tuple(sizes)


def form_of(wire: Wire) -> Form:
    """The form of the value that a wire carries, with its weights.

    Example:
      >>> import fedjaxlite as fl
      >>> form = form_of(fl.wire_of({"b": jnp.zeros(3), "w": jnp.zeros((2, 3))}, capacity=1))
      >>> form.sizes, form.part_sizes
      ((3, 6), (9,))
    """
    leaves, tree = jax.tree.flatten(wire.value)
    numbers, parts = jax.tree.flatten(wire.weight)
    numbered = jax.tree.unflatten(parts, list(range(len(numbers))))
    part_of = jax.tree.leaves(jax.tree.map(lambda part, sub: jax.tree.map(lambda _: part, sub), numbered, wire.value))
    return Form(tree, tuple(tuple(leaf.shape) for leaf in leaves), parts, tuple(part_of))


def to_leaves(form: Form, value: PyTree) -> list[jax.Array]:
    """The leaves of a value of this form, each as a float32 vector `[n]`."""
    return [jnp.asarray(leaf).astype(jnp.float32).reshape(-1) for leaf in form.tree.flatten_up_to(value)]


def from_leaves(form: Form, leaves: Sequence[jax.Array]) -> PyTree:
    """The value whose leaves are these, in their own shapes."""
    return form.tree.unflatten([leaf.reshape(shape) for leaf, shape in zip(leaves, form.shapes, strict=True)])


def to_vectors(form: Form, value: PyTree) -> list[jax.Array]:
    """One float32 vector `[d]` for each part: its leaves, one after the other."""
    of_part: list[list[jax.Array]] = [[] for _ in form.part_sizes]
    for leaf, part in zip(to_leaves(form, value), form.part_of, strict=True):
        of_part[part].append(leaf)
    return [leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves) for leaves in of_part]


def from_vectors(form: Form, vectors: Sequence[jax.Array]) -> PyTree:
    """The inverse of `to_vectors`; what a vector has beyond its part's entries is dropped.

    Example:
      >>> import fedjaxlite as fl
      >>> value = {"b": jnp.ones(2), "w": jnp.zeros((1, 2))}
      >>> form = form_of(fl.wire_of(value, capacity=1))
      >>> [v.tolist() for v in to_vectors(form, value)], from_vectors(form, [jnp.arange(4.0)])["w"].tolist()
      ([[1.0, 1.0, 0.0, 0.0]], [[2.0, 3.0]])
    """
    begin, leaves = [0] * len(vectors), []
    for size, part in zip(form.sizes, form.part_of, strict=True):
        leaves.append(vectors[part][begin[part] : begin[part] + size])
        begin[part] += size
    return from_leaves(form, leaves)


def to_parts(form: Form, things: Sequence[Any]) -> PyTree:
    """A value with one thing for each part, so that the weights stay a tree prefix of it."""
    return form.parts.unflatten(list(things))


def of_parts(form: Form, value: PyTree) -> list[Any]:
    """The inverse of `to_parts`."""
    return form.parts.flatten_up_to(value)


def num_bytes(tree: PyTree) -> int:
    """Bytes of all arrays of a pytree, or of their shapes.

    Example:
      >>> num_bytes((jnp.zeros(3), jnp.zeros(2, jnp.uint8)))
      14
    """
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
