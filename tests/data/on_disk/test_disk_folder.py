"""Folders of clients: what is written is what memory holds, and nothing else is opened."""

import json
import shutil
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite.data.on_disk import sizes

KINDS = ("float32", "float16", "bfloat16", "uint8", "int32", "bool")


def clients_of(counts, seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    kind = jnp.dtype(dtype)
    return [
        {"x": rng.integers(0, 2, (n, 2, 3)).astype(kind), "y": rng.integers(0, 4, n), "empty": np.zeros((n, 0))}
        for n in counts
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of three named clients, and the same population in memory."""
    folder = tmp_path_factory.mktemp("disk") / "people"
    clients = clients_of([3, 1, 4])
    return (
        fl.Population.write(folder, zip("bca", clients, strict=True)),
        fl.Population.from_clients(clients, names=list("bca")),
        folder,
    )


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.sampled_from(KINDS),
    st.integers(1, 400),
    st.sampled_from([None, "text", "ints"]),
)
@settings(max_examples=12, deadline=None)
def test_a_folder_holds_what_from_clients_makes(counts, dtype, buffer_bytes, named):
    clients = clients_of(counts, dtype=dtype)
    names = {None: None, "text": [f"é{i}" * (i + 1) for i in range(len(counts))], "ints": [-7 * i for i in counts]}[
        named
    ]
    names = list(range(5, 5 - len(counts), -1)) if named == "ints" else names
    memory = fl.Population.from_clients(clients, names=names, allow_empty=True)
    given_ = clients if names is None else zip(names, clients, strict=True)
    with tempfile.TemporaryDirectory() as place:
        disk = fl.Population.write(Path(place, "people"), given_, allow_empty=True, buffer_bytes=buffer_bytes)
        again = disk.in_memory()
        assert disk.fingerprint() == memory.fingerprint() == again.fingerprint()
        assert disk.max_size == memory.max_size
        assert disk.offsets.dtype == np.int32
        assert not again.on_disk
        assert disk.on_disk
        for name, array in memory.features.items():
            assert disk.features[name].dtype == array.dtype
            np.testing.assert_array_equal(again.features[name], array)
        assert (disk.names is None) == (names is None)
        if names is not None:
            assert disk.names.tolist() == names == again.names.tolist()
            assert disk.index_of(names[::-1]).tolist() == list(range(len(names)))[::-1]
        for k in range(1, len(counts) + 1):
            largest = sum(sorted(counts)[-k:])
            assert sizes.most_rows(disk, k) == largest == sizes.most_rows(memory, k)


def test_an_opened_population_reads_like_one_in_memory(made):
    disk, memory, _ = made
    assert disk.num_examples.tolist() == [3, 1, 4]
    np.testing.assert_array_equal(disk.client("a")["x"], memory.client("a")["x"])
    assert disk.select(["a", "b"]).fingerprint() == memory.select([2, 0]).fingerprint()
    assert disk.select([2, 0]).names.tolist() == ["a", "b"]
    assert not disk.select([1]).on_disk
    assert disk.index_of("c") == 1
    for array in (*disk.features.values(), disk.offsets, disk.names):
        assert not array.flags.writeable
    renamed = disk.renamed([30, 20, 10])
    assert renamed.on_disk
    assert renamed.index_of(10) == 2
    assert renamed.fingerprint() == disk.fingerprint()


def test_the_text_of_an_opened_population_says_where_it_lies(made):
    disk, _, folder = made
    assert repr(disk) == (
        "Population(3 clients, 8 examples, 1 to 4 a client; x float32[2, 3], y int32, empty float32[0]; "
        f"{sum(f.stat().st_size for f in folder.glob('*.bin'))} bytes in {str(folder)!r})"
    )


def test_one_file_holds_what_a_folder_holds(made, tmp_path):
    disk, memory, _ = made
    disk.save(tmp_path / "one.npz")
    loaded = fl.Population.load(tmp_path / "one.npz")
    assert loaded.fingerprint() == memory.fingerprint()
    assert loaded.names.tolist() == ["b", "c", "a"]


def test_names_that_are_not_there_are_told_with_the_nearest(made):
    disk, _, _ = made
    with pytest.raises(
        ValueError, match=r"there is no client named 'd'.*population's 3 clients are named 'b', 'c', 'a'"
    ):
        disk.index_of("d")
    with pytest.raises(TypeError, match="this population's names are strings"):
        disk.index_of([7])


def test_two_names_of_one_hash_are_two_clients(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "fedjaxlite.data.on_disk.names.hashlib.blake2b",
        lambda text, digest_size: type("Same", (), {"digest": lambda self: b"\0" * digest_size})(),
    )
    disk = fl.Population.write(tmp_path / "people", ((name, {"y": [1]}) for name in "abc"))
    assert disk.index_of(["c", "a", "b"]).tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="client 'a' comes twice, as client 0 and as client 2"):
        fl.Population.write(tmp_path / "twice", ((name, {"y": [1]}) for name in "aba"))


def copied(folder, place):
    shutil.copytree(folder, place)
    return place


def test_half_a_folder_is_refused(made, tmp_path):
    folder = copied(made[2], tmp_path / "half")
    (folder / "population.json").unlink()
    with pytest.raises(
        ValueError, match=r"holds half a population: population.json, which is written last, is not there"
    ):
        fl.Population.open(folder)


@pytest.mark.parametrize("spoil", ["cut", "missing", "header", "format", "json", "byte"])
def test_a_damaged_folder_is_refused(made, tmp_path, spoil):
    folder = copied(made[2], tmp_path / "damaged")
    header, rows = folder / "population.json", folder / "feature_0.bin"
    text = header.read_text()
    match spoil:
        case "cut":
            rows.write_bytes(rows.read_bytes()[:-1])
            expected = r"'feature_0.bin' has 191 bytes, and its header says 192"
        case "missing":
            rows.unlink()
            expected = "'feature_0.bin' is missing"
        case "header":
            header.write_text(text.replace('"max_size": 4', '"max_size": 3'))
            expected = "is not what was sealed"
        case "format":
            header.write_text(json.dumps({**json.loads(text), "format": "fedjaxlite population folder 2"}))
            expected = "this version of the library reads 'fedjaxlite population folder 1'"
        case "json":
            header.write_text(text[: len(text) // 2])
            expected = "population.json' is damaged"
        case _:
            rows.write_bytes(bytes([rows.read_bytes()[0] ^ 1]) + rows.read_bytes()[1:])
            assert fl.Population.open(folder).num_clients == 3  # what only reading all of it tells
            with pytest.raises(ValueError, match="its content has not the fingerprint it was written with"):
                fl.Population.open(folder, verify=True)
            return
    with pytest.raises(ValueError, match=expected):
        fl.Population.open(folder)


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder; expected one that Population.write made"):
        fl.Population.open(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no population: there is no population.json in it"):
        fl.Population.open(tmp_path)
    (tmp_path / "rows.parquet").write_text("")
    with pytest.raises(ValueError, match=r"which is a file; expected one .* fl.datasets.from_parquet"):
        fl.Population.open(tmp_path / "rows.parquet")


def test_a_folder_that_holds_something_is_not_written_to(made, tmp_path):
    with pytest.raises(ValueError, match="which holds a population already"):
        fl.Population.write(made[2], [{"y": [1]}])
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="which holds something already"):
        fl.Population.write(tmp_path, [{"y": [1]}])
    with pytest.raises(ValueError, match="which is a file"):
        fl.Population.write(tmp_path / "thesis.txt", [{"y": [1]}])
    assert fl.Population.open(made[2], verify=True).num_clients == 3


WRONG = {
    "nan": (
        [("a", {"x": [[1.0]]}), ("b", {"x": [[1.0], [np.nan]]})],
        ValueError,
        r"feature 'x' holds nan at row 1 of client 1 \('b'\)",
    ),
    "label": ([{"y": [1]}, {"y": [0, 9]}], ValueError, r"feature 'y' holds label 9 at row 1 of client 1"),
    "int32": ([{"y": [1]}, {"y": [2**40]}], ValueError, r"holds 1099511627776 at row 0 of client 1, beyond int32"),
    "dtype": (
        [{"y": [1]}, {"y": [1.5]}],
        ValueError,
        r"feature 'y' of client 1 is float64, but that of client 0 is int64; expected one dtype",
    ),
    "shape": (
        [{"y": [[1]]}, {"y": [[1, 2]]}],
        ValueError,
        r"feature 'y' of client 1 is int64\[2\], but that of client 0 is int64\[1\]",
    ),
    "features": ([{"y": [1]}, {"z": [1]}], ValueError, r"client 1 has features \['z'\], but client 0 has \['y'\]"),
    "rows": ([{"y": [1], "x": [1, 2]}], ValueError, r"client 0: feature 'x' has 2 rows, but feature 'y' has 1"),
    "empty": ([{"y": [1]}, {"y": []}], ValueError, r"client 1 has no examples; leave it out, or pass allow_empty=True"),
    "text": ([{"y": ["a"]}], TypeError, r"feature 'y' has dtype <U1; expected floats, integers or booleans"),
    "none": ([], ValueError, "`clients` gave none"),
    "mixed": ([{"y": [1]}, ("b", {"y": [1]})], TypeError, "client 1 of `clients` comes with a name, and those before"),
    "name": ([(1.5, {"y": [1]})], TypeError, "the name of client 0 is 1.5; expected an int or a string"),
    "names": ([("a", {"y": [1]}), (1, {"y": [1]})], TypeError, "the clients' names are of types int and str"),
    "long": ([("a" * 257, {"y": [1]})], ValueError, "expected at most 256 characters"),
    "no dict": ([[1]], TypeError, r"client 0 of `clients` is \[1\]; expected a dict of arrays"),
    "twice": (
        [("a", {"y": [1]}), ("a", {"y": [1]})],
        ValueError,
        "client 'a' comes twice, as client 0 and as client 1",
    ),
}


@pytest.mark.parametrize("buffer_bytes", [1, 1 << 20], ids=["each alone", "together"])
@pytest.mark.parametrize("case", sorted(WRONG))
def test_what_cannot_be_written_is_told_by_client_and_leaves_nothing(tmp_path, case, buffer_bytes):
    clients, kind, text = WRONG[case]
    if buffer_bytes == 1 and case in ("dtype", "shape"):  # the first client's rows are cast by then
        text = r"feature 'y' of client 1 is .*, but that of the first one with rows is int32"
    if buffer_bytes == 1 and case == "names":
        text = "the clients' names are ints such as 1, and strings before"
    if buffer_bytes == 1 and case == "features":
        text = r"client 1 has features \['z'\], but the first one with rows has \['y'\]"
    classes = 3 if case == "label" else None
    with pytest.raises(kind, match=text):
        fl.Population.write(tmp_path / "people", iter(clients), num_classes=classes, buffer_bytes=buffer_bytes)
    assert not (tmp_path / "people").exists()


def test_what_a_source_raises_goes_through_and_leaves_nothing(tmp_path):
    def clients():
        yield {"y": [1]}
        raise ConnectionError("lost")

    with pytest.raises(ConnectionError, match="lost"):
        fl.Population.write(tmp_path, clients(), buffer_bytes=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given_", ["people", {"y": [1]}, 3])
def test_what_gives_no_clients_is_refused(tmp_path, given_):
    with pytest.raises(TypeError, match="expected an iterable that gives a dict of arrays"):
        fl.Population.write(tmp_path / "people", given_)


def test_more_rows_than_int32_counts_lie_on_a_disk_and_not_in_memory(tmp_path):
    """A hole in a file stands for four billion rows of one byte."""
    fl.Population.write(tmp_path, [{"x": np.zeros(n, np.uint8)} for n in (5, 7)])
    from fedjaxlite.data.on_disk import header

    sizes_ = np.array([2**31, 2**31 - 1], np.int64)
    with (tmp_path / "feature_0.bin").open("r+b") as file:
        file.truncate(int(sizes_.sum()))
    np.concatenate([[0], np.cumsum(sizes_)]).tofile(tmp_path / "offsets.bin")
    np.array([[2**31, 1], [2**31 - 1, 1]]).tofile(tmp_path / "sizes.bin")
    old = header.read(tmp_path)
    header.write(
        tmp_path, old._replace(num_examples=int(sizes_.sum()), max_size=2**31, min_size=2**31 - 1, offsets="int64")
    )
    people = fl.Population.open(tmp_path)
    assert people.num_examples.tolist() == sizes_.tolist()
    assert people.client(1)["x"].shape == (2**31 - 1,)
    with pytest.raises(ValueError, match=r"one Population in memory holds at most 2\*\*31 - 1"):
        people.select([0])
    with pytest.raises(ValueError, match="copy its folder instead"):
        people.save(tmp_path / "one.npz")
