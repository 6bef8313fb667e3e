"""`python -m fedjaxlite.benchmarks`: the same as `fedjaxlite bench`, without the command line's dependencies."""

import argparse
from pathlib import Path

from fedjaxlite.benchmarks.suite import SIZES, main
from fedjaxlite.benchmarks.workloads import WORKLOADS

parser = argparse.ArgumentParser(prog="python -m fedjaxlite.benchmarks", description="Speed against raw JAX.")
parser.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)}; all of them by default")
parser.add_argument("--size", choices=SIZES, default="full")
parser.add_argument("--out", type=Path, default=None, help="folder for bench.json and bench.png")
parser.add_argument("--repeats", type=int, default=7, help="turns that every program is timed in")

if __name__ == "__main__":
    given = parser.parse_args()
    main(given.workloads or None, given.size, given.out, given.repeats)
