"""Aggregators: codecs around a sum. What crosses the wire, and what may the server see?

    client   value --(clip)--> value --(quantize)--> integers --(* weight)--> --(mask)--> element      encode
    wire                                                                       sum of elements         fold
    server   mean <--(/ weight)-- sum <--(clip: nothing)-- sum <--(scale)-- sum <--(unmask)-- total    decode

A server that may only learn a sum can only use `decode(sum of encode(x))`. The fold is therefore not a parameter: it is
pytree addition, in floats or in the integers mod 2^32, so that accumulating is `+`, merging devices is `psum`, and the
type is what secure aggregation can compute.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.algorithm import Aggregate

PyTree = Any


class Message(NamedTuple):
    """What a client sends. Codecs transform `value`; weight and scalars travel beside it.

    Attributes:
      value: pytree; `ClientOutput.update` when it enters the chain.
      weight: scalar, or a tree prefix of `value`.
      scalars: dict of scalars.
    """

    value: PyTree
    weight: Any
    scalars: Mapping[str, Any]


class ClientInfo(NamedTuple):
    """What a codec may know of the client it encodes for.

    Attributes:
      id: int32 scalar, index in the population.
      weight: float32 scalar that a sampler gives (importance sampling); 1 otherwise, 0 for a client whose update is
        not finite.
      key: the client's key for encoding in this round.
      alive: bool scalar; False for a lane without a client, whose element is replaced by zero afterwards.
      slot: int32 scalar, the client's place in the cohort. Only masks, which cancel, may depend on it.
      noise: a key for noise that protects the client, a function of the run's noise key, the round and the id; None
        where there is no run.
    """

    id: Any
    weight: Any
    key: Any
    alive: Any
    slot: Any = 0
    noise: Any = None


class Bounds(NamedTuple):
    """What is known of the size of a client's `value`, this round.

    Attributes:
      l2: bound on the L2 norm over all leaves, a number or scalar array, or None if there is none.
      linf: bound on every entry, likewise.
      l1: bound on the sum of absolute values over all leaves, likewise.
    """

    l2: Any = None
    linf: Any = None
    l1: Any = None


class Wire(NamedTuple):
    """What a chain knows about the messages on their way: shapes and facts, known when the chain is built.

    Attributes:
      value: pytree of `jax.ShapeDtypeStruct`.
      weight: scalar struct, or a tree prefix of `value` with scalar structs.
      scalars: dict of scalar structs.
      scalar_bounds: the largest absolute value of each scalar that declares one.
      capacity: int, the most clients in one sum.
      scaled: whether the sampler changes weights (importance sampling), so that they are not integers.
      group: "float", or "mod32" for integers mod 2^32 in uint32.
      weight_cap: int, the largest weight of one client, or None if unknown.
      denominator: what a mean divides by: None for the weights' own sum, or a fixed number.
      bits: bits per entry on the wire, or None for the dtype's own.
      bounds: this chain's bounds when it starts.
      headed: a mean stood at the head.
      noised, masked: a mechanism added noise; a mask hides single messages.
      mechanisms: what the mechanisms say of their noise, for accountants; the engine does not look into them.
      num_clients: int, N, or None if unknown.
      participation: the sampler's `Accounting`, or None for a sum that no sampler draws.
      fold: "sum", or "stack" when a codec needs every message apart.

    One client who weighs 1 changes the sum by at most `bounds.l2`, as it stands at the end of the chain.
    """

    value: PyTree
    weight: Any
    scalars: Mapping[str, Any]
    scalar_bounds: Mapping[str, float]
    capacity: int
    scaled: bool = False
    group: str = "float"
    weight_cap: int | None = None
    denominator: Any = None
    bits: int | None = None
    bounds: Bounds = Bounds()
    headed: bool = False
    noised: bool = False
    masked: bool = False
    mechanisms: tuple[Any, ...] = ()
    num_clients: int | None = None
    participation: Any = None
    fold: str = "sum"


class Stacked(NamedTuple):
    """The total of a chain that folds by stacking: K clients' messages in cohort order.

    Attributes:
      message: a Message with leading axis `[K]` on every leaf; zeros where no client is.
      present: bool `[K]`.
    """

    message: Message
    present: Any


def _stateless(wire: Wire) -> tuple[Any, Wire]:
    return (), wire


def _no_client_state(template: Any) -> Any:
    del template
    return ()


def _keep(state: Any, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
    del state, client
    return message, client_state


def _return(state: Any, total: Any, key: Any) -> tuple[Any, Any]:
    del key
    return total, state


def _same_bounds(state: Any, bounds: Bounds) -> tuple[Any, Bounds]:
    return state, bounds


def _begin_nothing(state: Any, cohort: Any, key: Any) -> Any:
    del cohort, key
    return state


def _tell_nothing(state: Any) -> Mapping[str, Any]:
    del state
    return {}


class Aggregator(NamedTuple):
    """A codec: pure functions, of which `encode` runs on the client and the others on the server.

    Attributes:
      init: `init(wire) -> (state, wire)`, once, when the rounds are built; refuses wires that it cannot take.
      encode: `encode(state, client_state, message, client) -> (message, client_state)`, vmapped over clients. Never
        sees a value that depends on the rest of the cohort.
      decode: `decode(state, total, key) -> (total, state)`, once a round; in a chain from the last codec to the first.
        Linear in the total, since the total is a weighted sum. The state it returns has the structure of init's.
      init_client: `init_client(value_template) -> client_state`, what the codec keeps at each client (error feedback).
      prepare: `prepare(state, bounds) -> (state, bounds)`, before encoding and decoding: how this round's bounds change
        on the way down the chain, and a chance to take them over (a quantizer's range under an adaptive clip).
      role: "mean" (stands first, sets weights, divides last), "value", "stack", "mask" (last), or "chain".
      name: for messages and records.
      parts: a chain's codecs.
      hparams: for printing and for the record of a run.
      begin: `begin(state, cohort, key) -> state`, once a round on the server before anyone encodes; what it returns is
        the state that this round's prepare, encode and decode see, of any structure. Only masks may use the cohort.
      metrics: `metrics(state) -> {name: scalar}`, what the codec tells of itself after a round (an adaptive clip norm);
        a real server sees it too.
      public_count: the number of clients that an algorithm is told of instead of those in the sum; set by a mean with a
        fixed denominator, so that nothing the server does depends on a count that it should not know.
      num_rounds: how many rounds the codec is made for, or None for any number (noise planned for a whole run).
    """

    init: Callable[[Wire], tuple[Any, Wire]] = _stateless
    encode: Callable[[Any, Any, Message, ClientInfo], tuple[Message, Any]] = _keep
    decode: Callable[[Any, Any, Any], tuple[Any, Any]] = _return
    init_client: Callable[[Any], Any] = _no_client_state
    prepare: Callable[[Any, Bounds], tuple[Any, Bounds]] = _same_bounds
    role: str = "value"
    name: str = "codec"
    parts: tuple["Aggregator", ...] = ()
    hparams: Mapping[str, Any] = {}
    begin: Callable[[Any, Any, Any], Any] = _begin_nothing
    metrics: Callable[[Any], Mapping[str, Any]] = _tell_nothing
    public_count: Any = None
    num_rounds: int | None = None


def chain(*codecs: Aggregator) -> Aggregator:
    """Composes codecs: encodes from the first to the last, decodes from the last to the first.

    A mean stands first: it sets each message's weight and divides last. The chain multiplies by the weight after the
    last value codec and before the first mask, so clipping never eats a weight and masks cancel.

    Args:
      *codecs: `mean` or `weighted_mean` first, then value codecs, then masks.

    Returns:
      the Aggregator that does it all; its decode gives a `fedjaxlite.algorithm.Aggregate`.

    Raises:
      ValueError: for an empty chain, a chain without a mean at its head or with another one later, or a codec behind
        a mask. Orders that only shapes and facts can tell (clip after quantize) are refused when rounds are built.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), fl.quantize(bits=8)).name
      'chain(mean, clip_by_global_norm, quantize)'
    """
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
