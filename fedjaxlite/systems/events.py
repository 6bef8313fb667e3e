"""The event loop of an asynchronous server: M places, who is at work in them, and who is done next.

One turn of the loop is one client that comes back. It costs passes over the M places, and no pass over the population:
candidates come from a sampler's cohorts, one cohort at a time. Who of a cohort may begin is known of all its slots at
once, so that in a population where nearly everyone is at work, those who are passed over cost next to nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.sampling import Cohort, Seconds, draws
from fedjaxlite.systems import candidates as stream_of
from fedjaxlite.systems.candidates import NOBODY, Stream
from fedjaxlite.systems.presence import Presence, coming, until_done_or_gone
from fedjaxlite.systems.service import Service

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
      leaves: bool `[M]`, whether it is gone before it is done; `()` where everyone is there, always.
    """

    client: Any
    remaining: Any
    order: Any
    version: Any
    slot: Any
    work: Any
    scale: Any
    reports: Any
    leaves: Any = ()


def no_one(places: int, *, leaving: bool = False) -> Places:
    """M empty places; `leaving` where clients may be gone before they are done."""
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
        leaves=jnp.zeros((places,), bool) if leaving else (),
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
    now: Seconds,
    presence: Presence,
    num_clients: int,
    draw: Callable[[Any], Cohort],
    seconds: Callable[[Any, Any, Any], Any],
) -> tuple[Places, Stream, Any]:
    """Gives the newest model to the next candidates, until no place is empty.

    A candidate that is at work already, or whose message lies in the buffer, or that is not there, is passed over.

    Args:
      places: who is at work.
      candidates: where the stream stands.
      handed_in: int32 `[K]`, the clients in the buffer; NOBODY where it is free.
      version: int32, the newest model's number.
      slot: int32, where it is kept.
      allowed: bool, whether anything is handed out at all.
      now: the time.
      presence: who can begin.
      num_clients: N.
      draw: `draw(number) -> Cohort`, the sampler's.
      seconds: `seconds(client, work, number) -> float32`, how long it takes.

    Returns:
      (places, candidates, comes): both moved on, and float32 seconds until the first comes of those that were passed
      over since they are not there; infinite where that is nobody, or no place is empty. `()` where everyone is there.
    """
    capacity = candidates.ids.shape[0]
    patience = _COHORTS * capacity
    until = coming(presence, now)

    def unmet(carry: tuple[Places, Stream, Any, Any]) -> Any:
        places, _, looked, _ = carry
        return allowed & (looked < patience) & jnp.any(places.client == NOBODY)

    def look(carry: tuple[Places, Stream, Any, Any]) -> tuple[Places, Stream, Any, Any]:
        places, candidates, looked, comes = carry

        def next_cohort(at: Stream) -> Stream:
            taken = (places.client, handed_in)
            return stream_of.with_free(stream_of.next_cohort(at, draw), taken, num_clients, presence.able)

        # A loop and not a branch: of a batch of runs, branches are computed by all in every turn.
        here = jax.lax.while_loop(lambda at: at.next_slot >= capacity, next_cohort, candidates)
        at, found, behind, waits = stream_of.first_free(here, patience - looked, until)
        client = here.ids[at]
        place = jnp.where(found, jnp.argmin(places.client), places.client.shape[0])  # NOBODY is below every client
        stays, leaves = until_done_or_gone(seconds(client, here.work[at], here.begun), client, presence, now)
        begins = Places(
            client=client,
            remaining=stays,
            order=here.begun,
            version=version,
            slot=slot,
            work=here.work[at],
            scale=here.scale[at],
            reports=here.reported[at] if presence.trace is None else here.reported[at] & ~leaves,
            leaves=leaves,
        )
        places = jax.tree.map(lambda old, new: old.at[place].set(new, mode="drop"), places, begins)
        passed = behind - here.next_slot
        here = here._replace(next_slot=behind, begun=here.begun + found.astype(jnp.int32))
        return places, here, jnp.where(found, 0, looked + passed), jax.tree.map(jnp.minimum, comes, waits)

    start = (places, candidates, jnp.int32(0), () if until is None else jnp.float32(jnp.inf))
    places, candidates, _, comes = jax.lax.while_loop(unmet, look, start)
    any_empty = jnp.any(places.client == NOBODY)
    return places, candidates, () if until is None else jnp.where(any_empty, comes, jnp.inf)


def first_done(places: Places) -> tuple[Any, Any, Any]:
    """Who is done next, or gone; of several at the same time, who began first.

    Returns:
      place: int32, of that client.
      seconds: float32, from now until then; infinite where nobody will ever be done.
      all_at_once: bool, whether all that are at work are done at that time.
    """
    seconds = jnp.min(places.remaining)
    due = places.remaining == seconds
    place = jnp.argmin(jnp.where(due, places.order, _NEVER)).astype(jnp.int32)
    return place, seconds, jnp.all(due | (places.client == NOBODY))


def leave(places: Places, place: Any, seconds: Any, whether: Any) -> Places:
    """The places `seconds` later, and one of them empty, if so."""
    at = jnp.where(whether, place, places.client.shape[0])
    later = places.remaining - seconds
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


def service_times(service: Service, key: Any, facts: Any) -> Callable[[Any, Any, Any], Any]:
    """`seconds(client, work, number) -> float32`, of one client."""
    own = draws.round_key(key, 0, draws.LATENCY, 1)  # a layer of its own: deadlines draw from the first

    def seconds(client: Any, work: Any, number: Any) -> Any:
        drawn = service.seconds(jax.random.fold_in(own, number), client[None], facts, work[None], number[None])
        if getattr(drawn, "shape", None) != (1,) or not jnp.issubdtype(drawn.dtype, jnp.floating):
            given = checks.shown(drawn)
            raise TypeError(f"`service` ({service.name}) returned {given}; expected float32 [n], seconds of n clients.")
        one = drawn[0].astype(jnp.float32)
        return jnp.where(one >= 0, one, jnp.inf)  # of what is no time at all, nobody comes back

    return seconds


def no_window() -> Any:
    """float32: the window of grace before the quorum. It is the seconds until it ends; 0 once it is over."""
    return jnp.float32(jnp.inf)


def in_window(window: Any, now: Seconds, places: Places, seconds: Any) -> tuple[Any, Seconds, Places, Any]:
    """Before what happens next, after `seconds`: where the window ends until then, it ends, and nothing happens.

    Returns:
      (window, now, places, seconds): moved on to the window's end, and infinite seconds, or all but the window as they
      are.
    """
    is_open = jnp.isfinite(window)
    ends = is_open & (seconds >= window)
    passed = jnp.where(ends, window, 0)
    left = jnp.where(is_open, window - jnp.where(ends, window, seconds), window)
    places = places._replace(remaining=places.remaining - passed)
    return left, now.after(passed), places, jnp.where(ends, jnp.inf, seconds)


def window_with(window: Any, grace: Any, count: Any, quorum: int) -> Any:
    """The window once `count` messages are there: it begins with the one that makes the quorum."""
    begins = jnp.isinf(window) & (count >= quorum)
    return jnp.where(begins, jnp.asarray(grace, jnp.float32), window)
