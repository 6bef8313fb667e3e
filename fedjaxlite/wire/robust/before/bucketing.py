"""Bucketing: means of a few messages each, taken at random, in the place of messages."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Wire
from fedjaxlite.wire.rows import Rows, weighted_sum
from fedjaxlite.wire.stacking import restack

PyTree = Any


def bucketing(*, size: int) -> Aggregator:
    """Puts messages into buckets of `size` at random, anew in every round, and hands on the mean of each bucket.

    A rule behind it sees n / `size` rows, rounded up, of which the last may be the mean of fewer. Its own `f` stays the
    same: every bad client spoils one bucket. It has to be defined for so many rows with `f` bad ones: a chain in which
    it is not is refused, and a round in which too few clients report for that is skipped and counted.

    Args:
      size: how many messages make a bucket, an int of at least 1. The paper takes floor(n / (2f)).

    Returns:
      an Aggregator that stands before a rule. Memory: K messages and K / `size` more. Within a bucket messages count by
      their weights, and the bucket weighs as much as they do together. Buckets are no clients: ids become -1. A bucket
      is as old as the oldest in it.

    Raises:
      TypeError, ValueError: if `size` is no int of at least 1.

    Guarantees:
      The weighted mean of all is unchanged. With `size` 1 only the order changes. Who shares a bucket with whom is
      chance, from the run's key and the round.

    Source: Karimireddy, He and Jaggi (2022), Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing,
    https://arxiv.org/abs/2006.09365, algorithm 1.

    Example:
      >>> import fedjaxlite as fl
      >>> messages = jnp.float32([[1], [2], [3], [6]])
      >>> fl.robust.apply([fl.robust.bucketing(size=2), fl.robust.mean()], messages).tolist()
      [3.0]
    """
    size = checks.positive_int(size=size)

    def fill(state: PyTree, rows: Rows, key: Any) -> tuple[Rows, PyTree]:
        num = len(rows.present)
        chance = jnp.where(rows.present, jax.random.permutation(key, num), num)
        bucket = jnp.argsort(jnp.argsort(chance)) // size
        buckets = jnp.arange(-(-num // size))
        inside = (buckets[:, None] == bucket[None]) & rows.present[None]
        weights = jnp.where(inside, rows.weights[None], 0.0)
        total = weights.sum(1)
        share = weights / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)[:, None]
        return rows._replace(
            values=weighted_sum(share, rows.values),
            weights=total,
            present=inside.any(1),
            ids=jnp.full(buckets.shape, -1, jnp.int32),
            ages=None if rows.ages is None else jnp.where(inside, rows.ages[None], 0).max(1),
        ), state

    made = restack(fill, name="bucketing", hparams={"size": size})

    def begin_run(wire: Wire) -> tuple[Any, Wire]:
        state, wire = made.init(wire)
        return state, wire._replace(capacity=-(-wire.capacity // size))  # what the rule behind it will see

    return made._replace(init=begin_run)
