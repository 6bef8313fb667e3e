"""From one step of an asynchronous server to the next: a buffer of K messages fills, event by event."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.sampling import Cohort, Sampler, Seconds, Setting, draws
from fedjaxlite.systems import events
from fedjaxlite.systems.service import Service
from fedjaxlite.systems.staleness import Staleness

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
    """The memory: `version` and `slot` are those of the newest model, which after a buffer is the one it makes."""

    now: Seconds
    places: events.Places
    candidates: events.Stream
    version: Any
    slot: Any
    facts: Any
    told: dict[str, Any]


class Turn(NamedTuple):
    """What goes around the loop: `together` more clients hand in before places are given out again."""

    now: Seconds
    places: events.Places
    candidates: events.Stream
    buffer: Buffer
    together: Any
    dropped: Any
    idle: Any


class Server(NamedTuple):
    """What is decided when the sampler is built."""

    buffer: int
    concurrency: int
    service: Service
    sampler: Sampler
    staleness: Staleness
    max_staleness: int | None


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
        "stalled": jnp.int32(0),
    }
    return Clock(
        Seconds(jnp.int32(0), jnp.float32(0)),
        events.no_one(server.concurrency),
        events.stream(server.sampler.capacity),
        version=jnp.int32(0),
        slot=jnp.int32(0),
        facts=server.service.facts(setting),
        told=told,
    )


def empty(size: int) -> Buffer:
    """A buffer without messages."""
    numbers, integers = jnp.ones((size,), jnp.float32), jnp.zeros((size,), jnp.int32)
    return Buffer(jnp.full((size,), events.NOBODY, jnp.int32), integers, integers, numbers, numbers, jnp.int32(0))


def fill(server: Server, state: Clock, key: Any, round_number: Any, population: Any) -> tuple[Cohort, Clock]:
    """From one step of the server to the next."""
    del round_number  # the order of events is the memory's
    give = partial(
        events.hand_out,
        version=state.version,
        slot=state.slot,
        draw=lambda number: server.sampler.sample(key, number, population),
        seconds=_service_times(server.service, key, state.facts),
    )

    def goes_on(turn: Turn) -> Any:
        return (turn.buffer.count < server.buffer) & (turn.idle < _PATIENCE)

    def event(turn: Turn) -> Turn:
        room = server.buffer - turn.buffer.count
        # Whoever is neither at work nor in the buffer may begin; where that is nobody, nobody is looked for.
        allowed = (turn.together == 0) & (events.busy(turn.places) + turn.buffer.count < population.num_clients)
        places, candidates = give(turn.places, turn.candidates, turn.buffer.client, allowed=allowed)
        return _hand_in(server, turn._replace(places=places, candidates=candidates), state.version, room)

    start = Turn(
        state.now,
        state.places,
        state.candidates,
        empty(server.buffer),
        together=jnp.int32(0),
        dropped=jnp.int32(0),
        idle=jnp.int32(0),
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
        told=_told(end, server.buffer),
    )
    return cohort, state


def _hand_in(server: Server, turn: Turn, version: Any, room: Any) -> Turn:
    """The next client that is done leaves its place, and its message, if there is one, goes into the buffer."""
    place, seconds, all_at_once = events.first_done(turn.places)
    number = events.busy(turn.places)
    together = jnp.where(all_at_once & (number <= room), number, 1)
    together = jnp.where(turn.together > 0, turn.together, together) - 1
    comes = jnp.isfinite(seconds)
    # Somebody else may begin in the next turn where nobody is at work, or nobody is ever done.
    together = jnp.where(comes, together, 0)

    done = jax.tree.map(lambda leaf: leaf[place], turn.places)
    age = version - done.version
    stale = jnp.bool_(False) if server.max_staleness is None else age > server.max_staleness
    arrives = comes & done.reports & ~stale
    message = (done.client, done.slot, age, done.work, done.scale)
    at = jnp.where(arrives, turn.buffer.count, server.buffer)
    lines = [old.at[at].set(new, mode="drop") for old, new in zip(turn.buffer[:5], message, strict=True)]
    return turn._replace(
        now=turn.now.after(jnp.where(comes, seconds, 0)),
        places=events.leave(turn.places, place, seconds),
        buffer=Buffer(*lines, count=turn.buffer.count + arrives.astype(jnp.int32)),
        together=together,
        dropped=turn.dropped + (comes & done.reports & stale).astype(jnp.int32),
        idle=jnp.where(arrives, 0, turn.idle + 1),
    )


def cohort_of(server: Server, buffer: Buffer) -> Cohort:
    """Whose messages lie in the buffer, in their order of arrival."""
    selected = jnp.arange(server.buffer, dtype=jnp.int32) < buffer.count
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
    )


def _told(end: Turn, size: int) -> dict[str, Any]:
    arrived = jnp.maximum(end.buffer.count, 1).astype(jnp.float32)
    return {
        "staleness_mean": jnp.sum(end.buffer.age, dtype=jnp.int32).astype(jnp.float32) / arrived,
        "staleness_max": jnp.max(end.buffer.age),
        "dropped_stale": end.dropped,
        "stalled": (end.buffer.count < size).astype(jnp.int32),
    }


def _service_times(service: Service, key: Any, facts: Any) -> Callable[[Any, Any, Any], Any]:
    own = draws.round_key(key, 0, draws.LATENCY, 1)  # a layer of its own: deadlines draw from the first

    def seconds(client: Any, work: Any, number: Any) -> Any:
        drawn = service.seconds(jax.random.fold_in(own, number), client[None], facts, work[None], number[None])
        if getattr(drawn, "shape", None) != (1,) or not jnp.issubdtype(drawn.dtype, jnp.floating):
            given = checks.shown(drawn)
            raise TypeError(f"`service` ({service.name}) returned {given}; expected float32 [n], seconds of n clients.")
        one = drawn[0].astype(jnp.float32)
        return jnp.where(one >= 0, one, jnp.inf)  # of what is no time at all, nobody comes back

    return seconds
