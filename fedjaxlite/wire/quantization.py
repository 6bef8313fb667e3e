"""Quantization: floats to integers mod 2^32, the group that secure aggregation sums in."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Bounds, ClientInfo, Code, Message, Wire
from fedjaxlite.wire.clips import needs_floats
from fedjaxlite.wire.integers import most_summed, to_word, words_like
from fedjaxlite.wire.packing.bits import pack, packed_size, signed, unpack
from fedjaxlite.wire.packing.forms import Form, form_of, from_leaves


class _Range(NamedTuple):
    """What a quantizer maps onto its levels.

    Attributes:
      linf: the bound on an entry, this round.
      scalars: each scalar's own bound.
      stretch: how much longer rounding can make a whole update, by its norms, in units of `linf`.
      form: static, the update's structure; None where a mask follows, which takes whole words.
    """

    linf: Any
    scalars: dict[str, Any]
    stretch: Bounds
    form: Form | None = None


def quantize(*, bits: int, rounding: str = "stochastic") -> Aggregator:
    """Rounds every entry to an integer of so many bits, summed in the integers mod 2^32.

    The range is the wire's bound on an entry, so a clip stands before it; the levels are symmetric around zero, so
    absent clients add exactly zero. Scalars are quantized to their declared bounds, and stay words of 32 bits. Entries
    are packed in so many bits each, leaf by leaf; before a mask they are whole words, which masks fill.

    Args:
      bits: 2 to 24 (float32 has no more); an entry takes the integers from -(2^(bits-1) - 1) to 2^(bits-1) - 1.
      rounding: "stochastic" (unbiased: the mean of the decoded entries is the entry) or "nearest".

    Returns:
      an Aggregator. A decoded mean differs from the mean of the clipped entries by at most one step,
      bound / (2^(bits-1) - 1), per entry; half a step for "nearest". The wire's bound on the L2 norm grows by as much
      for every entry, times the root of their number: what noise has to cover.

    Raises:
      ValueError: for bits or rounding out of range; when built: without a bound on the entries, without a cap on
        integer weights, or where capacity x weight cap x levels could pass 2^31 - 1.

    Source: Suresh, Yu, Kumar, McMahan (2017), https://arxiv.org/abs/1611.00429, section 2.2 (stochastic k-level).
    """
    bits = checks.positive_int(bits=bits)
    if not 2 <= bits <= 24:
        raise ValueError(
            f"`bits` is {bits}; expected 2 to 24: one bit is the sign, and float32 carries no more than 24."
        )
    rounding = checks.one_of(("stochastic", "nearest"), rounding=rounding)
    levels = 2 ** (bits - 1) - 1

    def init(wire: Wire) -> tuple[Any, Wire]:
        needs_floats("quantize", wire)
        _check_quantizable(wire, bits, levels)
        entries = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(wire.value))
        step = (1.0 if rounding == "stochastic" else 0.5) / levels
        stretch = Bounds(l2=math.sqrt(entries) * step, l1=entries * step)
        state = _Range(
            jnp.asarray(wire.bounds.linf, jnp.float32),
            {name: jnp.float32(wire.scalar_bounds[name]) for name in wire.scalars},
            jax.tree.map(jnp.float32, stretch),
            None if wire.mask_ahead else form_of(wire),
        )
        told = wire._replace(scalars=words_like(wire.scalars), group="mod32", bounds=_widen(wire.bounds, stretch))
        if wire.mask_ahead:  # the chain multiplies by weights before the mask, so they are in the group too
            return state, told._replace(value=words_like(wire.value), weight=words_like(wire.weight), bits=32)
        codes = tuple(Code(bits, math.prod(leaf.shape)) for leaf in jax.tree.leaves(wire.value))
        packed = lambda leaf: jax.ShapeDtypeStruct((packed_size(math.prod(leaf.shape), bits),), jnp.uint8)  # noqa: E731
        return state, told._replace(value=jax.tree.map(packed, wire.value), bits=bits, codes=codes)

    def prepare(state: _Range, bounds: Bounds) -> tuple[_Range, Bounds]:
        return state._replace(linf=jnp.asarray(bounds.linf, jnp.float32)), _widen(bounds, state.stretch)

    def encode(state: _Range, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        scalars = {name: (value, state.scalars[name]) for name, value in message.scalars.items()}
        leaves, treedef = jax.tree.flatten(message.value)
        entries = [(leaf, state.linf) for leaf in leaves] + list(scalars.values())
        integers = []
        for i, (leaf, bound) in enumerate(entries):
            key = jax.random.fold_in(client.key, i) if rounding == "stochastic" else None
            integers.append(_to_levels(jnp.asarray(leaf, jnp.float32), bound, levels, key))
        of_value, of_scalars = integers[: len(leaves)], integers[len(leaves) :]
        if state.form is not None:
            of_value = [pack(leaf.reshape(-1), bits) for leaf in of_value]
        value = jax.tree.unflatten(treedef, of_value)
        return Message(value, message.weight, dict(zip(scalars, of_scalars, strict=True))), client_state

    def read(state: _Range, message: Message, client: ClientInfo) -> Message:
        del client
        form = state.form
        if form is None:
            return message
        packed = zip(form.tree.flatten_up_to(message.value), form.sizes, strict=True)
        integers = [to_word(signed(unpack(leaf, n, bits), bits)) for leaf, n in packed]
        return message._replace(value=from_leaves(form, integers))

    def decode(state: _Range, total: Message, key: Any) -> tuple[Message, Any]:
        del key
        value = jax.tree.map(lambda leaf: _from_levels(leaf, state.linf, levels), total.value)
        scalars = {name: _from_levels(leaf, state.scalars[name], levels) for name, leaf in total.scalars.items()}
        return Message(value, jax.tree.map(lambda w: w.astype(jnp.float32), total.weight), scalars), state

    hparams = {"bits": bits, "rounding": rounding}
    return Aggregator(init, encode, decode, prepare=prepare, name="quantize", hparams=hparams, read=read)


def _widen(bounds: Bounds, stretch: Bounds) -> Bounds:
    # Every entry moves by less than one step, half of one where rounding is to the nearest.
    longer = lambda norm, more: None if norm is None else norm + bounds.linf * more  # noqa: E731
    return bounds._replace(l2=longer(bounds.l2, stretch.l2), l1=longer(bounds.l1, stretch.l1))


def _to_levels(leaf: jax.Array, bound: Any, levels: int, key: Any) -> jax.Array:
    # The choice keeps XLA from joining product and sum in some programs and not in others: a code would differ by one.
    scaled = jnp.where(leaf == leaf, leaf * (jnp.float32(levels) / bound), leaf)
    rounded = jnp.round(scaled) if key is None else jnp.floor(scaled + jax.random.uniform(key, leaf.shape, jnp.float32))
    # Through int32 and its bits: a negative float cast to uint32 would become 0.
    integer = jnp.clip(rounded, -levels, levels).astype(jnp.int32)
    return to_word(integer)


def _from_levels(total: jax.Array, bound: Any, levels: int) -> jax.Array:
    signed = jax.lax.bitcast_convert_type(total, jnp.int32)
    return signed.astype(jnp.float32) * (bound / jnp.float32(levels))


def _check_quantizable(wire: Wire, bits: int, levels: int) -> None:
    if wire.bounds.linf is None:
        raise ValueError(
            "`quantize` needs a bound on the entries, and the chain before it sets none. Put "
            "fl.clip_by_global_norm(...) or fl.clip_by_value(...) before it."
        )
    messages = most_summed("quantize", wire)
    largest = messages * levels
    if largest > 2**31 - 1:
        fits = (2**31 - 1) // messages
        most = (fits + 1).bit_length()  # the most bits with 2^(bits - 1) - 1 <= fits
        advice = f"at most {most} bits fit" if most >= 2 else "no number of bits fits; lower the cap or the capacity"
        raise ValueError(
            f"`quantize(bits={bits})` can overflow: capacity {wire.capacity} x weight cap {wire.weight_cap} x {levels} "
            f"levels = {largest}, more than 2^31 - 1. Here {advice}."
        )
