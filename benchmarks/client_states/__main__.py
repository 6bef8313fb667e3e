"""`python -m fedjaxlite.benchmarks.client_states`: the ways to keep client states one after the other, as JSON."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.benchmarks import machine, memory

_INPUTS, _HIDDEN, _OUTPUTS = 8, 1000, 2
"""10,000 parameters without biases."""
_EXAMPLES = 4


def main(given: argparse.Namespace) -> dict[str, Any]:
    """Measures what was asked for, each way in a process of its own."""
    place = Path(tempfile.mkdtemp(prefix="fedjaxlite-states-", dir=given.folder))
    found: dict[str, Any] = {"machine": machine.describe(), "arguments": vars(given)}
    try:
        for clients, ways in (
            (given.clients, ("folder", "host")),
            (given.fits, ("folder", "host", "device", "donated")),
        ):
            for way in ways:
                options = {"way": way, "clients": clients, "cohort": given.cohort, "rounds": given.rounds}
                words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
                command = [sys.executable, "-m", "fedjaxlite.benchmarks.client_states", *words]
                done = subprocess.run(
                    [*command, "--folder", str(place)], stdout=subprocess.PIPE, text=True, check=False
                )
                told = json.loads(done.stdout) if done.returncode == 0 else {"exit_code": done.returncode}
                found[f"{way}_{clients}"] = told
                print(way, clients, json.dumps(told), file=sys.stderr, flush=True)
                for made in place.iterdir():
                    shutil.rmtree(made)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return found


def trained(way: str, num_clients: int, cohort: int, num_rounds: int, folder: Path) -> dict[str, Any]:
    """Rounds of SCAFFOLD with two checkpoints: seconds a round, peak of memory, bytes on the disk."""
    where = {"folder": str(folder / "clients"), "host": "host"}.get(way, "device")
    execution = fl.Execution(devices=1, client_states=where, donate=way == "donated")
    people = _people(num_clients)
    algorithm = algorithms.scaffold(_loss, num_clients=num_clients, client_lr=0.01, batch_size=_EXAMPLES)
    run = fl.rounds(algorithm, sampler=fl.sampling.uniform(cohort), aggregator=fl.weighted_mean(), execution=execution)
    keys = jax.random.split(jax.random.key(0))
    params = {
        "in": jax.random.normal(keys[0], (_INPUTS, _HIDDEN)) / _INPUTS,
        "out": jax.random.normal(keys[1], (_HIDDEN, _OUTPUTS)) / _HIDDEN,
    }
    state = run.init(params, people, key=jax.random.key(1))
    checkpoint: dict[str, Any] = {"out_dir": folder / "run", "checkpoint_every": num_rounds // 2}
    checkpoint = checkpoint if where != "device" else {}
    ends: list[tuple[int, float]] = []
    history = fl.train(
        run,
        state,
        people,
        num_rounds=num_rounds,
        rounds_per_dispatch=1,
        progress=False,
        observers=[lambda record, state: ends.append((record["round"], record["elapsed"]))],
        **checkpoint,
    )
    seconds = np.diff([at for _, at in ends])
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "bytes_of_all_states": num_clients * sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
        "seconds_a_round": float(np.median(seconds[5:])),
        "seconds_of_the_round_after_a_checkpoint": float(seconds[num_rounds // 2 - 1]),
        "resident_peak": memory.resident_peak(),
        "bytes_on_the_disk": {place.name: _taken(place) for place in folder.iterdir()},
        "loss": history.records[-1]["loss"],
    }


def _people(num_clients: int) -> fl.Population:
    x = np.random.default_rng(0).normal(size=(num_clients * _EXAMPLES, _INPUTS)).astype(np.float32)
    offsets = np.arange(num_clients + 1, dtype=np.int32) * _EXAMPLES
    return fl.Population({"x": x, "y": x[:, :_OUTPUTS] * 2}, offsets, _EXAMPLES)


def _loss(params: Any, batch: Any, key: Any) -> jax.Array:
    del key
    out = jax.nn.relu(batch["x"] @ params["in"]) @ params["out"]
    return jnp.square(out - batch["y"]).sum(-1)


def _taken(place: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in place.rglob("*") if file.is_file())


parser = argparse.ArgumentParser(prog="python -m fedjaxlite.benchmarks.client_states", description="Client states.")
parser.add_argument("--clients", type=int, default=1_000_000, help="that keep 40 kB each")
parser.add_argument("--fits", type=int, default=20_000, help="clients whose states fit on the device")
parser.add_argument("--cohort", type=int, default=100)
parser.add_argument("--rounds", type=int, default=60)
parser.add_argument("--folder", default=None, help="where to write")
parser.add_argument("--out", type=Path, default=None, help="a file for the JSON")
parser.add_argument("--way", default=None, help=argparse.SUPPRESS)

if __name__ == "__main__":
    arguments = parser.parse_args()
    if arguments.way:
        asked = (arguments.way, arguments.clients, arguments.cohort, arguments.rounds)
        result = trained(*asked, Path(arguments.folder))
    else:
        result = main(arguments)
    text = json.dumps(result, indent=1, default=str)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
