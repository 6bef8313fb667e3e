"""The event loop of an asynchronous server: M places, who is at work in them, and who is done next.

One turn of the loop is one client that comes back. It costs passes over the M places, and no pass over the population:
candidates come from a sampler's cohorts, one cohort at a time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.sampling import Cohort

NOBODY = -1
_COHORTS = 4
"""Candidates of so many cohorts are looked at before a place stays empty until the next event."""
_NEVER = jnp.iinfo(jnp.int32).max


class Places(NamedTuple):
    """Who is at work, in M places.

    Attributes:
      client: int32 `[M]`; NOBODY in a place that is empty.
      remaining: float32 `[M]`, seconds from now until the client is done; infinity in an empty place. Counted from
        now, so that those who began together and take equally long are done at exactly the same time.
      order: int32 `[M]`, how many clients had begun before.
      version: int32 `[M]`, which of the server's models the client took, by number.
      slot: int32 `[M]`, and where among the models that are kept.
      work, scale: float32 `[M]`, as in a Cohort.
      reports: bool `[M]`, whether it will hand anything in.
    """

    client: Any
    remaining: Any
    order: Any
    version: Any
    slot: Any
    work: Any
    scale: Any
    reports: Any


class Stream(NamedTuple):
    """The candidates: a sampler's cohorts, slot by slot.

    Attributes:
      ids, selected, reported, work, scale: `[C]`, the present cohort, as in a Cohort.
      next_slot: int32, of the next candidate; C where the cohort is used up.
      next_cohort: int32, the number of the cohort after this one.
      begun: int32, how many clients have begun.
    """

    ids: Any
    selected: Any
    reported: Any
    work: Any
    scale: Any
    next_slot: Any
    next_cohort: Any
    begun: Any


def no_one(places: int) -> Places:
    """M empty places."""
    integers, numbers = jnp.zeros((places,), jnp.int32), jnp.ones((places,), jnp.float32)
    return Places(
        client=jnp.full((places,), NOBODY, jnp.int32),
        remaining=jnp.full((places,), jnp.inf, jnp.float32),
        order=integers,
        version=integers,
        slot=integers,
        work=numbers,
        scale=numbers,
        reports=jnp.zeros((places,), bool),
    )


def stream(capacity: int) -> Stream:
    """The stream before its first candidate."""
    nobody, numbers = jnp.zeros((capacity,), bool), jnp.ones((capacity,), jnp.float32)
    return Stream(
        ids=jnp.zeros((capacity,), jnp.int32),
        selected=nobody,
        reported=nobody,
        work=numbers,
        scale=numbers,
        next_slot=jnp.int32(capacity),
        next_cohort=jnp.int32(0),
        begun=jnp.int32(0),
    )


def busy(places: Places) -> Any:
    """int32, how many are at work."""
    return jnp.sum(places.client != NOBODY, dtype=jnp.int32)


def hand_out(
    places: Places,
    candidates: Stream,
    handed_in: Any,
    version: Any,
    slot: Any,
    *,
    allowed: Any,
    draw: Callable[[Any], Cohort],
    seconds: Callable[[Any, Any, Any], Any],
) -> tuple[Places, Stream]:
    """Gives the newest model to the next candidates, until no place is empty.

    A candidate that is at work already, or whose message lies in the buffer, is passed over.

    Args:
      places: who is at work.
      candidates: where the stream stands.
      handed_in: int32 `[K]`, the clients in the buffer; NOBODY where it is free.
      version: int32, the newest model's number.
      slot: int32, where it is kept.
      allowed: bool, whether anything is handed out at all.
      draw: `draw(number) -> Cohort`, the sampler's.
      seconds: `seconds(client, work, number) -> float32`, how long it takes.

    Returns:
      (places, candidates), both moved on.
    """
    capacity = candidates.ids.shape[0]

    def unmet(carry: tuple[Places, Stream, Any]) -> Any:
        places, _, looked = carry
        return allowed & (looked < _COHORTS * capacity) & jnp.any(places.client == NOBODY)

    def look(carry: tuple[Places, Stream, Any]) -> tuple[Places, Stream, Any]:
        places, candidates, looked = carry
        # A loop and not a branch: of a batch of runs, branches are computed by all in every turn.
        here = jax.lax.while_loop(lambda at: at.next_slot >= capacity, lambda at: _next_cohort(at, draw), candidates)
        at = here.next_slot
        client = here.ids[at]
        found = here.selected[at] & ~jnp.any(places.client == client) & ~jnp.any(handed_in == client)
        place = jnp.where(found, jnp.argmin(places.client), places.client.shape[0])  # NOBODY is below every client
        begins = Places(
            client=client,
            remaining=seconds(client, here.work[at], here.begun),
            order=here.begun,
            version=version,
            slot=slot,
            work=here.work[at],
            scale=here.scale[at],
            reports=here.reported[at],
        )
        places = jax.tree.map(lambda old, new: old.at[place].set(new, mode="drop"), places, begins)
        here = here._replace(next_slot=at + 1, begun=here.begun + found.astype(jnp.int32))
        return places, here, jnp.where(found, 0, looked + 1)

    places, candidates, _ = jax.lax.while_loop(unmet, look, (places, candidates, jnp.int32(0)))
    return places, candidates


def first_done(places: Places) -> tuple[Any, Any, Any]:
    """Who is done next; of several at the same time, who began first.

    Returns:
      place: int32, of that client.
      seconds: float32, from now until then; infinite where nobody will ever be done.
      all_at_once: bool, whether all that are at work are done at that time.
    """
    seconds = jnp.min(places.remaining)
    due = places.remaining == seconds
    place = jnp.argmin(jnp.where(due, places.order, _NEVER)).astype(jnp.int32)
    return place, seconds, jnp.all(due | (places.client == NOBODY))


def leave(places: Places, place: Any, seconds: Any) -> Places:
    """The places `seconds` later, one of them empty; as they are where the time is infinite."""
    comes = jnp.isfinite(seconds)
    at = jnp.where(comes, place, places.client.shape[0])
    later = places.remaining - jnp.where(comes, seconds, 0)
    return places._replace(
        client=places.client.at[at].set(NOBODY, mode="drop"), remaining=later.at[at].set(jnp.inf, mode="drop")
    )


def free_slot(places: Places, version: Any, slot: Any, *, depth: int, max_staleness: int | None) -> Any:
    """int32, the first of `depth` slots whose model nobody will hand in an update of, once there is one more.

    The newest model's slot is free only where a client may not be a single step behind.
    """
    needed = jnp.isfinite(places.remaining)
    if max_staleness is not None:
        needed &= version + 1 - places.version <= max_staleness
    used = jnp.zeros((depth,), bool).at[jnp.where(needed, places.slot, depth)].set(True, mode="drop")
    if depth > 1:
        used = used.at[slot].set(True)
    return jnp.argmin(used).astype(jnp.int32)


def _next_cohort(candidates: Stream, draw: Callable[[Any], Cohort]) -> Stream:
    drawn = draw(candidates.next_cohort)
    return candidates._replace(
        ids=drawn.ids,
        selected=drawn.selected,
        reported=drawn.reported,
        work=drawn.work,
        scale=drawn.scale,
        next_slot=jnp.int32(0),
        next_cohort=candidates.next_cohort + 1,
    )
