"""Stochastic k-level quantization after a rotation that all clients share.

    client   z = R x                          R the same for all
             c_j = floor((z_j - min z) / step + u),  step = (max z - min z) / (k - 1),  u uniform on [0, 1)
    server   x' = R^T (min z + step c)

The rotation makes the range small: max z - min z is about sqrt(ln d / d) |x|, where it can be |x| before.

Source: Suresh, Yu, Kumar, McMahan (2017), https://arxiv.org/abs/1611.00429, section 3.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Bounds, ClientInfo, Code, Message, Wire
from fedjaxlite.wire.clips import needs_floats
from fedjaxlite.wire.compression.rotated.shared import (
    Rotation,
    common_key,
    first_seed,
    new_seed,
    norm_of,
    seed_alone,
    sizes_of,
    turned,
    turned_back,
    within,
)
from fedjaxlite.wire.packing.bits import pack, packed_size, unpack
from fedjaxlite.wire.packing.dither import dither, numbered
from fedjaxlite.wire.packing.forms import form_of, of_parts, to_parts

MOST_LEVELS = 2**16


def rotated_k_level(*, levels: int) -> Aggregator:
    """Stochastic rounding to k levels between the least and the largest entry of the rotated update.

    Args:
      levels: k, 2 to 65,536.

    Returns:
      an Aggregator, decoded message by message, since each has a range of its own. A message holds d ceil(log2 k) bits
      and 8 bytes for each part, d the part's entries and less than 1/64 of padding; a client downloads a seed of 8
      bytes.

    Raises:
      ValueError, TypeError: for levels out of range; when built, if values are integers already.

    Guarantees:
      Unbiased for every rotation, since rounding is. The mean over n clients has a squared error of at most
      (2 ln d + 2) / (n (k - 1)^2) times the mean squared norm, twice that in the worst case of a d that is no power of
      two. Norms: a message is at most min(sqrt(d), 1 + sqrt(2 d) / (k - 1)) times as long as what was sent, d the
      entries of the largest part; the wire's bound says so.

    Source: Suresh et al. (2017), https://arxiv.org/abs/1611.00429, section 3.

    Example:
      >>> import fedjaxlite as fl
      >>> chain = fl.chain(fl.mean(), rotated_k_level(levels=16))
      >>> state, end = chain.init(fl.wire_of(jnp.zeros(1024), capacity=10))
      >>> end.value.shape, end.aside[1].shape
      ((512,), (1, 2))
    """
    levels = checks.positive_int(levels=levels)
    if not 2 <= levels <= MOST_LEVELS:
        raise ValueError(f"`levels` is {levels}; expected 2 to {MOST_LEVELS:,}: an entry is rounded to one of them.")
    bits = (levels - 1).bit_length()

    def init(wire: Wire) -> tuple[Rotation, Wire]:
        needs_floats("rotated_k_level", wire)
        form = form_of(wire)
        state, sizes = Rotation(first_seed(), form), sizes_of(form)
        packed = [jax.ShapeDtypeStruct((packed_size(size, bits),), jnp.uint8) for size in sizes]
        told = wire._replace(
            value=to_parts(form, packed),
            aside=jax.ShapeDtypeStruct((len(sizes), 2), jnp.float32),
            codes=tuple(Code(bits, size) for size in sizes),
            bits=bits,
        )
        return state, told._replace(bounds=prepare(state, wire.bounds)[1])

    def prepare(state: Rotation, bounds: Bounds) -> tuple[Rotation, Bounds]:
        l2, size = norm_of(state.form, bounds), max(sizes_of(state.form))
        # An entry moves by less than a step, and two entries are at most sqrt(2) |x| apart; none leaves the range.
        factor = min(math.sqrt(size), 1 + math.sqrt(2 * size) / (levels - 1))
        return state, within(state.form, None if l2 is None else l2 * factor)

    def encode(state: Rotation, own: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        packed, ranges = [], []
        for i, z in enumerate(turned(state.form, message.value, common_key(state.seed))):
            low = jnp.min(z)
            step = (jnp.max(z) - low) / (levels - 1)
            per_step = jnp.where(step > 0, 1 / jnp.where(step > 0, step, 1.0), 0.0)
            drawn = dither(numbered(client.key, i), z.size)
            level = jnp.clip(jnp.floor((z - low) * per_step + drawn), 0, levels - 1)
            packed.append(pack(level.astype(jnp.uint32), bits))
            ranges.append(jnp.stack([low, step]))
        return message._replace(value=to_parts(state.form, packed), aside=jnp.stack(ranges)), own

    def read(state: Rotation, message: Message, client: ClientInfo) -> Message:
        del client
        packed = zip(of_parts(state.form, message.value), sizes_of(state.form), strict=True)
        vectors = [
            message.aside[i, 0] + message.aside[i, 1] * unpack(codes, size, bits).astype(jnp.float32)
            for i, (codes, size) in enumerate(packed)
        ]
        return message._replace(value=turned_back(state.form, vectors, common_key(state.seed)), aside=())

    return Aggregator(
        init,
        encode,
        prepare=prepare,
        name="rotated_k_level",
        hparams={"levels": levels},
        begin=new_seed,
        public_seed=True,
        read=read,
        sum_safe=False,
        overhead=seed_alone,
    )
