"""What a server reads of one message, what it can only do with sums, and the bytes that cross."""

import functools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import privacy

PEOPLE = helpers.regression()
PARAMS = helpers.linear_params()
UPDATE = {"w": jnp.arange(6.0).reshape(2, 3) / 7 - 0.3, "b": jnp.float32(0.4)}


def halves(name: str = "halves") -> fl.Aggregator:
    """Sends half of a value, and a count beside it; what it sends means nothing in a sum."""

    def encode(state: Any, own: Any, message: fl.Message, client: fl.ClientInfo) -> Any:
        value = jax.tree.map(lambda leaf: leaf / 2, message.value)
        return message._replace(value=value, aside={"twice": jnp.float32(2)}), own

    def read(state: Any, message: fl.Message, client: fl.ClientInfo) -> fl.Message:
        assert client.key is None
        assert client.noise is None
        return message._replace(value=jax.tree.map(lambda leaf: leaf * message.aside["twice"], message.value))

    init = lambda wire: ((), wire._replace(aside={"twice": jax.ShapeDtypeStruct((), jnp.float32)}))  # noqa: E731
    return fl.Aggregator(init=init, encode=encode, read=read, sum_safe=False, name=name)


def sent(chain: fl.Aggregator, update: Any = UPDATE, weight: Any = 3, **facts: Any) -> tuple[fl.Wire, fl.Message, Any]:
    """One message, and what is summed of it."""
    state, wire = chain.init(fl.wire_of(update, weight=weight, capacity=4, **facts))
    client = fl.ClientInfo(7, jnp.float32(1), jax.random.key(0), jnp.bool_(True))
    own = chain.init_client(update)

    @jax.jit
    def encode_and_read(update: Any, weight: Any) -> tuple[fl.Message, Any]:
        message, _ = chain.encode(state, own, fl.Message(update, weight, {}), client)
        return message, chain.read(state, message, client)

    return wire, *encode_and_read(update, jax.tree.map(jnp.asarray, weight))


def quantized(bits: int) -> tuple[fl.Aggregator, ...]:
    return fl.clip_by_value(1.0), fl.quantize(bits=bits, rounding="nearest")


@pytest.mark.parametrize("codecs", [(halves(),), (halves("a"), halves("b")), (halves(), *quantized(16))])
def test_a_message_is_read_back_before_weights_and_sum(codecs: tuple[fl.Aggregator, ...]) -> None:
    wire, message, summand = sent(fl.chain(fl.weighted_mean(weight_cap=9), *codecs))
    assert wire.apart == codecs[0].name
    assert len(message.aside) == 1 + len(codecs)
    assert float(message.weight) == 3
    for got, want in zip(jax.tree.leaves(summand.value), jax.tree.leaves(UPDATE), strict=True):
        np.testing.assert_allclose(got, 3 * want, atol=3 / 2**14)


def test_weights_of_parts_are_multiplied_after_reading() -> None:
    update, weight = {"a": jnp.ones(2), "b": jnp.ones(3)}, {"a": 2, "b": 5}
    _, message, summand = sent(fl.chain(fl.weighted_mean(), halves()), update, weight)
    assert message.value["a"].tolist() == [0.5, 0.5]
    assert (summand.value["a"].tolist(), summand.value["b"].tolist()) == ([2, 2], [5, 5, 5])


@pytest.mark.parametrize("bits", [2, 3, 8, 13, 24])
def test_packed_integers_are_the_integers(bits: int) -> None:
    """What a mask would hide word by word, and what is sent without one, sum to the same."""
    plain, words = (
        sent(fl.chain(fl.mean(), *quantized(bits), *mask), weight=1)
        for mask in ((), (privacy.mask(masking="algebraic"),))
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(plain[1].value)} == {np.dtype(np.uint8)}
    for a, b in zip(jax.tree.leaves(plain[2].value), jax.tree.leaves(words[2].value), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_stack_gets_what_was_read() -> None:
    def last(values: Any, weights: Any, present: Any) -> Any:
        assert jax.tree.map(jnp.shape, values) == {"w": (4, 2, 3), "b": (4,)}
        return jax.tree.map(lambda leaf: leaf[-1], values)

    for codecs in ((halves(),), quantized(16), (halves(), *quantized(16))):
        algorithm = helpers.sender(lambda data: UPDATE)
        people = helpers.one_value_each([1.0] * 4)
        chain = fl.chain(fl.mean(), *codecs, fl.stack(last))
        run, state, _ = helpers.one_run(algorithm, people, UPDATE, aggregator=chain)
        assert helpers.max_difference(run.params(state), UPDATE) < 1e-4


@pytest.mark.parametrize(
    ("codecs", "text"),
    [
        (
            (halves(), *quantized(8), privacy.mask()),
            "halves before the mask mask; the server decodes halves message by",
        ),
        (
            (halves(), privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0)),
            "gaussian behind halves, decoded message by message; gaussian works on the sum",
        ),
    ],
)
def test_what_needs_a_sum_is_refused_behind_what_has_none(codecs: tuple[fl.Aggregator, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fl.chain(fl.mean(over=4), *codecs)


def test_a_mask_names_what_survives_a_sum() -> None:
    with pytest.raises(
        ValueError, match=r"Use a codec that survives a sum: fl.quantize, or of fl.compression .*rand_k"
    ):
        fl.chain(fl.mean(), halves(), privacy.mask())


def test_local_noise_does_not_cover_what_is_sent_beside() -> None:
    chain = fl.chain(fl.mean(), halves(), privacy.local_laplace(clip_norm=1.0, epsilon=1.0))
    with pytest.raises(
        ValueError, match=r"`local_laplace` stands behind `halves`, which may send more .* before `halves`"
    ):
        chain.init(fl.wire_of(UPDATE, capacity=4))


def test_a_state_at_clients_stands_before_what_changes_shapes() -> None:
    flat = fl.Aggregator(
        init=lambda wire: ((), wire._replace(value=jax.ShapeDtypeStruct((7,), jnp.float32))), name="flat"
    )
    kept = fl.Aggregator(init_client=lambda template: template, name="kept")
    with pytest.raises(
        ValueError, match="`kept` keeps a state like the update at each client, and stands behind a codec"
    ):
        fl.chain(fl.mean(), flat, kept).init(fl.wire_of(UPDATE, capacity=4))


def test_shared_seeds_follow_from_the_runs_key_and_not_from_the_secret_one() -> None:
    """A run behind masks repeats from its key: what everyone knows is not drawn from what nobody knows."""
    chain = fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), fl.compression.thc(bits=4), privacy.mask())
    sender = helpers.sender(lambda data: jax.tree.map(lambda leaf: leaf + helpers.first_value(data, "y"), PARAMS))
    run = fl.rounds(sender, sampler=fl.sampling.uniform(4), aggregator=chain, execution=helpers.ONE)
    last = []
    for noise in (None, None, jax.random.key(3)):
        state = run.init(PARAMS, PEOPLE, key=jax.random.key(1), noise_key=noise)
        last.append(run.steps(state, PEOPLE, 2)[0].server_state)
    assert helpers.max_difference(last[0], last[1]) == helpers.max_difference(last[0], last[2]) == 0


CHAINS: dict[str, Callable[[], fl.Aggregator]] = {
    "floats": lambda: fl.chain(fl.weighted_mean()),
    "packed": lambda: fl.chain(fl.mean(), *quantized(5)),
    "aside": lambda: fl.chain(fl.mean(), halves()),
    "masked": lambda: fl.chain(fl.mean(), *quantized(8), privacy.mask()),
}


@pytest.mark.parametrize("name", helpers.some_often(CHAINS, 2))
def test_the_ledger_is_the_bytes_of_the_arrays(name: str) -> None:
    """In `traffic`, in every client's row, and in the bytes of a message; dropped clients send nothing."""
    chain = CHAINS[name]()
    sender = helpers.sender(lambda data: PARAMS)
    run = fl.rounds(sender, sampler=fl.sampling.uniform(6, dropout=0.5), aggregator=chain, execution=helpers.ONE)
    state = run.init(PARAMS, PEOPLE, key=jax.random.key(0))
    _, info = run.step(state, PEOPLE)
    traffic = run.traffic(PARAMS, PEOPLE)
    in_sum = np.asarray(info.clients["in_sum"])
    assert 0 < in_sum.sum() < 6
    np.testing.assert_array_equal(info.clients["bytes_up"], np.where(in_sum, traffic.up, 0))
    np.testing.assert_array_equal(info.clients["bytes_down"], traffic.down)
    wire = run.wire(PARAMS, PEOPLE)
    if name != "masked":
        _, message, _ = sent(chain, PARAMS, weight=1)
        data = message_bytes(message)
        assert len(data) == traffic.up == sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(message))
        assert wire.overhead == (0, 0)
        return
    up, down = wire.overhead
    agreed = privacy.secagg.parameters(num_clients=6, length=5, threshold=4, min_survivors=4, server="lying")
    formula = privacy.secagg.traffic(agreed, 6)
    assert (traffic.up, traffic.down) == (5 * 4 + up, 4 * 4 + down)  # four entries and the weight, a word each
    assert (up, down) == (formula.up - formula.vector, formula.down)


message_bytes = fl.message_to_bytes


def test_bytes_come_back_as_the_message() -> None:
    wire, message, _ = sent(fl.chain(fl.mean(), halves(), *quantized(3)))
    back = fl.message_from_bytes(wire, message_bytes(message))
    assert jax.tree.structure(back) == jax.tree.structure(message)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(message), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="`data` has 3 bytes, and a message of this chain has"):
        fl.message_from_bytes(wire, b"abc")
    with pytest.raises(TypeError, match="`message` is a dict; expected the Message"):
        message_bytes({})  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", helpers.some_often([2, 7, 12], 3))
def test_the_entropy_is_that_of_the_symbols(bits: int) -> None:
    update = jax.random.normal(jax.random.key(3), (500,)) / 4
    chain = fl.chain(fl.mean(), *quantized(bits), fl.measure_entropy())
    state, wire = chain.init(fl.wire_of(update, weight=1, capacity=4))
    client = fl.ClientInfo(0, jnp.float32(1), jax.random.key(0), jnp.bool_(True))

    @jax.jit
    def run(update: Any) -> Any:
        message, _ = chain.encode(state, chain.init_client(update), fl.Message(update, jnp.int32(1), {}), client)
        return message, chain.tell(state, message)["entropy_up"], chain.read(state, message, client).value

    message, told, read = run(update)
    symbols = Counter(np.asarray(read).tolist())
    bits_of = sum(count * -math.log2(count / 500) for count in symbols.values())
    assert float(told) == pytest.approx(4 + bits_of / 8, rel=1e-5)
    assert float(told) <= len(message_bytes(message))


def test_rounds_tell_the_entropy_of_each_client() -> None:
    chain = fl.chain(fl.mean(), *quantized(4), fl.measure_entropy())
    _, _, info = helpers.one_run(helpers.fed_avg(), PEOPLE, PARAMS, aggregator=chain)
    entropy, up = np.asarray(info.clients["entropy_up"]), np.asarray(info.clients["bytes_up"])
    assert (entropy >= 4).all()
    assert (entropy <= up).all()


@functools.lru_cache
def _records(lanes: int, devices: int) -> Any:
    run = fl.rounds(
        helpers.sender(lambda data: PARAMS),
        sampler=fl.sampling.uniform(6, dropout=0.3),
        aggregator=fl.chain(fl.mean(), halves()),
        execution=fl.Execution(lanes=lanes, devices=devices),
    )
    state = run.init(PARAMS, PEOPLE, key=jax.random.key(0))
    return fl.train(run, state, PEOPLE, num_rounds=3, progress=False).records


def test_records_count_what_was_sent_on_any_layout() -> None:
    one, other = _records(1, 1), _records(3, helpers.available(4))
    for a, b in zip(one, other, strict=True):
        assert a["bytes_up"] == b["bytes_up"] == (4 * 4 + 4 + 4) * a["reported"]
        assert a["bytes_down"] == b["bytes_down"] == 16 * a["selected"]
