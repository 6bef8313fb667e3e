"""How many lanes a device has room for, and how much memory there is."""

import contextlib
from typing import Any

import jax

from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.whole import counted
from fedjaxlite.execution.layout.execution import Layout, spans_processes, with_model
from fedjaxlite.execution.model_axis import placing
from fedjaxlite.platforms import host_memory

PyTree = Any


def with_lanes(
    layout: Layout, model: PyTree, population: Population, capacity: int, *, memory: int | None = None
) -> Layout:
    """The layout with a number of lanes, chosen where it was left open.

    On a CPU one lane is fastest as soon as a few models do not fit into the first cache of a core (32 kB); below that
    lanes share the cost of each operation, up to 64 of them, or 16 as soon as one client is much larger than the mean:
    then more lanes cost more at each change of clients than they save. An accelerator is filled: up to 64 models, as
    its memory allows, or as few as take no more turns, unless clients are ragged.

    Args:
      layout: of `resolve`.
      model: what each lane trains a copy of; arrays, or their shapes.
      population: the data, or their shapes.
      capacity: the most clients in a cohort.
      memory: bytes of each device; None asks them.

    Returns:
      the layout, with lanes of at least 1, and of this model.
    """
    layout = with_model(layout, model)
    if layout.lanes:
        return layout
    model_bytes = placing.bytes_on_each(model, layout.table)
    share = -(-capacity // layout.num_devices)
    rows, num_clients = counted(population)
    ragged = population.max_size * num_clients > 2 * rows
    if layout.platform == "cpu":
        fit = max(1, min(16 if ragged else 64, 2**15 // max(model_bytes, 1), share))
        return layout._replace(lanes=1 << (fit.bit_length() - 1))
    fit = max(1, min(64, (memory or _device_memory(layout)) // 64 // max(model_bytes, 1), share))
    # Clients of about one size go through as many lanes as have no empty one in the last turn.
    return layout._replace(lanes=fit if ragged else -(-share // -(-share // fit)))


def _device_memory(layout: Layout) -> int:
    # A lane holds some models and the activations of a batch; where the size is not told, a small device is assumed.
    # So it is across processes: what each reads of its own devices may differ, and their programs must not.
    small = 2**33
    for device in () if spans_processes(layout) else layout.devices:
        # Devices that a program is only compiled for do not answer.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            return int((device.memory_stats() or {}).get("bytes_limit", small))
    return small


def memory_of(layout: Layout) -> int | None:
    """Bytes of all devices together, as far as they tell; the devices of a CPU share the machine's."""
    if layout.platform == "cpu":
        return None if spans_processes(layout) else host_memory()
    told = []
    for device in layout.devices:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # devices that are only compiled for do not answer
            told.append((device.memory_stats() or {}).get("bytes_limit"))
    known = [int(limit) for limit in told if limit]
    return sum(known) if len(known) == len(layout.devices) else None
