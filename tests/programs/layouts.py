"""One of several processes that train FedAvg, SCAFFOLD and a private chain, each in a folder, from where it stands.

    python layouts.py PROCESS PROCESSES DEVICES PORT [FOLDER ROUNDS | copy FOLDER FOLDER]...

The noise key is nobody's: the first process draws it, and a copy of a folder holds it.
"""

import hashlib
import shutil
import sys

import jax

import fedjaxlite as fl

process, num_processes, num_devices, port = map(int, sys.argv[1:5])
jax.config.update("jax_num_cpu_devices", num_devices)
fl.distributed.initialize(f"127.0.0.1:{port}", num_processes, process, heartbeat_seconds=60)

import numpy as np  # noqa: E402
import optax  # noqa: E402

from fedjaxlite import algorithms  # noqa: E402

CLIENTS = 10


def loss_fn(params, batch, key):
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


rng = np.random.default_rng(0)
owner = np.repeat(np.arange(CLIENTS), rng.integers(1, 12, size=CLIENTS))
x = rng.normal(size=(len(owner), 5)).astype(np.float32)
people = fl.Population.from_arrays({"x": x, "y": x @ np.arange(5, dtype=np.float32)}, client_ids=owner)
plain = algorithms.fed_avg(loss_fn, client_optimizer=optax.sgd(0.02), batch_size=4, epochs=1)
scaffold = algorithms.scaffold(loss_fn, num_clients=CLIENTS, client_lr=0.02, batch_size=4, epochs=1)
private = fl.chain(fl.mean(over=6), fl.privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0))
RUNS = {
    "fed_avg": (plain, fl.weighted_mean()),
    "scaffold": (scaffold, fl.mean()),
    "private": (plain, private),
}


def train(folder: str, num_rounds: int) -> None:
    for name, (algorithm, aggregator) in RUNS.items():
        run = fl.rounds(
            algorithm,
            sampler=fl.sampling.uniform(6),
            aggregator=aggregator,
            execution=fl.Execution(lanes=2, deterministic=True),
        )
        state = run.init({"w": np.zeros(5, np.float32), "b": np.float32(0)}, people, key=jax.random.key(1))
        # Every process names another folder; the first one's is everybody's.
        out_dir = f"{folder}/{name}" if process == 0 else f"nowhere/{process}"
        options = {"num_rounds": num_rounds, "checkpoint_every": 1, "rounds_per_dispatch": 1, "progress": False}
        history = fl.train(run, state, people, out_dir=out_dir, resume=True, **options)
        leaves = jax.tree.leaves((history.state.server_state, jax.random.key_data(history.state.keys.noise)))
        model = [np.asarray(leaf.addressable_data(0)).tobytes() for leaf in leaves]
        losses = repr([record["loss"] for record in history.records]).encode()
        print(folder[-1], name, num_rounds, hashlib.sha256(b"".join([*model, losses])).hexdigest(), flush=True)


todo = sys.argv[5:]
while todo:
    if todo[0] == "copy":
        shutil.copytree(todo[1], todo[2])
        todo = todo[3:]
    else:
        train(todo[0], int(todo[1]))
        todo = todo[2:]
