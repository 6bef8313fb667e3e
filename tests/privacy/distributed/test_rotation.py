"""The randomized Hadamard transform: orthonormal, its own inverse up to signs, and flattening."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from fedjaxlite.privacy.distributed import rotation


@pytest.mark.parametrize("size", [1, 2, 64, 128, 1024])
def test_the_transform_is_the_hadamard_matrix(size: int) -> None:
    x = np.random.default_rng(0).normal(size=size).astype(np.float32)
    want = linalg.hadamard(size).astype(np.float64) @ x / np.sqrt(size)
    np.testing.assert_allclose(rotation.walsh_hadamard(jnp.asarray(x)), want, atol=2e-6 * np.linalg.norm(x) + 1e-6)


def test_rotation_keeps_norms_and_is_undone() -> None:
    x = np.random.default_rng(1).normal(size=(3, 256)).astype(np.float32)
    key = jax.random.key(3)
    y = jax.vmap(lambda row: rotation.rotate(row, key))(jnp.asarray(x))
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-6)
    np.testing.assert_allclose(y[1], rotation.rotate(jnp.asarray(x[1]), key), atol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda row: rotation.rotate_back(row, key))(y), x, atol=1e-5)
    assert not np.allclose(y[0], rotation.rotate(jnp.asarray(x[0]), jax.random.key(4)), atol=0.1)


def test_rotation_spreads_one_entry_over_all() -> None:
    y = rotation.rotate(jnp.zeros((512,)).at[77].set(3.0), jax.random.key(0))
    np.testing.assert_allclose(np.abs(y), 3 / np.sqrt(512), rtol=1e-6)


def test_signs_are_fair() -> None:
    """A false alarm once in 10^6 seeds: five standard deviations of the sum of fair signs."""
    signs = np.asarray(rotation.signs(jax.random.key(5), 40_000 + 7))
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert signs.shape == (40_007,)
    assert abs(signs.sum()) < 5 * np.sqrt(40_007)


def test_trees_are_flattened_and_back() -> None:
    tree = {"b": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), "a": jnp.float32(7)}
    vector = rotation.flatten(tree, 8)
    assert vector.tolist() == [7, 0, 1, 2, 3, 4, 5, 0]
    back = rotation.unflatten(vector, tree)
    assert back["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (back["a"].shape, back["b"].dtype) == ((), jnp.float32)
    assert [rotation.padded_size(n) for n in (1, 2, 3, 4, 1000)] == [1, 2, 4, 4, 1024]


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has 6 entries; expected a power of two. Pad it to 8"):
        rotation.walsh_hadamard(jnp.zeros(6))
