"""Options of the clock that go together, and the sampler that they make: rounds, or a server that does not wait."""

import math
from typing import Any

import fedjaxlite as fl
from fedjaxlite.cli import parse
from fedjaxlite.cli.settings import Settings
from fedjaxlite.cli.taking_part import samplers, times
from fedjaxlite.cli.taking_part.times import Facts

_OF_ASYNC = ("concurrency", "staleness", "max_staleness", "async_mix", "grace")
_OF_ROUNDS = ("deadline", "over_select")


def check(settings: Settings) -> None:
    """Refuses options of the clock, and samplers, that do not go together."""
    parse.positive(deadline=settings.deadline)
    given = lambda names: [n for n in names if samplers.asked(settings, n)]  # noqa: E731
    if settings.async_buffer is None and given(_OF_ASYNC):
        name = given(_OF_ASYNC)[0].replace("_", "-")
        raise ValueError(f"--{name} is of an asynchronous server; give --async-buffer K too, or leave it out.")
    if settings.async_buffer is not None and given(_OF_ROUNDS):
        name = given(_OF_ROUNDS)[0].replace("_", "-")
        raise ValueError(
            f"--{name} closes a round, and --async-buffer {settings.async_buffer} asks for a server without rounds. "
            "Leave one out."
        )
    _check_mixing(settings)
    if settings.over_select is not None and settings.over_select < settings.cohort:
        raise ValueError(
            f"--over-select is {settings.over_select}, and --cohort {settings.cohort} reports are wanted; expected at "
            "least as many."
        )
    samplers.check(settings, clock=has_clock(settings))
    times.check_service(settings)
    _check_availability(settings)
    _check_staleness(settings)


def _check_staleness(settings: Settings) -> None:
    ages = settings.staleness is not None and fl.systems.staleness.parse(settings.staleness).tells
    if ages and settings.async_mix:
        raise ValueError(
            f"--staleness {settings.staleness} leaves weights to --before stale_weights, which divides by their sum, "
            "and --async-mix has one message a step: nothing would be left of them. Take --staleness polynomial:0.5."
        )
    steps = [step.partition(":")[0].strip().replace("-", "_") for step in (settings.before or "").split("+")]
    if "stale_weights" in steps and not ages:
        raise ValueError(
            f"--before {settings.before} weighs messages by their ages; give --async-buffer K and --staleness told "
            "too, under which a server tells them."
        )


def _check_mixing(settings: Settings) -> None:
    if settings.async_mix and settings.async_buffer != 1:
        raise ValueError(
            f"--async-mix mixes every model as it comes, and --async-buffer is {settings.async_buffer}; expected "
            "--async-buffer 1."
        )
    if settings.grace is None:
        return
    if not (0 <= settings.grace < math.inf):
        raise ValueError(f"--grace is {settings.grace}; expected a finite number of seconds, at least 0.")
    if settings.async_mix:
        raise ValueError(
            f"--grace {settings.grace:g} waits for more messages, and --async-mix mixes each as it comes. Leave one "
            "out."
        )


def _check_availability(settings: Settings) -> None:
    by_rounds = samplers.name_of(settings) in samplers.BY_ROUNDS
    if settings.availability is not None and by_rounds and settings.async_buffer is not None:
        raise ValueError(
            f"--sampler {settings.sampler} looks at who is there in a round, and --async-buffer "
            f"{settings.async_buffer} asks for a server without rounds, which passes over who is not there whatever "
            "the sampler is. Leave --sampler out."
        )
    times.check_availability(settings, by_rounds=by_rounds)


def has_clock(settings: Settings) -> bool:
    """Whether the run has one: with any option that says something in seconds, or a server that does not wait."""
    asked = any(getattr(settings, name) is not None for name in ("service", "async_buffer", *_OF_ROUNDS))
    in_seconds = settings.availability is not None and samplers.name_of(settings) not in samplers.BY_ROUNDS
    return asked or in_seconds


def sampler(settings: Settings, facts: Facts) -> fl.Sampler:
    """Who takes part: in rounds, with or without a clock, or one by one at an asynchronous server.

    Args:
      settings: the options.
      facts: what is known of the run.

    Raises:
      ValueError: for what does not go together, or does not fit the population.
    """
    check(settings)
    made = _made(settings, facts)
    try:
        made.check(facts.num_clients)
    except ValueError as error:
        where = _where(settings)
        raise ValueError(f"{where}: {error}" if where else str(error)) from None
    return made


def _where(settings: Settings) -> str:
    """The options of the clock that have numbers of clients."""
    names = ("service", "availability", "async_buffer")
    return ", ".join(f"--{n.replace('_', '-')} {v}" for n in names if (v := getattr(settings, n)) is not None)


def _made(settings: Settings, facts: Facts) -> fl.Sampler:
    clock = has_clock(settings)
    taking = times.service(settings, facts) if clock else None
    if settings.async_buffer is not None:
        return _without_rounds(settings, facts, taking)
    selected = settings.over_select or settings.cohort
    option = "--cohort" if settings.over_select is None else "--over-select"
    chosen = samplers.drawn(settings, selected, facts.num_clients, option)
    if taking is None:
        return chosen
    reports = settings.cohort if settings.over_select is not None else None
    by_rounds = samplers.name_of(settings) in samplers.BY_ROUNDS
    trace = None if by_rounds else times.availability(settings, facts)
    return fl.systems.timed(chosen, taking, deadline=settings.deadline, reports=reports, availability=trace)


def _without_rounds(settings: Settings, facts: Facts, taking: Any) -> fl.Sampler:
    buffer = settings.async_buffer or 1
    at_work = settings.concurrency or buffer
    devices = isinstance(taking, fl.systems.Devices)
    given: dict[str, Any] = {
        "concurrency": at_work,
        "service": fl.systems.service.on_devices(taking) if devices else taking,
        "sampler": samplers.drawn(settings, at_work, facts.num_clients, "--concurrency"),
        "staleness": fl.systems.staleness.parse(settings.staleness or "constant"),
        "max_staleness": settings.max_staleness,
        "availability": times.availability(settings, facts),
    }
    if settings.async_mix:
        return fl.systems.fed_async(**given)
    return fl.systems.fed_buff(buffer, grace=settings.grace, **given)
