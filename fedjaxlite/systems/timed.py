"""Synchronous rounds on a virtual clock: deadlines, over-selection, partial work, devices that come and go."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.sampling.systems import Latency, rank
from fedjaxlite.sampling.types import Accounting, Cohort, Memory, Sampler, Seconds, Seen, Setting
from fedjaxlite.systems import devices as device_model
from fedjaxlite.systems import traces
from fedjaxlite.systems.devices import Devices
from fedjaxlite.systems.round_times import Plan, TimedState, closed_after, latency_of, times_of
from fedjaxlite.systems.service import Service
from fedjaxlite.systems.traces import Availability


def timed(
    sampler: Sampler,
    devices: Devices | Latency | Service,
    *,
    deadline: Any = math.inf,
    reports: int | None = None,
    partial_work: bool = False,
    availability: Availability | None = None,
    memory_bytes: float | None = None,
    memory_models: float | None = None,
) -> Sampler:
    """Rounds that take time on a virtual clock, as long as it takes until the last message that counts is there.

    A round closes with the `reports`-th message (over-selection), or when all have come, or at the deadline, where
    somebody is missing. The clock moves on by that, and nothing ever sleeps. Records gain `simulated_seconds` (the
    clock), `round_seconds`, `waited_for` (selected clients that were not there when the round began) and `late`.

    A sampler inside of it may learn how long clients took: `fl.sampling.oort(10, latency="clock", ...)` does.

    With an availability, a client that is not there is waited for, and one that leaves before its message is sent
    never reports. So does one whose battery does not last. Clients that are known to have dropped out do not keep a
    round without a deadline open; where nobody reports, it ends with the last of them.

    Args:
      sampler: any synchronous Sampler, of n clients a round.
      devices: Devices; or a Service, such as `fl.systems.service.exponential(60.0)`; or the seconds of each slot, a
        function (key, round, cohort, population) -> float32 `[C]` such as `fl.sampling.lognormal_latency()`.
      deadline: seconds after the round begins; may be traced. None or infinity for none.
      reports: k, how many messages are enough; at most the capacity. None waits for all.
      partial_work: at the deadline a client sends what it has done: as many local steps as fit between download and
        upload, and nothing where not one fits. `Cohort.work` is their share in multiples of 2^-16. Needs Devices.
      availability: when clients are there; None for always.
      memory_bytes: what training needs; clients whose device has less are never chosen: their slots stay spare.
      memory_models: the same in multiples of the model's bytes, such as 4 for params, gradient and Adam's moments.

    Returns:
      A Sampler with a memory. It claims no amplification: who reports depends on the others, and on how much data a
      client has.

    Raises:
      TypeError, ValueError: arguments out of range, partial work without Devices, an asynchronous sampler; by
        `check`, devices or an availability of another number of clients.

    Source: over-selection and reporting windows of Bonawitz et al. (2019), "Towards Federated Learning at Scale:
    System Design", https://arxiv.org/abs/1902.01046; a client's time after FedScale, Lai et al. (2022),
    https://arxiv.org/abs/2105.11367.

    Example:
      >>> import jax
      >>> from fedjaxlite import sampling
      >>> from fedjaxlite.data.population import Population
      >>> seconds = lambda key, number, cohort, population: 1.0 + cohort.ids.astype(jnp.float32)
      >>> sampler = timed(sampling.full(3), seconds, reports=2)
      >>> state = sampler.memory.init(Setting(3, jnp.ones(3, jnp.int32), 8, 8, None, 8))
      >>> population = Population({}, jnp.arange(4), max_size=1)
      >>> cohort, state = sampler.memory.sample(state, jax.random.key(0), 0, population)
      >>> cohort.reported.tolist(), cohort.late.tolist(), float(state.round_seconds)
      ([True, True, False], [False, False, True], 2.0)
    """
    plan = _checked(sampler, devices, deadline, reports, partial_work, availability, (memory_bytes, memory_models))
    inner = sampler.memory

    def first(key: Any, round_number: Any, population: Any) -> Cohort:
        cohort = sampler.sample(key, round_number, population)
        return cohort if cohort.late is not None else cohort._replace(late=jnp.zeros_like(cohort.reported))

    def sample(state: TimedState, key: Any, round_number: Any, population: Any) -> tuple[Cohort, TimedState]:
        if inner is None:
            cohort, within = sampler.sample(key, round_number, population), state.inner
        else:
            cohort, within = inner.sample(state.inner, key, round_number, population)
        return _round(plan, state._replace(inner=within), cohort, key, round_number, population)

    def learn(state: TimedState, seen: Seen) -> TimedState:
        if inner is None:
            return state
        seen = seen._replace(seconds=state.taking) if inner.times else seen
        return state._replace(inner=inner.learn(state.inner, seen))

    def tell(state: TimedState) -> Mapping[str, Any]:
        told = {} if inner is None else dict(inner.tell(state.inner))
        own = {"simulated_seconds": state.clock, "round_seconds": state.round_seconds}
        return {**told, **own, "waited_for": state.waited_for, "late": state.late}

    def check(num_clients: int) -> None:
        sampler.check(num_clients)
        _of_all(plan, num_clients)
        if isinstance(devices, Service):
            devices.check(num_clients)

    reads = () if inner is None else inner.reads
    memory = Memory(lambda setting: _begun(plan, setting), sample, learn, tell, reads, clock=True)
    return sampler._replace(
        sample=first,
        memory=memory,
        check=check,
        name=f"{sampler.name}+timed",
        accounting=_accounting(sampler.accounting, reports),
    )


def _accounting(accounting: Accounting, reports: int | None) -> Accounting:
    remark = "Who reports is decided by a clock: it may depend on others, and on how much data a client has."
    accounting = accounting.noting(remark, amplification=False)
    return accounting if reports is None else accounting._replace(cohort_size=reports)


def _begun(plan: Plan, setting: Setting) -> TimedState:
    """The state before the first round."""
    steps, fits = (), ()
    if plan.devices is not None:
        steps = device_model.whole_steps(setting)
        enough = device_model.fits(plan.devices, plan.memory_needed, setting.model_bytes)
        fits = () if enough is None else enough
    return TimedState(
        clock=Seconds(jnp.int32(0), jnp.float32(0)),
        round_seconds=jnp.float32(0),
        waited_for=jnp.int32(0),
        late=jnp.int32(0),
        steps=steps,
        bytes_up=jnp.float32(setting.bytes_up),
        bytes_down=jnp.float32(setting.bytes_down),
        fits=fits,
        inner=() if plan.sampler.memory is None else plan.sampler.memory.init(setting),
        taking=jnp.zeros((plan.sampler.capacity,), jnp.float32) if _asks_for_times(plan.sampler) else (),
    )


def _asks_for_times(sampler: Sampler) -> bool:
    return sampler.memory is not None and sampler.memory.times


def _round(
    plan: Plan, state: TimedState, cohort: Cohort, key: Any, round_number: Any, population: Any
) -> tuple[Cohort, TimedState]:
    """The cohort as it reports, and the state with the clock where the round was closed."""
    if not isinstance(state.fits, tuple):
        chosen = cohort.selected & state.fits[cohort.ids]
        cohort = cohort._replace(
            ids=jnp.where(chosen, cohort.ids, 0),
            selected=chosen,
            reported=cohort.reported & chosen,
            scale=jnp.where(chosen, cohort.scale, jnp.float32(1)),
        )
    times = times_of(plan, state, cohort, key, round_number, population)
    deadline = jnp.asarray(plan.deadline, jnp.float32)
    enough = plan.sampler.capacity if plan.reports is None else plan.reports
    comes = cohort.reported & times.comes & jnp.isfinite(times.arrives)
    first = rank(jnp.where(comes, times.arrives, jnp.inf), cohort.ids) < enough
    in_time = comes & (times.arrives <= deadline) & first
    late = comes & ~in_time
    closed = closed_after(plan, cohort, times, in_time, deadline)
    late_ones = late if cohort.late is None else cohort.late | late
    counts = jnp.sum(cohort.selected & (times.waits > 0), dtype=jnp.int32), jnp.sum(late, dtype=jnp.int32)
    work = jnp.where(cohort.selected, times.work, jnp.float32(1))
    state = state._replace(clock=state.clock.after(closed), round_seconds=closed, waited_for=counts[0], late=counts[1])
    state = state._replace(taking=times.takes) if _asks_for_times(plan.sampler) else state
    return cohort._replace(reported=in_time, late=late_ones, work=work), state


def _checked(
    sampler: Any, devices: Any, deadline: Any, reports: Any, partial_work: Any, trace: Any, needed: tuple[Any, Any]
) -> Plan:
    """The arguments, refused where they cannot be meant."""
    checks.one_instance(Sampler, "a Sampler, such as fl.sampling.uniform(10)", sampler=sampler)
    if sampler.memory is not None and sampler.memory.clock:
        raise ValueError(f"`sampler` is {sampler.name}, which has a clock of its own; expected one of rounds.")
    deadline = math.inf if deadline is None else deadline
    if not (isinstance(deadline, (float, np.floating)) and deadline == math.inf):
        deadline = checks.positive(deadline=deadline)
    if reports is not None:
        reports = checks.positive_int(reports=reports)
        if reports > sampler.capacity:
            raise ValueError(f"`reports` is {reports}; expected at most the sampler's capacity, {sampler.capacity}.")
    partial_work = checks.flag(partial_work=partial_work)
    of_devices = isinstance(devices, Devices)
    if of_devices:
        devices = device_model.checked(devices)
    elif isinstance(devices, Service):
        devices = latency_of(devices)
    else:
        remedy = "Pass that, such as fl.sampling.lognormal_latency(), or Devices."
        checks.is_function_of("key", "round_number", "cohort", "population", remedy=remedy, devices=devices)
    if partial_work and (not of_devices or (not checks.is_traced(deadline) and deadline == math.inf)):
        missing = "a `deadline`" if of_devices else "Devices, which tell download, steps and upload apart"
        raise ValueError(f"`partial_work` is True without {missing}; pass that, or leave partial_work out.")
    device_model.check_memory(devices if of_devices else None, needed)
    trace = None if trace is None else traces.checked(trace)
    of, latency = (devices, None) if of_devices else (None, devices)
    return Plan(sampler, of, latency, deadline, reports, partial_work, trace, needed)


def _of_all(plan: Plan, num_clients: int) -> None:
    sizes = {
        "devices": None if plan.devices is None else plan.devices.seconds_per_step.shape[0],
        "availability": None if plan.trace is None else plan.trace.period.shape[0],
    }
    for name, size in sizes.items():
        if size is not None and size != num_clients:
            raise ValueError(
                f"`{name}` are of {size} clients, but the population has {num_clients}; expected one row a client, "
                "in the population's order."
            )
