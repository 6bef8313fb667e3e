"""Updates as vectors, and back."""

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.distributed import rotation


def test_trees_are_flattened_and_back() -> None:
    tree = {"b": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), "a": jnp.float32(7)}
    vector = rotation.flatten(tree, 8)
    assert vector.tolist() == [7, 0, 1, 2, 3, 4, 5, 0]
    back = rotation.unflatten(vector, tree)
    assert back["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (back["a"].shape, back["b"].dtype) == ((), jnp.float32)


def test_the_rotation_is_the_wires() -> None:
    x, key = jnp.arange(16.0), jax.random.key(2)
    np.testing.assert_array_equal(rotation.rotate(x, key), fl.compression.rotate(x, key))
    np.testing.assert_allclose(rotation.rotate_back(rotation.rotate(x, key), key), x, atol=1e-5)
