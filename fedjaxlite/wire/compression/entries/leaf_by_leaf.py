"""What codes of single entries share: a code of one vector becomes a codec, leaf by leaf."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.wire.aggregator import Aggregator, Bounds, ClientInfo, Code, Message, Wire
from fedjaxlite.wire.clips import global_norm, needs_floats
from fedjaxlite.wire.compression.entries.norms import completed
from fedjaxlite.wire.packing.bits import pack, packed_size, unpack
from fedjaxlite.wire.packing.dither import numbered
from fedjaxlite.wire.packing.forms import Form, form_of, from_leaves, to_leaves

PyTree = Any


class VectorCode(NamedTuple):
    """A code of one vector `[n]`: pure functions, which the client and the server know.

    Attributes:
      bits: of one entry; several numbers where a code has parts, lowest bits first, which are packed apart.
      encode: `encode(vector, key) -> (codes, beside)`: whole numbers `[n]`, unsigned or of two's complement, and a
        pytree of what is sent beside them (a norm). The key is one for `packing.dither`.
      decode: `decode(codes, beside) -> vector`, float32 `[n]`; codes as uint32.
      beside: `beside(n)`, structs of what encode sends beside the codes of n entries.
      widen: `widen(bounds, sizes) -> bounds`, on what decode gives for leaves of these sizes. The bounds it is given
        are
        completed: all there, or none.
    """

    bits: int | tuple[int, ...]
    encode: Callable[[jax.Array, Any], tuple[jax.Array, PyTree]]
    decode: Callable[[jax.Array, PyTree], jax.Array]
    beside: Callable[[int], PyTree]
    widen: Callable[[Bounds, tuple[int, ...]], Bounds]


class LeafState(NamedTuple):
    """The state of a codec without any: the structure of the update.

    Attributes:
      form: static.
    """

    form: Form


def leaf_by_leaf(name: str, code: VectorCode, hparams: Mapping[str, Any]) -> Aggregator:
    """A codec that codes every leaf as a vector of its own, decoded message by message.

    Args:
      name: its public name.
      code: of one vector.
      hparams: for printing.

    Returns:
      an Aggregator. A leaf of n entries becomes uint8 `[packed_size(n, bits)]`, or a tuple of them for the parts of a
      code; scales travel beside it.
    """
    parts = code.bits if isinstance(code.bits, tuple) else (code.bits,)
    starts = [sum(parts[:i]) for i in range(len(parts))]
    whole = len(parts) == 1

    def packed(codes: jax.Array) -> Any:
        found = [pack(codes >> start if start else codes, bits) for start, bits in zip(starts, parts, strict=True)]
        return found[0] if whole else tuple(found)

    def unpacked(sent: Any, entries: int) -> jax.Array:
        found = [unpack(part, entries, bits) for part, bits in zip([sent] if whole else sent, parts, strict=True)]
        return sum((codes << start for codes, start in zip(found[1:], starts[1:], strict=True)), found[0])

    def shape(entries: int) -> Any:
        found = [jax.ShapeDtypeStruct((packed_size(entries, bits),), jnp.uint8) for bits in parts]
        return found[0] if whole else tuple(found)

    def init(wire: Wire) -> tuple[Any, Wire]:
        needs_floats(name, wire)
        form = form_of(wire)
        return LeafState(form), wire._replace(
            value=form.tree.unflatten([shape(n) for n in form.sizes]),
            aside=_together([code.beside(n) for n in form.sizes]),
            bits=sum(parts),
            codes=tuple(Code(bits, n) for n in form.sizes for bits in parts),
            bounds=_widened(code, form, wire.bounds),
        )

    def prepare(state: LeafState, bounds: Bounds) -> tuple[LeafState, Bounds]:
        return state, _widened(code, state.form, bounds)

    def encode(state: LeafState, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        found, beside = [], []
        for i, vector in enumerate(to_leaves(state.form, message.value)):
            codes, own = code.encode(vector, numbered(client.key, i))
            found.append(packed(codes))
            beside.append(own)
        return message._replace(value=state.form.tree.unflatten(found), aside=_together(beside)), client_state

    def read(state: LeafState, message: Message, client: ClientInfo) -> Message:
        del client
        form = state.form
        asides = message.aside or ((),) * len(form.sizes)
        sent = zip(form.tree.flatten_up_to(message.value), asides, form.sizes, strict=True)
        found = [code.decode(unpacked(leaf, n), own) for leaf, own, n in sent]
        return message._replace(value=from_leaves(form, found), aside=())

    return Aggregator(init, encode, prepare=prepare, name=name, hparams=hparams, read=read, sum_safe=False)


def _together(beside: list[PyTree]) -> tuple[PyTree, ...]:
    """One entry for each leaf; nothing at all where nothing is sent, which is what a chain hands on then."""
    return tuple(beside) if jax.tree.leaves(beside) else ()


def _widened(code: VectorCode, form: Form, bounds: Bounds) -> Bounds:
    sizes = form.sizes
    return completed(code.widen(completed(bounds, sizes), sizes), sizes)


def relative(vector: jax.Array, unit: jax.Array) -> jax.Array:
    """A vector in a unit that none of its entries exceeds, from -1 to 1; zero where the unit is.

    Args:
      vector: float32.
      unit: float32, at least 0, of a shape that broadcasts.

    Returns:
      float32, finite for all finite numbers, also where the unit is infinite (the norm of such): that counts as the
      largest number. Less than it should be where the unit is below 2^-124.
    """
    # A quarter of all: the reciprocal of the largest number is none of the normal numbers.
    number = jnp.finfo(jnp.float32)
    reciprocal = 1.0 / jnp.clip(unit * 0.25, number.tiny, number.max * 0.25)
    return jnp.clip(vector * 0.25 * reciprocal, -1.0, 1.0)


def largest(vector: jax.Array) -> jax.Array:
    """The largest absolute value, 0 of no entries."""
    return jax.lax.reduce(jnp.abs(vector), jnp.float32(0.0), jnp.maximum, (0,))


def norm_of(vector: jax.Array) -> jax.Array:
    """The L2 norm; no square overflows or vanishes.

    On a CPU `global_norm`, whose two sums are libraries' own. Elsewhere one pass: sqrt(a^2 + b^2) of any two, so
    that an accelerator starts two kernels where it would start five.
    """
    return jax.lax.platform_dependent(vector, cpu=global_norm, default=norm_in_one_pass)


def norm_in_one_pass(vector: jax.Array) -> jax.Array:
    """The L2 norm, as a reduction by the hypotenuse."""

    def hypotenuse(one: jax.Array, other: jax.Array) -> jax.Array:
        high, low = jnp.maximum(one, other), jnp.minimum(one, other)
        ratio = low / jnp.maximum(high, jnp.finfo(jnp.float32).tiny)
        return high * jnp.sqrt(1 + ratio * ratio)

    return jax.lax.reduce(jnp.abs(vector), jnp.float32(0.0), hypotenuse, (0,))


def one_float(entries: int) -> PyTree:
    """What is sent beside a leaf with one scale."""
    del entries
    return jax.ShapeDtypeStruct((), jnp.float32)
