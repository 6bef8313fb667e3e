"""Tables in the formats of public ones, from raw file to population, against a reader of csv and NumPy alone."""

import csv
import gzip

import jax
import made_tables
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite.datasets import from_table

ILL = {0: "healthy", 1: "ill", 2: "ill", 3: "ill", 4: "ill"}
FLAMBY = {"drop": ["slope", "ca", "thal"], "classes": ILL, "columns": made_tables.HEART_COLUMNS}


def rows_of(path, header=None, delimiter=","):
    """A file's rows as dicts of text, by the csv module."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", newline="") as file:
        return list(csv.DictReader(file, fieldnames=header, delimiter=delimiter))


def test_heart_disease_of_four_files_is_what_a_reader_by_hand_makes_of_them(tmp_path):
    made_tables.heart_disease(tmp_path)
    table = from_table(tmp_path / "*.data", client="file", label="num", missing="drop", **FLAMBY)
    columns = [c for c in made_tables.HEART_COLUMNS if c not in ("slope", "ca", "thal", "num")]
    assert table.columns == tuple(columns)
    assert table.classes == ("healthy", "ill")
    total = 0
    for name in ("cleveland", "hungarian", "switzerland", "va"):
        rows = rows_of(tmp_path / f"processed.{name}.data", made_tables.HEART_COLUMNS)
        whole = [row for row in rows if "?" not in [row[c] for c in columns]]
        own = table.population.client(f"processed.{name}")
        np.testing.assert_array_equal(own["x"], np.float32([[float(row[c]) for c in columns] for row in whole]))
        np.testing.assert_array_equal(own["y"], [int(row["num"]) > 0 for row in whole])
        total += len(rows) - len(whole)
    assert table.dropped == total > 100
    assert table.population.features["x"].dtype == np.float32
    assert table.population.features["y"].dtype == np.int32
    assert table.train is table.population
    assert table.test is None


def test_heart_disease_with_its_gaps_kept(tmp_path):
    made_tables.heart_disease(tmp_path)
    files = sorted(tmp_path.glob("*.data"))
    table = from_table(
        [files[3], str(files[0])],
        client="file",
        label="num",
        columns=made_tables.HEART_COLUMNS,
        missing="keep",
        keep_mask=True,
    )
    assert table.population.names.tolist() == ["processed.cleveland", "processed.va"]
    assert table.classes == (0, 1, 2, 3, 4)
    assert table.dropped == 0
    rows = [row for file in (files[0], files[3]) for row in rows_of(file, made_tables.HEART_COLUMNS)]
    text = np.array([[row[c] for c in table.columns] for row in rows])
    features = table.population.features
    np.testing.assert_array_equal(np.isnan(features["x"]), text == "?")
    np.testing.assert_array_equal(features["missing"], text == "?")
    np.testing.assert_array_equal(features["x"][text != "?"], text[text != "?"].astype(np.float32))
    counts = {c: int((text[:, i] == "?").sum()) for i, c in enumerate(table.columns)}
    assert dict(table.missing) == {c: n for c, n in counts.items() if n}


def test_codes_of_categories_by_name_or_by_words(tmp_path):
    made_tables.heart_disease(tmp_path)
    options = {"client": "file", "label": "num", "missing": "drop", **FLAMBY}
    plain = from_table(tmp_path, **options)
    coded = from_table(tmp_path, **options, categorical=["cp", "restecg"])
    place = plain.columns.index("cp")
    cp = plain.population.features["x"][:, place]
    assert coded.columns[place : place + 4] == ("cp=1", "cp=2", "cp=3", "cp=4")
    np.testing.assert_array_equal(coded.population.features["x"][:, place : place + 4], cp[:, None] == [1, 2, 3, 4])
    assert coded.categories == {"cp": (1, 2, 3, 4), "restecg": (0, 1, 2)}
    given = from_table(tmp_path, **options, categorical={"cp": [4, 3, 2, 1, 0], "restecg": None}, categories="codes")
    assert given.columns == plain.columns
    np.testing.assert_array_equal(given.population.features["x"][:, place], 4 - cp)
    assert given.categories["cp"] == (4, 3, 2, 1, 0)
    with pytest.raises(
        ValueError, match=r"column 'cp' holds 4 at row \d+ of '.*cleveland.data', which is none of the wo"
    ):
        from_table(tmp_path, **options, categorical={"cp": [1, 2, 3]})


def test_parkinsons_patients_by_time(tmp_path):
    path = tmp_path / "parkinsons_updrs.data"
    made_tables.parkinsons(path)
    table = from_table(
        path, client="subject#", label="total_UPDRS", drop=["motor_UPDRS"], time="test_time", test="time"
    )
    rows = rows_of(path)
    assert table.population.names.tolist() == list(range(1, 43))
    assert table.classes is None
    assert table.columns == tuple(
        c for c in rows[0] if c not in ("subject#", "test_time", "motor_UPDRS", "total_UPDRS")
    )
    for subject in (1, 17, 42):
        own = [row for row in rows if int(row["subject#"]) == subject]
        client = table.population.client(subject - 1)
        np.testing.assert_array_equal(client["y"], np.float32([float(row["total_UPDRS"]) for row in own]))
        np.testing.assert_array_equal(client["x"][:, 2], np.float32([float(row["Jitter(%)"]) for row in own]))
        y = [t.client(subject - 1)["y"] for t in (table.train, table.test)]
        np.testing.assert_array_equal(np.concatenate(y), client["y"])  # the last ones
        assert len(y[1]) == round(0.2 * len(own))
    shuffled = np.random.default_rng(0).permutation(len(rows))
    frame = pd.read_csv(path).iloc[shuffled]
    again = from_table(frame, client="subject#", label="total_UPDRS", drop=["motor_UPDRS"], time="test_time")
    assert again.population.fingerprint() == table.population.fingerprint()


def test_intensive_care_from_a_packed_file_with_patients_together(tmp_path):
    path = tmp_path / "patient.csv.gz"
    made_tables.intensive_care(path)
    options = {"client": "hospitalid", "label": "hospitaldischargestatus", "drop": ["patientunitstayid"]}
    with pytest.raises(ValueError, match=r"column 'age' holds '> 89' at row \d+ of '.*gz', and numbers in other rows"):
        from_table(path, **options, group="uniquepid", missing="keep")
    table = from_table(
        path,
        **options,
        group="uniquepid",
        missing="keep",
        missing_words=["", "> 89"],
        test="stratified",
        test_fraction=0.3,
    )
    assert table.classes == ("Alive", "Expired")
    assert table.population.names.tolist() == list(range(60, 200, 7))
    for i in range(20):
        of_train, of_test = (set(t.client(i)["uniquepid"].tolist()) for t in (table.train, table.test))
        assert not of_train & of_test
        assert of_test
    raw = pd.read_csv(path, dtype={"hospitalid": int})
    for hospital in (60, 130):
        own = table.population.client(table.population.index_of(hospital))
        rows = raw[raw.hospitalid == hospital]
        np.testing.assert_array_equal(own["y"], rows.hospitaldischargestatus == "Expired")
        np.testing.assert_array_equal(own["x"][:, table.columns.index("gender=Male")], rows.gender == "Male")
        weight = own["x"][:, table.columns.index("admissionweight")]
        np.testing.assert_array_equal(weight, rows.admissionweight.to_numpy(np.float32))
        gaps = np.isnan(own["x"][:, [table.columns.index(c) for c in table.columns if c.startswith("ethnicity=")]])
        np.testing.assert_array_equal(gaps, np.repeat(rows.ethnicity.isna().to_numpy()[:, None], 3, axis=1))
        _, counts = np.unique(own["uniquepid"], return_counts=True)
        assert sorted(counts) == sorted(rows.uniquepid.value_counts())


def visits(n=300, seed=0):
    """A frame of every kind of column, without gaps."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "site": rng.choice(["Basel", "Bern", "Zürich"], n),
            "age": rng.integers(20, 90, n),
            "pressure": rng.normal(130, 20, n).round(2),
            "smoker": rng.random(n) < 0.3,
            "ward": rng.choice(["a", "b", "c d"], n),
            "day": pd.Timestamp("2020-02-03") + pd.to_timedelta(rng.integers(0, 900, n), "D"),
            "ill": rng.choice(["no", "yes"], n),
        }
    )


OPTIONS = {"client": "site", "label": "ill", "dates": "days"}


def test_every_format_of_one_table_is_one_population(tmp_path):
    frame = visits()
    table = pa.Table.from_pandas(frame, preserve_index=False)
    frame.to_csv(tmp_path / "v.csv", index=False)
    frame.to_csv(tmp_path / "v.csv.gz", index=False)
    frame.to_csv(tmp_path / "v.tsv", index=False, sep="\t")
    frame.to_csv(tmp_path / "semicolons.txt", index=False, sep=";", encoding="latin-1")
    pyarrow.parquet.write_table(table, tmp_path / "v.parquet", row_group_size=70)
    pyarrow.feather.write_feather(table, tmp_path / "v.feather", compression="lz4", chunksize=90)
    with pa.ipc.new_stream(tmp_path / "v.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=50)
    expected = from_table(frame, **OPTIONS)
    sources = [tmp_path / f"v.{end}" for end in ("csv", "csv.gz", "tsv", "parquet", "feather", "arrow")]
    sources += [
        table,
        pl.from_pandas(frame),
        pl.from_pandas(frame).lazy(),
        table.combine_chunks().to_batches()[0],
        [frame],
    ]
    sources += [
        pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=40)),
        frame.astype({"ward": "category"}),
    ]
    for source in sources:
        read = from_table(source, **OPTIONS)
        assert read._replace(population=0, train=0) == expected._replace(population=0, train=0), source
        assert read.population.fingerprint() == expected.population.fingerprint(), source
        assert read.population.names.tolist() == ["Basel", "Bern", "Zürich"]
    other = from_table(tmp_path / "semicolons.txt", **OPTIONS, delimiter=";", encoding="latin-1")
    assert other.population.fingerprint() == expected.population.fingerprint()
    parts = [frame.iloc[:100], pl.from_pandas(frame.iloc[100:170]), table.slice(170)]
    assert from_table(parts, **OPTIONS).population.fingerprint() == expected.population.fingerprint()


def test_the_columns_of_a_frame_against_pandas():
    frame = visits()
    table = from_table(frame, **OPTIONS)
    assert table.columns == ("age", "pressure", "smoker", "ward=a", "ward=b", "ward=c d", "day")
    wanted = pd.DataFrame(
        {
            **frame[["age", "pressure", "smoker"]],
            **pd.get_dummies(frame.ward),
            "day": (frame.day - pd.Timestamp("1970-01-01")) / pd.Timedelta("1D"),
        }
    ).astype(np.float32)
    for i, site in enumerate(sorted(frame.site.unique())):
        np.testing.assert_array_equal(table.population.client(i)["x"], wanted[frame.site == site].to_numpy())
        np.testing.assert_array_equal(table.population.client(site)["y"], frame.ill[frame.site == site] == "yes")


@given(st.integers(0, 10_000), st.integers(4, 60))
def test_rows_with_gaps_are_kept_or_left_out_as_pandas_does(seed, n):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "site": np.r_[[3, 1, 2], rng.integers(1, 4, n)],
            "a": np.r_[1.5, 2.5, 3.5, np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n))],
            "b": np.r_[0, 1, 2, np.where(rng.random(n) < 0.2, np.nan, rng.integers(5, size=n))],
            "word": np.r_[["u", "v", "w"], rng.choice(["u", "v", "NA"], n)].astype(object),
            "y": np.r_[0.5, 1, 2, np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n))],
            "own": np.arange(n + 3),
        }
    )
    frame = frame.sample(frac=1, random_state=seed)
    options = {"client": "site", "label": "y", "features": ["own"]}
    whole = frame[frame.notna().all(axis=1) & (frame.word != "NA")]
    dropped = from_table(frame, **options, missing="drop")
    assert dropped.dropped == len(frame) - len(whole)
    kept = from_table(frame, **options, missing="keep", unlabeled="drop", keep_mask=True)
    assert dict(kept.missing).get("a", 0) == frame.a.isna().sum()
    for table, wanted in ((dropped, whole), (kept, frame[frame.y.notna()])):
        hot = pd.DataFrame({f"word={w}": (wanted.word == w).astype(float) for w in ("u", "v", "w")})
        hot[wanted.word == "NA"] = np.nan
        x = pd.concat([wanted[["a", "b"]], hot], axis=1).to_numpy(np.float32)
        for i, site in enumerate((1, 2, 3)):
            mine = table.population.client(i)
            at = (wanted.site == site).to_numpy()
            assert mine["own"].tolist() == wanted.own[at].tolist()
            np.testing.assert_array_equal(mine["x"], x[at])
            np.testing.assert_array_equal(mine["y"], wanted.y[at].to_numpy(np.float32))
    np.testing.assert_array_equal(kept.population.features["missing"], np.isnan(kept.population.features["x"]))


def test_a_model_trains_on_a_table_from_file_to_report():
    table = from_table(visits(), **OPTIONS, drop=["day"], test="within", seed=1)
    model = fl.models.logistic(num_classes=2, input_shape=(len(table.columns),))
    report = fl.evaluate_clients(model, table.test)(model.init(jax.random.key(0)))
    assert report.names.tolist() == ["Basel", "Bern", "Zürich"]
    assert 0 <= report.of("Bern")["accuracy"] <= 1
