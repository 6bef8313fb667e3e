"""Gradients of single examples: drawn at random, clipped one by one, and summed."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import fedjaxlite as fl
from fedjaxlite.privacy.central import clipping

PyTree = Any
Batch = tuple[dict[str, jax.Array], jax.Array]


def poisson_batches(
    data: fl.ClientData, rate: float, max_overflow: float, batch_size: float | None = None
) -> Callable[[jax.Array], Batch]:
    """Batches that hold each of a client's examples with the same chance, independently of all others.

    Args:
      data: the client's view.
      rate: q in [2^-32, 1], used to the multiple of 2^-32 below.
      max_overflow: the chance that more examples are drawn than there is room for, with which room is made: in as many
        slots as the population's largest client needs. The last ones in the stored order are then left out.
      batch_size: m, the most examples to expect in a batch: a client with n of them, where q n is more, draws with
        chance m / n (a millionth less, for rounding). None for no limit.

    Returns:
      `draw(key) -> (batch, mask)`: a dict of `[slots, ...]`, and bool `[slots]`. Slots beyond the drawn ones repeat the
      client's first row and are masked.
    """
    largest = data.wave.max_size
    # A batch of the largest client is the longest: at one mean, the more examples may be drawn, the heavier the tail.
    top = rate if batch_size is None else min(rate, batch_size / max(largest, 1))
    # One of two neighbors has an example more than the other.
    slots = min(largest, fl.sampling.poisson_capacity(largest + 1, top, max_overflow))
    below, always = jnp.uint32(min(int(rate * 2**32), 2**32 - 1)), jnp.bool_(rate == 1)
    if batch_size is not None:
        share = jnp.float32(batch_size) / jnp.maximum(data.num_examples, 1).astype(jnp.float32)
        limited = share * (1 - 1e-6) < rate
        words = (jnp.minimum(share, 1.0) * jnp.float32((1 - 1e-6) * 2**32)).astype(jnp.uint32)
        below, always = jnp.where(limited, words, below), always & ~limited

    def draw(key: jax.Array) -> Batch:
        bits = jax.random.bits(key, (largest,), jnp.uint32)
        drawn = ((bits < below) | always) & (jnp.arange(largest, dtype=jnp.int32) < data.num_examples)
        (place,) = jnp.nonzero(drawn, size=slots, fill_value=0)
        mask = jnp.arange(slots, dtype=jnp.int32) < jnp.sum(drawn, dtype=jnp.int32)
        rows = data.offset + place.astype(jnp.int32)
        batch = {name: leaf.at[rows].get(mode="clip") for name, leaf in data.features.items()}
        # The rows of a client without examples are another's: nothing of them may be computed with.
        some = data.num_examples > 0
        return jax.tree.map(lambda leaf: jnp.where(some, leaf, jnp.zeros_like(leaf)), batch), mask

    return draw


def clipped_sum(
    gradient: Callable[..., tuple[fl.BatchLoss, PyTree]],
    params: PyTree,
    batch: Mapping[str, Any],
    mask: jax.Array,
    key: jax.Array,
    *,
    clip_norm: Any,
    chunk_size: int | None = None,
) -> tuple[PyTree, dict[str, jax.Array]]:
    """The sum of a batch's gradients, each clipped by itself.

    Args:
      gradient: of `fl.value_and_grad`.
      params: the model.
      batch: dict of `[B, ...]`.
      mask: bool `[B]`, True for real examples.
      key: for the loss (dropout); each row gets its own.
      clip_norm: C, a number, a tracer, or a tree prefix of the gradient.
      chunk_size: rows whose gradients are in memory together; None for all.

    Returns:
      the sum, in float32 at least, in which each example counts for at most C in L2 (nothing where its gradient is not
      finite); and sums of "loss", "weight" and the loss's metrics over real examples.

    Raises:
      ValueError: for losses that give a state, when traced.
    """
    clipping.check_prefix("dp_sgd", clip_norm, fl.trainable(params))

    def one(row: Mapping[str, Any], real: jax.Array, index: jax.Array) -> tuple[PyTree, dict[str, jax.Array]]:
        single = real[None]
        alone = {name: leaf[None] for name, leaf in row.items()}
        reduced, grad = gradient(params, {**alone, "mask": single}, single, jax.random.fold_in(key, index))
        if reduced.state is not None:
            raise ValueError(
                "the loss gives a state (`LossAux.state`), which depends on examples and is sent without noise. Use a "
                "model without one, such as GroupNorm for BatchNorm."
            )
        clipped = jax.tree.map(lambda leaf: jnp.where(real, leaf, 0.0), clipping.clip(grad, clip_norm).value)
        keep = lambda value: jnp.where(real, value * reduced.weight, 0.0)  # noqa: E731
        sums = {name: keep(value) for name, value in {"loss": reduced.loss, **reduced.metrics}.items()}
        return clipped, {**sums, "weight": jnp.where(real, reduced.weight, 0.0)}

    def chunk(rows: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), jax.vmap(one)(*rows))

    size = mask.shape[0]
    rows = (dict(batch), mask, jnp.arange(size, dtype=jnp.int32))
    if chunk_size is None or chunk_size >= size:
        return chunk(rows)
    count = -(-size // chunk_size)

    def chunked(leaf: jax.Array) -> jax.Array:
        # Spare rows repeat the first ones; they are masked.
        leaf = jnp.concatenate([leaf, leaf[: count * chunk_size - size]])
        return leaf.reshape((count, chunk_size, *leaf.shape[1:]))

    features, masks, indices = jax.tree.map(chunked, rows)
    masks = masks & (jnp.arange(count * chunk_size).reshape(count, chunk_size) < size)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(chunk, rows))
    step = lambda sums, part: (jax.tree.map(jnp.add, sums, chunk(part)), None)  # noqa: E731
    return jax.lax.scan(step, zeros, (features, masks, indices))[0]
