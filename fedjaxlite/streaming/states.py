"""Client states that are kept elsewhere: fetched for the next cohort, and written back, beside the rounds.

One thread does both, in this order: while round r runs it writes what round r - 1 trained and then reads the states of
round r + 1. What round r trains itself is taken from its result, on the devices. So nothing that is read is older than
two rounds, and nothing waits for the storage while a device could compute.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.data.prepared import gathering
from fedjaxlite.execution.layout import Layout, over_devices
from fedjaxlite.execution.prepared.placing import own_pieces, pieces_here, place_pieces
from fedjaxlite.keys import is_random_key
from fedjaxlite.streaming.background import Background, Later
from fedjaxlite.streaming.client_store import ClientStore
from fedjaxlite.streaming.loading import Loaded

PyTree = Any


class States(NamedTuple):
    """The states of the cohorts of a run; see `states_of`.

    Attributes:
      fetch: `fetch(loading) -> Later`, begins to read those of a cohort that is being loaded.
      joined: `joined(rows, now, before, trained) -> rows`, those of a cohort, with what the round before trained in
        place of what was read: `before` is its cohort, `trained` its new states on the devices.
      write: `write(round, cohort, trained)`, begins to write them, after that many rounds.
    """

    fetch: Callable[[Later], Later]
    joined: Callable[[PyTree, Loaded, Loaded | None, PyTree], PyTree]
    write: Callable[[int, Loaded, PyTree], None]


def states_of(store: ClientStore, like: PyTree, layout: Layout, thread: Background) -> States:
    """The client states of a run.

    Args:
      store: where they are kept, a ClientStore.
      like: a state's `clients`, `[D * K, ...]` on every leaf.
      layout: the devices.
      thread: on which they are read and written.
    """
    over = over_devices(_taken_from, layout)

    def read(loading: Later) -> PyTree:
        slots = loading.found().slots
        pieces = {
            piece: gathering.padded(store.read(slots.ids[slots.owner == piece]), len(slots.ids))
            for piece in own_pieces(layout)
        }
        return jax.tree.map(_as_keys, place_pieces(pieces, layout), like)

    def joined(rows: PyTree, now: Loaded, before: Loaded | None, trained: PyTree) -> PyTree:
        # Without a round before, nothing is taken: then this compiles what later rounds need.
        source = np.full(len(now.slots.ids), -1, np.int32) if before is None else _sources(now, before)
        if before is not None and (source < 0).all():
            return rows
        here = {
            piece: gathering.padded(source[now.slots.owner == piece], len(source), behind=-1)
            for piece in own_pieces(layout)
        }
        return over((), (), rows, (trained, place_pieces(here, layout)))[1]

    def write(number: int, cohort: Loaded, trained: PyTree) -> None:
        what = f"the client states of round {number} were written"
        thread.begin(what, lambda: _write(store, number, cohort, pieces_here(trained, layout)))

    return States(lambda loading: thread.begin("client states were read", read, loading), joined, write)


def _taken_from(device: Any, state: Any, data: Any, rows: PyTree, pieces: Any) -> tuple[Any, PyTree]:
    """Rows with those of the round before where it trained the client, on one device."""
    del device, state, data
    trained, source = pieces

    def one(read: jax.Array, new: jax.Array) -> jax.Array:
        taken = new.at[jnp.maximum(source, 0)].get(mode="clip", wrap_negative_indices=False)
        return jnp.where((source >= 0).reshape((-1,) + (1,) * (read.ndim - 1)), taken, read)

    return (), jax.tree.map(one, rows, trained)


def _sources(now: Loaded, before: Loaded) -> np.ndarray:
    """Where the states of a cohort's clients stand among those that the round before left on their device: int32 `[K]`.

    -1 for a client that it had not. A client has one device, so that none reads from another.
    """
    ranks, ids = _ranks(before.slots.owner), before.slots.ids
    order = np.flatnonzero(before.trained)
    order = order[np.argsort(ids[order])]
    if not len(order):
        return np.full(len(now.slots.ids), -1, np.int32)
    at = np.minimum(np.searchsorted(ids[order], now.slots.ids), len(order) - 1)
    found = (ids[order][at] == now.slots.ids) & now.selected
    return np.where(found, ranks[order[at]], -1).astype(np.int32)


def _ranks(owner: np.ndarray) -> np.ndarray:
    """How many slots of its device stand before each slot."""
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner)
    ranks = np.empty(len(owner), np.int32)
    ranks[order] = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def _write(store: ClientStore, number: int, cohort: Loaded, pieces: dict[int, PyTree]) -> None:
    slots, ranks = cohort.slots, _ranks(cohort.slots.owner)
    ids, rows = [], []
    for piece, states in pieces.items():
        mine = cohort.trained & (slots.owner == piece)
        ids.append(slots.ids[mine])
        place = ranks[mine]
        rows.append(jax.tree.map(lambda leaf: _plain(leaf)[place], states))  # noqa: B023
    whole = jax.tree.map(lambda *parts: parts[0] if len(parts) == 1 else np.concatenate(parts), *rows)
    store.write(number, np.concatenate(ids), whole)


def _plain(leaf: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if is_random_key(leaf) else leaf)


def _as_keys(leaf: jax.Array, like: Any) -> jax.Array:
    return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(like)) if is_random_key(like) else leaf
