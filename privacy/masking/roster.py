"""Who masks with whom in a round: a ring in random order, the keys that two clients share, and what a dropout leaves.

The n clients that a round selects stand on a ring in random order. Each shares a key with its k nearest, k/2 on either
side (all others, where n - 1 <= k), so that every shared key has two holders who know of each other. One that leaves
takes its masks along and leaves those of its neighbors without their counterparts.

The keys here are *simulated*: derived from the round's noise key, which the simulator holds. They hide nothing from
whoever runs the simulation; real clients agree on keys that no server has (`privacy.secagg`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite.privacy.masking import chacha

_ORDER, _SELF, _PAIR = 0, 1, 2
_MINUS = 0xFFFFFFFF


class Roster(NamedTuple):
    """The clients of one round on their ring. C slots in the cohort.

    Attributes:
      ids: int32 `[C]`, as in the cohort.
      selected: bool `[C]`, who set out with keys.
      alive: bool `[C]`, who of them sent a masked message.
      order: int32 `[C]`, slots along the ring; spare slots come last and are not on it.
      place: int32 `[C]`, where on the ring a slot stands.
      size: int32 scalar, n.
      root: uint32 `[8]`, the key of this round's simulated keys.
    """

    ids: jax.Array
    selected: jax.Array
    alive: jax.Array
    order: jax.Array
    place: jax.Array
    size: jax.Array
    root: jax.Array


class Masks(NamedTuple):
    """Masks to add.

    Attributes:
      keys: uint32 `[M, 8]`.
      signs: uint32 `[M]`, 1 or 2^32 - 1.
      number: int32 scalar, how many of the rows count, from the first.
    """

    keys: jax.Array
    signs: jax.Array
    number: jax.Array


def roster(cohort: fl.Cohort, key: jax.Array) -> Roster:
    """Puts a round's clients on a ring, in an order that is random but does not depend on their slots.

    Args:
      cohort: who was selected and who reported.
      key: a random key of this round.

    Returns:
      a Roster.

    Guarantees:
      Order and keys are functions of `key` and of the set of selected ids, by ChaCha20 alone: the same for every order
      of the cohort, on every backend and under every version of JAX.
    """
    words = jax.random.key_data(key).reshape(-1)[:8]
    root = jnp.zeros((8,), jnp.uint32).at[: words.shape[0]].set(words)
    ids = cohort.ids.astype(jnp.uint32)
    rank = chacha.derive(root, _nonces(ids, ids, _ORDER))[:, 0]
    order = jnp.lexsort((ids, rank, ~cohort.selected)).astype(jnp.int32)
    slots = jnp.arange(order.shape[0], dtype=jnp.int32)
    return Roster(
        ids=cohort.ids,
        selected=cohort.selected,
        alive=cohort.selected & cohort.reported,
        order=order,
        place=jnp.zeros_like(slots).at[order].set(slots),
        size=jnp.sum(cohort.selected, dtype=jnp.int32),
        root=root,
    )


def neighbors(ring: Roster, slot: Any, most: int) -> tuple[jax.Array, jax.Array]:
    """The neighbors of a selected client.

    Args:
      ring: the round's Roster.
      slot: int32 scalar, the client's.
      most: k, an even int, or one less than the number of slots for everybody.

    Returns:
      slots int32 `[most]`, nearest first, and how many of them count: min(most, n - 1).
    """
    turn = jnp.arange(most, dtype=jnp.int32)
    # +1, -1, +2, -2 ...: where n is small enough, the last is the one opposite, once.
    steps = jnp.where(turn % 2 == 0, turn // 2 + 1, -(turn // 2 + 1))
    size = jnp.maximum(ring.size, 1)
    return ring.order[(ring.place[slot] + steps) % size], jnp.clip(ring.size - 1, 0, most)


def own_masks(ring: Roster, slot: Any, most: int) -> Masks:
    """What a client adds to its message: its self mask, and a mask for each neighbor, + where its own id is smaller."""
    near, count = neighbors(ring, slot, most)
    keys, signs = _pair_masks(ring, slot, near)
    mine = _self_keys(ring, jnp.reshape(slot, (1,)))
    return Masks(jnp.concatenate([mine, keys]), jnp.concatenate([jnp.ones((1,), jnp.uint32), signs]), count + 1)


def self_masks_of_survivors(ring: Roster) -> Masks:
    """What the server subtracts for the clients whose messages came: their self masks."""
    first = jnp.argsort(~ring.alive, stable=True)
    signs = jnp.full(first.shape, _MINUS, jnp.uint32)
    return Masks(_self_keys(ring, first), signs, jnp.sum(ring.alive, dtype=jnp.int32))


def orphans_of(ring: Roster, slot: Any, most: int) -> Masks:
    """What the server adds for a client that left: the counterparts of what its surviving neighbors added for it."""
    near, count = neighbors(ring, slot, most)
    held = ring.alive[near] & (jnp.arange(most, dtype=jnp.int32) < count)
    near = near[jnp.argsort(~held, stable=True)]
    keys, signs = _pair_masks(ring, slot, near)
    # Its own mask would have canceled its neighbors': so that is what is missing.
    return Masks(keys, signs, jnp.sum(held, dtype=jnp.int32))


def recoverable(ring: Roster, most: int, *, threshold: int | None, colluders: int, min_survivors: int) -> jax.Array:
    """Whether the protocol could open this round's sum: every secret that it needs has enough holders left.

    The holders of a client's secrets are its neighbors and itself, N in number. Needed are the secrets of all who sent
    a message, and of those who left a neighbor behind that did.

    Args:
      ring: the round's Roster.
      most: k.
      threshold: t; None for a majority of each round's holders, (N + colluders) // 2 + 1.
      colluders: c.
      min_survivors: the fewest messages whose sum is opened.

    Returns:
      a bool scalar.
    """
    _, count = neighbors(ring, 0, most)

    def add(turn: Any, total: jax.Array) -> jax.Array:
        step = jnp.where(turn % 2 == 0, turn // 2 + 1, -(turn // 2 + 1))
        return total + ring.alive[ring.order[(ring.place + step) % jnp.maximum(ring.size, 1)]].astype(jnp.int32)

    near = jax.lax.fori_loop(jnp.int32(0), count, add, jnp.zeros_like(ring.place))
    needed = ring.selected & (ring.alive | (near > 0))
    enough = (count + 1 + colluders) // 2 + 1 if threshold is None else threshold
    holders = near + ring.alive.astype(jnp.int32)
    return jnp.all(~needed | (holders >= enough)) & (jnp.sum(ring.alive, dtype=jnp.int32) >= min_survivors)


def _nonces(first: jax.Array, second: jax.Array, purpose: int) -> jax.Array:
    return jnp.stack([first, second, jnp.full_like(first, purpose)], axis=1)


def _self_keys(ring: Roster, slots: jax.Array) -> jax.Array:
    ids = ring.ids[slots].astype(jnp.uint32)
    return chacha.derive(ring.root, _nonces(ids, ids, _SELF))


def _pair_masks(ring: Roster, slot: Any, near: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and signs of one client's masks for others: both ends derive one key, and their signs are opposite."""
    own = jnp.broadcast_to(ring.ids[slot], near.shape).astype(jnp.uint32)
    theirs = ring.ids[near].astype(jnp.uint32)
    keys = chacha.derive(ring.root, _nonces(jnp.minimum(own, theirs), jnp.maximum(own, theirs), _PAIR))
    return keys, jnp.where(own < theirs, jnp.uint32(1), jnp.uint32(_MINUS))
