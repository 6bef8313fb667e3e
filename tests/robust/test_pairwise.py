"""Squared distances of all pairs by one matrix product: their stated error, and messages of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjaxlite.wire.aggregator import Message, Stacked
from fedjaxlite.wire.robust.distances.pairwise import ranks, squared_distances, squared_distances_to
from fedjaxlite.wire.rows import Rows, Shares, rows_of

K, FIRST, SECOND = 7, 20_000, 30  # the first leaf takes several blocks


def rows_from(values: np.ndarray, present: np.ndarray | None = None) -> Rows:
    here = jnp.ones(len(values), jnp.bool_) if present is None else jnp.asarray(present)
    values = jnp.where(here[:, None], jnp.float32(values), 0)
    tree = {"a": values[:, :FIRST], "b": values[:, FIRST:]}
    return rows_of(Stacked(Message(tree, jnp.ones(len(values)), {}), here), None)


@jax.jit
def found(values: jax.Array, present: jax.Array) -> jax.Array:
    return squared_distances(rows_from(values, present))


def exact(values: np.ndarray) -> np.ndarray:
    rows = np.float32(values).astype(np.float64)
    return np.square(rows[:, None] - rows[None]).sum(-1)


def normals(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(K, FIRST + SECOND))


def spread(values: np.ndarray, center: np.ndarray | float = 0.0) -> np.ndarray:
    lengths = np.square(np.float32(values).astype(np.float64) - center).sum(-1)
    return lengths[:, None] + lengths[None]


BLOCK = 2**16 // K
ERROR = 2 * (BLOCK + FIRST / BLOCK + 2 + 8) * 2.0**-24
"""What the docstring states, for two leaves."""


def everyone() -> jax.Array:
    return jnp.ones(K, jnp.bool_)


def test_one_product_keeps_the_stated_error_of_a_pair() -> None:
    values = normals(0) * np.float64([[1, 1, 1, 1, 2, 30, 1000]]).T  # nobody's length spoils another pair
    error = np.abs(np.asarray(found(values, everyone()), np.float64) - exact(values))
    assert np.all(error <= ERROR * spread(values))
    assert np.all(error <= 1e-5 * spread(values))  # what it is in practice
    assert error[0, 1] <= 1e-5 * exact(values)[0, 1]


def test_messages_close_together_and_far_from_zero_are_moved() -> None:
    values = normals(1) + 1e3
    error = np.abs(np.asarray(found(values, everyone()), np.float64) * unit_of(values) - exact(values))
    off = ~np.eye(K, dtype=bool)
    assert np.all(error[off] <= ERROR * spread(values, np.float32(values[0]).astype(np.float64))[off] * 2)
    assert np.max(error[off] / exact(values)[off]) < 1e-5
    alone = np.float32(values) @ np.float32(values).T  # without, there is nothing left of a distance
    plain = alone.diagonal()[:, None] + alone.diagonal()[None] - 2 * alone
    assert np.max(np.abs(plain - exact(values))[off] / exact(values)[off]) > 1e-2


def unit_of(values: np.ndarray, pair: tuple[int, int] = (0, 1)) -> float:
    """The unit of what was found, a power of two."""
    ratio = exact(values)[pair] / float(found(values, everyone())[pair])
    assert abs(np.log2(ratio) - np.round(np.log2(ratio))) < 1e-4
    return 2.0 ** np.round(np.log2(ratio))


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e15, 1e20, 1e37])
def test_squares_may_leave_float32(scale: float) -> None:
    values = normals(2) * scale * 0.1
    square = np.asarray(found(values, everyone()), np.float64)
    off = ~np.eye(K, dtype=bool)
    np.testing.assert_allclose(square[off] * unit_of(values), exact(values)[off], rtol=1e-5)


@pytest.mark.parametrize("huge", [1e20, 3e38])
def test_huge_messages_hide_nobody(huge: float) -> None:
    values = normals(3) + 5
    values[2], values[6] = huge, -huge
    square = np.asarray(found(values, everyone()), np.float64)
    assert not np.isnan(square).any()
    honest = [0, 1, 3, 4, 5]
    pairs = np.ix_(honest, honest)
    others = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(square[pairs][others] * unit_of(values), exact(values)[pairs][others], rtol=1e-5)
    assert np.all(square[2, honest] > 1e3 * square[pairs].max())
    assert np.all(square[6, [*honest, 2]] > 1e3 * square[pairs].max())


def test_zeros_beside_messages() -> None:
    values = np.zeros((K, FIRST + SECOND))
    values[4:, :100] = [[1.0], [1.0], [-2.0]]
    square = np.asarray(found(values, everyone()), np.float64)
    assert np.all(square[:4, :4] == 0)
    assert square[4, 5] == 0
    np.testing.assert_allclose(square * unit_of(values, (0, 6)), exact(values), rtol=1e-6)


def test_the_absent_are_infinitely_far() -> None:
    present = np.bool_([1, 0, 1, 1, 0, 1, 1])
    square = np.asarray(found(normals(4) + 1e3, jnp.asarray(present)))
    assert np.all(np.isinf(square[~present]))
    assert np.all(np.isinf(square[:, ~present]))
    assert np.all(np.isfinite(square[np.ix_(present, present)]))
    assert np.all(square == square.T)


def test_distances_to_one_message_are_of_differences() -> None:
    for values in (normals(5) + 1e3, normals(5) * 1e20, np.where(np.arange(K)[:, None] == 3, 3e38, normals(5))):
        to = np.asarray(jax.jit(lambda v: squared_distances_to(rows_from(v), jnp.int32(2)))(values), np.float64)
        others = [0, 1, 4, 5, 6]
        ratio = exact(values)[2, 0] / to[0]
        np.testing.assert_allclose(to[others] * ratio, exact(values)[2, others], rtol=1e-5)
        assert to[2] == 0
        assert not np.isnan(to).any()


def test_parts_on_devices_add_up() -> None:
    values = jnp.float32(normals(6)[:, :20] + 100)
    apart = jnp.stack([values[:, :12], jnp.pad(values[:, 12:], ((0, 0), (0, 4)))])  # zeros fill up a share

    def on_device(part: jax.Array) -> jax.Array:
        shares = Shares(add=lambda tree: jax.lax.psum(tree, "devices"), mine=lambda t: t, whole=lambda t: t)
        whole = rows_from(np.zeros((K, 1)))
        return squared_distances(whole._replace(values={"a": part}, shares=shares))

    square = jax.jit(jax.vmap(on_device, axis_name="devices"))(apart)
    assert np.all(square[0] == square[1])
    ratio = exact(np.asarray(values))[0, 1] / square[0, 0, 1]
    np.testing.assert_allclose(square[0] * ratio, exact(np.asarray(values)), rtol=1e-5, atol=1e-5)


def test_many_programs_side_by_side_find_what_one_finds() -> None:
    many = jnp.stack([jnp.float32(normals(7)), jnp.float32(normals(8) + 1e3), jnp.float32(normals(9) * 1e20)])
    together = jax.jit(jax.vmap(lambda v: squared_distances(rows_from(v))))(many)
    for one, alone in zip(together, many, strict=True):
        np.testing.assert_allclose(one, found(alone, everyone()), rtol=1e-5)


def test_distances_have_no_slope() -> None:
    slope = jax.jit(jax.grad(lambda v: squared_distances(rows_from(v)).sum()))(jnp.float32(normals(0)[:, :40]))
    assert not np.any(slope)


def test_ranks_are_stable_and_leave_the_absent_behind() -> None:
    scores = jnp.float32([[3, jnp.inf, 1, 1, jnp.inf]])
    assert ranks(scores, jnp.bool_([1, 1, 1, 1, 0])).tolist() == [[2, 3, 0, 1, 4]]
    assert ranks(scores, jnp.bool_([0, 1, 1, 1, 1])).tolist() == [[4, 2, 0, 1, 3]]
