"""Work on a leaf in blocks of entries: the same numbers and derivatives, and less memory on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjaxlite.wire.rows import in_blocks

ROWS, ENTRIES = 7, 103


def _some(values: jax.Array, shift: jax.Array) -> dict[str, jax.Array]:
    return {"third": jnp.sort(values, axis=0)[2] + shift, "squares": values**2 - shift[None], "big": values.max(0) > 1}


@pytest.mark.parametrize("numbers", [1, ROWS * 50, ROWS * 51, ROWS * ENTRIES, 10**6])
def test_blocks_change_nothing(numbers: int) -> None:
    values = jax.random.normal(jax.random.key(0), (ROWS, ENTRIES))
    shift = jax.random.normal(jax.random.key(1), (ENTRIES,))
    by_blocks = jax.jit(lambda v, s: in_blocks(_some, v, s, numbers=numbers))
    jax.tree.map(np.testing.assert_array_equal, by_blocks(values, shift), _some(values, shift))


def test_blocks_have_the_same_slopes_once_for_each_entry() -> None:
    values = jax.random.normal(jax.random.key(0), (ROWS, ENTRIES))
    square = lambda v: (v**2).sum(0)  # noqa: E731
    slope = jax.grad(lambda v: in_blocks(square, v, numbers=ROWS * 50).sum())(values)
    np.testing.assert_allclose(slope, 2 * values)


def test_what_is_made_on_the_way_is_a_block_large() -> None:
    values = jax.ShapeDtypeStruct((64, 4096), jnp.float32)
    sort = lambda v: jnp.sort(v, axis=0)[32]  # noqa: E731
    temporary = {
        numbers: jax.jit(lambda v, n=numbers: in_blocks(sort, v, numbers=n)).lower(values).compile().memory_analysis()
        for numbers in (64 * 128, 64 * 4096)
    }
    small, large = (temporary[n].temp_size_in_bytes for n in sorted(temporary))
    assert small < large / 8
