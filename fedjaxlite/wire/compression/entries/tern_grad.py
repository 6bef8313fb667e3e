"""TernGrad: each entry is -1, 0 or 1 times the largest of its leaf.

    Q(v) = s sgn(v) b,   s = max_i |v_i|,   b_i = 1 with probability |v_i| / s, else 0
    E Q(v) = v,   E (Q(v)_i - v_i)^2 = |v_i| (s - |v_i|)

Source: Wen, Xu, Yan, Wu, Wang, Chen, Li (2017), "TernGrad: Ternary Gradients to Reduce Communication in Distributed
Deep Learning", https://arxiv.org/abs/1705.07878, equations 2 and 3.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.wire.aggregator import Aggregator, Bounds
from fedjaxlite.wire.compression.entries.leaf_by_leaf import VectorCode, largest, leaf_by_leaf, one_float
from fedjaxlite.wire.compression.entries.norms import longer
from fedjaxlite.wire.packing.bits import signed
from fedjaxlite.wire.packing.dither import dither

BITS = 2


def tern_grad() -> Aggregator:
    """Sends each leaf's largest absolute value, and each entry as -1, 0 or 1 times it, drawn at random.

    The paper clips entries to 2.5 standard deviations of their layer before, which makes the range smaller and the mean
    biased; `fl.clip_by_value` before it does so with a number.

    Returns:
      an Aggregator. Messages are decoded one by one, since each has its own scales.

    Raises:
      ValueError: when built, if values are no floats.

    Guarantees:
      Unbiased, to float32's precision. Zeros stay zeros; no entry is larger than the largest of its leaf.

    Source: Wen et al. (2017), https://arxiv.org/abs/1705.07878, equations 2 and 3, a scale for each layer.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.chain(fl.mean(), tern_grad()).init(fl.wire_of(jnp.zeros(1000), capacity=1))[1].value.shape
      (250,)
    """
    return leaf_by_leaf("tern_grad", VectorCode(BITS, _encode, _decode, one_float, _widen), {})


def _encode(vector: jax.Array, key: Any) -> tuple[jax.Array, Any]:
    scale = largest(vector)
    # A comparison needs no reciprocal of the scale, and none of the largest numbers and the smallest has one.
    drawn = jnp.abs(vector) > dither(key, vector.size) * scale
    return jnp.where(drawn, jnp.where(vector < 0, jnp.uint32(3), jnp.uint32(1)), jnp.uint32(0)), scale


def _decode(codes: jax.Array, scale: Any) -> jax.Array:
    return signed(codes, BITS).astype(jnp.float32) * scale


def _widen(bounds: Bounds, sizes: tuple[int, ...]) -> Bounds:
    # Each of d entries can become the largest one, which both norms of the leaf are at least.
    d = max(*sizes, 1)
    return longer(bounds, l2=math.sqrt(d), l1=d)
