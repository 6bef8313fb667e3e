"""Quantiles and imputed values against NumPy and scikit-learn on the pooled examples."""

import hypothesis
import numpy as np
import pipelines
import pytest
from hypothesis import strategies as st
from pipelines import columns, fit, learner, of_clients, only, people
from sklearn.impute import MissingIndicator, SimpleImputer

from fedjaxlite.preprocessing import clip_quantiles, impute

CUTS = st.lists(st.integers(0, pipelines.ROWS), min_size=5, max_size=5)


@pytest.fixture(scope="module")
def run():
    return learner(clip_quantiles("x", 0.03, 0.8))


@hypothesis.given(cuts=CUTS, seed=st.integers(0, 99))
def test_any_partition_gives_the_quantiles_of_the_pooled_examples(run, cuts, seed):
    x = columns(seed)
    numbers = run(people(cuts, x))
    want = np.nanquantile(x.astype(np.float64), [0.03, 0.8], axis=0)
    assert numbers["low"] == pytest.approx(want[0], rel=1e-12)
    assert numbers["high"] == pytest.approx(want[1], rel=1e-12)


@hypothesis.given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=40, max_size=40))
def test_any_numbers_have_their_order(run, values):
    """Negative, tiny, huge and signed zeros: all float32 numbers, but for those that processors take for zero."""
    x = np.array(values, np.float32)
    x = np.where(np.abs(x) < np.finfo(np.float32).tiny, 0, x)[:, None] * np.ones(4, np.float32)
    numbers = run(people(x=x))
    want = np.quantile(x.astype(np.float64), [0.03, 0.8], axis=0)
    assert numbers["low"] == pytest.approx(want[0], rel=1e-12, abs=1e-300)
    assert numbers["high"] == pytest.approx(want[1], rel=1e-12, abs=1e-300)


def test_rows_are_cut_and_holes_and_infinities_are_as_they_should_be():
    x = columns()
    x[4, 0], x[5, 1] = np.inf, -np.inf
    data = people(x=x)
    got = fit(clip_quantiles("x", 0.1, 0.9), data=data)(data).features["x"]
    low, high = np.nanquantile(x.astype(np.float64), [0.1, 0.9], axis=0).astype(np.float32)
    assert np.array_equal(got, np.clip(x, low, high), equal_nan=True)
    assert np.isfinite(got[~np.isnan(x)]).all()


def test_only_clients_that_report_have_quantiles(run):
    data = people()
    numbers = run(data, only(data, [2, 5]))
    want = np.nanquantile(of_clients(data, [2, 5]), [0.03, 0.8], axis=0)
    assert numbers["high"] == pytest.approx(want[1], rel=1e-12)


def test_quantiles_of_clients_that_count_alike():
    data = people((10, 11, 12, 13, 14), columns(holes=0.0))
    numbers = learner(clip_quantiles("x", 0.2, 0.5, per="clients"))(data)
    sizes = np.asarray(data.num_examples)
    weights = np.repeat(1 / sizes / len(sizes), sizes)
    for name, level in (("low", 0.2), ("high", 0.5)):
        want = []
        for column in np.asarray(data.features["x"]).T:
            order = np.argsort(column, kind="stable")
            want.append(column[order][np.argmax(np.cumsum(weights[order]) >= level - 5e-7)])
        assert numbers[name] == pytest.approx(want, rel=1e-12), name


def test_weights_of_a_sampler_count(run):
    """A client that stands for two counts twice: the smallest value that such a share does not exceed."""
    data = people(x=columns(holes=0.0))
    cohort = pipelines.everyone(data)._replace(scale=np.float32([1, 1, 2, 1, 1, 2]))
    x = np.concatenate([of_clients(data, [i]) for i in (0, 1, 2, 2, 3, 4, 5, 5)])
    numbers = run(data, cohort)
    want = np.quantile(x, [0.03, 0.8], axis=0, method="inverted_cdf")
    assert numbers["low"] == pytest.approx(want[0], rel=1e-12)
    assert numbers["high"] == pytest.approx(want[1], rel=1e-12)


# Holes


@pytest.mark.parametrize("by", ["mean", "median"])
def test_holes_are_filled_as_by_scikit_learn(by):
    x = columns()
    data = people(x=x)
    got = fit(impute("x", by=by, indicators=True), data=data)(data).features["x"]
    imputer = SimpleImputer(strategy=by)
    want = imputer.fit_transform(x.astype(np.float64))
    assert got[:, :4] == pytest.approx(want, rel=1e-6)
    lost = MissingIndicator(features="all").fit_transform(x)
    assert np.array_equal(got[:, 4:], lost.astype(np.float32))


def test_the_most_frequent_code_and_the_smallest_of_several():
    x = columns()[:, 3:]
    data = people(x=x)
    got = fit(impute("x", by="most_frequent", codes=(0, 3)), data=data)
    want = SimpleImputer(strategy="most_frequent").fit(x.astype(np.float64)).statistics_
    assert got.numbers[0]["fill"].tolist() == want.tolist()
    tie = people(x=np.float32([3, 1, 3, 1, 0, np.nan] + [2] * 2)[:, None], cuts=(1, 2, 3, 4, 5))
    assert fit(impute("x", by="most_frequent", codes=(0, 3)), data=tie).numbers[0]["fill"].tolist() == [1.0]


def test_numbers_that_are_given_ask_nothing_and_infinities_are_holes():
    x = columns()
    x[0, 0] = np.inf
    data = people(x=x)
    fitted = fit(impute("x", by=[-1.0, 7.0], columns=[0, 2]), data=data)
    got = fitted(data).features["x"]
    assert fitted.computations == ()
    assert got[:, 0] == pytest.approx(np.where(np.isfinite(x[:, 0]), x[:, 0], -1))
    assert got[:, 2] == pytest.approx(np.where(np.isnan(x[:, 2]), 7, x[:, 2]))
    assert np.array_equal(got[:, [1, 3]], x[:, [1, 3]], equal_nan=True)


def test_single_numbers_get_a_column_of_indicators():
    age = columns()[:, 0]
    data = people(age=age)
    fitted = fit(impute("age", by=0.0, indicators=True), data=data, column_names={"age": ["age"]})
    assert fitted(data).features["age"].shape == (40, 2)
    assert fitted.columns == {"age": ("age", "age is missing")}
    assert fitted({"age": np.float32(np.nan)})["age"].tolist() == [0.0, 1.0]


def test_imputing_twice_changes_nothing():
    data = people()
    once = fit(impute("x"), data=data)(data)
    again = fit(impute("x"), data=once)(once)
    assert np.array_equal(once.features["x"], again.features["x"])


# Errors


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: clip_quantiles("x", 0.9, 0.1), ValueError, "`low` is 0.9 and `high` is 0.1; expected low below high"),
        (lambda: clip_quantiles("x", 0.1, 99), ValueError, r"`high` is 99; expected a number in \(0, 1\]"),
        (lambda: impute("x", by="mode"), ValueError, "`by` is 'mode'; expected one of 'mean', 'median'"),
        (lambda: impute("x", by=None), TypeError, "`by` is None; expected one of 'mean', 'median'"),
        (lambda: impute("x", by=[1, 2]), ValueError, "`by` is one number a column, so that `columns` has to name"),
        (lambda: impute("x", by=[1, 2], columns=[0]), ValueError, "`by` has 2 numbers for 1 columns"),
        (lambda: impute("x", by="most_frequent"), ValueError, "`codes` is None with by='most_frequent'"),
        (lambda: impute("x", codes=(0, 3)), ValueError, "`codes` was given with by='mean', which has no use for it"),
        (lambda: impute("x", by=0.0, bounds=(0, 1)), ValueError, "`bounds` was given with by=0.0"),
        (
            lambda: impute("x", by="most_frequent", codes=(3, 0)),
            ValueError,
            r"`codes` is \(3, 0\); expected \(low, high",
        ),
        (lambda: impute("x", by="most_frequent", codes=(0, 2**21)), ValueError, "expected at most 2\\^20"),
    ],
)
def test_what_is_refused_when_built(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_values_that_are_no_codes_are_refused_with_their_clients():
    x = columns(holes=0.0)[:, 3:]
    x[0] = 0.5
    x[30:32] = 9
    with pytest.raises(
        ValueError, match=r"3 values of 'x' are no codes in the stated range, at 2 of 6 clients \(a, e\)"
    ):
        fit(impute("x", by="most_frequent", codes=(0, 3)), data=people(x=x))


def test_indicators_need_columns():
    data = people(image=np.zeros((40, 2, 2), np.float32))
    with pytest.raises(ValueError, match=r"`indicators` of impute\('image'\) are further columns, and rows have shape"):
        fit(impute("image", by=0.0, indicators=True), data=data)
