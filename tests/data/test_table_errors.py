"""What `from_table` refuses, by its text, and what it makes of odd tables."""

import decimal
import sys
import time

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import fedjaxlite as fl
from fedjaxlite.datasets import from_table
from fedjaxlite.datasets.tables import csv_files


def written(folder, text, name="v.csv"):
    path = folder / name
    path.write_text(text)
    return path


def frame(**columns):
    return pd.DataFrame({"site": ["a", "b", "a"], "age": [50, 61, 44], "ill": ["no", "yes", "no"], **columns})


OPTIONS = {"client": "site", "label": "ill"}
DAYS = pd.to_datetime(["2020-01-02", "2020-01-04", "1970-01-02"])
NAN = float("nan")


@pytest.mark.parametrize(
    ("columns", "options", "kind", "text"),
    [
        (
            {},
            {"client": "sit"},
            ValueError,
            r"`client` is 'sit', which is no column; did you mean 'site'\? The columns",
        ),
        ({}, {"client": 3}, TypeError, r"`client` is 3; expected a str"),
        ({}, {"label": "x"}, ValueError, r"`label` is 'x', which is no column; the columns are 'site', 'age', 'ill'"),
        ({}, {"label": "site"}, ValueError, r"client='site', label='site' name one column; expected"),
        ({}, {"client": "file"}, ValueError, r"client='file' makes a client of each file; `source` is a frame"),
        ({"file": [1, 2, 3]}, {"client": "file"}, ValueError, r"there is a column 'file' too; rename it"),
        ({"y": [1, 2, 2]}, {"group": "y"}, ValueError, r"`group` is 'y', the name of another feature, and is kept und"),
        (
            {"z": [1, 2, 2]},
            {"group": "z", "features": {"z": "age"}},
            ValueError,
            r"`group` is 'z', the name of another",
        ),
        ({}, {"drop": "age"}, TypeError, r"`drop` is 'age'; expected a list of names of columns"),
        ({}, {"drop": ["Age"]}, ValueError, r"`drop` names 'Age', which is no column; did you mean 'age'\?"),
        ({}, {"drop": ["ill"]}, ValueError, r"`drop` names 'ill', which another argument asks for"),
        ({}, {"features": {"y": "age"}}, ValueError, r"`features` has the name 'y', which is taken"),
        ({}, {"features": {"z": []}}, ValueError, r"`features` gives 'z' no column; expected at least one"),
        ({}, {"categorical": ["site"]}, ValueError, r"`categorical` names 'site', which is no input"),
        ({}, {"categorical": {"age": 3}}, TypeError, r"`categorical` gives 'age' 3; expected a list of its words"),
        ({}, {"categorical": {"age": [50, 50]}}, ValueError, r"column 'age' is given a word twice"),
        (
            {},
            {"classes": ["no"]},
            ValueError,
            r"label='ill' holds 'yes' at row 2, which is none of the words given: 'no'",
        ),
        (
            {},
            {"classes": "no"},
            TypeError,
            r"`classes` is 'no'; expected a list of the label's words in their order, or",
        ),
        (
            {},
            {"classes": {"no": 0, "yes": [1]}},
            TypeError,
            r"`classes` gives \[1\] as a class; expected texts or numb",
        ),
        ({}, {"classes": ["no"], "target": "numbers"}, ValueError, r"target='numbers' has no classes; leave `classes`"),
        ({}, {"target": "numbers"}, ValueError, r"target='numbers', and the label holds text"),
        (
            {},
            {"label": None, "target": "classes"},
            ValueError,
            r"`target` is 'classes', and there is no label; name it",
        ),
        ({}, {"like": 3}, TypeError, r"`like` is 3; expected a Table"),
        (
            {},
            {"test": "half"},
            ValueError,
            r"`test` is 'half'; expected one of None, 'clients', 'within', 'stratified'",
        ),
        ({}, {"missing_words": "?"}, TypeError, r"`missing_words` is '\?'; expected a list of strings"),
        ({"when": DAYS}, {}, ValueError, r"column 'when' holds dates, .*dates='days'.*time='when'.*drop=\['when'\]"),
        ({"z": [[1], [2], [3]]}, {}, TypeError, r"column 'z' holds lists, records or bytes; expected numbers or text"),
        (
            {"z": [1, NAN, 3]},
            {},
            ValueError,
            r"column 'z' has none in 1 of 3 rows, first at row 2, client 'b'\. Pass mis",
        ),
        ({"z": [1, np.inf, 3]}, {}, ValueError, r"column 'z' is infinite as float32 at row 2, client 'b'"),
        ({"z": [1, 1e39, 3]}, {"missing": "keep"}, ValueError, r"column 'z' is infinite as float32 at row 2"),
        (
            {"z": ["1", "2", "o"]},
            {},
            ValueError,
            r"column 'z' holds 'o' at row 3, and numbers in other rows\. If it st",
        ),
        (
            {"z": [1, NAN, 3]},
            {"client": "z"},
            ValueError,
            r"client='z' is missing in 1 of 3 rows, first at row 2\. Every",
        ),
        ({"z": [1.5, 2, 3]}, {"client": "z"}, TypeError, r"client='z' holds numbers; expected whole numbers or text"),
        ({"z": DAYS}, {"client": "z"}, TypeError, r"client='z' holds dates; expected whole numbers or text"),
        ({"z": [1, NAN, 3]}, {"time": "z"}, ValueError, r"time='z' is missing in 1 of 3 rows, first at row 2"),
        ({"z": [1, NAN, 3]}, {"group": "z"}, ValueError, r"group='z' is missing in 1 of 3 rows, first at row 2"),
        ({"z": ["u", None, "w"]}, {"label": "z"}, ValueError, r"label='z' is missing in 1 .*Pass unlabeled='drop'"),
        (
            {"z": ["u", None, "w"]},
            {"label": "z", "unlabeled": "keep"},
            ValueError,
            r"Classes have no number for that, so unlabeled='keep' is for labels that are numbers",
        ),
        ({"z": [1, NAN, 3]}, {"features": ["z"]}, ValueError, r"`features` are missing at row 2; pass missing='drop'"),
        ({"z": [1, NAN, 3]}, {"missing": "drop"}, ValueError, r"client 'b' has no row left that lacks no input"),
        (
            {"z": ["p", "q", "r"]},
            {"max_categories": 2},
            ValueError,
            r"column 'z' holds 3 different words, such as 'p'; ",
        ),
        (
            {"z": ["1", "2", "no"]},
            {"label": "z"},
            ValueError,
            r"column 'z' holds 'no' at row 3.*pass classes=\[\.\.\.\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(columns, options, kind, text):
    with pytest.raises(kind, match=text):
        from_table(frame(**columns), **{**OPTIONS, **options})


@pytest.mark.parametrize("source", [3, "no.csv", [], {"a": [1]}, None, pa.array([1]), np.eye(2)])
def test_what_is_no_table_is_refused(source):
    with pytest.raises((TypeError, FileNotFoundError, ValueError), match="`source` is"):
        from_table(source, **OPTIONS)


@pytest.mark.parametrize(
    ("text", "options", "error"),
    [
        ("", {}, r"v.csv': it is empty"),
        ("site,age,ill\n", {}, r"the table has no rows"),
        ("site;age;ill\na;1;no\n", {}, r"one column, 'site;age;ill', which holds ';'; pass delimiter=';'"),
        (
            "1,2,3\n4,5,6\n",
            {},
            r"the first line of '.*v.csv' holds 1, 2, 3 \.\.\.: values.*pass columns=\[...\] with 3",
        ),
        ("site,age,age,ill\na,1,2,no\n", {}, r"v.csv' has two columns named 'age'"),
        ("site,age,ill\na,1,no\nb,2\n", {}, r"Row #3: Expected 3 columns, got 2.*has to be quoted"),
        (
            "site,age,ill\na,1,no\nb,2o,no\n",
            {},
            r"column 'age' holds '2o' at row 2 of '.*v.csv', and numbers|holds 2 d",
        ),
        ("a,1\nb,2\n", {"columns": ["site"]}, r"v.csv'.*`columns` names 1 columns"),
        ("a,1\nb,2\n", {"columns": ["site", "site"]}, r"`columns` holds 'site' twice"),
    ],
)
def test_files_that_cannot_be_read_say_where(tmp_path, text, options, error):
    with pytest.raises(ValueError, match=error):
        from_table(written(tmp_path, text), **{**OPTIONS, **options}, max_categories=1)


def test_missing_files_and_formats_say_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`source` is 'no.csv'; there is no file, seen from"):
        from_table("no.csv", **OPTIONS)
    with pytest.raises(FileNotFoundError, match=r"nothing matches the pattern"):
        from_table(tmp_path / "*.csv", **OPTIONS)
    with pytest.raises(FileNotFoundError, match=r"is the folder '.*', which holds no table"):
        from_table(tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match=r"whose suffix tells no format of tables; expected a file \(.csv"):
        from_table(written(tmp_path, "a", "v.xlsx"), **OPTIONS)
    with pytest.raises(ValueError, match=r"v.parquet', which cannot be read as .parquet"):
        from_table(written(tmp_path, "a", "v.parquet"), **OPTIONS)
    (tmp_path / "latin.csv").write_bytes("site,age,ill\nZürich,1,no\n".encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"column 'site' of '.*' is not utf8; pass its encoding, such as encoding='lat"
    ):
        from_table(tmp_path / "latin.csv", **OPTIONS)
    assert from_table(tmp_path / "latin.csv", **OPTIONS, encoding="latin-1").population.names.tolist() == ["Zürich"]
    paths = [written(tmp_path, "site,age,ill\na,1,no\n"), written(tmp_path, "site,ages,ill\na,1,no\n", "w.csv")]
    with pytest.raises(ValueError, match=r"w.csv' and '.*v.csv' have different columns: 'age' is in one of them"):
        from_table(paths, **OPTIONS)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    path = written(tmp_path, "site,age,ill\na,1,no\n")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "fedjaxlite\[tables\]"'):
        from_table(path, **OPTIONS)


def lines(*columns):
    return "site,age,ill\n" + "".join(f"{','.join(row)}\n" for row in zip(*columns, strict=True))


def test_a_later_block_may_widen_a_column_and_a_slip_is_found_there_too(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "HEAD", 256)
    monkeypatch.setattr(csv_files, "BLOCK", 256)
    n = 200
    sites, ages, ills = [str(i) for i in range(n)], ["7"] * n, ["0"] * n
    sites[150], ages[160], ills[170] = "B12", "2.5", "1"
    table = from_table(written(tmp_path, lines(sites, ages, ills)), **OPTIONS)
    assert sorted(table.population.names.tolist()) == sorted(sites)
    assert table.population.client("160")["x"].tolist() == [[2.5]]
    assert table.population.client("170")["y"].tolist() == [1]
    numbers = from_table(written(tmp_path, lines(sites, ills, ages)), **OPTIONS, features=["age"])
    assert numbers.classes is None
    assert numbers.population.client("160")["y"].tolist() == [2.5]
    with pytest.raises(ValueError, match=r"column 'ill' holds 'x' at row 171 of '.*v.csv', and numbers in other rows"):
        from_table(written(tmp_path, lines(sites, ages, [*ills[:170], "x", *ages[171:]])), **OPTIONS)
    ages[180] = "3o"
    with pytest.raises(
        ValueError, match=r"column 'age' holds '3o' at row 181 of '.*v.csv', after rows that hold numbers"
    ):
        from_table(written(tmp_path, lines(sites, ages, ills)), **OPTIONS)
    again = from_table(written(tmp_path, lines(sites, ages, ills)), **OPTIONS, categorical=["age"])
    assert again.columns == ("age=2.5", "age=3o", "age=7")
    for late in ("4", "words"):
        empty = ["?"] * n
        empty[190] = late
        table = from_table(written(tmp_path, lines(sites, empty, ills)), **OPTIONS, missing="keep")
        assert dict(table.missing) == {"age": n - 1}
        assert table.columns == (("age",) if late == "4" else ("age=words",))


def test_a_quoted_value_over_two_lines_does_not_stop_the_head(tmp_path, monkeypatch):
    text = 'site,age,ill\n"a\nb",1,no\n' + "c,2,yes\n" * 3
    path = written(tmp_path, text)
    for head in range(14, 40):
        monkeypatch.setattr(csv_files, "HEAD", head)
        assert from_table(path, **OPTIONS).population.names.tolist() == ["a\nb", "c"]


def test_kinds_of_arrow_that_few_tables_have():
    table = pa.table(
        {
            "site": pa.array(["a ", "b", "a"], pa.large_string()),
            "money": pa.array([decimal.Decimal("1.25"), decimal.Decimal("2.50"), None], pa.decimal128(8, 2)),
            "half": pa.array(np.float16([1.5, 2, 3])),
            "big": pa.array([1, 2, 2**40], pa.uint64()),
            "nothing": pa.nulls(3),
            "flag": [True, None, False],
            "zone": pa.array([0, 86_400, 43_200], pa.timestamp("s", tz="Europe/Zurich")),
            "word": pa.array(["u", "v", "u"], pa.dictionary(pa.int8(), pa.large_string())),
            "y": [0.5, None, 1.5],
        }
    )
    read = from_table(
        table, client="site", label="y", missing="keep", unlabeled="keep", dates="days", categories="codes"
    )
    assert read.population.names.tolist() == ["a", "b"]
    x = read.population.features["x"]
    assert read.columns == ("money", "half", "big", "nothing", "flag", "zone", "word")
    expected = [[1.25, 1.5, 1, NAN, 1, 0, 0], [NAN, 3, 2**40, NAN, 0, 0.5, 0], [2.5, 2, 2, NAN, NAN, 1, 1]]
    np.testing.assert_array_equal(x, np.float32(expected))
    np.testing.assert_array_equal(read.population.features["y"], np.float32([0.5, 1.5, NAN]))
    some = table.select(["site", "half", "money", "y"])
    assert from_table(some.slice(2), client="site", label="y", unlabeled="drop", missing="keep").dropped == 0
    with pytest.raises(ValueError, match="client 'b' has no row left that lacks no input and no label"):
        from_table(some, client="site", label="y", unlabeled="drop", missing="keep")


def test_an_index_with_a_name_is_not_lost_without_a_word():
    with pytest.raises(
        ValueError, match=r"`source` has an index named 'site', which is no column; pass frame.reset_index"
    ):
        from_table(frame().set_index("site"), **OPTIONS)
    assert from_table(frame().set_index("site").reset_index(), **OPTIONS).population.num_clients == 2
    assert from_table(frame().iloc[[2, 0, 1]], **OPTIONS).population.client("a")["x"].tolist() == [[44], [50]]


def test_categories_of_frames_are_categories():
    words = pd.Categorical(["u", "v", "u"], categories=["never", "v", "u"])
    read = from_table(frame(a=pd.Categorical([3, 1, 3]), b=words), **OPTIONS)
    assert read.columns == ("age", "a=1", "a=3", "b=u", "b=v")
    assert read.population.client("b")["x"].tolist() == [[61, 1, 0, 0, 1]]
    levels = pl.DataFrame(
        {
            **frame().to_dict(orient="list"),
            "a": pl.Series(["lo", "hi", "lo"], dtype=pl.Enum(["lo", "mid", "hi"])),
            "b": pl.Series(["u", "v", "u"], dtype=pl.Categorical),
        }
    )
    read = from_table(levels, **OPTIONS, categorical={"a": ["lo", "mid", "hi"]}, categories="codes")
    assert read.categories == {"a": ("lo", "mid", "hi"), "b": ("u", "v")}
    assert read.population.client("a")["x"].tolist() == [[50, 0, 0], [44, 0, 0]]
    assert read.population.client("b")["x"].tolist() == [[61, 2, 1]]


def test_labels_of_many_whole_numbers_have_to_be_told_apart():
    grades = pd.DataFrame({"school": [1, 2] * 21, "hours": np.arange(42.0), "grade": np.arange(42) // 2})
    options = {"client": "school", "label": "grade"}
    with pytest.raises(
        ValueError, match=r"the label holds 21 whole numbers, from 0 to 20: quantities or classes\? Pass ta"
    ):
        from_table(grades, **options)
    assert from_table(grades, **options, target="numbers").population.features["y"].dtype == np.float32
    classes = from_table(grades, **options, target="classes")
    assert classes.classes == tuple(range(21))
    assert classes.population.client(0)["y"].tolist() == list(range(21))
    few = from_table(grades[grades.grade < 20], **options)
    assert few.classes == tuple(range(20))
    assert from_table(grades.assign(grade=grades.grade / 2), **options).classes is None


def test_a_second_table_reads_like_the_first():
    first = frame(ward=["u", "v", "w"])
    table = from_table(first, **OPTIONS)
    second = pd.DataFrame({"site": ["c"], "age": [30], "ward": ["v"], "ill": ["no"]})
    assert from_table(second, **OPTIONS).columns == ("age", "ward=v")
    read = from_table(second[first.columns], **OPTIONS, like=table)
    assert read.columns == table.columns
    assert read.classes == ("no", "yes")
    assert read.population.client("c")["x"].tolist() == [[30, 0, 1, 0]]
    with pytest.raises(
        ValueError, match=r"column 'ward' holds 'x' at row 1, which is none of the words given: 'u', 'v'"
    ):
        from_table(second.assign(ward="x"), **OPTIONS, like=table)
    with pytest.raises(
        ValueError, match=r"the inputs are not those of the table that `like` gives: 'ward=u' is in one"
    ):
        from_table(second.drop(columns="ward"), **OPTIONS, like=table)
    with pytest.raises(ValueError, match=r"label='ill' holds 'perhaps' at row 1, which is none of the words given"):
        from_table(second.assign(ill="perhaps"), **OPTIONS, like=table)


def test_columns_may_become_features_of_their_own():
    read = from_table(
        frame(ward=["v", "u", "v"], u=[1, 2, 3], v=[0.5, 1.5, 2.5], ok=[True, False, True]),
        **OPTIONS,
        features={"ward": "ward", "both": ["u", "v"], "ok": "ok", "years": "age"},
    )
    assert read.columns == ()
    assert list(read.population.features) == ["y", "ward", "both", "ok", "years"]
    a = read.population.client("a")
    assert a["ward"].tolist() == [1, 1]
    assert a["both"].tolist() == [[1, 0.5], [3, 2.5]]
    assert a["years"].dtype == np.int32
    assert a["ok"].tolist() == [True, True]
    assert read.categories == {"ward": ("u", "v")}
    gap = frame(weight=[0.5, 1.5, NAN])
    assert from_table(gap, **OPTIONS, features=["weight"], missing="drop").population.num_examples.tolist() == [1, 1]
    kept = from_table(gap, **OPTIONS, features=["weight"], missing="keep").population.client("a")["weight"]
    np.testing.assert_array_equal(kept, np.float32([0.5, NAN]))
    given = from_table(frame(ward=["v", "u", "v"]), **OPTIONS, features=["ward"], categorical={"ward": ["w", "v", "u"]})
    assert given.population.client("a")["ward"].tolist() == [1, 1]
    again = from_table(frame(ward=["u", "u", "u"]), **OPTIONS, features=["ward"], like=given)
    assert again.population.client("a")["ward"].tolist() == [2, 2]
    only = from_table(frame().drop(columns=["ill"]), client="site")
    assert list(only.population.features) == ["x"]
    assert list(from_table(frame(), client="site", drop=["age"], features=["ill"]).population.features) == ["ill"]
    with pytest.raises(
        ValueError, match="no column is left for the population; expected an input, a label or a feature"
    ):
        from_table(frame(), client="site", drop=["age", "ill"])


def test_a_table_is_printed_without_its_values():
    text = repr(from_table(frame(z=[1, NAN, 3]), **OPTIONS, missing="keep"))
    assert text == (
        "Table(Population(2 clients, 3 examples, 1 to 2 a client; x float32[2], y int32); 2 columns age, z; classes no, "
        "yes; missing z 1)"
    )


def test_the_test_part_is_of_clients_or_within_them():
    many = pd.DataFrame({"site": np.repeat(np.arange(10), 10), "age": np.arange(100.0), "ill": np.arange(100) % 2})
    options = {"client": "site", "label": "ill", "test_fraction": 0.3, "seed": 3}
    whole = from_table(many, **options, test="clients")
    assert (whole.train.num_clients, whole.test.num_clients) == (7, 3)
    for test, by in (("within", "random"), ("time", "time"), ("stratified", "stratified")):
        table = from_table(many, **options, test=test)
        expected = fl.partition.train_test_split(table.population, test_fraction=0.3, by=by, seed=3)
        assert [p.fingerprint() for p in (table.train, table.test)] == [p.fingerprint() for p in expected]
        assert table.train.names.tolist() == list(range(10))


def test_whole_numbers_beyond_int32_are_refused_as_features_and_found():
    with pytest.raises(ValueError, match=r"feature 'z' holds 1099511627776 at row 2, beyond int32; devices hold int32"):
        from_table(frame(z=[1, 2**40, 3]), **OPTIONS, features=["z"])
    clients = from_table(frame(z=[1, 2**40, 3]), client="z", label="ill", drop=["site"]).population
    assert clients.names.tolist() == [1, 3, 2**40]


def test_files_are_told_apart_by_their_names_or_their_folders(tmp_path):
    text = "age,ill\n1,no\n2,yes\n"
    for folder in ("north", "south"):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder, text, "data.csv")
    written(tmp_path / "north", text, "more.csv")
    options = {"client": "file", "label": "ill"}
    apart = from_table(sorted(tmp_path.glob("*/data.csv")), **options)
    assert apart.population.names.tolist() == ["north", "south"]
    assert from_table(tmp_path / "north", **options).population.names.tolist() == ["data", "more"]
    paths = sorted(str(path) for path in tmp_path.glob("*/*.csv"))
    assert from_table(tmp_path / "**" / "*.csv", **options).population.names.tolist() == paths


def test_many_small_files_are_read_fast(tmp_path):
    for i in range(300):
        written(tmp_path, f"age,ill\n{i},no\n2,yes\n", f"site{i:03d}.csv")
    start = time.monotonic()
    population = from_table(tmp_path, client="file", label="ill").population
    assert time.monotonic() - start < 10
    assert population.client("site123")["x"].tolist() == [[123], [2]]
