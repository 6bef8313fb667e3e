"""Which of a client's own examples are held out: by chance, by label, by group, for all clients at once.

Everything is about pieces: an example, or a group of examples that stay together. A piece has a number of examples of
each label; by chance, all labels are one. Loops are over the pieces of the client that has most, never over clients.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.population import Population

_TRIES = 8
"""Orders in which groups are gone through, of which the one that comes nearest to the labels' shares is taken."""


class Pieces(NamedTuple):
    """The pieces of all clients, one client after the other.

    Attributes:
      of_row: int64 `[n]`, the piece of each example.
      owner: int64 `[P]`, the client of each piece.
      counts: int64 `[P, L]`, how many examples of each label a piece has.
      first: int64 `[P]`, the first example of each piece.
    """

    of_row: np.ndarray
    owner: np.ndarray
    counts: np.ndarray
    first: np.ndarray


def feature_of(population: Population, argument: str, name: Any) -> np.ndarray:
    """A feature of whole numbers `[n]`, as int64 codes from 0; ties a name to an argument in messages."""
    checks.text("It is the name of a feature.", **{argument: name})
    if name not in population.features:
        known = ", ".join(map(repr, population.features))
        raise ValueError(f"`{argument}` is {name!r}, which is no feature; the population has {known}.")
    values = np.asarray(population.features[name])
    if values.ndim != 1 or values.dtype.kind not in "iub":
        raise TypeError(
            f"`{argument}` is {name!r}, which is {values.dtype}{list(values.shape[1:]) or ''}; expected whole numbers "
            "[n], one an example. Of quantities make classes first, such as by np.digitize."
        )
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def pieces_of(owner: np.ndarray, groups: np.ndarray, labels: np.ndarray | None) -> Pieces:
    """Groups of examples, within a client each: two clients' groups of one number are two pieces."""
    key = owner * (groups.max(initial=0) + 1) + groups
    _, first, of_row = np.unique(key, return_index=True, return_inverse=True)
    codes = np.zeros(len(owner), np.int64) if labels is None else labels
    num_labels = int(codes.max(initial=0)) + 1
    counts = np.bincount(of_row * num_labels + codes, minlength=len(first) * num_labels)
    return Pieces(of_row.reshape(-1), owner[first], counts.reshape(len(first), num_labels), first)


def stratified(owner: np.ndarray, labels: np.ndarray, held: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bool `[n]`: of each client `held` examples, each label as near to its share as whole numbers allow."""
    num_labels = int(labels.max(initial=0)) + 1
    pairs, of_row, counts = np.unique(owner * num_labels + labels, return_inverse=True, return_counts=True)
    of_row, client = of_row.reshape(-1), pairs // num_labels
    sizes = np.bincount(owner, minlength=len(held))
    share = held[client] * counts
    take, rest = np.divmod(share, np.maximum(sizes[client], 1))
    # What is left over goes to the largest remainders; of equal ones to the more frequent label, so that a label that a
    # client has once stays in training; of those too, to chance.
    order = np.lexsort((rng.random(len(pairs)), -counts, -rest, client))
    left = held - np.bincount(client, weights=take, minlength=len(held)).astype(np.int64)
    take[order] += _place_among(client[order]) < left[client[order]]
    rows = np.lexsort((rng.random(len(owner)), of_row))
    chosen = np.empty(len(owner), bool)
    chosen[rows] = _place_among(of_row[rows]) < take[of_row[rows]]
    return chosen


def grouped(pieces: Pieces, held: np.ndarray, rng: np.random.Generator, *, last: bool = False) -> np.ndarray:
    """Bool `[P]`: which pieces are held out, so that each client comes near to `held` examples and to labels' shares.

    Args:
      pieces: the groups.
      held: int64 `[N]`, how many examples are wanted of each client.
      rng: for the order in which a client's groups are gone through.
      last: take a client's last groups, and none before a group that is not taken.
    """
    num_clients = len(held)
    totals = np.zeros((num_clients, pieces.counts.shape[1]))
    np.add.at(totals, pieces.owner, pieces.counts)
    wanted = totals * (held / np.maximum(totals.sum(axis=1), 1))[:, None]
    tries = 1 if last or pieces.counts.shape[1] == 1 else _TRIES
    best, least = np.zeros(len(pieces.owner), bool), np.full(num_clients, np.inf)
    for _ in range(tries):
        order = np.lexsort((-pieces.first if last else rng.random(len(pieces.owner)), pieces.owner))
        chosen = _gone_through(pieces, order, wanted, stop=last)
        far = _distance(pieces, chosen, wanted)
        better = far < least
        best = np.where(better[pieces.owner], chosen, best)
        least = np.minimum(least, far)
    return best


def _gone_through(pieces: Pieces, order: np.ndarray, wanted: np.ndarray, *, stop: bool) -> np.ndarray:
    """Takes each piece that brings its client nearer to what is wanted; at least one, and not all, of two or more."""
    num_pieces = np.bincount(pieces.owner, minlength=len(wanted))
    chosen = np.zeros(len(order), bool)
    has, going = np.zeros_like(wanted), np.ones(len(wanted), bool)
    place = _place_among(pieces.owner[order])
    by_place = np.argsort(place, kind="stable")
    starts = np.r_[0, np.cumsum(np.bincount(place))]
    for begin, end in itertools.pairwise(starts):
        piece = order[by_place[begin:end]]
        client, own = pieces.owner[piece], pieces.counts[piece]
        # |has + own - wanted|^2 <= |has - wanted|^2, without the squares that cancel
        nearer = (own * (2 * (has[client] - wanted[client]) + own)).sum(axis=1) <= 0
        taken = nearer & going[client] & (num_pieces[client] > 1)
        if stop:
            going[client] &= nearer
        chosen[piece] = taken
        has[client] += own * taken[:, None]
    return _some_and_not_all(pieces, order, chosen, wanted, num_pieces)


def _some_and_not_all(
    pieces: Pieces, order: np.ndarray, chosen: np.ndarray, wanted: np.ndarray, num_pieces: np.ndarray
) -> np.ndarray:
    """The first piece in the order for clients of two or more that have none; the last one back where all are taken."""
    taken = np.bincount(pieces.owner, weights=chosen, minlength=len(wanted))
    owners = pieces.owner[order]
    first = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
    last = np.r_[first[1:], len(order)] - 1
    for places, where, value in ((first, taken == 0, True), (last, taken == num_pieces, False)):
        clients = owners[places]
        chosen[order[places[where[clients] & (num_pieces[clients] > 1)]]] = value
    return chosen


def _distance(pieces: Pieces, chosen: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    has = np.zeros_like(wanted)
    np.add.at(has, pieces.owner[chosen], pieces.counts[chosen])
    return ((has - wanted) ** 2).sum(axis=1)


def _place_among(keys: np.ndarray) -> np.ndarray:
    """Of ascending keys, how many of the same key come before each."""
    if not len(keys):
        return np.zeros(0, np.int64)
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return np.arange(len(keys)) - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))


def dealt(owner: np.ndarray, labels: np.ndarray | None, k: int, rng: np.random.Generator) -> np.ndarray:
    """int64 `[n]`: a fold for each example; a client's folds differ by one at most, and so do those of each label."""
    codes = np.zeros(len(owner), np.int64) if labels is None else labels
    order = np.lexsort((rng.random(len(owner)), codes, owner))
    fold = np.empty(len(owner), np.int64)
    starts = rng.integers(k, size=int(owner.max(initial=-1)) + 1)  # small clients are not all tested in fold 0
    fold[order] = (_place_among(owner[order]) + starts[owner[order]]) % k
    return fold


def dealt_groups(pieces: Pieces, num_clients: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """int64 `[P]`: a fold for each piece, the largest first, each to the fold that has least of what it holds."""
    num_labels = pieces.counts.shape[1]
    weight = np.zeros((num_clients, num_labels))
    np.add.at(weight, pieces.owner, pieces.counts)
    weight = 1 / np.maximum(weight, 1)  # a rare label counts as much as a frequent one
    has, sizes = np.zeros((num_clients, k, num_labels)), np.zeros((num_clients, k))
    size = pieces.counts.sum(axis=1)
    order = np.lexsort((rng.random(len(size)), -size, pieces.owner))
    place = _place_among(pieces.owner[order])
    by_place = np.argsort(place, kind="stable")
    starts = np.r_[0, np.cumsum(np.bincount(place))]
    fold, turn = np.empty(len(size), np.int64), rng.random((num_clients, k))
    for begin, end in itertools.pairwise(starts):
        piece = order[by_place[begin:end]]
        client, own = pieces.owner[piece], pieces.counts[piece]
        held = np.einsum("ckl,cl->ck", has[client], own * weight[client])
        fold[piece] = np.lexsort((turn[client], sizes[client], held), axis=1)[:, 0]
        has[client, fold[piece]] += own
        sizes[client, fold[piece]] += size[piece]
    return fold
