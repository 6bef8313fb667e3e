"""A `datasets.Dataset` as clients, by the real package, without a network."""

import numpy as np
import pytest
from PIL import Image

import fedjaxlite as fl

hf = pytest.importorskip("datasets")

WRITERS = ["b", "a", "b", "c", "a", "b"]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path)


def pictures(channels=3):
    return np.random.default_rng(0).integers(0, 256, (6, 4, 5, channels), dtype=np.uint8)


def made(**more):
    """Rows of six columns, as the features say."""
    images = [Image.fromarray(p if p.shape[-1] == 3 else p[..., 0]) for p in more.pop("images", pictures())]
    columns = {
        "writer": WRITERS,
        "image": images,
        "label": [2, 0, 1, 1, 2, 0],
        "vector": np.arange(12, dtype=np.float32).reshape(6, 2).tolist(),
        "matrix": np.arange(24).reshape(6, 2, 2).tolist(),
        "age": [1.5, 2.5, 3.5, 4.5, 5.5, 6.5],
    }
    features = {
        "writer": hf.Value("string"),
        "image": hf.Image(),
        "label": hf.ClassLabel(names=["no", "yes", "?"]),
        "vector": hf.List(hf.Value("float32"), 2),
        "matrix": hf.Array2D((2, 2), "int64"),
        "age": hf.Value("float64"),
    }
    for name, (feature, values) in more.items():
        features[name], columns[name] = feature, values
    return hf.Dataset.from_dict(columns, features=hf.Features(features))


def plain(columns, **features):
    return hf.Dataset.from_dict(columns, features=hf.Features(features) if features else None)


def test_columns_become_features():
    data, x = made(), pictures()
    people = fl.datasets.from_huggingface(data, client="writer", features={"image": "x", "label": "y"})
    arrays = {"x": x.astype(np.float32) / np.float32(255), "y": [2, 0, 1, 1, 2, 0]}
    assert people.fingerprint() == fl.Population.from_arrays(arrays, WRITERS).fingerprint()
    assert people.names.tolist() == ["a", "b", "c"]
    every = fl.datasets.from_huggingface(data, client="writer", pixels="uint8")
    kinds = {name: f"{array.dtype}{list(array.shape[1:])}" for name, array in every.features.items()}
    assert kinds == {
        "image": "uint8[4, 5, 3]",
        "label": "int32[]",
        "vector": "float32[2]",
        "matrix": "int32[2, 2]",
        "age": "float32[]",
    }
    rows = [i for i, writer in enumerate(WRITERS) if writer == "b"]
    np.testing.assert_array_equal(every.client(1)["image"], x[rows])
    np.testing.assert_array_equal(every.client(1)["matrix"], np.arange(24).reshape(6, 2, 2)[rows])
    np.testing.assert_array_equal(every.client(1)["vector"], np.arange(12).reshape(6, 2)[rows])


def test_what_was_filtered_shuffled_and_selected_is_read_as_it_is_seen():
    data = made().shuffle(seed=1).filter(lambda row: row["label"] != 1).select([2, 0, 1])
    people = fl.datasets.from_huggingface(data, client="writer", features=["age"])
    seen = {name: [row["age"] for row in data if row["writer"] == name] for name in set(data["writer"])}
    assert {name: people.client(i)["age"].tolist() for i, name in enumerate(people.names.tolist())} == seen


def test_a_stream_is_gone_through_once():
    passes = []

    def rows():
        passes.append(1)
        for i in range(3000):
            yield {"who": i % 7, "x": [float(i), 1.0]}

    people = fl.datasets.from_huggingface(hf.IterableDataset.from_generator(rows), client="who")
    assert people.names.tolist() == list(range(7))
    assert people.client(3)["x"][:, 0].tolist() == list(range(3, 3000, 7))
    assert len(passes) == 1
    stream = made().to_iterable_dataset()
    for options in ({"features": ["image"]}, {"features": ["label", "vector"], "clients": ["b", "a"]}):
        read = [fl.datasets.from_huggingface(d, client="writer", **options) for d in (stream, made())]
        assert read[0].fingerprint() == read[1].fingerprint()


def test_many_batches_are_those_of_one(monkeypatch):
    whole = fl.datasets.from_huggingface(made(), client="writer")
    monkeypatch.setattr("fedjaxlite.data.incoming.hf_dataset.BATCH", 2)
    assert fl.datasets.from_huggingface(made(), client="writer").fingerprint() == whole.fingerprint()


def test_train_and_test_have_their_clients_in_one_order():
    data = made()
    both = hf.DatasetDict({"train": data.select([0, 1, 3]), "test": data.select([5, 4, 3]), "more": data})
    options = {"client": "writer", "features": ["age"], "clients": ["c", "a", "b"]}
    train, test = fl.datasets.from_huggingface(both, **options)
    assert train.names.tolist() == test.names.tolist() == ["c", "a", "b"]
    assert test.client(1)["age"].tolist() == [5.5]
    with pytest.raises(ValueError, match="`dataset` has the splits 'train', 'more'; expected train and test, or pass"):
        fl.datasets.from_huggingface(hf.DatasetDict({"train": data, "more": data}), client="writer")


def test_texts_are_encoded_or_refused():
    data = made(text=(hf.Value("string"), ["a b", "b", "c", "a", "", "b b"]))
    words = fl.datasets.encode_words(["a", "b"], length=2)
    people = fl.datasets.from_huggingface(data, client="writer", features=["text"], encode={"text": words})
    assert people.client(0)["text"].tolist() == [[3, 0], [0, 0]]
    with pytest.raises(TypeError, match=r"column 'text' of the rows from 0 on has the type string; .* encode=\{'text'"):
        fl.datasets.from_huggingface(data, client="writer")
    shrunk = fl.datasets.from_huggingface(
        data, client="writer", features=["image"], encode={"image": lambda pixels: pixels[::2, :, 0]}
    )
    np.testing.assert_array_equal(shrunk.client(2)["image"], pictures()[3:4, ::2, :, 0])


def test_clients_by_class_and_by_number():
    people = fl.datasets.from_huggingface(made(), client="label", features=["age"])
    assert people.names.tolist() == ["?", "no", "yes"]
    assert people.client(0)["age"].tolist() == [1.5, 5.5]
    data = plain({"who": [3, 1, 3], "y": [1, 2, 3]})
    assert fl.datasets.from_huggingface(data, client="who", clients=[3]).client(0)["y"].tolist() == [1, 3]


def test_gray_images_and_a_change_of_channels():
    data = made(images=pictures(1))
    people = fl.datasets.from_huggingface(data, client="writer", features=["image"])
    assert people.features["image"].shape[1:] == (4, 5, 1)
    colored = fl.datasets.from_huggingface(data, client="writer", features=["image"], channels=3)
    assert colored.features["image"].shape[1:] == (4, 5, 3)


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"who": [1, 2], "y": [1, None]}, r"column 'y' holds nothing \(null\) in row 1 of the rows from 0 on"),
        ({"who": [1, None], "y": [1, 2]}, "column 'who' names no client in row 1 of the rows from 0 on"),
        ({"who": [1, 2], "x": [[1], [1, 2]]}, "column 'x' has lists of 1 to 2 entries"),
        ({"who": [1, 2], "x": [[1], [None]]}, "column 'x' holds nothing"),
        ({"who": [1, 2], "x": [{"a": 1}, {"a": 2}]}, "column 'x' of the rows from 0 on has the type struct"),
        ({"who": [1.5, 2.5], "x": [1, 2]}, "the ids of clients in .* has dtype float64; expected ints or strings"),
        ({"who": [1, 2], "x": [[1, 2], [3, None]]}, r"nothing \(null\) in row 3 of all entries of the lists of"),
        ({"who": [1, 2]}, "the data set has no column beside 'who'"),
        ({"who": [1, 2], "y": [1.0, float("nan")]}, r"'y' holds nan at row 1 of the rows from 0 on \(client 2\)"),
        ({"name": [1], "y": [1]}, "`client` is 'who'; the columns are: 'name', 'y'"),
    ],
)
def test_what_makes_no_features_is_refused_by_column_and_row(columns, text):
    with pytest.raises((ValueError, TypeError), match=text):
        fl.datasets.from_huggingface(plain(columns), client="who")


def test_rows_without_a_class_are_refused():
    data = plain({"who": [1, 2], "y": [0, -1]}, who=hf.Value("int64"), y=hf.ClassLabel(names=["no", "yes"]))
    with pytest.raises(ValueError, match=r"column 'y' has no class \(-1\) in row 1 of the rows from 0 on; filter such"):
        fl.datasets.from_huggingface(data, client="who")
    with pytest.raises(ValueError, match=r"column 'y' has no class \(-1\) in row 1"):
        fl.datasets.from_huggingface(data, client="y", features=["who"])


def test_arguments_are_checked():
    data = plain({"who": [1, 2], "y": [1, 2]})
    with pytest.raises(
        TypeError, match=r"`dataset` is 'mnist'; expected a datasets.Dataset, .*fedjaxlite\[huggingface\]"
    ):
        fl.datasets.from_huggingface("mnist", client="who")
    with pytest.raises(ValueError, match="`features` names 'x'; the columns are: 'who', 'y'"):
        fl.datasets.from_huggingface(data, client="who", features=["x"])
    with pytest.raises(ValueError, match="`clients` names 7, and there is no such client in the data set"):
        fl.datasets.from_huggingface(data, client="who", clients=[7, 1])
    with pytest.raises(ValueError, match="`clients` names 7"):
        fl.datasets.from_huggingface(data, client="who", clients=[7])
    with pytest.raises(TypeError, match="`client` is 3; expected a str"):
        fl.datasets.from_huggingface(data, client=3)
    with pytest.raises(ValueError, match="there are no examples in the data set"):
        fl.datasets.from_huggingface(data.select([]), client="who")
