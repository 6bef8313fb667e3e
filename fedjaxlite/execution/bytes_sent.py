"""The ledger of bytes: of one client in a round, from shapes alone, and of each client of a cohort."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.protocol.algorithm import Algorithm
from fedjaxlite.sampling import Cohort
from fedjaxlite.wire.aggregator import Wire
from fedjaxlite.wire.packing.forms import num_bytes

PyTree = Any


class Traffic(NamedTuple):
    """Bytes of one client in one round: those of the arrays that cross the wire.

    Attributes:
      up: int, the encoded message as it is sent (value, weights, scalars, and what codecs send beside), and what the
        codecs' protocol adds (a secure sum's keys and shares).
      down: int, what is broadcast, and what codecs need to encode (seeds, bases).
    """

    up: int
    down: int


def broadcast(algorithm: Algorithm, server_state: Any) -> PyTree:
    """What a client downloads."""
    return (algorithm.broadcast or algorithm.params)(server_state)


def traffic_on(wire: Wire, algorithm: Algorithm, params: PyTree) -> Traffic:
    """The bytes of one client, from the wire at the end of the chain and the shapes of the model."""
    up, down = wire.overhead
    up += num_bytes((wire.value, wire.weight, wire.scalars, wire.aside))
    server_state = jax.eval_shape(algorithm.init, params)
    shared = jax.eval_shape(lambda s: broadcast(algorithm, s), server_state)
    return Traffic(up, down + downloaded(algorithm, shared))


def downloaded(algorithm: Algorithm, shared: PyTree) -> int:
    """Bytes of what is broadcast, without what clients have already."""
    return num_bytes(shared) - num_bytes(jax.eval_shape(algorithm.resident, shared))


def beside_the_broadcast(
    more: Callable[[PyTree], jax.Array] | None, bank: PyTree, rows: jax.Array, mine: jax.Array | None
) -> jax.Array | None:
    """What each slot's client downloads beside the broadcast, uint32 `[K]`; 0 where another device has its state."""
    if more is None:
        return None
    found = jax.vmap(more)(jax.tree.map(lambda leaf: leaf[rows], bank))
    return found if mine is None else jnp.where(mine, found, jnp.uint32(0))


def of_cohort(traffic: Traffic, cohort: Cohort, more: jax.Array | None) -> dict[str, jax.Array]:
    """The rows of `PassInfo.clients` that count bytes, uint32 `[K]`.

    Args:
      traffic: of one client.
      cohort: who is in it. A client that drops out has downloaded; one that is late has sent too.
      more: what each downloads beside the broadcast, `beside_the_broadcast` of all devices together.
    """
    active = cohort.selected & cohort.reported
    sent = active if cohort.late is None else active | cohort.late
    down = _where(cohort.selected, traffic.down)
    down = down if more is None else down + jnp.where(cohort.selected, more, jnp.uint32(0))
    return {"bytes_up": _where(sent, traffic.up), "bytes_down": down}


def _where(who: jax.Array, size: int) -> jax.Array:
    # Without 64 bits a message of 4 GiB and more is counted as the largest number there is.
    return jnp.where(who, jnp.uint32(min(size, 2**32 - 1)), jnp.uint32(0))
