"""What the data of one cohort still tell of the population that they were gathered from."""

from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite.data.host_arrays import MAX_EXAMPLES
from fedjaxlite.data.population import Population


class Whole(NamedTuple):
    """Static facts of a whole population: by them a round on one cohort is compiled as one on the whole would be.

    Attributes:
      num_clients: N.
      num_examples: rows of all clients together.
      alike: whether all clients are known to have as many examples and to do all of their work.
    """

    num_clients: int
    num_examples: int
    alike: bool = False


@jax.tree_util.register_pytree_with_keys_class
class CohortPopulation(Population):
    """The examples of one cohort, padded, as a Population of the cohort's slots; see `cohort_population`."""

    whole: Whole

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """As a Population's; what is known of the whole is static."""
        children, max_size = super().tree_flatten_with_keys()
        return children, (max_size, self.whole)

    @classmethod
    def tree_unflatten(cls, max_size: Any, children: Any) -> "CohortPopulation":
        """Rebuilds one of whatever the leaves have become."""
        size, whole = max_size
        made: CohortPopulation = super().tree_unflatten(size, children)  # pyright: ignore[reportAssignmentType]
        object.__setattr__(made, "whole", whole)
        return made


def cohort_population(features: Any, offsets: Any, max_size: int, whole: Whole) -> CohortPopulation:
    """A CohortPopulation of its parts, without checks: rows behind the last client's are padding, which nobody owns.

    Args:
      features: dict of arrays `[rows, ...]`.
      offsets: int32 `[K + 1]`.
      max_size: examples of the largest client of the whole.
      whole: what it was gathered from.
    """
    return CohortPopulation.tree_unflatten((max_size, whole), (features, offsets))


def counted(population: Population) -> tuple[int, int]:
    """Rows and clients of a population; of the whole one, where it holds a cohort. Static, from shapes alone."""
    if isinstance(population, CohortPopulation):
        return population.whole.num_examples, population.whole.num_clients
    return jax.tree.leaves(dict(population.features))[0].shape[0], population.num_clients


def num_clients_of(population: Population) -> int | None:
    """N, as far as the data of a cohort tell of the whole."""
    return population.whole.num_clients if isinstance(population, CohortPopulation) else None


def traceable(population: Population) -> Population:
    """A population to trace a client's program on: of one with more rows than int32 counts, shapes of a cohort's kind.

    No index of such a population is ever computed on a device; the program is traced for what it would be.
    """
    rows, num_clients = counted(population)
    if rows <= MAX_EXAMPLES:
        return population
    shape = jax.ShapeDtypeStruct
    features = {name: shape((MAX_EXAMPLES, *a.shape[1:]), a.dtype) for name, a in population.features.items()}
    offsets = shape((num_clients + 1,), np.int32)
    return cohort_population(features, offsets, population.max_size, Whole(num_clients, rows))
