"""Masks in the integers mod 2^32 that hide every message and cancel in the sum.

    client u   y_u = x_u + PRG(b_u) + sum over neighbors v of sign(u, v) PRG(s_uv)    sign +1 if u < v, else -1
    server     sum of y_u over survivors, minus their PRG(b_u), plus sign(w, v) PRG(s_wv) for every w that left

Masks are made a tile at a time and never stored, neither all of one client nor one whole: temporary memory is a tile,
whatever the size of the model and the number of neighbors.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.masking import chacha
from fedjaxlite.privacy.masking.mask_rules import (
    check_min_survivors,
    check_threshold,
    check_wire,
    checked_numbers,
    default_min_survivors,
    default_neighbors,
    protocol_bytes,
)
from fedjaxlite.privacy.masking.roster import (
    Masks,
    Roster,
    orphans_of,
    own_masks,
    recoverable,
    roster,
    self_masks_of_survivors,
)

PyTree = Any
Prg = Callable[[jax.Array, jax.Array, int], jax.Array]
"""`prg(key [8], first block, number of blocks) -> uint32 [4, 4, blocks]`, blocks along the last axis."""

TILE = 256
"""Blocks of 64 bytes in a tile: 16 kB stay in a core's first cache, and four lanes in its second."""


def chacha20(key: jax.Array, first: jax.Array, num_blocks: int) -> jax.Array:
    """The generator of masks: ChaCha20 under a key of one use, so the nonce is zero."""
    return chacha.blocks(key, jnp.zeros((3,), jnp.uint32), first, num_blocks)


def add_masks(words: jax.Array, masks: Masks, *, prg: Prg = chacha20, tile: int = TILE) -> jax.Array:
    """Adds signed masks to a vector, mod 2^32.

    Args:
      words: uint32 `[D]`.
      masks: keys and signs; the first `number` rows are added.
      prg: the generator.
      tile: blocks that are made at a time; changes speed alone.

    Returns:
      uint32 `[D]`: words + sum of sign * PRG(key), each mask being the first D words of its keystream.
    """
    (size,) = words.shape
    tile = max(1, min(tile, -(-size // chacha.WORDS)))
    length = tile * chacha.WORDS
    num_tiles = -(-size // length)

    def masked(at: tuple[jax.Array, jax.Array]) -> jax.Array:
        number, part = at

        def add(i: Any, total: jax.Array) -> jax.Array:
            return total + masks.signs[i] * prg(masks.keys[i], number * tile, tile)

        total = jax.lax.fori_loop(jnp.int32(0), masks.number, add, jnp.zeros((4, 4, tile), jnp.uint32))
        return part + chacha.in_order(total)

    parts = jnp.pad(words, (0, num_tiles * length - size)).reshape(num_tiles, length)
    return jax.lax.map(masked, (jnp.arange(num_tiles, dtype=jnp.uint32), parts)).reshape(-1)[:size]


class Closed(NamedTuple):
    """A mask's state between rounds.

    Attributes:
      refused: int32 scalar, 1 if the last round's sum could not be opened.
    """

    refused: jax.Array


class Open(NamedTuple):
    """A mask's state within a round: who takes part."""

    ring: Roster


def mask(
    *,
    neighbors: int | None = None,
    threshold: int | None = None,
    colluders: int = 0,
    masking: str = "faithful",
    min_survivors: int | None = None,
) -> fl.Aggregator:
    """Masks every message, so that the server can open the sum of all of them and nothing else.

    The masks of Bonawitz et al.'s protocol, computed in the round: a self mask, and one with each neighbor on a ring in
    random order (Bell et al.). Everything a client sends is masked, its weight and scalars too. Clients that were
    selected but did not report left after keys were shared: the masks that others added for them are taken off again.
    Where too few are left to recover what is needed, the round is refused: sum and weight are zero, and the metric
    `refused` is 1.

    Args:
      neighbors: k, an even number of clients that each client shares keys with; a cohort of at most k + 1 shares them
        all. None for everybody (Bonawitz et al.) in up to 64 slots; in more, the fewest that keep a round private and
        live where a tenth of the clients colludes and another tenth leaves (`secagg.graph.derive`).
      threshold: t, how many of the k + 1 holders of a secret are needed to recover it. None for a majority:
        (N + colluders) // 2 + 1 of each round's N = min(k, n - 1) + 1 holders.
      colluders: c, how many of any client's k neighbors may work with the server.
      masking: "faithful" computes every mask; "algebraic" leaves out what cancels, with the same result bit for bit
        and the same refusals: for large simulations.
      min_survivors: the fewest messages whose sum is opened. None for 8, or for a majority of the slots where that is
        fewer, and at least so many that two are of honest clients: with one, the sum is that message.

    Returns:
      an Aggregator that stands last in a chain, behind what makes integers of the values, such as `fl.quantize`.

    Raises:
      ValueError, TypeError: for a `neighbors` that is not even, or a threshold that does not keep secrets: t > c, since
        c colluders could recover them alone, and 2 t > N + c, since a server that lies about who left gets one answer
        of each honest holder and two of each colluder. When built: for values that are no integers mod 2^32, weights
        without a cap, sums that could pass 2^31 - 1, a second mask, a cohort of one.

    Guarantees:
      The sum is exactly that without masks, in every order, on any lanes and devices, whoever drops out. Masks are
      *simulated*: their keys come from the run's noise key, so they hide nothing from whoever runs the simulation.
      What a server of the real protocol sees beside the sum is who takes part. The sum itself still tells about
      clients, the more the fewer they are; only noise bounds that.

    Source: Bonawitz et al. (2017), https://eprint.iacr.org/2017/281, figure 4; Bell et al. (2020),
      https://eprint.iacr.org/2020/704, section 3.

    Example:
      >>> import fedjaxlite as fl
      >>> chain = fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), fl.quantize(bits=16), mask(neighbors=4))
      >>> chain.name
      'chain(mean, clip_by_global_norm, quantize, mask)'
    """
    neighbors, threshold, colluders, masking, min_survivors = checked_numbers(
        neighbors, threshold, colluders, masking, min_survivors
    )

    def degree(capacity: int) -> int:
        return min(capacity - 1, default_neighbors(capacity) if neighbors is None else neighbors)

    def init(wire: fl.Wire) -> tuple[Closed, fl.Wire]:
        check_wire(wire)
        check_threshold(wire.capacity, degree(wire.capacity), threshold, colluders)
        check_min_survivors(wire.capacity, degree(wire.capacity), colluders, min_survivors)
        return Closed(jnp.int32(0)), wire._replace(masked=True, bits=32)

    def begin(state: Closed, cohort: fl.Cohort, key: jax.Array) -> Open:
        del state
        return Open(roster(cohort, key))

    def encode(state: Open, client_state: Any, message: fl.Message, client: fl.ClientInfo) -> tuple[fl.Message, Any]:
        if masking == "algebraic":
            return message, client_state
        ring = _opened(state)
        masks = own_masks(ring, client.slot, degree(ring.ids.shape[0]))
        return _over_words(lambda words: add_masks(words, masks), message), client_state

    def decode(state: Open, total: fl.Message, key: Any) -> tuple[fl.Message, Closed]:
        del key
        ring = _opened(state)
        capacity = ring.ids.shape[0]
        most = degree(capacity)
        fewest = default_min_survivors(capacity, most, colluders) if min_survivors is None else min_survivors
        opens = recoverable(ring, most, threshold=threshold, colluders=colluders, min_survivors=fewest)
        if masking == "faithful":
            total = _over_words(lambda words: unmask(words, ring, most), total)
        total = jax.tree.map(lambda leaf: jnp.where(opens, leaf, jnp.zeros_like(leaf)), total)
        return total, Closed(jnp.where(opens, jnp.int32(0), jnp.int32(1)))

    return fl.Aggregator(
        init=init,
        begin=begin,
        encode=encode,
        decode=decode,
        metrics=lambda state: {"refused": state.refused},
        overhead=lambda state, capacity: protocol_bytes(capacity, degree(capacity)),
        role="mask",
        name="mask",
        hparams={
            "neighbors": neighbors,
            "threshold": threshold,
            "colluders": colluders,
            "masking": masking,
            "min_survivors": min_survivors,
        },
    )


def unmask(words: jax.Array, ring: Roster, most: int) -> jax.Array:
    """Takes the masks off a sum of messages, one mask at a time.

    Args:
      words: uint32 `[D]`, the sum of the survivors' masked messages.
      ring: the round's Roster.
      most: k.

    Returns:
      uint32 `[D]`, the sum of what they masked: survivors' self masks are subtracted, and the masks that they share
      with clients that left. A mask for each survivor, and up to k for each that left.
    """
    words = add_masks(words, self_masks_of_survivors(ring))
    left = ring.selected & ~ring.alive
    slots = jnp.argsort(~left, stable=True)
    take_off = lambda i, words: add_masks(words, orphans_of(ring, slots[i], most))  # noqa: E731
    return jax.lax.fori_loop(jnp.int32(0), jnp.sum(left, dtype=jnp.int32), take_off, words)


def _opened(state: Any) -> Roster:
    if not isinstance(state, Open):
        raise ValueError(
            "`mask` was asked for a message outside of a round; call the aggregator's `begin(state, cohort, key)` "
            "first, and give what it returns to `encode` and `decode`."
        )
    return state.ring


def _over_words(function: Callable[[jax.Array], jax.Array], message: fl.Message) -> fl.Message:
    """Applies a function to all words of a message as one vector."""
    leaves, treedef = jax.tree.flatten(message)
    words = function(jnp.concatenate([leaf.reshape(-1) for leaf in leaves]))
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = zip(jnp.split(words, ends), leaves, strict=True)
    return jax.tree.unflatten(treedef, [part.reshape(leaf.shape) for part, leaf in parts])
