"""Centered clipping: every message is clipped around the last result."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.products import TINY, norms
from fedjaxlite.wire.rows import Rows, weighted_sum
from fedjaxlite.wire.stacking import rule

PyTree = Any


def centered_clipping(clip_norm: Any, *, steps: int = 1) -> Aggregator:
    """The mean of messages whose distance to the last round's result is clipped, by weight.

    With the center v, which is the last result and zero at first, `steps` times:

        v  <-  v + sum of p_k (v_k - v) min(1, clip_norm / |v_k - v|)

    Args:
      clip_norm: tau, the largest distance that counts, in units of an update; a number above 0, infinity for the mean,
        or a tracer.
      steps: how often it is done in a round.

    Returns:
      an Aggregator that ends a chain. Memory: K messages, and one model: the center, which is kept across rounds and
      in checkpoints.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Guarantees:
      One client moves the result by at most p_k * clip_norm in a step, wherever it is. With an infinite clip norm, the
      mean. Equivariant to permutations and orthogonal maps from the first round on; to translations, and to scaling
      with the clip norm scaled too, where the center is moved as well.

    Source: Karimireddy, He, Jaggi (2021), "Learning from History for Byzantine Robust Optimization",
    https://arxiv.org/abs/2012.10333, algorithm 2. Its clients send momentum and not gradients: what it proves against
    attacks that hide in the variance needs that, and an optimizer of local steps starts anew in every round.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.robust.apply(centered_clipping(1.0), jnp.float32([[0.5, 0], [0, 1], [3, 0], [0, -8]])).tolist()
      [0.375, 0.0]
    """
    clip_norm = checks.nonnegative("Infinity switches clipping off.", clip_norm=clip_norm)
    if not checks.is_traced(clip_norm) and float(clip_norm) == 0:
        raise ValueError("`clip_norm` is 0; expected a number above 0: at 0 the center would never move.")
    steps = checks.positive_int(steps=steps)

    def fn(center: PyTree, rows: Rows, key: Any) -> tuple[PyTree, PyTree]:
        del key
        shares = rows.weights / jnp.maximum(rows.weights.sum(), TINY)
        at = rows.shares.mine(center)
        for _ in range(steps):
            at = _step(at, rows, shares, jnp.asarray(clip_norm, jnp.float32))
        return at, rows.shares.whole(at)

    hparams = {"clip_norm": clip_norm, "steps": steps}
    return rule(fn, name="centered_clipping", hparams=hparams, init=lambda update: update, weighted=True)


def _step(center: PyTree, rows: Rows, shares: jax.Array, clip_norm: jax.Array) -> PyTree:
    """The center and the mean of what is clipped around it, as one weighted sum: no difference is kept."""
    far = jnp.maximum(norms(rows.values, rows.shares, center), TINY)
    counts = shares * jnp.minimum(1.0, clip_norm / far)
    stays = 1.0 - counts.sum()
    return jax.tree.map(lambda own, v: stays * own + v, center, weighted_sum(counts, rows.values))
