"""Runs that a Flower app is made of: functions that another process imports, so they need the library and no data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms

CLIENTS, MOST = 3, 64


def loss(params: Any, batch: Any, key: Any) -> jax.Array:
    """Cross entropy of softmax regression, `[B]`."""
    del key
    x = batch["x"].reshape(len(batch["x"]), -1)
    return optax.softmax_cross_entropy_with_integer_labels(x @ params["w"] + params["b"][None], batch["y"])


def digits(algorithm: str = "fed_avg", learning_rate: float = 0.1, cohort: int = CLIENTS) -> tuple[fl.Rounds, Any, Any]:
    """Three clients and softmax regression on the digits."""
    params = {"w": jnp.zeros((64, 10)), "b": jnp.zeros((10,))}
    options: dict[str, Any] = {"batch_size": 10, "epochs": 2}
    made = (
        algorithms.scaffold(loss, num_clients=CLIENTS, client_lr=learning_rate, **options)
        if algorithm == "scaffold"
        else algorithms.fed_avg(loss, client_optimizer=optax.sgd(learning_rate), **options)
    )
    sampler = fl.sampling.full(CLIENTS) if cohort == CLIENTS else fl.sampling.uniform(cohort)
    rounds = fl.rounds(made, sampler=sampler, aggregator=fl.weighted_mean())
    features = {"x": jax.ShapeDtypeStruct((8, 8, 1), jnp.float32), "y": jax.ShapeDtypeStruct((), jnp.int32)}
    return rounds, params, fl.deploy.DataSpec(features, CLIENTS, MOST)


def clients() -> fl.Population:
    """The clients' data: digits, of unlike sizes."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    owner = np.repeat(np.arange(CLIENTS), (42, 26, 61))
    x = (found.images[: len(owner), :, :, None] / 16).astype(np.float32)
    return fl.Population.from_arrays({"x": x, "y": found.target[: len(owner)].astype(np.int32)}, client_ids=owner)


def nothing_of_it() -> str:
    """What is no run."""
    return "digits"
