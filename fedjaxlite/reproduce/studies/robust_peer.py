"""Cells of the grid in ByzFL and here, one after the other on the same machine.

    python -m fedjaxlite.reproduce.studies.robust_peer --python /path/to/python

where that Python has `byzfl` and `torch`. Examples, clients, first models, rates, rounds, attacks and rules are the
same. ByzFL gets one process with one thread for each core, and ours one device for each core.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fedjaxlite as fl
from fedjaxlite.reproduce import seeds
from fedjaxlite.reproduce.studies import robust
from fedjaxlite.reproduce.studies import robust_grid as grid

_ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("NoAttack", {}),
    "sign flip": ("SignFlipping", {}),
    "ALIE": ("ALittleIsEnough", {"tau": 1.5}),
    "IPM": ("InnerProductManipulation", {"tau": 0.1}),
    "best ALIE": ("Optimal_ALittleIsEnough", {}),
    "best IPM": ("Optimal_InnerProductManipulation", {}),
}
_VALUE = 0.3


def rule_of(name: str, f: int) -> dict[str, Any]:
    """A rule in ByzFL's terms, and what stands before it."""
    of_f = {"f": f}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "mean": ("Average", {}),
        "median": ("Median", {}),
        "trimmed mean": ("TrMean", of_f),
        "multi-Krum": ("MultiKrum", of_f),
        "geometric median": ("GeometricMedian", {"nu": 0.1, "T": 3}),
        "centered clipping": ("CenteredClipping", {"L": 1, "tau": _VALUE}),
        "NNM, trimmed mean": ("TrMean", of_f),
    }
    before = [_named("NNM", of_f)] if name.startswith("NNM") else []
    return {"rule": _named(*found[name]), "before": before}


def _named(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "parameters": parameters}


def cells(attacks: Sequence[str], rules: Sequence[str], f: int, num_seeds: int, evaluations: int) -> list[Any]:
    """The cells in ByzFL's terms, with their names here."""
    return [
        {
            "names": [attack, rule],
            "attack": _named(
                _ATTACKS[attack][0],
                {**_ATTACKS[attack][1], **({"evals": evaluations} if "best" in attack else {})},
            ),
            **rule_of(rule, f),
            "f": f,
            "seed": seed,
            "data": str(partition),
        }
        for attack in attacks
        for rule in rules
        for partition in range(len(grid.PARTITIONS))
        for seed in range(num_seeds)
    ]


def theirs(python: str, task: grid.Task, wanted: Sequence[Any], processes: int) -> list[dict[str, Any]]:
    """The cells in ByzFL, shared out over processes of one thread."""
    flat = lambda data: np.asarray(data["x"]).reshape(len(data["y"]), -1)  # noqa: E731
    arrays = {"x": flat(task.train), "y": task.train["y"].astype(np.int64)}
    arrays |= {"test_x": flat(task.test), "test_y": task.test["y"].astype(np.int64)}
    for partition in range(len(grid.PARTITIONS)):
        arrays |= {f"rows_{partition}": task.rows[partition].astype(np.int64)}
        arrays |= {f"offsets_{partition}": task.offsets[partition].astype(np.int64)}
    kernels: list[np.ndarray] = []
    for seed in {cell["seed"] for cell in wanted}:
        first = jax.random.split(jax.random.key(seed), 3)[0]
        kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(task.model.init(first)) if leaf.ndim == 2]
        arrays |= {f"kernel_{seed}_{i}": kernel for i, kernel in enumerate(kernels)}
    widths = [arrays["x"].shape[1], *(kernel.shape[1] for kernel in kernels)]
    settings = {
        "threads": 1,
        "features": widths,
        "num_clients": grid.NUM_CLIENTS,
        "batch_size": task.batch_size,
        "rounds": task.num_rounds,
        "learning_rate": task.learning_rate,
        "momentum": task.momentum,
    }
    program = str(Path(__file__).with_name("robust_byzfl.py"))
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for i in range(processes):
            path = str(Path(folder) / f"{i}.npz")
            own = {**settings, "cells": wanted[i::processes]}
            everything: dict[str, Any] = {"settings": np.array(json.dumps(own)), **arrays}
            np.savez(path, **everything)
            command = [python, program, path]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()))
        told = [process.communicate()[0] for process in running]
    return [json.loads(line) for lines in told for line in lines.splitlines()]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JAX_", "XLA_"))}


def ours(task: grid.Task, wanted: Sequence[Any]) -> tuple[list[float], float, float]:
    """The accuracies of the same cells, the seconds that they took, and those of compiling before."""
    play = grid.player(task, robust.tail(task.evaluations))
    attacks, rules = list(robust.ATTACKS), list(robust.RULES)
    runs = [
        grid.Run(
            attacks.index(c["names"][0]), rules.index(c["names"][1]), c["f"], int(c["data"]), _VALUE, False, c["seed"]
        )
        for c in wanted
    ]
    began = time.perf_counter()
    play(runs[:2])
    compiled = time.perf_counter()
    found = play(runs)
    return found.tolist(), time.perf_counter() - compiled, compiled - began


def main() -> None:
    """Measures, prints a table and writes what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True)
    parser.add_argument("--attacks", nargs="+", choices=list(_ATTACKS), default=["none", "ALIE", "IPM"])
    parser.add_argument("--rules", nargs="+", choices=list(robust.RULES), default=list(robust.RULES))
    parser.add_argument("--f", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--our-seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("robust-byzfl.json"))
    given = parser.parse_args()
    cores = fl.use_cpu_cores()
    task = grid.task(smoke=False)
    asked = lambda num_seeds: cells(given.attacks, given.rules, given.f, num_seeds, task.evaluations)  # noqa: E731
    began = time.perf_counter()
    found = theirs(given.python, task, asked(given.seeds), cores)
    their_seconds = time.perf_counter() - began
    accuracies, our_seconds, compiling = ours(task, asked(given.our_seeds))
    by_cell: dict[tuple[str, ...], Any] = {}
    for cell, accuracy in zip(asked(given.our_seeds), accuracies, strict=True):
        own = by_cell.setdefault((*cell["names"], cell["data"]), {"ours": [], "theirs": [], "seconds": [], "cpu": []})
        own["ours"].append(100 * accuracy)
    for cell in found:
        own = by_cell[(*cell["names"], cell["data"])]
        own["theirs"].append(100 * cell["accuracy"])
        own["seconds"].append(cell["seconds"])
        own["cpu"].append(cell["cpu"])
    lines = ["| attack | rule | clients | ours | ByzFL | ByzFL, s |", "| --- | --- | --- | --- | --- | --- |"]
    for (attack, rule, data), own in by_cell.items():
        theirs_shown = str(seeds.interval(own["theirs"])) if given.seeds > 1 else seeds.number(own["theirs"][0])
        seconds = seeds.number(float(np.mean(own["seconds"])))
        where = grid.PARTITIONS[int(data)]
        lines.append(f"| {attack} | {rule} | {where} | {seeds.interval(own['ours'])} | {theirs_shown} | {seconds} |")
    their_rate, our_rate = 60 * len(found) / their_seconds, 60 * len(accuracies) / our_seconds
    lines.append(
        f"\nByzFL {their_rate:.1f} cells a minute ({their_seconds:.0f} s with starts), ours {our_rate:.1f} "
        f"({our_seconds:.0f} s, after {compiling:.0f} s of compiling): {our_rate / their_rate:.1f} times as many"
    )
    print("\n".join(lines))
    told = {"cells": [{"cell": list(name), **own} for name, own in by_cell.items()], "their_seconds": their_seconds}
    told |= {"our_seconds": our_seconds, "compiling": compiling, "machine": os.uname().machine, "cores": cores}
    given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
