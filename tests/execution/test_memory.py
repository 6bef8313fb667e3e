"""Temporary memory of the compiled round does not grow with the cohort: figures from XLA's own buffer assignment."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms

SIDE = 512
MODEL = SIDE * SIDE * 4  # bytes; 1 MiB
CLIENTS = 4096
LANES = 2


def loss_fn(params: Any, batch: Any, key: Any) -> jax.Array:
    return ((batch["x"] @ params["w"] - batch["x"]) ** 2).sum(-1)


def fed_avg() -> fl.Algorithm:
    return algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(0.1), batch_size=1)


def with_state() -> fl.Algorithm:
    """Each client keeps a pytree as large as the model."""
    train = fl.local_sgd(loss_fn, client_optimizer=optax.sgd(0.1), batch_size=1, epochs=1)

    def client_update(shared: Any, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        delta = train(shared, data).delta
        own = jax.tree.map(lambda o, d: 0.5 * o + d, own, delta)
        return fl.ClientOutput(own, data.num_examples, client_state=own)

    return fed_avg()._replace(
        client_update=client_update, init_client=lambda params: jax.tree.map(jnp.zeros_like, params)
    )


@lru_cache(maxsize=1)
def population() -> fl.Population:
    return fl.Population.from_arrays({"x": np.ones((CLIENTS, SIDE), np.float32)}, client_ids=np.arange(CLIENTS))


def compiled_memory(
    algorithm: fl.Algorithm, cohort_size: int, *, num_rounds: int | None, donate: bool = False, **where: Any
) -> Any:
    """XLA's figures for one device; nothing runs, and the state exists as shapes only."""
    run = fl.rounds(
        algorithm,
        sampler=fl.sampling.uniform(cohort_size),
        aggregator=fl.weighted_mean(),
        execution=fl.Execution(lanes=LANES, donate=donate, **where),
    )
    params, key = {"w": jnp.zeros((SIDE, SIDE))}, jax.random.key(0)
    state, data = jax.eval_shape(lambda p: (run.init(params, p, key=key, noise_key=key), p), population())
    return run.lower(state, data, num_rounds).compile().memory_analysis()


def temporaries(algorithm: fl.Algorithm, cohort_sizes: tuple[int, ...], **where: Any) -> list[int]:
    return [compiled_memory(algorithm, size, **where).temp_size_in_bytes for size in cohort_sizes]


def assert_flat(cohort_sizes: tuple[int, ...], found: list[int], models_per_lane: float) -> None:
    """At most 64 bytes more for each client more, and a few models a lane in all."""
    growth = np.diff(found) / np.diff(cohort_sizes)
    assert growth.max() <= 64, f"{growth.max():.0f} bytes a client"
    models = (found[-1] - 64 * cohort_sizes[-1]) / MODEL / LANES
    assert models <= models_per_lane, f"{models:.2f} models a lane"


@pytest.mark.whole
def test_one_device() -> None:
    sizes = (64, 512, 4096)
    assert_flat(sizes, temporaries(fed_avg(), sizes, devices=1, num_rounds=None), models_per_lane=2.1)


@pytest.mark.whole
def test_two_devices_and_many_rounds_a_dispatch() -> None:
    sizes = (64, 4096)
    # One model more than a single round: the scan over rounds carries it.
    assert_flat(sizes, temporaries(fed_avg(), sizes, devices=2, num_rounds=3), models_per_lane=2.6)


@pytest.mark.whole
def test_client_states_on_two_devices() -> None:
    sizes = (64, 4096)
    assert_flat(sizes, temporaries(with_state(), sizes, devices=2, num_rounds=None), models_per_lane=3.1)


def test_a_donated_bank_of_client_states_exists_once() -> None:
    memory = compiled_memory(with_state(), 64, devices=1, num_rounds=3, donate=True)
    bank = CLIENTS * MODEL
    assert memory.argument_size_in_bytes > bank
    assert memory.alias_size_in_bytes > bank
    assert memory.temp_size_in_bytes < 0.01 * bank


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
@pytest.mark.parametrize("make", [fed_avg, with_state])
@pytest.mark.parametrize("num_rounds", [None, 3])
def test_every_combination(make: Any, mapping: str, num_rounds: int | None) -> None:
    sizes = (64, 512, 4096)
    for devices in (1, 2, 4):
        found = temporaries(make(), sizes, devices=devices, mapping=mapping, num_rounds=num_rounds)
        assert_flat(sizes, found, models_per_lane=4.1)
