"""The candidates of an asynchronous server: a sampler's cohorts, slot by slot, and who of them may begin."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.sampling import Cohort

NOBODY = -1
_WINDOW = 128
"""Slots that are looked at side by side: a cohort may be a whole population, and the first of it be free."""
_FEW = 128
"""Clients at work or in the buffer up to which each is compared with each candidate; of more, a table is made."""
_SIDE_BY_SIDE = 32
"""Numbers that XLA still reduces in one pass on a CPU; of more it makes windows, which take many times longer."""


class Stream(NamedTuple):
    """The candidates: a sampler's cohorts, slot by slot.

    Attributes:
      ids, reported, work, scale: `[C]`, the present cohort, as in a Cohort, with NOBODY in spare slots.
      free: bool `[C]`, who of it is neither at work nor in the buffer; of slots from `next_slot` on.
      next_slot: int32, of the next candidate; C where the cohort is used up.
      next_cohort: int32, the number of the cohort after this one.
      begun: int32, how many clients have begun.
    """

    ids: Any
    free: Any
    reported: Any
    work: Any
    scale: Any
    next_slot: Any
    next_cohort: Any
    begun: Any


def stream(capacity: int) -> Stream:
    """The stream before its first candidate."""
    nobody, numbers = jnp.zeros((capacity,), bool), jnp.ones((capacity,), jnp.float32)
    return Stream(
        ids=jnp.full((capacity,), NOBODY, jnp.int32),
        free=nobody,
        reported=nobody,
        work=numbers,
        scale=numbers,
        next_slot=jnp.int32(capacity),
        next_cohort=jnp.int32(0),
        begun=jnp.int32(0),
    )


def first_free(candidates: Stream, most: Any, coming: Callable[[Any], Any] | None = None) -> tuple[Any, Any, Any, Any]:
    """Which of the next candidates can begin.

    Args:
      candidates: the stream; at least one slot of the cohort is left.
      most: int32, how many of them are looked at; at least 1.
      coming: `coming(clients) -> float32 [n]`, seconds until they are there; None where everyone is, always.

    Returns:
      (its slot, whether there is one, the first slot not looked at, float32 seconds until the first comes of those
      that are free and were passed over; `()` where everyone is there).
    """
    capacity = candidates.free.shape[0]
    size = min(capacity, _WINDOW)
    begin = jnp.minimum(candidates.next_slot, capacity - size)
    behind = jnp.minimum(begin + size, candidates.next_slot + most)
    slots = begin + jnp.arange(size, dtype=jnp.int32)
    free = jax.lax.dynamic_slice(candidates.free, (begin,), (size,))
    free &= (slots >= candidates.next_slot) & (slots < behind)
    if coming is None:
        at, found, behind = _first(free, begin, behind)
        return at, found, behind, ()
    waits = coming(jnp.maximum(jax.lax.dynamic_slice(candidates.ids, (begin,), (size,)), 0))
    at, found, behind = _first(free & (waits == 0), begin, behind)
    passed_over = free & (slots < behind) & (waits > 0)
    return at, found, behind, jnp.min(jnp.where(passed_over, waits, jnp.inf))


def _first(can_begin: Any, begin: Any, behind: Any) -> tuple[Any, Any, Any]:
    first = jnp.argmax(can_begin).astype(jnp.int32)
    found = can_begin[first]
    return begin + first, found, jnp.where(found, begin + first + 1, behind)


def with_free(candidates: Stream, taken: Sequence[Any], num_clients: int, able: Any = None) -> Stream:
    """The stream, told anew who of the present cohort is free.

    Args:
      candidates: the stream.
      taken: int32 arrays `[n]`, clients at work and in the buffer, and NOBODY.
      num_clients: N.
      able: bool `[N]`, who may begin at all; None for everyone.
    """
    ids = candidates.ids
    free = ids != NOBODY
    if able is not None:
        free &= able[jnp.maximum(ids, 0)]
    if sum(some.size for some in taken) > _FEW:
        clients = jnp.concatenate(taken)
        marks = jnp.zeros((num_clients,), bool)
        marks = marks.at[jnp.where(clients == NOBODY, num_clients, clients)].set(True, mode="drop")
        return candidates._replace(free=free & ~marks[ids])
    for some in taken:
        for begin in range(0, some.size, _SIDE_BY_SIDE):
            free &= ~jnp.any(ids[:, None] == some[None, begin : begin + _SIDE_BY_SIDE], axis=1)
    return candidates._replace(free=free)


def freed(candidates: Stream, client: Any, whether: Any) -> Stream:
    """The stream where a client that has left its place, if so, is free again."""
    return candidates._replace(free=candidates.free | (whether & (candidates.ids == client)))


def next_cohort(candidates: Stream, draw: Callable[[Any], Cohort]) -> Stream:
    """The stream at the beginning of its next cohort."""
    drawn = draw(candidates.next_cohort)
    return candidates._replace(
        ids=jnp.where(drawn.selected, drawn.ids, NOBODY),
        reported=drawn.reported,
        work=drawn.work,
        scale=drawn.scale,
        next_slot=jnp.int32(0),
        next_cohort=candidates.next_cohort + 1,
    )
