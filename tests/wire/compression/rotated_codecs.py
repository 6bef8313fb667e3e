"""Rotated codecs by hand: a chain that is built, messages that go through it, and what holds for all that sum."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.wire.aggregator import Bounds

PARTS = {"a": jnp.zeros((30, 10)), "b": {"c": jnp.zeros(37), "d": jnp.zeros(())}}


def head(*codecs: fl.Aggregator) -> fl.Aggregator:
    return fl.chain(fl.mean(), *codecs)


def client(i: Any) -> fl.ClientInfo:
    return fl.ClientInfo(i, jnp.float32(1), jax.random.fold_in(jax.random.key(7), i), jnp.bool_(True))


def build(codec: fl.Aggregator, template: Any, capacity: int = 8, **facts: Any) -> tuple[Any, Any, Any]:
    chain = codec if codec.role == "chain" else head(codec)
    state, end = chain.init(fl.wire_of(template, capacity=capacity, **facts))
    return chain, chain.begin(state, None, jax.random.key(11)), end


def decoded(chain: Any, state: Any, value: Any, ids: Any, *, turn: bool = False, several: bool = False) -> Any:
    """Each client's message, sent and read, and decoded by itself; with `turn`, each in a round of its own.

    With `several`, values have an axis in front, and come back for each value and each client.
    """

    def one(value: Any, i: Any) -> Any:
        state = chain.begin(state_, None, jax.random.key(i)) if turn else state_
        message, _ = chain.encode(state, ((),) * len(chain.parts), fl.Message(value, 1, {}), client(i))
        return chain.decode(state, chain.read(state, message, client(i)), jax.random.key(0))[0].value

    state_ = state
    of_all = jax.vmap(one, (None, 0))
    of_all = jax.vmap(of_all, (0, None)) if several else of_all
    return jax.tree.map(np.asarray, jax.jit(of_all)(value, jnp.asarray(ids)))


def normal(size: int, seed: int = 0) -> jax.Array:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def clipped(codec: fl.Aggregator, mean: fl.Aggregator | None = None, norm: float = 2.0) -> fl.Aggregator:
    return fl.chain(fl.weighted_mean(weight_cap=9) if mean is None else mean, fl.clip_by_global_norm(norm), codec)


def check_sums(codec: fl.Aggregator) -> None:
    """The sum of what is read is decoded into the sum of what is decoded; before a mask the same integers are sent."""
    chain = clipped(codec)
    state, end = chain.init(fl.wire_of(PARTS, capacity=8, weight=1))
    assert end.group == "mod32"
    state = chain.begin(state, None, jax.random.key(3))
    ahead_state, ahead = codec.init(
        fl.wire_of(PARTS, capacity=8, weight=1)._replace(mask_ahead=True, weight_cap=9, bounds=Bounds(l2=2.0))
    )
    packed_state, _ = codec.init(fl.wire_of(PARTS, capacity=8, weight=1)._replace(weight_cap=9, bounds=Bounds(l2=2.0)))
    assert (ahead.bits, ahead.aside, ahead.weight.dtype) == (32, (), jnp.uint32)
    draw = lambda i: jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(i), leaf.shape) * 0.01, PARTS)  # noqa: E731
    values = [draw(i) for i in range(5)]
    read = []
    for i, value in enumerate(values):
        message, _ = jax.jit(chain.encode)(state, ((), (), ()), fl.Message(value, i + 1, {}), client(i))
        sent = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (message.value, message.aside))
        assert sent == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (end.value, end.aside))
        read.append(jax.jit(chain.read)(state, message, client(i)))
        one = fl.Message(value, 1, {})
        whole, _ = codec.encode(ahead_state, (), one, client(i))
        unpacked = codec.read(packed_state, codec.encode(packed_state, (), one, client(i))[0], client(i))
        for got, want in zip(jax.tree.leaves(whole.value), jax.tree.leaves(unpacked.value), strict=True):
            assert got.dtype == jnp.uint32
            np.testing.assert_array_equal(got, want)
    forward, backward = (
        jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *order) for order in (read, read[::-1])
    )
    jax.tree.map(np.testing.assert_array_equal, forward, backward)
    mean = chain.decode(state, forward, jax.random.key(0))[0].value
    single = [chain.decode(state, one, jax.random.key(0))[0].value for one in read]
    want = jax.tree.map(lambda *leaves: sum((i + 1) * leaf for i, leaf in enumerate(leaves)) / 15, *single)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), mean, want)


def check_norms(codecs: list[fl.Aggregator]) -> None:
    """The longest of messages from vectors of the bound's length, in one part and in two."""
    rng, template = np.random.default_rng(0), {"a": jnp.zeros(64), "b": jnp.zeros(30)}
    hard = [rng.normal(size=94), np.eye(94)[0], np.r_[np.ones(64), np.zeros(30)], np.r_[np.ones(64), np.ones(30) * 9]]
    for codec, weight in itertools.product(codecs, (1, {"a": 1, "b": 1})):
        chain, state, end = build(clipped(codec, fl.weighted_mean(weight_cap=1)), template, weight=weight)
        values = jnp.float32([2 * x / np.linalg.norm(x) for x in hard])

        def longest(x: Any, i: Any, chain: Any = chain, state: Any = state, weight: Any = weight) -> Any:
            message = fl.Message({"a": x[:64], "b": x[64:]}, weight, {})
            message = chain.read(state, chain.encode(state, ((),) * 3, message, client(i))[0], client(i))
            return fl.global_norm(chain.decode(state, message, jax.random.key(0))[0].value)

        found = jax.jit(jax.vmap(jax.vmap(longest, (None, 0)), (0, None)))(values, jnp.arange(30))
        assert 1.0 < float(found.max()) <= end.bounds.l2 * (1 + 1e-6)


def check_scalars(codec: fl.Aggregator) -> None:
    given: dict[str, Any] = {"scalars": {"s": 0.0}, "scalar_bounds": {"s": 4.0}}
    chain, state, end = build(clipped(codec), jnp.ones(8), capacity=100, weight=1, **given)
    levels = (2**31 - 1) // 900

    @jax.jit
    def through() -> Any:
        message, _ = chain.encode(state, ((),) * 3, fl.Message(jnp.ones(8), 3, {"s": jnp.float32(1.2345)}), client(1))
        total = chain.read(state, message, client(1))
        return message.scalars["s"], chain.decode(state, total, jax.random.key(0))[0].scalars["s"]

    sent, got = through()
    assert sent.dtype == end.scalars["s"].dtype == jnp.uint32
    assert float(got) == pytest.approx(1.2345 * (1 if got < 2 else 3), abs=4 * 4 / levels)


def check_refusals(codec: fl.Aggregator, largest: int) -> None:
    x, name = jnp.zeros(8), codec.name
    for chain, most, facts, text in (
        (head(codec), 4, {}, f"`{name}` needs a bound on the norm"),
        (clipped(codec, fl.weighted_mean()), 4, {}, f"`{name}` sums integers, so weights must be integers with a cap"),
        (
            clipped(codec, fl.weighted_mean(weight_cap=10**6)),
            10**4,
            {},
            f"`{name}` can overflow: capacity 10000 x weight cap 1000000 x a value of {largest} = .* at most 0 fit",
        ),
        (clipped(codec), 4, {"scalars": {"s": 0.0}}, f"`{name}` needs a bound on the scalar 's'"),
    ):
        with pytest.raises(ValueError, match=text):
            chain.init(fl.wire_of(x, capacity=most, weight=1, **facts))
    with pytest.raises(ValueError, match=f"`{name}` needs float leaves"):
        fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), fl.quantize(bits=8), codec).init(fl.wire_of(x, capacity=2))
