"""A model that is shared by devices of two processes: the bits of one process with as many devices."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "programs" / "mesh_processes.py"


def launch(*numbers: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    command = [sys.executable, str(PROGRAM), *map(str, numbers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def digest(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (line,) = [line for line in output.splitlines() if line.startswith("digest ")]
    return line


@pytest.mark.whole
def test_a_model_across_two_processes_has_the_bits_of_one() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pair = [launch(i, 2, port) for i in range(2)]
    first, second = (digest(process) for process in pair)
    assert first == second == digest(launch(0, 1, 0))
