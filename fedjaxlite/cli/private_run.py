"""A run under differential privacy on the command line: what its options need, its noise, and its budget."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

import fedjaxlite as fl
from fedjaxlite.cli import parse
from fedjaxlite.cli.settings import Settings


def check(settings: Settings) -> None:
    """Refuses options of privacy that do not go together."""
    noise, epsilon = settings.noise_multiplier, settings.epsilon
    parse.positive(epsilon=epsilon, max_epsilon=settings.max_epsilon)
    if noise is not None and epsilon is not None:
        raise ValueError(
            "--noise-multiplier and --epsilon were both given; the one follows from the other. Give one of them."
        )
    if noise is None and epsilon is None:
        for name in ("max_epsilon", "delta"):
            if getattr(settings, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} says nothing without noise; give --noise-multiplier or --epsilon too.")
        return
    if settings.clip_norm is None:
        raise ValueError("noise needs --clip-norm, which bounds what one client can change.")


def as_before(settings: Settings, before: Mapping[str, Any]) -> Settings:
    """A resumed run's settings: with the noise that its first rounds had, on which all of its guarantee rests.

    Args:
      settings: of the command line, over those of the file.
      before: the table [privacy] of the run's config.toml; empty for a run without noise.
    """
    noise, asked = before.get("noise_multiplier"), settings.noise_multiplier
    if noise is None and settings.epsilon is not None:
        raise ValueError("--epsilon is for runs that have noise from their first round on, and this one has none.")
    for name in ("cohort", "sampler"):
        now = getattr(settings, name)
        if noise is not None and now is not None and now != before.get(name, now):
            raise ValueError(f"--{name} is {now}, and the run that is resumed has {before[name]}; epsilon needs one.")
    if asked is not None and asked != noise:
        raise ValueError(
            f"--noise-multiplier is {asked}, and the run that is resumed has {noise or 'none'}; a guarantee needs one "
            "noise for all rounds. Leave it out."
        )
    if noise is None:
        return settings
    return settings._replace(noise_multiplier=noise, epsilon=None, delta=before["delta"])


def calibrated(settings: Settings, compose: Callable[[Settings], fl.Rounds], num_clients: int) -> Settings:
    """The settings with delta and noise filled in: the least noise with which all rounds cost `--epsilon`.

    Args:
      settings: checked.
      compose: makes the rounds of some settings.
      num_clients: N.
    """
    if settings.noise_multiplier is None and settings.epsilon is None:
        return settings
    delta = settings.delta or num_clients**-1.1
    settings = settings._replace(delta=delta)
    if settings.epsilon is None:
        return settings
    noise = fl.privacy.calibrate(
        lambda z: compose(settings._replace(noise_multiplier=float(z))),
        num_clients,
        epsilon=settings.epsilon,
        delta=delta,
        num_rounds=settings.rounds,
    )
    return settings._replace(noise_multiplier=float(noise))


def observers(settings: Settings) -> tuple[fl.observers.Observer, ...]:
    """What keeps the budget: the running epsilon, and the end before it is passed."""
    if settings.noise_multiplier is None or settings.delta is None:
        return ()
    running = fl.privacy.running_epsilon(delta=settings.delta)
    if settings.max_epsilon is None:
        return (running,)
    return (running, fl.privacy.stop_at_epsilon(epsilon=settings.max_epsilon, delta=settings.delta))


def cohort_key(settings: Settings) -> Any:
    """What cohorts are drawn from, where a seed was given for them; else it is for the library to choose."""
    return None if settings.cohort_seed is None else jax.random.key(settings.cohort_seed)


def told(record: Mapping[str, Any], settings: Settings) -> str:
    """The last word on epsilon: what it is, and what it rests on."""
    text = f"epsilon {record['epsilon']:.4g} at delta {settings.delta:.3g}, per client"
    if "epsilon_unamplified" not in record:
        return text
    return (
        f"{text}, if the seed is secret: cohorts were drawn from --cohort-seed {settings.cohort_seed}, and against "
        f"whoever knows that it is {record['epsilon_unamplified']:.4g}, without amplification"
    )


def table(settings: Settings) -> dict[str, Any]:
    """What config.toml says of it."""
    if settings.noise_multiplier is None:
        return {}
    kept = ("noise_multiplier", "delta", "cohort", "sampler")
    return {"privacy": {name: getattr(settings, name) for name in kept}}
