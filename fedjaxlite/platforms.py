"""Platforms: what a program is traced for, which a layout tells a round, and how many devices a CPU is."""

import os
from typing import Any

import jax
from jax.core import Tracer

from fedjaxlite import checks


def default_platform() -> str:
    """Where JAX runs what no device was named for: "cpu", "gpu", "tpu" ..."""
    chosen: Any = jax.config.values["jax_default_device"]
    if chosen is None:
        return jax.default_backend()
    return chosen if isinstance(chosen, str) else chosen.platform


def platform_of(tree: Any) -> str:
    """Where a computation on these values runs.

    Args:
      tree: pytree of arrays, host arrays or tracers.

    Returns:
      the platform of the first array that was put on a device by name, as `jax.jit` goes by; the default where there
      is none.

    Example:
      >>> platform_of({"x": jax.device_put(1.0, jax.devices("cpu")[0])})
      'cpu'
    """
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.committed:
            return next(iter(leaf.sharding.device_set)).platform
    return default_platform()


def host_memory() -> int | None:
    """Bytes of memory that this machine has; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


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
