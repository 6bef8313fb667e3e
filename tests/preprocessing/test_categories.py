"""Categories and vocabularies against scikit-learn and plain counting."""

from collections import Counter

import hypothesis
import numpy as np
import pipelines
import pytest
from hypothesis import strategies as st
from pipelines import columns, fit, learner, only, people
from sklearn.preprocessing import OneHotEncoder

import fedjaxlite as fl
from fedjaxlite.preprocessing import one_hot, vocabulary
from fedjaxlite.preprocessing.vocabulary import digits

CUTS = st.lists(st.integers(0, pipelines.ROWS), min_size=5, max_size=5)


def coded(seed=0):
    """Two columns of codes with gaps, some missing, beside two of numbers."""
    rng = np.random.default_rng(seed)
    x = columns(seed, holes=0.0)
    x[:, 1] = rng.choice([-2, 5, 9], pipelines.ROWS)
    x[:, 3] = rng.choice([1, 2, 7], pipelines.ROWS)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x


@pytest.fixture(scope="module")
def run():
    return learner(one_hot("x", columns=[3, 1], codes=(-2, 9)))


@hypothesis.given(cuts=CUTS, seed=st.integers(0, 99))
def test_any_partition_finds_the_categories_of_the_pooled_examples(run, cuts, seed):
    x = coded(seed)
    numbers = run(people(cuts, x))
    want = [(place, c) for place, j in enumerate([3, 1]) for c in np.unique(x[~np.isnan(x[:, j]), j])]
    assert list(zip(numbers["column"], numbers["category"], strict=True)) == want


def test_columns_are_those_of_scikit_learn():
    x = coded()
    data = people(x=x)
    fitted = fit(one_hot("x", columns=[1, 3], codes=(-2, 9)), data=data)
    got = fitted(data).features["x"]
    encoder = OneHotEncoder(categories=[[-2, 5, 9], [1, 2, 7]], handle_unknown="ignore", sparse_output=False)
    assert np.array_equal(got[:, :2], x[:, [0, 2]], equal_nan=True)
    assert np.array_equal(got[:, 2:], encoder.fit_transform(x[:, [1, 3]]))
    assert fitted.columns["x"] == ("0", "2", "1=-2", "1=5", "1=9", "3=1", "3=2", "3=7")


def test_only_clients_that_report_have_categories(run):
    x = coded()
    data = people(x=x)
    one = run(data, only(data, [1]))  # a client of one row
    assert sorted(one["category"].tolist()) == sorted(int(v) for v in x[5, [3, 1]] if not np.isnan(v))


def test_rare_categories_have_no_column_where_a_share_is_asked_for():
    codes = np.repeat(np.int32([4, 6, 8]), [20, 18, 2])
    data = people(x=codes)
    fitted = fit(one_hot("x", codes=(0, 9), min_share=0.1), data=data)
    assert fitted.numbers[0]["category"].tolist() == [4, 6]
    assert fitted(data).features["x"].sum(0).tolist() == [20, 18]


def test_given_categories_ask_nothing_and_unknown_codes_are_zeros_or_refused():
    options = {"columns": [1], "categories": [[5, 9]]}
    x = coded()
    data = people(x=x)
    fitted = fit(one_hot("x", **options), data=data)
    assert fitted.computations == ()
    assert fitted.columns["x"] == ("0", "2", "3", "1=5", "1=9")
    assert np.array_equal(fitted(data).features["x"][:, 3:], np.stack([x[:, 1] == 5, x[:, 1] == 9], 1))
    strict = fl.preprocessing.pipeline(one_hot("x", **options, unknown="refuse"))
    bad = int(((x[:, 1] != 5) & (x[:, 1] != 9)).sum())
    with pytest.raises(
        ValueError, match=rf"none of the categories \[5, 9\]; so do {bad} entries. Pass unknown='zeros'"
    ):
        strict.fit(data)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, ValueError, "`codes` is None and `categories` is None; expected exactly one of them"),
        ({"codes": (0, 3), "categories": [[1]]}, ValueError, "expected exactly one of them"),
        ({"codes": 3}, TypeError, r"`codes` is 3; expected \(low, high\)"),
        ({"codes": (0.5, 3)}, TypeError, r"`codes` is \(0.5, 3\); expected"),
        ({"categories": [[1]]}, ValueError, "`categories` was given without `columns`"),
        (
            {"columns": [0], "categories": [[1, 1]]},
            ValueError,
            r"`categories\[0\]` is \[1, 1\]; expected a list of dist",
        ),
        ({"columns": [0, 1], "categories": [[1]]}, ValueError, r"expected a list of distinct .* \(2 of them\)"),
        ({"codes": (0, 3), "unknown": "zero"}, ValueError, "`unknown` is 'zero'; expected one of 'zeros', 'refuse'"),
        ({"codes": (0, 3), "min_share": 1}, ValueError, r"`min_share` is 1; expected a number in \[0, 1\)"),
    ],
)
def test_what_is_refused_when_built(options, error, text):
    with pytest.raises(error, match=text):
        one_hot("x", **options)


# Vocabularies


def sentences(seed=0):
    """int32 `[40, 6]`, ids below 50, of which few are frequent; 0 fills up."""
    rng = np.random.default_rng(seed)
    ids = np.minimum(rng.geometric(0.15, (pipelines.ROWS, 6)), 49).astype(np.int32)
    ids[np.arange(6)[None] >= rng.integers(1, 7, pipelines.ROWS)[:, None]] = 0
    return ids


@pytest.fixture(scope="module")
def words():
    return learner(vocabulary("x", size=7, num_ids=50, padding=0))


@hypothesis.given(cuts=CUTS, seed=st.integers(0, 99))
def test_any_partition_finds_the_most_frequent_tokens(words, cuts, seed):
    x = sentences(seed)
    counts = Counter(x[x > 0].tolist())
    want = sorted(counts, key=lambda token: (-counts[token], token))[:7]
    assert words(people(cuts, x))["ids"].tolist() == want


@pytest.mark.parametrize("padding", [None, 0])
def test_tokens_are_renumbered(padding):
    x = sentences()
    data = people(x=x)
    fitted = fit(vocabulary("x", size=5, num_ids=50, padding=padding), data=data)
    ids = fitted.numbers[0]["ids"].tolist()
    other = 0 if padding is None else 6
    number = {token: i + 1 for i, token in enumerate(ids)} | ({} if padding is None else {0: 0})
    want = [[number.get(token, other) for token in row] for row in x.tolist()]
    got = fitted(data).features["x"]
    assert (got.tolist(), got.dtype) == (want, np.int32)
    assert fitted({"x": x[3]})["x"].tolist() == want[3]


def test_heavy_hitters_find_the_same():
    x = sentences() * 5_000_000  # ids up to 245,000,000
    data = people(x=x)
    step = vocabulary("x", size=4, num_ids=2**28, padding=0, min_share=0.02, heavy_hitters=True)
    fitted = fit(step, data=data)
    dense = fit(vocabulary("x", size=4, num_ids=50, padding=0), data=people(x=sentences()))
    assert (fitted.numbers[0]["ids"] // 5_000_000).tolist() == dense.numbers[0]["ids"].tolist()
    assert fitted.computations[0].num_sums == digits(2**28)[1]


@pytest.mark.parametrize("num_ids", [1, 2, 3, 50, 2**8, 2**8 + 1, 10**6, 2**28, 2**30, 2**31 - 1])
def test_digits_are_enough_and_fit_int32(num_ids):
    alphabet, length = digits(num_ids)
    assert num_ids <= alphabet**length <= 2**31
    assert alphabet <= 256


def test_fewer_tokens_than_asked_for_and_none_at_all():
    data = people(x=np.full(40, 3, np.int32))
    fitted = fit(vocabulary("x", size=5, num_ids=9), data=data)
    assert fitted.numbers[0]["ids"].tolist() == [3]
    nothing = fitted._replace(numbers=({"ids": np.zeros(0, np.int32)},))
    assert nothing({"x": np.int32([3, 4])})["x"].tolist() == [0, 0]


def test_what_a_vocabulary_refuses():
    with pytest.raises(ValueError, match="`num_ids` is 2000000, and every client would send a number for each"):
        vocabulary("x", size=5, num_ids=2_000_000)
    with pytest.raises(ValueError, match="`min_share` is 0.0 with heavy_hitters=True; expected a share of at least"):
        vocabulary("x", size=5, num_ids=2_000_000, heavy_hitters=True)
    with pytest.raises(TypeError, match=r"vocabulary\('x'\) is about token ids; the feature has dtype float32"):
        fit(vocabulary("x", size=5, num_ids=9))
    data = people(x=sentences())
    with pytest.raises(ValueError, match=r"vocabulary\('x'\): \d+ values of 'x' are no codes in the stated range"):
        fit(vocabulary("x", size=5, num_ids=9), data=data)
    with pytest.raises(ValueError, match=r"vocabulary\('x'\): \d+ ids of 'x' are out of range; expected 0 to 8"):
        fit(vocabulary("x", size=5, num_ids=9, heavy_hitters=True, min_share=0.1), data=data)
