"""Signs with one scale: the compressor of error-feedback signSGD.

    C(v) = |v|_1 / d sgn(v),   |v - C(v)|_2^2 = |v|_2^2 - |v|_1^2 / d

It is biased: entries of every size become the same. It contracts, so error feedback makes up for it. Signs that
survive a sum are in `votes.py`.

Source: Karimireddy, Rebjock, Stich, Jaggi (2019), "Error Feedback Fixes SignSGD and other Gradient Compression
Schemes", https://arxiv.org/abs/1901.09847, algorithm 1 and lemma 8.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.wire.aggregator import Aggregator, Bounds
from fedjaxlite.wire.compression.entries.leaf_by_leaf import VectorCode, leaf_by_leaf, one_float

BITS = 1


def sign() -> Aggregator:
    """Sends the sign of each entry, and of each leaf its mean absolute value: what stands for every entry.

    Returns:
      an Aggregator: one bit an entry, four bytes a leaf. Biased; put error feedback around it. Messages are decoded one
      by one, since each has its own scales.

    Raises:
      ValueError: when built, if values are no floats.

    Guarantees:
      No randomness. The squared error of a leaf is |v|_2^2 - |v|_1^2 / d exactly, whatever zeros are sent as: here they
      count as positive. No norm of the update grows: L1 stays what it is, L2 and the largest entry become smaller.

    Source: Karimireddy et al. (2019), https://arxiv.org/abs/1901.09847, algorithm 1.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.chain(fl.mean(), sign()).init(fl.wire_of(jnp.zeros(1000), capacity=1))[1].value.shape
      (125,)
    """
    return leaf_by_leaf("sign", VectorCode(BITS, _encode, _decode, one_float, _widen), {})


def _encode(vector: jax.Array, key: Any) -> tuple[jax.Array, Any]:
    del key
    entries = max(vector.size, 1)
    # Divided before it is summed: a mean is representable where the sum may not be.
    share = jnp.float32(1.0 / entries)
    return (vector >= 0).astype(jnp.uint32), jnp.sum(jnp.abs(vector) * share)


def _decode(codes: jax.Array, scale: Any) -> jax.Array:
    # Of the very largest numbers, rounding can make the mean infinite.
    return (codes.astype(jnp.float32) * 2.0 - 1.0) * jnp.minimum(scale, jnp.finfo(jnp.float32).max)


def _widen(bounds: Bounds, sizes: tuple[int, ...]) -> Bounds:
    # d entries of |v|_1 / d: their L1 norm is |v|_1, their L2 norm |v|_1 / sqrt(d), at most |v|_2.
    del sizes
    return bounds
