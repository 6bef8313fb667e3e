"""Narrow floats on the wire: bfloat16, and the two floats of 8 bits, with one power of two as a scale for each leaf.

    m bits of fraction, |y| in [2^e, 2^(e+1)):   numbers stand 2^(e-m) apart, and 2^(e0-m) below the least normal 2^e0
    stochastic:   y goes to one of its two neighbors, E C(y) = y      nearest:   to the nearer, the even one of a tie

A power of two as scale moves the numbers, and rounds nothing: relative errors are those of the format. Float32's own
bits do the rounding: the fraction's last bits are dropped after random ones, or half, were added.

Source: Kalamkar et al. (2019), "A Study of BFLOAT16 for Deep Learning Training", https://arxiv.org/abs/1905.12322;
Micikevicius et al. (2022), "FP8 Formats for Deep Learning", https://arxiv.org/abs/2209.05433, table 1.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Bounds
from fedjaxlite.wire.compression.entries.leaf_by_leaf import VectorCode, leaf_by_leaf
from fedjaxlite.wire.compression.entries.norms import longer
from fedjaxlite.wire.packing.dither import random_words


class Format(NamedTuple):
    """A format of floats.

    Attributes:
      bits: of a number.
      fraction: m, bits behind the exponent.
      bias: of the exponent; 2^(1 - bias) is the least normal number.
      top: the largest finite number, as bits.
      scaled: whether leaves are scaled to its range; bfloat16 has float32's own.
    """

    bits: int
    fraction: int
    bias: int
    top: int
    scaled: bool


FORMATS = {
    "bfloat16": Format(16, 7, 127, 0x7F7F, False),
    "float8_e4m3fn": Format(8, 3, 7, 0x7E, True),
    "float8_e5m2": Format(8, 2, 15, 0x7B, True),
}
"""Both floats of 8 bits end at 1.75 times a power of two: 448 and 57344."""


def narrow(dtype: str, *, rounding: str = "stochastic") -> Aggregator:
    """Sends each entry as a narrower float: half or a quarter of float32's bytes.

    Args:
      dtype: "bfloat16", "float8_e4m3fn" (3 bits of fraction) or "float8_e5m2" (2 bits, and a wider range).
      rounding: "stochastic" (unbiased) or "nearest".

    Returns:
      an Aggregator. The bytes of a message are the format's own bits, low bytes first. Floats of 8 bits have a scale
      for each leaf, a power of two that puts its largest entry at the top of their range: a byte with its exponent. The
      server widens each message to float32 before it sums; a sum of narrow floats is none of the narrow floats, so no
      mask can stand behind it.

    Raises:
      ValueError: for another dtype or rounding; when built, if values are no floats.

    Guarantees:
      Numbers of the format stay what they are, and a scale is exact. Never infinite: what is beyond the largest number
      becomes that number. "nearest" is what a cast makes, saturating. Stochastic rounding is unbiased for what the
      format can hold: to 2^-16 of the distance of its numbers for bfloat16, to 2^-20 and 2^-21 for floats of 8 bits. An
      entry grows by at most 2^-m of itself, plus, of 8 bits, one step of the subnormal numbers of its leaf.

    Source: Kalamkar et al. (2019), https://arxiv.org/abs/1905.12322; Micikevicius et al. (2022),
    https://arxiv.org/abs/2209.05433.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.chain(fl.mean(), narrow("bfloat16")).init(fl.wire_of(jnp.zeros(1000), capacity=1))[1].value.shape
      (2000,)
    """
    dtype = checks.one_of(tuple(FORMATS), dtype=dtype)
    rounding = checks.one_of(("stochastic", "nearest"), rounding=rounding)
    form = FORMATS[dtype]

    def encode(vector: jax.Array, key: Any) -> tuple[jax.Array, Any]:
        exponent = _scale(vector, form) if form.scaled else None
        scaled = vector if exponent is None else vector * _power(exponent)
        codes = narrow_codes(scaled, form, key if rounding == "stochastic" else None)
        return codes, () if exponent is None else exponent

    def decode(codes: jax.Array, beside: Any) -> jax.Array:
        wide = widened(codes, form)
        if not form.scaled:
            return wide
        # Rounded up, the very largest numbers of float32 would be infinite.
        most = jnp.finfo(jnp.float32).max
        return jnp.clip(wide * _power(-beside), -most, most)

    def beside(entries: int) -> Any:
        del entries
        return jax.ShapeDtypeStruct((), jnp.int8) if form.scaled else ()

    def widen(bounds: Bounds, sizes: tuple[int, ...]) -> Bounds:
        # An entry moves by less than 2^-m of itself, or by a step of the subnormal numbers: that is 2^(1 - bias - m),
        # where the leaf's largest entry is at least half of the largest number. Half of either to the nearest.
        share = 1.0 if rounding == "stochastic" else 0.5
        own = share * 2.0**-form.fraction
        step = share * 2.0 ** (1 - form.bias - form.fraction) / (_largest_number(form) / 2) if form.scaled else 0.0
        d = max(*sizes, 1)
        return longer(bounds, l2=1 + own + math.sqrt(d) * step, linf=1 + own + step, l1=1 + own + d * step)

    return leaf_by_leaf(
        "narrow", VectorCode(form.bits, encode, decode, beside, widen), {"dtype": dtype, "rounding": rounding}
    )


def narrow_codes(vector: jax.Array, form: Format, key: jax.Array | None) -> jax.Array:
    """The bits of narrow floats, as uint32 `[n]`: rounded at random with a key, to the nearest without."""
    word = jax.lax.bitcast_convert_type(vector, jnp.uint32)
    sign, size = word >> 31, word & jnp.uint32(0x7FFF_FFFF)
    drop = 23 - form.fraction
    if key is None:
        more = (jnp.uint32(1) << (drop - 1)) - jnp.uint32(1) + ((size >> drop) & jnp.uint32(1))
    else:
        more = random_words(key, vector.size) >> (32 - drop)
    code = (size + more) >> drop
    if form.bias != 127:
        # Below the least normal number steps are equal: rounded as a number of steps, which is the code itself.
        steps = jnp.abs(vector) * jnp.float32(2.0 ** (form.bias - 1 + form.fraction))
        few = (
            jnp.round(steps)
            if key is None
            else jnp.floor(steps + more.astype(jnp.int32).astype(jnp.float32) * 2.0**-drop)
        )
        normal = size >= jnp.uint32((128 - form.bias) << 23)
        shifted = code - jnp.uint32((127 - form.bias) << form.fraction)
        code = jnp.where(normal, shifted, jnp.minimum(few, 2.0**form.fraction).astype(jnp.int32).astype(jnp.uint32))
    return jnp.minimum(code, jnp.uint32(form.top)) | (sign << (form.bits - 1))


def widened(codes: jax.Array, form: Format) -> jax.Array:
    """The inverse: float32 `[n]` of the bits of narrow floats."""
    mask = jnp.uint32(2 ** (form.bits - 1) - 1)
    sign, size = (codes & ~mask) << (32 - form.bits), codes & mask
    word = (size << (23 - form.fraction)) + jnp.uint32((127 - form.bias) << 23)
    if form.bias != 127:
        steps = size.astype(jnp.int32).astype(jnp.float32) * jnp.float32(2.0 ** (1 - form.bias - form.fraction))
        word = jnp.where(size < 2**form.fraction, jax.lax.bitcast_convert_type(steps, jnp.uint32), word)
    return jax.lax.bitcast_convert_type(word | sign, jnp.float32)


def _largest_number(form: Format) -> float:
    exponent, fraction = divmod(form.top, 2**form.fraction)
    return (1 + fraction / 2**form.fraction) * 2.0 ** (exponent - form.bias)


def _scale(vector: jax.Array, form: Format) -> jax.Array:
    """The k for which all |v| 2^k are at most the largest number, 1.75 times a power of two, and one above half of it.

    The least of the entries' own k, as floats, of which processors find the least in vectors.
    """
    word = jax.lax.bitcast_convert_type(jnp.abs(vector), jnp.int32)
    exponent = ((word + 0x1F_FFFF) >> 23) - 127  # a fraction above 1.75 counts as the next power
    scale = jnp.clip((form.top >> form.fraction) - form.bias - exponent, -126, 126)
    return jax.lax.reduce(scale.astype(jnp.float32), jnp.float32(126.0), jnp.minimum, (0,)).astype(jnp.int8)


def _power(exponent: jax.Array) -> jax.Array:
    """2 to an exponent from -126 to 126, exactly."""
    return jax.lax.bitcast_convert_type((exponent.astype(jnp.int32) + 127) << 23, jnp.float32)
