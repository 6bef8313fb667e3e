"""Mimic: bad clients copy one honest client, whose data then count for more than they should."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.attacks.together.honest import honest_mean, norms, scaled, send, sides, total
from fedjaxlite.attacks.who import as_bad, told
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.rows import Rows, Shares
from fedjaxlite.wire.stacking import restack

PyTree = Any


class MimicState(NamedTuple):
    """What bad clients remember.

    Attributes:
      direction: pytree like an update, float32: where honest messages differ most, of norm 1; zeros at first.
      client: int32, whom they copy from the end of the warm-up on; -1 before.
      rounds: int32, rounds so far with an honest message.
    """

    direction: PyTree
    client: jax.Array
    rounds: jax.Array


def mimic(bad: Any, *, warm_up: int = 5, client: int | None = None) -> Aggregator:
    """Bad clients all send what one honest client sends, so that nothing tells them from honest ones.

    Whom they copy follows from the direction of largest variance of honest messages, which they learn over rounds by
    Oja's rule: in round t, z = normalized(t z + s) with s the normalized covariance times z. During the warm-up they
    copy whoever is farthest from the mean along z in the round; the one of the last of these rounds is copied from then
    on. (The paper fixes a client by sums over the warm-up, which only makes sense where everyone is in every round.)
    In a round without that client they copy, again, whoever is farthest along z.

    Args:
      bad: who is bad: `attacks.pool`, `attacks.share`, or ids.
      warm_up: rounds of it, at least 1. z is learned in all rounds.
      client: the id of a client who is always copied when it is there; nothing is learned then, and in a round without
        it bad clients copy the first honest one.

    Returns:
      an Aggregator that stands before a rule. It remembers one update (none with `client`).

    Raises:
      TypeError, ValueError: for arguments that do not fit.

    Source: Karimireddy, He, Jaggi (2022), "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing",
    https://arxiv.org/abs/2006.09365, section 4 and appendix B.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp
      >>> messages = jnp.float32([[0, 1], [9, 1], [0, 3], [5, 5]])
      >>> fl.robust.apply([fl.attacks.mimic([3]), fl.robust.mean()], messages).tolist()  # copies client 1
      [4.5, 1.5]
    """
    who, warm_up = as_bad(bad), checks.positive_int(warm_up=warm_up)
    client = client if client is None else checks.nonnegative_int(client=client)
    told_of = {"bad": told(who), "warm_up": warm_up, "client": client}
    if client is not None:
        return restack(lambda s, rows, key: _copy_of(who, client, s, rows, key), name="mimic", hparams=told_of)

    def init(update: PyTree) -> MimicState:
        return MimicState(update, jnp.int32(-1), jnp.int32(0))

    def attack(state: MimicState, rows: Rows, key: Any) -> tuple[Rows, MimicState]:
        honest, lying = sides(who, rows, key)
        away, _ = scaled(rows, honest, honest_mean(rows, honest))
        z = _learned(state, rows.shares, away, key)
        score = jnp.where(honest, jnp.abs(_along(rows.shares, away, z)), -1.0)
        there = honest & (rows.ids == state.client)
        row = jnp.where(there.any() & (state.rounds >= warm_up), there.argmax(), score.argmax())
        client = jnp.where(state.rounds < warm_up, rows.ids[row], state.client)
        new = MimicState(rows.shares.whole(z), client, state.rounds + 1)
        new = jax.tree.map(lambda a, b: jnp.where(honest.any(), a, b), new, state)
        return send(rows, lying, jax.tree.map(lambda v: v[row], rows.values)), new

    return restack(attack, name="mimic", hparams=told_of, init=init)


def _copy_of(bad: Any, client: int, state: PyTree, rows: Rows, key: Any) -> tuple[Rows, PyTree]:
    honest, lying = sides(bad, rows, key)
    there = honest & (rows.ids == client)
    row = jnp.where(there.any(), there.argmax(), honest.argmax())
    return send(rows, lying, jax.tree.map(lambda v: v[row], rows.values)), state


def _learned(state: MimicState, shares: Shares, away: PyTree, key: Any) -> PyTree:
    """The direction after this round, this device's entries."""
    z = shares.mine(jax.tree.map(lambda d, r: jnp.where(state.rounds == 0, r, d), state.direction, _start(state, key)))
    weights = _along(shares, away, z)
    push = jax.tree.map(lambda a: jnp.einsum("k,km->m", weights, a, precision="highest"), away)
    size = norms(shares, push)
    t = state.rounds.astype(jnp.float32)
    moved = jax.tree.map(lambda a, p: t * a + p / jnp.where(size > 0, size, 1.0), z, push)
    length = norms(shares, moved)
    return jax.tree.map(lambda a, m: jnp.where(length > 0, m / jnp.where(length > 0, length, 1.0), a), z, moved)


def _start(state: MimicState, key: Any) -> PyTree:
    """A random direction of norm 1, whole on every device."""
    leaves, structure = jax.tree.flatten(state.direction)
    drawn = [jax.random.normal(jax.random.fold_in(key, i), leaf.shape, jnp.float32) for i, leaf in enumerate(leaves)]
    square = sum((jnp.square(leaf).sum() for leaf in drawn), jnp.float32(0.0))
    return structure.unflatten([leaf / jnp.sqrt(square) for leaf in drawn])


def _along(shares: Shares, away: PyTree, z: PyTree) -> jax.Array:
    """Products of messages and a direction, `[K]`."""
    return shares.add(total(jax.tree.map(lambda a, d: jnp.einsum("km,m->k", a, d, precision="highest"), away, z)))
