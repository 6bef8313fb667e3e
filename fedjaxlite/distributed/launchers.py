"""Which of several processes this is: from arguments, or from the environment that a launcher made."""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedjaxlite import checks

_PORTS = 65535 - 4096 + 1
"""The first of the ports from which one is taken by a job's number, as JAX does: two jobs on a host rarely meet."""


class Place(NamedTuple):
    """Where a process stands among those of a run.

    Attributes:
      coordinator: HOST:PORT, which the first process listens on and all others reach.
      num_processes: how many.
      process_id: which one, from 0.
      local_devices: the numbers of the accelerators of this host that are this process's; None for all it sees.
      told_by: "arguments", or the launcher: "SLURM", "Open MPI", "Kubernetes", "JAX_* variables".
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_devices: tuple[int, ...] | None
    told_by: str


class _Told(NamedTuple):
    """What one launcher says; None for what it does not."""

    by: str
    coordinator: str | None
    num_processes: int | None
    process_id: int | None
    local: int | None = None
    names: tuple[str, str, str] = ("", "", "")


def place_of(
    coordinator: Any,
    num_processes: Any,
    process_id: Any,
    local_devices: Any,
    environment: Mapping[str, str] = os.environ,
) -> Place:
    """Where this process stands, checked.

    Args:
      coordinator: HOST:PORT, or None.
      num_processes: how many, or None.
      process_id: which one, or None.
      local_devices: a number or several, or None.
      environment: the variables of the process.

    Raises:
      TypeError, ValueError: for what is half given, out of range, or contradicts the launcher.
    """
    given: dict[str, Any] = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    _check_given(given)
    told = None if None not in given.values() else _launcher(environment)
    if told is not None:
        for name, theirs, variable in zip(("num_processes", "process_id"), told[2:4], told.names[1:], strict=True):
            if given[name] is not None and theirs is not None and int(given[name]) != theirs:
                raise ValueError(
                    f"`{name}` is {given[name]}, and {told.by} says {theirs} ({variable}). Leave it out, or give "
                    "coordinator, num_processes and process_id, all three: then no launcher is asked."
                )
        given = {
            name: theirs if mine is None else mine
            for (name, mine), theirs in zip(given.items(), told[1:4], strict=True)
        }
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ValueError(_missing(missing, told))
    _check_given(given)
    number, own = (int(given[name] or 0) for name in ("num_processes", "process_id"))
    if not own < number:
        raise ValueError(f"`process_id` is {own}; expected 0 to {number - 1}, since there are {number} processes.")
    local = _local(local_devices, told, environment)
    return Place(str(given["coordinator"]), number, own, local, told.by if told else "arguments")


def _check_given(given: Mapping[str, Any]) -> None:
    coordinator, number, own = given.values()
    if coordinator is not None:
        checks.text(coordinator=coordinator)
        host, _, port = str(coordinator).rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(
                f"`coordinator` is {coordinator!r}; expected HOST:PORT, the host of process 0 and a free port there, "
                "such as '10.0.0.1:12345'."
            )
    if number is not None:
        checks.positive_int(num_processes=number)
    if own is not None:
        checks.nonnegative_int(process_id=own)


def _missing(missing: list[str], told: _Told | None) -> str:
    names = " and ".join(f"`{name}`" for name in missing)
    if told is None:
        return (
            f"{names} {'is' if len(missing) == 1 else 'are'} not given, and there is no launcher that says (SLURM, "
            "Open MPI, Kubernetes, or the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID). "
            "Give all three: initialize('HOST:PORT', num_processes=N, process_id=I)."
        )
    variables = {
        "coordinator": "JAX_COORDINATOR_ADDRESS",
        "num_processes": "JAX_NUM_PROCESSES",
        "process_id": "JAX_PROCESS_ID",
    }
    more = "; in a Job, `completionMode: Indexed` sets JOB_COMPLETION_INDEX" if told.by == "Kubernetes" else ""
    return (
        f"{told.by} does not say {names}. Give it as an argument, or set "
        f"{' and '.join(variables[m] for m in missing)} in the environment{more}."
    )


def _launcher(environment: Mapping[str, str]) -> _Told | None:
    """What the launcher says, the innermost first: mpirun within a job of SLURM starts the processes itself."""
    for of in (_open_mpi, _slurm, _kubernetes, _variables):
        told = of(environment)
        if told is not None:
            own = _variables(environment)
            if own is not None and own is not told:  # set by hand: they fill in what the launcher leaves open
                told = told._replace(
                    coordinator=own.coordinator or told.coordinator,
                    num_processes=own.num_processes if told.num_processes is None else told.num_processes,
                    process_id=own.process_id if told.process_id is None else told.process_id,
                )
            return told
    return None


def _variables(environment: Mapping[str, str]) -> _Told | None:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if not any(name in environment for name in names):
        return None
    return _Told(
        "JAX_* variables",
        environment.get(names[0]),
        _int(environment, names[1]),
        _int(environment, names[2]),
        names=names,
    )


def _slurm(environment: Mapping[str, str]) -> _Told | None:
    names = ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
    if not all(name in environment for name in names):  # within sbatch alone, no step of srun
        return None
    port = _port(environment, int(environment.get("SLURM_JOB_ID", "0")))
    return _Told(
        "SLURM",
        f"{_first_host(environment[names[0]])}:{port}",
        _int(environment, names[1]),
        _int(environment, names[2]),
        _int(environment, "SLURM_LOCALID"),
        names,
    )


def _open_mpi(environment: Mapping[str, str]) -> _Told | None:
    names = ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
    if not all(name in environment for name in names[1:]):
        return None
    uri = environment.get(names[0], "")
    found = re.search(r"tcp://([^,:;]+)|tcp6://\[([^,\]]+)", uri)  # version 5 does not say where mpirun stands
    coordinator = None
    if found:
        host = found[1] or f"[{found[2]}]"
        coordinator = f"{host}:{_port(environment, int(uri.partition('.')[0] or 0) >> 12)}"
    local = _int(environment, "OMPI_COMM_WORLD_LOCAL_RANK")
    return _Told("Open MPI", coordinator, _int(environment, names[1]), _int(environment, names[2]), local, names)


def _kubernetes(environment: Mapping[str, str]) -> _Told | None:
    if "JOB_COMPLETION_INDEX" not in environment:
        return None
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JOB_COMPLETION_INDEX")
    return _Told("Kubernetes", None, None, _int(environment, names[2]), names=names)


def _port(environment: Mapping[str, str], job: int) -> int:
    return _int(environment, "JAX_COORDINATOR_PORT") or _PORTS + job % 4096


def _first_host(nodes: str) -> str:
    """The first host of a list as SLURM writes it: "a1", "a1,b2", "a[003-007,9],b2", "a[1-2]-ib"."""
    found = re.match(r"([^,\[]*)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes.strip())
    return "".join(part or "" for part in found.groups()) if found else nodes


def _int(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r} in the environment; expected an integer.") from None


def _local(given: Any, told: _Told | None, environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """The devices of this process: those asked for, or one for each process that SLURM or Open MPI starts on a host."""
    if given is not None:
        numbers = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        for number in numbers:
            checks.nonnegative_int(local_devices=number)
        return tuple(int(number) for number in numbers)
    # srun --gpus-per-task and its like leave one to each, which has number 0 in every process.
    visible = [part for part in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    return None if told is None or told.local is None or len(visible) == 1 else (told.local,)
