"""Law 1 across processes that JAX itself was told of: the same bits from one with four devices and from two with two.

What is read from the machine is read by the first process for all: noise from the operating system, so that their
models stay the same under it, and the clock by which `fl.plan` decides.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "programs" / "several_processes.py"


def launch(process: int, num_processes: int, num_devices: int, port: int) -> subprocess.Popen:
    command = [sys.executable, str(PROGRAM), *map(str, (process, num_processes, num_devices, port))]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def digests(process: subprocess.Popen) -> list[str]:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    # What connects the processes may print lines of its own, empty ones too.
    return [line for line in output.splitlines() if line.startswith(("plain ", "stateful ", "ruled ", "noised "))]


@pytest.mark.whole
def test_two_processes_give_the_bits_of_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pair = [launch(i, 2, 2, port) for i in range(2)]
    first, second = (digests(process) for process in pair)
    alone = digests(launch(0, 1, 4, 0))
    assert len(alone) == 4
    assert first == second
    assert first[:3] == alone[:3]
    # A secret, which the first process draws for both: the next run has another one.
    assert first[3] != alone[3]
