"""The server's half of FedAvg as `fl.deploy.serve` runs it, for clients without a program."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite.deploy.server.disk.journal import open_at
from fedjaxlite.deploy.server.run import Running, running
from fedjaxlite.deploy.server.state import ServerHalf


def server_of(*, clients: int, params: np.ndarray, cohort: int, waiting: int) -> ServerHalf:
    """A server of one round of FedAvg.

    Args:
      clients: how many there are.
      params: the model.
      cohort: K, how many updates are summed.
      waiting: how many have to have checked in before the round begins.
    """

    def loss(params: Any, batch: Any, key: Any) -> Any:
        del key
        return (params.sum() - batch["x"]) ** 2

    method = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=4, epochs=1)
    rounds = fl.rounds(method, sampler=fl.sampling.uniform(cohort), aggregator=fl.weighted_mean())
    spec = fl.deploy.DataSpec({"x": jax.ShapeDtypeStruct((), np.float32)}, num_clients=clients, capacity=64)
    settings = fl.deploy.ServerSettings(min_waiting=waiting, wait=1.0, presence=3600.0, deadline=3600.0)
    return fl.deploy.Server(rounds, jnp.asarray(params), spec, key=jax.random.key(0), num_rounds=1, settings=settings)


def run_in(folder: str, server: ServerHalf) -> Running:
    """The server with its disk in a folder; its functions are compiled already."""
    state = server.first
    leaves = [np.zeros(spec["shape"], spec["dtype"]) for spec in server.specs]
    part, fine = server.halves.read(state, leaves, 0)
    jax.block_until_ready((server.halves.begin(state), server.halves.add(server.halves.nothing(), part, 0), fine))
    return running(server, open_at(Path(folder)))
