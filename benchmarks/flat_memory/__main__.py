"""`python -m fedjaxlite.benchmarks.flat_memory`."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from fedjaxlite.benchmarks import machine
from fedjaxlite.benchmarks.flat_memory.ways import WAYS, Flat

NUM_ROUNDS = 5_000


def measure(way: str, num_rounds: int = NUM_ROUNDS) -> Flat:
    """Runs one way in a process of its own."""
    command = [sys.executable, "-m", "fedjaxlite.benchmarks.flat_memory", "--way", way, "--rounds", str(num_rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way} ended with code {done.returncode}: {done.stderr.strip()[-2000:]}")
    return Flat(*json.loads(done.stdout.splitlines()[-1]))


def main(num_rounds: int = NUM_ROUNDS) -> list[Flat]:
    """Measures all ways and prints a table."""
    found = [measure(way, num_rounds) for way in WAYS]
    print(f"{num_rounds:,} rounds; {machine.describe()['cpu']}")
    print(f"{'way':<26} {'begin':>9} {'most':>9} {'growth':>8}  {'arrays':>13}  objects")
    for flat in found:
        arrays, objects = (f"{a:,} to {b:,}" for a, b in (flat.arrays, flat.objects))
        sizes = "".join(f"{size / 1e6:>7.1f} MB" for size in (flat.begin, flat.most))
        print(f"{flat.way:<26}{sizes} {flat.growth:>8.2%}  {arrays:>13}  {objects}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Whether memory stays flat over thousands of rounds.")
    parser.add_argument("--way", choices=sorted(WAYS), default=None, help="one of them, in this process, as JSON")
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS)
    given = parser.parse_args()
    if given.way is None:
        main(given.rounds)
    else:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(WAYS[given.way](given.rounds, Path(place))))
