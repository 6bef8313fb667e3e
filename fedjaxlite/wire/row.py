"""Codecs in a row: what a chain and a memory of errors both do with them, apart from means and masks."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.wire.aggregator import AS_SENT, Aggregator, Bounds, ClientInfo, Message, Wire

PyTree = Any
Row = tuple[Aggregator, ...]


def init_one(codec: Aggregator, wire: Wire) -> tuple[Any, Wire]:
    """A codec's state, and the wire behind it, which knows from where on messages are decoded one by one."""
    state, wire = codec.init(wire._replace(aside=()))
    return state, wire if codec.sum_safe or wire.apart else wire._replace(apart=codec.name)


def init_all(codecs: Row, wire: Wire) -> tuple[tuple[Any, ...], Wire]:
    """Their states, and the wire behind the last; what they send beside is one tuple."""
    states, asides = [], []
    for codec in codecs:
        state, wire = init_one(codec, wire)
        states.append(state)
        asides.append(wire.aside)
    return tuple(states), wire._replace(aside=together(asides))


def prepare_all(codecs: Row, states: Any, bounds: Bounds) -> tuple[tuple[Any, ...], Bounds]:
    """Their states for this round, and the bounds behind the last."""
    prepared = []
    for codec, state in zip(codecs, states, strict=True):
        state, bounds = codec.prepare(state, bounds)
        prepared.append(state)
    return tuple(prepared), bounds


def begin_all(codecs: Row, states: Any, cohort: Any, key: Any, public_key: Any = None) -> tuple[Any, ...]:
    """Their states once a round has begun; `public_key` is for those that draw what everyone may know."""
    begun = []
    for i, (codec, state) in enumerate(zip(codecs, states, strict=True)):
        own = key if public_key is None or not codec.public_seed else public_key
        begun.append(codec.begin(state, cohort, jax.random.fold_in(own, i)))
    return tuple(begun)


def overhead_of_all(codecs: Row, states: Any, capacity: int) -> tuple[int, int]:
    """Bytes up and down beside messages and model, of all of them."""
    found = [codec.overhead(state, capacity) for codec, state in zip(codecs, states, strict=True)]
    return sum(up for up, _ in found), sum(down for _, down in found)


def as_seen_by(i: int, client: ClientInfo) -> ClientInfo:
    """What the codec at place i knows of a client: with keys of its own."""
    own = lambda key: None if key is None else jax.random.fold_in(key, i)  # noqa: E731
    return client._replace(key=own(client.key), noise=own(client.noise))


def encode_all(codecs: Row, states: Any, message: Message, client: ClientInfo) -> Message:
    """A message through all of them."""
    asides = []
    for i, (codec, state) in enumerate(zip(codecs, states, strict=True)):
        message, _ = codec.encode(state, (), message, as_seen_by(i, client))
        asides.append(message.aside)
        message = message._replace(aside=())
    return message._replace(aside=together(asides))


def read_all(codecs: Row, states: Any, message: Message, client: ClientInfo) -> Message:
    """One message, undone to what the first of them was given."""
    client = client._replace(key=None, noise=None)
    asides = message.aside or ((),) * len(codecs)
    for codec, state, aside in reversed(list(zip(codecs, states, asides, strict=True))):
        message = codec.read(state, message._replace(aside=aside), client)
        if codec.sum_safe:
            message = decode_one(codec, state, message)
    return message._replace(aside=())


def decode_one(codec: Aggregator, state: Any, message: Message) -> Message:
    """What a codec that survives a sum makes of the sum of one message of weight 1."""
    alone, _ = codec.decode(state, message._replace(weight=jax.tree.map(jnp.ones_like, message.weight)), None)
    return alone._replace(weight=message.weight)


def unpack_last(codecs: Row, states: Any, message: Message, client: ClientInfo) -> Message:
    """One message of codecs that survive a sum, as it is summed: the last that packs unpacks, no other has a say."""
    client = client._replace(key=None, noise=None)
    asides = message.aside or ((),) * len(codecs)
    for codec, state, aside in reversed(list(zip(codecs, states, asides, strict=True))):
        if codec.read is not AS_SENT:
            return codec.read(state, message._replace(aside=aside), client)._replace(aside=())
    return message._replace(aside=())


def decode_all(codecs: Row, states: Any, total: Any) -> tuple[Any, tuple[Any, ...]]:
    """A sum of messages that survive it, undone by all of them, and their new states."""
    new_states = []
    for codec, state in reversed(list(zip(codecs, states, strict=True))):
        total, state = codec.decode(state, total, None)
        new_states.append(state)
    return total, tuple(reversed(new_states))


def together(asides: list[Any]) -> tuple[Any, ...]:
    """What codecs send beside, as one; nothing where none of them does."""
    nothing = all(isinstance(aside, tuple) and not aside for aside in asides)
    return () if nothing else tuple(asides)
