"""What differential privacy adds to a round: the same rounds with and without it, in turns.

`python -m fedjaxlite.benchmarks.private_rounds --out DIR` prints and writes it, for the 2NN (W1) and ragged logistic
regression (W3). The base is the plain mean over a fixed denominator, which every mechanism needs anyway.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import fedjaxlite as fl
from fedjaxlite import privacy
from fedjaxlite.benchmarks import contenders, machine
from fedjaxlite.benchmarks.contenders import Setting
from fedjaxlite.benchmarks.timing import ratios, take_turns
from fedjaxlite.benchmarks.workloads import WORKLOADS

_ROUNDS = 1024


def mechanisms() -> dict[str, Callable[[], fl.Aggregator]]:
    """The codecs that are measured, by name; the first adds nothing."""
    both: dict[str, Any] = {"clip_norm": 1.0, "noise_multiplier": 1.0}
    return {
        "clip only": lambda: fl.clip_by_global_norm(1.0),
        "gaussian": lambda: privacy.gaussian(**both),
        "adaptive": lambda: privacy.adaptive_gaussian(noise_multiplier=1.0),
        "tree": lambda: privacy.tree_gaussian(num_rounds=_ROUNDS, **both),
        "local": lambda: privacy.local_gaussian(clip_norm=1.0, epsilon=8.0, delta=1e-6),
    }


def main(out: Path | None = None, turns: int = 15, size: str = "full") -> dict[str, Any]:
    """Times every mechanism against the plain mean, on all devices.

    Args:
      out: a folder for private_rounds.json, made where it is missing.
      turns: how often every program is timed.
      size: of the workloads: "full", "small" or "tiny".

    Returns:
      what private_rounds.json holds.
    """
    found: dict[str, Any] = {"machine": machine.describe(), "size": size, "turns": turns, "workloads": {}}
    for name, lanes in (("w1", 1), ("w3", 4)):
        problem = WORKLOADS[name].build(size)
        setting = Setting(lanes, jax.device_count())
        population = contenders.placements(problem.population)(setting.devices)
        over = problem.sampler.accounting.expected_size(problem.population.num_clients)
        runs = {"plain": contenders.ours(problem, setting, population, fl.mean(over=over))}
        for mechanism, make in mechanisms().items():
            chain = fl.chain(fl.mean(over=over), make())
            runs[mechanism] = contenders.ours(problem, setting, population, chain)
        for run in runs.values():
            run()
        times = take_turns(runs, turns)
        rows = {key: ratios(values, times["plain"])._asdict() for key, values in times.items() if key != "plain"}
        found["workloads"][name] = rows
        for key, ratio in rows.items():
            print(f"{name} {key}: {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) of plain")
    found["machine"]["load_average_at_the_end"] = machine.load_average()
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "private_rounds.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m fedjaxlite.benchmarks.private_rounds", description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="folder for private_rounds.json")
    parser.add_argument("--turns", type=int, default=15, help="how often every program is timed")
    given = parser.parse_args()
    fl.use_cpu_cores()
    main(given.out, given.turns)
