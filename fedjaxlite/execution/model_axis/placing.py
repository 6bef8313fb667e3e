"""Where each array of a run lies on a mesh with model axes.

States are made of trees like the parameters: the optimizer's moments, control variates, a bank of clients' models. An
array whose path ends like that of a parameter, and whose shape ends like its shape, lies as the parameter does; every
other one lies whole on each device of a lane. Where an array lies never changes a number beyond rounding.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.execution.model_axis.mesh import AXIS
from fedjaxlite.execution.model_axis.shardings import Entry, Table

PyTree = Any


def specs_like(tree: PyTree, table: Table, *, sharded: bool = False) -> PyTree:
    """The spec of every leaf, whole ones among them.

    Args:
      tree: pytree of arrays or shapes.
      table: of the parameters.
      sharded: whether the leading axis of every leaf runs over clients, and is shared out over their axis of the mesh.
    """
    find = _finder(table)

    def spec(path: Any, leaf: Any) -> jax.P:
        entry, ndim = find(path, leaf, 1 if sharded else 0), jnp.ndim(leaf)
        own = () if entry is None else _entries(entry)
        entries = [AXIS if sharded else None, *(None,) * (ndim - 1 - len(own)), *own] if ndim > len(own) else list(own)
        # As JAX writes the shardings of results: a state that comes back is then not compiled for anew.
        while entries and entries[-1] is None:
            entries.pop()
        return jax.P(*entries)

    return jax.tree_util.tree_map_with_path(spec, tree)


def kept(tree: PyTree, mesh: jax.sharding.Mesh, table: Table, *, sharded: bool = False) -> PyTree:
    """Arrays of a jitted program where `specs_like` wants them; around a `shard_map`, not inside of it."""
    specs = specs_like(tree, table, sharded=sharded)
    there = jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), specs)
    return jax.lax.with_sharding_constraint(tree, there)


def like_params(tree: PyTree, table: Table) -> PyTree:
    """Inside of a lane: arrays like a parameter are sharded as it is; the others lie as the compiler wants them."""
    if not any(entry.pieces > 1 for entry in table):
        return tree
    find = _finder(table)

    def one(path: Any, leaf: Any) -> Any:
        entry = find(path, leaf, 0)
        if entry is None:
            return leaf
        spec = jax.P(*(jax.P.UNCONSTRAINED,) * (leaf.ndim - len(entry.shape)), *_entries(entry))
        return jax.lax.with_sharding_constraint(leaf, spec)

    return jax.tree_util.tree_map_with_path(one, tree)


def bytes_on_each(tree: PyTree, table: Table) -> int:
    """Bytes of a pytree of arrays or shapes on each device of a lane."""
    find = _finder(table)
    total = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        entry = find(path, leaf, 0)
        total += math.prod(leaf.shape) * leaf.dtype.itemsize // (1 if entry is None else entry.pieces)
    return total


def _entries(entry: Entry) -> tuple[Any, ...]:
    return tuple(axes[0] if len(axes) == 1 else axes or None for axes in entry.axes)


def _finder(table: Table) -> Callable[[Any, Any, int], Entry | None]:
    """`find(path, leaf, lead)`, the entry of the parameter that a leaf is like; `lead` of its axes are never one's."""
    by_end: dict[Any, list[Entry]] = {}
    for entry in sorted(table, key=lambda entry: -len(entry.path)):
        by_end.setdefault(entry.path[-1] if entry.path else None, []).append(entry)

    def find(path: Any, leaf: Any, lead: int) -> Entry | None:
        names, shape = checks.path_names(path), tuple(jnp.shape(leaf))
        near = by_end.get(names[-1], []) if names else []
        for entry in [*near, *by_end.get(None, [])]:
            ahead = len(shape) - len(entry.shape)
            if ahead < lead or shape[ahead:] != entry.shape or names[len(names) - len(entry.path) :] != entry.path:
                continue
            return entry
        return None

    return find
