"""Every core of a CPU at work: JAX sees a CPU as one device unless it is told otherwise before it starts."""

import os

import jax

from fedjaxlite import checks


def use_cpu_cores(num_cores: int | None = None) -> int:
    """Makes JAX see the CPU as several devices, so that clients train on all cores; call it before anything else.

    Args:
      num_cores: how many devices; None is one for every core that this process may use.

    Returns:
      the number of devices.

    Raises:
      RuntimeError: if JAX has started already: the number of devices cannot change then.

    Example:
      At the top of a script, before the first array is made::

        import fedjaxlite as fl
        fl.use_cpu_cores()
    """
    if num_cores is not None:
        num_cores = checks.positive_int(num_cores=num_cores)
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    available = len(affinity(0)) if affinity else os.cpu_count() or 1
    wanted = available if num_cores is None else int(num_cores)
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:
        raise RuntimeError(
            f"JAX has started already, so it cannot be given {wanted} CPU devices. Call fl.use_cpu_cores() at the top "
            "of the program, before the first array, key or device is asked for."
        ) from error
    return wanted
