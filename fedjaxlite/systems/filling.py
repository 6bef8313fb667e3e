"""From one step of an asynchronous server to the next: a buffer of K messages fills, event by event."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.sampling import Cohort, Sampler, Seconds, Setting
from fedjaxlite.systems import candidates, events
from fedjaxlite.systems import presence as presences
from fedjaxlite.systems.candidates import NOBODY, Stream
from fedjaxlite.systems.presence import Presence
from fedjaxlite.systems.service import Service
from fedjaxlite.systems.staleness import Staleness
from fedjaxlite.systems.traces import Availability

_PATIENCE = 4096
"""Turns of the loop in a row in which nobody hands anything in, until the server goes on with what it has."""


class Buffer(NamedTuple):
    """The messages that have arrived, `[K]` each but for their number: `slot` is the model's, `age` its staleness."""

    client: Any
    slot: Any
    age: Any
    work: Any
    scale: Any
    count: Any


class Clock(NamedTuple):
    """The memory: `version` and `slot` are those of the newest model, which after a buffer is the one it makes.

    `facts` are the service's, `able` bool `[N]` whose devices can do the work; `()` where all can. `bytes_up` uint32 is
    the size of a message.
    """

    now: Seconds
    places: events.Places
    candidates: Stream
    version: Any
    slot: Any
    facts: Any
    able: Any
    bytes_up: Any
    told: dict[str, Any]


class Turn(NamedTuple):
    """What goes around the loop.

    `together` more clients hand in before places are given out again; `window` is that of
    `events.no_window`, None without grace.
    """

    now: Seconds
    places: events.Places
    candidates: Stream
    buffer: Buffer
    together: Any
    dropped: Any
    left: Any
    idle: Any
    window: Any = None


class Server(NamedTuple):
    """What is decided when the sampler is built."""

    buffer: int
    concurrency: int
    service: Service
    sampler: Sampler
    staleness: Staleness
    max_staleness: int | None
    availability: Availability | None = None
    grace: Any = None
    capacity: int = 0


def most(server: Server) -> int:
    """C, the slots of a cohort: the buffer's size, or what may arrive until the window of grace ends."""
    return server.buffer if server.grace is None else server.capacity


def depth(server: Server) -> int:
    """D, how many models are kept."""
    oldest = server.concurrency if server.max_staleness is None else min(server.max_staleness, server.concurrency)
    return oldest + 1


def begin(server: Server, setting: Setting) -> Clock:
    """The memory of a run in which nobody has begun."""
    told = {
        "staleness_mean": jnp.float32(0),
        "staleness_max": jnp.int32(0),
        "dropped_stale": jnp.int32(0),
        "bytes_dropped": jnp.uint32(0),
        "stalled": jnp.int32(0),
    }
    leaving = server.availability is not None
    if leaving:
        told["left_midway"] = jnp.int32(0)
    facts = server.service.facts(setting)
    return Clock(
        Seconds(jnp.int32(0), jnp.float32(0)),
        events.no_one(server.concurrency, leaving=leaving),
        candidates.stream(server.sampler.capacity),
        version=jnp.int32(0),
        slot=jnp.int32(0),
        facts=facts,
        able=presences.who_can(server.service, facts, server.buffer),
        bytes_up=jnp.uint32(setting.bytes_up % 2**32),
        told=told,
    )


def empty(size: int) -> Buffer:
    """A buffer without messages."""
    numbers, integers = jnp.ones((size,), jnp.float32), jnp.zeros((size,), jnp.int32)
    return Buffer(jnp.full((size,), NOBODY, jnp.int32), integers, integers, numbers, numbers, jnp.int32(0))


def fill(server: Server, state: Clock, key: Any, round_number: Any, population: Any) -> tuple[Cohort, Clock]:
    """From one step of the server to the next."""
    del round_number  # the order of events is the memory's
    num_clients = population.num_clients
    presence = Presence(None if isinstance(state.able, tuple) else state.able, server.availability)
    number_able = num_clients if presence.able is None else jnp.sum(presence.able, dtype=jnp.int32)
    give = partial(
        events.hand_out,
        version=state.version,
        slot=state.slot,
        presence=presence,
        num_clients=num_clients,
        draw=lambda number: server.sampler.sample(key, number, population),
        seconds=events.service_times(server.service, key, state.facts),
    )

    limit = most(server)
    if checks.is_traced(server.grace):  # no seconds of grace are none
        limit = jnp.where(server.grace > 0, limit, server.buffer)

    def goes_on(turn: Turn) -> Any:
        unmet = (turn.buffer.count < limit) & (turn.idle < _PATIENCE)
        return unmet if turn.window is None else unmet & (turn.window > 0)

    def event(turn: Turn) -> Turn:
        room = limit - turn.buffer.count
        # Whoever is neither at work nor in the buffer may begin; where that is nobody, nobody is looked for.
        allowed = (turn.together == 0) & (events.busy(turn.places) + turn.buffer.count < number_able)
        places, stream, comes = give(turn.places, turn.candidates, turn.buffer.client, now=turn.now, allowed=allowed)
        turn = _wait(presence, turn._replace(places=places, candidates=stream), num_clients)
        return _hand_in(server, turn, comes, state.version, room)

    start = Turn(
        state.now,
        state.places,
        candidates.with_free(state.candidates, (state.places.client,), num_clients, presence.able),
        empty(most(server)),
        together=jnp.int32(0),
        dropped=jnp.int32(0),
        left=jnp.int32(0),
        idle=jnp.int32(0),
        window=None if server.grace is None else events.no_window(),
    )
    end = jax.lax.while_loop(goes_on, event, start)
    cohort = cohort_of(server, end.buffer)
    slot = events.free_slot(
        end.places, state.version, state.slot, depth=depth(server), max_staleness=server.max_staleness
    )
    state = state._replace(
        now=end.now,
        places=end.places,
        candidates=end.candidates,
        version=state.version + 1,
        slot=slot,
        told=_told(end, server, state.bytes_up),
    )
    return cohort, state


def _hand_in(server: Server, turn: Turn, coming: Any, version: Any, room: Any) -> Turn:
    """The next client that is done leaves its place, and its message, if there is one, goes into the buffer.

    Not so where a candidate comes before, `coming` seconds from now: then that much time passes, and no more.
    """
    place, seconds, all_at_once = events.first_done(turn.places)
    sooner = jnp.bool_(False)
    if server.availability is not None:
        waits = jnp.isfinite(seconds) if turn.window is None else jnp.isfinite(jnp.minimum(seconds, turn.window))
        sooner = waits & (coming < seconds)
        seconds = jnp.where(sooner, coming, seconds)
    if turn.window is not None:
        left, now, places, seconds = events.in_window(turn.window, turn.now, turn.places, seconds)
        turn = turn._replace(window=left, now=now, places=places)
    number = events.busy(turn.places)
    together = jnp.where(all_at_once & (number <= room), number, 1)
    together = jnp.where(turn.together > 0, turn.together, together) - 1
    passes = jnp.where(jnp.isfinite(seconds), seconds, 0)
    comes = jnp.isfinite(seconds) & ~sooner
    # Somebody else may begin in the next turn where nobody is at work, or nobody is ever done.
    together = jnp.where(comes, together, 0)

    done = jax.tree.map(lambda leaf: leaf[place], turn.places)
    age = version - done.version
    stale = jnp.bool_(False) if server.max_staleness is None else age > server.max_staleness
    arrives = comes & done.reports & ~stale
    message = (done.client, done.slot, age, done.work, done.scale)
    at = jnp.where(arrives, turn.buffer.count, most(server))
    count = turn.buffer.count + arrives.astype(jnp.int32)
    lines = [old.at[at].set(new, mode="drop") for old, new in zip(turn.buffer[:5], message, strict=True)]
    return turn._replace(
        now=turn.now.after(passes),
        places=events.leave(turn.places, place, passes, comes),
        candidates=candidates.freed(turn.candidates, done.client, comes & ~arrives),
        buffer=Buffer(*lines, count=count),
        together=together,
        dropped=turn.dropped + (comes & done.reports & stale).astype(jnp.int32),
        left=turn.left if server.availability is None else turn.left + (comes & done.leaves).astype(jnp.int32),
        idle=jnp.where(arrives, 0, turn.idle + 1),
        window=None if turn.window is None else events.window_with(turn.window, server.grace, count, server.buffer),
    )


def _wait(presence: Presence, turn: Turn, num_clients: int) -> Turn:
    """Where nobody is at work, the clock moves on until somebody is there who is not, or the server gives up."""
    if presence.trace is None:
        return turn

    def look_ahead(_: tuple[Any, Any]) -> tuple[Any, Any]:
        taken = (turn.places.client, turn.buffer.client)
        return jnp.bool_(False), presences.seconds_to_next(presence, taken, turn.now, num_clients)

    # A loop and not a branch: of a batch of runs, branches are computed by all in every turn.
    alone = jnp.any(turn.places.client == NOBODY) & ~jnp.isfinite(jnp.min(turn.places.remaining))
    if turn.window is not None:  # a window that is open runs out first
        alone &= jnp.isinf(turn.window)
    _, seconds = jax.lax.while_loop(lambda carry: carry[0], look_ahead, (alone, jnp.float32(0)))
    never = ~jnp.isfinite(seconds)
    return turn._replace(now=turn.now.after(jnp.where(never, 0, seconds)), idle=jnp.where(never, _PATIENCE, turn.idle))


def cohort_of(server: Server, buffer: Buffer) -> Cohort:
    """Whose messages lie in the buffer, in their order of arrival."""
    selected = jnp.arange(most(server), dtype=jnp.int32) < buffer.count
    weight = server.staleness.weight(buffer.age.astype(jnp.float32)) if server.staleness.discounts else None
    return Cohort(
        ids=jnp.where(selected, buffer.client, 0),
        selected=selected,
        reported=selected,
        work=buffer.work,
        scale=buffer.scale,
        overflow=jnp.int32(0),
        version=buffer.slot,
        discount=weight,
        age=buffer.age if server.staleness.tells else None,
    )


def _told(end: Turn, server: Server, bytes_up: Any) -> dict[str, Any]:
    left = {} if server.availability is None else {"left_midway": end.left}
    arrived = jnp.maximum(end.buffer.count, 1).astype(jnp.float32)
    return {
        "staleness_mean": jnp.sum(end.buffer.age, dtype=jnp.int32).astype(jnp.float32) / arrived,
        "staleness_max": jnp.max(end.buffer.age),
        "dropped_stale": end.dropped,
        "bytes_dropped": end.dropped.astype(jnp.uint32) * bytes_up,
        "stalled": (end.buffer.count < server.buffer).astype(jnp.int32),
        **left,
    }
