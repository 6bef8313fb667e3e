"""Clients by name: `--sampler uniform`, `--sampler oort:preferred_seconds=60`, `--sampler power_of_choice:30`."""

from collections.abc import Callable, Mapping
from typing import Any

import fedjaxlite as fl
from fedjaxlite.cli import parse, signatures
from fedjaxlite.cli.settings import Settings
from fedjaxlite.cli.taking_part import times

BY_ROUNDS = ("available", "refl")
"""Samplers that look at who is there in a round; all others draw, and on the clock one waits for who is not there."""
_ALWAYS = ("uniform", "poisson", "cyclic", "available")
_MADE: Mapping[str, Callable[..., fl.Sampler]] = {
    "oort": fl.sampling.oort,
    "refl": fl.sampling.refl,
    "power_of_choice": fl.sampling.power_of_choice,
}
_TOLD = ("cohort_size", "latency", "trace")
"""Arguments of samplers that follow from other options."""
_BY_LOSS = ("oort", "power_of_choice")
_MIN_WORK = 0.1


def asked(settings: Settings, name: str) -> bool:
    """Whether an option was given that is none by default; it may be traced."""
    value = getattr(settings, name)
    return value is not None and value is not False


def name_of(settings: Settings, option: str = "--sampler") -> str:
    """The name of a sampler without its arguments; `option` is whose text it is."""
    return signatures.chosen(option, (settings.sampler or "uniform").partition(":")[0], (*_ALWAYS, *_MADE))


def check(settings: Settings, *, clock: bool) -> None:
    """Refuses a sampler that is not there, and one that cannot be meant beside other options."""
    name, text, given = name_of(settings), settings.sampler, _arguments(settings)
    if name == "refl" and settings.availability is None:
        raise ValueError(
            f"--sampler {text} takes, of the clients that are there, those that are seldom there; say when they are: "
            "give --availability diurnal too."
        )
    if name in _MADE and settings.async_buffer is not None:
        raise ValueError(
            f"--sampler {text} chooses round by round, from what it saw in the rounds before, and --async-buffer "
            f"{settings.async_buffer} asks for a server without rounds. Leave one out."
        )
    if name in _BY_LOSS:
        _refuse_secrets(settings)
    if "preferred_seconds" in given and not clock:
        raise ValueError(
            f"--sampler {text} compares preferred_seconds with how long clients take; give --service too, or leave "
            "preferred_seconds out."
        )


def _refuse_secrets(settings: Settings) -> None:
    """Losses in the clear stand beside nothing that is to be hidden."""
    secrets = ("noise_multiplier", "epsilon", "secure_sum")
    for option in [name for name in secrets if asked(settings, name)]:
        hides = "hides" if option == "secure_sum" else "protects"
        raise ValueError(
            f"--sampler {settings.sampler} chooses clients by losses that they tell in the clear, beside messages that "
            f"--{option.replace('_', '-')} {hides}: nothing could be said of their privacy, and no amplification by "
            "sampling holds. Take --sampler uniform or poisson."
        )


def _parameters(name: str) -> dict[str, Any]:
    """What a text may give; nothing for names without arguments."""
    parameters = signatures.parameters_of(_MADE[name]) if name in _MADE else {}
    return {n: p for n, p in parameters.items() if n not in _TOLD}


def _arguments(settings: Settings) -> dict[str, Any]:
    text, name = settings.sampler or "uniform", name_of(settings)
    parameters, words = _parameters(name), text.partition(":")[2]
    given = signatures.arguments_of("--sampler", text, name, parameters, words, signatures.typed)
    signatures.check_complete("--sampler", name, parameters, given)
    return given


def drawn(settings: Settings, cohort: int, num_clients: int, option: str) -> fl.Sampler:
    """Cohorts of so many clients, with dropouts and stragglers around them.

    Args:
      settings: checked.
      cohort: how many.
      num_clients: N.
      option: who asked for so many.
    """
    if cohort > num_clients:
        raise ValueError(
            f"{option} is {cohort}, and there are {num_clients} clients. Ask for a smaller cohort or more --clients."
        )
    parse.share(dropout=settings.dropout)
    chosen = _by_name(settings, cohort, num_clients, option)
    chosen = fl.sampling.with_dropout(chosen, settings.dropout) if settings.dropout else chosen
    return fl.sampling.with_stragglers(chosen, settings.stragglers, _MIN_WORK) if settings.stragglers else chosen


def _by_name(settings: Settings, cohort: int, num_clients: int, option: str) -> fl.Sampler:
    name, rate = name_of(settings), cohort / num_clients
    makers: Mapping[str, Callable[[], fl.Sampler]] = {
        "uniform": lambda: fl.sampling.uniform(cohort),
        # Spare slots cost nothing, and a cohort that is cut costs delta.
        "poisson": lambda: fl.sampling.poisson(rate, fl.sampling.poisson_capacity(num_clients + 1, rate, 1e-15)),
        "cyclic": lambda: fl.sampling.cyclic(cohort, num_clients // cohort),
        "available": lambda: fl.sampling.available(cohort, times.trace(settings)),
    }
    if name in makers:
        return makers[name]()
    text, given = settings.sampler or name, _arguments(settings)
    told: dict[str, Any] = {"cohort_size": cohort}
    if name == "refl":
        told["trace"] = times.trace(settings)
    if "preferred_seconds" in given:
        told["latency"] = "clock"
    try:
        made = _MADE[name](**told, **given)
        made.check(num_clients)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--sampler {text}: {str(error).replace('`cohort_size`', option)}") from None
    return made
