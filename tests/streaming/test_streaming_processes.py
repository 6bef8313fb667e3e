"""Streams in several processes: each reads its own clients alone, and the bits are those of one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fedjaxlite as fl

PROGRAM = Path(__file__).parents[1] / "programs" / "streaming_processes.py"
RUNS = ("plain", "bank", "folder", "host")


def launched(layout: tuple[int, int], people: Path, states: Path) -> list[list[str]]:
    """What each of some processes printed, `(processes, devices of each)`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    going = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), *map(str, (process, *layout, port, people, states))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for process in range(layout[0])
    ]
    found = []
    for process in going:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        found.append([line for line in output.splitlines() if line.split(" ")[0] in RUNS])
    return found


@pytest.mark.whole
def test_two_processes_stream_to_the_bits_of_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 30, size=13)  # which four devices cannot share equally
    x = [rng.normal(size=(size, 5)).astype(np.float32) for size in sizes]
    fl.Population.write(tmp_path / "people", ({"x": rows, "y": rows.sum(1)} for rows in x))
    first, second = launched((2, 2), tmp_path / "people", tmp_path / "two")
    (alone,) = launched((1, 4), tmp_path / "people", tmp_path / "one")
    assert [line.split(" ")[0] for line in alone] == list(RUNS)
    assert first == second == alone
    digests = [line.split(" ")[1] for line in alone]
    assert digests[1] == digests[2] == digests[3]  # wherever the states are kept
    assert digests[0] != digests[1]
