"""A function of one device mapped over all of them, and what the devices tell each other inside of it."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.execution.layout.execution import Layout, with_model
from fedjaxlite.execution.model_axis import mesh as meshes
from fedjaxlite.execution.model_axis import placing
from fedjaxlite.execution.model_axis.mesh import AXIS

PyTree = Any


def over_devices(
    body: Callable[[Any, PyTree, PyTree, PyTree, PyTree], tuple[PyTree, PyTree]],
    layout: Layout,
    model_of: Callable[[PyTree], PyTree] | None = None,
) -> Callable[..., Any]:
    """Maps a per-device function over the devices of a layout.

    Args:
      body: `body(device, state, data, sharded, pieces) -> (replicated, sharded)`. `device` is the device's index; state
        and data are replicated; `sharded` and `pieces` are this device's piece along the leading axis of every leaf;
        sums over devices are `merge`.
      layout: where to run.
      model_of: `model_of(state)`, the parameters; what is like them keeps their sharding over a model's axes.

    Returns:
      `run(state, data, sharded, pieces=()) -> (replicated, sharded)`, jitted, on global arrays. Under
      `Execution(donate=True)` it takes over the memory of `state` and `sharded`, never that of `data` and `pieces`.
    """
    execution = layout.execution
    donate = (0, 2) if execution.donate else ()
    if layout.mesh is None:

        def run(state: PyTree, data: PyTree, sharded: PyTree, pieces: PyTree = ()) -> tuple[PyTree, PyTree]:
            return body(jnp.int32(0), state, data, sharded, pieces)

        return jax.jit(run, donate_argnums=donate) if execution.jit else run
    if execution.mapping == "pmap":
        return _pmap(body, layout)

    def local(state: PyTree, data: PyTree, sharded: PyTree, pieces: PyTree) -> tuple[PyTree, PyTree]:
        # Without the cast, the gradient of a replicated argument would be summed over devices: every client would
        # also step with the gradients of clients on other devices.
        state, data = jax.tree.map(_varying, (state, data))
        return body(jax.lax.axis_index(AXIS), state, data, sharded, pieces)

    everywhere, split = jax.P(), jax.P(AXIS)
    mapped = jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(everywhere, everywhere, split, split),
        out_specs=(everywhere, split),
        axis_names={AXIS},  # those of the model are XLA's
        check_vma=False,
    )
    if not meshes.model_axes(layout.mesh):

        def everywhere_or_split(state: PyTree, data: PyTree, sharded: PyTree, pieces: PyTree = ()) -> Any:
            return mapped(state, data, sharded, pieces)

        return jax.jit(everywhere_or_split, donate_argnums=donate)

    def run(state: PyTree, data: PyTree, sharded: PyTree, pieces: PyTree = ()) -> tuple[PyTree, PyTree]:
        table = layout.table if model_of is None else with_model(layout, model_of(state)).table
        own = (layout.mesh, table)
        if model_of is not None:
            state, sharded = placing.kept(state, *own), placing.kept(sharded, *own, sharded=True)
        replicated, sharded = mapped(state, data, sharded, pieces)
        return placing.kept(replicated, *own), placing.kept(sharded, *own, sharded=True)

    return jax.jit(run, donate_argnums=donate)


def _pmap(body: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    num = layout.num_devices
    mapped = jax.pmap(
        body,
        axis_name=AXIS,
        in_axes=(0, None, None, 0, 0),
        out_axes=(None, 0),
        devices=list(layout.devices),
    )

    def run(state: PyTree, data: PyTree, sharded: PyTree, pieces: PyTree = ()) -> tuple[PyTree, PyTree]:
        split = lambda x: x.reshape((num, x.shape[0] // num, *x.shape[1:]))  # noqa: E731
        sharded, pieces = jax.tree.map(split, (sharded, pieces))
        replicated, sharded = mapped(jnp.arange(num, dtype=jnp.int32), state, data, sharded, pieces)
        return replicated, jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), sharded)

    return run


def _varying(leaf: Any) -> Any:
    return jax.lax.pcast(leaf, AXIS, to="varying")


def merge(tree: PyTree, layout: Layout) -> PyTree:
    """Sums a pytree over the devices, inside `over_devices`."""
    if layout.num_devices == 1:
        return tree
    if not layout.execution.deterministic:
        return jax.lax.psum(tree, AXIS)
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS).sum(0, dtype=x.dtype), tree)


def in_mesh(layout: Layout) -> contextlib.AbstractContextManager[Any]:
    """A context for tracing what clients compute outside of `over_devices`: names of a model's axes are known in it."""
    if layout.num_shards == 1 or not jax.sharding.get_abstract_mesh().empty:  # one that is known already stays
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(layout.mesh.abstract_mesh)


def most_over_devices(number: jax.Array, layout: Layout) -> jax.Array:
    """The largest of the devices' numbers, inside `over_devices`."""
    return jax.lax.pmax(number, AXIS) if layout.num_devices > 1 else number


def of_all_devices(tree: PyTree, layout: Layout) -> PyTree:
    """The devices' arrays one behind the other, inside `over_devices`."""
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), tree) if layout.num_devices > 1 else tree
