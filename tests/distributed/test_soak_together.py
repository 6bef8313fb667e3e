"""Two processes under fire: killed and stopped at random, started again by a supervisor, they end with the bits of a calm run."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fedjaxlite.exit_codes import PEER_LOST
from fedjaxlite.observers import records

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "long_run_together.py"
NUM_ROUNDS, KILLS, BEAT = 200, 20, 10


def start(folder: Path, *place: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PROGRAM), str(folder), str(NUM_ROUNDS), *map(str, place)]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2]), "JAX_PLATFORMS": "cpu"}
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def pair(folder: Path) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [start(folder, i, 2, port, BEAT) for i in range(2)]


def lines_of(folder: Path) -> int:
    path = folder / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def final(folder: Path) -> list[np.ndarray]:
    with np.load(folder / "final.npz") as arrays:
        return [arrays[name] for name in arrays]


def ended_by(folder: Path, wanted: int, chance: random.Random) -> tuple[str, float] | None:
    """Starts the pair, and ends one of them once so many rounds are recorded; how, and how long the other one waited."""
    both = pair(folder)
    while lines_of(folder) < wanted:
        if all(process.poll() is not None for process in both):
            assert [process.returncode for process in both] == [0, 0]
            return None
        assert all(process.poll() in (None, 0) for process in both)
        time.sleep(0.02)
    victim, number = chance.randrange(2), chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
    began = time.monotonic()
    both[victim].send_signal(number)
    code = both[1 - victim].wait(timeout=600)
    waited = time.monotonic() - began
    both[victim].kill()
    both[victim].wait(timeout=600)
    assert code in (PEER_LOST, 0)  # 0 where it was done already
    return f"{number.name} of process {victim}", waited


@pytest.mark.slow
def test_a_run_of_processes_under_fire_ends_with_the_same_bits(tmp_path: Path) -> None:
    chance = random.Random(0)
    calm, fire = tmp_path / "calm", tmp_path / "fire"
    assert start(calm).wait(timeout=600) == 0
    told = []
    for i in range(KILLS):
        # After a round of their own: before they have met, a process waits for the other one as long as it was told to.
        wanted = max(lines_of(fire) + 1, round((i + chance.random()) * (NUM_ROUNDS - 8) / KILLS))
        found = ended_by(fire, wanted, chance)
        if found is None:
            break
        told.append(found)
        print(f"after {lines_of(fire)} rounds {found[0]}: the other one waited {found[1]:.2f} s", flush=True)
    assert [process.wait(timeout=600) for process in pair(fire)] == [0, 0]
    assert len(told) == KILLS
    assert max(waited for _, waited in told) <= BEAT
    for ours, theirs in zip(final(fire), final(calm), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(records.read(fire / "records.jsonl")) == NUM_ROUNDS
