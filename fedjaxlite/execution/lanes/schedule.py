"""From a cohort to lanes: who is trained beside whom, and on which device.

Clients are sorted by their work, so that lanes that begin together hold clients of nearly one size. For waves each
device gets a contiguous piece of the sorted list with its share of the work, for queues every D-th client; or the
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
      order: int32 `[K]` or fewer, slots of the cohort; this device trains `order[start : start + size]`.
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


def dealt(work: jax.Array, active: jax.Array, *, device: Any, num_devices: int) -> Schedule:
    """Deals a cohort to devices like cards, the largest clients first and every other time backwards; for queues.

    Args:
      work: float32 `[K]`.
      active: bool `[K]`, the clients to train.
      device: int32 scalar, this device's index.
      num_devices: D.

    Returns:
      this device's Schedule, with an order of `[ceil(K / D)]`. The devices' clients cover every active one once; the
      work of two devices differs by no more than the largest client's.
    """
    order = jnp.argsort(-jnp.where(active, work, -1.0), stable=True).astype(jnp.int32)
    total = jnp.sum(active, dtype=jnp.int32)
    if num_devices == 1:
        return Schedule(order, jnp.int32(0), total)
    deal = jnp.arange(-(-order.shape[0] // num_devices), dtype=jnp.int32)
    place = deal * num_devices + jnp.where(deal % 2 == 0, device, num_devices - 1 - device)
    mine = order.at[place].get(mode="clip", wrap_negative_indices=False)
    return Schedule(mine, jnp.int32(0), jnp.sum(place < total, dtype=jnp.int32))


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
