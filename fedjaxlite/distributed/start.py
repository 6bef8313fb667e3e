"""`fl.distributed.initialize`: makes this program one of several processes of a run."""

from typing import Any

import jax

from fedjaxlite import checks
from fedjaxlite.distributed import leaving, meeting, watch
from fedjaxlite.distributed.launchers import Place, place_of
from fedjaxlite.distributed.relay import relay

_RUNTIME = 300
"""Seconds after which JAX's own runtime gives a silent process up, by SIGABRT: long after the watch has told it."""


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: float = 30.0,
    timeout_seconds: float = 300.0,
    local_devices: int | tuple[int, ...] | None = None,
) -> Place:
    """Makes this program one of several processes that train together; to be called before JAX is used.

    Every process runs the same program: it builds the same population and calls the same functions in the same order.
    Clients are shared out over the devices of all. What is left out comes from the launcher: `srun` (SLURM_*), `mpirun`
    (OMPI_*), an indexed Job of Kubernetes (JOB_COMPLETION_INDEX), or the variables JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID, which fill in what a launcher leaves open.

    Args:
      coordinator: HOST:PORT; the host of process 0, and a port of it that is free and that the others reach.
      num_processes: how many processes there are. With one, nothing happens.
      process_id: which of them this is, from 0.
      heartbeat_seconds: within so many seconds all processes end after one died, or stood still. Longer than any call
        that keeps Python from running its threads.
      timeout_seconds: how long to wait for all to come.
      local_devices: the numbers of this host's accelerators that are this process's. None: all that it sees; under
        SLURM and Open MPI the one of its rank on the host.

    Returns:
      a Place: where this process stands, and who said so.

    Raises:
      TypeError, ValueError: for what is half given or out of range, or contradicts the launcher; and where the
        processes do not fit together (other versions, another number of processes, one number twice).
      RuntimeError: JAX has been used already, or this was called before. OSError: the coordinator's port is taken.
        TimeoutError: not all processes came.

    Guarantees:
      A process that dies, is stopped, or is cut off is noticed within `heartbeat_seconds`, the first one too. All
      others then end with one line on the standard error and exit code 4 (`fedjaxlite.exit_codes.PEER_LOST`), also from
      within a collective; their `finally` blocks and exit handlers do not run. A process that ends by an error tells
      the others its first line. What is printed by the runtime of JAX itself is not among it.

    Example:
      Four processes on this host, one for each I of 0 to 3, before anything else::

        import fedjaxlite as fl
        fl.distributed.initialize("127.0.0.1:12345", num_processes=4, process_id=I)
    """
    place = place_of(coordinator, num_processes, process_id, local_devices)
    heartbeat = float(checks.positive(heartbeat_seconds=heartbeat_seconds))
    patience = float(checks.positive(timeout_seconds=timeout_seconds))
    if heartbeat < 1.0:
        raise ValueError(
            f"`heartbeat_seconds` is {heartbeat_seconds}; expected at least 1: a process that is busy for a moment is "
            "not dead."
        )
    if leaving.begun() or jax.distributed.is_initialized():
        raise RuntimeError(
            "this process is one of several already: fl.distributed.initialize, or jax.distributed.initialize, was "
            "called before. Call fl.distributed.initialize once, and nothing else."
        )
    if _jax_has_started():
        raise RuntimeError(
            "JAX has started already, and cannot be told of other processes any more. Call fl.distributed.initialize() "
            "at the top of the program, before the first array, key or device is asked for."
        )
    if place.num_processes > 1:
        _begin(place, heartbeat, patience)
    return place


def _begin(place: Place, heartbeat: float, patience: float) -> None:
    about = meeting.about_this_program(heartbeat)
    own: list[watch.Watch] = []
    if place.process_id == 0:
        wires, port = meeting.gather(place, about, patience)
        address = f"127.0.0.1:{port}"
    else:
        first, port = meeting.join(place, about, patience)
        wires, host = {0: first}, meeting.split(place.coordinator)[0]
        address = f"127.0.0.1:{relay(host, port, lambda: bool(own) and own[0].all_done.is_set())}"
    own.append(watch.begin(place, wires, heartbeat))
    leaving.arrange(own[0])
    if getattr(jax.config, "jax_cpu_collectives_implementation", None) in (None, "none"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Else JAX catches SIGTERM itself, for a service of its own, and the process no longer ends by it.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address,
        place.num_processes,
        place.process_id,
        local_device_ids=None if place.local_devices is None else list(place.local_devices),
        cluster_detection_method="deactivate",
        initialization_timeout=int(patience) + 1,
        heartbeat_timeout_seconds=_RUNTIME + int(4 * heartbeat),
        shutdown_timeout_seconds=30,
        coordinator_bind_address=f"[::]:{port}",
    )


def _jax_has_started() -> bool:
    """Whether JAX has looked for devices: their number on a CPU cannot be set then."""
    name = "jax_num_cpu_devices"
    now: Any = getattr(jax.config, name)
    try:
        jax.config.update(name, now + 2)
    except RuntimeError:
        return True
    jax.config.update(name, now)
    return False
