"""The entropy of codes: how small a message could be, beside how small it is.

    H = sum over symbols of -log2(share of the symbol in the leaf)      for a leaf of packed symbols
    H = log2 (d over k)                                                 for a set of k of d indices

It is the empirical entropy of order 0, leaf by leaf: no code of single symbols beats it, and arithmetic coding reaches
it but for some bytes (the table of shares is not counted). Plain numbers count whole: floats are as good as random.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.wire.aggregator import Aggregator, ClientInfo, Code, Message, Wire
from fedjaxlite.wire.packing.bits import unpack
from fedjaxlite.wire.packing.forms import num_bytes

PyTree = Any


def entropy_bytes(codes: tuple[Code | None, ...], message: Message, saved: float = 0.0) -> jax.Array:
    """The bytes that an ideal code of single symbols would take for a message.

    Args:
      codes: of the chain's wire, one for each leaf of the message's value; empty: all plain numbers.
      message: what a chain's `encode` returned.
      saved: the wire's `aside_saved`.

    Returns:
      float32 `[]`, never above the message's own bytes.

    Example:
      >>> packed = jnp.array([0b00000000, 0b11110000], jnp.uint8)  # 16 symbols of one bit, four of them 1
      >>> round(float(8 * entropy_bytes((Code(1, 16),), Message(packed, (), {}))), 2)  # 16 x H(1/4)
      12.98
    """
    leaves = jax.tree.leaves(message.value)
    beside = num_bytes((message.weight, message.scalars, message.aside))
    total = jnp.float32(beside - saved)
    for leaf, code in zip(leaves, codes or (None,) * len(leaves), strict=True):
        whole = num_bytes(leaf)
        if code is None:
            total = total + whole
        elif code.ideal is not None:
            total = total + min(code.ideal / 8, whole)
        else:
            total = total + jnp.minimum(_symbols(unpack(leaf, code.entries, code.bits)) / 8, whole)
    return total


def _symbols(codes: jax.Array) -> jax.Array:
    """The entropy of all symbols together, in bits; counting by sorting, since there may be 2^24 of them."""
    ordered = jnp.sort(codes)
    first, last = (jnp.searchsorted(ordered, ordered, side=side) for side in ("left", "right"))
    count = (last - first).astype(jnp.float32)
    return jnp.sum(jnp.log2(jnp.float32(codes.size)) - jnp.log2(count))


def entropy_of_normal(chain: Aggregator, wire: Wire, state: Any, key: jax.Array) -> float | None:
    """The bytes of an ideal code where a client's update is normal: what can be told before a run.

    Args:
      chain: of role "chain".
      wire: what its `init` returned.
      state: its state in a round, after `begin`.
      key: what the update is drawn from. Its entries have the standard deviation 0.01.

    Returns:
      bytes; None where nothing is packed, and behind a mask.
    """
    if wire.masked or wire.head is None or not any(code is not None for code in wire.codes):
        return None
    head = wire.head

    def measured(state: Any, key: jax.Array) -> jax.Array:
        leaves, tree = jax.tree.flatten(head.value)
        keys = jax.random.split(key, len(leaves) + 1)
        drawn = [
            (0.01 * jax.random.normal(own, leaf.shape)).astype(leaf.dtype)
            for own, leaf in zip(keys, leaves, strict=False)
        ]
        ones = lambda leaf: jnp.ones(leaf.shape, leaf.dtype)  # noqa: E731
        message = Message(tree.unflatten(drawn), jax.tree.map(ones, head.weight), jax.tree.map(ones, head.scalars))
        about = ClientInfo(jnp.int32(0), jnp.float32(1), keys[-1], jnp.bool_(True), jnp.int32(0), keys[-1])
        sent, _ = chain.encode(state, chain.init_client(head.value), message, about)
        return entropy_bytes(wire.codes, sent, wire.aside_saved)

    return float(jax.jit(measured)(state, key))


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Codes:
    """What the wire says of the packed leaves, static."""

    codes: tuple[Code | None, ...]
    saved: float


def measure_entropy() -> Aggregator:
    """Tells the entropy of every message beside its bytes; changes nothing, and costs a sort of every message.

    Returns:
      an Aggregator that stands last in a chain, behind what compresses. `PassInfo.clients["entropy_up"]`, and so
      records and plots, then hold the bytes of an ideal code of each client's message, float32 `[K]`.

    Raises:
      ValueError: when the chain is made, behind a mask: what is masked looks random.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.chain(fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=4), measure_entropy()).name
      'chain(mean, clip_by_value, quantize, measure_entropy)'
    """

    def init(wire: Wire) -> tuple[_Codes, Wire]:
        return _Codes(wire.codes, wire.aside_saved), wire

    def tell(state: _Codes, message: Message) -> Mapping[str, jax.Array]:
        return {"entropy_up": entropy_bytes(state.codes, message, state.saved)}

    return Aggregator(init=init, tell=tell, name="measure_entropy")
