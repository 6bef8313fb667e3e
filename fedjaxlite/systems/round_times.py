"""How long a round takes: what each client gets done and when its message is there, and when the round is closed."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.sampling import draws
from fedjaxlite.sampling.systems import Latency
from fedjaxlite.sampling.types import Cohort, Sampler, Seconds
from fedjaxlite.systems import devices as device_model
from fedjaxlite.systems import traces
from fedjaxlite.systems.devices import Devices
from fedjaxlite.systems.service import Service, no_facts
from fedjaxlite.systems.traces import Availability


class TimedState(NamedTuple):
    """What goes on from round to round.

    Attributes:
      clock: Seconds since the run began, at the end of the last round.
      round_seconds: float32, of the last round.
      waited_for: int32, selected clients of the last round that were not there when it began.
      late: int32, clients whose message came after the last round was closed.
      steps: int32 `[N]`, local steps of each client that does all of its work; `()` where nothing depends on them.
      bytes_up: float32, of a message.
      bytes_down: float32, of a download.
      fits: bool `[N]`, whose memory is enough; `()` where all are.
      inner: of the sampler that draws the cohorts; `()` where that has none.
      taking: float32 `[C]`, how long each client of the last round took, for a sampler that learns it; else `()`.
    """

    clock: Seconds
    round_seconds: Any
    waited_for: Any
    late: Any
    steps: Any
    bytes_up: Any
    bytes_down: Any
    fits: Any
    inner: Any
    taking: Any = ()


class Plan(NamedTuple):
    """How rounds are closed, and what time is made of."""

    sampler: Sampler
    devices: Devices | None
    latency: Latency | None
    deadline: Any
    reports: int | None
    partial_work: bool
    trace: Availability | None
    memory_needed: tuple[float | None, float | None]


class Times(NamedTuple):
    """Of each slot: when its message is there, in seconds since the round began; whether it comes at all; its work."""

    takes: Any
    waits: Any
    arrives: Any
    ends: Any
    comes: Any
    work: Any


def times_of(plan: Plan, state: TimedState, cohort: Cohort, key: Any, round_number: Any, population: Any) -> Times:
    """When each slot's message is there."""
    trace, ids = plan.trace, cohort.ids
    zero = jnp.zeros(ids.shape, jnp.float32)
    waits = zero if trace is None else traces.seconds_until(trace, ids, state.clock)
    if plan.devices is None:
        work, able = cohort.work, jnp.ones(ids.shape, bool)
        takes = _given(plan, key, round_number, cohort, population)
        arrives = waits + takes
    else:
        before, step, up = device_model.parts_of(plan.devices, ids, state.bytes_up, state.bytes_down)
        whole = state.steps[ids]
        steps, work, fits = _steps(plan, cohort.work, whole, waits + before + up, step)
        takes = before + steps.astype(jnp.float32) * step + up
        arrives = waits + takes
        # Steps that fit are sent in time, whatever the last digit of the sum says.
        arrives = jnp.where(fits & (work < cohort.work), jnp.minimum(arrives, plan.deadline), arrives)
        enough = device_model.has_energy(plan.devices, ids, steps, state.bytes_up, state.bytes_down)
        able = fits & enough
    if trace is None:
        return Times(takes, waits, arrives, arrives, able, work)
    # At the end of its wait a client is at the beginning of a window, and has all of it.
    left = jnp.where(
        waits > 0, traces.seconds_of_next(trace, ids, state.clock), traces.seconds_left(trace, ids, state.clock)
    )
    stays = jnp.isfinite(waits) & (takes <= left)
    return Times(takes, waits, arrives, waits + jnp.minimum(takes, left), able & stays, work)


def _steps(plan: Plan, work: Any, whole: Any, fixed: Any, step: Any) -> tuple[Any, Any, Any]:
    """Int32 steps that each client does, the share of all of its steps that they are, and whether it sends them."""
    wanted = device_model.steps_done(whole, work)
    if not plan.partial_work:
        return wanted, work, jnp.ones(work.shape, bool)
    budget = jnp.asarray(plan.deadline, jnp.float32) - fixed
    fit = jnp.where(step > 0, jnp.floor(budget / jnp.where(step > 0, step, 1.0)), jnp.inf)
    fit = jnp.where(budget >= 0, jnp.minimum(fit, wanted.astype(jnp.float32)), 0.0).astype(jnp.int32)
    part = fit < wanted
    share = jnp.minimum(work, share_of(jnp.maximum(fit, 1), jnp.maximum(whole, 1)))
    return fit, jnp.where(part & (fit > 0), share, work), (fit > 0) | ((wanted == 0) & (budget >= 0))


def share_of(steps: Any, whole: Any) -> Any:
    """`steps / whole`, rounded down to a multiple of 2^-16, which a client counts as just so many steps."""
    exact = (steps.astype(jnp.uint32) * jnp.uint32(65536)) // whole.astype(jnp.uint32)  # below 65536 steps
    rough = jnp.floor(steps.astype(jnp.float32) / whole.astype(jnp.float32) * 65536.0) - 1.0
    return jnp.maximum(jnp.where(whole < 65536, exact.astype(jnp.float32), rough), 1.0) * jnp.float32(2.0**-16)


def _given(plan: Plan, key: Any, round_number: Any, cohort: Cohort, population: Any) -> Any:
    """The seconds that a function gives."""
    if plan.latency is None:
        raise TypeError("`devices` is None; expected Devices or a function.")
    seconds = plan.latency(key, round_number, cohort, population)
    if getattr(seconds, "shape", None) != cohort.ids.shape:
        given, expected = checks.shown(seconds), f"float32 {list(cohort.ids.shape)}, the seconds of each slot"
        raise TypeError(f"`devices` returned {given}; expected {expected}.")
    return jnp.asarray(seconds).astype(jnp.float32)


def closed_after(plan: Plan, cohort: Cohort, times: Times, in_time: Any, deadline: Any) -> Any:
    """float32 seconds after which the round was closed.

    A time below a second is a multiple of 2^-23, as larger ones are anyhow: so the clock is their exact sum.
    """
    last = jnp.max(jnp.where(in_time, times.arrives, 0.0), initial=0.0)
    count = jnp.sum(in_time, dtype=jnp.int32)
    asked = jnp.sum(cohort.selected, dtype=jnp.int32)
    wanted = asked if plan.reports is None else jnp.minimum(jnp.int32(plan.reports), asked)
    ends = jnp.where(cohort.selected & jnp.isfinite(times.ends), times.ends, 0.0)
    alone = jnp.where(count > 0, last, jnp.max(ends, initial=0.0))
    closed = jnp.where((count < wanted) & jnp.isfinite(deadline), deadline, alone)
    return jnp.where(closed < 1, jnp.round(closed * 2.0**23) * jnp.float32(2.0**-23), closed)


def latency_of(service: Service) -> Latency:
    """The seconds of each slot, of a service that knows nothing of the run."""
    if service.facts is not no_facts:
        raise ValueError(
            f"`devices` is the service {service.name}, which asks for facts of the run; pass the Devices themselves, "
            "or a function (key, round, cohort, population)."
        )

    def latency(key: Any, round_number: Any, cohort: Cohort, population: Any) -> Any:
        del population
        slots = cohort.ids.shape[0]
        own = draws.round_key(key, round_number, draws.LATENCY, 1)
        number = jnp.asarray(round_number, jnp.int32) * slots + jnp.arange(slots, dtype=jnp.int32)
        return service.seconds(own, cohort.ids, (), cohort.work, number)

    return latency
