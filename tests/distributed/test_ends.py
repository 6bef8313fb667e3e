"""How processes end: one that dies, stands still or fails ends all others, with one line and a code that is documented."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedjaxlite.exit_codes import PEER_LOST

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "watched.py"
BEAT = 8


def started(how: str, num_processes: int) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2]), "JAX_PLATFORMS": "cpu"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, str(PROGRAM)]
    all_of_them = [
        subprocess.Popen([*command, *map(str, (i, num_processes, port, BEAT, how))], env=environment, **pipes)
        for i in range(num_processes)
    ]
    for process in all_of_them:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    return all_of_them


def last_words(process: subprocess.Popen[str]) -> list[str]:
    told = process.communicate(timeout=120)[1]
    return [line for line in told.splitlines() if line.startswith("fedjaxlite, process")]


@pytest.mark.whole
@pytest.mark.parametrize(
    ("victim", "many", "number"),
    [
        pytest.param(0, 3, signal.SIGKILL, id="first-killed"),
        pytest.param(1, 2, signal.SIGKILL, id="other-killed", marks=pytest.mark.slow),
        pytest.param(0, 2, signal.SIGSTOP, id="first-stopped", marks=pytest.mark.slow),
        pytest.param(1, 2, signal.SIGSTOP, id="other-stopped"),
    ],
)
def test_a_process_that_is_gone_ends_the_others(victim: int, many: int, number: signal.Signals) -> None:
    processes = started("busy", many)
    time.sleep(0.3)
    processes[victim].send_signal(number)
    others = [process for i, process in enumerate(processes) if i != victim]
    for process in others:
        (line,) = last_words(process)
        what = "died" if number == signal.SIGKILL else "was silent for"
        assert f"process {victim} of {many} {what}" in line
        assert "--resume" in line
        assert process.returncode == PEER_LOST
    if number == signal.SIGSTOP:
        processes[victim].send_signal(signal.SIGCONT)
        (line,) = last_words(processes[victim])
        assert "this process stood still" in line
        assert processes[victim].returncode == PEER_LOST
    else:
        processes[victim].communicate(timeout=60)


@pytest.mark.whole
def test_an_error_of_one_is_told_to_the_others() -> None:
    first, second = started("error", 2)
    (line,) = last_words(first)
    assert "process 1 ended by an error: ValueError: the data of this one are not there." in line
    assert first.returncode == PEER_LOST
    told = second.communicate(timeout=120)[1]
    assert "and a second line" in told
    assert "fedjaxlite, process" not in told
    assert second.returncode == 1


@pytest.mark.whole
def test_processes_that_are_done_end_in_good_order() -> None:
    for process in started("order", 2):
        process.wait(timeout=120)
        assert process.stdout is not None
        # Not by `communicate`: that would miss what came with the line that was read already.
        with process.stdout as output, process.stderr as errors:  # type: ignore[union-attr]
            assert (process.returncode, output.read(), errors.read()) == (0, "done\n", "")
