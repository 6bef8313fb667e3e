"""Draws from very many clients hold no table of all of them, and are the draws from few, bit for bit."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import fedjaxlite as fl
from fedjaxlite.sampling import draws

KEY = jax.random.key(3)


def shell(n: int) -> fl.Population:
    """Clients of one to three examples, without features."""
    sizes = 1 + np.arange(n) % 3
    return fl.Population.tree_unflatten(3, ({}, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=16, max_size=16))
def test_new_values_are_found_by_sorting_as_by_a_table(values) -> None:
    seen: set[int] = set()
    want = [value < 8 and not (value in seen or seen.add(value)) for value in values]
    sequence = jnp.asarray([min(value, 8) for value in values], jnp.int32)
    by_table, by_sorting = (draws.first_of_its_value(sequence, 8, sparse) for sparse in (10**6, 0))
    assert by_table.tolist() == by_sorting.tolist() == want


def test_few_of_many_are_drawn_without_a_table() -> None:
    shapes = jax.eval_shape(lambda: jnp.zeros(10**8 + 1, jnp.int32))
    population = fl.Population.tree_unflatten(1, ({}, shapes))
    sample = lambda key: fl.sampling.uniform(100).sample(key, 0, population).ids  # noqa: E731
    program = jax.jit(sample).lower(KEY).compile()
    assert program.memory_analysis().temp_size_in_bytes < 1e6
    ids = np.asarray(program(KEY))
    assert len(set(ids.tolist())) == 100
    assert 3e7 < ids.mean() < 7e7  # its deviation is 3e6


@pytest.mark.parametrize(
    "sampler", [fl.sampling.poisson(0.05, 90), fl.sampling.weighted(20, replacement=False)], ids=["poisson", "weighted"]
)
def test_clients_that_decide_for_themselves_do_so_by_blocks(sampler, monkeypatch) -> None:
    population = shell(1_000)
    sample = lambda key: sampler.sample(key, 2, population)  # noqa: E731
    whole = jax.jit(lambda key: sample(key))(KEY)
    monkeypatch.setattr(draws, "BLOCK", 64)
    assert draws.in_blocks(KEY, 1_000)
    by_blocks = jax.jit(lambda key: sample(key))(KEY)
    jax.tree.map(np.testing.assert_array_equal, by_blocks, whole)
    text = str(jax.make_jaxpr(sample)(KEY))
    assert "u32[1000]" not in text


def test_bits_of_a_block_are_those_of_all(monkeypatch) -> None:
    monkeypatch.setattr(draws, "BLOCK", 64)
    want = np.asarray(jax.random.bits(KEY, (300,), jnp.uint32))
    got = np.concatenate([np.asarray(draws.block_bits(KEY, begin)) for begin in draws.blocks(300)])
    np.testing.assert_array_equal(got[:300], want)


def test_other_generators_draw_all_at_once(monkeypatch) -> None:
    monkeypatch.setattr(draws, "BLOCK", 64)
    assert not draws.in_blocks(jax.random.key(0, impl="rbg"), 1_000)
    assert not draws.in_blocks(jax.random.PRNGKey(0), 1_000)
    assert not draws.in_blocks(KEY, 64)
