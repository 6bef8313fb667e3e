import io
import json
import os
import sys
import time

import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import datasets, partition, storage
from fedjaxlite.datasets import shakespeare
from fedjaxlite.datasets import tfds as tfds_reader


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    for name in ("FEDJAXLITE_DATA", "TFDS_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FEDJAXLITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


# --- load -------------------------------------------------------------------------------------------------------------


def test_digits():
    train, test = datasets.load("digits")
    assert (train["x"].shape, test["x"].shape) == ((1438, 8, 8, 1), (359, 8, 8, 1))
    assert train["x"].dtype == np.float32
    assert train["y"].dtype == np.int32
    assert (train["x"].min(), train["x"].max()) == (0, 1)
    counts = np.bincount(train["y"]) + np.bincount(test["y"])
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert abs(np.bincount(test["y"]) - counts / 5).max() < 1
    assert len(np.unique(train["y"][:20])) > 3
    again, _ = datasets.load("digits")
    np.testing.assert_array_equal(again["x"], train["x"])


def test_digits_do_not_leak():
    from sklearn.datasets import load_digits

    train, test = datasets.load("digits")
    rows = np.concatenate([part["x"].reshape(-1, 64) for part in (train, test)]) * 16
    stored = load_digits()["data"]
    assert sorted(map(tuple, rows)) == sorted(map(tuple, stored))


def test_a_partition_makes_a_population():
    train, test = datasets.load("digits", partition=partition.dirichlet(20, alpha=0.3, seed=0))
    assert isinstance(train, fl.Population)
    assert train.num_clients == 20
    assert sorted(test) == ["x", "y"]
    plain, _ = datasets.load("digits")
    federated = datasets.federate(plain, partition.dirichlet(20, alpha=0.3, seed=0))
    assert federated.fingerprint() == train.fingerprint()


def test_natural_clients_can_be_pooled_and_split_anew():
    natural, natural_test = datasets.load("synthetic", num_clients=4, seed=1)
    sizes = natural.num_examples
    train, test = datasets.load("synthetic", num_clients=4, seed=1, partition=partition.iid(4, sizes=sizes))
    assert train.num_examples.tolist() == sizes.tolist()
    assert train.fingerprint() != natural.fingerprint()
    np.testing.assert_array_equal(test["x"], natural_test.features["x"])


def test_load_errors():
    with pytest.raises(ValueError, match="data set 'digits' has no option 'seed'; it takes: none"):
        datasets.load("digits", seed=0)
    with pytest.raises(ValueError, match="'synthetic' has no option 'alfa'; it takes: alpha, beta, num_clients, iid"):
        datasets.load("synthetic", alfa=1)
    with pytest.raises(
        ValueError, match="'shakespeare' has no option 'seq'; it takes: path, seq_len, num_clients, seed"
    ):
        datasets.load("shakespeare", seq=1)
    with pytest.raises(
        ValueError, match="'mnist' has no option 'own_names'; it takes: train_split, test_split, features"
    ):
        datasets.load("mnist", own_names=())
    with pytest.raises(TypeError, match=r"`partition` is 'iid'; expected one of fl.partition"):
        datasets.load("digits", partition="iid")
    with pytest.raises(
        TypeError, match="`name` is 3; expected the name of a data set, one of digits, synthetic, shake"
    ):
        datasets.load(3)
    with pytest.raises(ValueError, match="`name` is ''"):
        datasets.load("")


# --- synthetic --------------------------------------------------------------------------------------------------------


def test_synthetic_shapes_and_seed():
    train, test = datasets.load("synthetic")
    assert train.num_clients == test.num_clients == 30
    sizes = train.num_examples + test.num_examples
    assert sizes.min() >= 50
    np.testing.assert_array_equal(train.num_examples, (0.9 * sizes).astype(int))
    assert train.features["x"].shape[1] == 60
    assert train.features["y"].min() >= 0
    assert train.features["y"].max() < 10
    assert datasets.load("synthetic")[0].fingerprint() == train.fingerprint()
    assert datasets.load("synthetic", seed=1)[0].fingerprint() != train.fingerprint()
    fewer, _ = datasets.load("synthetic", num_clients=5)
    assert fewer.fingerprint() == train.select(range(5)).fingerprint()


def test_synthetic_features_have_the_stated_moments():
    # Within a device coordinate j has variance j^-1.2: a standardized sum of squares over ~9000 rows is within 6 %
    # (4 standard deviations of sqrt(2 / 9000); false alarm 60 * 6e-5).
    train, _ = datasets.load("synthetic", num_clients=100, seed=3)
    centered, free = [], 0
    for i in range(100):
        x = train.client(i)["x"].astype(np.float64)[:100]
        centered.append(x - x.mean(axis=0))
        free += len(x) - 1
    variance = (np.concatenate(centered) ** 2).sum(axis=0) / free
    ratio = variance / np.arange(1, 61) ** -1.2
    assert free > 4000
    assert abs(ratio - 1).max() < 4 * np.sqrt(2 / free)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (1.0, 1.0), (0.5, 3.0)])
def test_synthetic_device_means_spread_with_beta(alpha, beta):
    # The mean of v_k over its 60 coordinates is N(0, beta^2 + 1/60). Chi-square on 300 devices, false alarm 1e-4.
    from scipy import stats

    train, test = datasets.load("synthetic", alpha=alpha, beta=beta, num_clients=300, seed=5)
    means = np.array([np.concatenate([p.client(i)["x"] for p in (train, test)]).mean() for i in range(300)])
    # sampling noise of a device's mean adds at most the mean of j^-1.2 over 60 * 50 values
    spread = beta**2 + 1 / 60
    low, high = stats.chi2(300).ppf([0.5e-4, 1 - 0.5e-4]) / 300
    assert low < np.mean(means.astype(np.float64) ** 2) / spread < high * 1.1


def test_synthetic_iid_devices_share_one_model_and_one_distribution():
    train, _ = datasets.load("synthetic", iid=True, num_clients=20, seed=2)
    x, y = (np.asarray(train.features[name], np.float64) for name in ("x", "y"))
    assert abs(x.mean(axis=0)).max() < 0.1
    # one linear model fits all: least squares on one-hot labels beats chance by far on devices it has not seen
    cut = int(train.offsets[10])
    fit = np.linalg.lstsq(np.c_[x[:cut], np.ones(cut)], np.eye(10)[y[:cut].astype(int)], rcond=None)[0]
    unseen = np.argmax(np.c_[x[cut:], np.ones(len(x) - cut)] @ fit, axis=1) == y[cut:]
    assert unseen.mean() > 0.5
    own, _ = datasets.load("synthetic", alpha=1, beta=1, num_clients=20, seed=2)
    assert fl.heterogeneity(own).total_variation_mean > 2 * fl.heterogeneity(train).total_variation_mean


def test_synthetic_alpha_cancels_in_the_argmax():
    one, other = (datasets.load("synthetic", alpha=alpha, num_clients=10)[0].features for alpha in (0.0, 2.0))
    np.testing.assert_array_equal(one["x"], other["x"])
    assert (one["y"] == other["y"]).mean() > 0.999


def test_synthetic_errors():
    with pytest.raises(ValueError, match="`alpha` is -1; expected a number of at least 0"):
        datasets.load("synthetic", alpha=-1)
    with pytest.raises(ValueError, match="`num_clients` is 0"):
        datasets.load("synthetic", num_clients=0)


# --- shakespeare ------------------------------------------------------------------------------------------------------


def write_plays(folder, speeches):
    path = folder / shakespeare.FILE
    keys = ("play", "role", "lines")
    path.write_text("\n".join(json.dumps(dict(zip(keys, speech, strict=True))) for speech in speeches))
    return path


def test_vocabulary():
    assert len(shakespeare.CHARACTERS) == len(set(shakespeare.CHARACTERS)) == 86
    assert shakespeare.VOCAB_SIZE == 90
    assert list(shakespeare.CHARACTERS) == sorted(shakespeare.CHARACTERS)
    assert shakespeare.decode(shakespeare.encode(shakespeare.CHARACTERS)) == shakespeare.CHARACTERS
    assert shakespeare.encode("é~\t").tolist() == [shakespeare.OOV] * 3
    assert shakespeare.decode([shakespeare.OOV, shakespeare.PAD]) == "\ufffd"
    assert shakespeare.encode("").shape == (0,)


def test_roles_are_split_in_time_and_windows_predict_every_character_once(tmp_path):
    lines = [f"line {i}" for i in range(11)]
    speeches = [
        ("hamlet", "A", lines[:5]),
        ("hamlet", "B", ["one"]),
        ("lear", "A", ["x", "y"]),
        ("hamlet", "A", lines[5:]),
    ]
    write_plays(tmp_path, speeches)
    train, test = datasets.load("shakespeare", data_dir=tmp_path, seq_len=7)
    assert train.names.tolist() == test.names.tolist() == ["hamlet/A", "lear/A"]
    for population, text in ((train, "\n".join(lines[:9])), (test, "\n".join(lines[9:]))):
        client = population.client(0)
        assert client["x"].shape == client["y"].shape
        assert client["x"].shape[1] == 7
        assert shakespeare.decode(client["y"]) == text
        flat_x, flat_y = client["x"].ravel(), client["y"].ravel()
        count = len(text) + 1
        assert flat_x[0] == shakespeare.BOS
        assert flat_y[count - 1] == shakespeare.EOS
        np.testing.assert_array_equal(flat_x[1:count], flat_y[: count - 1])
        assert (flat_x[count:] == shakespeare.PAD).all()
        assert (flat_y[count:] == shakespeare.PAD).all()
        assert len(flat_x) - count < 7
    assert shakespeare.decode(train.client(1)["y"]) == "x"
    assert shakespeare.decode(test.client(1)["y"]) == "y"


def test_plain_text_by_role_and_a_limit(tmp_path):
    path = tmp_path / "play.txt"
    path.write_text("A:\nfirst\nsecond\n\nB:\nonly\n\nC:\nlo\n\nC:\nbehold\n\n")
    train, test = datasets.load("shakespeare", path=path)
    assert train.names.tolist() == ["A", "C"]
    assert shakespeare.decode(test.client(1)["y"]) == "behold"
    one, _ = datasets.load("shakespeare", path=path, num_clients=1, seed=0)
    assert one.num_clients == 1
    assert {datasets.load("shakespeare", path=path, num_clients=1, seed=s)[0].names[0] for s in range(10)} == {"A", "C"}
    with pytest.raises(ValueError, match="num_clients=3, but there are 2 roles with at least two lines"):
        datasets.load("shakespeare", path=path, num_clients=3)


def test_shakespeare_is_found_through_the_environment(tmp_path, monkeypatch):
    write_plays(tmp_path, [("p", "A", ["a", "b"])])
    (tmp_path / "tfds").mkdir()
    monkeypatch.setenv("FEDJAXLITE_DATA", str(tmp_path))
    assert datasets.load("shakespeare")[0].num_clients == 1
    monkeypatch.delenv("FEDJAXLITE_DATA")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert datasets.load("shakespeare")[0].num_clients == 1


def test_shakespeare_errors(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"needs 'shakespeare_plays.jsonl'; looked in '.*It holds one speech a line"
    ):
        datasets.load("shakespeare", data_dir=tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"looked in no folder: neither data_dir= nor the environment \(FEDJAXLITE"
    ):
        datasets.load("shakespeare")
    with pytest.raises(FileNotFoundError, match=r"`path` is 'nowhere.txt'; there is no such file"):
        datasets.load("shakespeare", path="nowhere.txt")
    with pytest.raises(ValueError, match="`seq_len` is 0"):
        datasets.load("shakespeare", seq_len=0)
    path = tmp_path / "bad.txt"
    path.write_text("A:\nfine\n\nno role\nhere")
    with pytest.raises(ValueError, match=r"speech 2 of '.*bad.txt' begins with 'no role'; expected a line `ROLE:`"):
        datasets.load("shakespeare", path=path)
    for line in ('{"play": "p"}', "not json", '{"play": "p", "role": "A", "lines": "x"}', "3"):
        (tmp_path / "bad.jsonl").write_text('{"play": "p", "role": "A", "lines": ["a", "b"]}\n' + line)
        with pytest.raises(ValueError, match=r"line 2 of '.*bad.jsonl' is no speech"):
            datasets.load("shakespeare", path=tmp_path / "bad.jsonl")


def test_the_prepared_plays(shared_data):
    if not (shared_data / shakespeare.FILE).is_file():
        pytest.skip(f"there is no {shakespeare.FILE} in {shared_data}.")
    train, test = datasets.load("shakespeare", data_dir=shared_data)
    assert train.num_clients == test.num_clients == 1229
    assert train.names.tolist() == test.names.tolist()
    assert train.num_examples.min() >= 1
    assert test.num_examples.min() >= 1
    assert not (train.features["y"] == shakespeare.OOV).any()
    tokens = [(p.features["y"] != shakespeare.PAD).sum() for p in (train, test)]
    assert 0.15 < tokens[1] / sum(tokens) < 0.25


# --- prepared by TFDS -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the data set "toy" (RGB images, labels, a float, a text), as TFDS prepares it."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    root = tmp_path_factory.mktemp("prepared")
    folder = root / "tfds" / "toy" / "1.10.0"
    folder.mkdir(parents=True)
    (root / "tfds" / "toy" / "1.9.0").mkdir()
    (root / "tfds" / "toy" / "1.9.0" / "dataset_info.json").write_text("{}")
    in_core = "tensorflow_datasets.core.features."
    declared = {
        "image": {
            "pythonClassName": in_core + "image_feature.Image",
            "image": {"dtype": "uint8", "shape": {"dimensions": ["4", "2", "3"]}},
        },
        "label": {"pythonClassName": in_core + "class_label_feature.ClassLabel", "classLabel": {"numClasses": "3"}},
        "weight": {
            "pythonClassName": in_core + "scalar.Scalar",
            "tensor": {"shape": {}, "dtype": "float64", "encoding": "none"},
        },
        "writer": {"pythonClassName": in_core + "text_feature.Text", "text": {}},
    }
    top = {"pythonClassName": in_core + "features_dict.FeaturesDict", "featuresDict": {"features": declared}}
    (folder / "features.json").write_text(json.dumps(top))
    splits = []
    for split, count in (("train", 5), ("test", 3)):
        writer = ArrayRecordWriter(str(folder / f"toy-{split}.array_record-00000-of-00001"), "group_size:1")
        for i in range(count):
            png = io.BytesIO()
            Image.fromarray(np.full((4, 2, 3), 51 * i, np.uint8)).save(png, "PNG")
            f = tf_feature_pb2
            record = {
                "image": f.Feature(bytes_list=f.BytesList(value=[png.getvalue()])),
                "label": f.Feature(int64_list=f.Int64List(value=[i % 3])),
                "weight": f.Feature(float_list=f.FloatList(value=[i / 2])),
                "writer": f.Feature(bytes_list=f.BytesList(value=[b"ab"[i % 2 : i % 2 + 1]])),
            }
            writer.write(tf_example_pb2.Example(features=f.Features(feature=record)).SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append({"name": split, "numBytes": "99", "shardLengths": [str(count)], "filepathTemplate": template})
    pair = [{"featureKey": "image"}, {"featureKey": "label"}]
    info = {"fileFormat": "array_record", "name": "toy", "version": "1.10.0", "moduleName": "toy", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps({**info, "supervisedKeys": {"tuple": {"items": pair}}}))
    return root


def test_a_prepared_data_set_is_read_without_tensorflow(prepared):
    train, test = datasets.load("toy", data_dir=prepared)
    assert "tensorflow" not in sys.modules
    assert sorted(train) == ["weight", "x", "y"]
    assert (train["x"].shape, train["x"].dtype) == ((5, 4, 2, 3), np.float32)
    np.testing.assert_allclose(train["x"][:, 0, 0, 0], np.arange(5) / 5, rtol=1e-6)
    assert (train["y"].tolist(), train["y"].dtype) == ([0, 1, 2, 0, 1], np.int32)
    assert (train["weight"].tolist(), train["weight"].dtype) == ([0, 0.5, 1, 1.5, 2], np.float32)
    assert len(test["x"]) == 3


def test_it_is_found_in_the_folder_or_below_it_and_by_version(prepared, monkeypatch):
    assert len(datasets.load("toy", data_dir=prepared / "tfds")[0]["y"]) == 5
    assert len(datasets.load("toy:1.10.0", data_dir=prepared)[0]["y"]) == 5
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared / "tfds"))
    assert len(datasets.load("toy")[0]["y"]) == 5
    with pytest.raises(FileNotFoundError, match=r"'toy' in '.*' has version 1.10.0, 1.9.0, not 2.0.0"):
        datasets.load("toy:2.0.0")


def test_splits_and_features_can_be_chosen(prepared):
    train, test = datasets.load("toy", data_dir=prepared, train_split="train[:3]", test_split="train[3:]")
    assert (len(train["y"]), len(test["y"])) == (3, 2)
    by_writer, _ = datasets.load(
        "toy", data_dir=prepared, features=["label", "writer"], partition=partition.by_key("writer")
    )
    assert by_writer.names.tolist() == [b"a", b"b"]
    assert by_writer.client(1)["label"].tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"'toy' has no split 'validation': it has train, test. Pass train_split="):
        datasets.load("toy", data_dir=prepared, test_split="validation")
    with pytest.raises(ValueError, match=r"'toy' has no feature 'age'; it has .*label"):
        datasets.load("toy", data_dir=prepared, features=["age"])


def test_what_was_read_is_cached(prepared, tmp_path, monkeypatch):
    first, _ = datasets.load("toy", data_dir=prepared)
    cached = sorted(p.name for p in (tmp_path / "cache").iterdir())
    assert len(cached) == 2
    assert all(name.startswith("tfds-toy-1.10.0-") for name in cached)
    assert storage.read_npz(tmp_path / "cache" / cached[0])[0]["image"].dtype == np.uint8
    monkeypatch.setattr(tfds_reader, "_read", lambda *args: pytest.fail("the cache was not used"))
    again, _ = datasets.load("toy", data_dir=prepared)
    assert all((first[name] == again[name]).all() for name in first)


def test_a_damaged_cache_is_read_anew(prepared, tmp_path):
    datasets.load("toy", data_dir=prepared)
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert len(datasets.load("toy", data_dir=prepared)[0]["y"]) == 5
    for path in (tmp_path / "cache").iterdir():
        storage.read_npz(path)


def test_a_data_set_prepared_anew_is_read_anew(prepared, tmp_path):
    datasets.load("toy", data_dir=prepared)
    info = prepared / "tfds" / "toy" / "1.10.0" / "dataset_info.json"
    before = info.stat()
    os.utime(info, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    datasets.load("toy", data_dir=prepared)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_a_cache_that_cannot_be_written_is_no_error(prepared, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FEDJAXLITE_CACHE", str(tmp_path / "file" / "cache"))
    assert len(datasets.load("toy", data_dir=prepared)[0]["y"]) == 5
    monkeypatch.setenv("FEDJAXLITE_CACHE", str(tmp_path / "none"))
    datasets.load("toy", data_dir=prepared, cache=False)
    assert not (tmp_path / "none").exists()


def test_the_cache_lies_below_the_users_own_folder(prepared, tmp_path, monkeypatch):
    monkeypatch.delenv("FEDJAXLITE_CACHE")
    datasets.load("toy", data_dir=prepared)
    assert len(list((tmp_path / "home" / ".cache" / "fedjaxlite").iterdir())) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    datasets.load("toy", data_dir=prepared)
    assert len(list((tmp_path / "xdg" / "fedjaxlite").iterdir())) == 2


def test_data_that_are_not_prepared_fail_at_once_and_say_how_to(tmp_path, monkeypatch):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load("cifar10", data_dir=tmp_path)
    assert time.monotonic() - start < 30
    text = str(caught.value)
    assert f"looked in '{tmp_path / 'tfds'}', '{tmp_path}'" in text
    assert "tfds.builder('cifar10', data_dir=" in text
    assert "file_format='array_record').download_and_prepare()" in text
    with pytest.raises(FileNotFoundError, match=r"looked in '.*tensorflow_datasets'"):
        datasets.load("cifar10")
    with pytest.raises(FileNotFoundError, match=r"`data_dir` is '.*nowhere'; there is no such folder"):
        datasets.load("mnist", data_dir=tmp_path / "nowhere")


def test_unknown_names_get_suggestions(tmp_path):
    with pytest.raises(ValueError, match="there is no data set 'mnits'; did you mean 'mnist' or"):
        datasets.load("mnits", data_dir=tmp_path)
    with pytest.raises(ValueError, match="there is no data set 'Digit'; did you mean 'digits'"):
        datasets.load("Digit", data_dir=tmp_path)
    with pytest.raises(
        ValueError, match=r"there is no data set 'qqqqqq'. Names are 'digits', 'synthetic', 'shakespeare'"
    ):
        datasets.load("qqqqqq", data_dir=tmp_path)


def test_other_file_formats_and_open_configs_are_refused(tmp_path):
    for config in ("letters", "digits"):
        folder = tmp_path / "emnist" / config / "3.1.0"
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
    with pytest.raises(ValueError, match="in several configs; say which: 'emnist/digits', 'emnist/letters'"):
        datasets.load("emnist", data_dir=tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"prepared as tfrecord files, which need TensorFlow; .*'emnist/letters'"
    ):
        datasets.load("emnist/letters", data_dir=tmp_path)


def test_rows_of_unlike_shapes_are_refused():
    with pytest.raises(ValueError, match=r"feature 'image' has rows of unlike shapes, \[2\] and \[3\]"):
        tfds_reader._stacked("image", [np.zeros(2), np.zeros(3)])


def test_the_prepared_mnist(shared_data):
    if not (shared_data / "tfds" / "mnist").is_dir():
        pytest.skip(f"there is no mnist in {shared_data}/tfds.")
    train, test = datasets.load("mnist", data_dir=shared_data, train_split="train[:500]", test_split="test")
    assert train["y"][:10].tolist() == [4, 1, 0, 7, 8, 1, 2, 7, 1, 6]
    assert train["x"].shape == (500, 28, 28, 1)
    assert (train["x"].min(), train["x"].max()) == (0, 1)
    assert np.bincount(test["y"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.slow
def test_the_whole_prepared_mnist(shared_data):
    train, _ = datasets.load("mnist", data_dir=shared_data)
    assert np.bincount(train["y"]).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    import tensorflow_datasets as tfds

    source = tfds.data_source(
        "mnist",
        split="train",
        data_dir=shared_data / "tfds",
        download=False,
        builder_kwargs={"file_format": "array_record"},
    )
    for i in (0, 31_415, 59_999):
        np.testing.assert_array_equal(np.rint(train["x"][i] * 255).astype(np.uint8), source[i]["image"])
        assert train["y"][i] == source[i]["label"]
