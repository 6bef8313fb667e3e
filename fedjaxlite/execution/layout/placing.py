"""Arrays where rounds of a layout want them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.execution.layout.execution import Layout, spans_processes
from fedjaxlite.execution.model_axis import placing
from fedjaxlite.execution.model_axis.mesh import AXIS

PyTree = Any


def place(tree: PyTree, layout: Layout, *, sharded: bool = False) -> PyTree:
    """Puts arrays where rounds of this layout want them: one device, or replicated or sharded over the mesh.

    What is like a parameter is sharded as it is, where the layout knows the model (`with_model`). With several
    processes every process gives the same values, and keeps its own devices' part.
    """
    if layout.mesh is None:
        return jax.device_put(tree, layout.devices[0])
    targets = shardings_like(tree, layout, sharded=sharded)
    if spans_processes(layout):
        return jax.tree.map(_place_global, tree, targets)
    return jax.device_put(tree, targets)


def shardings_like(tree: PyTree, layout: Layout, *, sharded: bool = False) -> PyTree:
    """Where `place` puts each array of a pytree (or of shapes), for layouts of more than one device."""
    if not layout.table:
        everywhere = jax.NamedSharding(layout.mesh, jax.P(AXIS) if sharded else jax.P())
        stays = layout.num_shards > 1 and not sharded
        return jax.tree.map(lambda leaf: leaf.sharding if stays and _is_there(leaf, everywhere) else everywhere, tree)
    specs = placing.specs_like(tree, layout.table, sharded=sharded)
    return jax.tree.map(lambda spec: jax.NamedSharding(layout.mesh, spec), specs)


def _is_there(leaf: Any, everywhere: jax.NamedSharding) -> bool:
    """Whether an array lies on the devices already, in each lane alike: a model that an earlier round left sharded."""
    here = leaf.sharding if isinstance(leaf, jax.Array) and not checks.is_traced(leaf) else None
    if not isinstance(here, jax.NamedSharding) or here.mesh.shape != everywhere.mesh.shape:
        return False
    return here.device_set == everywhere.device_set and AXIS not in jax.tree.leaves(tuple(here.spec))


def made_in_place(make: Callable[[PyTree], PyTree], params: PyTree, layout: Layout, *, sharded: bool = False) -> PyTree:
    """What follows from the parameters, made where it is to lie: no device ever holds the whole of it."""
    targets = shardings_like(jax.eval_shape(make, params), layout, sharded=sharded)
    return jax.jit(make, out_shardings=targets)(place(params, layout))


def placed_shapes(tree: PyTree, layout: Layout, *, sharded: bool = False) -> PyTree:
    """The shapes of host arrays as they are once placed: a program that is traced for them is not traced again."""
    if layout.mesh is None or checks.is_traced(tree):
        return tree
    target = jax.NamedSharding(layout.mesh, jax.P(AXIS) if sharded else jax.P())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=target), tree)


def _place_global(leaf: Any, target: jax.NamedSharding) -> Any:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf  # made by an earlier round of the same processes
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _place_global(jax.random.key_data(leaf), target)
        return jax.random.wrap_key_data(data, impl=str(jax.random.key_impl(leaf)))
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, target, lambda index: value[index])
