"""Stochastic k-level quantization: each entry on one of k levels between the least and the largest of its leaf.

    B(r) = min + r (max - min) / (k - 1),   B(r) <= v_i <= B(r + 1)
    Q(v)_i = B(r + 1) with probability (v_i - B(r)) / (B(r + 1) - B(r)), else B(r)
    k = 2:   E |mean of Q - mean of v|^2 = n^-2 sum over clients and entries of (max - v_i) (v_i - min)

Source: Suresh, Yu, Kumar, McMahan (2017), "Distributed Mean Estimation with Limited Communication",
https://arxiv.org/abs/1611.00429, sections 2.1 and 2.2.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Bounds
from fedjaxlite.wire.compression.entries.leaf_by_leaf import VectorCode, leaf_by_leaf, relative
from fedjaxlite.wire.compression.entries.norms import longer
from fedjaxlite.wire.packing.dither import round_up_or_down


def k_level(levels: int) -> Aggregator:
    """Sends each leaf's least and largest entry, and each entry as one of `levels` levels between them, at random.

    Args:
      levels: k, 2 to 65536; an entry takes ceil(log2 k) bits. Two levels are the paper's stochastic binary
        quantization.

    Returns:
      an Aggregator. Needs no clip before it; messages are decoded one by one, since each has a range of its own. With
      one range for all clients the method survives a sum, and a mask: that is `fl.quantize`.

    Raises:
      ValueError, TypeError: if `levels` is no int from 2 to 65536; when built, if values are no floats.

    Guarantees:
      Unbiased, to float32's precision; no entry leaves the range of its leaf. The mean over n clients has an expected
      squared error of at most d / (2 n (k - 1)^2) times the mean of their squared norms.

    Source: Suresh et al. (2017), https://arxiv.org/abs/1611.00429, section 2.2.

    Example:
      >>> import fedjaxlite as fl
      >>> wire = fl.chain(fl.mean(), k_level(4)).init(fl.wire_of(jnp.zeros(1000), capacity=1))[1]
      >>> wire.value.shape, wire.bits  # 250 bytes, two bits an entry
      ((250,), 2)
    """
    levels = checks.positive_int(levels=levels)
    if not 2 <= levels <= 65536:
        raise ValueError(f"`levels` is {levels}; expected 2 to 65536: one level says nothing, and 2^16 is 16 bits.")
    top, bits = levels - 1, (levels - 1).bit_length()

    def encode(vector: jax.Array, key: Any) -> tuple[jax.Array, Any]:
        if not vector.size:
            return vector.astype(jnp.uint32), (jnp.float32(0.0), jnp.float32(0.0))
        low, high = _range(vector)
        # Halves: the width of a range can be twice the largest number.
        scaled = relative(vector * 0.5 - low * 0.5, high * 0.5 - low * 0.5) * top
        return jnp.clip(round_up_or_down(scaled, key), 0, top).astype(jnp.uint32), (low, high)

    def decode(codes: jax.Array, beside: Any) -> jax.Array:
        low, high = beside
        share = codes.astype(jnp.float32) / top
        return jnp.clip(low * (1.0 - share) + high * share, low, high)

    def beside(entries: int) -> Any:
        del entries
        return (jax.ShapeDtypeStruct((), jnp.float32),) * 2

    def widen(bounds: Bounds, sizes: tuple[int, ...]) -> Bounds:
        # An entry stays within its leaf's range, so is at most its leaf's largest, and moves by less than a step,
        # (max - min) / (k - 1), where max - min is at most sqrt(2) |v|_2, and |v|_1.
        d = max(*sizes, 1)
        return longer(bounds, l2=min(1 + math.sqrt(2 * d) / top, math.sqrt(d)), l1=min(1 + d / top, d))

    return leaf_by_leaf("k_level", VectorCode(bits, encode, decode, beside, widen), {"levels": levels})


def _range(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least and the largest entry, in one pass."""
    infinite = jnp.float32(jnp.inf)
    wider = lambda one, other: (jnp.minimum(one[0], other[0]), jnp.maximum(one[1], other[1]))  # noqa: E731
    low, high = jax.lax.reduce((vector, vector), (infinite, -infinite), wider, (0,))
    return low, high
