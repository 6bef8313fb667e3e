"""Count sketch: every entry is added, with a random sign, to one of c columns, by hashes that all clients share.

    encode   S_j  = sum over h(i) = j of s_i x_i        sent as sqrt(ceil(d/c)) S
    decode   x_i' = s_i S_h(i)                          E x_i' = x_i,  Var x_i' <= (||x||^2 - x_i^2) / c

Linear: the sketch of a sum is the sum of the sketches, in integers bit for bit. The hash h shifts blocks: entry i is
number o of block b, c entries a block, and goes to column (o + t_b) mod c with a random shift t_b for each block. Two
entries of one block never meet and two of different blocks meet with probability 1/c exactly, so Var x_i' is
(||x||^2 - ||x_B||^2) / c with B the block of i, and the error of the whole is (d/c - 1) ||x||^2 where c divides d. A
column has ceil(d/c) entries at most, by which norms are bounded; and there is nothing to scatter.

One row. More rows, of which FetchSGD decodes the median, make a decoder that is not linear, and their mean is worth a
single row of as many numbers. FetchSGD's server keeps momentum and errors in the sketch and takes the largest of the
decoded sum: that is a decoder with a state of its own, and not here.

Sources: Charikar, Chen, Farach-Colton (2002), "Finding frequent items in data streams"; Rothchild, Panda, Ullah, Ivkin,
Stoica, Braverman, Gonzalez, Arora (2020), "FetchSGD: Communication-Efficient Federated Learning with Sketching",
https://arxiv.org/abs/2007.07682, algorithm 1 and appendix C.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Bounds, ClientInfo, Message, Wire
from fedjaxlite.wire.clips import needs_floats
from fedjaxlite.wire.packing.bits import unpack
from fedjaxlite.wire.packing.forms import Form, form_of, from_vectors, of_parts, to_parts, to_vectors


class _State(NamedTuple):
    """The hashes of this round.

    Attributes:
      seed: uint32 `[2]`.
      form: static, the update's structure.
    """

    seed: jax.Array
    form: Form


def count_sketch(*, columns: int) -> Aggregator:
    """Sends a sketch of an update: random signed sums of its entries, which add up as updates do.

    Args:
      columns: c, numbers in a message, for each part with a weight of its own; at most the entries of a part.

    Returns:
      an Aggregator that survives a sum. A message holds c float32 of each part; a client downloads 8 bytes of seed. The
      squared error is (d/c - 1) of the squared norm, that of `rand_k` at equal size, but spread evenly over entries.
      For `fl.quantize` an `fl.clip_by_value` may stand between: what a column can sum up to is far above what it does.

    Raises:
      ValueError, TypeError: if `columns` is no int of at least 1; when built, if a part has fewer entries than columns,
        or values are integers already.

    Guarantees:
      Decoding a sum is the sum of decoding each message; the mean over seeds is the update. With m = ceil(d/c), the
      entries of a column at most, the L2 norm grows by m at most, and so does its bound on the wire. What is sent is
      the sketch times the root of m, so that decoding lengthens nothing: neither updates nor the noise on them.

    Source: Rothchild et al. (2020), https://arxiv.org/abs/2007.07682, algorithm 1.

    Example:
      >>> import fedjaxlite as fl
      >>> end = fl.chain(fl.mean(), count_sketch(columns=100)).init(fl.wire_of(jnp.zeros(1000), capacity=10))[1]
      >>> end.value.shape, end.overhead
      ((100,), (0, 8))
    """
    columns = checks.positive_int("It is the number of sums in a message.", columns=columns)

    def init(wire: Wire) -> tuple[_State, Wire]:
        needs_floats("count_sketch", wire)
        form = form_of(wire)
        least = min(form.part_sizes)
        if columns > least:
            raise ValueError(
                f"`columns` is {columns} for an update with {least} entries in a part; expected at most so many, since "
                "a sketch has fewer numbers than what it is of. Take fewer columns, or leave the codec out."
            )
        state = _State(jax.random.bits(jax.random.key(0), (2,), jnp.uint32), form)
        structs = [jax.ShapeDtypeStruct((columns,), jnp.float32)] * len(form.part_sizes)
        told = wire._replace(value=to_parts(form, structs), codes=())
        return state, told._replace(bounds=prepare(state, wire.bounds)[1])

    def begin(state: _State, cohort: Any, key: Any) -> _State:
        del cohort
        return state._replace(seed=jax.random.bits(key, (2,), jnp.uint32))

    def prepare(state: _State, bounds: Bounds) -> tuple[_State, Bounds]:
        load = max(-(-entries // columns) for entries in state.form.part_sizes)
        l2 = None if bounds.l2 is None else bounds.l2 * load
        of_a_sum = (bounds.linf, load), (bounds.l2, math.sqrt(load)), (bounds.l1, 1.0)
        known = [bound * factor * math.sqrt(load) for bound, factor in of_a_sum if bound is not None]
        least = jnp.min(jnp.stack(known)) if checks.is_traced(known) else min(known, default=None)
        return state, Bounds(l2, least)

    def encode(state: _State, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        del client
        vectors = enumerate(to_vectors(state.form, message.value))
        sums = [sketch(x, columns, state.seed, part) * _root_load(x.shape[0], columns) for part, x in vectors]
        return message._replace(value=to_parts(state.form, sums)), client_state

    def read(state: _State, message: Message, client: ClientInfo) -> Message:
        del state, client
        return message  # sums of what is sent are all that is needed

    def decode(state: _State, total: Message, key: Any) -> tuple[Message, _State]:
        del key
        parts = enumerate(zip(of_parts(state.form, total.value), state.form.part_sizes, strict=True))
        vectors = [unsketch(sums / _root_load(d, columns), d, state.seed, part) for part, (sums, d) in parts]
        return total._replace(value=from_vectors(state.form, vectors)), state

    def overhead(state: _State, capacity: int) -> tuple[int, int]:
        del state, capacity
        return 0, 8

    return Aggregator(
        *(init, encode, decode),
        prepare=prepare,
        name="count_sketch",
        hparams={"columns": columns},
        begin=begin,
        public_seed=True,
        read=read,
        overhead=overhead,
    )


def sketch(vector: jax.Array, columns: int, seed: jax.Array, part: int = 0) -> jax.Array:
    """The sketch of a vector.

    Args:
      vector: `[d]`, floats or integers; unsigned ones are taken mod 2^32.
      columns: c.
      seed: uint32 `[2]`.
      part: another int has hashes of its own.

    Returns:
      `[c]`, of the vector's dtype.

    Example:
      >>> sums = sketch(jnp.arange(6), 3, jnp.zeros(2, jnp.uint32))
      >>> sums.shape, sums.dtype
      ((3,), dtype('int32'))
    """
    (entries,) = vector.shape
    shifts, signs = _hashes(entries, columns, seed, part)
    blocks = jnp.pad(jnp.where(signs, -vector, vector), (0, -entries % columns)).reshape(-1, columns)

    def add(block: jax.Array, sums: jax.Array) -> jax.Array:
        begin = (shifts[block],)
        return jax.lax.dynamic_update_slice(sums, jax.lax.dynamic_slice(sums, begin, (columns,)) + blocks[block], begin)

    if blocks.shape[0] <= _FEW_BLOCKS:
        # What a shift takes beyond the last column is kept behind it, and folded back at the end.
        sums = jax.lax.fori_loop(0, blocks.shape[0], add, jnp.zeros((2 * columns,), vector.dtype))
        return sums[:columns] + sums[columns:]
    source = _around(jnp.arange(columns, dtype=jnp.int32)[None, :] - shifts[:, None], columns)
    return jnp.take_along_axis(blocks, source, axis=1).sum(axis=0, dtype=vector.dtype)


def unsketch(sums: jax.Array, entries: int, seed: jax.Array, part: int = 0) -> jax.Array:
    """The vector that a sketch estimates, without bias.

    Args:
      sums: `[c]`.
      entries: d.
      seed: as in `sketch`.
      part: as in `sketch`.

    Returns:
      `[d]`.

    Example:
      >>> vector, seed = jnp.float32([0, 5, 0, 0]), jnp.zeros(2, jnp.uint32)
      >>> float(unsketch(sketch(vector, 2, seed), 4, seed)[1])
      5.0
    """
    (columns,) = sums.shape
    shifts, signs = _hashes(entries, columns, seed, part)
    column = _around(jnp.arange(columns, dtype=jnp.int32)[None, :] + shifts[:, None] - columns, columns)
    found = sums.at[column].get(mode="promise_in_bounds").reshape(-1)[:entries]
    return jnp.where(signs, -found, found)


_FEW_BLOCKS = 512
"""Up to so many a loop over long blocks is several times as fast on CPUs as a gather, which is one kernel for all."""


def _hashes(entries: int, columns: int, seed: jax.Array, part: int) -> tuple[jax.Array, jax.Array]:
    """A shift in [0, c) for each block, and for each entry whether its sign is changed."""
    key = jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), part)
    of_shifts, of_signs = jax.random.split(key)
    shifts = jax.random.randint(of_shifts, (-(-entries // columns),), 0, columns, jnp.int32)
    bits = jax.random.bits(of_signs, (-(-entries // 8),), jnp.uint8)
    return shifts, unpack(bits, entries, 1) == 1


def _root_load(entries: int, columns: int) -> jax.Array:
    return jnp.float32(math.sqrt(-(-entries // columns)))


def _around(column: jax.Array, columns: int) -> jax.Array:
    return jnp.where(column < 0, column + columns, column)
