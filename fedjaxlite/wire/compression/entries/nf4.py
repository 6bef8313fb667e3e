"""NF4: sixteen numbers that are quantiles of a normal distribution, times the largest entry of a block.

    t = q_i / q_max:   8 quantiles at probabilities evenly from 1/2 to p, 7 from 1 - p to 1/2, zero counted once
    p = 1 - (1/32 + 1/30) / 2 = 0.96770833

Source: Dettmers, Pagnoni, Holtzman, Zettlemoyer (2023), "QLoRA: Efficient Finetuning of Quantized LLMs",
https://arxiv.org/abs/2305.14314, section 3 and appendix E.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Bounds
from fedjaxlite.wire.compression.entries.leaf_by_leaf import VectorCode, leaf_by_leaf
from fedjaxlite.wire.compression.entries.norms import longer
from fedjaxlite.wire.packing.dither import dither

BITS = 4


def _table() -> tuple[float, ...]:
    normal, most = NormalDist(), 1 - (1 / 32 + 1 / 30) / 2
    side = lambda number: [normal.inv_cdf(0.5 + (most - 0.5) * i / number) for i in range(1, number + 1)]  # noqa: E731
    above, below = side(8), side(7)
    return tuple(value / above[-1] for value in [*(-v for v in reversed(below)), 0.0, *above])


TABLE = _table()
"""The sixteen numbers, from -1 to 1."""


def nf4(*, block: int = 64, rounding: str = "stochastic") -> Aggregator:
    """Sends each entry as one of sixteen numbers times the largest absolute value of its block.

    Args:
      block: entries with one scale, a float32: 64 make 4.5 bits an entry. Leaves are cut into blocks one by one.
      rounding: "stochastic" (unbiased: one of the two numbers beside the entry) or "nearest".

    Returns:
      an Aggregator. Messages are decoded one by one, since each has its own scales.

    Raises:
      ValueError, TypeError: if `block` is no int of at least 1, for another rounding; when built, if values are no
      floats.

    Guarantees:
      Zeros and the largest entry of a block stay what they are, and no entry becomes larger than it. Unbiased with
      stochastic rounding, to float32's precision. Nearest rounding of normal numbers has a relative squared error of
      8.46e-3: more than EDEN at 3.8 bits.

    Source: Dettmers et al. (2023), https://arxiv.org/abs/2305.14314, appendix E.

    Example:
      >>> import fedjaxlite as fl
      >>> wire = fl.chain(fl.mean(), nf4()).init(fl.wire_of(jnp.zeros(1000), capacity=1))[1]
      >>> wire.value.shape, [round(number, 4) for number in TABLE[-3:]]
      ((500,), [0.5626, 0.723, 1.0])
    """
    block = checks.positive_int(block=block)
    rounding = checks.one_of(("stochastic", "nearest"), rounding=rounding)

    def encode(vector: jax.Array, key: Any) -> tuple[jax.Array, Any]:
        scales = _scales(vector, block)
        # A quarter of all, since compilers may divide by multiplying with a reciprocal, which the largest numbers and
        # the smallest have none of.
        unit = _spread(jnp.maximum(scales * 0.25, jnp.finfo(jnp.float32).tiny), block, vector.size)
        inside = jnp.clip(vector * 0.25, -unit, unit) / unit
        return _nearby(inside, key if rounding == "stochastic" else None), scales

    def decode(codes: jax.Array, scales: Any) -> jax.Array:
        bits = [(codes & place) > 0 for place in (8, 4, 2, 1)]
        return _choose(bits, TABLE) * _spread(scales, block, codes.size)

    def beside(entries: int) -> Any:
        return jax.ShapeDtypeStruct((-(-entries // block),), jnp.float32)

    def widen(bounds: Bounds, sizes: tuple[int, ...]) -> Bounds:
        # Entries of a block are at most its largest, which stays.
        others = min(block, max(*sizes, 1)) - 1
        l2, l1 = (_growth(others, power, nearest=rounding == "nearest") for power in (2, 1))
        return longer(bounds, l2=math.sqrt(l2), l1=l1)

    return leaf_by_leaf("nf4", VectorCode(BITS, encode, decode, beside, widen), {"block": block, "rounding": rounding})


def _growth(others: int, power: int, *, nearest: bool) -> float:
    """How much the sum of powers can grow in a block of the largest entry and so many others.

    That sum is 1 + sum |c_i|^p after and 1 + sum |v_i|^p before, where each v_i goes to a number c_i beside it. For
    every factor f, |c|^p - f |v|^p is largest at the v from which rounding up begins, so the best of all blocks
    has one and the same v in all its places.
    """
    most = 1.0
    for table in (TABLE[7:], [-number for number in reversed(TABLE[:8])]):
        for low, high in pairwise(table):
            start = (low + high) / 2 if nearest else low
            most = max(most, (1 + others * high**power) / (1 + others * start**power))
    return most


def _nearby(inside: jax.Array, key: Any) -> jax.Array:
    """The place in the table of the number below an entry, or of the next one if it is beyond a part u of the gap."""
    part = jnp.float32(0.5) if key is None else dither(key, inside.size)
    bits: list[jax.Array] = []  # the place's, from the highest: the entry is compared with the middle of what is left
    for step in (8, 4, 2, 1):
        bits.append(inside >= _choose(bits, TABLE[step :: 2 * step]))
    place = sum((bit.astype(jnp.uint32) << shift for bit, shift in zip(bits, (3, 2, 1, 0), strict=True)), jnp.uint32(0))
    low, high = _choose(bits, TABLE), _choose(bits, (*TABLE[1:], 2.0))
    return jnp.where(inside - low > part * (high - low), place + 1, place)


def _choose(bits: list[jax.Array], numbers: Sequence[float]) -> jax.Array:
    """The number whose place has these bits, from the highest: processors look 2^b numbers up one by one."""
    left = [jnp.float32(number) for number in numbers]
    for bit in bits:
        half = len(left) // 2
        left = [jnp.where(bit, high, low) for low, high in zip(left[:half], left[half:], strict=True)]
    return left[0]


def _scales(vector: jax.Array, block: int) -> jax.Array:
    """The largest absolute value of each block; the last one may be shorter."""
    whole = vector.size // block * block
    most = jnp.max(jnp.abs(vector[:whole]).reshape(-1, block), axis=1, initial=0.0)
    rest = vector[whole:]
    return jnp.append(most, jnp.max(jnp.abs(rest))) if rest.size else most


def _spread(scales: jax.Array, block: int, entries: int) -> jax.Array:
    """Each entry's scale."""
    return jnp.broadcast_to(scales[:, None], (scales.size, block)).reshape(-1)[:entries]
