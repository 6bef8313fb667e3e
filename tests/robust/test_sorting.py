"""Columns in order: that networks sort, keep what is wanted, and carry along what lies beside."""

import itertools

import jax
import numpy as np
import pytest

from fedjaxlite.wire.robust.coordinates import sorting


def test_networks_sort() -> None:
    for num in range(1, 11):  # whatever sorts all zeros and ones sorts everything
        columns = np.float32(list(itertools.product((0, 1), repeat=num))).T
        for wanted in {tuple(range(num)), (num // 2,), (0, num - 1)}:
            found, _ = _exchanged(columns, wanted)
            expected = np.sort(columns, axis=0)
            assert all((found[rank] == expected[rank]).all() for rank in wanted)


def _exchanged(columns: np.ndarray, wanted: tuple[int, ...]) -> tuple[np.ndarray, None]:
    """A network's exchanges in NumPy; what it does not keep is spoilt."""
    columns = columns.copy()
    for low, high, keeps_low, keeps_high in sorting.exchanges(len(columns), wanted):
        a, b = columns[low].copy(), columns[high].copy()
        columns[low] = np.minimum(a, b) if keeps_low else np.nan
        columns[high] = np.maximum(a, b) if keeps_high else np.nan
    return columns, None


@pytest.mark.parametrize("num", [1, 6, 129])
def test_what_lies_beside_goes_along(num: int) -> None:
    x = jax.random.normal(jax.random.key(1), (num, 3))
    both = jax.jit(lambda x: (sorting.ordered(list(x), range(num), list(10 * x)), sorting.ordered(list(x), [num // 2])))
    (keys, beside), (alone, nothing) = jax.device_get(both(x))
    want = np.sort(x, axis=0)
    np.testing.assert_array_equal(np.stack(list(keys.values())), want)
    np.testing.assert_array_equal(np.stack(list(beside.values())), 10 * want)
    np.testing.assert_array_equal(alone[num // 2], want[num // 2])
    assert nothing == {}


@pytest.mark.parametrize("num", [5, 129])
def test_leaves_are_looked_at_together_or_in_blocks(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "SMALL_LEAF", 8)
    asked = []

    def most(values: jax.Array) -> jax.Array:
        asked.append(values.shape[1])
        return values.max(0)

    sizes = (7, 20, 7, 1, 6, 7, 7, 3, 8)
    rng = np.random.default_rng(0)
    rows = {str(size) + str(at): np.float32(rng.normal(size=(num, size))) for at, size in enumerate(sizes)}
    found = jax.jit(lambda rows: sorting.entry_by_entry(most, rows))(rows)
    for name, leaf in rows.items():
        np.testing.assert_array_equal(found[name], leaf.max(0))
    assert sorted(asked) == [7, 8, 20, 31]
