"""From the words of the command line to the library's objects."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import optax

import fedjaxlite as fl
from fedjaxlite.cli.settings import Settings

# How a partition is written, what it is called here, and what its number says.
_PARTITIONS = (
    ("iid", "equal random parts"),
    ("dirichlet:ALPHA", "label skew"),
    ("shards:S", "S shards of sorted labels"),
    ("classes:K", "K classes each"),
    ("quantity:ALPHA", "size skew"),
    ("key:FEATURE", "clients that a feature names"),
    ("natural", "the data set's own clients"),
)
_MIN_WORK = 0.1


def batch_size(text: str | int) -> int | None:
    """B, or None for the full batch.

    Example:
      >>> batch_size("10"), batch_size("inf")
      (10, None)
    """
    text = str(text)
    if text.strip().lower() in ("inf", "full"):
        return None
    if not text.strip().isdigit() or int(text) < 1:
        raise ValueError(f"--batch-size is {text!r}; expected an int of at least 1, or inf for the full batch.")
    return int(text)


def positive(**options: float | None) -> None:
    """Refuses options that are not finite numbers above 0; None passes, and so do tracers."""
    for name, value in options.items():
        if value is not None and not fl.checks.is_traced(value) and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected a finite number above 0.")


def share(**options: float) -> None:
    """Refuses options outside [0, 1)."""
    for name, value in options.items():
        if not 0 <= value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected a number in [0, 1).")


def partition(spec: str, *, num_clients: int, seed: int) -> Any:
    """A Partitioner from its text, or None for "natural".

    Example:
      >>> partition("dirichlet:0.3", num_clients=10, seed=0)
      dirichlet(num_clients=10, alpha=0.3, min_size=1, label='y', seed=0)
    """
    name, _, value = spec.partition(":")
    makers: Mapping[str, Callable[[], Any]] = {
        "natural": lambda: None,
        "iid": lambda: fl.partition.iid(num_clients, seed=seed),
        "dirichlet": lambda: fl.partition.dirichlet(num_clients, alpha=_number(spec, float), seed=seed),
        "shards": lambda: fl.partition.label_shards(num_clients, shards_per_client=_number(spec, int), seed=seed),
        "classes": lambda: fl.partition.k_classes(num_clients, k=_number(spec, int), seed=seed),
        "quantity": lambda: fl.partition.quantity(num_clients, alpha=_number(spec, float), seed=seed),
        "key": lambda: fl.partition.by_key(value),
    }
    if name not in makers or (name in ("iid", "natural") and value) or (name == "key" and not value):
        known = ", ".join(f"{form} ({meaning})" for form, meaning in _PARTITIONS)
        raise ValueError(f"--partition is {spec!r}; expected one of {known}.")
    return makers[name]()


def _number(spec: str, kind: Callable[[str], Any]) -> Any:
    name, _, value = spec.partition(":")
    try:
        return kind(value)
    except ValueError:
        form = next(form for form, _ in _PARTITIONS if form.startswith(name))
        raise ValueError(f"--partition is {spec!r}; expected {form} with a number, such as {name}:2.") from None


_OF_ASYNC = ("concurrency", "staleness", "max_staleness", "async_mix")
_OF_ROUNDS = ("deadline", "over_select")


def check_clock(settings: Settings) -> None:
    """Refuses options of the clock that do not go together."""
    positive(deadline=settings.deadline)
    given = lambda names: [n for n in names if getattr(settings, n) not in (None, False)]  # noqa: E731
    if settings.async_buffer is None and given(_OF_ASYNC):
        name = given(_OF_ASYNC)[0].replace("_", "-")
        raise ValueError(f"--{name} is of an asynchronous server; give --async-buffer K too, or leave it out.")
    if settings.async_buffer is not None and given(_OF_ROUNDS):
        name = given(_OF_ROUNDS)[0].replace("_", "-")
        raise ValueError(
            f"--{name} closes a round, and --async-buffer {settings.async_buffer} asks for a server without rounds. "
            "Leave one out."
        )
    if settings.async_mix and settings.async_buffer != 1:
        raise ValueError(
            f"--async-mix mixes every model as it comes, and --async-buffer is {settings.async_buffer}; expected "
            "--async-buffer 1."
        )
    if settings.over_select is not None and settings.over_select < settings.cohort:
        raise ValueError(
            f"--over-select is {settings.over_select}, and --cohort {settings.cohort} reports are wanted; expected at "
            "least as many."
        )
    service_of(settings)
    if settings.staleness is not None:
        fl.systems.staleness.parse(settings.staleness)


def service_of(settings: Settings) -> Any:
    """How long clients take; None without a clock."""
    if (
        settings.service is None
        and settings.async_buffer is None
        and not any(getattr(settings, name) is not None for name in _OF_ROUNDS)
    ):
        return None
    return fl.systems.service.parse(settings.service or "exponential:1")


def sampler(settings: Settings, num_clients: int) -> fl.Sampler:
    """Who takes part: in rounds, with or without a clock, or one by one at an asynchronous server."""
    service = service_of(settings)
    if service is not None and settings.async_buffer is not None:
        at_work = settings.concurrency or settings.async_buffer
        given: dict[str, Any] = {"concurrency": at_work, "service": service}
        given |= {"sampler": drawn(settings, at_work, num_clients, "--concurrency")}
        given |= {"staleness": fl.systems.staleness.parse(settings.staleness or "constant")}
        given |= {"max_staleness": settings.max_staleness}
        return (
            fl.systems.fed_async(**given) if settings.async_mix else fl.systems.fed_buff(settings.async_buffer, **given)
        )
    selected = settings.over_select or settings.cohort
    chosen = drawn(settings, selected, num_clients, "--cohort" if settings.over_select is None else "--over-select")
    if service is None:
        return chosen
    reports = settings.cohort if settings.over_select is not None else None
    return fl.systems.timed(chosen, service, deadline=settings.deadline, reports=reports)


def drawn(settings: Settings, cohort: int, num_clients: int, option: str) -> fl.Sampler:
    """Draws of so many clients, with dropouts and stragglers around them; `option` says who asked for them."""
    if cohort > num_clients:
        raise ValueError(
            f"{option} is {cohort}, and there are {num_clients} clients. Ask for a smaller cohort or more --clients."
        )
    share(dropout=settings.dropout)
    rate = cohort / num_clients
    makers: Mapping[str, Callable[[], fl.Sampler]] = {
        "uniform": lambda: fl.sampling.uniform(cohort),
        # Spare slots cost nothing, and a cohort that is cut costs delta.
        "poisson": lambda: fl.sampling.poisson(rate, fl.sampling.poisson_capacity(num_clients + 1, rate, 1e-15)),
        "cyclic": lambda: fl.sampling.cyclic(cohort, num_clients // cohort),
        "available": lambda: fl.sampling.available(cohort, fl.sampling.diurnal(seed=settings.seed)),
    }
    chosen = makers[settings.sampler or "uniform"]()
    chosen = fl.sampling.with_dropout(chosen, settings.dropout) if settings.dropout else chosen
    return fl.sampling.with_stragglers(chosen, settings.stragglers, _MIN_WORK) if settings.stragglers else chosen


def aggregator(settings: Settings, population: fl.Population, further: tuple[fl.Aggregator, ...] = ()) -> Any:
    """The chain of codecs; with noise, equal weights over a fixed denominator. `further` stands behind the clip."""
    positive(clip_norm=settings.clip_norm)
    if settings.quantize_bits is not None and settings.clip_norm is None:
        raise ValueError("--quantize-bits needs --clip-norm, which bounds the range that the bits cover.")
    noise = settings.noise_multiplier
    if settings.aggregator == "mean":
        parts = [fl.mean(over=None if noise is None else settings.async_buffer or settings.cohort)]
    else:
        # Sums of integers need to know how much a client weighs at most; other sums take it as it comes.
        whole = settings.quantize_bits or settings.secure_sum or settings.compress
        parts = [fl.weighted_mean(weight_cap=population.max_size if whole else None)]
    if noise is not None:
        parts.append(fl.privacy.gaussian(clip_norm=settings.clip_norm, noise_multiplier=noise))
    elif settings.clip_norm is not None and not settings.error_feedback:
        parts.append(fl.clip_by_global_norm(settings.clip_norm))
    return fl.chain(*parts, *further)


def server_optimizer(settings: Settings) -> optax.GradientTransformation:
    """The server's optimizer; adaptive ones with the constants of Reddi et al. (2021)."""
    positive(server_lr=settings.server_lr)
    adaptive = settings.server_optimizer in ("adam", "yogi", "adagrad")
    rate = (0.01 if adaptive else 1.0) if settings.server_lr is None else settings.server_lr
    makers: Mapping[str, Callable[[], optax.GradientTransformation]] = {
        "sgd": lambda: optax.sgd(rate),
        "momentum": lambda: optax.sgd(rate, momentum=0.9),
        "adam": lambda: optax.adam(rate, b1=0.9, b2=0.99, eps=1e-3),
        "yogi": lambda: optax.yogi(rate, b1=0.9, b2=0.99, eps=1e-3),
        "adagrad": lambda: optax.adagrad(rate, initial_accumulator_value=0.0, eps=1e-3),
    }
    return makers[settings.server_optimizer or "sgd"]()
