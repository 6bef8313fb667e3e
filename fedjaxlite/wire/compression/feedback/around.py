"""Codecs in a row as one, whose single messages can be read: what a memory of errors needs."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import (
    AS_SENT,
    KEEP_TOTAL,
    NO_CLIENT_STATE,
    Aggregator,
    Bounds,
    ClientInfo,
    Message,
    Wire,
)

PyTree = Any


def checked(name: str, codecs: tuple[Any, ...]) -> tuple[Aggregator, ...]:
    """The codecs inside of `name`; refuses those whose messages cannot be read one by one."""
    kind = "a codec, such as fl.compression.top_k(fraction=0.1)"
    checks.one_instance(Aggregator, kind, **{f"{name}[{i}]": codec for i, codec in enumerate(codecs)})
    if not codecs:
        raise ValueError(
            f"`{name}` got no codec; expected what compresses, such as fl.compression.top_k(fraction=0.1)."
        )
    for codec in codecs:
        if codec.role != "value":
            raise ValueError(
                f"`{name}` got {codec.name}, a {codec.role}; expected codecs that compress one client's value. Put "
                f"{codec.name} into the chain beside `{name}`."
            )
        if codec.init_client is not NO_CLIENT_STATE:
            raise ValueError(f"`{name}` got {codec.name}, which keeps a state at clients itself. Use one of the two.")
        if codec.read is AS_SENT and codec.decode is not KEEP_TOTAL:
            raise ValueError(
                f"`{name}` got {codec.name}, which works on the sum of messages, and needs what can be read of one. "
                f"Put {codec.name} into the chain before `{name}`."
            )
    return codecs


def init_all(codecs: tuple[Aggregator, ...], wire: Wire) -> tuple[tuple[Any, ...], Wire]:
    """Their states, and the wire behind the last; what they send beside is one tuple."""
    states, asides = [], []
    for codec in codecs:
        state, wire = codec.init(wire._replace(aside=()))
        if not codec.sum_safe and wire.apart is None:
            wire = wire._replace(apart=codec.name)
        states.append(state)
        asides.append(wire.aside)
    return tuple(states), wire._replace(aside=together(asides))


def prepare_all(codecs: tuple[Aggregator, ...], states: Any, bounds: Bounds) -> tuple[tuple[Any, ...], Bounds]:
    """Their states for this round, and the bounds behind the last."""
    prepared = []
    for codec, state in zip(codecs, states, strict=True):
        state, bounds = codec.prepare(state, bounds)
        prepared.append(state)
    return tuple(prepared), bounds


def begin_all(codecs: tuple[Aggregator, ...], states: Any, cohort: Any, key: Any) -> tuple[Any, ...]:
    """Their states once a round has begun."""
    pairs = enumerate(zip(codecs, states, strict=True))
    return tuple(codec.begin(state, cohort, jax.random.fold_in(key, i)) for i, (codec, state) in pairs)


def encode_all(codecs: tuple[Aggregator, ...], states: Any, message: Message, client: ClientInfo) -> Message:
    """A message through all of them."""
    asides = []
    for i, (codec, state) in enumerate(zip(codecs, states, strict=True)):
        noise = None if client.noise is None else jax.random.fold_in(client.noise, i)
        key = None if client.key is None else jax.random.fold_in(client.key, i)
        message, _ = codec.encode(state, (), message, client._replace(key=key, noise=noise))
        asides.append(message.aside)
        message = message._replace(aside=())
    return message._replace(aside=together(asides))


def read_all(codecs: tuple[Aggregator, ...], states: Any, message: Message, client: ClientInfo) -> Message:
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


def unpack_last(codecs: tuple[Aggregator, ...], states: Any, message: Message, client: ClientInfo) -> Message:
    """One message of codecs that survive a sum, as it is summed: the last that packs unpacks."""
    asides = message.aside or ((),) * len(codecs)
    for codec, state, aside in reversed(list(zip(codecs, states, asides, strict=True))):
        if codec.read is not AS_SENT:
            return codec.read(state, message._replace(aside=aside), client)._replace(aside=())
    return message


def decode_all(codecs: tuple[Aggregator, ...], states: Any, total: Any) -> tuple[Any, tuple[Any, ...]]:
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
