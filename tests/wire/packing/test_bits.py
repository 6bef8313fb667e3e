"""Numbers in bytes, and the dither that decides how they were rounded."""

from functools import partial
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import some_often
from scipy import stats

from fedjaxlite.wire.packing.bits import pack, packed_size, signed, unpack
from fedjaxlite.wire.packing.dither import dither, mixed, numbered, random_words, round_up_or_down

ALL = 2**32 - 1


def words(entries: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, ALL, entries, dtype=np.uint32, endpoint=True)


def there_and_back(codes: np.ndarray, bits: int) -> tuple[Any, Any]:
    """Packed and unpacked, in one compiled program."""

    def both(codes: Any) -> tuple[Any, Any]:
        packed = pack(codes, bits)
        return packed, unpack(packed, codes.size, bits)

    return jax.jit(both)(jnp.asarray(codes))


class TestBits:
    @pytest.mark.parametrize("bits", some_often(range(1, 33), 3))
    def test_what_is_packed_is_unpacked(self, bits: int) -> None:
        for entries in (7, 300):
            codes = words(entries, bits)
            packed, back = there_and_back(codes, bits)
            assert (packed.dtype, packed.shape) == (jnp.uint8, (packed_size(entries, bits),))
            np.testing.assert_array_equal(back, codes & np.uint32(2**bits - 1))

    @hypothesis.settings(max_examples=10)
    @hypothesis.given(st.sampled_from([1, 2, 4, 3, 7, 9]), st.integers(0, 530), st.integers(0, 2**31))
    def test_at_any_size(self, bits: int, entries: int, seed: int) -> None:
        """Around rows of a round length, and without any number: each size is a program."""
        self.of_size(bits, entries, seed)

    @pytest.mark.slow
    @hypothesis.settings(max_examples=100)
    @hypothesis.given(st.sampled_from([1, 2, 4, 3, 7, 9]), st.integers(0, 530), st.integers(0, 2**31))
    def test_at_many_sizes(self, bits: int, entries: int, seed: int) -> None:
        self.of_size(bits, entries, seed)

    def of_size(self, bits: int, entries: int, seed: int) -> None:
        codes = words(entries, seed)
        packed, back = there_and_back(codes, bits)
        assert packed.size == packed_size(entries, bits)
        np.testing.assert_array_equal(back, codes & np.uint32(2**bits - 1))

    @hypothesis.given(st.integers(1, 32), st.integers(0, 10**9))
    def test_the_size_is_that_of_the_bits(self, bits: int, entries: int) -> None:
        """Whole bytes in every plane: never two bytes more than all bits in a row would take."""
        least = -(-entries * bits // 8)
        assert least <= packed_size(entries, bits) <= least + 2
        assert packed_size(8 * entries, bits) == entries * bits

    @pytest.mark.parametrize("bits", [1, 3, 9])
    def test_under_jit_and_vmap(self, bits: int) -> None:
        codes = jnp.asarray(words(5 * 77).reshape(5, 77))

        @jax.jit
        def run(codes: Any) -> Any:
            apart = jax.vmap(lambda row: pack(row, bits))(codes)
            return apart, jax.vmap(lambda row: unpack(row, 77, bits))(apart), pack(codes[3], bits)

        apart, back, alone = run(codes)
        np.testing.assert_array_equal(back, np.asarray(codes) & np.uint32(2**bits - 1))
        np.testing.assert_array_equal(apart[3], alone)

    def test_every_bit_has_a_place_of_its_own(self) -> None:
        """Each bit of each number changes one bit of the bytes, and no two the same: nothing is sent twice or lost."""
        for bits, entries in ((1, 9), (2, 35), (3, 11), (6, 40)):
            one = np.zeros((entries * bits, entries), np.uint32)
            one[np.arange(entries * bits), np.repeat(np.arange(entries), bits)] = 1 << np.tile(np.arange(bits), entries)
            places = np.unpackbits(np.asarray(jax.jit(jax.vmap(partial(pack, bits=bits)))(jnp.asarray(one))), axis=1)
            assert (places.sum(1) == 1).all()
            assert places.sum(0).max() == 1

    @pytest.mark.parametrize("dtype", [jnp.uint8, jnp.uint32, jnp.bool_])
    def test_numbers_of_other_types(self, dtype: Any) -> None:
        codes = np.arange(40) % 2
        back = jax.jit(lambda codes: unpack(pack(codes, 1), 40, 1))(jnp.asarray(codes, dtype))
        np.testing.assert_array_equal(back, codes)

    @pytest.mark.parametrize("bits", [1, 2, 5, 16, 32])
    def test_signed_numbers(self, bits: int) -> None:
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        numbers = np.array([low, high, 0, -1], np.int64).clip(low, high).astype(np.int32)
        there_and_back = jax.jit(lambda codes: signed(unpack(pack(codes, bits), 4, bits), bits))
        np.testing.assert_array_equal(there_and_back(numbers.view(np.uint32)), numbers)


class TestDither:
    """Each statistical test fails a true generator with probability below 1e-7; all seeds are fixed."""

    def test_a_number_depends_on_key_and_place_alone(self) -> None:
        keys = jax.random.split(jax.random.key(4), 3)
        eleven = jax.jit(lambda key: dither(key, 11))
        few, many = eleven(jax.random.key(3)), jax.jit(lambda: dither(jax.random.key(3), 5000))()
        np.testing.assert_array_equal(few, many[:11])
        lanes = jax.jit(jax.vmap(lambda key: dither(key, 11)))(keys)
        np.testing.assert_array_equal(lanes[1], eleven(keys[1]))
        assert not np.any(np.asarray(few) == np.asarray(eleven(jax.random.key(4))))

    @pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
    def test_keys_of_any_kind(self, impl: str) -> None:
        assert 0.45 < np.asarray(dither(jax.random.key(0, impl=impl), 1000)).mean() < 0.55

    def test_it_is_uniform(self) -> None:
        drawn = np.asarray(dither(jax.random.key(0), 2**20))
        assert drawn.dtype == np.float32
        assert 0 <= drawn.min() < 1e-5
        assert 1 - 1e-5 < drawn.max() < 1
        assert stats.chisquare(np.histogram(drawn, 4096, (0, 1))[0]).pvalue > 1e-7
        # The fine digits too: what is left of the first 10 bits.
        assert stats.chisquare(np.histogram(drawn * 1024 % 1, 1024, (0, 1))[0]).pvalue > 1e-7

    def test_every_bit_is_a_fair_coin_and_none_follows_another(self) -> None:
        drawn = np.asarray(random_words(jax.random.key(1), 2**18))
        bits = (drawn[:, None] >> np.arange(32, dtype=np.uint32)) & 1
        z = (bits.mean(0) - 0.5) * 2 * np.sqrt(len(drawn))
        assert np.abs(z).max() < 6.2
        products = np.corrcoef(bits.T) * np.sqrt(len(drawn))
        assert np.abs(products[np.triu_indices(32, 1)]).max() < 6.5

    @pytest.mark.parametrize("distance", [1, 2, 3, 8, 64, 1024, 4096])
    def test_neighbors_are_independent(self, distance: int) -> None:
        drawn = np.asarray(dither(jax.random.key(2), 2**19))
        assert pairs(drawn[:-distance], drawn[distance:]) > 1e-7

    def test_triples_are_independent(self) -> None:
        drawn = (np.asarray(dither(jax.random.key(5), 3 * 2**18)) * 16).astype(int).reshape(-1, 3)
        assert stats.chisquare(np.bincount(drawn @ [256, 16, 1], minlength=4096)).pvalue > 1e-7

    @pytest.mark.parametrize("number", [1, 2, 3, 1000])
    def test_keys_folded_of_one_another_are_independent(self, number: int) -> None:
        key = jax.random.key(6)
        for other in (jax.random.fold_in(key, number), jax.random.key(6 + number), numbered(key, number)):
            assert pairs(dither(key, 2**19), dither(other, 2**19)) > 1e-7

    def test_one_place_under_many_keys(self) -> None:
        """Lanes: the same entry of many clients, whose keys are folded from their ids."""
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(7), i))(jnp.arange(2**16))
        drawn = np.asarray(jax.jit(jax.vmap(lambda key: dither(key, 4)))(keys))
        for place in range(4):
            assert stats.chisquare(np.histogram(drawn[:, place], 1024, (0, 1))[0]).pvalue > 1e-7
            assert pairs(drawn[:-1, place], drawn[1:, place], cells=16) > 1e-7
        assert pairs(drawn[:, 0], drawn[:, 1], cells=16) > 1e-7

    def test_leaves_of_many_clients(self) -> None:
        """The same entry of many leaves, and of the same leaf of clients in a row."""
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(8), i))(jnp.arange(2**10))
        numbers = (0, 1, 2, 3, 64, 65)
        of_all = lambda key: jnp.stack([dither(numbered(key, i), 40)[8:] for i in numbers])  # noqa: E731
        leaves = jax.jit(jax.vmap(of_all, out_axes=1))
        drawn = np.asarray(leaves(keys))
        assert stats.chisquare(np.histogram(drawn, 1024, (0, 1))[0]).pvalue > 1e-7
        for leaf, other in [(0, 1), (1, 2), (0, 2), (0, 3), (0, 4), (4, 5)]:
            assert pairs(drawn[leaf].ravel(), drawn[other].ravel(), cells=16) > 1e-7
            assert pairs(drawn[leaf, 1:].ravel(), drawn[other, :-1].ravel(), cells=16) > 1e-7
            assert pairs(drawn[leaf, :, 1:].ravel(), drawn[other, :, :-1].ravel(), cells=16) > 1e-7

    @pytest.mark.parametrize("shift", [0, 5])
    def test_each_word_of_a_key_makes_another_stream(self, shift: int) -> None:
        """Also where the other word, at which counters begin, is the same or close."""
        one = np.asarray(mixed(jnp.uint32(1000), jnp.uint32(0x12345678), 2**19)) / 2**32
        for second in [0x1234567A, 1, *map(int, words(8, seed=1))]:
            other = np.asarray(mixed(jnp.uint32(1000 - shift), jnp.uint32(second), 2**19)) / 2**32
            assert pairs(one, other) > 1e-7
            assert shift == 0 or pairs(one[: len(one) - shift], other[shift:]) > 1e-7

    def test_rounding(self) -> None:
        scaled = jnp.float32([-3.0, 0.0, 7.0, -2.25, 0.5])
        rounded = jax.jit(jax.vmap(lambda key: round_up_or_down(scaled, key)))
        drawn = rounded(jax.random.split(jax.random.key(9), 20_000))
        drawn = np.asarray(drawn)
        assert (drawn[:, :3] == [-3, 0, 7]).all()
        assert set(np.unique(drawn[:, 3])) == {-3, -2}
        share = (drawn[:, 3:] == [-2, 1]).mean(0)
        assert (np.abs(share - [0.75, 0.5]) < 6 * np.sqrt([0.75 * 0.25 / 20_000, 0.25 / 20_000])).all()
        assert round_up_or_down(scaled, None).tolist() == [-3, 0, 7, -2, 1]


def pairs(first: Any, second: Any, cells: int = 64) -> float:
    """The p value of a chi-square test that pairs fill a square evenly."""
    places = (np.minimum(np.asarray(x) * cells, cells - 1).astype(np.int32) for x in (first, second))
    counts = np.bincount(next(places) * cells + next(places), minlength=cells**2)
    return float(stats.chisquare(counts).pvalue)
