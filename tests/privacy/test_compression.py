"""Noise, masks and compression in one chain: what noise covers, what epsilon follows, what is refused.

Behind a mechanism a codec may lengthen what one client adds. Here one client is added to three others, for vectors of
every kind and several keys of the codec; what the server decodes without noise must not differ by more than the chain's
bound, of which epsilon is made. What has no bound gets no epsilon.
"""

import math
from functools import lru_cache
from typing import Any

import chains
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from channels import open_channel
from private_runs import DELTA, N, run

import fedjaxlite as fl
from fedjaxlite import compression, privacy
from fedjaxlite.privacy.accounting import epsilon, gaussian_epsilon, guarantee
from fedjaxlite.wire.chain import SUM_SAFE

TEMPLATE = {"bias": jnp.zeros((5,)), "matrix": jnp.zeros((6, 8)), "single": jnp.zeros(())}
ENTRIES = 5 + 48 + 1
CLIP, OTHERS, KEYS = 0.75, 3, 4
ALGORITHM = helpers.sender(lambda data: TEMPLATE)
PEOPLE = helpers.one_value_each([0.0] * N)

WITH_A_CLIP = {
    "clip in ef14": lambda: (compression.error_feedback(fl.clip_by_global_norm(0.4), compression.top_k(fraction=0.2)),),
    "clip in ef14, integers": lambda: (compression.error_feedback(fl.clip_by_global_norm(0.4), fl.quantize(bits=5)),),
}
CLIPPED_AS_SENT = {
    "rand_k, clip": lambda: (compression.rand_k(fraction=0.3), fl.clip_by_global_norm(0.5)),
    "count_sketch, clip": lambda: (compression.count_sketch(columns=8), fl.clip_by_global_norm(0.5)),
}
CODECS = {**chains.CODECS, **WITH_A_CLIP, **CLIPPED_AS_SENT}
WITHOUT_A_BOUND = {
    "eden",  # its scale of one message, that makes it unbiased, is bounded by nothing useful
    "drive",
    "sign_vote",  # one vote turns a majority
    "error_feedback/ef14",  # without a clip inside
}
NOT_BEHIND_NOISE = {
    "power_sgd",  # its bases follow the sum before the noise
    "error_feedback/ef21",  # what these decode is a sum over all rounds
    "error_feedback/ef21_sgdm",
    "error_feedback/dasha",
}
SAFE = {name for name, make in CODECS.items() if all(codec.sum_safe for codec in make())}


def noised(name: str, z: float) -> tuple[fl.Aggregator, ...]:
    return privacy.gaussian(clip_norm=CLIP, noise_multiplier=z), *CODECS[name]()


def composed(*codecs: fl.Aggregator) -> fl.Rounds:
    return run(fl.sampling.full(N), *codecs, algorithm=ALGORITHM)


# What one client changes


def vectors() -> np.ndarray:
    """What a client might send: `[V, ENTRIES]`."""
    rng = np.random.default_rng(0)
    one = np.eye(ENTRIES)[[0, 7, ENTRIES - 1]]
    sparse = rng.normal(size=(4, ENTRIES)) * (rng.random((4, ENTRIES)) < 0.1)
    level = np.where(np.arange(ENTRIES) == 3, 1.0, np.linspace(0.02, 0.9, 4)[:, None])
    shapes = [*one, *-one, *sparse, *level, np.ones(ENTRIES), -np.ones(ENTRIES), np.zeros(ENTRIES)]
    shapes += [
        *rng.normal(size=(6, ENTRIES)),
        *rng.choice([-1.0, 1.0], size=(4, ENTRIES)),
        *rng.laplace(size=(3, ENTRIES)),
    ]
    scaled = [np.float64(shape) * scale for scale in (1.0, 1e-3, 1e30) for shape in shapes]
    return np.clip(np.stack(scaled), -3e38, 3e38).astype(np.float32)


@lru_cache
def furthest(name: str) -> tuple[float, float]:
    """By how much one client changes the decoded sum at most, and the bound that the chain gives."""
    over = 4.0
    channel = open_channel(*noised(name, 0.0), template=TEMPLATE, over=over, num_clients=N)
    chain = channel.chain
    kept = chain.init_client(TEMPLATE)

    def tree_of(vector: Any) -> Any:
        leaves = jax.tree.leaves(TEMPLATE)
        parts = jnp.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1])
        return jax.tree.unflatten(
            jax.tree.structure(TEMPLATE), [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)]
        )

    def change(vector: Any, others: Any, key: Any) -> Any:
        state = chain.begin(channel.state, None, jax.random.fold_in(key, 0))

        def one(vector: Any, i: Any) -> fl.Message:
            info = fl.ClientInfo(i, jnp.float32(1), jax.random.fold_in(key, i + 1), jnp.bool_(True))
            # What is kept of earlier rounds is of any size.
            own = jax.tree.map(lambda leaf: leaf + 5.0 * jax.random.normal(info.key, leaf.shape), kept)
            sent, _ = chain.encode(state, own, fl.Message(tree_of(vector), jnp.int32(1), {}), info)
            return chain.read(state, sent, info)

        messages = jax.vmap(one)(jnp.concatenate([vector[None], others]), jnp.arange(1 + OTHERS, dtype=jnp.int32))
        everyone, without = (
            jax.tree.map(lambda m, first=first: jnp.sum(m[first:], axis=0, dtype=m.dtype), messages) for first in (0, 1)
        )
        decoded = [chain.decode(state, total, key)[0].value for total in (everyone, without)]
        return jax.tree.map(lambda a, b: over * (a - b), *decoded)

    found = vectors()
    keys = jax.random.split(jax.random.key(1), KEYS)
    each = jax.vmap(jax.vmap(change, (None, None, 0)), (0, None, None))
    leaves = jax.tree.leaves(jax.jit(each)(found, found[8 : 8 + OTHERS], keys))
    apart = np.concatenate([np.asarray(leaf, np.float64).reshape(-1, max(1, math.prod(t.shape))) for leaf, t in
                            zip(leaves, jax.tree.leaves(TEMPLATE), strict=True)], 1)  # fmt: skip
    bound = channel.wire.bounds.l2
    return float(np.linalg.norm(apart, axis=1).max()), math.inf if bound is None else float(bound)


BOUNDED = [name for name in CODECS if name not in WITHOUT_A_BOUND | NOT_BEHIND_NOISE]
EVERYDAY = ("noisy_sign", "thc", "top_k+qsgd")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in EVERYDAY else pytest.mark.slow) for n in BOUNDED])
def test_no_client_changes_more_than_the_bound(name: str) -> None:
    found, bound = furthest(name)
    assert 0.4 * min(CLIP, bound) <= found <= bound * (1 + 1e-5)


def test_the_search_finds_that_one_vote_turns_a_majority() -> None:
    """By the mean's denominator in every entry that is undecided, which no noise on a sum of signs is made for."""
    found, bound = furthest("sign_vote")
    assert found > 2 * math.sqrt(ENTRIES)
    assert bound == math.inf


# What epsilon follows


@pytest.mark.parametrize("name", BOUNDED)
def test_epsilon_is_that_of_the_noise_over_the_bound(name: str) -> None:
    z = 3.0
    rounds = composed(*noised(name, z))
    bound = rounds.wire(TEMPLATE, PEOPLE).bounds.l2
    found = guarantee(rounds, PEOPLE, num_rounds=1, delta=DELTA, params=TEMPLATE)
    assert found.event.noise_multiplier == pytest.approx(z * CLIP / bound, rel=1e-6)
    assert found.epsilon == pytest.approx(gaussian_epsilon(noise_multiplier=z * CLIP / bound, delta=DELTA), rel=1e-4)
    more = guarantee(composed(*noised(name, 2 * z)), PEOPLE, num_rounds=1, delta=DELTA, params=TEMPLATE)
    assert more.epsilon < found.epsilon


@pytest.mark.parametrize("name", sorted(WITHOUT_A_BOUND))
def test_what_nothing_bounds_gets_no_epsilon(name: str) -> None:
    with pytest.raises(ValueError, match="nothing at the end of the chain bounds what one client of the gaussian mech"):
        epsilon(composed(*noised(name, 1.0)), PEOPLE, num_rounds=1, delta=DELTA, params=TEMPLATE)


@pytest.mark.parametrize("name", WITH_A_CLIP)
def test_a_clip_inside_of_feedback_is_what_bounds_it(name: str) -> None:
    bound = open_channel(*noised(name, 1.0), template=TEMPLATE, num_clients=N).wire.bounds.l2
    rounding = math.sqrt(ENTRIES) * 0.4 / 15 if "integers" in name else 0.0  # 15 steps on each side of 0
    assert bound == pytest.approx(0.4 + rounding, rel=1e-4)


FLOATS = {
    "rand_k": lambda: compression.rand_k(fraction=0.3),
    "count_sketch": lambda: compression.count_sketch(columns=8),
    "power_sgd": lambda: compression.power_sgd(rank=1),
}


@pytest.mark.parametrize("name", FLOATS)
def test_noise_on_what_is_sent_costs_what_noise_alone_costs(name: str) -> None:
    """Its decoding is made of the noised sum, and says nothing that the sum does not."""
    mechanism = privacy.gaussian(clip_norm=CLIP, noise_multiplier=2.0)
    alone = epsilon(composed(mechanism), PEOPLE, num_rounds=3, delta=DELTA, params=TEMPLATE)
    behind = composed(FLOATS[name](), mechanism)
    assert epsilon(behind, PEOPLE, num_rounds=3, delta=DELTA, params=TEMPLATE) == alone
    channel = open_channel(FLOATS[name](), mechanism, template=TEMPLATE, num_clients=N)
    total = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), fl.Message(channel.wire.value, jnp.float32(1), {}))
    decode = jax.jit(channel.decode)
    drawn = [decode(channel.state, total, jax.random.key(i))[0].value for i in range(40)]
    assert np.std([leaf for d in drawn for leaf in jax.tree.leaves(d["bias"])]) > 0.5 * CLIP


def test_bases_are_noised_where_the_noise_stands_behind_them() -> None:
    """Before them it would not be in what clients download next, which is why that is refused."""
    mechanism, codec = privacy.gaussian(clip_norm=CLIP, noise_multiplier=1.0), compression.power_sgd(rank=1)

    channel = open_channel(codec, mechanism, template=TEMPLATE, num_clients=N)
    of_a_sum = lambda s: jnp.arange(1.0, 1 + s.size).reshape(s.shape).astype(s.dtype)  # noqa: E731
    total = jax.tree.map(of_a_sum, fl.Message(channel.wire.value, jnp.zeros(()), {}))
    states = [jax.jit(channel.decode)(channel.state, total, jax.random.key(i))[1] for i in range(2)]
    first, second = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(s[1].bases)]) for s in states)
    assert not np.allclose(first, second), "two draws of noise, and two bases"


# What is refused


@pytest.mark.parametrize("name", sorted(NOT_BEHIND_NOISE))
def test_what_keeps_the_sum_itself_is_refused_behind_noise(name: str) -> None:
    """A clip behind it does not help: it bounds what is sent in one round, and not what is kept."""
    for further in ((), (fl.clip_by_global_norm(1.0),)):
        if further and name not in ("power_sgd", "error_feedback/dasha"):
            continue  # packed, or decoded by itself
        rounds = composed(*noised(name, 1.0), *further)
        with pytest.raises(
            ValueError, match="stands behind a mechanism of privacy.* (before the mechanism|kind=.ef14)"
        ):
            rounds.wire(TEMPLATE, PEOPLE)


APART = sorted(name for name in chains.CODECS if name not in SAFE and not name.startswith("error_feedback"))


@pytest.mark.parametrize("name", APART)
def test_noise_behind_what_is_read_apart_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"has gaussian behind \w+, decoded message by message; gaussian works on the"):
        fl.chain(fl.mean(over=4), *CODECS[name](), privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0))
    local = privacy.local_gaussian(clip_norm=1.0, epsilon=1.0, delta=1e-5)
    with pytest.raises(ValueError, match=r"`local_gaussian` stands behind `\w+`, which may send more beside .* Put"):
        fl.chain(fl.mean(over=4), *CODECS[name](), local).init(fl.wire_of(TEMPLATE, capacity=4, num_clients=N))


@pytest.mark.parametrize("name", ["thc", "quic_fl", "sign_vote", "noisy_sign"])
def test_noise_behind_integers_is_refused(name: str) -> None:
    chain = fl.chain(fl.mean(over=4), *CODECS[name](), privacy.gaussian(clip_norm=1.0, noise_multiplier=1.0))
    with pytest.raises(ValueError, match=r"`gaussian`"):
        chain.init(fl.wire_of(TEMPLATE, capacity=4, num_clients=N))


@pytest.mark.parametrize("name", [n for n in chains.CODECS if n not in SAFE])
def test_a_mask_behind_what_is_read_apart_is_refused_with_what_takes_one(name: str) -> None:
    with pytest.raises(ValueError, match=r"decodes .* message by message, and behind a mask it has their sum") as told:
        fl.chain(fl.mean(over=4), *CODECS[name](), privacy.mask())
    assert all(other in str(told.value) for other in ("fl.quantize", *SUM_SAFE))


def test_the_alternatives_are_all_codecs_that_survive_a_sum() -> None:
    codecs = [codec for make in chains.CODECS.values() for codec in make()]
    assert {c.name for c in codecs} >= set(compression.__all__) - {"downlink", "error_feedback", "rotate", "rotate_back",
        "walsh_hadamard", "padded_size", "rotated_size"}  # fmt: skip
    assert {codec.name for codec in codecs if codec.sum_safe and codec.name in compression.__all__} == set(SUM_SAFE)


# Behind a mask


MASKED = {
    "quantize": lambda: (fl.clip_by_value(1.0), fl.quantize(bits=8)),
    "thc": lambda: (fl.clip_by_global_norm(1.0), compression.thc(bits=4)),
    "quic_fl": lambda: (fl.clip_by_global_norm(1.0), compression.quic_fl(bits=2)),
    "sign_vote": lambda: (compression.sign_vote(),),
    "noisy_sign": lambda: (compression.noisy_sign(2.0),),
    "rand_k": lambda: (compression.rand_k(fraction=0.3), fl.clip_by_value(2.0), fl.quantize(bits=8)),
    "count_sketch": lambda: (compression.count_sketch(columns=8), fl.clip_by_value(2.0), fl.quantize(bits=8)),
    "power_sgd": lambda: (compression.power_sgd(rank=1), fl.clip_by_value(2.0), fl.quantize(bits=8)),
    "error_feedback": lambda: (compression.error_feedback(fl.clip_by_value(0.5), fl.quantize(bits=4)),),
}


def senders() -> fl.Population:
    return helpers.one_value_each([0.3, -0.9, 0.7, 0.1, -0.2, 0.5])


SENDER = helpers.sender(lambda data: jax.tree.map(lambda leaf: _pattern(leaf) * helpers.first_value(data), TEMPLATE))


def _pattern(leaf: jax.Array) -> jax.Array:
    return jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape)


def test_every_codec_that_survives_a_sum_is_masked_here() -> None:
    assert set(MASKED) == {*SUM_SAFE, "quantize", "error_feedback"}


OFTEN = ("thc", "quic_fl", "error_feedback")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in OFTEN else pytest.mark.slow) for n in MASKED])
@pytest.mark.whole
def test_masks_change_no_bit_of_a_round_with_a_dropout(name: str) -> None:
    sums = []
    for hide in ((), (privacy.mask(),)):
        rounds = fl.rounds(
            SENDER,
            sampler=fl.sampling.uniform(5, dropout=0.3),
            aggregator=fl.chain(fl.mean(over=5), *MASKED[name](), *hide),
            execution=helpers.ONE,
        )
        # Shared seeds come from the noise key, which is secret, and another one each time, where there are masks.
        state = rounds.init(TEMPLATE, senders(), key=jax.random.key(2), noise_key=jax.random.key(3))
        state, infos = rounds.steps(state, senders(), 2)
        sums.append(rounds.params(state))
        assert np.any(infos.num_reported < infos.num_selected)
        assert np.all(infos.num_reported >= 2)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(sums[0]))
    for masked, plain in zip(*map(jax.tree.leaves, sums), strict=True):
        np.testing.assert_array_equal(masked, plain)


def test_a_secure_sum_takes_what_stays_a_float() -> None:
    """`secure_sum` makes the integers itself."""
    for name in FLOATS:
        chain = fl.chain(fl.mean(over=5), FLOATS[name](), fl.clip_by_value(2.0), privacy.secure_sum(bits=12))
        _, end = chain.init(fl.wire_of(TEMPLATE, weight=1, capacity=5, num_clients=N))
        assert (end.group, end.masked) == ("mod32", True)
    for name in ("thc", "quic_fl"):
        with pytest.raises(ValueError, match="quantize"):
            fl.chain(fl.mean(over=5), *MASKED[name](), privacy.secure_sum()).init(fl.wire_of(TEMPLATE, capacity=5))
