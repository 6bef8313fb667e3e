"""Rows of a cohort's clients, from host memory or a disk into one array a device; and how many of them there can be."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite.data import host_arrays
from fedjaxlite.data.on_disk import reading
from fedjaxlite.data.on_disk.sizes import most_rows
from fedjaxlite.data.population import Population
from fedjaxlite.sampling import Cohort

PyTree = Any
Gather = Callable[["Slots", int], dict[str, np.ndarray]]
# Bytes of a client from which on its rows are copied as one block. Smaller clients go by index, all in one call.
_BLOCK = 4096


class Slots(NamedTuple):
    """A cohort's slots on the host.

    Attributes:
      ids: int64 `[K]`, clients of the population.
      sizes: int64 `[K]`, their examples; 0 in a spare slot.
      starts: int64 `[K]`, their first rows in the population.
      owner: int32 `[K]`, the device that trains each.
    """

    ids: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray
    owner: np.ndarray


def slots_of(offsets: np.ndarray, cohort: Cohort, num_devices: int = 1) -> Slots:
    """The slots of a cohort.

    Args:
      offsets: int `[N + 1]`, the population's, in host memory or memory-mapped.
      cohort: on the host, or on one device.
      num_devices: D. A client belongs to device `id // ceil(N / D)`, as a bank of client states does, however the
        devices are spread over processes.
    """
    ids, selected = np.asarray(cohort.ids).astype(np.int64), np.asarray(cohort.selected)
    starts = offsets[ids].astype(np.int64)
    sizes = np.where(selected, offsets[ids + 1].astype(np.int64) - starts, 0)
    return Slots(ids, sizes, starts, owners(ids, len(offsets) - 1, num_devices))


def owners(ids: np.ndarray, num_clients: int, num_devices: int) -> np.ndarray:
    """The device that each client belongs to, int32 `[K]`."""
    return (ids // -(-num_clients // num_devices)).astype(np.int32)


def plain(array: Any) -> Any:
    """NumPy's array of one of JAX's, or of a memory map, which stays on the disk; anything else as it is."""
    return np.asarray(array) if isinstance(array, (np.ndarray, jax.Array)) else array


def gathering(population: Population, most: int, *, zeros: bool) -> Gather:
    """`gather(slots, device)`, the rows of the slots of one device, in slot order, `[most, ...]` a feature.

    Args:
      population: in host memory, memory-mapped or on disk.
      most: rows to pad to; what the slots of one device have must fit.
      zeros: whether the rows behind the last one are zeros; else they hold anything, which costs nothing.
    """
    features = {name: plain(feature) for name, feature in population.features.items()}

    def gather(slots: Slots, device: int) -> dict[str, np.ndarray]:
        mine = slots.owner == device
        starts, sizes = slots.starts[mine], slots.sizes[mine]
        before = np.cumsum(sizes) - sizes
        rows = {name: host_arrays.aligned((most, *f.shape[1:]), f.dtype, zeros=zeros) for name, f in features.items()}
        if population.on_disk:
            reading.copy_rows(population, reading.extents(starts, sizes, before), rows)
        else:
            _copy(features, starts, sizes, before, rows)
        return rows

    return gather


def _copy(
    features: Mapping[str, Any], starts: np.ndarray, sizes: np.ndarray, before: np.ndarray, rows: dict[str, np.ndarray]
) -> None:
    total, index = int(sizes.sum()), None
    for name, own in rows.items():
        feature = features[name]
        row_bytes = own.nbytes // max(len(own), 1)
        if not isinstance(feature, np.ndarray) or total * row_bytes >= _BLOCK * len(sizes):
            for start, size, at in zip(starts.tolist(), sizes.tolist(), before.tolist(), strict=True):
                own[at : at + size] = feature[start : start + size]
        elif total:
            index = np.repeat(starts - before, sizes) + np.arange(total) if index is None else index
            np.take(feature, index, axis=0, out=own[:total], mode="clip")  # "raise" would go through a buffer


def padded(states: PyTree, rows: int, behind: int = 0) -> PyTree:
    """What a device's slots have, `[n, ...]`, as `[rows, ...]`, with one number behind them."""

    def one(leaf: Any) -> np.ndarray:
        own = np.asarray(leaf)
        found = host_arrays.aligned((rows, *own.shape[1:]), own.dtype)
        found[: len(own)], found[len(own) :] = own, np.array(behind, own.dtype)
        return found

    return jax.tree.map(one, states)


def in_cohort_order(pieces: Sequence[PyTree], owner: np.ndarray) -> PyTree:
    """States that lie by device, as `gathered_states` lays them out, in cohort order: numpy `[K, ...]`."""

    def one(*leaves: Any) -> np.ndarray:
        found = np.empty((len(owner), *leaves[0].shape[1:]), leaves[0].dtype)
        for device, leaf in enumerate(leaves):
            mine = owner == device
            found[mine] = np.asarray(leaf)[: int(mine.sum())]
        return found

    return jax.tree.map(one, *pieces)


_KNOWN: weakref.WeakKeyDictionary[Population, dict[int, int]] = weakref.WeakKeyDictionary()


def most_examples(population: Population, num_slots: int) -> int:
    """The most examples that K distinct clients can have together, at least 1: what every cohort can be padded to.

    Args:
      population: on the host. It is looked through once for each K, which is remembered as long as it lives; one that
        knows the sums of its largest clients is asked.
      num_slots: K.

    Returns:
      `min(K * max_size, sum of the K largest sizes)`.
    """
    known = _KNOWN.setdefault(population, {})
    if num_slots not in known:
        known[num_slots] = max(1, _most(population, min(num_slots, population.num_clients)))
    return known[num_slots]


def _most(population: Population, num_slots: int) -> int:
    bound = num_slots * population.max_size
    if not isinstance(population.offsets, (np.ndarray, jax.Array)):
        return bound  # shapes alone
    if population.on_disk:
        return min(bound, most_rows(population, num_slots))
    rows = int(population.offsets[-1])
    if rows == population.num_clients * population.max_size or num_slots == population.num_clients:
        return min(bound, rows)
    found = np.diff(np.asarray(population.offsets))
    first = len(found) - num_slots
    return min(bound, int(np.partition(found, first)[first:].sum(dtype=np.int64)))
