"""Sets of indices in bytes: they come back, they are as small as claimed, and the sizes are the known ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjaxlite.wire.packing import indices as packing
from fedjaxlite.wire.packing.bits import packed_size

SHAPES = ((1, 1), (2, 1), (64, 2), (33, 32), (40, 40), (300, 1), (300, 9), (300, 77), (300, 150), (70000, 3))
PACK = jax.jit(packing.pack_indices, static_argnums=1)
UNPACK = jax.jit(packing.unpack_indices, static_argnums=(1, 2))


def there_and_back(found: np.ndarray, entries: int) -> None:
    packed = PACK(jnp.asarray(found, jnp.int32), entries)
    assert packed.dtype == jnp.uint8
    assert packed.shape == (packing.indices_size(entries, len(found)),)
    np.testing.assert_array_equal(UNPACK(packed, entries, len(found)), found)


@settings(max_examples=60, deadline=None)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**32 - 1))
def test_any_set_comes_back(shape: tuple[int, int], seed: int) -> None:
    entries, kept = shape
    there_and_back(np.sort(np.random.default_rng(seed).choice(entries, kept, replace=False)), entries)


@pytest.mark.parametrize("shape", [*SHAPES, (1663370, 16634)])
def test_the_first_and_the_last_and_those_in_clumps_come_back(shape: tuple[int, int]) -> None:
    """The longest runs of ones and the longest gaps, which fill the field up to its bound."""
    entries, kept = shape
    first, half = np.arange(kept), kept // 2
    for found in (first, entries - kept + first, np.r_[first[:half], entries - kept + first[half:]]):
        there_and_back(found, entries)


def test_in_lanes_they_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    sets = np.stack([np.sort(rng.choice(300, 77, replace=False)) for _ in range(5)]).astype(np.int32)
    packed = jax.jit(jax.vmap(lambda found: packing.pack_indices(found, 300)))(sets)
    np.testing.assert_array_equal(packed, [PACK(found, 300) for found in sets])
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda p: packing.unpack_indices(p, 300, 77)))(packed), sets)


@pytest.mark.parametrize(
    ("entries", "kept", "ideal", "naive"),
    [
        (1000, 10, 77.8, 100),
        (1000, 100, 464.4, 1000),
        (199210, 1992, 16087.3, 35856),
        (1663370, 16634, 134382.5, 349314),
    ],
)
def test_the_bits_of_a_set(entries: int, kept: int, ideal: float, naive: int) -> None:
    assert round(packing.set_bits(entries, kept), 1) == ideal
    if entries == 1000:
        assert packing.set_bits(entries, kept) == pytest.approx(math.log2(math.comb(entries, kept)), rel=1e-12)
    assert kept * (entries - 1).bit_length() == naive
    # The size that any set fits into lies between: within 7 % of the ideal, and far below the naive one.
    size = 8 * packing.indices_size(entries, kept)
    assert ideal < size < min(naive, 1.07 * ideal + 64)


def test_rice_takes_8_108_bits_an_index_at_one_percent() -> None:
    """Of independent entries: r + 1 bits and the whole 2^r in a gap; the limit is their entropy for each one kept."""
    p, r = 0.01, 6
    q = (1 - p) ** 2**r
    assert r + 1 + q / (1 - q) == pytest.approx(8.108, abs=5e-4)
    assert -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) / p == pytest.approx(8.08, abs=1e-3)
    assert packing.remainder_bits(1663370, 16634) == r
    found = np.sort(np.random.default_rng(0).choice(1663370, 16634, replace=False))
    used = int(packing.rice_bits(jnp.asarray(found, jnp.int32), r))
    assert used == sum(r + 1 + (gap >> r) for gap in (np.diff(found, prepend=-1) - 1).tolist())
    assert used / 16634 == pytest.approx(8.108, abs=0.07)  # six deviations: 1.53 a gap
    assert used < 8 * packing.indices_size(1663370, 16634) < 8.56 * 16634


def test_the_smallest_layout_is_taken() -> None:
    for entries, kept in [(7, 3), (64, 2), (1000, 1), (1000, 10), (1000, 500), (1000, 999), (2**20, 2), (2**20, 40)]:
        plain = packed_size(kept, (entries - 1).bit_length())
        rice = [packed_size(kept, r) + -(-(kept + ((entries - kept) >> r)) // 8) for r in range(20)]
        assert packing.indices_size(entries, kept) == min(plain, *rice)
        assert 8 * packing.indices_size(entries, kept) >= packing.set_bits(entries, kept) - 1e-6
    assert packing.remainder_bits(2**20, 2) is None  # plain
    assert packing.remainder_bits(1000, 500) == 0  # a map of bits
    assert packing.indices_size(1000, 1000) == 0  # all of them need no saying


WORDS, FIRST = jax.jit(packing.words_of), jax.jit(packing.first_ones)
ONES = jax.jit(packing.ones, static_argnums=1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), number=st.sampled_from([1, 2, 100, 204, 205]), share=st.floats(0, 1.2))
def test_words_of_bits_and_their_ones(seed: int, number: int, share: float) -> None:
    places = np.sort(np.random.default_rng(seed).choice(205, number, replace=False))
    mask = np.isin(np.arange(205), places)
    words = WORDS(mask)
    assert words.shape == (7,)
    np.testing.assert_array_equal(as_bits(words)[:205], mask)
    np.testing.assert_array_equal(ONES(words, number), places)
    some = int(share * number)
    np.testing.assert_array_equal(np.flatnonzero(as_bits(FIRST(words, np.int32(some)))), places[:some])


def as_bits(words: jax.Array) -> np.ndarray:
    return np.unpackbits(np.asarray(words).view(np.uint8), bitorder="little")
