"""Masks: what hides a message, what cancels, what a dropout leaves, and when a sum is not opened."""

import itertools
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import fedjaxlite as fl
from fedjaxlite.privacy.masking import chacha, masks, roster

U32 = jnp.uint32
ring_of = jax.jit(roster.roster)
own_masks = jax.jit(roster.own_masks, static_argnums=2)
neighbors_of = jax.jit(roster.neighbors, static_argnums=2)
IDS = (9, 4, 0, 17, 2, 30)
SELECTED = (True, True, False, True, True, True)
"""Five clients in six slots; the spare one is in the middle."""


def cohort(ids: Any = IDS, selected: Any = SELECTED, reported: Any = None) -> fl.Cohort:
    ids, selected = np.asarray(ids, np.int32), np.asarray(selected)
    reported = selected if reported is None else selected & np.asarray(reported, bool)
    ones = np.ones(ids.shape, np.float32)
    return fl.Cohort(*map(jnp.asarray, (np.where(selected, ids, 0), selected, reported, ones, ones, np.int32(0))))


def wire(capacity: int = 6, size: int = 4, **facts: Any) -> fl.Wire:
    scalar = jax.ShapeDtypeStruct((), U32)
    value = {"b": scalar, "w": jax.ShapeDtypeStruct((size,), U32)}
    known = {"group": "mod32", "weight_cap": 9, "headed": True, "bits": 8, **facts}
    return fl.Wire(value, scalar, {"steps": scalar}, {"steps": 1.0}, capacity=capacity, **known)


def messages(capacity: int = 6, size: int = 4, seed: int = 0) -> fl.Message:
    """Random words for every slot; those of spare slots are never looked at."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.integers(0, 2**32, (capacity, *shape), np.uint32))  # noqa: E731
    return fl.Message({"b": draw(), "w": draw(size)}, draw(), {"steps": draw()})


@lru_cache(maxsize=16)
def protocol(capacity: int = 6, **options: Any) -> Callable[..., Any]:
    """`run(cohort, key, messages) -> (masked messages, opened sum, closed state)`, as the engine calls a codec."""
    codec = masks.mask(**options)
    state, _ = codec.init(wire(capacity))

    @jax.jit
    def run(who: fl.Cohort, key: jax.Array, sent: fl.Message) -> Any:
        opened = codec.begin(state, who, key)

        def one(slot: Any, client: Any, message: fl.Message) -> fl.Message:
            info = fl.ClientInfo(client, jnp.float32(1), key, jnp.bool_(True), slot)
            return codec.encode(opened, (), message, info)[0]

        masked = jax.vmap(one)(jnp.arange(capacity, dtype=jnp.int32), who.ids, sent)
        total = sum_of(who.selected & who.reported, masked)
        return masked, *codec.decode(opened, total, key)

    return run


def sum_of(alive: Any, sent: fl.Message) -> fl.Message:
    def add(leaf: Any) -> Any:
        there = jnp.reshape(alive, (-1,) + (1,) * (leaf.ndim - 1))
        return jnp.sum(jnp.where(there, leaf, jnp.zeros_like(leaf)), axis=0, dtype=U32)

    return jax.tree.map(add, sent)


plain_sum = jax.jit(sum_of)


def equal(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


def keystream(key: Any, num_words: int) -> np.ndarray:
    """What `cryptography` generates under a key of ours."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    cipher = Cipher(algorithms.ChaCha20(np.asarray(key).astype("<u4").tobytes(), bytes(16)), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(4 * num_words)), "<u4")


def host_neighbors(ring: roster.Roster, most: int) -> dict[int, set[int]]:
    """Who shares keys with whom, from the ring's order alone."""
    around = [int(slot) for slot in np.asarray(ring.order)[: int(ring.size)]]
    n = len(around)
    near = range(1, n) if most >= n - 1 else [s % n for s in range(-(most // 2), most // 2 + 1) if s]
    return {slot: {around[(i + s) % n] for s in near} for i, slot in enumerate(around)}


class TestStreams:
    @pytest.mark.parametrize(("size", "tile"), [(1, 1024), (5, 2), (33, 2), (64, 2), (100, 3), (40_000, 1024)])
    def test_sums_of_signed_keystreams_equal_those_of_cryptography(self, size: int, tile: int) -> None:
        rng = np.random.default_rng(size)
        words, keys = rng.integers(0, 2**32, size, np.uint32), rng.integers(0, 2**32, (4, 8), np.uint32)
        signs = np.uint32([1, 2**32 - 1, 1, 1])
        to_add = roster.Masks(jnp.asarray(keys), jnp.asarray(signs), jnp.int32(3))
        got = masks.add_masks(jnp.asarray(words), to_add, tile=tile)
        streams = [keystream(key, size) for key in keys]
        assert (np.asarray(got) == words + streams[0] - streams[1] + streams[2]).all()  # the fourth does not count

    def test_nothing_to_add(self) -> None:
        none = roster.Masks(jnp.zeros((2, 8), U32), jnp.ones((2,), U32), jnp.int32(0))
        assert (masks.add_masks(jnp.arange(5, dtype=U32), none) == jnp.arange(5, dtype=U32)).all()


class TestRing:
    @pytest.mark.parametrize("most", [2, 4, 6, 8])
    @pytest.mark.parametrize("n", range(1, 10))
    def test_every_neighbor_is_one_in_return(self, n: int, most: int) -> None:
        who = cohort(np.arange(9) * 3, np.arange(9) < n)
        ring = ring_of(who, jax.random.key(0))
        expected = host_neighbors(ring, most)
        for slot in range(n):
            near, count = neighbors_of(ring, slot, most)
            assert int(count) == min(most, n - 1)
            assert Counter(np.asarray(near)[: int(count)].tolist()) == Counter(expected[slot])  # each of them once
        assert all(a in expected[b] for a in expected for b in expected[a])

    def test_spare_slots_are_not_on_the_ring(self) -> None:
        ring = ring_of(cohort(), jax.random.key(1))
        assert int(ring.size) == 5
        assert set(np.asarray(ring.order)[:5].tolist()) == {0, 1, 3, 4, 5}

    def test_the_order_is_random(self) -> None:
        """Chi-square over the 24 orders of four clients; false alarms 1 in 10,000."""
        who = cohort([5, 6, 7, 8], [True] * 4)
        keys = jax.random.split(jax.random.key(2), 2400)
        orders = jax.jit(jax.vmap(lambda key: roster.roster(who, key).order))(keys)
        counts = list(Counter(map(tuple, np.asarray(orders).tolist())).values())
        assert len(counts) == 24
        assert stats.chisquare(counts).pvalue > 1e-4

    def test_ring_and_keys_do_not_depend_on_the_slots(self) -> None:
        key = jax.random.key(3)
        forth, back = ring_of(cohort(), key), ring_of(cohort(IDS[::-1], SELECTED[::-1]), key)
        around = lambda ring: np.asarray(ring.ids)[np.asarray(ring.order)][:5].tolist()  # noqa: E731
        assert around(forth) == around(back)
        for slot in (0, 1, 3, 4, 5):
            assert equal(own_masks(forth, slot, 4), own_masks(back, 5 - slot, 4))

    def test_both_ends_derive_one_key_with_opposite_signs_and_no_key_serves_twice(self) -> None:
        ring = ring_of(cohort(), jax.random.key(4))
        found: dict[bytes, list[tuple[int, int]]] = {}
        for slot in (0, 1, 3, 4, 5):
            own = own_masks(ring, slot, 5)
            assert int(own.number) == 5  # itself and the four others
            for i in range(5):
                found.setdefault(np.asarray(own.keys[i]).tobytes(), []).append((slot, int(own.signs[i])))
        assert sorted(len(ends) for ends in found.values()) == [1] * 5 + [2] * 10
        for ends in found.values():
            signs = {IDS[slot]: sign for slot, sign in ends}
            assert signs[min(signs)] == 1
            assert signs[max(signs)] == (1 if len(signs) == 1 else 2**32 - 1)

    def test_keys_are_those_of_chacha20_whatever_jax_draws(self) -> None:
        """Keys and order come from the bits of the key alone: no setting or version of JAX's generators changes them."""
        key = jax.random.wrap_key_data(jnp.array([1, 2], U32), impl="threefry2x32")
        root = np.zeros(8, np.uint32)
        root[:2] = 1, 2
        ring = ring_of(cohort(), key)
        assert (np.asarray(ring.root) == root).all()
        own = own_masks(ring, 0, 5)  # client 9
        nonces = {(9, 9, 1)} | {(min(9, other), max(9, other), 2) for other in (4, 17, 2, 30)}
        expected = {np.asarray(chacha.keystream(ring.root, jnp.array(n, U32), 0, 1)[:8]).tobytes() for n in nonces}
        assert {np.asarray(own.keys[i]).tobytes() for i in range(5)} == expected


class TestSums:
    @pytest.mark.parametrize("neighbors", [None, 2])
    def test_every_dropout_pattern_opens_the_exact_sum_or_nothing(self, neighbors: int | None) -> None:
        """All 32 patterns of five clients, against the rule worked out on the host: t = a majority of the holders."""
        run = protocol(neighbors=neighbors, min_survivors=2)
        sent, key = messages(), jax.random.key(5)
        refusals = 0
        for pattern in itertools.product([True, False], repeat=5):
            reported = np.insert(np.array(pattern), 2, False)
            who = cohort(reported=reported)
            masked, opened, closed = run(who, key, sent)
            near = host_neighbors(ring_of(who, key), 5 if neighbors is None else neighbors)
            holders = {slot: [reported[v] for v in (slot, *others)] for slot, others in near.items()}
            needed = [slot for slot in near if reported[slot] or any(reported[v] for v in near[slot])]
            opens = sum(reported) >= 2 and all(sum(holders[s]) >= len(holders[s]) // 2 + 1 for s in needed)
            expected = plain_sum(jnp.asarray(reported), sent)
            assert int(closed.refused) == int(not opens)
            assert equal(opened, expected if opens else jax.tree.map(jnp.zeros_like, expected))
            refusals += not opens
        assert 0 < refusals < 32

    def test_faithful_equals_algebraic_bit_for_bit(self) -> None:
        sent, key = messages(seed=1), jax.random.key(6)
        for reported in ([True] * 6, [True, False, True, True, True, True], [False, False, False, False, True, True]):
            who = cohort(reported=reported)
            faithful = protocol(neighbors=2, min_survivors=2)(who, key, sent)[1:]
            algebraic = protocol(neighbors=2, min_survivors=2, masking="algebraic")(who, key, sent)[1:]
            assert equal(faithful, algebraic)

    def test_the_order_of_the_cohort_changes_no_bit(self) -> None:
        run, key = protocol(neighbors=2, min_survivors=2), jax.random.key(7)
        sent = messages(seed=2)
        back = jax.tree.map(lambda leaf: leaf[::-1], sent)
        forth_masked, *forth = run(cohort(reported=[1, 0, 1, 1, 1, 1]), key, sent)
        back_masked, *reverse = run(cohort(IDS[::-1], SELECTED[::-1], [1, 1, 1, 1, 0, 1]), key, back)
        assert equal(forth, reverse)
        there = np.array([0, 1, 3, 4, 5])
        assert equal(
            jax.tree.map(lambda leaf: leaf[there], forth_masked),
            jax.tree.map(lambda leaf: leaf[::-1][there], back_masked),
        )

    def test_the_largest_sums_come_back_exactly(self) -> None:
        """Messages that add up to 2^31 - 1 and to its negative, the ends of what is allowed."""
        ends = np.int64([2**31 - 1, -(2**31 - 1), 0, 5])
        parts = np.stack([ends - 3 * (ends // 5), ends // 5, 0 * ends, ends // 5, ends // 5, 0 * ends])
        assert (parts.sum(0) == ends).all()
        sent = messages()
        sent = sent._replace(value={**sent.value, "w": jnp.asarray((parts % 2**32).astype(np.uint32))})
        _, opened, _ = protocol(min_survivors=2)(cohort(), jax.random.key(8), sent)
        assert (np.asarray(opened.value["w"]).view(np.int32) == ends).all()


class TestViews:
    """What a server sees of single messages."""

    def test_weight_and_scalars_are_masked_too(self) -> None:
        sent = jax.tree.map(jnp.zeros_like, messages())
        masked, _, _ = protocol(min_survivors=2)(cohort(), jax.random.key(9), sent)
        words = np.concatenate([np.asarray(leaf).reshape(6, -1) for leaf in jax.tree.leaves(masked)], axis=1)
        assert words.shape == (6, 7)
        assert len(set(words[[0, 1, 3, 4, 5]].reshape(-1).tolist())) == 35  # all differ, none is zero
        assert 0 not in words[[0, 1, 3, 4, 5]]

    def test_the_mask_does_not_depend_on_the_message_and_is_new_in_every_round(self) -> None:
        run, who = protocol(min_survivors=2), cohort()
        sent, nothing = messages(seed=3), jax.tree.map(jnp.zeros_like, messages())
        one, _, _ = run(who, jax.random.key(10), sent)
        bare, _, _ = run(who, jax.random.key(10), nothing)
        assert equal(jax.tree.map(jnp.subtract, one, bare), sent)
        other, _, _ = run(who, jax.random.key(11), nothing)
        same = jax.tree.map(lambda a, b: jnp.any(a == b), bare, other)
        assert not any(jax.tree.leaves(same))

    def test_masked_words_are_uniform_and_tell_nothing_of_the_message(self) -> None:
        """Bytes of 40,000 words by chi-square, and the correlation with the message; false alarms 1 in 10,000 each."""
        ring = [ring_of(cohort(), jax.random.key(seed)) for seed in (12, 13)]
        large = jnp.asarray(np.random.default_rng(4).integers(2**30, 2**31, 40_000, np.uint32))
        hide = jax.jit(lambda words, ring: masks.add_masks(words, roster.own_masks(ring, 1, 5)))
        views = {"zeros": hide(jnp.zeros_like(large), ring[0]), "large": hide(large, ring[0])}
        views["next round"] = hide(large, ring[1]) - views["large"]
        for words in views.values():
            assert byte_test(words) > 1e-4
        seen = np.asarray(views["large"]).astype(np.float64)
        assert abs(np.corrcoef(seen, np.asarray(large))[0, 1]) < 3.9 / np.sqrt(40_000)
        # The same tests see a mask that is used in two rounds.
        other = jnp.flip(large)
        assert byte_test(hide(other, ring[0]) - views["large"]) < 1e-10

    @pytest.mark.parametrize("left", [None, 2])
    def test_views_depend_on_the_sum_alone_exhaustively_at_modulus_four(self, left: int | None) -> None:
        """Three clients, one word: over all 4^6 values of the masks, messages of equal sum give equal views.

        The views hold what is revealed to open the sum: survivors' self masks, and the pair masks of one that left.
        """
        own, everything = hidden_by_every_table()
        alive = [u for u in range(3) if u != left]
        assert views_by_sum(own, everything, alive, left, shown=[]) == 4
        # A server that also learned client 0's pair masks would tell messages apart: the test can fail.
        assert views_by_sum(own, everything, alive, left, shown=[3, 4]) > 4


def byte_test(words: Any) -> float:
    return float(stats.chisquare(np.bincount(np.asarray(words).view(np.uint8), minlength=256)).pvalue)


SECRETS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
"""Self masks, then pairs, of three clients."""


@lru_cache(maxsize=1)
def hidden_by_every_table() -> tuple[np.ndarray, np.ndarray]:
    """Masks of three clients mod 4, `[4096, 3]`, for every choice of the six secrets' values, `[4096, 6]`."""
    who = cohort([0, 1, 2], [True] * 3)
    ring = ring_of(who, jax.random.key(14))
    nonces = jnp.array([(a, b, 1 if a == b else 2) for a, b in SECRETS], U32)
    keys = chacha.derive(ring.root, nonces)
    tables = jnp.asarray(list(itertools.product(range(4), repeat=6)), U32)

    def own(table: jax.Array, slot: jax.Array) -> jax.Array:
        def prg(key: jax.Array, first: Any, num_blocks: int) -> jax.Array:
            which = jnp.argmax(jnp.all(keys == key[None], axis=1))
            return jnp.full((4, 4, num_blocks), table[which])

        return masks.add_masks(jnp.zeros((1,), U32), roster.own_masks(ring, slot, 2), prg=prg)[0]

    slots = jnp.arange(3, dtype=jnp.int32)
    every = jax.jit(jax.vmap(jax.vmap(own, in_axes=(None, 0)), in_axes=(0, None)))(tables, slots)
    return np.asarray(every) % 4, np.asarray(tables)


def views_by_sum(own: np.ndarray, secrets: np.ndarray, alive: list[int], left: int | None, shown: list[int]) -> int:
    """How many different distributions of the server's view there are, over all messages of the survivors."""
    revealed = [i for i, (a, b) in enumerate(SECRETS) if (a == b and a in alive) or (a != b and left in (a, b))]
    opened = secrets[:, revealed + shown]
    distributions = {}
    for message in itertools.product(range(4), repeat=len(alive)):
        seen = np.concatenate([(own[:, alive] + np.array(message)) % 4, opened], axis=1)
        code = np.sort(seen @ (4 ** np.arange(seen.shape[1])))
        distributions.setdefault(code.tobytes(), set()).add(sum(message) % 4)
    return len(distributions)
