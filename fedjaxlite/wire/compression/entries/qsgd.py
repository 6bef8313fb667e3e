"""QSGD: the norm of a leaf, and for each entry its sign and a level between 0 and the norm, rounded at random.

    Q(v)_i = |v|_2 sgn(v_i) xi_i,   xi_i = l / s or (l + 1) / s,   l = floor(s |v_i| / |v|_2)
    E Q(v) = v,   E |Q(v) - v|_2^2 = (|v|_2 / s)^2 sum_i f_i (1 - f_i),   f_i = s |v_i| / |v|_2 - l

Source: Alistarh, Grubic, Li, Tomioka, Vojnovic (2017), "QSGD: Communication-Efficient SGD via Gradient Quantization and
Encoding", https://arxiv.org/abs/1610.02132, section 3.1.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Bounds
from fedjaxlite.wire.compression.entries.leaf_by_leaf import VectorCode, leaf_by_leaf, norm_of, one_float, relative
from fedjaxlite.wire.compression.entries.norms import least, longer
from fedjaxlite.wire.packing.bits import signed
from fedjaxlite.wire.packing.dither import round_up_or_down


def qsgd(levels: int) -> Aggregator:
    """Sends each leaf's L2 norm, and each entry as one of `levels` levels of it with a sign, rounded at random.

    Args:
      levels: s, 1 to 32767. An entry takes 1 + ceil(log2(s + 1)) bits. The square root of a leaf's size gives an error
        as large as the leaf.

    Returns:
      an Aggregator. Needs no clip before it; messages are decoded one by one, since each has its own norms. FedPAQ and
      FedCOM are local steps with it: `fl.algorithms.fedavg` and this codec.

    Raises:
      ValueError, TypeError: if `levels` is no int from 1 to 32767; when built, if values are no floats.

    Guarantees:
      Unbiased, to float32's precision. The expected squared error of a leaf of d entries is at most
      min(d / s^2, sqrt(d) / s) times its squared norm. A norm of zero gives zero, and zeros stay zeros. No update grows
      beyond min(1 + sqrt(d) / s, sqrt(d)) times its L2 norm, d being the largest leaf.

    Source: Alistarh et al. (2017), https://arxiv.org/abs/1610.02132, section 3.1.

    Example:
      >>> import fedjaxlite as fl
      >>> chain = fl.chain(fl.mean(), qsgd(4))
      >>> chain.init(fl.wire_of(jnp.zeros(1000), capacity=1))[1].value.shape  # bytes: four bits an entry
      (500,)
    """
    levels = checks.positive_int(levels=levels)
    if levels > 32767:
        raise ValueError(f"`levels` is {levels}; expected 1 to 32767, which is 16 bits an entry: float32 says no more.")
    bits = 1 + levels.bit_length()  # as many as for numbers from -s to s

    def encode(vector: jax.Array, key: Any) -> tuple[jax.Array, Any]:
        norm = norm_of(vector)
        drawn = round_up_or_down(relative(vector, norm) * levels, key)
        return jnp.clip(drawn, -levels, levels).astype(jnp.uint32), norm

    def decode(codes: jax.Array, norm: Any) -> jax.Array:
        # The norm of large finite numbers can pass the largest one.
        return signed(codes, bits).astype(jnp.float32) * (jnp.minimum(norm, jnp.finfo(jnp.float32).max) / levels)

    def widen(bounds: Bounds, sizes: tuple[int, ...]) -> Bounds:
        # An entry moves by less than |v|_2 / s of its leaf, and is |v|_2 at most. In a leaf of d entries that adds
        # sqrt(d) / s to the L2 norm, d / s to the L1 norm (|v|_2 <= |v|_1), or leaves sqrt(d) or d of them at most.
        # Factors hold for all leaves together where the largest leaf's is taken.
        d = max(*sizes, 1)
        wider = longer(bounds, l2=min(1 + math.sqrt(d) / levels, math.sqrt(d)), l1=min(1 + d / levels, d))
        if bounds.l2 is None:
            return wider
        return wider._replace(linf=least(bounds.l2, bounds.linf + bounds.l2 / levels))

    return leaf_by_leaf("qsgd", VectorCode(bits, encode, decode, one_float, widen), {"levels": levels})
