"""QUIC-FL: a table whose row is chosen by a random number h that client and server know; unbiased, exact in sums.

    table    R[h][x], h of H, x of 2^b: what the server makes of the code x, whole numbers of 1/256
    client   for y in [-T, T] a code x(h) for every h, so that the mean over h of R[h][x(h)] is y and the error least;
             it sends the one for its h
    beyond   the few entries with |y| > T are sent beside, rounded to 1/256 without bias: 1/512 of all

The least error under that mean is a shift: every h takes its value nearest to y + s, with one s for all (a Lagrange
multiplier). As s grows, one code after the other jumps from R[h][x] to R[h][x + 1], in the order of their midpoints,
and the mean m climbs by a step at each jump. Between two steps the client takes the next one by chance, so that its
mean stays. So for its own h, a client compares y with the 2^b - 1 steps at which that row jumps.

A client draws one h, and each of H stretches of the vector takes the next: every entry's h is uniform, and clients are
independent, which is all that the mean of many needs.

Source: Ben Basat, Vargaftik, Portnoy, Einziger, Ben-Itzhak, Mitzenmacher (2024), QUIC-FL: Quick Unbiased Compression
for Federated Learning, https://arxiv.org/abs/2205.13341: bounded support, shared randomness, tables. The tables here
are our own, found anew.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.compression.rotated.quic_fl_tables import PER_UNIT, TABLES
from fedjaxlite.wire.compression.rotated.side_list import SideList
from fedjaxlite.wire.compression.rotated.summed import Table, summed
from fedjaxlite.wire.packing.dither import dither

BEYOND = 1 / 512
MOST_BESIDE = 8 * PER_UNIT
"""Entries beside the codes are cut at 8: a normal one is larger once in 10^15."""


class Steps(NamedTuple):
    """When each row jumps.

    Attributes:
      values: int `[H, 2^b]`, the table, ascending rows.
      begins: float `[H, 2^b - 1]`, the mean before the jump from one value of a row to the next.
      heights: float `[H, 2^b - 1]`, how far the mean climbs there.
      reach: T; means go from -T to T.
      error: the most that a value is away from an entry it is sent for.
    """

    values: np.ndarray
    begins: np.ndarray
    heights: np.ndarray
    reach: float
    error: float


def quic_fl(*, bits: int) -> Aggregator:
    """QUIC-FL: b bits an entry after a rotation, unbiased, in a table that all clients share; survives a sum.

    A clip by norm stands before it: an entry is sent in units of B / sqrt(d), B the bound, d the entries, and a client
    whose norm is far below the bound has the error of one at the bound. Scalars are whole words, as fine as their sum
    allows.

    Args:
      bits: 1 to 4.

    Returns:
      an Aggregator. A message holds ceil(d b / 8) bytes for each part, d its entries and less than 1/64 of padding, and
      beside it a list of the entries beyond T, with room for d/512 and six standard deviations: .07 bits an entry where
      d is a million. Before a mask they are whole words, and those entries stand among them. A client downloads a seed
      of 8 bytes.

    Raises:
      ValueError, TypeError: for bits out of range; when built: without a bound on the norm, without a cap on integer
        weights, or where capacity x weight cap x 2,048 (6,388, 2,506 for 1, 2 bits) could pass 2^31 - 1.

    Guarantees:
      Unbiased for every rotation, as long as the list has room (a million normal entries fill it once in 10^8) and no
      entry is beyond 8; what has no room is cut at T. The error over B^2, for n clients an nth:
      1.487, .2160, .0437, .00976 for 1 to 4 bits. The sum of values is the value of the sum, bit for bit. Norms: at
      most (1 + sqrt(P) E) B, P the number of parts and E = 22.7, 7.22, 2.55, 1.27 for 1 to 4 bits; the wire's bound
      says so.

    Source: Ben Basat et al. (2024), https://arxiv.org/abs/2205.13341.

    Example:
      >>> import fedjaxlite as fl
      >>> chain = fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), quic_fl(bits=2))
      >>> state, end = chain.init(fl.wire_of(jnp.zeros(4096), capacity=10))
      >>> end.value.shape, end.group, sum(leaf.size for leaf in jax.tree.leaves(end.aside))
      ((1024,), 'mod32', 102)
    """
    bits = checks.one_of(tuple(TABLES), bits=bits)
    steps = steps_of(bits)
    columns = lambda table: jnp.asarray(table, jnp.float32)  # noqa: E731

    def in_rows(vector: jax.Array) -> jax.Array:
        rows = len(steps.values)
        return jnp.pad(vector, (0, -vector.size % rows)).reshape(rows, -1)

    def of_first(table: np.ndarray, public: jax.Array) -> jax.Array:
        """The table's rows, from the client's number h on."""
        first = jax.random.bits(public, (), jnp.uint32) % jnp.uint32(len(table))
        return jnp.roll(columns(table), first.astype(jnp.int32), axis=0)

    def to_codes(y: jax.Array, key: jax.Array, public: jax.Array) -> jax.Array:
        rows = in_rows(y)
        drawn = in_rows(dither(key, y.size))
        begins, heights = of_first(steps.begins, public), of_first(steps.heights, public)
        codes = jnp.zeros(rows.shape, jnp.uint8)
        for i in range(2**bits - 1):
            codes += (rows - begins[:, i, None] > drawn * heights[:, i, None]).astype(jnp.uint8)
        return codes.reshape(-1)[: y.size]

    def to_values(codes: jax.Array, public: jax.Array) -> jax.Array:
        rows, values = in_rows(codes), of_first(steps.values, public).astype(jnp.int32)
        found = jnp.broadcast_to(values[:, 0, None], rows.shape)
        for i in range(1, 2**bits):
            found = jnp.where(rows >= i, values[:, i, None], found)
        return found.reshape(-1)[: codes.size]

    unit = 1 / PER_UNIT
    beside = SideList(steps.reach, BEYOND, unit, MOST_BESIDE)
    largest = max(MOST_BESIDE, int(np.abs(steps.values).max()))
    table = Table(bits, unit, largest, max(steps.error, unit), steps.reach, to_codes, to_values, beside)
    return summed("quic_fl", table, {"bits": bits})


def steps_of(bits: int) -> Steps:
    """The steps of a table.

    Example:
      >>> steps = steps_of(1)
      >>> bool(abs(steps.begins.min() + steps.reach) < 1e-9), round(steps.reach, 1)
      (True, 3.1)
    """
    half = np.array(TABLES[bits])
    values = np.concatenate([half, -half[::-1, ::-1]])  # the other half of the rows is the mirror image
    y = values / PER_UNIT
    heights = np.diff(y, axis=1) / len(y)
    order = np.argsort((y[:, 1:] + y[:, :-1]).ravel(), kind="stable")
    climbed = np.concatenate([[0.0], np.cumsum(heights.ravel()[order])])
    begins = np.empty(order.size)
    begins[order] = y[:, 0].mean() + climbed[:-1]
    begins, reach = begins.reshape(heights.shape), float(-y[:, 0].mean())
    ends = np.full((len(y), 1), reach)
    since, until = np.hstack([-ends, begins]), np.hstack([begins + heights, ends])
    error = float(np.maximum(np.abs(y - since), np.abs(y - until)).max())
    return Steps(values, begins, heights, reach, error)
