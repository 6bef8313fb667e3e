"""A small run that is deployed in many ways: its clients, its method, its chains, and the simulation of what came about."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy

PARAMS = {"b": jnp.float32(0.5), "w": jnp.zeros(3)}
CHAINS = {
    "mean": lambda: fl.weighted_mean(),
    "quantize": lambda: fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), fl.quantize(bits=16)),
    "mask": lambda: fl.chain(
        fl.weighted_mean(weight_cap=8), fl.clip_by_value(1.0), fl.quantize(bits=12), privacy.mask(min_survivors=3)
    ),
    "median": lambda: fl.chain(fl.mean(), fl.robust.median()),
}


def people(num: int) -> fl.Population:
    """Clients of one to seven examples."""
    sizes = [1 + (5 * u) % 7 for u in range(num)]
    return people_of(sizes)


def people_of(sizes: Sequence[int]) -> fl.Population:
    """A client of each size."""
    rng, total = np.random.default_rng(0), sum(sizes)
    features = {"x": rng.normal(size=(total, 3)).astype(np.float32), "y": rng.normal(size=total).astype(np.float32)}
    return fl.Population.from_arrays(features, client_ids=np.repeat(np.arange(len(sizes)), sizes))


def loss(params: Any, batch: Any, key: Any) -> Any:
    """Squared error of a linear model, `[B]`."""
    del key
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


def method(name: str, num: int) -> fl.Algorithm:
    """FedAvg, or SCAFFOLD of `num` clients."""
    if name == "scaffold":
        return algorithms.scaffold(loss, client_lr=0.05, num_clients=num, batch_size=2, epochs=2)
    return algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.05), batch_size=2, epochs=2)


def chosen(cohorts: Sequence[Sequence[int]], capacity: int) -> fl.Sampler:
    """The cohorts of a record, each of `capacity` clients at most."""
    return fl.sampling.replay([[*cohort, *[-1] * (capacity - len(cohort))] for cohort in cohorts])
