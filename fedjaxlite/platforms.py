"""Platforms: what a program is traced for. A round is told by its layout; the default is asked for here alone."""

from typing import Any

import jax
from jax.core import Tracer


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
