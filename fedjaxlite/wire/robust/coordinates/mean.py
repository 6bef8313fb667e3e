"""The mean as a rule: what the others are compared with, under attacks that need every message apart."""

from typing import Any

import jax.numpy as jnp

from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.rows import Rows, weighted_sum
from fedjaxlite.wire.stacking import rule

PyTree = Any


def mean() -> Aggregator:
    """The weighted mean of all messages, which one bad client can move anywhere.

    It is what a chain without a rule computes, from all messages side by side: what other rules are compared with, and
    what ends a chain in which something needs every message apart.

    Returns:
      an Aggregator that ends a chain. Memory: K messages.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.robust.apply(fl.robust.mean(), jnp.float32([[1, 2], [3, 6]])).tolist()
      [2.0, 4.0]
    """
    return rule(_mean, name="robust_mean", weighted=True)


def _mean(state: PyTree, rows: Rows, key: Any) -> tuple[PyTree, PyTree]:
    del key
    share = rows.weights / jnp.maximum(rows.weights.sum(), jnp.finfo(jnp.float32).tiny)
    return weighted_sum(share, rows.values), state
