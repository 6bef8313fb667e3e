"""`python -m fedjaxlite.benchmarks.streaming`: the parts one after the other, as JSON."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import fedjaxlite as fl
from fedjaxlite.benchmarks import machine
from fedjaxlite.benchmarks.streaming import measuring


def main(given: argparse.Namespace) -> dict[str, Any]:
    """Measures what was asked for, each part in a process of its own, and prints it as JSON."""
    if given.part:
        folder = Path(given.folder)
        parts = {
            "write": lambda: measuring.written(folder, given.clients),
            "stream": lambda: measuring.trained(fl.Population.open(folder), given.cohort, 5, given.rounds),
            "compare": lambda: measuring.compared(fl.Population.open(folder), given.cohort, given.rounds, given.turns),
            "many": lambda: measuring.many(folder, given.clients),
        }
        return parts[given.part]()
    place = Path(tempfile.mkdtemp(prefix="fedjaxlite-streaming-", dir=given.folder))
    try:
        found: dict[str, Any] = {"machine": machine.describe(), "arguments": vars(given)}
        found["write"] = _apart(given, "write", place / "large", clients=given.clients)
        found["stream"] = _apart(given, "stream", place / "large")
        shutil.rmtree(place / "large")
        found["write_small"] = _apart(given, "write", place / "small", clients=given.fits)
        found["compare"] = _apart(given, "compare", place / "small")
        if given.many:
            found["many"] = _apart(given, "many", place / "many", clients=given.many)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return found


def _apart(given: argparse.Namespace, part: str, folder: Path, **changed: int) -> dict[str, Any]:
    numbers = {
        "clients": given.clients,
        "cohort": given.cohort,
        "rounds": given.rounds,
        "turns": given.turns,
        **changed,
    }
    options = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    command = [
        sys.executable,
        "-m",
        "fedjaxlite.benchmarks.streaming",
        "--part",
        part,
        "--folder",
        str(folder),
        *options,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    print(part, json.dumps(found, indent=1), file=sys.stderr, flush=True)
    return found


parser = argparse.ArgumentParser(prog="python -m fedjaxlite.benchmarks.streaming", description="Populations on a disk.")
parser.add_argument("--clients", type=int, default=1_000_000, help="of 20 kB each")
parser.add_argument("--cohort", type=int, default=100)
parser.add_argument("--rounds", type=int, default=200)
parser.add_argument("--fits", type=int, default=50_000, help="clients of the population that is compared with memory")
parser.add_argument("--turns", type=int, default=5)
parser.add_argument("--many", type=int, default=0, help="clients of a population that is only opened, such as 10000000")
parser.add_argument("--folder", default=None, help="where to write; needs the room of all clients")
parser.add_argument("--out", type=Path, default=None, help="a file for what is printed")
parser.add_argument("--part", choices=("write", "stream", "compare", "many"), default=None, help=argparse.SUPPRESS)

if __name__ == "__main__":
    arguments = parser.parse_args()
    text = json.dumps(main(arguments), indent=1, default=str)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
