"""Rand-k with a shared seed: all clients send the same entries, which the server chooses anew in every round.

    begin    S = k of d entries without replacement, from the seed of the round
    encode   v = (d/k) x_S               unbiased; v = x_S otherwise
    decode   sum of v in place, zero elsewhere

One seed for all makes it linear: no places are sent, and messages may be summed, masked and noised as they are. The
error of the sum is that of one draw, it does not fall with the number of clients as it would with a seed for each.

Source: Konečný, McMahan, Yu, Richtárik, Suresh, Bacon (2016), "Federated Learning: Strategies for Improving
Communication Efficiency", https://arxiv.org/abs/1610.05492, section 3 (random mask, by a seed). The variance is example
1 of Beznosikov, Horváth, Richtárik, Safaryan (2020), https://arxiv.org/abs/2002.12410.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.shuffle import shuffled
from fedjaxlite.wire.aggregator import Aggregator, Bounds, ClientInfo, Message, Wire
from fedjaxlite.wire.clips import needs_floats
from fedjaxlite.wire.compression.fewer.top_k import kept_fraction, number_kept
from fedjaxlite.wire.packing.forms import Form, form_of, from_vectors, of_parts, to_parts, to_vectors


class _State(NamedTuple):
    """The entries of this round.

    Attributes:
      places: for each part int32 `[k]`, all different.
      form: static, the update's structure.
    """

    places: tuple[jax.Array, ...]
    form: Form


def rand_k(*, fraction: float, unbiased: bool = True) -> Aggregator:
    """Sends random entries, the same of all clients, chosen by a seed that the server gives out.

    Args:
      fraction: k / d, in (0, 1]; of each part with a weight of its own, rounded, at least one entry.
      unbiased: entries are scaled by d/k, so that the mean over seeds is the update; the squared error is (d/k - 1) of
        the squared norm. False leaves them as they are: the error is (1 - k/d), for error feedback.

    Returns:
      an Aggregator that survives a sum: it stands before noise, `fl.quantize` and masks. A message holds k float32 of
      each part and nothing beside; a client downloads 8 bytes of seed.

    Raises:
      ValueError, TypeError: if `fraction` is no concrete number in (0, 1], `unbiased` no bool; when built, if values
        are integers already.

    Guarantees:
      Decoding the sum is the sum of decoding each message. Unbiased, norms grow by d/k at most, and the bounds on the
      wire with them: what noise and a quantizer's range have to cover. Otherwise no norm grows.

    Source: Konečný et al. (2016), https://arxiv.org/abs/1610.05492, section 3.

    Example:
      >>> import fedjaxlite as fl
      >>> chain = fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), rand_k(fraction=0.1), fl.quantize(bits=8))
      >>> end = chain.init(fl.wire_of(jnp.zeros(1000), capacity=10))[1]
      >>> end.value.shape, end.bounds.linf, end.overhead
      ((100,), 10.0, (0, 8))
    """
    fraction = kept_fraction(fraction)
    unbiased = checks.flag(unbiased=unbiased)

    def factor(entries: int) -> float:
        return entries / number_kept(fraction, entries) if unbiased else 1.0

    def drawn(form: Form, key: Any) -> _State:
        seed = jax.random.bits(key, (2,), jnp.uint32)
        sizes = [(d, number_kept(fraction, d)) for d in form.part_sizes]
        places = [chosen(seed, part, d, k) for part, (d, k) in enumerate(sizes)]
        return _State(tuple(places), form)

    def init(wire: Wire) -> tuple[_State, Wire]:
        needs_floats("rand_k", wire)
        state = drawn(form_of(wire), jax.random.key(0))
        structs = [jax.ShapeDtypeStruct(places.shape, jnp.float32) for places in state.places]
        told = wire._replace(value=to_parts(state.form, structs), codes=())
        return state, told._replace(bounds=prepare(state, wire.bounds)[1])

    def begin(state: _State, cohort: Any, key: Any) -> _State:
        del cohort
        return drawn(state.form, key)

    def prepare(state: _State, bounds: Bounds) -> tuple[_State, Bounds]:
        most = max(factor(entries) for entries in state.form.part_sizes)
        return state, jax.tree.map(lambda bound: bound * most, bounds)

    def encode(state: _State, client_state: Any, message: Message, client: ClientInfo) -> tuple[Message, Any]:
        del client
        pairs = zip(to_vectors(state.form, message.value), state.places, strict=True)
        values = [v.at[p].get(mode="promise_in_bounds") * jnp.float32(factor(v.shape[0])) for v, p in pairs]
        return message._replace(value=to_parts(state.form, values)), client_state

    def read(state: _State, message: Message, client: ClientInfo) -> Message:
        del state, client
        return message  # sums of what is sent are all that is needed

    def decode(state: _State, total: Message, key: Any) -> tuple[Message, _State]:
        del key
        parts = zip(of_parts(state.form, total.value), state.places, state.form.part_sizes, strict=True)
        vectors = [jnp.zeros((d,), jnp.float32).at[p].set(v, unique_indices=True) for v, p, d in parts]
        return total._replace(value=from_vectors(state.form, vectors)), state

    def overhead(state: _State, capacity: int) -> tuple[int, int]:
        del state, capacity
        return 0, 8

    hparams = {"fraction": fraction, "unbiased": unbiased}
    return Aggregator(
        *(init, encode, decode),
        prepare=prepare,
        name="rand_k",
        hparams=hparams,
        begin=begin,
        public_seed=True,
        read=read,
        overhead=overhead,
    )


def chosen(seed: jax.Array, part: int, entries: int, number: int) -> jax.Array:
    """The entries of a seed: the first places of a random permutation.

    Args:
      seed: uint32 `[2]`.
      part: another int has another permutation.
      entries: d.
      number: k.

    Returns:
      int32 `[k]`, all different, in [0, d), in no order.

    Example:
      >>> len(set(chosen(jnp.zeros(2, jnp.uint32), 0, 10, 7).tolist()))
      7
    """
    # Some more than k: loops over an odd number of entries are no vectors on CPUs, and take fifty times as long.
    position = jnp.minimum(jnp.arange(number + -number % 8, dtype=jnp.int32), entries - 1)
    return shuffled(seed, jnp.int32(part), position, jnp.int32(entries))[:number]
