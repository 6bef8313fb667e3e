"""Codecs in a row: encode goes down the chain, decode comes back up, and an order that cannot work is refused."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.protocol.algorithm import Aggregate
from fedjaxlite.wire.aggregator import Aggregator, Bounds, ClientInfo, Message, Wire

PyTree = Any


def chain(*codecs: Aggregator) -> Aggregator:
    """Composes codecs: encodes from the first to the last, decodes from the last to the first.

    A mean stands first: it sets each message's weight and divides last. The chain multiplies by the weight after the
    last value codec and before the first mask, so clipping never eats a weight and masks cancel.

    Args:
      *codecs: `mean` or `weighted_mean` first, then value codecs, then masks.

    Returns:
      the Aggregator that does it all; its decode gives a `fedjaxlite.Aggregate`.

    Raises:
      ValueError: for an empty chain, a chain without a mean at its head or with another one later, or a codec behind
        a mask. Orders that only shapes and facts can tell (clip after quantize) are refused when rounds are built.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), fl.quantize(bits=8)).name
      'chain(mean, clip_by_global_norm, quantize)'
    """
    kind = "a codec, such as fl.mean() or fl.clip_by_value(1.0)"
    checks.one_instance(Aggregator, kind, **{f"chain[{i}]": codec for i, codec in enumerate(codecs)})
    flat = tuple(part for codec in codecs for part in (codec.parts or (codec,)))
    _check_order(flat)
    masks = next((i for i, codec in enumerate(flat) if codec.role == "mask"), len(flat))
    stacking = any(codec.role == "stack" for codec in flat)
    public_count = flat[0].public_count

    def init(wire: Wire) -> tuple[Any, Wire]:
        states = []
        for codec in flat:
            state, wire = codec.init(wire)
            states.append(state)
        return tuple(states), wire

    def prepare(states: Any, bounds: Bounds) -> tuple[Any, Bounds]:
        prepared = []
        for codec, state in zip(flat, states, strict=True):
            state, bounds = codec.prepare(state, bounds)
            prepared.append(state)
        return tuple(prepared), bounds

    def encode(states: Any, client_states: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        states, _ = prepare(states, Bounds())
        new_states = []
        for i, (codec, state, client_state) in enumerate(zip(flat, states, client_states, strict=True)):
            if i == masks and not stacking:
                message = multiply(message)
            noise = None if client.noise is None else jax.random.fold_in(client.noise, i)
            info = client._replace(key=jax.random.fold_in(client.key, i), noise=noise)
            message, client_state = codec.encode(state, client_state, message, info)
            new_states.append(client_state)
        if masks == len(flat) and not stacking:
            message = multiply(message)
        return message, tuple(new_states)

    def decode(states: Any, total: Any, key: Any) -> tuple[Aggregate, Any]:
        states, _ = prepare(states, Bounds())
        new_states = list(states)
        for i in reversed(range(len(flat))):
            total, new_states[i] = flat[i].decode(states[i], total, jax.random.fold_in(key, i))
        count = jnp.int32(-1) if public_count is None else jnp.round(public_count).astype(jnp.int32)
        return Aggregate(total.value, total.weight, count, total.scalars), tuple(new_states)

    def init_client(template: Any) -> Any:
        return tuple(codec.init_client(template) for codec in flat)

    names = ", ".join(codec.name for codec in flat)
    name = names if len(flat) == 1 else f"chain({names})"
    hparams = {codec.name: codec.hparams for codec in flat}
    return Aggregator(
        *(init, encode, decode, init_client, prepare, "chain", name, flat, hparams),
        begin=partial(_begin_all, flat),
        metrics=partial(_metrics_of_all, flat),
        public_count=public_count,
        num_rounds=min((codec.num_rounds for codec in flat if codec.num_rounds is not None), default=None),
    )


def _begin_all(codecs: tuple[Aggregator, ...], states: Any, cohort: Any, key: Any) -> tuple[Any, ...]:
    pairs = enumerate(zip(codecs, states, strict=True))
    return tuple(codec.begin(state, cohort, jax.random.fold_in(key, i)) for i, (codec, state) in pairs)


def _metrics_of_all(codecs: tuple[Aggregator, ...], states: Any) -> dict[str, Any]:
    told = [(codec.name, codec.metrics(state)) for codec, state in zip(codecs, states, strict=True)]
    return {f"{name}_{key}": value for name, own in told for key, value in own.items()}


def _check_order(codecs: tuple[Aggregator, ...]) -> None:
    names = ", ".join(codec.name for codec in codecs)
    if not codecs or codecs[0].role != "mean":
        raise ValueError(
            f"chain({names}) has no mean at its head; expected `fl.mean()` or `fl.weighted_mean()` as the first codec, "
            "since it sets the clients' weights and divides last. Write fl.chain(fl.weighted_mean(), ...)."
        )
    for i, codec in enumerate(codecs[1:], start=1):
        if codec.role == "mean":
            raise ValueError(
                f"chain({names}) has {codec.name} at position {i}; expected one mean, at the head. Move it there."
            )
        if codec.role != "mask" and codecs[i - 1].role == "mask":
            raise ValueError(
                f"chain({names}) has {codec.name} behind the mask {codecs[i - 1].name}; a masked message cannot be "
                f"changed without breaking the sum. Put {codec.name} before it."
            )
        if codec.role != "stack" and codecs[i - 1].role == "stack":
            raise ValueError(
                f"chain({names}) has {codec.name} behind {codecs[i - 1].name}, which needs every message apart. "
                f"Put {codec.name} before it, or leave it out."
            )


def map_prefix(fn: Callable[[Any, Any], Any], weight: Any, value: PyTree) -> PyTree:
    """Maps `fn(weight, leaf)` over `value`, where `weight` is a scalar or a tree prefix of `value`."""
    return jax.tree.map(lambda w, subtree: jax.tree.map(lambda leaf: fn(w, leaf), subtree), weight, value)


def multiply(message: Message) -> Message:
    """A message times its weight, in the group of its value: the summand of a weighted mean.

    Narrow floats (bfloat16, float16) become float32, in which sums are kept. In integers mod 2^32 the weight becomes an
    integer too; a weight cap keeps the product in range.
    """
    integers = any(leaf.dtype == jnp.uint32 for leaf in jax.tree.leaves(message.value))
    to_group = (lambda w: jnp.round(w).astype(jnp.uint32)) if integers else (lambda w: w)
    weight = jax.tree.map(to_group, message.weight)

    def times(w: jax.Array, leaf: jax.Array) -> jax.Array:
        narrow = not integers and jnp.finfo(leaf.dtype).bits < 32
        leaf = leaf.astype(jnp.float32) if narrow else leaf
        return leaf * w.astype(leaf.dtype)

    value = map_prefix(times, weight, message.value)
    if not message.scalars:
        return Message(value, weight, {})
    one = jax.tree.leaves(weight)[0]  # scalars are refused beside a tree of weights
    return Message(value, weight, {name: one.astype(s.dtype) * s for name, s in message.scalars.items()})
