"""A long private run with client states, alone or in processes: `long_run_together.py FOLDER ROUNDS [I N PORT BEAT]`.

It goes on if it can. Alone it has as many devices as the processes have together, and ends with the same bits.
"""

import sys

import jax

import fedjaxlite as fl

folder, num_rounds, *place = sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:])
DEVICES = 2
jax.config.update("jax_num_cpu_devices", 1 if place else DEVICES)
if place:
    fl.distributed.initialize(f"127.0.0.1:{place[2]}", place[1], place[0], heartbeat_seconds=place[3])

import numpy as np  # noqa: E402
import optax  # noqa: E402

from fedjaxlite import algorithms  # noqa: E402

CLIENTS = 21


def loss_fn(params, batch, key):
    logits = batch["x"] @ params["w"] + params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


data, _ = fl.datasets.load("synthetic", num_clients=CLIENTS, num_features=8, num_classes=4)
run = fl.rounds(
    algorithms.scaffold(loss_fn, num_clients=CLIENTS, client_lr=0.05, batch_size=10, epochs=1),
    sampler=fl.sampling.uniform(4),
    aggregator=fl.chain(fl.mean(over=4), fl.privacy.gaussian(clip_norm=1.0, noise_multiplier=0.1)),
    execution=fl.Execution(lanes=1, deterministic=True),
)
params = {"w": np.zeros((8, 4), np.float32), "b": np.zeros(4, np.float32)}
state = run.init(params, data, key=jax.random.key(1), noise_key=jax.random.key(2))
history = fl.train(
    run, state, data, num_rounds=num_rounds, checkpoint_every=4, out_dir=folder, resume=True, progress=False
)
leaves = [leaf.addressable_data(0) for leaf in jax.tree.leaves(history.state.server_state)]
if not place or place[0] == 0:
    np.savez(f"{folder}/final.npz", *leaves)
