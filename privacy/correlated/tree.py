"""Binary trees of partial sums: how much noise they leave, and how much one client can change them.

    rounds      0   1   2   3   4   5        a node holds the noisy sum of the rounds below it
    height 0    o   o   o   o   o   o        and is complete once the last of them is done
    height 1    +---+   +---+   +---+
    height 2    +-----------+                sum of rounds 0..4 = node(0..3) + node(4)

A prefix sum is the sum of a few complete nodes ("naive"), or of better estimates of them that use all nodes below
("honaker"). Restarts begin a new tree after so many rounds; the last round of a tree also opens its root, with the
rounds that are missing counted as empty, so that what is carried into the next tree has little noise.

Everything here is NumPy on the host, and in units of one node's noise and one client's clipped contribution.
`noise_streams.py` draws the noise.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

import fedjaxlite as fl

ESTIMATORS = ("honaker", "naive")

FINE = 256
"""Separations of twice this and more are counted in blocks of rounds."""


def cumulative_variances(
    num_rounds: int, *, restart_every: int | None = None, estimator: str = "honaker"
) -> np.ndarray:
    """The variance of the noise that a model carries after each round, under a server that sums with rate 1.

    Args:
      num_rounds: T.
      restart_every: rounds of a tree; None for one tree.
      estimator: "naive": a node's noise has variance 1, so the sum of the nodes of t rounds has popcount(t).
        "honaker": 2^h / (2^(h+1) - 1) for a node of height h.

    Returns:
      float64 `[T]`, in units of one node's variance; entry t - 1 is after t rounds. The trees before the present one
      add the variance of their roots.

    Raises:
      TypeError, ValueError: no ints of at least 1, or an unknown estimator.

    Source: Kairouz, McMahan, Song, Thakkar, Thakurta, Xu (2021), https://arxiv.org/abs/2103.00039, section 3 and
      appendix D; Honaker (2015), "Efficient use of differentially private binary trees", section 3.2.

    Example:
      >>> cumulative_variances(8, estimator="naive").tolist()
      [1.0, 1.0, 2.0, 1.0, 2.0, 2.0, 3.0, 1.0]
      >>> cumulative_variances(4).round(4).tolist()
      [1.0, 0.6667, 1.6667, 0.5714]
    """
    num_rounds, restart_every = _checked(num_rounds, restart_every)
    estimator = fl.checks.one_of(ESTIMATORS, estimator=estimator)
    size = num_rounds if restart_every is None else min(restart_every, num_rounds)
    one_tree = [_after(rounds, estimator) for rounds in range(1, size + 1)]
    if restart_every is not None and size == restart_every:
        one_tree[-1] = _completed(size, estimator)
    trees = -(-num_rounds // size)
    carried = one_tree[-1] * np.arange(trees)[:, None]
    return (carried + np.array(one_tree)).ravel()[:num_rounds]


def _node_variance(height: int, estimator: str) -> float:
    return 1.0 if estimator == "naive" else 1.0 / (2.0 - 0.5**height)


def _after(rounds: int, estimator: str) -> float:
    heights = (height for height in range(rounds.bit_length()) if rounds >> height & 1)
    return sum(_node_variance(height, estimator) for height in heights)


def _completed(rounds: int, estimator: str) -> float:
    """The variance of the root over so many rounds and empty ones up to a power of 2."""
    if estimator == "naive":
        return 1.0
    last, variance = rounds - 1, 1.0
    for height in range(last.bit_length()):
        # The node beside the last one is complete, or holds rounds that never come.
        below = variance + (_node_variance(height, estimator) if last >> height & 1 else 0.0)
        variance = below / (1.0 + below)
    return variance


def squared_sensitivity(
    max_participations: int, min_separation: int, num_rounds: int, *, restart_every: int | None = None
) -> float:
    """How much one client can change all nodes together: the largest squared L2 norm over what it may take part in.

    A client that takes part in c of the rounds below a node changes that node by at most c; the square of that is
    summed over nodes and made as large as the client's participation allows, by dynamic programming over the tree.
    With restarts this covers all trees together: their noises are independent.

    Args:
      max_participations: k, the most rounds of one client.
      min_separation: b, two of its rounds are at least this far apart; 1 promises nothing.
      num_rounds: T.
      restart_every: rounds of a tree; None for one tree.

    Returns:
      the squared sensitivity for contributions of norm 1. The tree is one Gaussian mechanism whose noise multiplier
      is a node's noise over the root of this. It is exact for "honaker", where every complete node is used. "naive"
      uses only those that are no right half: for one participation that makes no difference, for more it can mean
      less than this. Separations of 512 and more are rounded down, by less than one in 256, so that this takes seconds
      at most; that can only make it larger.

    Raises:
      TypeError, ValueError: no ints of at least 1.

    Source: Kairouz et al. (2021), https://arxiv.org/abs/2103.00039, appendix D.2 (NoTreeRestart and TreeRestart).

    Example:
      >>> squared_sensitivity(1, 1, 1600), squared_sensitivity(2, 400, 800), squared_sensitivity(8, 1, 8)
      (11.0, 22.0, 120.0)
    """
    max_participations, min_separation = fl.checks.positive_int(
        max_participations=max_participations, min_separation=min_separation
    )
    num_rounds, restart_every = _checked(num_rounds, restart_every)
    at_most = min(max_participations, -(-num_rounds // min_separation))
    gap = min(min_separation, num_rounds)
    unit = _unit(gap, restart_every)
    gap, roots, so_far = gap >> unit, _roots(num_rounds, restart_every, unit), None
    for i, (height, size) in enumerate(roots):
        lasts = 1 if i == len(roots) - 1 else gap
        most = min(at_most, -(-size // gap))
        root = _Stretch(size, _node(height, size, gap, most, unit, (1 if so_far is None else gap, lasts)))
        so_far = root if so_far is None else _join(so_far, root, gap, at_most, (1, lasts))
    return 0.0 if so_far is None else float(so_far.table[:, 0, 0].max())


def _unit(gap: int, restart_every: int | None) -> int:
    """The exponent u for which rounds are looked at in blocks of 2^u.

    Two rounds that are `gap` apart are in blocks that are gap / 2^u apart, rounded down; a block has one of them at
    most, and all nodes of less than its size hold no more than that. Blocks must not cross from one tree to the next.
    """
    unit = 0
    while gap >> (unit + 1) >= FINE and (restart_every is None or restart_every % 2 ** (unit + 1) == 0):
        unit += 1
    return unit


def _roots(num_rounds: int, restart_every: int | None, unit: int) -> list[tuple[int, int]]:
    """The largest nodes after so many rounds, as heights and sizes in blocks.

    Only a completed root has fewer rounds than 2^height. What is left of less than a block counts as one, with its
    largest node.
    """
    full = 0 if restart_every is None else num_rounds // restart_every
    roots = [((restart_every - 1).bit_length(), restart_every >> unit)] * full if restart_every else []
    rest = num_rounds - full * (restart_every or 0)
    heights = [height for height in reversed(range(rest.bit_length())) if rest >> height & 1]
    roots += [(height, 2 ** (height - unit)) for height in heights if height >= unit]
    return roots + [(height, 1) for height in heights if height < unit][:1]


class _Stretch(NamedTuple):
    """How much a client can change a stretch of blocks of rounds.

    Attributes:
      size: blocks.
      table: `table[c - 1, a, z]` is the largest sum of squares over the nodes of the stretch with exactly c
        participations, none of them in the first a or the last z blocks. It holds a and z from 0 to gap - 1 at most: a
        participation further in is no constraint on the blocks beside the stretch.
    """

    size: int
    table: np.ndarray


@lru_cache(maxsize=256)
def _node(height: int, size: int, gap: int, most: int, unit: int, offsets: tuple[int, int]) -> np.ndarray:
    """The table of a node and all below it, over `size` blocks, for a and z below the two `offsets`."""
    if size <= gap:  # one participation, in one node of every height
        first, last = np.ogrid[: min(offsets[0], size), : min(offsets[1], size)]
        return np.where(first + last < size, height + 1.0, -np.inf)[None]
    left = min(size, 2 ** (height - 1 - unit))
    if left == size:
        table = _node(height - 1, size, gap, most, unit, offsets)
    else:
        first, second = (
            _Stretch(blocks, _node(height - 1, blocks, gap, min(most, -(-blocks // gap)), unit, ends))
            for blocks, ends in ((left, (offsets[0], gap)), (size - left, (gap, offsets[1])))
        )
        table = _join(first, second, gap, most, offsets).table
    return table + np.square(np.arange(1.0, len(table) + 1))[:, None, None]


def _join(left: _Stretch, right: _Stretch, gap: int, most: int, offsets: tuple[int, int]) -> _Stretch:
    """Two stretches, one after the other: the last block of the left is `gap` before the first of the right."""
    size = left.size + right.size
    firsts, lasts = (np.arange(min(size, offset)) for offset in offsets)
    table = np.full((min(most, -(-size // gap)), len(firsts), len(lasts)), -np.inf)
    table[: len(left.table)] = _at(left.table, firsts, np.maximum(lasts - right.size, 0))
    only_right = _at(right.table, np.maximum(firsts - left.size, 0), lasts)
    table[: len(right.table)] = np.maximum(table[: len(right.table)], only_right)
    rows, columns = left.table.shape[1], right.table.shape[2]
    for count, of_left in enumerate(left.table, start=1):
        of_right = right.table[: len(table) - count]
        both = table[count : count + len(of_right), :rows, :columns]
        for free in range(max(0, gap - right.size), min(gap, left.size)):
            found = of_left[None, :, free, None] + of_right[:, gap - 1 - free, None, :]
            np.maximum(both, found, out=both)
    return _Stretch(size, table)


def _at(table: np.ndarray, firsts: np.ndarray, lasts: np.ndarray) -> np.ndarray:
    """Entries of a table; where an offset covers the whole stretch nobody can take part."""
    _, rows, columns = table.shape
    found = table[:, np.minimum(firsts, rows - 1)[:, None], np.minimum(lasts, columns - 1)[None, :]]
    inside = (firsts < rows)[:, None] & (lasts < columns)[None, :]
    return np.where(inside[None], found, -np.inf)


def _checked(num_rounds: int, restart_every: int | None) -> tuple[int, int | None]:
    num_rounds = fl.checks.positive_int(num_rounds=num_rounds)
    if restart_every is not None:
        restart_every = fl.checks.positive_int(restart_every=restart_every)
    return num_rounds, restart_every
