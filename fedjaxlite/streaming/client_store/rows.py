"""One client's state as a row of bytes: its leaves one after the other, whatever their dtypes."""

import hashlib
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.keys import is_random_key

PyTree = Any


class Form(NamedTuple):
    """Where the leaves of a state stand in its row.

    Attributes:
      structure: the pytree's.
      paths: of the leaves, as text.
      kinds: their dtypes (for random keys the generator's name) and shapes, as text.
      dtypes: NumPy's, of the bytes.
      shapes: of one client's leaves; of random keys, of their data.
      ends: the byte behind each leaf.
      keys: the generator of each leaf that holds random keys, else None.
    """

    structure: Any
    paths: tuple[str, ...]
    kinds: tuple[str, ...]
    dtypes: tuple[np.dtype[Any], ...]
    shapes: tuple[tuple[int, ...], ...]
    ends: tuple[int, ...]
    keys: tuple[str | None, ...]

    @property
    def size(self) -> int:
        """Bytes of a row."""
        return self.ends[-1] if self.ends else 0


def form_of(one: PyTree) -> Form:
    """The form of a state, from one client's."""
    with_paths, structure = jax.tree_util.tree_flatten_with_path(one)
    leaves = [_plain(leaf) for _, leaf in with_paths]
    sizes = [math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves]
    return Form(
        structure,
        tuple(checks.path_str(path) for path, _ in with_paths),
        tuple(f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for _, leaf in with_paths),
        tuple(leaf.dtype for leaf in leaves),
        tuple(leaf.shape for leaf in leaves),
        tuple(int(end) for end in np.cumsum(sizes)),
        tuple(str(jax.random.key_impl(leaf)) if is_random_key(leaf) else None for _, leaf in with_paths),
    )


def packed(form: Form, states: PyTree) -> np.ndarray:
    """Rows uint8 `[n, size]` of states with a leading axis of clients; random keys may come as keys or as their data.

    Raises:
      ValueError: for states of another form.
    """
    leaves, structure = jax.tree.flatten(states)
    plain = [_plain(leaf) for leaf in leaves]
    found = [(leaf.dtype, leaf.shape[1:]) for leaf in plain]
    if structure != form.structure or found != list(zip(form.dtypes, form.shapes, strict=True)):
        told = [f"{dtype}{list(shape)}" for dtype, shape in found]
        expected = [f"{dtype}{list(shape)}" for dtype, shape in zip(form.dtypes, form.shapes, strict=True)]
        raise ValueError(f"the states to keep hold {told} a client; expected {expected}, as the first state has them.")
    count = plain[0].shape[0] if plain else 0
    rows = np.empty((count, form.size), np.uint8)
    if count:
        for leaf, first, last in zip(plain, (0, *form.ends), form.ends, strict=False):
            if last > first:
                rows[:, first:last] = np.ascontiguousarray(leaf).reshape(count, -1).view(np.uint8)
    return rows


def unpacked(form: Form, rows: np.ndarray) -> PyTree:
    """States of rows uint8 `[n, size]`, as NumPy's arrays of their own; random keys as their data (`as_keys`)."""
    leaves = []
    for dtype, shape, first, last in zip(form.dtypes, form.shapes, (0, *form.ends), form.ends, strict=False):
        if last == first:
            leaves.append(np.zeros((len(rows), *shape), dtype))
        else:
            own = np.array(rows[:, first:last], order="C", copy=True)
            leaves.append(own.view(dtype).reshape((len(rows), *shape)))
    return jax.tree.unflatten(form.structure, leaves)


def first_row(form: Form, one: PyTree) -> np.ndarray:
    """The row uint8 `[size]` of one client's state."""
    return packed(form, jax.tree.map(lambda leaf: _plain(leaf)[None], one))[0] if form.size else np.empty(0, np.uint8)


def as_keys(states: PyTree, one: PyTree) -> PyTree:
    """States whose random keys are keys again: a store reads their data, which NumPy can hold.

    Args:
      states: arrays, as `ClientStore.read` gives them or as they are once placed on devices.
      one: a state in which random keys are keys.
    """
    wrap = lambda leaf, kind: (  # noqa: E731
        jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(kind))
        if is_random_key(kind) and not is_random_key(leaf)
        else leaf
    )
    return jax.tree.map(wrap, states, one)


def first_of(states: PyTree) -> PyTree:
    """One client's state of states that are all the same, as they are before a run's first round; without the axis."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0)[0] if isinstance(leaf, jax.Array) else leaf[0], states)


def identity(form: Form, first: np.ndarray, num_clients: int) -> dict[str, Any]:
    """Whose rows they are, as JSON can hold it: how many clients, what each keeps, and what it began with."""
    return {
        "num_clients": num_clients,
        "leaves": [list(pair) for pair in zip(form.paths, form.kinds, strict=True)],
        "first": hashlib.sha256(first.tobytes()).hexdigest(),
    }


def _plain(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf)) if is_random_key(leaf) else np.asarray(leaf)
