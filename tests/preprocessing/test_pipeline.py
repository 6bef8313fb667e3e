"""Pipelines: fitted step by step, applied to anything, kept in files."""

import tracemalloc

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pipelines
import pytest
from pipelines import columns, fit, people
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import fedjaxlite as fl
from fedjaxlite.algorithms import analytics
from fedjaxlite.preprocessing import Step, clip_quantiles, impute, one_hot, pipeline, standardize, vocabulary

NUMBERS = [0, 1, 2]


def steps():
    """Holes, outliers, scales and codes, as in a table of patients."""
    return (
        impute("x", by="median", columns=NUMBERS),
        impute("x", by="most_frequent", columns=[3], codes=(0, 3)),
        clip_quantiles("x", 0.05, 0.95, columns=NUMBERS),
        standardize("x", columns=NUMBERS),
        one_hot("x", columns=[3], codes=(0, 3)),
    )


@pytest.fixture(scope="module")
def data():
    return people(y=np.arange(pipelines.ROWS, dtype=np.int32), c=np.ones((pipelines.ROWS, 2), np.float32))


@pytest.fixture(scope="module")
def fitted(data):
    return fit(*steps(), data=data, column_names={"x": ["chol", "big", "wait", "pain"]})


def test_steps_are_fitted_on_what_those_before_them_made(data, fitted):
    x = np.asarray(data.features["x"], np.float64)
    numeric = SimpleImputer(strategy="median").fit_transform(x[:, NUMBERS])
    numeric = np.clip(numeric, *np.quantile(numeric, [0.05, 0.95], axis=0)).astype(np.float32).astype(np.float64)
    codes = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(sparse_output=False))
    want = [StandardScaler().fit_transform(numeric), codes.fit_transform(x[:, 3:])]
    assert fitted(data).features["x"] == pytest.approx(np.concatenate(want, axis=1), abs=1e-5)
    assert fitted.columns["x"] == ("chol", "big", "wait", "pain=0", "pain=1", "pain=2", "pain=3")


def test_clients_names_and_other_features_are_kept_and_nothing_is_changed_in_place(data, fitted):
    before = data.fingerprint()
    done = fitted(data)
    assert data.fingerprint() == before
    assert done.names.tolist() == list("abcdef")
    assert np.array_equal(done.offsets, data.offsets)
    assert done.max_size == data.max_size
    assert np.shares_memory(done.features["y"], data.features["y"])
    assert not any(array.flags.writeable for array in done.features.values())
    assert done.features["x"].ctypes.data % 64 == 0


def test_new_clients_arrays_and_one_example_get_the_same(data, fitted):
    want = np.asarray(fitted(data).features["x"])
    new = fl.Population({"x": np.asarray(data.features["x"])[:7]}, np.int32([0, 3, 7]), 4)
    assert np.array_equal(fitted(new).features["x"], want[:7])
    rows = fitted({"x": data.features["x"], "other": "kept"})
    assert np.array_equal(rows["x"], want)
    assert rows["other"] == "kept"
    one = fitted({"x": data.features["x"][9], "y": 3})
    assert np.array_equal(one["x"], want[9])
    assert one["y"] == 3
    device = jax.tree.map(jnp.asarray, data)
    assert np.array_equal(fitted(device).features["x"], want)
    assert fitted({"x": data.features["x"].astype(np.float64)})["x"].dtype == np.float32


def test_a_feature_lies_in_memory_once_more_and_not_once_for_each_step():
    x = np.ones((1_000_000, 8), np.float32)
    x[::7] = np.nan
    big = fl.Population({"x": x}, np.int32([0, 400_000, 1_000_000]), 600_000)
    numbers = {"mean": np.zeros(8), "deviation": np.ones(8)}
    made = pipeline(impute("x", by=0.0), standardize("x"), standardize("x"))
    fitted = fl.preprocessing.Fitted(made.steps, ({}, numbers, numbers), {"x": (8,)}, {}, ())
    tracemalloc.start()
    done = fitted(big)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert done.features["x"].nbytes == x.nbytes
    assert peak < 1.35 * x.nbytes


def test_a_user_s_arrays_are_not_written_into():
    x = columns(holes=0.0)
    made = fl.Population({"x": x}, np.int32([0, 40]), 40)
    kept = x.copy()
    fit(standardize("x"), standardize("x"), data=made)(made)
    assert np.array_equal(x, kept)
    assert x.flags.writeable


def test_a_step_of_ones_own_uses_analytics(data):
    center = Step(
        "center('x')",
        "x",
        learn=lambda aggregator, execution: analytics.federated_mean(
            "x", missing="skip", aggregator=aggregator, execution=execution
        ),
        apply=lambda rows, numbers, offsets: rows - numbers["value"],
    )
    fitted = fit(impute("x"), center, data=data)
    assert fitted.computations[1].name == "federated_mean"
    mean = SimpleImputer().fit_transform(np.asarray(data.features["x"], np.float64)).mean(0)
    assert fitted.numbers[1]["value"] == pytest.approx(mean, rel=1e-6)
    shorter = center._replace(apply=lambda rows, numbers, offsets: rows[1:])
    with pytest.raises(ValueError, match=r"center\('x'\) made \[39, 4\] of rows \[40, 4\]; expected as many rows"):
        fit(shorter, data=data)


def test_a_cohort_decides_who_is_asked_at_every_step(data):
    cohort = pipelines.only(data, [2, 5])
    some = data.select([2, 5])
    asked = fit(impute("x"), standardize("x"), data=data, cohort=cohort)
    alone = fit(impute("x"), standardize("x"), data=some)
    for got, want in zip(asked.numbers, alone.numbers, strict=True):
        for name in want:
            assert got[name] == pytest.approx(want[name], rel=1e-6), name


def test_several_steps_may_be_about_several_features():
    ids = np.random.default_rng(0).integers(0, 5, (40, 3)).astype(np.int32)
    data = people(tokens=ids)
    fitted = fit(impute("x"), vocabulary("tokens", size=3, num_ids=5), standardize("x"), data=data)
    done = fitted(data)
    assert done.features["tokens"].max() == 3
    assert done.features["x"].std(0) == pytest.approx(np.ones(4), abs=1e-5)


def test_columns_by_name_are_found_wherever_the_steps_before_have_put_them():
    data, names = people(), {"x": ["pain", "big", "wait", "chol"]}
    x = np.asarray(data.features["x"])[:, [3, 1, 2, 0]]
    data = people(x=x)
    by_name = fit(
        one_hot("x", columns=["pain"], codes=(0, 3)),
        impute("x", columns=["chol", "big"], indicators=True),
        standardize("x", columns=["chol", "big"]),
        data=data,
        column_names=names,
    )
    by_place = fit(
        one_hot("x", columns=[0], categories=[by_name.numbers[0]["category"].tolist()]),
        impute("x", by=by_name.numbers[1]["fill"].tolist(), columns=[2, 0], indicators=True),
        standardize("x", columns=[2, 0]),
        data=data,
    )
    assert by_name.columns["x"][:3] == ("big", "wait", "chol")
    assert by_name.columns["x"][-2:] == ("chol is missing", "big is missing")
    assert by_place.columns["x"][-1] == "1 is missing"
    assert np.array_equal(by_name(data).features["x"], by_place(data).features["x"], equal_nan=True)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: pipeline(standardize("x", columns=["age"])),
            r"`columns` of standardize\('x'\) are names, \['age'\], and",
        ),
        (
            lambda: pipeline(standardize("x", columns=["agee"]), column_names={"x": ["age", "sex"]}),
            r"`columns` of standardize\('x'\) names 'agee', which is none at this step; did you mean 'age'\?",
        ),
        (
            lambda: pipeline(
                one_hot("x", columns=["sex"], codes=(0, 1)),
                standardize("x", columns=["sex"]),
                column_names={"x": ["age", "sex"]},
            ),
            r"names 'sex', which is none at this step; expected some of \['age'\]",
        ),
        (
            lambda: standardize("x", columns=["age", "age"]),
            r"`columns` is \['age', 'age'\], which names a column twice",
        ),
        (lambda: standardize("x", columns=["age"], per="x"), "`per` is 'x'; expected one of"),
        (lambda: standardize("x", columns=["age", 1]), "`columns` is 'age'; expected an int of at least 0"),
    ],
)
def test_names_that_mean_nothing_are_refused(make, text):
    with pytest.raises((ValueError, TypeError), match=text):
        make()


def test_columns_that_are_appended_have_names_too():
    data = people()
    done = fit(
        impute("x", columns=["a", "c"], indicators=True),
        one_hot("x", columns=["d"], categories=[[0, 1]]),
        standardize("x", columns=["c is missing", "d=1"]),
        data=data,
        column_names={"x": list("abcd")},
    )
    assert done.columns["x"] == ("a", "b", "c", "a is missing", "c is missing", "d=0", "d=1")
    assert done(data).features["x"][:, [4, 6]].std(0) == pytest.approx(np.ones(2), abs=1e-5)
    assert set(np.unique(done(data).features["x"][:, [3, 5]])) == {0.0, 1.0}


# Files


@pytest.mark.parametrize("ending", ["npz", "json"])
def test_what_was_learned_is_kept_in_a_file(tmp_path, data, fitted, ending):
    path = tmp_path / f"fitted.{ending}"
    fitted.save(path)
    again = pipeline(*steps()).load(path)
    assert np.array_equal(again(data).features["x"], fitted(data).features["x"])
    assert again.columns == fitted.columns
    assert str(again).splitlines()[1:] == str(fitted).splitlines()[1:]
    other = pipeline(*steps()[:3], standardize("x", columns=[0]), steps()[4])
    with pytest.raises(
        ValueError, match=r"is of another pipeline: its step 3 is standardize\('x'\) with .* and here it"
    ):
        other.load(path)
    with pytest.raises(ValueError, match="is of another pipeline: it has 5 steps; here are 4"):
        pipeline(*steps()[:4]).load(path)


def test_files_of_another_kind_are_refused(tmp_path, fitted):
    with pytest.raises(ValueError, match=r"`path` is 'x.csv'; expected a file that ends in .npz or .json"):
        fitted.save("x.csv")
    for name, content in (("a.json", "{}"), ("b.json", "no"), ("c.npz", "no")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match="is no file of this library, or damaged"):
            pipeline(*steps()).load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        pipeline(*steps()).load(tmp_path / "none.json")


def test_what_was_learned_prints_well(fitted):
    lines = str(fitted).splitlines()
    sums = 32 + 1 + 32 + 3 + 1
    assert lines[0] == f"Fitted(5 steps, {sums} sums over clients)"
    assert lines[1] == "  impute('x'):"
    assert lines[2].startswith("    fill[3] [")
    assert max(map(len, lines)) < 120


# Errors


def test_what_is_refused(data, fitted):
    with pytest.raises(ValueError, match="`steps` is empty; expected at least one"):
        pipeline()
    with pytest.raises(TypeError, match=r"`steps\[1\]` is 'x'; expected a Step, such as"):
        pipeline(standardize("x"), "x")
    with pytest.raises(TypeError, match="`population` is .*; expected a Population"):
        pipeline(standardize("x")).fit({"x": columns()})
    with pytest.raises(TypeError, match="`aggregator` is 'mean'; expected an Aggregator"):
        pipeline(standardize("x")).fit(data, aggregator="mean")
    with pytest.raises(TypeError, match="`cohort` is .*; expected a Cohort"):
        pipeline(standardize("x")).fit(data, cohort=[0, 1])
    with pytest.raises(
        ValueError, match=r"`column_names` of 'x' is \['a', 'a'\]; expected distinct texts, one a column"
    ):
        pipeline(standardize("x"), column_names={"x": ["a", "a"]})
    with pytest.raises(ValueError, match=r"`column_names` of 'x' has 1 names, and rows have 4 columns; expected one"):
        fit(standardize("x"), data=data, column_names={"x": ["a"]})
    with pytest.raises(ValueError, match="`column_names` names the feature 'y', which no step is about"):
        pipeline(standardize("x"), column_names={"y": ["a"]})
    with pytest.raises(
        ValueError, match=r"feature 'x' has shape \[40, 3\]; the pipeline was fitted to rows of shape \[4"
    ):
        fitted({"x": columns()[:, :3]})
    with pytest.raises(ValueError, match=r"the pipeline is about the feature 'x', and the data have \[\]"):
        fitted({"z": columns()})
    with pytest.raises(TypeError, match="`data` is an array float32.*; expected a Population, or a dict of arrays"):
        fitted(columns())
    with pytest.raises(TypeError, match="`population` is traced"):
        jax.jit(lambda data: pipeline(standardize("x")).fit(data, execution=helpers.ONE))(data)
