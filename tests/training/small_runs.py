"""A small run with client states for the tests of this folder: one program for all of them, compiled once."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.observers import records
from fedjaxlite.training.train import train

PARAMS = {"w": np.zeros((3,), np.float32), "b": np.float32(0)}


def loss_fn(params, batch, key):
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


@functools.cache
def people() -> fl.Population:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3)).astype(np.float32)
    return fl.Population.from_arrays({"x": x, "y": x.sum(1)}, client_ids=np.arange(30) // 5)


def counting(rate: float = 0.1, loss=loss_fn, server=None) -> fl.Algorithm:
    """Federated averaging whose clients count their rounds."""
    algorithm = algorithms.fed_avg(
        loss, client_optimizer=optax.sgd(rate), server_optimizer=server, batch_size=5, epochs=1
    )
    inner = algorithm.client_update

    def client_update(shared, client_state, data, key):
        return inner(shared, client_state, data, key)._replace(client_state=client_state + 1)

    return algorithm._replace(init_client=lambda params: jnp.int32(0), client_update=client_update)


@functools.cache
def composed() -> fl.Rounds:
    return fl.rounds(
        counting(),
        sampler=fl.sampling.uniform(3, dropout=0.1),
        aggregator=fl.weighted_mean(),
        execution=fl.Execution(devices=1),
    )


def begin(run: fl.Rounds | None = None) -> fl.RoundState:
    return (run or composed()).init(PARAMS, people(), key=jax.random.key(1), noise_key=jax.random.key(2))


def go(folder: Path | None, num_rounds: int, *, run: fl.Rounds | None = None, **options) -> fl.observers.History:
    """Two rounds in a dispatch, a checkpoint every two."""
    options = {"checkpoint_every": 2, "progress": False, "out_dir": folder, **options}
    run = run or composed()
    return train(run, begin(run), people(), num_rounds=num_rounds, **options)


def leaves(state: fl.RoundState) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.server_state, state.clients))]


def same(a: fl.RoundState, b: fl.RoundState) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def untimed(found: list[records.Record]) -> list[records.Record]:
    return [{n: v for n, v in record.items() if n not in ("seconds", "elapsed")} for record in found]


def kept(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "checkpoints").iterdir())
