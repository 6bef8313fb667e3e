"""Valid calls of attacks, and of what measures them."""

from typing import Any

import jax
import jax.numpy as jnp
from bases_engine import ALGORITHM, KEY, init_rounds, use_sampler
from calls import Base

import fedjaxlite as fl
from fedjaxlite import attacks

BAD = [1, 3]


def before_a_rule(codec: Any) -> None:
    """Puts an attack before a rule, into rounds."""
    init_rounds(aggregator=fl.chain(fl.mean(), codec, fl.robust.mean()))


def as_a_rule(codec: Any) -> None:
    """Ends the chain of rounds with a rule."""
    init_rounds(aggregator=fl.chain(fl.mean(), codec))


def use_bad(bad: Any) -> None:
    """Asks who is bad."""
    jax.eval_shape(lambda: attacks.is_bad(bad, jnp.arange(6, dtype=jnp.int32), KEY))


ALONE = {"algorithm": ALGORITHM, "bad": BAD}
TOGETHER = {
    "alie": {"z": 0.5},
    "ipm": {"scale": 2.0},
    "mimic": {"warm_up": 2, "client": None},
    "min_max": {"direction": "std"},
    "min_sum": {"direction": "unit"},
    "optimal_alie": {"rule": fl.robust.mean(), "evaluations": 4},
    "optimal_ipm": {"rule": [fl.robust.mean()], "evaluations": 4},
}

ATTACKS: dict[str, Base] = {
    "attacks.pool": Base(attacks.pool, {"clients": BAD}, use=use_bad),
    "attacks.share": Base(attacks.share, {"rate": 0.2}, use=use_bad),
    "attacks.is_bad": Base(attacks.is_bad, {"bad": BAD, "client": jnp.int32(3), "key": KEY}),
    "attacks.sign_flip": Base(attacks.sign_flip, {**ALONE, "scale": 2.0}, use=init_rounds, costly=True),
    "attacks.gaussian": Base(attacks.gaussian, {**ALONE, "stddev": 2.0}, use=init_rounds, costly=True),
    "attacks.free_rider": Base(attacks.free_rider, {**ALONE, "stddev": 0.1}, use=init_rounds, costly=True),
    "attacks.fixed_number": Base(attacks.fixed_number, {"cohort_size": 3, "bad": BAD, "num": 1}, use=use_sampler),
    "attacks.judged": Base(attacks.judged, {"rule": fl.robust.mean(), "bad": BAD}, use=as_a_rule, costly=True),
}
SEARCH = {"n": 5, "f": 1, "dim": 2, "tries": 2, "steps": 2, "key": KEY}
ATTACKS["attacks.largest_kappa"] = Base(
    attacks.largest_kappa, {"rule": fl.robust.mean(), **SEARCH}, sound=lambda found: bool(found.kappa >= 0), costly=True
)
ATTACKS |= {
    f"attacks.{name}": Base(getattr(attacks, name), {"bad": BAD, **options}, use=before_a_rule, costly=True)
    for name, options in TOGETHER.items()
}
