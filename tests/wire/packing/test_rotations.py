"""The random rotation: an orthonormal matrix of its own inverse, of any size, that spreads every vector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import some_often
from scipy import linalg, stats

from fedjaxlite.wire.packing import rotation


def matrix(size: int) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(rotation.transform))(np.eye(size, dtype=np.float32)), np.float64)


@pytest.mark.parametrize("size", some_often([1, 2, 8, 64, 128, 256, 1024], 3))
def test_a_power_of_two_has_the_hadamard_matrix(size: int) -> None:
    np.testing.assert_allclose(matrix(size), linalg.hadamard(size) / np.sqrt(size), atol=1e-6)


@pytest.mark.parametrize("size", some_often([3, 12, 65, 100, 126, 130, 520, 816], 3))
def test_other_sizes_are_orthonormal_symmetric_and_flat(size: int) -> None:
    t = matrix(rotation.rotated_size(size))
    np.testing.assert_allclose(t @ t, np.eye(len(t)), atol=2e-6)
    np.testing.assert_allclose(t, t.T, atol=1e-6)
    assert np.abs(t).max() <= np.sqrt(2 / len(t)) + 1e-6


@pytest.mark.parametrize("size", [7, 100, 816, 4096])
def test_the_small_matrix_and_the_butterfly_are_one_kronecker_product(size: int) -> None:
    size = rotation.rotated_size(size)
    odd, even = size, 1
    while odd % 2 == 0:
        odd, even = odd // 2, even * 2
    angle = 2 * np.pi * np.outer(np.arange(odd), np.arange(odd)) / odd
    x = np.random.default_rng(size).normal(size=size)
    want = np.kron(linalg.hadamard(even), np.cos(angle) + np.sin(angle)) @ x / np.sqrt(size)
    np.testing.assert_allclose(jax.jit(rotation.transform)(np.float32(x)), want, atol=1e-5)


def test_sizes() -> None:
    for size in [*range(1, 3000), 266_610, 1_663_370, 2**20, 2**20 + 1, 10**8]:
        padded = rotation.rotated_size(size)
        assert size <= padded <= size * (1 + 1 / 64)
        assert rotation.rotated_size(padded) == padded
        power = rotation.padded_size(size)
        assert power // 2 < size <= power == rotation.rotated_size(power)
    assert (rotation.rotated_size(266_610), rotation.rotated_size(0)) == (270_336, 1)


@pytest.mark.parametrize("size", [512, 776])
def test_rotation_keeps_norms_and_is_undone(size: int) -> None:
    x = np.random.default_rng(1).normal(size=(4, size)).astype(np.float32)
    rotate = jax.jit(rotation.rotate)

    @jax.jit
    def there_and_back(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = jax.vmap(rotation.rotate, (0, None))(x, key)
        return y, jax.vmap(rotation.rotate_back, (0, None))(y, key)

    key = jax.random.key(3)
    y, back = there_and_back(x, key)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-5)
    np.testing.assert_allclose(y[1], rotate(x[1], key), atol=1e-5)
    np.testing.assert_allclose(back, x, atol=1e-5)
    assert not np.allclose(y[0], rotate(x[0], jax.random.key(4)), atol=0.1)


def test_rotation_spreads_one_entry_over_all() -> None:
    rotate, three = jax.jit(rotation.rotate), np.float32(3.0)
    y = rotate(three * (np.arange(512) == 77), jax.random.key(0))
    np.testing.assert_allclose(np.abs(y), 3 / np.sqrt(512), rtol=1e-5)
    y = rotate(three * (np.arange(776) == 77), jax.random.key(0))
    assert np.abs(y).max() <= 3 * np.sqrt(2 / 776) * 1.00001


def test_entries_are_below_the_tail_that_is_promised() -> None:
    """P(|y_i| > t |x| / sqrt(d)) <= 2 exp(-t^2 / 2), or 2 exp(-t^2 / 4): the worst of all entries over 4,000 draws."""
    for size, width in ((256, 1.0), (260, 2.0)):
        x = jnp.zeros(size).at[: size // 3].set(1.0)
        keys = jax.random.split(jax.random.key(1), 4000)
        y = jax.jit(jax.vmap(lambda key, x=x: rotation.rotate(x, key)))(keys)
        beyond = np.asarray((jnp.abs(y) > 3 * jnp.linalg.norm(x) / np.sqrt(size)).sum(0))
        allowed = 2 * np.exp(-9 / (2 * width))
        assert stats.binom.sf(beyond.max() - 1, 4000, allowed) > 1e-6 / size


def test_signs_are_fair_and_independent_of_the_size() -> None:
    """Ones among 40,007 fair bits are within 5 standard deviations: a false alarm once in 1.7 million."""
    signs = np.asarray(rotation.signs(jax.random.key(5), 40_007))
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(signs.sum()) < 5 * np.sqrt(40_007)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the vector has 6 entries; expected a power of two. Pad it to 8"):
        rotation.walsh_hadamard(jnp.zeros(6))
    with pytest.raises(ValueError, match=r"129 entries, which no rotation has; pad it with zeros to .* 130"):
        rotation.rotate(jnp.zeros(129), jax.random.key(0))
