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
