"""Checkpoints: killed anywhere and resumed, a run ends with the same bits; another run's checkpoint is refused."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, checkpoints, records
from fedjaxlite.train import train

ROOT = Path(__file__).resolve().parent.parent
NUM_ROUNDS = 40

# Logistic regression, with state at the clients, in the server's optimizer and in the codecs' stream of keys.
PROGRAM = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 1)
import jax.numpy as jnp
import numpy as np
import optax
import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.train import train

def loss(params, batch, key):
    logits = batch["x"] @ params["w"] + params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])

data, test = fl.datasets.load("synthetic", num_clients=20, num_features=8, num_classes=4)
algorithm = algorithms.fed_avg(
    loss, client_optimizer=optax.sgd(0.1), server_optimizer=optax.adam(0.01), batch_size=10
)
inner = algorithm.client_update

def counting(shared, client_state, data, key):
    return inner(shared, client_state, data, key)._replace(client_state=client_state + 1)

algorithm = algorithm._replace(init_client=lambda params: jnp.int32(0), client_update=counting)
chain = fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), fl.quantize(bits=12))
run = fl.rounds(algorithm, sampler=fl.sampling.uniform(4, dropout=0.2), aggregator=chain)
params = {"w": jnp.zeros((8, 4)), "b": jnp.zeros((4,))}
history = train(
    run, run.init(params, data, key=jax.random.key(1)), data, num_rounds=int(sys.argv[2]),
    evaluate=fl.evaluate(loss, test), evaluate_every=2, checkpoint_every=4,
    out_dir=sys.argv[1], resume=True, progress=False,
)
state = history.state
np.savez(sys.argv[1] + "/final.npz", *jax.tree.leaves((state.params, state.server_state, state.clients)))
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-W", "error", "-c", PROGRAM, str(folder), str(NUM_ROUNDS)], cwd=ROOT)


def final(folder: Path) -> list[np.ndarray]:
    with np.load(folder / "final.npz") as arrays:
        return [arrays[name] for name in arrays]


def lines_of(folder: Path) -> int:
    path = folder / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_run_killed_three_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    uninterrupted = start(straight)
    moments = random.Random(0)
    for kill in range(3):
        process = start(broken)
        # After some rounds more than before, and then anywhere: in a round, a record, an evaluation or a checkpoint.
        wanted = NUM_ROUNDS * (kill + 1) // 5
        while lines_of(broken) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.03))
        assert process.poll() is None, "the run ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (broken / "final.npz").exists()
    assert start(broken).wait() == 0
    assert uninterrupted.wait() == 0
    for a, b in zip(final(straight), final(broken), strict=True):
        np.testing.assert_array_equal(a, b)
    want, got = (records.read(folder / "records.jsonl") for folder in (straight, broken))
    assert [r["round"] for r in got] == list(range(1, NUM_ROUNDS + 1))
    timed = ("seconds", "elapsed")
    strip = lambda found: [{n: v for n, v in r.items() if n not in timed} for r in found]  # noqa: E731
    assert strip(want) == strip(got)
    assert sorted(int(p.name) for p in (broken / "checkpoints").iterdir()) == [NUM_ROUNDS - 4, NUM_ROUNDS]
