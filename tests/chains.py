"""Every codec of the library in a chain that a run could have, for tests that look at all of their programs."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite import compression, privacy

COHORT = 4
"""Clients of a round."""

ROUNDS = 8
"""Of the mechanisms that are made for so many."""

NOISE: dict[str, Any] = {"clip_norm": 1.0, "noise_multiplier": 1.0}
INTEGERS: dict[str, Any] = {**NOISE, "bits": 20, "min_survivors": COHORT}


def _clipped(*codecs: fl.Aggregator) -> tuple[fl.Aggregator, ...]:
    return fl.clip_by_global_norm(2.0), *codecs


CODECS: dict[str, Callable[[], tuple[fl.Aggregator, ...]]] = {
    "quantize": lambda: _clipped(fl.quantize(bits=5)),
    "qsgd": lambda: (compression.qsgd(levels=4),),
    "k_level": lambda: (compression.k_level(levels=5),),
    "tern_grad": lambda: (compression.tern_grad(),),
    "natural": lambda: (compression.natural(),),
    "sign": lambda: (compression.sign(),),
    "sign_vote": lambda: (compression.sign_vote(),),
    "noisy_sign": lambda: (compression.noisy_sign(2.0),),
    "narrow": lambda: (compression.narrow("bfloat16"),),
    "narrow/e4m3": lambda: (compression.narrow("float8_e4m3fn"),),
    "narrow/e5m2": lambda: (compression.narrow("float8_e5m2"),),
    "nf4": lambda: (compression.nf4(block=8),),
    "eden": lambda: (compression.eden(bits=2),),
    "eden/biased": lambda: (compression.eden(bits=3, unbiased=False),),
    "drive": lambda: (compression.drive(),),
    "rotated_k_level": lambda: (compression.rotated_k_level(levels=4),),
    "thc": lambda: _clipped(compression.thc(bits=4)),
    "quic_fl": lambda: _clipped(compression.quic_fl(bits=2)),
    "top_k": lambda: (compression.top_k(fraction=0.2),),
    "top_k+qsgd": lambda: (compression.top_k(fraction=0.2), compression.qsgd(levels=4)),
    "rand_k": lambda: (compression.rand_k(fraction=0.3),),
    "rand_k+quantize": lambda: (compression.rand_k(fraction=0.3), fl.clip_by_value(2.0), fl.quantize(bits=6)),
    "count_sketch": lambda: (compression.count_sketch(columns=8),),
    "power_sgd": lambda: (compression.power_sgd(rank=1),),
    "error_feedback/ef14": lambda: (compression.error_feedback(compression.top_k(fraction=0.2)),),
    "error_feedback/ef21": lambda: (compression.error_feedback(compression.eden(bits=1, unbiased=False), kind="ef21"),),
    "error_feedback/ef21_sgdm": lambda: (
        compression.error_feedback(compression.top_k(fraction=0.2), kind="ef21_sgdm"),
    ),
    "error_feedback/dasha": lambda: (
        compression.error_feedback(compression.rand_k(fraction=0.3), kind="dasha", momentum=0.2),
    ),
}
"""Every codec of `fl.compression`, as it stands behind a mean."""

NOT_SMALLER = ()
"""Those whose messages need not be smaller than a small update."""


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
    named |= {"measure_entropy", "rule", "restack"}  # changes nothing; what fl.robust is made of
    named |= {"stale_weights"}  # of servers that tell ages: tests/robust/test_stale_weights.py
    makers = (
        name
        for module in (fl, privacy, compression, fl.robust, fl.attacks)
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


def _behind_a_mean(make: Callable[[], tuple[fl.Aggregator, ...]]) -> Callable[[], fl.Aggregator]:
    return lambda: fl.chain(fl.mean(), *make())


RULES: dict[str, Callable[[], tuple[fl.Aggregator, ...]]] = {
    "robust_mean": lambda: (fl.robust.mean(),),
    "geometric_median": lambda: (fl.robust.geometric_median(),),
    "centered_clipping": lambda: (fl.robust.centered_clipping(0.5, steps=2),),
    "dnc": lambda: (fl.robust.dnc(f=1, coordinates=20),),
    "norm_filter": lambda: (fl.robust.norm_filter(10.0), fl.robust.mean()),
    "worker_momentum": lambda: (fl.robust.worker_momentum(0.9), fl.robust.mean()),
    "fl_trust": lambda: (fl.robust.fl_trust(server=0),),
    "zeno_pp": lambda: (fl.robust.zeno_pp(server=0, rho=0.1, epsilon=0.01),),
    "one_of": lambda: (fl.robust.one_of([fl.robust.median(), [fl.robust.nnm(f=1), fl.robust.mean()]], 1),),
    "krum": lambda: (fl.robust.krum(f=0),),
    "krum/byzfl": lambda: (fl.robust.krum(f=1, neighbors="byzfl"),),
    "multi_krum": lambda: (fl.robust.multi_krum(f=1, neighbors="byzfl"),),
    "bulyan": lambda: (fl.robust.bulyan(f=0),),
    "mda": lambda: (fl.robust.mda(f=1),),
    "monna": lambda: (fl.robust.monna(f=1, pivot=2),),
    "nnm": lambda: (fl.robust.nnm(f=1), fl.robust.mean()),
    "arc": lambda: (fl.robust.arc(f=1), fl.robust.mean()),
    "bucketing": lambda: (fl.robust.bucketing(size=2), fl.robust.mean()),
    "median": lambda: (fl.robust.median(),),
    "median/weighted": lambda: (fl.robust.median(weighted=True),),
    "trimmed_mean": lambda: (fl.robust.trimmed_mean(f=1),),
    "trimmed_mean/weighted": lambda: (fl.robust.trimmed_mean(f=1, weighted=True),),
    "meamed": lambda: (fl.robust.meamed(f=1),),
    "rlr": lambda: (fl.robust.rlr(threshold=2),),
}
"""Every rule of `fl.robust`, as it stands behind a mean."""

BAD = (1, 7, 9)
"""Who is bad of the population."""

ATTACKS: dict[str, Callable[[], tuple[fl.Aggregator, ...]]] = {
    "alie": lambda: (fl.attacks.alie(BAD), fl.robust.mean()),
    "ipm": lambda: (fl.attacks.ipm(BAD, scale=0.5), fl.robust.mean()),
    "min_max": lambda: (fl.attacks.min_max(BAD), fl.robust.mean()),
    "min_sum": lambda: (fl.attacks.min_sum(BAD, direction="unit"), fl.robust.mean()),
    "mimic": lambda: (fl.attacks.mimic(BAD, warm_up=2), fl.robust.mean()),
    "optimal_alie": lambda: (fl.attacks.optimal_alie(BAD, fl.robust.mean(), evaluations=4), fl.robust.mean()),
    "optimal_ipm": lambda: (fl.attacks.optimal_ipm(BAD, fl.robust.mean(), evaluations=4), fl.robust.mean()),
    "one_of/attacks": lambda: (fl.attacks.one_of([fl.attacks.alie(BAD), fl.attacks.ipm(BAD)], 1), fl.robust.mean()),
    "judged": lambda: (fl.attacks.judged(fl.robust.mean(), BAD),),
}
"""Every attack by all messages of a round, before a rule, as they stand behind a mean."""

CHAINS |= {name: _behind_a_mean(make) for name, make in (CODECS | RULES | ATTACKS).items() if name not in CHAINS}
