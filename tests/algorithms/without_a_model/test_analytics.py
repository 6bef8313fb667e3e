"""Federated analytics against NumPy on the pooled examples, through several aggregators."""

import helpers
import jax
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.algorithms.without_a_model.analytics import (
    federated_histogram,
    federated_mean,
    federated_quantiles,
    federated_variance,
    heavy_hitters,
)

SIZES = (30, 7, 1, 22, 4)
KEY = jax.random.key(0)


def people(extra_empty: bool = True) -> fl.Population:
    """Five clients whose values differ, and one without any."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(5), SIZES)
    x = (1000 + owner + rng.normal(size=len(owner))).astype(np.float32)
    features = {"x": x, "v": rng.normal(size=(len(owner), 2, 3)).astype(np.float32), "n": words(owner, rng)}
    features["tokens"] = np.stack([features["n"] // 100, features["n"] // 10 % 10, features["n"] % 10], 1)
    order = [0, 1, 2, 3, 4, *([5] if extra_empty else [])]
    return fl.Population.from_arrays(features, client_ids=owner, order=order, allow_empty=True)


def words(owner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    frequent = np.array([7, 123, 124, 900])
    rare = rng.integers(1000, size=len(owner))
    return np.where(rng.random(len(owner)) < 0.7, frequent[rng.integers(4, size=len(owner))], rare).astype(np.int32)


def everyone(data: fl.Population) -> fl.Cohort:
    return fl.sampling.full(data.num_clients).sample(KEY, 0, data)


def per_client(data: fl.Population, values: np.ndarray) -> np.ndarray:
    """The mean over clients of their means."""
    return np.mean([part.mean(0) for part in np.split(values, np.cumsum(SIZES)[:-1])], axis=0)


def test_means_of_examples_and_of_clients() -> None:
    data, v = people(), np.asarray(people().features["v"], np.float64)
    exact = fl.chain(fl.mean(over=3.0), fl.clip_by_global_norm(1e9))
    for aggregator in (fl.weighted_mean(), exact):
        run = federated_mean("v", aggregator=aggregator, execution=helpers.ONE)
        assert np.asarray(run(data, everyone(data), KEY)) == pytest.approx(v.mean(0), abs=1e-6)
    run = federated_mean("v", per="clients", execution=helpers.ONE)
    assert np.asarray(run(data, everyone(data), KEY)) == pytest.approx(per_client(data, v), abs=1e-6)
    # A compiled program serves other cohorts: clients 1 and 3, and 4, who does not report.
    cohort = everyone(data)._replace(reported=np.array([False, True, False, True, False, True]))
    want = np.mean([data.client(i)["v"].mean(0) for i in (1, 3)], axis=0)
    assert np.asarray(run(data, cohort, KEY)) == pytest.approx(want, abs=1e-6)
    nobody = cohort._replace(reported=np.zeros(6, bool))
    with pytest.warns(UserWarning, match="none of 6 clients gave a value of 'v', so there is no result"):
        assert np.isnan(run(data, nobody, KEY)).all()


def test_clipped_sums() -> None:
    """What a client can add to a bin, or to the count, is cut to 5; a fixed denominator cancels."""
    data, edges = people(), np.arange(998, 1010)
    clipped = fl.chain(fl.mean(over=4.0), fl.clip_by_value(5.0))
    run = federated_histogram(edges, aggregator=clipped, execution=helpers.ONE)
    parts = np.split(np.asarray(data.features["x"]), np.cumsum(SIZES)[:-1])
    counts = sum(np.minimum(np.histogram(part, edges)[0], 5) for part in parts)
    assert np.asarray(run(data, everyone(data), KEY)) == pytest.approx(counts / np.minimum(SIZES, 5).sum(), abs=1e-6)


def test_variance_of_numbers_far_from_zero() -> None:
    data = people()
    x = np.asarray(data.features["x"], np.float64)
    moments = federated_variance(execution=helpers.ONE)(data, everyone(data), KEY)
    assert float(moments.mean) == pytest.approx(x.mean(), rel=1e-6)
    assert float(moments.variance) == pytest.approx(x.var(), rel=1e-4)


def test_histograms_leave_out_what_lies_outside() -> None:
    data = people()
    x = np.asarray(data.features["x"])
    edges = np.float32([x.min(), 1000.5, 1002, x[5] if x[5] > 1002 else 1003, x.max() - 0.5])
    run = federated_histogram(edges, per="clients", execution=helpers.ONE)
    one_hot = np.stack([np.histogram([value], edges)[0] for value in x]).astype(np.float64)
    assert np.asarray(run(data, everyone(data), KEY)) == pytest.approx(per_client(data, one_hot), abs=1e-6)
    assert one_hot.sum() < len(x)


def test_quantiles_by_bisection() -> None:
    data = people()
    quantiles = (0.1, 0.5, 0.9, 1.0)
    run = federated_quantiles(quantiles, low=990, high=1022, num_rounds=14, execution=helpers.ONE)
    got = np.asarray(run(data, everyone(data), KEY))
    want = np.quantile(np.asarray(data.features["x"]), quantiles, method="inverted_cdf")
    assert (got >= want - 1e-3).all()
    assert (got <= want + 32 / 2**14 + 1e-3).all()


@pytest.mark.parametrize("feature", ["n", "tokens"])
def test_heavy_hitters_are_all_that_are_frequent(feature: str) -> None:
    data = people()
    run = heavy_hitters(feature, threshold=0.08, alphabet=10, length=3, execution=helpers.ONE)
    got = run(data, everyone(data), KEY)
    items, counts = np.unique(np.asarray(data.features["n"]), return_counts=True)
    shares = dict(zip(items.tolist(), counts / counts.sum(), strict=True))
    want = {item: share for item, share in shares.items() if share >= 0.08}
    numbers = got.items if feature == "n" else got.items @ np.array([100, 10, 1])
    assert dict(zip(numbers.tolist(), got.shares, strict=True)) == pytest.approx(want, abs=1e-6)
    assert got.shares.tolist() == sorted(got.shares.tolist(), reverse=True)
    assert len(want) == 4


def test_heavy_hitters_where_there_are_none() -> None:
    data = fl.Population.from_arrays({"x": np.arange(9)}, client_ids=np.arange(9) // 3)
    run = heavy_hitters(threshold=0.5, alphabet=3, length=2, per="clients", execution=helpers.ONE)
    got = run(data, everyone(data), KEY)
    assert got.items.shape == got.shares.shape == (0,)


def test_what_is_refused() -> None:
    data = people()
    with pytest.raises(ValueError, match=r"no feature 'z', only"):
        federated_mean("z")(data, everyone(data), KEY)
    with pytest.raises(ValueError, match=r"`per` is 'person'; expected one of 'examples', 'clients'"):
        federated_mean(per="person")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`edges` is .*; expected at least 2 ascending numbers"):
        federated_histogram([1, 1])
    with pytest.raises(ValueError, match=r"rows of shape \[2, 3\]; expected one number each"):
        federated_histogram([0, 1], "v")(data, everyone(data), KEY)
    with pytest.raises(ValueError, match=r"`low` is 3 and `high` is 1; expected low below high"):
        federated_quantiles([0.5], low=3, high=1)
    with pytest.raises(ValueError, match=r"`quantiles` is 1.5; expected a number in \(0, 1\]"):
        federated_quantiles([1.5], low=0, high=1)
    with pytest.raises(ValueError, match=r"float32\[\]; expected integers, or \[3\] tokens each"):
        heavy_hitters(threshold=0.1, alphabet=10, length=3)(data, everyone(data), KEY)
    with pytest.raises(ValueError, match=r"at most 2\^31"):
        heavy_hitters("n", threshold=0.1, alphabet=10, length=10)(data, everyone(data), KEY)
