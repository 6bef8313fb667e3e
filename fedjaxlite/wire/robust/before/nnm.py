"""Nearest-neighbor mixing: every message becomes the mean of those nearest to it."""

from typing import Any

import jax.numpy as jnp

from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.distances.pairwise import equal_shares, num_bad, ranks, squared_distances
from fedjaxlite.wire.rows import Rows, weighted_sum
from fedjaxlite.wire.stacking import restack

PyTree = Any


def nnm(*, f: Any) -> Aggregator:
    """Puts the mean of the n - f messages nearest to it, itself included, in the place of every message.

    Messages of clients with different data lie far apart, and a rule behind it then sees less of that.

    Args:
      f: how many clients may be bad, an int of at least 0 or a tracer; 2f + 1 clients have to report.

    Returns:
      an Aggregator that stands before a rule, for as many clients. Memory: 2 K messages. All count as one while they
      are mixed; weights stay what they were.

    Raises:
      TypeError, ValueError: if `f` is no int of at least 0; when built, for fewer clients than 2f + 1.

    Guarantees:
      In front of a (f, kappa)-robust rule it makes a (f, 8 f / (n - f) (kappa + 1))-robust one. f = 0 makes every
      message the mean. It follows shifts, scales, rotations and any order of clients; of messages equally far away
      the first in the cohort are taken.

    Source: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot and Stephan (2023), Fixing by Mixing: A Recipe for Optimal
    Byzantine ML under Heterogeneity, https://arxiv.org/abs/2302.01772, algorithm 2, lemma 1.

    Example:
      >>> import fedjaxlite as fl
      >>> messages = jnp.float32([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
      >>> fl.robust.apply([fl.robust.nnm(f=1), fl.robust.krum(f=1, neighbors="byzfl")], messages).tolist()
      [2.5, 3.5, 4.5]
    """
    f = num_bad(f)

    def mix(state: PyTree, rows: Rows, key: Any) -> tuple[Rows, PyTree]:
        del key
        enough = rows.present.sum() >= 2 * f + 1
        itself = jnp.eye(len(rows.present), dtype=jnp.bool_)
        square = jnp.where(itself, -1.0, squared_distances(rows))  # first, also among equal ones
        near = (ranks(square, rows.present) < rows.present.sum() - f) & rows.present[None]
        share = jnp.where(enough, equal_shares(near), itself.astype(jnp.float32))
        return rows._replace(values=weighted_sum(jnp.where(rows.present[:, None], share, 0.0), rows.values)), state

    return restack(mix, name="nnm", hparams={"f": f}, minimum=2 * f + 1)
