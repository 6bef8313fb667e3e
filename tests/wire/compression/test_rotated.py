"""EDEN and rotated k-level: errors against the theory, bias, bytes and norms."""

import itertools
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import some_often
from rotated_codecs import PARTS, build, client, decoded, head, normal
from scipy import stats

import fedjaxlite as fl
from fedjaxlite.wire.compression.rotated import shared
from fedjaxlite.wire.compression.rotated.eden import CENTROIDS, drive, eden
from fedjaxlite.wire.compression.rotated.k_level import rotated_k_level
from fedjaxlite.wire.packing.bits import packed_size
from fedjaxlite.wire.packing.rotation import rotated_size

VNMSE = {1: 0.570796, 2: 0.133121, 3: 0.035784, 4: 0.009592}
ENTROPY = {1: 1.0, 2: 1.911, 3: 2.825, 4: 3.765}


SPARSE = {"one": {0: 1.0}, "two": {0: 1.0, 17: 0.5}, "four": {0: 2.0, 3: 1.0, 5: 1.0, 6: 0.5}}
"""Entries of vectors of 256."""


@lru_cache
def sparse_decoded() -> list[tuple[np.ndarray, np.ndarray]]:
    """Each sparse vector at length one, and 4,000 messages of it: all in one program."""
    x = np.zeros((len(SPARSE), 256), np.float32)
    for row, entries in zip(x, SPARSE.values(), strict=True):
        row[list(entries)] = list(entries.values())
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    chain, state, _ = build(drive(), x[0])
    return list(zip(x, np.asarray(decoded(chain, state, x, range(4000), several=True), np.float64), strict=True))


class TestEden:
    @pytest.mark.parametrize("bits", [1, 2, 3, 4])
    def test_centroids_are_lloyds_for_normal_numbers(self, bits: int) -> None:
        """A fixed point: each is the mean of what is nearest to it; it has the error and the entropy of the table."""
        half = np.array(CENTROIDS[bits])
        ends = np.r_[0, (half[1:] + half[:-1]) / 2, np.inf]
        share = np.diff(stats.norm.cdf(ends))
        np.testing.assert_allclose(half, -np.diff(stats.norm.pdf(ends)) / share, atol=1e-9)
        captured = 2 * (share * half**2).sum()
        assert (1 - captured) / captured == pytest.approx(VNMSE[bits], abs=5e-7)
        assert -2 * (share * np.log2(share)).sum() == pytest.approx(ENTROPY[bits], abs=6e-4)

    @pytest.mark.parametrize(("size", "bits"), some_often(itertools.product((4096, 2100), (1, 2, 3, 4)), 7))
    def test_the_error_of_a_message_is_the_theorys(self, bits: int, size: int) -> None:
        """Over 60 rotations; the interval is 6 standard errors of the mean and 1 % for a size that is finite."""
        x = normal(size)
        for unbiased, want in ((True, VNMSE[bits]), (False, VNMSE[bits] / (1 + VNMSE[bits]))):
            chain, state, _ = build(eden(bits=bits, unbiased=unbiased), x)
            errors = np.sum((decoded(chain, state, x, range(60)) - x) ** 2, axis=1) / np.sum(x**2)
            noise = 6 * float(errors.std()) / np.sqrt(60)
            assert abs(float(errors.mean()) - want) < noise + 0.01 * want

    def test_one_bit_without_the_scale_for_the_mean(self) -> None:
        """(1 - 2/pi) (1 - 1/d) at a d where the last factor counts, within 6 standard errors of 4,000 rotations."""
        x = normal(32)
        chain, state, _ = build(drive(unbiased=False), x)
        errors = np.sum((decoded(chain, state, x, range(4000)) - x) ** 2, axis=1) / np.sum(x**2)
        want = (1 - 2 / np.pi) * (1 - 1 / 32)
        assert abs(float(errors.mean()) - want) < 6 * float(errors.std()) / np.sqrt(4000)

    def test_n_clients_have_an_nth_of_the_error(self) -> None:
        x = normal(1024)
        chain, state, _ = build(drive(), x)
        got = decoded(chain, state, x, range(3200)).reshape(100, 32, -1).mean(1)
        errors = np.sum((got - x) ** 2, axis=1) / np.sum(x**2)
        assert abs(float(errors.mean()) - VNMSE[1] / 32) < 6 * float(errors.std()) / 10 + 0.01 * VNMSE[1] / 32

    @pytest.mark.parametrize("name", SPARSE)
    def test_sparse_vectors_come_back_without_bias(self, name: str) -> None:
        """The squared bias over the squared norm, estimated without bias from 4,000 messages: below 1e-4.

        One rotation alone has .25 for the second vector. The noise of the estimate is sqrt(2/d) v/n = 1e-5.
        """
        x, got = sparse_decoded()[list(SPARSE).index(name)]
        bias = got.mean(0) - x
        assert (bias**2).sum() - got.var(0).sum() / 4000 < 1e-4

    @pytest.mark.whole
    def test_bytes_are_what_is_sent(self) -> None:
        for bits, unbiased in itertools.product((1, 3), (True, False)):
            chain, state, end = build(
                fl.chain(fl.weighted_mean(), eden(bits=bits, unbiased=unbiased)), PARTS, weight={"a": 1, "b": 1}
            )
            message, _ = chain.encode(state, ((), ()), fl.Message(PARTS, {"a": 1, "b": 1}, {}), client(0))
            sent = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (message.value, message.aside))
            assert sent == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (end.value, end.aside))
            sizes = [rotated_size(300), 38]
            assert [leaf.size for leaf in jax.tree.leaves(message.value)] == [packed_size(s, bits) for s in sizes]
            assert end.overhead == (0, 8)
            assert [code.entries for code in end.codes] == sizes

    def test_the_biased_message_is_never_longer(self) -> None:
        chain, state, end = build(head(fl.clip_by_global_norm(2.0), eden(bits=2, unbiased=False)), PARTS)
        assert end.bounds == (2.0, 2.0, 2.0 * np.sqrt(338))
        value = jax.tree.map(lambda leaf: normal(leaf.size, leaf.size).reshape(leaf.shape), PARTS)
        got = decoded(chain, state, value, range(50))
        squares = sum(np.square(np.float64(leaf)).reshape(50, -1).sum(1) for leaf in jax.tree.leaves(got))
        assert np.sqrt(squares.max()) <= 2.0 * (1 + 1e-6)
        assert build(eden(bits=2), PARTS)[2].bounds == (None, None, None)

    @pytest.mark.parametrize("codec", [drive(), eden(bits=3), eden(bits=2, unbiased=False)])
    def test_nothing_stays_nothing(self, codec: fl.Aggregator) -> None:
        chain, state, _ = build(codec, PARTS)
        values = jax.tree.map(lambda leaf: np.stack([leaf, leaf + np.float32(1e-36)]), PARTS)
        for zeros, tiny in jax.tree.leaves(decoded(chain, state, values, range(3), several=True)):
            assert not np.any(zeros)
            assert np.all(np.isfinite(tiny))


class TestKLevel:
    @pytest.mark.slow
    def test_the_error_is_below_the_theorem_and_is_what_rounding_costs(self) -> None:
        """Given the rotation, the error is the sum of f (1 - f) step^2, in float64; 6 standard errors of 2,000 draws."""
        for levels, x in ((2, normal(512)), (4, normal(512)), (16, np.eye(512, dtype=np.float32)[3])):
            chain, state, _ = build(rotated_k_level(levels=levels), x)
            errors = np.sum((decoded(chain, state, x, range(2000)) - x) ** 2, axis=1)
            (z,) = shared.turned(state[1].form, jnp.asarray(x), shared.common_key(state[1].seed))
            z = np.asarray(z, np.float64)
            step = (z.max() - z.min()) / (levels - 1)
            part = (z - z.min()) / step % 1
            want = (part * (1 - part)).sum() * step**2
            assert abs(errors.mean() - want) < 6 * errors.std() / np.sqrt(2000) + 1e-4 * want
            assert want <= (2 * np.log(512) + 2) / (levels - 1) ** 2 * (x**2).sum()

    def test_it_has_no_bias_and_n_clients_an_nth_of_the_error(self) -> None:
        """The mean of 4,000 messages: its squared error over the variance / 4,000 is chi-squared over d, within 6 sigma."""
        x = normal(500, 3)
        chain, state, _ = build(rotated_k_level(levels=4), x)
        got = decoded(chain, state, x, range(4000)).astype(np.float64)
        ratio = ((got.mean(0) - x) ** 2).sum() / (got.var(0, ddof=1).sum() / 4000)
        assert abs(ratio - 1) < 6 * np.sqrt(2 / 500)

    def test_norms_stay_within_the_bound(self) -> None:
        rng = np.random.default_rng(0)
        for levels, size in ((2, 64), (3, 100), (256, 64)):
            chain, state, end = build(
                head(fl.clip_by_global_norm(1.0), rotated_k_level(levels=levels)), jnp.zeros(size)
            )
            assert end.bounds.l2 == pytest.approx(min(np.sqrt(size), 1 + np.sqrt(2 * size) / (levels - 1)))
            x = np.stack([rng.normal(size=size), np.eye(size)[0], np.eye(size)[0] - np.eye(size)[1]])
            x = np.float32(x / np.linalg.norm(x, axis=1, keepdims=True))
            got = decoded(chain, state, x, range(50), several=True)
            assert np.linalg.norm(got, axis=2).max() <= end.bounds.l2 * (1 + 1e-6)

    def test_two_values_are_on_the_grid(self) -> None:
        """One entry of 1, rotated once more by hand into two values, needs no rounding: levels are where they should."""
        chain, state, _ = build(rotated_k_level(levels=2), jnp.zeros(1))
        assert decoded(chain, state, jnp.float32([5.0]), [0, 1]).tolist() == [[5.0], [5.0]]


def test_wrong_arguments_and_wires() -> None:
    with pytest.raises(ValueError, match=r"`levels` is 1; expected 2 to 65,536"):
        rotated_k_level(levels=1)
    with pytest.raises(ValueError, match=r"`bits` is 5; expected one of 1, 2, 3, 4"):
        eden(bits=5)
    with pytest.raises(TypeError, match=r"`unbiased` is 1; expected True or False"):
        drive(unbiased=1)  # type: ignore[arg-type]
    for codec in (drive(), rotated_k_level(levels=4)):
        with pytest.raises(ValueError, match=f"`{codec.name}` needs float leaves"):
            fl.chain(fl.mean(), fl.clip_by_global_norm(1.0), fl.quantize(bits=8), codec).init(
                fl.wire_of(jnp.zeros(3), capacity=2)
            )
