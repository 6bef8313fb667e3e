"""QSGD, k-level, TernGrad, natural compression and signs: bias, and exact errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from entry_codecs import UNBIASED, agrees, arrived, draws
from scipy import stats

import fedjaxlite as fl
from fedjaxlite.wire.compression.entries.k_level import k_level
from fedjaxlite.wire.compression.entries.leaf_by_leaf import norm_in_one_pass
from fedjaxlite.wire.compression.entries.natural import natural
from fedjaxlite.wire.compression.entries.qsgd import qsgd
from fedjaxlite.wire.compression.entries.signs import sign
from fedjaxlite.wire.compression.entries.tern_grad import tern_grad


class TestBias:
    @pytest.mark.parametrize("name", UNBIASED)
    def test_the_mean_of_draws_is_the_entry(self, name: str) -> None:
        vector = np.float32([3.0, -4.1, 0.011, 0.0, 1.0, -0.37, 2.9, 1e-3])
        got = draws(UNBIASED[name](), vector, 20_000)
        agrees(got, vector.astype(np.float64), slack=1e-6)
        assert (got.std(0) > 0).sum() >= 4  # it is random indeed

    @pytest.mark.parametrize("name", [name for name in UNBIASED if name not in ("k_level 2", "k_level 5")])
    def test_leaves_and_entries_are_rounded_independently(self, name: str) -> None:
        """Three equal entries in two leaves, each beside one that sets the scale, as a range of two entries has no inside."""
        value = {"a": jnp.float32([0.3, 0.3, 1.7]), "b": jnp.float32([0.3, 1.7])}
        number = 4000
        keys = jax.random.split(jax.random.key(1), number)
        got = jax.jit(jax.vmap(lambda key: arrived(UNBIASED[name](), value, key)))(keys)
        drawn = np.stack([got["a"][:, 0], got["a"][:, 1], got["b"][:, 0]])
        assert np.abs(np.corrcoef(drawn)[np.triu_indices(3, 1)]).max() < 6 / math.sqrt(number)


class TestQsgd:
    VECTOR = np.float64([3, -4, 12, 0, 1])

    @pytest.mark.parametrize(("levels", "error"), [(1, 90.7680962), (2, 31.8449058), (4, 7.2101203), (16, 0.4480727)])
    def test_the_expected_squared_error(self, levels: int, error: float) -> None:
        norm = np.linalg.norm(self.VECTOR)
        part = levels * np.abs(self.VECTOR) / norm % 1
        assert (norm / levels) ** 2 * (part * (1 - part)).sum() == pytest.approx(error, rel=1e-7)
        assert error <= min(5 / levels**2, math.sqrt(5) / levels) * norm**2
        got = draws(qsgd(levels), self.VECTOR, 30_000, seed=levels)
        agrees(((got - self.VECTOR) ** 2).sum(1), error, slack=1e-5)

    @pytest.mark.parametrize("levels", [1, 3, 4, 255, 32767])
    def test_bits(self, levels: int) -> None:
        """A sign, and one of s + 1 levels."""
        wire = qsgd(levels).init(fl.wire_of(jnp.zeros(80), capacity=1))[1]
        assert wire.bits == 1 + math.ceil(math.log2(levels + 1))
        assert wire.value.shape == (10 * wire.bits,)

    def test_levels_of_the_norm(self) -> None:
        steps = draws(qsgd(4), self.VECTOR, 300) / np.linalg.norm(self.VECTOR) * 4
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)
        assert np.abs(steps).max() <= 4 + 1e-5

    @pytest.mark.parametrize("size", [1e-36, 1e-20, 1.0, 1e20, 1e36])
    @pytest.mark.parametrize("entries", [1, 7, 3001])
    def test_the_norm_in_one_pass(self, size: float, entries: int) -> None:
        """What accelerators compute in place of two sums, also where squares overflow or vanish."""
        vector = np.random.default_rng(3).normal(size=entries) * size
        vector[::5] = 0
        found = jax.jit(norm_in_one_pass)(jnp.asarray(vector, jnp.float32))
        assert float(found) == pytest.approx(float(np.linalg.norm(vector)), rel=1e-5)
        assert float(norm_in_one_pass(jnp.zeros(entries))) == 0.0

    def test_a_norm_beyond_the_largest_number_is_that(self) -> None:
        """Two entries of the largest number, whose norm float32 cannot hold: each is one of them, or none."""
        most = float(np.finfo(np.float32).max)
        found = draws(qsgd(2), jnp.float32([most, -most, 0.0]), 50)
        np.testing.assert_allclose(found, np.tile(np.float32([most, -most, 0.0]), (len(found), 1)), rtol=1e-6)


class TestKLevel:
    CLIENTS = np.arange(1.0, 13.0).reshape(3, 4)

    @pytest.mark.parametrize(("levels", "error"), [(2, 4 / 3), (3, 1 / 3), (4, 0.0)])
    def test_the_error_of_a_mean(self, levels: int, error: float) -> None:
        step = 3 / (levels - 1)
        above = (self.CLIENTS - self.CLIENTS.min(1, keepdims=True)) % step
        assert (above * (step - above)).sum() / 9 == pytest.approx(error, abs=1e-12)
        squares = (self.CLIENTS**2).sum(1).mean()
        assert error <= 4 / (2 * 3 * (levels - 1) ** 2) * squares
        got = np.stack([draws(k_level(levels), row, 20_000, seed=i) for i, row in enumerate(self.CLIENTS)])
        agrees(((got.mean(0) - self.CLIENTS.mean(0)) ** 2).sum(1), error, slack=1e-9 + (levels == 4) * 1e-12)

    def test_the_ends_of_the_range_are_exact_and_nothing_is_beyond(self) -> None:
        vector = np.float32([-0.1, 0.7, 0.2, 0.3])
        got = draws(k_level(7), vector, 500)
        assert (got[:, :2] == vector[:2]).all()
        assert (got >= vector[0]).all()
        assert (got <= vector[1]).all()

    @pytest.mark.parametrize(("levels", "bits"), [(2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (65536, 16)])
    def test_bits(self, levels: int, bits: int) -> None:
        assert k_level(levels).init(fl.wire_of(jnp.zeros(8), capacity=1))[1].bits == bits


class TestTernGrad:
    def test_values_and_variance(self) -> None:
        vector = np.float64([3, -4, 1, 0, -0.5])
        got = draws(tern_grad(), vector, 20_000)
        assert set(np.unique(got)) == {-4, 0, 4}
        agrees((got - vector) ** 2, np.abs(vector) * (4 - np.abs(vector)), slack=1e-5)


class TestNatural:
    def test_the_variance(self) -> None:
        """(|x| - 2^k) (2^(k+1) - |x|); the worst is an eighth of x^2, at 4/3 2^k."""
        vector = np.float32([4 / 3, -4 / 3 * 2**-20, 1.5, -3.1, 100.0])
        power = 2.0 ** np.floor(np.log2(np.abs(vector)))
        variance = (np.abs(vector) - power) * (2 * power - np.abs(vector))
        np.testing.assert_allclose(variance[:2] / np.float64(vector[:2]) ** 2, 1 / 8, rtol=1e-6)
        assert (variance / vector**2 <= 1 / 8 + 1e-7).all()
        got = draws(natural(), vector, 20_000)
        agrees(((got - vector) / power) ** 2, variance / power**2, slack=1e-6)

    def test_powers_of_two_zeros_and_the_ends_of_the_range(self) -> None:
        fixed = np.float32([0.0, -0.0, 1.0, -2.0, 2.0**127, -(2.0**127), 2.0**-126])
        assert (draws(natural(), fixed, 50) == fixed).all()
        largest = np.finfo(np.float32).max
        assert (draws(natural(), np.float32([largest, -largest]), 50) == np.float32([2.0**127, -(2.0**127)])).all()

    def test_the_coin_is_exact(self) -> None:
        """One step below a power of two: up with probability 1 - 2^-23, so always, here; one above: never."""
        near = np.nextafter(np.float32([2, 2]), np.float32([0, 4]))
        assert (draws(natural(), near, 2000) == [2, 2]).all()


class TestSigns:
    def test_the_error_is_exact(self) -> None:
        vector = np.random.default_rng(0).normal(size=1001).astype(np.float32)
        vector[:5] = 0
        wide = vector.astype(np.float64)
        got = draws(sign(), vector, 1)[0]
        np.testing.assert_allclose(np.abs(got), np.abs(wide).mean(), rtol=1e-6)
        error = (wide**2).sum() - np.abs(wide).sum() ** 2 / 1001
        assert ((got - wide) ** 2).sum() == pytest.approx(error, rel=1e-6)
        assert (np.sign(got[5:]) == np.sign(wide[5:])).all()


def test_a_biased_coin_is_found_out() -> None:
    """The statistics here can fail: draws of a biased coin do not agree."""
    biased = stats.bernoulli(0.52).rvs(size=20_000, random_state=0).astype(float)
    with pytest.raises(AssertionError):
        agrees(biased, 0.5)
