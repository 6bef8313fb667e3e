"""Every algorithm and every codec of the library as a program for devices: which are made, and why the others are not."""

import chains
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import regression
from methods import METHODS
from methods.method import Method

import fedjaxlite as fl
from fedjaxlite.deploy.program import client_program as programs

REFUSED = dict.fromkeys(chains.ATTACKS, "holds an attack")
"""Of the codecs those that are no program, by the text of the error."""


def matrix_loss(params, batch, key):
    return ((batch["x"] @ params["w"]).mean(-1) + params["b"] - batch["y"]) ** 2


def matrix() -> dict[str, jax.Array]:
    """A model with a leaf that every codec finds large enough."""
    return {"w": jnp.zeros((16, 8)), "b": jnp.float32(0)}


@pytest.fixture(autouse=True)
def without_compiling(monkeypatch):
    monkeypatch.setattr(programs, "memory_of", lambda program, platforms: None)


def made(algorithm: fl.Algorithm, chain: fl.Aggregator, params, data, sampler: fl.Sampler):
    rounds = fl.rounds(algorithm, sampler=sampler, aggregator=chain)
    program = programs.client_program(rounds, params, data)
    # Built, read back as a device reads it, and small.
    assert len(program.artifact) < 50_000
    sent = sum(int(np.prod(leaf["shape"])) * np.dtype(leaf["dtype"]).itemsize for leaf in program.manifest["message"])
    assert program.manifest["masked"] or sent == rounds.traffic(params, data).up - rounds.wire(params, data).overhead[0]
    return program


def data_of(method: Method) -> fl.Population:
    population, told = method.population(), method.make().hparams.get("num_clients")
    if told is None or told == population.num_clients:
        return population
    return regression(tuple(range(1, told + 1)))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_algorithm_is_a_program(method) -> None:
    data = data_of(method)
    sampler = fl.sampling.uniform(min(4, data.num_clients))
    made(method.make(), fl.weighted_mean(), method.params(), data, sampler)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(chains.CHAINS))
def test_every_codec_is_in_a_program(name) -> None:
    data = regression(tuple(3 + i % 4 for i in range(3 * chains.COHORT)), num_features=16)
    algorithm = fl.algorithms.fed_avg(matrix_loss, client_optimizer=optax.sgd(0.02), batch_size=2, epochs=1)
    parts = (algorithm, chains.CHAINS[name](), matrix(), data, chains.sampler())
    if name not in REFUSED:
        made(*parts)
        return
    with pytest.raises(ValueError, match=REFUSED[name]):
        made(*parts)
