"""Statistics of data with holes: what is known counts, what is missing is told of, and nobody has no silent answer."""

from functools import cache
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms import analytics, k_means

KEY, SIZES = jax.random.key(0), (7, 1, 4, 9)
OWNER = np.repeat(["a", "b", "c", "d"], SIZES)


def people(seed: int, share: float = 0.3, hole: float = np.nan) -> fl.Population:
    """A feature of three numbers and one of one, of which a share is missing."""
    rng = np.random.default_rng(seed)
    rows, one = rng.normal(size=(21, 3)).astype(np.float32), rng.uniform(0, 10, size=21).astype(np.float32)
    rows[rng.random(rows.shape) < share] = hole
    one[rng.random(21) < share] = hole
    return fl.Population.from_arrays({"x": rows, "one": one}, client_ids=OWNER, check_finite=False)


def everyone(data: fl.Population) -> fl.Cohort:
    return fl.sampling.full(data.num_clients).sample(KEY, 0, data)


def call(run: Any, data: fl.Population) -> Any:
    return jax.tree.map(np.asarray, run(data, everyone(data), KEY))


def known(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan).astype(np.float64)


@cache
def averages() -> tuple[Any, Any, Any]:
    """Compiled once for holes of every kind."""
    options: dict[str, Any] = {"missing": "skip", "execution": helpers.ONE}
    mean, variance = analytics.federated_mean(**options), analytics.federated_variance(**options)
    return mean, variance, analytics.federated_mean(per="clients", **options)


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_means_and_variances_are_those_of_the_known_values(seed: int, hole: float) -> None:
    data = people(seed, hole=hole)
    x = known(np.asarray(data.features["x"]))
    mean, variance, per_client = averages()
    assert call(mean, data) == pytest.approx(np.nanmean(x, 0), abs=1e-5)
    moments = call(variance, data)
    assert moments.variance == pytest.approx(np.nanvar(x, 0), abs=1e-5)
    parts = np.split(x, np.cumsum(SIZES)[:-1])
    own = [[np.nanmean(part[:, j]) if np.isfinite(part[:, j]).any() else np.nan for j in range(3)] for part in parts]
    assert call(per_client, data) == pytest.approx(np.nanmean(own, 0), abs=1e-5)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_shares_and_quantiles_are_those_of_the_known_values(seed: int) -> None:
    data = people(seed)
    one = np.asarray(data.features["one"])
    one = one[~np.isnan(one)]
    options: dict[str, Any] = {"missing": "skip", "execution": helpers.ONE}
    edges = [0, 2, 5, 9]
    shares = call(analytics.federated_histogram(edges, "one", **options), data)
    assert shares == pytest.approx(np.histogram(one, edges)[0] / len(one), abs=1e-6)
    found = call(analytics.federated_quantiles([0.25, 0.5, 1.0], "one", low=0, high=16, **options), data)
    want = np.quantile(one, [0.25, 0.5, 1.0], method="inverted_cdf")
    assert (found >= want - 1e-3).all()
    assert (found <= want + 2e-3).all()


def test_infinite_values_lie_outside_of_edges_and_bounds() -> None:
    data = fl.Population.from_arrays(
        {"x": np.float32([1, 3, np.inf, -np.inf])}, client_ids=[0, 0, 1, 1], check_finite=False
    )
    assert call(analytics.federated_histogram([0, 2, 4], execution=helpers.ONE), data).tolist() == [0.25, 0.25]
    median = analytics.federated_quantiles([0.5], low=0, high=4, execution=helpers.ONE)
    assert call(median, data) == pytest.approx(1.0, abs=1e-3)


def test_codes_that_are_no_items_do_not_count_as_others() -> None:
    """-1 and 117 would be 99 and 17 by their digits."""
    data = fl.Population.from_arrays({"x": np.int32([17, 17, -1, 117, 4, 4])}, client_ids=[0, 0, 0, 1, 1, 1])
    run = analytics.heavy_hitters(threshold=0.3, alphabet=10, length=2, execution=helpers.ONE)
    with pytest.warns(UserWarning, match=r"'x' are missing \(out of range\): 2, at 2 of 2 clients \(0, 1\)"):
        found = call(run, data)
    assert (sorted(found.items.tolist()), found.shares.tolist()) == ([4, 17], [0.5, 0.5])
    tokens = fl.Population.from_arrays({"x": np.int32([[1, 7], [1, 7], [1, -1], [2, 10]])}, client_ids=[0, 0, 1, 1])
    run = analytics.heavy_hitters(threshold=0.5, alphabet=10, length=2, missing="skip", execution=helpers.ONE)
    found = call(run, tokens)
    assert (found.items.tolist(), found.shares.tolist()) == ([[1, 7]], [1.0])


def test_what_was_left_out_is_counted_and_named() -> None:
    data = fl.Population.from_arrays(
        {"x": np.float32([1, np.nan, np.nan, 4, 5, np.inf])},
        client_ids=["a", "b", "b", "c", "d", "e"],
        check_finite=False,
    )
    text = r"values of 'x' are missing \(NaN or infinite\): 3, at 2 of 5 clients \(b, e\)"
    with pytest.warns(UserWarning, match=f"{text}; they are left out. Pass missing='skip' where that is meant"):
        assert call(analytics.federated_mean(execution=helpers.ONE), data) == pytest.approx(10 / 3)
    for run in (
        analytics.federated_mean(missing="refuse", execution=helpers.ONE),
        analytics.federated_variance(missing="refuse", execution=helpers.ONE),
    ):
        with pytest.raises(
            ValueError, match=f"{text}. Pass missing='skip' to leave out what is missing, or fill it in"
        ):
            call(run, data)
    with pytest.raises(ValueError, match=r"'x' are missing \(NaN\): 2, at 1 of 5 clients \(b\)"):
        call(analytics.federated_quantiles([0.5], low=0, high=9, missing="refuse", execution=helpers.ONE), data)
    with pytest.raises(ValueError, match="`missing` is 'drop'; expected one of 'warn', 'skip', 'refuse'"):
        analytics.federated_mean(missing="drop")  # pyright: ignore[reportArgumentType]


def test_clients_whose_sums_are_too_large_are_named_too() -> None:
    data = fl.Population.from_arrays({"x": np.float32([3e38, 3e38, 1, 2])}, client_ids=["a", "a", "b", "b"])
    run = analytics.federated_mean(missing="skip", execution=helpers.ONE)
    with pytest.warns(UserWarning, match=r"the sums of 1 clients over 'x' are not finite, .* left out whole \(a\)"):
        assert call(run, data) == pytest.approx(1.5)


def test_nobody_has_no_silent_answer() -> None:
    data = fl.Population.from_arrays({"x": np.full(4, np.nan, np.float32)}, client_ids=[0, 0, 1, 1], check_finite=False)
    options: dict[str, Any] = {"missing": "skip", "execution": helpers.ONE}
    for run in (
        analytics.federated_mean(**options),
        analytics.federated_variance(**options),
        analytics.federated_histogram([0, 1, 2], **options),
        analytics.federated_quantiles([0.5], low=0, high=1, num_rounds=3, **options),
    ):
        with pytest.warns(UserWarning, match="none of 2 clients gave a value of 'x', so there is no result"):
            assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(call(run, data)))
    nothing = fl.Population.from_arrays({"x": np.int32([-1, -1])}, client_ids=[0, 1])
    with pytest.warns(UserWarning, match="none of 2 clients"):
        found = call(analytics.heavy_hitters(threshold=0.5, alphabet=3, length=2, **options), nothing)
    assert found.items.shape[0] == 0


def test_inside_of_jit_a_refusal_is_nan() -> None:
    run = analytics.federated_mean(missing="refuse", execution=helpers.ONE)
    compiled = jax.jit(lambda data: run(data, everyone(data), KEY))
    for share, finite in ((0.3, False), (0.0, True)):
        assert bool(np.isfinite(compiled(people(0, share))).all()) == finite


def test_a_column_that_nobody_knows_is_nan_and_the_others_are_not() -> None:
    data = fl.Population.from_arrays(
        {"x": np.float32([[1, np.nan], [3, np.nan]])}, client_ids=[0, 1], check_finite=False
    )
    moments = call(analytics.federated_variance(missing="skip", execution=helpers.ONE), data)
    assert np.array_equal(moments.mean, [2, np.nan], equal_nan=True)
    assert np.array_equal(moments.variance, [1, np.nan], equal_nan=True)


def test_k_means_leaves_rows_with_holes_out_and_counts_them() -> None:
    x = np.float32([[0, 0], [1, np.nan], [9, 9], [11, 11], [np.inf, 0]])
    data = fl.Population.from_arrays({"x": x}, client_ids=[0, 0, 0, 1, 1], check_finite=False)
    _, state, info = helpers.one_run(k_means(), data, jnp.float32([[1, 1], [8, 8]]), aggregator=fl.weighted_mean())
    assert state.params.tolist() == [[0, 0], [10, 10]]
    assert info.clients["missing"].tolist() == [1, 1]
    assert int(info.num_nonfinite) == 0
