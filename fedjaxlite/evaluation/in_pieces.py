"""A measurement at clients: of all at once where their data lie in memory, piece by piece where they lie on a disk."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from fedjaxlite.data.on_disk import reading
from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared import pieces
from fedjaxlite.evaluation import by_size
from fedjaxlite.execution.federated_sum import Computation
from fedjaxlite.sampling import Cohort

PIECE_BYTES = 1 << 25
"""Of rows that are read at a time; two pieces are in memory, one that is computed on and one that is read."""
PIECE_CLIENTS = 4096


def results(
    call: Computation,
    shared: Callable[[Population], Any],
    train: Population,
    test: Population,
    group: by_size.Group,
    key: Any,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """What clients tell, with their ids.

    Args:
      call: the sum whose clients tell it.
      shared: gives what all clients get, from `test` or a piece of it.
      train: whose data clients get.
      test: the same clients.
      group: which of them.
      key: of the call.
    """
    if not train.on_disk and not test.on_disk:
        found = call(shared(test), train, group.cohort, key=key)[1].clients
        yield group.ids, {name: np.asarray(values) for name, values in found.items()}
        return
    both = [population for population in (train, test) if population.on_disk]
    slices = list(_slices(both, group.ids))
    most = max(part.stop - part.start for part in slices)
    rows = {id(p): max(_rows_of(p, group.ids[part]) for part in slices) for p in both}
    waiting: tuple[np.ndarray, Any] | None = None
    for part in slices:
        ids = group.ids[part]
        own, held_out = (_piece(p, ids, rows.get(id(p))) for p in (train, test))
        held_out = own if test is train else held_out
        # Dispatched before what the piece before it found is waited for.
        found = call(shared(held_out), own, _filled(by_size.part(group.cohort, part), most), key=key)[1].clients
        if waiting is not None:
            yield _told(*waiting)
        waiting = ids, found
    if waiting is not None:
        yield _told(*waiting)


def _told(ids: np.ndarray, found: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return ids, {name: np.asarray(values)[: len(ids)] for name, values in found.items()}


def _slices(populations: list[Population], ids: np.ndarray) -> Iterator[slice]:
    """The clients in pieces that hold little of every population; of many clients more, since each piece counts all."""
    sizes = np.zeros(len(ids), np.int64)
    for population in populations:
        row_bytes = sum(f.nbytes for f in population.features.values()) / max(1, reading.num_rows(population))
        offsets = population.offsets
        sizes += np.ceil((offsets[ids + 1] - offsets[ids]) * row_bytes).astype(np.int64)
    return pieces.cut(sizes, max(PIECE_CLIENTS, populations[0].num_clients // 64), PIECE_BYTES)


def _rows_of(population: Population, ids: np.ndarray) -> int:
    return max(1, int((population.offsets[ids + 1] - population.offsets[ids]).sum(dtype=np.int64)))


def _piece(population: Population, ids: np.ndarray, rows: int | None) -> Population:
    return pieces.piece_of(population, ids, rows) if population.on_disk else population


def _filled(cohort: Cohort, slots: int) -> Cohort:
    """A cohort with spare slots behind it, so that all pieces have one shape."""
    more = slots - len(cohort.ids)

    def fill(leaf: Any) -> Any:
        own = np.asarray(leaf)
        return own if not own.ndim else np.concatenate([own, np.repeat(own[:1], more, axis=0)])

    full: Cohort = jax.tree.map(fill, cohort)
    real = np.arange(slots) < slots - more
    return full._replace(selected=full.selected & real, reported=full.reported & real)
