"""A valid call of `fl.sweep`, which mutations start from."""

from typing import Any

import jax.numpy as jnp
import optax
from bases_engine import KEY, ONE, PARAMS, PEOPLE, loss
from calls import Base

import fedjaxlite as fl
from fedjaxlite import algorithms, sampling


def make(client_lr: Any = 0.1) -> fl.Rounds:
    """The rounds of a point."""
    algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(client_lr), batch_size=2)
    return fl.rounds(algorithm, sampler=sampling.uniform(2), aggregator=fl.mean(), execution=ONE)


SWEEPS: dict[str, Base] = {
    "sweep": Base(
        fl.sweep,
        {
            "make": make,
            "grid": {"client_lr": [0.1]},
            "init": lambda key: PARAMS,
            "population": PEOPLE,
            "num_rounds": 1,
            "seeds": 1,
            "noise_key": KEY,
            "devices": 1,
            "progress": False,
        },
        sound=lambda found: bool(jnp.isfinite(found.final("loss")).all()),
        words={"init": ("parameter",), "grid": ("client_optimizer",), "evaluate_every": ("evaluate_every",)},
        costly=True,
    ),
}
