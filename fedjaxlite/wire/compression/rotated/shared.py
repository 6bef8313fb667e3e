"""What rotated codecs share: one vector for each part of an update, turned with signs that the server can draw too."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.wire.aggregator import Bounds, ClientInfo
from fedjaxlite.wire.packing.forms import Form, from_vectors, to_vectors
from fedjaxlite.wire.packing.rotation import rotate, rotate_back, rotated_size

PyTree = Any
SEED_BYTES = 8
TURNS = 2
"""Rotations in a row. One spreads the norm, and is enough for a range. But it turns a vector with a few large entries
into one of a few values, none of them normal: of (1, 1/2, 0, 0, ...) the signs after one rotation tell nothing of the
second entry. A second rotation makes the entries normal whatever the vector was."""
TINY = float(np.finfo(np.float32).tiny)


class Rotation(NamedTuple):
    """The state of a codec with a public rotation.

    Attributes:
      seed: uint32 `[2]`, this round's public seed.
      form: static, the update's structure.
    """

    seed: Any
    form: Form


def first_seed() -> jax.Array:
    """The seed before the first round draws one."""
    return jnp.zeros((2,), jnp.uint32)


def new_seed(state: Any, cohort: Any, key: Any) -> Any:
    """A codec's `begin`: the round's public seed, for a state with a field `seed`."""
    del cohort
    return state._replace(seed=jax.random.key_data(key))


def seed_alone(state: Any, capacity: int) -> tuple[int, int]:
    """A codec's `overhead`: every client downloads the seed."""
    del state, capacity
    return 0, SEED_BYTES


def common_key(seed: jax.Array) -> jax.Array:
    """A key that everybody has, the same for all clients."""
    return jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), 0)


def own_public_key(seed: jax.Array, client: ClientInfo) -> jax.Array:
    """A key that everybody has, another one for each client."""
    public = jax.random.wrap_key_data(seed, impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(public, 1), client.id)


def sizes_of(form: Form) -> tuple[int, ...]:
    """Entries of each part's rotated vector."""
    return tuple(rotated_size(size) for size in form.part_sizes)


def turned(form: Form, value: PyTree, key: jax.Array) -> list[jax.Array]:
    """One rotated float32 vector for each part, padded to `sizes_of`."""
    found = []
    for part, (vector, size) in enumerate(zip(to_vectors(form, value), sizes_of(form), strict=True)):
        vector = jnp.pad(vector, (0, size - vector.size))
        for turn in range(TURNS):
            vector = rotate(vector, jax.random.fold_in(key, TURNS * part + turn))
        found.append(vector)
    return found


def turned_back(form: Form, vectors: Sequence[jax.Array], key: jax.Array) -> PyTree:
    """The inverse of `turned`."""
    found = []
    for part, vector in enumerate(vectors):
        for turn in reversed(range(TURNS)):
            vector = rotate_back(vector, jax.random.fold_in(key, TURNS * part + turn))
        found.append(vector)
    return from_vectors(form, found)


def look_up(table: Sequence[float] | np.ndarray, codes: jax.Array) -> jax.Array:
    """The entries of a short table, by comparisons, which processors do in vectors where they cannot look up.

    Example:
      >>> look_up([-1.5, -0.5, 0.5, 1.5], jnp.array([3, 0, 1], jnp.uint32)).tolist()
      [1.5, -1.5, -0.5]
    """
    found = jnp.full(codes.shape, table[0], jnp.float32)
    for i in range(1, len(table)):
        found = jnp.where(codes >= i, jnp.float32(table[i]), found)
    return found


def norm_of(form: Form, bounds: Bounds) -> Any:
    """The bound on the L2 norm of a whole update, or None if nothing is known."""
    if bounds.l2 is None and bounds.linf is not None:
        return bounds.linf * math.sqrt(sum(form.sizes))
    return bounds.l2


def within(form: Form, l2: Any) -> Bounds:
    """All bounds that follow from one on the L2 norm, for an update that is no longer sparse."""
    return Bounds() if l2 is None else Bounds(l2, l2, l2 * math.sqrt(sum(form.sizes)))
