"""The launch lines of the documentation, on one host: `initialize()` with the variables that a launcher sets."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "watched.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def variables(launcher: str, i: int, port: int) -> dict[str, str]:
    by_hand = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    slurm = {"SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    open_mpi = {"OMPI_MCA_orte_hnp_uri": f"{port << 12}.0;tcp://127.0.0.1:4", "OMPI_COMM_WORLD_SIZE": "2"}
    return {
        "SLURM": {**slurm, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
        "Open MPI": {**open_mpi, "OMPI_COMM_WORLD_RANK": str(i), "OMPI_COMM_WORLD_LOCAL_RANK": str(i)},
        "Kubernetes": {**by_hand, "JOB_COMPLETION_INDEX": str(i)},
        "JAX_* variables": {**by_hand, "JAX_PROCESS_ID": str(i)},
    }[launcher]


@pytest.mark.whole
def test_processes_of_a_launcher_find_each_other() -> None:
    started = {}
    for launcher in ("SLURM", "Open MPI", "Kubernetes", "JAX_* variables"):
        port = free_port()
        for i in range(2):
            environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2]), "JAX_PLATFORMS": "cpu"}
            started[launcher, i] = subprocess.Popen(
                [sys.executable, str(PROGRAM), "0", "0", "0", "30", "launched"],
                env={**environment, **variables(launcher, i, port)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
    for (launcher, i), process in started.items():
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        local = f"({i},)" if launcher in ("SLURM", "Open MPI") else "None"
        assert f"{launcher} 2 {i} {local} {i} 2" in output
