"""Means and deviations against scikit-learn and NumPy in float64 on the pooled examples."""

import helpers
import hypothesis
import numpy as np
import pipelines
import pytest
from hypothesis import strategies as st
from pipelines import columns, fit, learner, of_clients, only, people
from sklearn.preprocessing import StandardScaler

import fedjaxlite as fl
from fedjaxlite.preprocessing import standardize, standardize_locally

CUTS = st.lists(st.integers(0, pipelines.ROWS), min_size=5, max_size=5)


@pytest.fixture(scope="module")
def run():
    return learner(standardize("x"))


def assert_moments(numbers, x, rtol=1e-6):
    """Means to `rtol` of the deviation, deviations to `rtol` of themselves."""
    mean, deviation = np.nanmean(x, 0), np.nanstd(x, 0)
    assert np.all(np.abs(numbers["mean"] - mean) <= rtol * np.maximum(deviation, 1e-30))
    assert numbers["deviation"] == pytest.approx(deviation, rel=rtol)


@hypothesis.given(cuts=CUTS, seed=st.integers(0, 99))
def test_any_partition_gives_the_moments_of_the_pooled_examples(run, cuts, seed):
    x = columns(seed)
    assert_moments(run(people(cuts, x)), x.astype(np.float64))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e12, 1e17])
@pytest.mark.parametrize("far", [0.0, 1.0, 1e4, 1e6])
def test_numbers_of_any_size_and_far_from_zero(run, scale, far):
    rng = np.random.default_rng(1)
    x = ((far + rng.normal(size=(pipelines.ROWS, 4))) * scale).astype(np.float32)
    assert_moments(run(people(x=x)), x.astype(np.float64), rtol=1e-5)


def test_rows_are_those_of_scikit_learn():
    x = columns()
    got = fit(standardize("x"), data=people(x=x))(people(x=x)).features["x"]
    want = StandardScaler().fit_transform(x.astype(np.float64))
    assert np.array_equal(np.isnan(got), np.isnan(x))
    assert np.allclose(got, want, rtol=0, atol=1e-5, equal_nan=True)
    assert got.dtype == np.float32


def test_every_client_counts_alike():
    data = people((5, 6, 20, 21, 33), columns(holes=0.0))
    numbers = learner(standardize("x", per="clients"))(data)
    parts = [of_clients(data, [i]) for i in range(6)]
    mean = np.mean([part.mean(0) for part in parts], axis=0)
    variance = np.mean([((part - mean) ** 2).mean(0) for part in parts], axis=0)
    assert numbers["mean"] == pytest.approx(mean, rel=1e-7)
    assert numbers["deviation"] == pytest.approx(np.sqrt(variance), rel=1e-5)
    assert abs(mean - data.features["x"].mean(0))[0] > 1


def test_only_clients_that_report_count(run):
    data = people()
    assert_moments(run(data, only(data, [0, 2, 5])), of_clients(data, [0, 2, 5]))
    with pytest.raises(ValueError, match=r"standardize\('x'\): none of 6 clients gave a value of 'x'"):
        run(data, only(data, []))


def test_columns_that_do_not_vary_become_zero_and_others_are_left_alone():
    x = columns(holes=0.0)
    x[:, 1] = 0.1
    got = fit(standardize("x", columns=[1, 2]), data=people(x=x))(people(x=x)).features["x"]
    assert got[:, 1].tolist() == [0.0] * len(x)
    assert np.array_equal(got[:, [0, 3]], x[:, [0, 3]])
    assert got[:, 2].std() == pytest.approx(1, abs=1e-5)


def test_standardizing_twice_changes_nothing():
    data = people()
    once = fit(standardize("x"), data=data)(data)
    twice = fit(standardize("x"), standardize("x"), data=data)(data)
    assert np.allclose(once.features["x"], twice.features["x"], atol=1e-5, equal_nan=True)


def test_images_integers_and_single_numbers():
    rng = np.random.default_rng(0)
    image, age = rng.integers(0, 256, (40, 2, 3, 1), dtype=np.uint8), rng.integers(20, 90, 40)
    data = people(image=image, age=age.astype(np.int32))
    got = fit(standardize("image"), standardize("age"), data=data)(data)
    assert got.features["image"].shape == (40, 2, 3, 1)
    assert got.features["image"].mean(0) == pytest.approx(np.zeros((2, 3, 1)), abs=1e-5)
    assert got.features["age"] == pytest.approx((age - age.mean()) / age.std(), abs=1e-5)


def test_bounds_without_noise_clip_what_counts_and_not_the_rows():
    x = columns(holes=0.0)
    x[3, 0] = 9e4
    fitted = fit(standardize("x", columns=[0], bounds=(100, 400)), data=people(x=x))
    assert fitted.numbers[0]["mean"] == pytest.approx(np.clip(x[:, 0], 100, 400).mean(), rel=1e-6)
    assert fitted(people(x=x)).features["x"][3, 0] > 100


# Each client by its own numbers


def test_each_client_by_its_own_examples_and_small_ones_as_they_are():
    x = columns()
    data = people(x=x)
    fitted = fit(standardize_locally("x", min_examples=5), data=data)
    got = fitted(data)
    assert fitted.computations == ()
    for i in range(6):
        before, after = of_clients(data, [i]), got.client(i)["x"]
        enough = (~np.isnan(before)).sum(0) >= 5
        want = before.copy()
        if enough.any():
            want[:, enough] = StandardScaler().fit_transform(before[:, enough])
        assert np.allclose(after, want, rtol=0, atol=1e-4, equal_nan=True), i


def test_the_numbers_of_test_examples_are_those_of_the_clients_training():
    train, test = people(), people((1, 2, 3, 4, 38), columns(7))
    fitted = fit(standardize_locally("x", min_examples=2), data=train)
    got = fitted(test, own=train)
    i = 5
    center, spread = np.nanmean(of_clients(train, [i]), 0), np.nanstd(of_clients(train, [i]), 0)
    assert np.allclose(got.client(i)["x"], (of_clients(test, [i]) - center) / spread, atol=1e-4, equal_nan=True)
    with pytest.raises(ValueError, match="`own` has 2 clients; expected those of the data, in the same order"):
        fitted(test, own=train.select([0, 1]))
    for rows in ({"x": columns()}, {"x": columns()[0]}):
        with pytest.raises(ValueError, match=r"standardize_locally\('x'\) is about each client's own examples"):
            fitted(rows)
    with pytest.raises(ValueError, match="`own` was given beside rows of nobody"):
        fitted({"x": columns()}, own=train)


def test_small_clients_keep_everyones_numbers_where_both_are_there():
    data = people()
    both = fit(standardize("x"), standardize_locally("x", min_examples=10), data=data)(data)
    alone = fit(standardize("x"), data=data)(data)
    assert np.array_equal(both.client(1)["x"], alone.client(1)["x"], equal_nan=True)
    assert not np.array_equal(both.client(2)["x"], alone.client(2)["x"], equal_nan=True)


# Errors


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"columns": [1, 1]}, ValueError, r"`columns` is \[1, 1\], which names a column twice"),
        ({"columns": 3}, TypeError, "`columns` is 3; expected a list of distinct column numbers"),
        ({"columns": [-1]}, ValueError, "`columns` is -1; expected an int of at least 0"),
        ({"per": "client"}, ValueError, "`per` is 'client'; expected one of 'examples', 'clients'"),
        ({"bounds": (3, 1)}, ValueError, r"`bounds` is \[3.0, 1.0\]; expected \(low, high\) with low below high"),
        ({"bounds": 3}, ValueError, r"`bounds` has shape \[\]; expected \(low, high\)"),
        ({"columns": [0], "bounds": [(0, 1), (0, 1)]}, ValueError, "`bounds` has 2 pairs for 1 columns"),
        ({"feature": 3}, TypeError, "`feature` is 3; expected a str"),
    ],
)
def test_what_is_refused_when_built(options, error, text):
    with pytest.raises(error, match=text):
        standardize(**options)


def test_what_is_refused_when_fitted():
    with pytest.raises(
        ValueError, match=r"standardize\('z'\) is about the feature 'z', but the data have only \['x'\]"
    ):
        fit(standardize("z"))
    with pytest.raises(ValueError, match=r"`columns` of standardize\('x'\) holds 9, but rows have 4 columns"):
        fit(standardize("x", columns=[9]))
    with pytest.raises(ValueError, match=r"`bounds` of standardize\('x'\) has 2 pairs for 4 columns"):
        fit(standardize("x", bounds=[(0, 1), (0, 1)]))
    x = columns()
    x[:, 2] = np.nan
    with pytest.raises(ValueError, match=r"standardize\('x'\): nobody has a value in column 2 of 'x'. Leave such"):
        fit(standardize("x"), data=people(x=x))


def test_clients_whose_sums_overflow_are_named():
    x = columns(holes=0.0)
    x[0:2, 0] = 3e38
    with pytest.warns(UserWarning, match=r"standardize\('x'\): the sums of 1 clients .* left out whole \(a\)") as told:
        fl.preprocessing.pipeline(standardize("x", columns=[0])).fit(people(x=x), execution=helpers.ONE)
    assert told[0].filename == __file__
