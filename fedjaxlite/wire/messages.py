"""Messages as bytes: what a client would send, and what a file of it holds. Nothing but the arrays' own bytes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Message, Wire


def message_to_bytes(message: Message) -> bytes:
    """A message's arrays, one after the other, little-endian.

    Shapes and dtypes are not in it: they follow from the chain, which both sides have built. So its length is the sum
    of the arrays' bytes, which is `rounds.traffic(...).up` without what a protocol adds.

    Args:
      message: what a chain's `encode` returned for one client.

    Returns:
      bytes.

    Raises:
      TypeError: if it is no Message.

    Example:
      >>> import fedjaxlite as fl
      >>> chain = fl.chain(fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=4))
      >>> state, wire = chain.init(fl.wire_of(jnp.zeros(10), capacity=2))
      >>> client = fl.ClientInfo(id=0, weight=1.0, key=jax.random.key(0), alive=True)
      >>> own = chain.init_client(jnp.zeros(10))
      >>> message, own = chain.encode(state, own, fl.Message(jnp.ones(10), 1, {}), client)
      >>> len(message_to_bytes(message))
      9
      >>> message_from_bytes(wire, message_to_bytes(message)).value.tolist() == message.value.tolist()
      True
    """
    if not isinstance(message, Message):
        raise TypeError(f"`message` is a {type(message).__name__}; expected the Message that a chain's `encode` gave.")
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(message)]
    return b"".join(leaf.astype(leaf.dtype.newbyteorder("<"), copy=False).tobytes() for leaf in leaves)


def message_from_bytes(wire: Wire, data: bytes) -> Message:
    """The message of `message_to_bytes`, as the chain's wire says what it holds.

    Args:
      wire: what the chain's `init` returned.
      data: bytes.

    Returns:
      a Message of arrays, for the chain's `read`.

    Raises:
      TypeError: if `wire` is no Wire. ValueError: if the data are longer or shorter than such a message.
    """
    if not isinstance(wire, Wire):
        raise TypeError(f"`wire` is a {type(wire).__name__}; expected the Wire that a chain's `init` returned.")
    form = Message(wire.value, wire.weight, dict(wire.scalars), wire.aside)
    structs, tree = jax.tree.flatten(form)
    sizes = [int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in structs]
    checks.one_instance(bytes, "bytes", data=data)
    if len(data) != sum(sizes):
        raise ValueError(
            f"`data` has {len(data):,} bytes, and a message of this chain has {sum(sizes):,}. Build the chain and its "
            "wire with the arguments and shapes that the sender had."
        )
    leaves: list[Any] = []
    begin = 0
    for leaf, size in zip(structs, sizes, strict=True):
        flat = np.frombuffer(data[begin : begin + size], np.dtype(leaf.dtype).newbyteorder("<"))
        leaves.append(jnp.asarray(flat.astype(np.dtype(leaf.dtype), copy=False).reshape(leaf.shape)))
        begin += size
    return tree.unflatten(leaves)
