"""A chain as its two ends: what clients send in, and what the server gets out, without rounds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl

PyTree = Any


class Channel(NamedTuple):
    """A built chain, and its two ends, compiled once."""

    chain: fl.Aggregator
    state: Any
    wire: fl.Wire
    encode_all: Callable[..., fl.Message]
    decode: Callable[..., Any]


def shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)


def open_wire(
    template: PyTree, *, scalar_bounds: Any = None, undeclared: tuple[str, ...] = (), **facts: Any
) -> fl.Wire:
    bounds = dict(scalar_bounds or {})
    scalars = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in (*bounds, *undeclared)}
    facts = {"capacity": 8, **facts}
    return fl.Wire(shapes(template), jax.ShapeDtypeStruct((), jnp.int32), scalars, bounds, **facts)


def open_channel(*codecs: fl.Aggregator, template: PyTree, over: Any = 1.0, **facts: Any) -> Channel:
    """The codecs behind a mean over a fixed number, 1 where the sum itself is looked at."""
    wire = open_wire(template, **facts)
    return as_channel(fl.chain(fl.mean(over=over), *codecs), wire)


def as_channel(chain: fl.Aggregator, wire: fl.Wire) -> Channel:
    state, end = chain.init(wire)
    own_state = chain.init_client(wire.value)

    def encode_all(state: Any, updates: PyTree, scalars: Any, weights: Any) -> fl.Message:
        def encode(update: Any, own: Any, weight: Any, i: Any) -> fl.Message:
            info = fl.ClientInfo(i, weight, jax.random.key(i), jnp.bool_(True))
            message, _ = chain.encode(state, own_state, fl.Message(update, jnp.int32(1), own), info)
            return chain.read(state, message, info)

        ids = jnp.arange(weights.shape[0], dtype=jnp.int32)
        messages = jax.vmap(encode)(updates, scalars, weights, ids)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=x.dtype), messages)

    return Channel(chain, state, end, jax.jit(encode_all), jax.jit(chain.decode))


def sent(
    channel: Channel, updates: PyTree, scalars: Any = None, *, state: Any = None, weights: Any = None
) -> fl.Message:
    """The sum of K clients' encoded messages; `updates` has a leading axis `[K]` on every leaf."""
    size = jax.tree.leaves(updates)[0].shape[0]
    weights = jnp.ones((size,), jnp.float32) if weights is None else weights
    return channel.encode_all(channel.state if state is None else state, updates, scalars or {}, weights)


def received(channel: Channel, total: fl.Message, key: Any = None, *, state: Any = None) -> tuple[fl.Aggregate, Any]:
    """What the server makes of a total: an Aggregate and the new state."""
    key = jax.random.key(0) if key is None else key
    return channel.decode(channel.state if state is None else state, total, key)


def nothing(channel: Channel) -> fl.Message:
    """The total of a round in which nobody reported."""
    wire = channel.wire
    zeros = lambda s: jnp.zeros(s.shape, s.dtype)  # noqa: E731
    return jax.tree.map(zeros, fl.Message(wire.value, wire.weight, dict(wire.scalars)))


def norm(tree: PyTree, order: int = 2) -> float:
    """In float64."""
    flat = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
    return float(np.linalg.norm(flat, order))
