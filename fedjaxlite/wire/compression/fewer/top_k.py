"""Top-k: a client sends its largest entries, and where they are.

    encode   v = x_S,  S = the k entries with the largest |x_i|, of equal ones the first
    read     x_S in place, zero elsewhere

Biased: what is small is lost unless error feedback keeps it. It never loses more than chance would, the error is at
most (1 - k/d) ||x||^2; of normal entries .9155, .5607, .2764 and .0713 of the energy are lost at 1, 10, 25 and 50 %.

Sources: Aji, Heafield (2017), "Sparse Communication for Distributed Gradient Descent",
https://arxiv.org/abs/1704.05021; Stich, Cordonnier, Jaggi (2018), "Sparsified SGD with Memory",
https://arxiv.org/abs/1809.07599, lemma A.1 (the contraction).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, ClientInfo, Message, Wire
from fedjaxlite.wire.clips import needs_floats
from fedjaxlite.wire.packing.forms import Form, form_of, from_vectors, of_parts, to_parts, to_vectors
from fedjaxlite.wire.packing.indices import (
    first_ones,
    indices_size,
    ones,
    pack_indices,
    set_bits,
    unpack_indices,
    words_of,
)


class _State(NamedTuple):
    form: Form


def top_k(*, fraction: float) -> Aggregator:
    """Sends the largest entries of an update by magnitude, and their places.

    Args:
      fraction: k / d, in (0, 1]; of each part with a weight of its own, rounded, at least one entry.

    Returns:
      an Aggregator; each message is read by itself, so it cannot stand before a mask. A message holds the k values as
      float32, which a later codec may make smaller, and beside them their places: `packing.indices`, 8.55 bits each at
      1 %.

    Raises:
      ValueError, TypeError: if `fraction` is no concrete number in (0, 1]; when built, if values are integers already.

    Guarantees:
      Exactly k entries are kept, whatever the ties; the others are zero. No norm grows. The squared error is at most
      (1 - k/d) of the squared norm, of each part.

    Source: Stich, Cordonnier, Jaggi (2018), https://arxiv.org/abs/1809.07599, definition 2.1.

    Example:
      >>> import fedjaxlite as fl
      >>> chain = fl.chain(fl.mean(), top_k(fraction=0.01))
      >>> end = chain.init(fl.wire_of(jnp.zeros(1000), capacity=10))[1]
      >>> end.value.shape, end.aside[1][0].shape
      ((10,), (12,))
    """
    fraction = kept_fraction(fraction)

    def init(wire: Wire) -> tuple[_State, Wire]:
        needs_floats("top_k", wire)
        form = form_of(wire)
        kept = [(d, number_kept(fraction, d)) for d in form.part_sizes]
        value = to_parts(form, [jax.ShapeDtypeStruct((k,), jnp.float32) for _, k in kept])
        aside = tuple(jax.ShapeDtypeStruct((indices_size(d, k),), jnp.uint8) for d, k in kept)
        saved = wire.aside_saved + sum(indices_size(d, k) - set_bits(d, k) / 8 for d, k in kept)
        return _State(form), wire._replace(value=value, aside=aside, codes=(), aside_saved=saved)

    def encode(state: _State, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        del client
        values, places = [], []
        for vector in to_vectors(state.form, message.value):
            entries = vector.shape[0]
            found = largest(vector, number_kept(fraction, entries))
            values.append(vector.at[found].get(mode="promise_in_bounds"))
            places.append(pack_indices(found, entries))
        return message._replace(value=to_parts(state.form, values), aside=tuple(places)), client_state

    def read(state: _State, message: Message, client: ClientInfo) -> Message:
        del client
        vectors = []
        parts = zip(of_parts(state.form, message.value), message.aside, state.form.part_sizes, strict=True)
        for values, places, entries in parts:
            found = unpack_indices(places, entries, values.shape[0])
            vectors.append(jnp.zeros((entries,), jnp.float32).at[found].set(values, unique_indices=True))
        return message._replace(value=from_vectors(state.form, vectors), aside=())

    hparams = {"fraction": fraction}
    return Aggregator(init, encode, name="top_k", hparams=hparams, read=read, sum_safe=False)


def kept_fraction(fraction: Any) -> float:
    """The fraction of entries that is kept, checked: a size, so no tracer."""
    remedy = "It is the fraction of entries that is sent, and decides the size of a message."
    return checks.probability(remedy, fraction=checks.concrete(remedy, fraction=fraction))


def number_kept(fraction: float, entries: int) -> int:
    """How many of so many entries a fraction is: rounded, at least one.

    Example:
      >>> number_kept(0.01, 1663370), number_kept(0.01, 3)
      (16634, 1)
    """
    return min(entries, max(1, round(fraction * entries)))


def largest(vector: jax.Array, number: int) -> jax.Array:
    """The places of the largest entries by magnitude, ascending; of equal entries the first.

    As fast for many as for few, since nothing is sorted. The bits of |x| are ordered as |x| is, so the k-th largest is
    found from the top in three digits, each by counting how many entries have which.

    Args:
      vector: float32 `[d]`.
      number: k, from 1 to d.

    Returns:
      int32 `[k]`.

    Example:
      >>> largest(jnp.float32([1, -3, 2, 3]), 2).tolist()
      [1, 3]
    """
    sizes = jax.lax.bitcast_convert_type(vector, jnp.uint32) & jnp.uint32(0x7FFFFFFF)
    least, larger = jnp.uint32(0), jnp.int32(0)
    for shift, bits in ((20, 11), (10, 10), (0, 10)):
        fits = (sizes >> (shift + bits)) == (least >> (shift + bits))
        digits = ((sizes >> shift) & jnp.uint32(2**bits - 1)).astype(jnp.int32)
        counts = jnp.zeros((2**bits,), jnp.int32).at[jnp.where(fits, digits, 2**bits)].add(1, mode="drop")
        no_smaller = jnp.cumsum(counts[::-1])[::-1]
        digit = jnp.sum(larger + no_smaller >= number, dtype=jnp.int32) - 1
        larger = larger + no_smaller[digit] - counts[digit]
        least = least | (digit.astype(jnp.uint32) << shift)
    above, equal = words_of(sizes > least), words_of(sizes == least)
    return ones(above | first_ones(equal, number - larger), number)
