"""What programs of several processes begin with: JAX with some devices of its own, and the other processes."""

import jax


def join(process: int, num_processes: int, num_devices: int, port: int) -> None:
    """Before anything of JAX is used; one process alone joins nobody."""
    jax.config.update("jax_num_cpu_devices", num_devices)
    if num_processes > 1:
        jax.distributed.initialize(
            f"127.0.0.1:{port}",
            num_processes=num_processes,
            process_id=process,
            heartbeat_timeout_seconds=30,
            shutdown_timeout_seconds=30,
            initialization_timeout=120,
        )
