"""From a cohort to waves of lanes: who is trained beside whom, and on which device.

Clients are sorted by their work, so that a wave holds clients of nearly one size and almost no step is padding. Each
device gets a contiguous piece of the sorted list with its share of the work (any device may train any client), or the
clients whose states it owns.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# What a client costs beyond its examples, in examples: keeps a device from getting all the tiny clients.
_OVERHEAD = 4.0


class Schedule(NamedTuple):
    """One device's part of a round.

    Attributes:
      order: int32 `[K]`, slots of the cohort; this device trains `order[start : start + size]`, L at a time.
      start: int32 scalar.
      size: int32 scalar.
    """

    order: jax.Array
    start: jax.Array
    size: jax.Array


def balanced(work: jax.Array, active: jax.Array, *, lanes: int, device: Any, num_devices: int) -> Schedule:
    """Splits a cohort over devices by work, in whole waves; used where no client is tied to a device.

    Args:
      work: float32 `[K]`, examples times the share of local steps.
      active: bool `[K]`, the clients to train.
      lanes: L.
      device: int32 scalar, this device's index.
      num_devices: how many there are.

    Returns:
      this device's Schedule. The devices' pieces cover every active client once; no device has more than its share of
      the work by more than one wave.
    """
    cost = jnp.where(active, work + _OVERHEAD, -1.0)
    order = jnp.argsort(-cost, stable=True).astype(jnp.int32)
    total = jnp.sum(active, dtype=jnp.int32)
    if num_devices == 1:
        return Schedule(order, jnp.int32(0), total)
    # A wave costs what its first and largest client costs, for every lane.
    waves = -(-order.shape[0] // lanes)
    first = jnp.arange(waves, dtype=jnp.int32) * lanes
    wave_cost = jnp.where(first < total, jnp.maximum(cost[order[first]], 0.0), 0.0)
    middle = jnp.cumsum(wave_cost) - wave_cost / 2
    owner = jnp.floor(middle / jnp.maximum(wave_cost.sum(), 1e-9) * num_devices).astype(jnp.int32)
    owner = jnp.where(first < total, jnp.minimum(owner, num_devices - 1), num_devices)
    before = jnp.sum(owner < device, dtype=jnp.int32)
    mine = jnp.sum(owner == device, dtype=jnp.int32)
    start = jnp.minimum(before * lanes, total)
    return Schedule(order, start, jnp.minimum(mine * lanes, total - start))


def owned(work: jax.Array, active: jax.Array, owner: jax.Array, *, device: Any) -> Schedule:
    """Gives each device the active clients that it owns, the largest first.

    Args:
      work: float32 `[K]`.
      active: bool `[K]`.
      owner: int32 `[K]`, the device that holds each client's state.
      device: int32 scalar, this device's index.

    Returns:
      this device's Schedule.
    """
    mine = active & (owner == device)
    order = jnp.argsort(-jnp.where(mine, work, -1.0), stable=True).astype(jnp.int32)
    return Schedule(order, jnp.int32(0), jnp.sum(mine, dtype=jnp.int32))
