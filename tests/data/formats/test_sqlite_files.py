"""SQLite files of FedJAX and TFF, written here by their formats' rules: msgpack and tf.train.Example from elsewhere."""

import lzma
import sqlite3
import zlib

import msgpack
import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from fedjaxlite import datasets

# --- FedJAX -----------------------------------------------------------------------------------------------------------


def packed(array):
    """An array as FedJAX's msgpack has it: extension 1 of (shape, dtype's name, bytes), 4 of (shape, texts)."""
    if array.dtype == object:
        return msgpack.ExtType(4, msgpack.packb((array.shape, list(array.flatten())), use_bin_type=True))
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes("C")), use_bin_type=True))


def write_fedjax(path, clients):
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE federated_data (client_id BLOB NOT NULL PRIMARY KEY, data BLOB NOT NULL, "
            "num_examples INTEGER NOT NULL);"
        )
        for name, arrays, *stated in clients:
            data = zlib.compress(msgpack.packb({key: packed(array) for key, array in arrays.items()}))
            size = stated[0] if stated else len(next(iter(arrays.values())))
            connection.execute("INSERT INTO federated_data VALUES (?, ?, ?)", [name, data, size])
    connection.close()
    return path


def clients_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (
            f"w{count - i:03d}:é".encode(),
            {"pixels": rng.random((n, 4, 4)).astype(np.float32), "label": rng.integers(0, 62, n)},
        )
        for i, n in enumerate(rng.integers(1, 6, count))
    ]


def test_fedjax_clients_in_the_order_they_were_written(tmp_path):
    clients = clients_of(30)
    people = datasets.from_fedjax_sqlite(
        write_fedjax(tmp_path / "a.sqlite", clients),
        features={"pixels": "x", "label": "y"},
        shapes={"pixels": (4, 4, 1)},
    )
    assert people.names.tolist() == [name.decode() for name, _ in clients]
    assert people.features["y"].dtype == np.int32
    for i, (_, arrays) in enumerate(clients):
        np.testing.assert_array_equal(people.client(i)["x"][..., 0], arrays["pixels"])
        np.testing.assert_array_equal(people.client(i)["y"], arrays["label"])


def test_chunks_of_any_size_give_the_same(tmp_path, monkeypatch):
    clients = clients_of(11)
    clients[4][1]["pixels"] = clients[4][1].pop("pixels")  # another order of names is no other client
    path, other = write_fedjax(tmp_path / "a.sqlite", clients), write_tff(tmp_path / "b.sqlite", rows_of(40))
    whole = [datasets.from_fedjax_sqlite(path), datasets.from_tff_sqlite(other)]
    monkeypatch.setattr("fedjaxlite.data.incoming.gather.CHUNK_CLIENTS", 3)
    monkeypatch.setattr("fedjaxlite.data.incoming.gather.CHUNK_ROWS", 7)
    again = [datasets.from_fedjax_sqlite(path), datasets.from_tff_sqlite(other)]
    for one, two in zip(whole, again, strict=True):
        assert one.fingerprint() == two.fingerprint()
        assert one.names.tolist() == two.names.tolist()
    clients[7][1]["pixels"] = np.zeros((len(clients[7][1]["label"]), 4, 5), np.float32)
    with pytest.raises(
        ValueError, match=r"'pixels' is float32\[4, 5\] at client 'w004:é' .*, but float32\[4, 4\] at client"
    ):
        datasets.from_fedjax_sqlite(write_fedjax(tmp_path / "c.sqlite", clients))
    monkeypatch.setattr("fedjaxlite.data.incoming.gather.CHUNK_CLIENTS", 1)
    with pytest.raises(ValueError, match=r"'pixels' is float32\[4, 5\] in .*, but float32\[4, 4\] before that"):
        datasets.from_fedjax_sqlite(tmp_path / "c.sqlite")


def test_some_of_fedjax_clients(tmp_path):
    clients = clients_of(9)
    path = write_fedjax(tmp_path / "a.sqlite", clients)
    names = [clients[i][0].decode() for i in (5, 0)]
    some = datasets.from_fedjax_sqlite(path, clients=names)
    assert some.names.tolist() == names
    np.testing.assert_array_equal(some.client(0)["label"], clients[5][1]["label"])
    assert datasets.from_fedjax_sqlite(path, num_clients=2).names.tolist() == [c[0].decode() for c in clients[:2]]
    with pytest.raises(ValueError, match="`clients` names 'nobody', and there is no such client in '.*a.sqlite'"):
        datasets.from_fedjax_sqlite(path, clients=["nobody"])
    with pytest.raises(ValueError, match="num_clients=10, but '.*a.sqlite' has 9 clients"):
        datasets.from_fedjax_sqlite(path, num_clients=10)


def test_fedjax_texts_and_other_dtypes(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    texts = np.array([b"ab", b"b"], dtype=object)
    arrays = {"t": texts, "h": np.ones((2, 1), ml_dtypes.bfloat16), "b": np.array([True, False]), "u": np.uint8([7, 9])}
    path = write_fedjax(tmp_path / "a.sqlite", [(b"u", arrays)])
    people = datasets.from_fedjax_sqlite(path, encode={"t": datasets.encode_characters("ab", length=2)})
    assert people.features["t"].tolist() == [[2, 3], [3, 0]]
    assert [people.features[name].dtype.name for name in ("h", "b", "u")] == ["bfloat16", "bool", "uint8"]
    with pytest.raises(TypeError, match=r"column 't' holds b'ab' at row 0 of client 'u' in .* encode=\{'t'"):
        datasets.from_fedjax_sqlite(path)


def test_a_parser_of_ones_own(tmp_path):
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        connection.execute("CREATE TABLE federated_data (client_id BLOB, data BLOB, num_examples INTEGER)")
        connection.execute("INSERT INTO federated_data VALUES (?, ?, 3)", [b"u", bytes([4, 5, 6])])
    connection.close()
    people = datasets.from_fedjax_sqlite(tmp_path / "a.sqlite", parse=lambda data: {"y": list(data)})
    assert people.client(0)["y"].tolist() == [4, 5, 6]
    with pytest.raises(ValueError, match="the data of client 'u' in '.*' are not what FedJAX writes, .* pass parse="):
        datasets.from_fedjax_sqlite(tmp_path / "a.sqlite")
    with pytest.raises(TypeError, match=r"`parse` is 3; expected a function of \(data\)"):
        datasets.from_fedjax_sqlite(tmp_path / "a.sqlite", parse=3)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (
            {"x": np.ones((2, 4)), "y": np.ones(2)},
            r"'x' is float64\[4\] at client 'v' .* but float64\[3\] at client 'u'",
        ),
        ({"x": np.ones((2, 3), np.float32), "y": np.ones(2)}, r"'x' is float32\[3\] at client 'v' in '.*a.sqlite'"),
        ({"x": np.ones((2, 3))}, r"client 'v' in '.*' has columns \['x'\], but client 'u' has \['x', 'y'\]"),
        ({"x": np.ones((2, 3)), "y": np.ones(3)}, "client 'v' in '.*': feature 'y' has 3 rows, but feature 'x' has 2"),
        ({"x": np.full((2, 3), np.inf), "y": np.ones(2)}, "'x' holds inf at row 0 of client 'v' in"),
    ],
)
def test_fedjax_clients_that_differ_are_refused(tmp_path, other, text):
    first = {"x": np.ones((1, 3)), "y": np.ones(1)}
    with pytest.raises(ValueError, match=text):
        datasets.from_fedjax_sqlite(write_fedjax(tmp_path / "a.sqlite", [(b"u", first), (b"v", other)]))


def test_a_fedjax_row_that_states_another_number_is_refused(tmp_path):
    path = write_fedjax(tmp_path / "a.sqlite", [(b"u", {"x": np.ones(2)}, 3)])
    with pytest.raises(ValueError, match="client 'u' in '.*a.sqlite' has 2 examples, but its row states 3"):
        datasets.from_fedjax_sqlite(path)


def test_what_is_no_such_file(tmp_path):
    path = tmp_path / "a.sqlite"
    with pytest.raises(FileNotFoundError, match="`path` is '.*a.sqlite'; there is no such file or folder"):
        datasets.from_fedjax_sqlite(path)
    path.write_bytes(b"not a database")
    with pytest.raises(ValueError, match="'.*a.sqlite' is no SQLite file: it begins with b'not a da'"):
        datasets.from_fedjax_sqlite(path)
    write_tff(tmp_path / "b.sqlite", [("u", "train", {"y": [1]})])
    with pytest.raises(
        ValueError, match="has no table 'federated_data', which FedJAX's files have; its tables are: exam"
    ):
        datasets.from_fedjax_sqlite(tmp_path / "b.sqlite")
    path.write_bytes(lzma.compress((tmp_path / "b.sqlite").read_bytes(), format=lzma.FORMAT_ALONE))
    with pytest.raises(ValueError, match="is compressed; unpack it first: xz --format=lzma --decompress"):
        datasets.from_tff_sqlite(path)
    with pytest.raises(ValueError, match="is a folder; expected a SQLite file"):
        datasets.from_tff_sqlite(tmp_path)


# --- TFF --------------------------------------------------------------------------------------------------------------


def example(features):
    """A tf.train.Example, serialized by the classes that protoc made."""
    made = tf_example_pb2.Example()
    for name, values in features.items():
        feature = made.features.feature[name]
        kind = type(values[0])
        chosen = {float: feature.float_list, int: feature.int64_list, bytes: feature.bytes_list}[kind]
        chosen.value.extend(values)
    return made.SerializeToString()


def write_tff(path, rows, stated=None):
    """`rows` are (client, split, features), in the order of the file."""
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE examples (split_name TEXT NOT NULL, client_id TEXT NOT NULL, "
            "serialized_example_proto BLOB NOT NULL);"
            "CREATE INDEX idx_examples_client_id ON examples (client_id);"
            "CREATE INDEX idx_examples_client_id_split ON examples (split_name, client_id);"
            "CREATE TABLE client_metadata (client_id TEXT NOT NULL, split_name TEXT NOT NULL, "
            "num_examples INTEGER NOT NULL);"
        )
        counts = dict(stated or {})
        for client, split, features in rows:
            connection.execute("INSERT INTO examples VALUES (?, ?, ?)", [split, client, example(features)])
            if stated is None:
                counts[client, split] = counts.get((client, split), 0) + 1
        for (client, split), count in counts.items():
            connection.execute("INSERT INTO client_metadata VALUES (?, ?, ?)", [client, split, count])
    connection.close()
    return path


def rows_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (
            f"client_{rng.integers(7)}",
            ["train", "test"][int(rng.integers(2))],
            {"pixels": rng.random(9).astype(np.float32).tolist(), "label": [int(rng.integers(0, 62))]},
        )
        for _ in range(count)
    ]


def test_tff_clients_sorted_and_examples_in_the_order_of_the_file(tmp_path):
    rows = rows_of(80)
    path = write_tff(tmp_path / "a.sqlite", rows)
    for split in ("train", "test", None):
        people = datasets.from_tff_sqlite(
            path, split=split, features={"pixels": "x", "label": "y"}, shapes={"pixels": (3, 3, 1)}
        )
        mine = [row for row in rows if split in (None, row[1])]
        assert people.names.tolist() == sorted({client for client, _, _ in mine})
        for i, name in enumerate(people.names.tolist()):
            wanted = [features for client, _, features in mine if client == name]
            np.testing.assert_array_equal(
                people.client(i)["x"].reshape(-1, 9), np.array([w["pixels"] for w in wanted], np.float32)
            )
            assert people.client(i)["y"].tolist() == [w["label"][0] for w in wanted]


def test_some_of_tff_clients(tmp_path):
    rows = rows_of(80)
    path = write_tff(tmp_path / "a.sqlite", rows)
    whole = datasets.from_tff_sqlite(path, split="test")
    some = datasets.from_tff_sqlite(path, split="test", clients=["client_4", "client_1"])
    assert some.fingerprint() == whole.select([whole.names.tolist().index(n) for n in some.names]).fingerprint()
    assert some.names.tolist() == ["client_4", "client_1"]
    first = datasets.from_tff_sqlite(path, split="test", num_clients=2)
    assert first.fingerprint() == whole.select([0, 1]).fingerprint()
    with pytest.raises(ValueError, match="`clients` names 'client_9', and there is no such client"):
        datasets.from_tff_sqlite(path, clients=["client_9"])
    with pytest.raises(
        ValueError, match="`split` is 'tests'; the splits of '.*' are: 'test', 'train'. Did you mean 'test'"
    ):
        datasets.from_tff_sqlite(path, split="tests")


def test_tff_texts(tmp_path):
    rows = [
        ("u", "train", {"tokens": [b"the cat"], "tags": [b"a", b"b"]}),
        ("u", "train", {"tokens": [b"dog"], "tags": [b"b", b"c"]}),
    ]
    path = write_tff(tmp_path / "a.sqlite", rows)
    words = datasets.encode_words(["cat", "a", "b"], length=2)
    people = datasets.from_tff_sqlite(path, encode={"tokens": words, "tags": words})
    assert people.features["tokens"].tolist() == [[1, 2], [1, 0]]
    assert people.features["tags"].tolist() == [[3, 4], [4, 1]]
    with pytest.raises(TypeError, match=r"column 't\w+' holds b'.*' at row 0 of '.*' from example 0 on \(client 'u'\)"):
        datasets.from_tff_sqlite(path)


def test_tff_files_that_are_not_whole_or_not_alike_are_refused(tmp_path):
    rows = [("u", "train", {"y": [1]}), ("v", "train", {"y": [2]})]
    path = write_tff(tmp_path / "a.sqlite", rows, stated={("u", "train"): 1, ("v", "train"): 3})
    with pytest.raises(ValueError, match="client 'v' in '.*' has 1 examples, but `client_metadata` states 3"):
        datasets.from_tff_sqlite(path)
    assert datasets.from_tff_sqlite(path, clients=["u"]).num_clients == 1
    path = write_tff(tmp_path / "b.sqlite", rows, stated={("u", "train"): 1, ("v", "train"): 1, ("w", "train"): 2})
    with pytest.raises(ValueError, match="client 'w' in '.*' has 0 examples, but `client_metadata` states 2"):
        datasets.from_tff_sqlite(path)
    path = write_tff(tmp_path / "c.sqlite", [rows[0], ("v", "train", {"z": [2]})])
    with pytest.raises(
        ValueError, match=r"example 1 of client 'v' in '.*' has features \['z'\], but others have \['y'\]"
    ):
        datasets.from_tff_sqlite(path)
    path = write_tff(tmp_path / "d.sqlite", [rows[0], ("v", "train", {"y": [2, 3]})])
    with pytest.raises(ValueError, match=r"'y' has shape \[2\] at row 1 of .* \(client 'v'\), and one number at row 0"):
        datasets.from_tff_sqlite(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE examples SET serialized_example_proto = x'0aff' WHERE client_id = 'v'")
    connection.close()
    with pytest.raises(ValueError, match="example 1 of client 'v' in '.*' is no tf.train.Example"):
        datasets.from_tff_sqlite(path)
