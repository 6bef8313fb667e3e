"""Krum and Multi-Krum: the messages with the nearest neighbors."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.distances.pairwise import equal_shares, num_bad, ranks, squared_distances
from fedjaxlite.wire.rows import Rows, weighted_sum
from fedjaxlite.wire.stacking import rule

PyTree = Any

NEIGHBORS = ("blanchard", "byzfl")
"""Of n messages, each is held against the n - f - 2 nearest others, or against the n - f - 1 nearest others."""


def krum(*, f: Any, neighbors: str = "blanchard") -> Aggregator:
    """The one message whose nearest neighbors are nearest: least sum of their squared distances to it.

    Args:
      f: how many clients may be bad, an int of at least 0 or a tracer.
      neighbors: "blanchard" sums over the n - f - 2 nearest others, as the paper of Krum does, and needs 2f + 3
        clients. "byzfl" sums over the n - f nearest messages of which a message is one itself, that is, over
        n - f - 1 others, as ByzFL and Allouah et al. do, and needs 2f + 1.

    Returns:
      an Aggregator that ends a chain. Memory: K messages.

    Raises:
      TypeError, ValueError: for arguments that do not fit; when built, for fewer clients than it needs, or weights.

    Guarantees:
      The value is one of the messages. With n clients of which f are bad it is (f, kappa)-robust: "byzfl" with
      6 (1 + f / (n - 2f)), "blanchard" with (6 - 4 / (n - f - 1)) (n - f) / (n - 2f - 1) by the same proof. It follows
      shifts, scales, rotations and any order of clients; of messages with equal sums the first in the cohort is taken.
      f = 0 is not the mean.

    Source: Blanchard, El Mhamdi, Guerraoui and Stainer (2017), Machine Learning with Adversaries: Byzantine Tolerant
    Gradient Descent, https://arxiv.org/abs/1703.02757, section 4; kappa of "byzfl" is from Allouah et al. (2023),
    Fixing by Mixing, https://arxiv.org/abs/2302.01772, table 1.

    Example:
      >>> import fedjaxlite as fl
      >>> messages = jnp.float32([[1, 2], [1, 3], [2, 2], [1, 2], [90, -90]])
      >>> fl.robust.apply(fl.robust.krum(f=1), messages).tolist()
      [1.0, 2.0]
    """
    f, neighbors = num_bad(f), checks.one_of(NEIGHBORS, neighbors=neighbors)

    def nearest(state: PyTree, rows: Rows, key: Any) -> tuple[PyTree, PyTree]:
        del key
        best = ranks(krum_scores(squared_distances(rows), rows.present, f, neighbors), rows.present) == 0
        return weighted_sum(best.astype(jnp.float32), rows.values), state

    hparams = {"f": f, "neighbors": neighbors}
    return rule(nearest, name="krum", hparams=hparams, minimum=_fewest(f, neighbors))


def multi_krum(*, f: Any, m: Any = None, neighbors: str = "blanchard") -> Aggregator:
    """The mean of the `m` messages whose nearest neighbors are nearest, by Krum's sums.

    Args:
      f: how many clients may be bad, an int of at least 0 or a tracer.
      m: how many messages make the mean, an int from 1 to n - f or a tracer; None is n - f, as in ByzFL. The authors'
        later code takes n - f - 2.
      neighbors: as in `krum`.

    Returns:
      an Aggregator that ends a chain. Memory: K messages.

    Raises:
      TypeError, ValueError: for arguments that do not fit; when built, for fewer clients than it needs, or weights.

    Guarantees:
      With at most n - f messages it is (f, kappa)-robust with Krum's kappa: the mean of the `m` least sums is at most
      that over the honest ones, and the rest of the proof is Krum's. f = 0 is the mean. It follows shifts, scales,
      rotations and any order of clients; of messages with equal sums the first in the cohort are taken.

    Source: Blanchard et al. (2017), https://arxiv.org/abs/1703.02757, section 5 ("Multi-Krum").

    Example:
      >>> import fedjaxlite as fl
      >>> messages = jnp.float32([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
      >>> fl.robust.apply(fl.robust.multi_krum(f=1, neighbors="byzfl"), messages).tolist()
      [2.5, 3.5, 4.5]
    """
    f, neighbors = num_bad(f), checks.one_of(NEIGHBORS, neighbors=neighbors)
    m = None if m is None else checks.trip_count(m=m)

    def nearest(state: PyTree, rows: Rows, key: Any) -> tuple[PyTree, PyTree]:
        del key
        scores = krum_scores(squared_distances(rows), rows.present, f, neighbors)
        many = rows.present.sum() - f if m is None else m
        chosen = (ranks(scores, rows.present) < many) & rows.present
        return weighted_sum(equal_shares(chosen), rows.values), state

    fewest = _fewest(f, neighbors)
    if m is not None:  # with more than n - f of them a bad one would always be taken
        fewest = jnp.maximum(fewest, m + f) if checks.is_traced((fewest, m)) else max(fewest, m + f)
    hparams = {"f": f, "m": m, "neighbors": neighbors}
    return rule(nearest, name="multi_krum", hparams=hparams, minimum=fewest)


def krum_scores(square: jax.Array, counts: jax.Array, f: Any, neighbors: str) -> jax.Array:
    """Sums of squared distances to the nearest others.

    Args:
      square: float32 `[K, K]`, infinite where one of the two does not count.
      counts: bool `[K]`, who does: n of them.
      f: how many of them may be bad.
      neighbors: of `NEIGHBORS`.

    Returns:
      float32 `[K]`, infinite for those who do not count.
    """
    others = jnp.sort(jnp.where(jnp.eye(len(counts), dtype=jnp.bool_), jnp.inf, square), axis=1)
    many = counts.sum() - f - (2 if neighbors == "blanchard" else 1)
    near = jnp.arange(len(counts)) < many
    return jnp.where(counts, jnp.where(near[None], others, 0.0).sum(1), jnp.inf)


def _fewest(f: Any, neighbors: str) -> Any:
    return 2 * f + (3 if neighbors == "blanchard" else 1)
