"""THC: rounding to a table common to all clients, whose values are whole numbers, so that codes add up unread.

    y in [-t, t], what is beyond is cut
    values -g = v_1 < ... < v_m = g, m = 2^b, all even or all odd; v_i stands for y = t v_i / g
    y between two of them goes up or down by chance, so that its mean stays
    sum of values = value of the sum, bit for bit

The values are those with the least expected squared error for N(0, 1) cut at t, for which there is a closed form
between two values; the best path from the first to the last is found by dynamic programming.

Source: Li, Ben Basat, Vargaftik, Lao, Xu, Mitzenmacher, Yu (2024), THC: Accelerating Distributed Deep Learning Using
Tensor Homomorphic Compression, NSDI, https://arxiv.org/abs/2302.08545: uniform, then with a table of granularity g.
"""

import itertools
import math
from functools import cache
from statistics import NormalDist

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.compression.rotated.shared import look_up
from fedjaxlite.wire.compression.rotated.summed import Table, summed
from fedjaxlite.wire.packing.dither import dither

GRANULARITY = {2: 15, 3: 31, 4: 31}
"""The table's largest value where none is asked for: finer ones gain less than 5 %, 14 % at four bits."""

MOST_BITS = 8
MOST_IN_A_TABLE = 4
MOST_GRANULARITY = 255
LEAST_CLAMPED = 1e-30


def thc(*, bits: int, granularity: int | None = None, clamped: float = 1 / 512) -> Aggregator:
    """THC: b bits an entry after a rotation, in a table that all clients share; survives a sum.

    A clip by norm stands before it: the table's range is t B / sqrt(d), B the bound, d the entries. A client whose norm
    is far below the bound uses less of the table. Scalars are whole words, as fine as their sum allows.

    Args:
      bits: 1 to 8.
      granularity: g, the largest value of the table: 2^bits - 1 for equal steps, or more, up to 255, for the best
        unequal ones, with up to 4 bits. None takes 15, 31, 31 for 2, 3, 4 bits and equal steps else.
      clamped: p, the part of normal entries beyond the range, which are cut: in (0, 1/2]. t is the quantile.

    Returns:
      an Aggregator. A message holds ceil(d b / 8) bytes for each part, d its entries and less than 1/64 of padding;
      whole words before a mask. A client downloads a seed of 8 bytes.

    Raises:
      ValueError, TypeError: for arguments out of range; when built: without a bound on the norm, without a cap on
        integer weights, or where capacity x weight cap x granularity could pass 2^31 - 1.

    Guarantees:
      The sum of values is the value of the sum, bit for bit. Rounding has no bias; cutting has one, of the squared size
      2 ((1 + t^2) Q(t) - t f(t)) (times B^2, for a norm of B), 2.8e-4 for p = 1/512: what is left of the error when n
      is large. f and Q are the density and the upper tail of N(0, 1). The variance over B^2 at p = 1/512, for n clients
      an nth: 8.60, .600, .0928, .0226 for 1 to 4 bits; equal steps: .714, .130, .0284 for 2 to 4. Measured for two
      rotations with random signs; a vector of few entries has these numbers too. Norms: at most
      min(sqrt(P) t, 1 + sqrt(P) D) B, D the widest step in y and P the number of parts; the wire's bound says so.

    Source: Li et al. (2024), https://arxiv.org/abs/2302.08545.

    Example:
      >>> import fedjaxlite as fl
      >>> chain = fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), thc(bits=4))
      >>> state, end = chain.init(fl.wire_of(jnp.zeros(1024), capacity=10))
      >>> end.value.shape, end.group, round(end.bounds.l2, 3)
      ((512,), 'mod32', 1.799)
    """
    bits = checks.positive_int(bits=bits)
    if bits > MOST_BITS:
        raise ValueError(f"`bits` is {bits}; expected 1 to {MOST_BITS}. For more, take fl.quantize.")
    equal = 2**bits - 1
    asked = GRANULARITY.get(bits, equal) if granularity is None else granularity
    granularity = int(checks.positive_int(granularity=asked))
    if granularity != equal and not (equal < granularity <= MOST_GRANULARITY and bits <= MOST_IN_A_TABLE):
        raise ValueError(
            f"`granularity` is {granularity} with {bits} bits; expected {equal} for equal steps"
            + (f", or more, up to {MOST_GRANULARITY}." if bits <= MOST_IN_A_TABLE else "; a table has up to 4 bits.")
        )
    clamped = checks.concrete(clamped=checks.probability(clamped=clamped))
    if not LEAST_CLAMPED <= clamped <= 0.5:
        raise ValueError(
            f"`clamped` is {clamped}; expected a number from {LEAST_CLAMPED} to 0.5, the part of entries that are cut."
        )
    reach = -NormalDist().inv_cdf(clamped / 2)
    values = best_values(bits, granularity, reach)
    per_y = granularity / reach
    widest = max(high - low for low, high in itertools.pairwise(values))

    def to_codes(y: jax.Array, key: jax.Array, public: jax.Array) -> jax.Array:
        del public
        drawn = dither(key, y.size)
        if granularity == equal:
            steps = jnp.floor(y * (per_y / 2) + (equal / 2 + drawn))
            return jnp.clip(steps, 0, equal).astype(jnp.uint8)
        scaled = y * per_y
        # It is above all values up to the one below it, and above the next one by chance.
        above = [scaled - low > drawn * (high - low) for low, high in itertools.pairwise(values)]
        return sum((one.astype(jnp.uint8) for one in above), jnp.zeros(y.shape, jnp.uint8))

    def to_values(codes: jax.Array, public: jax.Array) -> jax.Array:
        del public
        if granularity == equal:
            return 2 * codes.astype(jnp.int32) - equal
        return look_up(values, codes).astype(jnp.int32)

    table = Table(bits, reach / granularity, granularity, widest / per_y, reach, to_codes, to_values)
    return summed("thc", table, {"bits": bits, "granularity": granularity, "clamped": clamped})


@cache
def best_values(bits: int, granularity: int, reach: float) -> tuple[int, ...]:
    """The 2^bits whole numbers from -granularity to granularity, symmetric, with the least error for N(0, 1).

    Example:
      >>> best_values(2, 15, 3.0), best_values(2, 3, 3.0)
      ((-15, -3, 3, 15), (-3, -1, 1, 3))
    """
    places = [value for value in range(1, granularity + 1) if (granularity - value) % 2 == 0]
    y = [value * reach / granularity for value in places]
    # Of a symmetric table, the half above zero: its first value, then steps up to the last.
    between = [[2 * _cost(y[i], y[j]) for i in range(j)] for j in range(len(y))]
    costs, before = [_cost(-one, one) for one in y], []
    for _ in range(2 ** (bits - 1) - 1):
        steps = [[(costs[i] + cost, i) for i, cost in enumerate(row)] for row in between]
        least = [min(step, default=(math.inf, 0)) for step in steps]
        costs = [cost for cost, _ in least]
        before.append([i for _, i in least])
    at = [len(places) - 1]
    for back in reversed(before):
        at.append(back[at[-1]])
    half = [places[i] for i in reversed(at)]
    return tuple(-value for value in reversed(half)) + tuple(half)


def _cost(low: float, high: float) -> float:
    """The integral of (high - y) (y - low), the variance of rounding between the two, over the density of N(0, 1)."""
    normal = NormalDist()
    mass, first = normal.cdf(high) - normal.cdf(low), normal.pdf(low) - normal.pdf(high)
    second = mass + low * normal.pdf(low) - high * normal.pdf(high)
    return (low + high) * first - second - low * high * mass
