"""Every codec of the library in a chain that a run could have, for tests that look at all of their programs."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite import privacy

COHORT = 4
"""Clients of a round."""

ROUNDS = 8
"""Of the mechanisms that are made for so many."""

NOISE: dict[str, Any] = {"clip_norm": 1.0, "noise_multiplier": 1.0}
INTEGERS: dict[str, Any] = {**NOISE, "bits": 20, "min_survivors": COHORT}


def _private(codec: Callable[[], fl.Aggregator]) -> Callable[[], fl.Aggregator]:
    return lambda: fl.chain(fl.mean(over=COHORT), codec())


def _median(values: Any, weights: jax.Array, reported: jax.Array) -> Any:
    del weights
    middle = lambda leaf: jnp.nanmedian(jnp.where(_over(reported, leaf), leaf, jnp.nan), axis=0)  # noqa: E731
    return jax.tree.map(middle, values)


def _over(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    return mask.reshape((-1,) + (1,) * (leaf.ndim - 1))


def sampler() -> fl.Sampler:
    """Cohorts that all of them take, of a population of `3 * COHORT` clients."""
    return fl.sampling.cyclic(COHORT, 3)


def missing() -> list[str]:
    """The public codecs, functions that return an `fl.Aggregator`, that no chain is named after."""
    named = {name.partition("/")[0] for name in CHAINS} | {"chain", "clip_by_global_norm"}  # these two are in others
    makers = (
        name
        for module in (fl, privacy)
        for name in module.__all__
        if inspect.isfunction(thing := getattr(module, name)) and thing.__annotations__.get("return") is fl.Aggregator
    )
    return sorted(set(makers) - named)


CHAINS: dict[str, Callable[[], fl.Aggregator]] = {
    "mean": fl.mean,
    "weighted_mean": fl.weighted_mean,
    "clip_by_value": lambda: fl.chain(fl.weighted_mean(), fl.clip_by_value(1.0)),
    "quantize": lambda: fl.chain(fl.weighted_mean(weight_cap=8), fl.clip_by_global_norm(0.5), fl.quantize(bits=16)),
    "stack": lambda: fl.chain(fl.weighted_mean(), fl.stack(_median, name="median")),
    "mask": lambda: fl.chain(fl.mean(over=COHORT), fl.clip_by_value(1.0), fl.quantize(bits=8), privacy.mask()),
    "mask/algebraic": lambda: fl.chain(
        fl.mean(over=COHORT), fl.clip_by_value(1.0), fl.quantize(bits=8), privacy.mask(masking="algebraic")
    ),
    "secure_sum": lambda: fl.chain(fl.weighted_mean(weight_cap=8), fl.clip_by_global_norm(1.0), privacy.secure_sum()),
    "gaussian": _private(lambda: privacy.gaussian(**NOISE)),
    "laplace": _private(lambda: privacy.laplace(**NOISE)),
    "adaptive_gaussian": _private(lambda: privacy.adaptive_gaussian(noise_multiplier=1.0, bit_noise_std=3.0)),
    "banded_gaussian": _private(lambda: privacy.banded_gaussian(**NOISE, num_rounds=ROUNDS, bands=3)),
    "tree_gaussian": _private(lambda: privacy.tree_gaussian(**NOISE, num_rounds=ROUNDS)),
    "tree_gaussian/restarts": _private(lambda: privacy.tree_gaussian(**NOISE, num_rounds=ROUNDS, restart_every=4)),
    "discrete_gaussian": _private(lambda: privacy.discrete_gaussian(**INTEGERS)),
    "discrete_gaussian/mask": lambda: fl.chain(
        fl.mean(over=COHORT), privacy.discrete_gaussian(**INTEGERS), privacy.mask()
    ),
    "skellam": _private(lambda: privacy.skellam(**INTEGERS)),
    "skellam/no rotation": _private(lambda: privacy.skellam(**INTEGERS, rotate=False)),
    "local_gaussian": _private(lambda: privacy.local_gaussian(clip_norm=1.0, epsilon=4.0, delta=1e-5)),
    "local_laplace": _private(lambda: privacy.local_laplace(clip_norm=1.0, epsilon=4.0)),
    "priv_unit": _private(lambda: privacy.priv_unit(clip_norm=1.0, epsilon=8.0)),
}
