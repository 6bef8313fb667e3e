"""Natural compression: each entry is rounded at random to one of the two powers of two beside it.

    2^k <= |x| < 2^(k+1):   C(x) = sgn(x) 2^(k+1) with probability |x| / 2^k - 1, else sgn(x) 2^k
    E C(x) = x,   E (C(x) - x)^2 = (|x| - 2^k) (2^(k+1) - |x|) <= x^2 / 8,   equal at |x| = 4/3 2^k

In the bits of a float32 that is: add 23 random bits to the 23 of the fraction, and keep what stands before them.

Source: Horvath, Ho, Horvath, Sahu, Canini, Richtarik (2019), "Natural Compression for Distributed Deep Learning",
https://arxiv.org/abs/1905.10988, definition 1 and theorem 1.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.wire.aggregator import Aggregator, Bounds
from fedjaxlite.wire.compression.entries.leaf_by_leaf import VectorCode, leaf_by_leaf
from fedjaxlite.wire.compression.entries.norms import longer
from fedjaxlite.wire.packing.dither import random_words

FRACTION = 23
"""Bits of a float32 behind its sign and exponent."""
BITS = (8, 1)
"""Of an entry: the exponent, and the sign, in bytes of their own."""
LARGEST = 0x7F7F_FFFF
"""The largest finite float32, as bits."""


def natural() -> Aggregator:
    """Sends each entry's sign and exponent, rounded at random between the two powers of two beside it.

    Returns:
      an Aggregator: 9 bits an entry, exponents and signs in arrays of their own, nothing beside them. Messages are
      decoded one by
      one: powers of two do not add up to powers of two.

    Raises:
      ValueError: when built, if values are no floats.

    Guarantees:
      Unbiased, exactly: a fraction has 23 bits, and as many are drawn. The variance of an entry is at most x^2 / 8.
      Zero stays zero, powers of two stay what they are, and no entry doubles. Below 2^-126, where processors may take a
      number for zero, an entry becomes zero or 2^-126; above 2^127 it becomes 2^127, since the next power is infinite.

    Source: Horvath et al. (2019), https://arxiv.org/abs/1905.10988, definition 1.

    Example:
      >>> import fedjaxlite as fl
      >>> exponents, signs = fl.chain(fl.mean(), natural()).init(fl.wire_of(jnp.zeros(1000), capacity=1))[1].value
      >>> exponents.shape, signs.shape
      ((1000,), (125,))
    """
    code = VectorCode(BITS, _encode, _decode, lambda entries: (), _widen)
    return leaf_by_leaf("natural", code, {})


def _encode(vector: jax.Array, key: Any) -> tuple[jax.Array, Any]:
    word = jax.lax.bitcast_convert_type(vector, jnp.uint32)
    sign, size = word >> 31, word & jnp.uint32(0x7FFF_FFFF)
    drawn = size + (random_words(key, vector.size) >> (32 - FRACTION))
    exponent = jnp.minimum(drawn, jnp.uint32(LARGEST)) >> FRACTION
    return exponent | (sign << 8), ()


def _decode(codes: jax.Array, beside: Any) -> jax.Array:
    del beside
    return jax.lax.bitcast_convert_type(codes << FRACTION, jnp.float32)


def _widen(bounds: Bounds, sizes: tuple[int, ...]) -> Bounds:
    # Rounding up doubles what is a little more than a power of two, and never more than doubles.
    del sizes
    return longer(bounds, l2=2.0, linf=2.0, l1=2.0)
