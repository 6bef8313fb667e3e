"""Codecs in a row: encode goes down the chain, decode comes back up, and an order that cannot work is refused."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.protocol.algorithm import Aggregate
from fedjaxlite.wire import row
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
ROWS = ("rows", "stack")
"""The roles of codecs that work on all messages of a round at once."""
SUM_SAFE = ("quic_fl", "thc", "sign_vote", "noisy_sign", "rand_k", "count_sketch", "power_sgd")
"""The codecs of fl.compression that survive a sum, for messages; a test holds it against the codecs themselves."""


def chain(*codecs: Aggregator) -> Aggregator:
    """Composes codecs: encodes from the first to the last, decodes from the last to the first.

    A mean stands first: it sets each message's weight and divides last. The chain multiplies by the weight after the
    last value codec and before the first mask, so clipping never eats a weight and masks cancel.

    Args:
      *codecs: `mean` or `weighted_mean` first, then value codecs; then masks, or a rule that is no sum (`fl.stack`,
        `fl.rule`, those of `fl.robust`), with what changes all messages before it (`fl.restack`).

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
    masks, first = _num_unmasked(flat), first_apart(flat)
    stacking, rows_from = any(codec.role == "stack" for codec in flat), _num_before_rows(flat)
    public_count = flat[0].public_count

    def encode(states: Any, client_states: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        states, _ = row.prepare_all(flat, states, Bounds())
        new_states, asides = [], []
        for i, (codec, state, client_state) in enumerate(zip(flat, states, client_states, strict=True)):
            if i == masks and not stacking:
                message = multiply(message)
            message, client_state = codec.encode(state, client_state, message, row.as_seen_by(i, client))
            new_states.append(client_state)
            asides.append(message.aside)
            message = message._replace(aside=())
        return message._replace(aside=row.together(asides)), tuple(new_states)

    def read(states: Any, message: Message, client: ClientInfo) -> Message:
        if masks < len(flat):
            return message
        states, _ = row.prepare_all(flat, states, Bounds())
        if first == len(flat):
            message = row.unpack_last(flat, states, message, client)
        else:
            apart = slice(first, rows_from)  # what works on rows stands last, and reads nothing of a single message
            asides = message.aside or ((),) * len(flat)
            message = row.read_all(flat[apart], states[apart], message._replace(aside=asides[apart]), client)
        return message if stacking else multiply(message)

    def decode(states: Any, total: Any, key: Any) -> tuple[Aggregate, Any]:
        states, _ = row.prepare_all(flat, states, Bounds())
        new_states = list(states)
        # What works on rows does so in the order of the chain; then all others undo what they did, the last one first.
        order = [*range(rows_from, len(flat)), *reversed(range(rows_from))]
        left_out = None
        for i in order:
            left_out = getattr(total, "left_out", left_out)  # of Rows
            read_already = i > first or (i == first and flat[i].sum_safe)
            if not read_already or i >= rows_from:
                total, new_states[i] = flat[i].decode(states[i], total, jax.random.fold_in(key, i))
        count = jnp.int32(-1) if public_count is None else jnp.round(public_count).astype(jnp.int32)
        return Aggregate(total.value, total.weight, count, total.scalars, left_out), tuple(new_states)

    def init_client(template: Any) -> Any:
        return tuple(codec.init_client(template) for codec in flat)

    names = ", ".join(codec.name for codec in flat)
    name = names if len(flat) == 1 else f"chain({names})"
    hparams = {codec.name: codec.hparams for codec in flat}
    return Aggregator(
        *(partial(_init_all, flat), encode, decode, init_client, partial(row.prepare_all, flat), "chain", name),
        *(flat, hparams),
        begin=partial(row.begin_all, flat),
        metrics=partial(_metrics_of_all, flat),
        public_count=public_count,
        num_rounds=min((codec.num_rounds for codec in flat if codec.num_rounds is not None), default=None),
        read=read,
        sum_safe=all(codec.sum_safe for codec in flat),
        overhead=partial(row.overhead_of_all, flat),
        tell=partial(_tell_all, flat),
    )


def first_apart(codecs: tuple[Aggregator, ...]) -> int:
    """The first codec whose messages are decoded one by one, as are those of all codecs behind it.

    Before a stack, which needs messages apart, that is the first one that can be read.
    """
    stacking = any(codec.role == "stack" for codec in codecs)
    apart = (i for i, codec in enumerate(codecs) if not codec.sum_safe or (stacking and codec.read is not AS_SENT))
    return next(apart, len(codecs))


def _num_unmasked(codecs: tuple[Aggregator, ...]) -> int:
    return next((i for i, codec in enumerate(codecs) if codec.role == "mask"), len(codecs))


def _num_before_rows(codecs: tuple[Aggregator, ...]) -> int:
    return next((i for i, codec in enumerate(codecs) if codec.role in ROWS), len(codecs))


def _init_all(codecs: tuple[Aggregator, ...], wire: Wire) -> tuple[Any, Wire]:
    states, asides, first = [], [], first_apart(codecs)
    stacking = any(codec.role == "stack" for codec in codecs)
    wire = wire._replace(mask_ahead=_num_unmasked(codecs) < len(codecs), stack_ahead=stacking)
    shapes = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)  # noqa: E731
    wire = wire._replace(head=shapes(Message(wire.value, wire.weight, dict(wire.scalars))))
    update = summed = wire.value
    capacity = wire.capacity  # of clients; what stands before a rule may hand on fewer rows
    for i, codec in enumerate(codecs):
        if i == first:
            summed = wire.value
        _check_own_state(codec, wire, update)
        if codec.role in ROWS and i > first:
            # It sees what was read of each message, not what was sent.
            state, told = codec.init(wire._replace(value=summed, group="float"))
            wire = wire._replace(fold=told.fold, capacity=told.capacity)
        else:
            state, wire = row.init_one(codec, wire)
        states.append(state)
        asides.append(() if codec.role in ROWS else wire.aside)
    overhead = row.overhead_of_all(codecs, tuple(states), capacity)
    return tuple(states), wire._replace(aside=row.together(asides), overhead=overhead, capacity=capacity)


def _metrics_of_all(codecs: tuple[Aggregator, ...], states: Any) -> dict[str, Any]:
    told = [(codec.name, codec.metrics(state)) for codec, state in zip(codecs, states, strict=True)]
    return {f"{name}_{key}": value for name, own in told for key, value in own.items()}


def _tell_all(codecs: tuple[Aggregator, ...], states: Any, message: Message) -> dict[str, Any]:
    told = [codec.tell(state, message) for codec, state in zip(codecs, states, strict=True)]
    return {name: value for own in told for name, value in own.items()}


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
        if {codec.role, codecs[i - 1].role} in ({"mask", "rows"}, {"mask", "stack"}):
            mask, rule = (codecs[i - 1], codec) if codecs[i - 1].role == "mask" else (codec, codecs[i - 1])
            raise ValueError(
                f"chain({names}) has both {mask.name} and {rule.name}: behind a mask the server sees a sum of updates "
                f"alone, and {rule.name} needs every message apart. Leave one of the two out. What survives a secure "
                "sum is a bound on what each client adds: fl.clip_by_global_norm(...) before the mask."
            )
        if codec.role != "mask" and codecs[i - 1].role == "mask":
            raise ValueError(
                f"chain({names}) has {codec.name} behind the mask {codecs[i - 1].name}; a masked message cannot be "
                f"changed without breaking the sum. Put {codec.name} before it."
            )
        if codecs[i - 1].role == "stack":
            remedy = "One rule ends a chain: leave one out" if codec.role == "stack" else f"Put {codec.name} before it"
            raise ValueError(
                f"chain({names}) has {codec.name} behind {codecs[i - 1].name}, which makes one update of all messages. "
                f"{remedy}."
            )
        if codecs[i - 1].role == "rows" and codec.role not in ROWS:
            raise ValueError(
                f"chain({names}) has {codec.name} behind {codecs[i - 1].name}, which works on all messages of a round "
                f"at once. Put {codec.name} before it."
            )
    if codecs[-1].role == "rows":
        raise ValueError(
            f"chain({names}) ends with {codecs[-1].name}, which hands all messages on and makes no update of them. Put "
            "a rule behind it: fl.robust.mean() for the mean, or another of fl.robust."
        )
    _check_sums(codecs, names)


def _check_sums(codecs: tuple[Aggregator, ...], names: str) -> None:
    """Refuses what needs a sum where messages are decoded one by one."""
    apart = next((codec for codec in codecs if not codec.sum_safe), None)
    mask = next((codec for codec in codecs if codec.role == "mask"), None)
    if apart and mask:
        raise ValueError(
            f"chain({names}) has {apart.name} before the mask {mask.name}; the server decodes {apart.name} message by "
            "message, and behind a mask it has their sum alone. Use a codec that survives a sum: fl.quantize, or of "
            f"fl.compression {', '.join(SUM_SAFE)}."
        )
    first = first_apart(codecs)
    for codec in codecs[first:]:
        if codec.role == "value" and codec.read is AS_SENT and codec.decode is not KEEP_TOTAL:
            why = "which needs every message apart" if codecs[first].sum_safe else "decoded message by message"
            raise ValueError(
                f"chain({names}) has {codec.name} behind {codecs[first].name}, {why}; {codec.name} works on the sum of "
                f"messages as they are sent. Put {codec.name} before it, or leave it out."
            )


def _check_own_state(codec: Aggregator, wire: Wire, update: Any) -> None:
    """Refuses what keeps a state at clients behind what changes the structure of the update."""
    shapes = lambda tree: (jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)])  # noqa: E731
    if codec.init_client is not NO_CLIENT_STATE and shapes(wire.value) != shapes(update):
        raise ValueError(
            f"`{codec.name}` keeps a state like the update at each client, and stands behind a codec that changes the "
            f"update's shapes. Put `{codec.name}` before that codec, or around it."
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
        return message._replace(value=value, weight=weight, scalars={})
    one = jax.tree.leaves(weight)[0]  # scalars are refused beside a tree of weights
    scalars = {name: one.astype(s.dtype) * s for name, s in message.scalars.items()}
    return message._replace(value=value, weight=weight, scalars=scalars)
