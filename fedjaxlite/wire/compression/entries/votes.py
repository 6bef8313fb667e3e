"""Signs that survive a sum: a majority vote, and signs of noisy entries, whose mean is the entry.

    majority:   sgn(sum_i w_i sgn(v_i))
    noisy:      scale E sgn(x + sigma z) = x for z uniform on [-1, 1], |x| <= sigma, scale = sigma
                variance sigma^2 - x^2
                E sgn(x + sigma z) = erf(x / (sigma sqrt(2))) for z normal
                scale = sigma sqrt(pi / 2), right for small x

The server sums signs. In a mask's integers they are 1 and -1 mod 2^32.

Source: Bernstein, Wang, Azizzadenesheli, Anandkumar (2018), "signSGD: Compressed Optimisation for Non-Convex Problems",
https://arxiv.org/abs/1802.04434, algorithm 1; Tang, Wang, Chang (2023), "z-SignFedAvg: A Unified Stochastic Sign-based
Compression for Federated Learning", https://arxiv.org/abs/2302.02589, algorithm 1 and lemma 1.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Bounds, ClientInfo, Code, Message, Wire
from fedjaxlite.wire.chain import map_prefix
from fedjaxlite.wire.clips import needs_floats
from fedjaxlite.wire.integers import words_like
from fedjaxlite.wire.packing.bits import pack, packed_size, unpack
from fedjaxlite.wire.packing.dither import dither, numbered, random_words
from fedjaxlite.wire.packing.forms import Form, form_of, from_leaves, to_leaves

PyTree = Any


class VoteState(NamedTuple):
    """What the server knows of a vote.

    Attributes:
      denominator: what the mean divides by, where that is not the weights' own sum; else None.
      form: static, the update's structure.
      masked: None, or () where a mask follows, which takes whole words.
    """

    denominator: Any
    form: Form
    masked: tuple[()] | None


def sign_vote() -> Aggregator:
    """Majority vote: each client sends the sign of each entry, and the update is the sign of their weighted sum.

    An entry of zero votes at random: one bit holds no zero, and all clients' zeros (rows of an embedding that nobody
    used) would otherwise push together. Where votes are equal the update is zero.

    Returns:
      an Aggregator: one bit an entry, nothing beside it. The server needs the sum of signs and nothing else, so it
      works before a mask; but the majority is no linear function of the sum. One vote can turn it in every entry,
      however many there are, so noise on it is not accounted for: `noisy_sign` goes with noise. The update is -1, 0 or
      1 in every entry whatever clients send, so the server's rate is the length of a step.

    Raises:
      ValueError: when built, if values are no floats; before a mask without a cap on integer weights, with scalars, or
        where capacity x weight cap passes 2^31 - 1.

    Guarantees:
      A client changes no entry of the sum by more than its weight, whatever it sends.

    Source: Bernstein et al. (2018), https://arxiv.org/abs/1802.04434, algorithm 1.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.chain(fl.mean(), sign_vote()).init(fl.wire_of(jnp.zeros(1000), capacity=1))[1].value.shape
      (125,)
    """

    def up(vector: jax.Array, key: Any) -> jax.Array:
        heads = random_words(key, vector.size) >= jnp.uint32(2**31)
        return (vector > 0) | ((vector == 0) & heads)

    def majority(state: VoteState, total: Message) -> PyTree:
        weight = total.weight
        if state.denominator is not None:
            weight = jax.tree.map(lambda w: state.denominator, weight)
        # A mean divides by it again.
        return map_prefix(lambda w, leaf: jnp.sign(leaf) * w, weight, total.value)

    return _votes("sign_vote", up, 1.0, majority, {}, linear=False)


def noisy_sign(std: Any, *, noise: str = "uniform") -> Aggregator:
    """Sends the sign of each entry plus noise: the mean of signs, times a scale, is the entry.

    The noise is what makes the signs' mean tell sizes apart. It is not for privacy.

    Args:
      std: sigma, a number above 0 in the update's units, or a tracer; half the width of the uniform noise, or the
        standard deviation of the normal one.
      noise: "uniform", unbiased for entries up to sigma; beyond they count as sigma. "gaussian": biased, less the
        larger sigma is; no entry is cut.

    Returns:
      an Aggregator: one bit an entry, nothing beside it. Survives a sum, and a mask.

    Raises:
      ValueError, TypeError: if `std` is no finite number above 0, for another noise; when built, as `sign_vote`.

    Guarantees:
      Uniform: the mean is the entry x up to sigma, to 2^-23 of sigma, and the variance sigma^2 - x^2. Gaussian: the
      mean is sigma sqrt(pi / 2) erf(x / (sigma sqrt(2))). A client changes no entry of the mean's numerator by more
      than its weight times sigma, or sigma sqrt(pi / 2), whatever it sends.

    Source: Tang et al. (2023), https://arxiv.org/abs/2302.02589, algorithm 1: z = infinity and z = 1.

    Example:
      >>> import fedjaxlite as fl
      >>> end = fl.chain(fl.mean(), noisy_sign(0.5)).init(fl.wire_of(jnp.zeros(4), capacity=1))[1]
      >>> end.value.shape, end.bounds.l2
      ((1,), 1.0)
    """
    std = checks.positive(std=std)
    noise = checks.one_of(("uniform", "gaussian"), noise=noise)
    scale = std if noise == "uniform" else std * math.sqrt(math.pi / 2)

    def up(vector: jax.Array, key: Any) -> jax.Array:
        # The sign is positive as often as the noise is above -x, so its distribution function is all that is needed.
        ratio = vector / jnp.asarray(std, jnp.float32)
        share = (ratio + 1.0) * 0.5 if noise == "uniform" else 0.5 * jax.lax.erfc(ratio * -math.sqrt(0.5))
        return dither(key, vector.size) < share

    return _votes("noisy_sign", up, scale, lambda state, total: total.value, {"std": std, "noise": noise})


def _votes(
    name: str,
    up: Callable[[jax.Array, Any], jax.Array],
    scale: Any,
    conclude: Callable[[VoteState, Message], PyTree],
    hparams: Mapping[str, Any],
    *,
    linear: bool = True,
) -> Aggregator:
    """A codec whose messages are signs, `up(vector, key)`; a vote counts `scale`, and `conclude` looks at their sum.

    Where that is not `linear`, what one client changes has no bound that does not grow with their number.
    """
    bounds_of = (lambda form: _bounds(form, scale)) if linear else (lambda form: Bounds())

    def init(wire: Wire) -> tuple[Any, Wire]:
        needs_floats(name, wire)
        form = form_of(wire)
        denominator = None if wire.denominator is None else jnp.asarray(wire.denominator, jnp.float32)
        masked = () if wire.mask_ahead else None
        state = VoteState(denominator, form, masked)
        told = wire._replace(bounds=bounds_of(form))
        if wire.mask_ahead:
            _check_countable(name, wire)
            value, weight = words_like((wire.value, wire.weight))
            return state, told._replace(value=value, weight=weight, group="mod32", bits=32)
        packed = [jax.ShapeDtypeStruct((packed_size(n, 1),), jnp.uint8) for n in form.sizes]
        codes = tuple(Code(1, n) for n in form.sizes)
        return state, told._replace(value=form.tree.unflatten(packed), bits=1, codes=codes)

    def prepare(state: VoteState, bounds: Bounds) -> tuple[VoteState, Bounds]:
        del bounds
        return state, bounds_of(state.form)

    def encode(state: VoteState, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        form = state.form
        votes = [up(v, numbered(client.key, i)) for i, v in enumerate(to_leaves(form, message.value))]
        if state.masked is not None:
            words = [jnp.where(vote, jnp.uint32(1), jnp.uint32(2**32 - 1)) for vote in votes]
            return message._replace(value=from_leaves(form, words)), client_state
        return message._replace(value=form.tree.unflatten([pack(vote, 1) for vote in votes])), client_state

    def read(state: VoteState, message: Message, client: ClientInfo) -> Message:
        del client
        form = state.form
        if state.masked is not None:
            return message
        sent = zip(form.tree.flatten_up_to(message.value), form.sizes, strict=True)
        signs = [unpack(packed, n, 1).astype(jnp.float32) * 2.0 - 1.0 for packed, n in sent]
        return message._replace(value=from_leaves(form, [vote * jnp.float32(scale) for vote in signs]))

    def decode(state: VoteState, total: Message, key: Any) -> tuple[Message, Any]:
        if state.masked is not None:
            counts = jax.tree.map(lambda leaf: jax.lax.bitcast_convert_type(leaf, jnp.int32), total.value)
            value = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) * jnp.float32(scale), counts)
            total = total._replace(value=value, weight=jax.tree.map(lambda w: w.astype(jnp.float32), total.weight))
        # One message by itself, not yet weighed, is decoded without a key: it is its own majority.
        return total if key is None else total._replace(value=conclude(state, total)), state

    return Aggregator(init, encode, decode, prepare=prepare, name=name, hparams=hparams, read=read)


def _bounds(form: Form, scale: Any) -> Bounds:
    """Of an update whose every entry is the scale or its negative."""
    entries = sum(form.sizes)
    return Bounds(l2=scale * math.sqrt(entries), linf=scale, l1=scale * entries)


def _check_countable(name: str, wire: Wire) -> None:
    if wire.scalars:
        raise ValueError(
            f"`{name}` stands before a mask, which sums integers, and the algorithm sends the scalars "
            f"{sorted(wire.scalars)} beside its update. Use fl.quantize, which makes integers of them too."
        )
    if wire.weight_cap is None:
        raise ValueError(
            f"`{name}` stands before a mask, which sums integers, so weights must be integers with a cap. Use "
            "fl.mean(), or fl.weighted_mean(weight_cap=...) with an algorithm that weighs by example counts; "
            "neither goes with a sampler that scales weights."
        )
    if wire.capacity * wire.weight_cap > 2**31 - 1:
        raise ValueError(
            f"`{name}` can overflow: capacity {wire.capacity} x weight cap {wire.weight_cap} = "
            f"{wire.capacity * wire.weight_cap}, more than 2^31 - 1. Lower the cap."
        )
