"""Which meshes a run takes: one axis is the clients', and all others are the model's."""

import math
from typing import Any

import jax
import numpy as np

from fedjaxlite import checks

AXIS = "clients"
"""The name of the device axis over which clients are trained; sums over it are sums over clients."""

_EXAMPLE = 'jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("clients", "model"))'


def line_of(devices: tuple[Any, ...]) -> jax.sharding.Mesh | None:
    """The mesh of devices that each train clients of their own; None for one."""
    return _auto(np.asarray(devices), (AXIS,)) if len(devices) > 1 else None


def checked(mesh: Any, *, devices: Any, mapping: str, jit: bool) -> jax.sharding.Mesh:
    """A mesh that was given to an Execution, all of its axes left to the compiler unless a program takes them over.

    Args:
      mesh: what was given.
      devices: `Execution.devices`.
      mapping: `Execution.mapping`.
      jit: `Execution.jit`.

    Raises:
      TypeError: for what is no mesh of devices. ValueError: for a mesh without an axis of clients, and beside what a
        mesh excludes.
    """
    if not isinstance(mesh, jax.sharding.Mesh) or isinstance(mesh, jax.sharding.AbstractMesh):
        raise TypeError(f"`mesh` is {checks.shown(mesh)}; expected a mesh of devices, such as {_EXAMPLE}.")
    names = tuple(mesh.axis_names)
    if AXIS not in names:
        raise ValueError(
            f"`mesh` has the axes {_listed(names)}; expected one named {AXIS!r}, over which clients are trained "
            f"side by side (of size 1 where they are not), and others for the model, such as {_EXAMPLE}."
        )
    if devices is not None:
        raise ValueError(
            f"`devices` is {checks.shown(devices)}, and `mesh` says which devices there are. Give one of the two."
        )
    if mapping != "shard_map":
        raise ValueError(f"`mapping` is {mapping!r}, which has one axis of devices; a `mesh` needs 'shard_map'.")
    if not jit:
        raise ValueError("`jit` is False, and over a `mesh` XLA partitions compiled programs; debug on one device.")
    return _auto(mesh.devices, names)


def model_axes(mesh: jax.sharding.Mesh | None) -> dict[str, int]:
    """The model's axes with their sizes; empty where every device trains on its own."""
    return {} if mesh is None else {str(name): size for name, size in mesh.shape.items() if name != AXIS}


def num_shards(mesh: jax.sharding.Mesh | None) -> int:
    """How many devices train one client together."""
    return math.prod(model_axes(mesh).values())


def in_order(mesh: jax.sharding.Mesh) -> tuple[Any, ...]:
    """The devices, those that train one client together next to each other."""
    return tuple(np.moveaxis(mesh.devices, mesh.axis_names.index(AXIS), 0).reshape(-1))


def _auto(devices: np.ndarray, names: tuple[Any, ...]) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(devices, names, axis_types=(jax.sharding.AxisType.Auto,) * len(names))


def _listed(names: tuple[Any, ...]) -> str:
    return ", ".join(map(repr, names)) or "none"
