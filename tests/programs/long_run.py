"""A long run with client states, for tests that kill it: `python long_run.py FOLDER NUM_ROUNDS`, which goes on if it can."""

import sys

import jax

jax.config.update("jax_num_cpu_devices", 1)

import numpy as np  # noqa: E402
import optax  # noqa: E402

import fedjaxlite as fl  # noqa: E402
from fedjaxlite import algorithms  # noqa: E402

CLIENTS = 20


def loss_fn(params, batch, key):
    logits = batch["x"] @ params["w"] + params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


data, test = fl.datasets.load("synthetic", num_clients=CLIENTS, num_features=8, num_classes=4)
run = fl.rounds(
    algorithms.scaffold(loss_fn, num_clients=data.num_clients, client_lr=0.05, batch_size=10, epochs=1),
    sampler=fl.sampling.uniform(4, dropout=0.2),
    aggregator=fl.chain(fl.mean(), fl.clip_by_global_norm(1.0)),
)
state = run.init({"w": np.zeros((8, 4), np.float32), "b": np.zeros(4, np.float32)}, data, key=jax.random.key(1))
history = fl.train(
    run,
    state,
    data,
    num_rounds=int(sys.argv[2]),
    evaluate=fl.evaluate(loss_fn, test),
    evaluate_every=2,
    checkpoint_every=4,
    out_dir=sys.argv[1],
    resume=True,
    progress=False,
)
np.savez(f"{sys.argv[1]}/final.npz", *jax.tree.leaves((history.state.server_state, history.state.clients)))
