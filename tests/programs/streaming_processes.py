"""One of several processes of runs whose data and client states stream; prints a digest of each run's end."""

import hashlib
import sys
from pathlib import Path

import jax
from joining import join

process, num_processes, num_devices, port = map(int, sys.argv[1:5])
people_folder, states_folder = map(Path, sys.argv[5:7])
join(process, num_processes, num_devices, port)

import numpy as np  # noqa: E402
import optax  # noqa: E402

import fedjaxlite as fl  # noqa: E402
from fedjaxlite import algorithms  # noqa: E402


def loss_fn(params, batch, key):
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


def digest(tree) -> str:
    leaves = [np.asarray(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf) for leaf in tree]
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()


PARAMS = {"w": np.zeros(5, np.float32), "b": np.float32(0)}
people = fl.Population.open(people_folder)
plain = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(0.02), batch_size=8, epochs=2)
control = algorithms.scaffold(loss_fn, num_clients=people.num_clients, client_lr=0.02, batch_size=8, epochs=1)
for name, algorithm, aggregator, where in (
    ("plain", plain, fl.weighted_mean(), "device"),
    ("bank", control, fl.mean(), "device"),
    ("folder", control, fl.mean(), str(states_folder)),
    ("host", control, fl.mean(), "host"),
):
    run = fl.rounds(
        algorithm,
        sampler=fl.sampling.uniform(6, dropout=0.2),
        aggregator=aggregator,
        execution=fl.Execution(lanes=2, deterministic=True, client_states=where),
    )
    state = run.init(PARAMS, people, key=jax.random.key(1), noise_key=jax.random.key(2))
    history = fl.train(run, state, people, num_rounds=6, progress=False)
    losses = np.array([record["loss"] for record in history.records])
    print(name, digest([*jax.tree.leaves(history.state.server_state), losses]), flush=True)
