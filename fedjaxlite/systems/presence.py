"""Who of a population can begin, for a server that does not wait: whose device is enough, and who is there now."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.sampling import Seconds
from fedjaxlite.systems import traces
from fedjaxlite.systems.candidates import NOBODY
from fedjaxlite.systems.service import Service
from fedjaxlite.systems.traces import Availability


class Presence(NamedTuple):
    """Who of the population can begin: `able` bool `[N]`, those who ever can, and when they are there; None for all."""

    able: Any
    trace: Availability | None


def coming(presence: Presence, now: Seconds) -> Callable[[Any], Any] | None:
    """`seconds(clients) -> float32 [n]`, until they are there: 0 who is, infinite who never is; None where all are.

    Who leaves within what float32 tells apart of a period is gone: it might be the one that has just left. Nor is
    anybody waited for who comes sooner than that: so small a step might not get to the beginning of its window.
    """
    trace = presence.trace
    if trace is None:
        return None

    def seconds(clients: Any) -> Any:
        least = trace.period[clients].astype(jnp.float32) * jnp.float32(2.0**-23)
        until = jnp.maximum(traces.seconds_until(trace, clients, now), least)
        return jnp.where(traces.seconds_left(trace, clients, now) > least, jnp.float32(0), until)

    return seconds


def until_done_or_gone(takes: Any, client: Any, presence: Presence, now: Seconds) -> tuple[Any, Any]:
    """float32, how long a client stays in its place, and whether it leaves without being done."""
    if presence.trace is None:
        return takes, ()
    left = traces.seconds_left(presence.trace, client[None], now)[0]
    return jnp.minimum(takes, left), takes > left


def seconds_to_next(presence: Presence, taken: Sequence[Any], now: Seconds, num_clients: int) -> Any:
    """float32: until somebody is there who can begin, 0 where somebody is, infinite where nobody ever is.

    A pass over the population.
    """
    seconds = coming(presence, now)
    if seconds is None:
        return jnp.float32(0)
    until = seconds(jnp.arange(num_clients, dtype=jnp.int32))
    if presence.able is not None:
        until = jnp.where(presence.able, until, jnp.inf)
    clients = jnp.concatenate(taken)
    return jnp.min(until.at[jnp.where(clients == NOBODY, num_clients, clients)].set(jnp.inf, mode="drop"))


def who_can(service: Service, facts: Any, buffer: int) -> Any:
    """Bool `[N]`, whose devices can do the work; `()` where the service does not ask."""
    if service.able is None:
        return ()
    able = service.able(facts)
    if not checks.is_traced(able):
        count, of = int(able.sum()), able.shape[0]
        if count < buffer:
            raise ValueError(
                f"`service` ({service.name}): memory and battery of {count} of {of} devices are enough for this "
                f"run, and the buffer is of {buffer} clients. Give them more, or take a smaller buffer or model."
            )
        if count < of:
            warnings.warn(
                f"{service.name}: memory or battery of {of - count} of {of} devices are not enough for this "
                "run; they are never chosen.",
                UserWarning,
                stacklevel=2,
            )
    return able


def check_trace(trace: Availability, num_clients: int) -> None:
    """Refuses a trace of another number of clients, and one of a population in which nobody is ever there."""
    size = trace.period.shape[0]
    if size != num_clients:
        raise ValueError(
            f"`availability` is of {size} clients, but the population has {num_clients}; expected one row a client, "
            "in the population's order."
        )
    lengths = trace.ends - trace.begins
    if not checks.is_traced(lengths) and not (lengths > 0).any():
        raise ValueError("`availability` has no window of any client: nobody is ever there. Give some of them windows.")
