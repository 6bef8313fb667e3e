"""The data of a cohort, gathered on the host and put on the devices, each process those of its own devices."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared import gathering
from fedjaxlite.data.prepared.whole import Whole, cohort_population
from fedjaxlite.data.prepared_cohort import PreparedCohort
from fedjaxlite.execution.layout import Layout, place
from fedjaxlite.execution.prepared.placing import own_pieces, place_pieces
from fedjaxlite.sampling import Cohort
from fedjaxlite.streaming.drawing import on_host


class Loaded(NamedTuple):
    """A cohort whose data lie on the devices.

    Attributes:
      prepared: for `rounds.step`, without the states of its clients.
      slots: the cohort's slots on the host.
      trained: bool `[K]`, the slots whose clients are trained: selected and reported.
      selected: bool `[K]`.
    """

    prepared: PreparedCohort
    slots: gathering.Slots
    trained: np.ndarray
    selected: np.ndarray


def loader(population: Population, num_slots: int, whole: Whole, layout: Layout) -> Callable[[Cohort], Loaded]:
    """`load(cohort) -> Loaded`, for a thread beside the run's; all cohorts have the same shapes.

    Args:
      population: in host memory or on disk.
      num_slots: K.
      whole: static facts of the population.
      layout: the devices.
    """
    offsets, devices = gathering.plain(population.offsets), layout.num_devices
    # Nobody reads spare rows, and a page of memory that is not touched costs nothing.
    gather = gathering.gathering(population, gathering.most_examples(population, num_slots), zeros=False)

    def load(drawn: Cohort) -> Loaded:
        cohort = on_host(drawn)
        slots = gathering.slots_of(offsets, cohort, devices)
        pieces = {piece: gather(slots, piece) for piece in own_pieces(layout)}
        ends = np.concatenate([[0], np.cumsum(slots.sizes)]).astype(np.int32)
        if layout.mesh is None:  # the cohort lies there already, where it was drawn
            features, ends = jax.device_put((pieces[0], ends), layout.devices[0])
            prepared = PreparedCohort(cohort_population(features, ends, population.max_size, whole), drawn)
        else:
            several = devices > 1
            ends, everywhere, owner = place((ends, cohort, slots.owner if several else None), layout)
            features = place_pieces(pieces, layout) if several else place(pieces[0], layout)
            own = cohort_population(features, ends, population.max_size, whole)
            prepared = PreparedCohort(own, everywhere, owner)
        return Loaded(prepared, slots, cohort.selected & cohort.reported, cohort.selected)

    return load
