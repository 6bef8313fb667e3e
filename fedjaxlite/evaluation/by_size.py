"""Clients in groups of like size, for what needs an array as long as a client's examples."""

from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite.data.population import Population
from fedjaxlite.sampling import Cohort, full

_SMALLEST, _STEP = 256, 8
"""Clients of up to 256 examples are alike; past that, those within a factor of 8."""
_FEW = 2**20
"""So many padded rows cost less than another program takes to compile."""


class Group(NamedTuple):
    """Some clients.

    Attributes:
      ids: int `[K]`, ascending.
      cohort: of them.
      most: at least the examples of each.
    """

    ids: np.ndarray
    cohort: Cohort
    most: int


def whole(population: Population, key: Any) -> Group:
    """All clients, in order, as one group."""
    cohort = full(population.num_clients).sample(key, 0, population)
    return Group(np.arange(population.num_clients), cohort, population.max_size)


def groups(population: Population, key: Any) -> list[Group]:
    """All clients, in cohorts of like size, so that padding to a size costs less than 8 times the examples.

    Args:
      population: its sizes are known.
      key: that nothing is drawn from.
    """
    sizes = np.diff(np.asarray(population.offsets)).astype(np.int64)
    everyone = whole(population, key).cohort
    if sizes.size * sizes.max(initial=1) <= max(_FEW, _STEP * sizes.sum()):
        return [whole(population, key)]
    found, least, most = [], -1, _SMALLEST
    while least < sizes.max(initial=0):
        ids = np.flatnonzero((sizes > least) & (sizes <= most))
        if len(ids):
            cap = max(1, int(sizes[ids].max()))
            found.append(Group(ids, part(everyone, ids), cap))
        least, most = most, most * _STEP
    return found


def part(cohort: Cohort, ids: np.ndarray | slice) -> Cohort:
    """The cohort of some of all clients."""
    return jax.tree.map(lambda leaf: leaf if np.ndim(leaf) == 0 else np.asarray(leaf)[ids], cohort)
