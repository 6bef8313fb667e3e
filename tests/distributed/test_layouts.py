"""The same bits from one process with four devices, two with two, and four with one; each goes on under another layout."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "layouts.py"
METHODS = ("fed_avg", "scaffold", "private")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(num_processes: int, *todo: object) -> dict[tuple[str, str, int], str]:
    """Runs the program on four devices in all; returns what all of its processes say alike."""
    port, each = free_port(), 4 // num_processes
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2]), "JAX_PLATFORMS": "cpu"}
    started = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), *map(str, (i, num_processes, each, port, *todo))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i in range(num_processes)
    ]
    told = []
    for process in started:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        lines = [line.split() for line in output.splitlines()]
        told.append(
            {(f, n, int(r)): digest for f, n, r, digest in (x for x in lines if len(x) == 4 and x[1] in METHODS)}
        )
    assert told[0]
    assert all(one == told[0] for one in told)
    return told[0]


@pytest.mark.slow  # `tests/execution/test_processes.py` holds two of them to each other in every run of CI
def test_layouts_give_the_same_bits_and_go_on_from_each_other(tmp_path: Path) -> None:
    a, b, c = (str(tmp_path / name) for name in "abc")
    found = run(1, a, 1, "copy", a, b, "copy", a, c, a, 3)
    found |= run(4, c, 3)
    found |= run(2, b, 3, a, 5)
    found |= run(1, b, 5, c, 5)
    for name in METHODS:
        for rounds in (3, 5):
            assert len({found[folder, name, rounds] for folder in "abc"}) == 1, (name, rounds, found)
        assert found["a", name, 3] != found["a", name, 5]
        lines = (tmp_path / "b" / name / "records.jsonl").read_text().splitlines()
        assert len(lines) == 5  # once for all processes
    assert not Path("nowhere").exists()
