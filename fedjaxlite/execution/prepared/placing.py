"""A prepared cohort on the devices: what all of them have, and the piece of each."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedjaxlite import processes
from fedjaxlite.data.prepared_cohort import PreparedCohort
from fedjaxlite.execution.layout import AXIS, Layout, place

PyTree = Any


def placed(data: Any, layout: Layout) -> Any:
    """A prepared cohort where rounds of a layout want it; what lies there already stays."""
    if isinstance(data, PreparedCohort) and _is_there(data, layout):
        return data
    if not isinstance(data, PreparedCohort) or (data.owner is None and not jax.tree.leaves(data.clients)):
        return place(data, layout)
    clients = place(data.clients, layout, sharded=True)
    if data.owner is None:
        return place(data._replace(clients=()), layout)._replace(clients=clients)
    population = data.population
    features = place(dict(population.features), layout, sharded=True)
    offsets, cohort, owner = place((population.offsets, data.cohort, data.owner), layout)
    static = population.tree_flatten_with_keys()[1]
    population = type(population).tree_unflatten(static, (features, offsets))
    return PreparedCohort(population, cohort, owner, clients)


def _is_there(data: PreparedCohort, layout: Layout) -> bool:
    """Whether every array lies where it belongs; asking the devices to put it there would take longer than looking."""
    if layout.mesh is None:
        return _all_at(data, jax.sharding.SingleDeviceSharding(layout.devices[0]))
    everywhere, split = (jax.NamedSharding(layout.mesh, jax.P(*axes)) for axes in ((), (AXIS,)))
    features, rest = data.population.features, (data.population.offsets, data.cohort, data.owner)
    pieces = features if data.owner is not None else ()
    whole = () if data.owner is not None else features
    return _all_at((pieces, data.clients), split) and _all_at((whole, rest), everywhere)


def _all_at(tree: PyTree, where: jax.sharding.Sharding) -> bool:
    return all(
        isinstance(leaf, jax.Array) and leaf.committed and leaf.sharding == where for leaf in jax.tree.leaves(tree)
    )


def own_pieces(layout: Layout) -> tuple[int, ...]:
    """The devices whose pieces this process holds, by their numbers; a group that trains together is one."""
    groups, size = range(layout.num_devices), layout.num_shards
    here = lambda group: any(is_here(device) for device in layout.devices[group * size : (group + 1) * size])  # noqa: E731
    return tuple(group for group in groups if here(group))


def is_here(device: Any) -> bool:
    """Whether a device is one of this process."""
    return device.process_index == processes.index()


def place_pieces(pieces: Mapping[int, PyTree], layout: Layout) -> PyTree:
    """Arrays `[D * rows, ...]` of pieces `[rows, ...]`, of which each process gives those of its own devices.

    Args:
      pieces: by the device's number, those of `own_pieces`; NumPy's arrays, of the same shapes everywhere.
      layout: the devices.
    """
    if layout.mesh is None:
        return jax.device_put(pieces[0], layout.devices[0])
    target = jax.NamedSharding(layout.mesh, jax.P(AXIS))
    numbers = sorted(pieces)

    def one(*own: np.ndarray) -> jax.Array:
        by_number = dict(zip(numbers, own, strict=True))
        shape = (layout.num_devices * own[0].shape[0], *own[0].shape[1:])
        places = target.addressable_devices_indices_map(shape)
        arrays = [jax.device_put(by_number[_piece(where, own[0])], device) for device, where in places.items()]
        return jax.make_array_from_single_device_arrays(shape, target, arrays)

    return jax.tree.map(one, *(pieces[number] for number in numbers))


def _piece(where: Any, like: np.ndarray) -> int:
    return (where[0].start or 0) // max(like.shape[0], 1)


def pieces_here(tree: PyTree, layout: Layout) -> dict[int, PyTree]:
    """The pieces of `place_pieces` that this process holds, on their devices; of a model axis, one copy each."""
    numbers = own_pieces(layout)
    leaves, structure = jax.tree.flatten(tree)
    if not leaves:
        return dict.fromkeys(numbers, tree)
    found: dict[int, Sequence[Any]] = {number: [] for number in numbers}
    for leaf in leaves:
        rows = leaf.shape[0] // layout.num_devices
        shards = {(shard.index[0].start or 0) // max(rows, 1): shard.data for shard in leaf.addressable_shards}
        for number in numbers:
            found[number] = [*found[number], shards[number]]
    return {number: jax.tree.unflatten(structure, own) for number, own in found.items()}
