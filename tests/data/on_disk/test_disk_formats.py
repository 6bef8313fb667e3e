"""Parquet and ArrayRecord files streamed into folders: what the readers in memory make of the same rows."""

import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.datasets.formats import parquet as parquet_

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(0)
OWNERS = [f"site-{i}" for i in RNG.integers(0, 5, 40)]
X, Y = RNG.normal(size=(40, 3)).astype(np.float32), RNG.integers(0, 4, 40)


def table(**changed):
    columns = {"site": OWNERS, "pixels": X.tolist(), "label": Y, "said": ["ja" if y else "nein" for y in Y]}
    return pa.table({**columns, **changed})


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "visits"
    folder.mkdir()
    pq.write_table(table().slice(0, 25), folder / "a.parquet", row_group_size=7)
    pq.write_table(table().slice(25), folder / "b.parquet")
    return folder


def test_parquet_files_become_the_population_of_their_rows(files, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_, "_ROWS", 6)
    memory = fl.Population.from_arrays({"x": X, "y": Y, "said": (Y > 0)}, OWNERS)
    options = {
        "client": "site",
        "features": {"pixels": "x", "label": "y", "said": "said"},
        "encode": {"said": lambda text: text == "ja"},
    }
    for i, source in enumerate([files, str(files / "*.parquet"), [files / "a.parquet", files / "b.parquet"]]):
        disk = fl.datasets.from_parquet(source, tmp_path / f"packed{i}", buffer_bytes=100, **options)
        assert disk.on_disk
        assert disk.fingerprint() == memory.fingerprint()
        assert disk.names.tolist() == memory.names.tolist()


def test_clients_that_are_ints_are_ints(tmp_path):
    owners = np.array([7, -2, 7], np.int16)
    pq.write_table(pa.table({"who": owners, "x": [1.0, 2.0, 3.0]}), tmp_path / "rows.parquet")
    disk = fl.datasets.from_parquet(tmp_path / "rows.parquet", tmp_path / "packed", client="who")
    assert disk.names.tolist() == [-2, 7]
    assert disk.client(1)["x"].tolist() == [1.0, 3.0]


WRONG = {
    "column": ({}, {"client": "sites"}, ValueError, r"`client` is 'sites'; .* Did you mean 'site'\?"),
    "text": ({}, {"client": "site"}, TypeError, "'said'.*type string"),
    "label": (
        {},
        {"client": "site", "features": {"label": "y"}, "num_classes": 2},
        ValueError,
        r"feature 'y' holds label [23] at row \d+ \(client 'site-\d'\)",
    ),
    "nobody": (
        {"site": [None, *OWNERS[1:]]},
        {"client": "site", "features": ["label"]},
        ValueError,
        "column 'site' names no client in row 0 of .*rows.parquet' from row 0 on",
    ),
    "gap": (
        {"label": [1, None, *Y[2:].tolist()]},
        {"client": "site", "features": ["label"]},
        ValueError,
        r"column 'label' holds nothing \(null\) in row 1 of .*rows.parquet'",
    ),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_what_cannot_be_read_is_told_by_column_and_row_and_leaves_nothing(tmp_path, case):
    changed, options, kind, text = WRONG[case]
    pq.write_table(table(**changed), tmp_path / "rows.parquet")
    with pytest.raises(kind, match=text):
        fl.datasets.from_parquet(tmp_path / "rows.parquet", tmp_path / "packed", **options)
    assert not (tmp_path / "packed").exists()


def test_what_is_no_parquet_file_is_refused(tmp_path):
    (tmp_path / "rows.parquet").write_text("no")
    with pytest.raises(ValueError, match=r"rows.parquet' cannot be read as Parquet"):
        fl.datasets.from_parquet(tmp_path / "rows.parquet", tmp_path / "packed", client="site")
    with pytest.raises(FileNotFoundError, match="there is no Parquet file"):
        fl.datasets.from_parquet(tmp_path / "*.pq", tmp_path / "packed", client="site")
    with pytest.raises(TypeError, match="`source` is 3; expected a Parquet file"):
        fl.datasets.from_parquet(3, tmp_path / "packed", client="site")


def example(owner, x, y):
    """A `tf.train.Example` by hand: lists of bytes (1), float32 (2) and int64 (3)."""

    def field(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    def entry(name, kind, content):
        return field(1, field(1, name.encode()) + field(2, field(kind, field(1, content))))

    floats = np.asarray(x, "<f4").tobytes()
    return field(1, entry("speaker", 1, owner.encode()) + entry("x", 2, floats) + entry("y", 3, bytes([int(y)])))


def write_records(path, records):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:4")
    for record in records:
        writer.write(record)
    writer.close()


def test_records_become_the_population_of_their_examples(tmp_path, monkeypatch):
    monkeypatch.setattr("fedjaxlite.datasets.formats.array_record._RECORDS", 6)
    records = [example(o, x, y) for o, x, y in zip(OWNERS, X, Y, strict=True)]
    write_records(tmp_path / "a", records[:15])
    write_records(tmp_path / "b", records[15:])
    disk = fl.datasets.from_array_record([tmp_path / "a", tmp_path / "b"], tmp_path / "packed", client="speaker")
    memory = fl.Population.from_arrays({"x": X, "y": Y}, OWNERS)
    assert disk.fingerprint() == memory.fingerprint()
    assert disk.names.tolist() == memory.names.tolist()
    with pytest.raises(ValueError, match=r"record 0 of .*a' has no 'who'; its features are"):
        fl.datasets.from_array_record(tmp_path / "a", tmp_path / "other", client="who")


def test_records_of_other_kinds_are_decoded_by_a_function(tmp_path):
    write_records(tmp_path / "a", [b"7:1.5", b"3:2", b"7:4"])

    def decode(record):
        who, value = record.split(b":")
        return {"who": int(who), "x": float(value)}

    disk = fl.datasets.from_array_record(tmp_path / "a", tmp_path / "packed", client="who", decode=decode)
    assert disk.names.tolist() == [3, 7]
    assert disk.client(1)["x"].tolist() == [1.5, 4.0]
    with pytest.raises(ValueError, match=r"record 0 of .*a' cannot be decoded: .* Give decode="):
        fl.datasets.from_array_record(tmp_path / "a", tmp_path / "other", client="who")


def test_what_is_no_array_record_is_refused(tmp_path):
    pytest.importorskip("array_record")
    (tmp_path / "rows").write_bytes(b"no" * 1000)
    with pytest.raises(ValueError, match="is no ArrayRecord file, is damaged, or holds no record"):
        fl.datasets.from_array_record(tmp_path / "rows", tmp_path / "packed", client="who")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        fl.datasets.from_array_record(tmp_path / "none", tmp_path / "packed", client="who")
