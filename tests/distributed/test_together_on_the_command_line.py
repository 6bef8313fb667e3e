"""`fedjaxlite run --distributed`: one run of two processes, which prints and writes once, and goes on in one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--clients", "10", "--cohort", "4", "--epochs", "1", "--algorithm", "scaffold", "--checkpoint-every", "1"]


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "fedjaxlite", "run", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)


@pytest.mark.whole
def test_two_processes_are_one_run(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--devices", "2"]
    pair = [start(tmp_path, *where, "--process-id", str(i), *SMALL, "--rounds", "2") for i in range(2)]
    told = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], told
    lines = [[line for line in output.splitlines() if line and "Gloo" not in line] for output, _ in told]
    assert any("test accuracy" in line for line in lines[0])
    assert lines[1] == []
    (folder,) = (tmp_path / "runs").iterdir()  # named after the time by the first process alone
    assert len((folder / "records.jsonl").read_text().splitlines()) == 2
    assert "distributed" not in (folder / "config.toml").read_text().partition("[arguments]")[2]
    alone = start(tmp_path, "--resume", str(folder), "--rounds", "3")
    output, errors = alone.communicate(timeout=300)
    assert alone.returncode == 0, errors
    assert "round 3/3" in output
    assert len((folder / "records.jsonl").read_text().splitlines()) == 3
