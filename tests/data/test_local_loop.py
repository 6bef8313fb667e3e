"""The loop over local steps: in any blocks and on any platform it is a loop over the steps one by one."""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjaxlite.data.local_loop import Block, block_of, in_blocks


def one_by_one(first: int, num_steps: int, trips: int) -> tuple[float, list[int]]:
    total, seen = 1.0, []
    for index in range(first, min(first + trips, num_steps)):
        total = total * 0.5 + index
        seen.append(index)
    return total, seen


@pytest.mark.parametrize("block", [Block(1, False, False), Block(3, False, False), Block(3, True, False)])
def test_blocks_take_the_steps_of_a_plain_loop(block: Block) -> None:
    def run(first: Any, num_steps: Any, trips: Any) -> Any:
        step = lambda index, drawn, carry: (carry[0] * 0.5 + drawn, carry[1].at[index].add(1))  # noqa: E731
        carry = (jnp.float32(1), jnp.zeros(20, jnp.int32))
        draw = lambda index: index.astype(jnp.float32)  # noqa: E731
        return in_blocks(draw, step, carry, first=first, num_steps=num_steps, trips=trips, block=block)

    compiled = jax.jit(jax.vmap(run, in_axes=(0, 0, None)))
    for trips in (0, 1, 3, 5, 9):
        trips = -(-trips // block.size) * block.size if block.whole else trips
        firsts, ends = np.array(list(product((0, 2, 6), (0, 1, 7, 12)))).T
        totals, seen = compiled(jnp.int32(firsts), jnp.int32(ends), jnp.int32(trips))
        for i, (first, end) in enumerate(zip(firsts, ends, strict=True)):
            expected, indices = one_by_one(first, end, trips)
            np.testing.assert_allclose(totals[i], expected, rtol=1e-6)
            assert np.flatnonzero(seen[i]).tolist() == indices
            assert seen[i].max() <= 1


def test_an_accelerator_knows_how_many_steps_a_block_has() -> None:
    for largest, mean, turns in product((1, 2, 7, 60, 97, 1000), (1, 4.6, 60), (0.5, 1, 8, 100)):
        block = block_of("gpu", largest=largest, mean=mean, turns=turns)
        assert block.whole
        assert 1 <= block.size <= min(64, largest)
        assert -(-largest // block.size) * block.size <= 1.03 * largest, "spare steps of the largest client"


def test_on_a_cpu_no_step_is_spare() -> None:
    assert not block_of("cpu", largest=100, mean=4.6, turns=8).whole
    assert block_of("cpu", largest=100, mean=4.6, alone=True).exact


def test_unknown_numbers_of_steps_are_looked_at_one_by_one() -> None:
    assert block_of("gpu", largest=None, mean=None).size == 1
