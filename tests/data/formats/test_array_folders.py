"""Folders with a file or a folder a client: arrays by NumPy, images by Pillow."""

import numpy as np
import pytest
from PIL import Image

import fedjaxlite as fl
from fedjaxlite import datasets


def arrays_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"site_{i}": {"x": rng.random((n, 2)).astype(np.float32), "y": rng.integers(0, 3, n)}
        for i, n in enumerate(rng.integers(1, 5, count))
    }


def write_npz(folder, clients):
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in clients.items():
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


def write_npy(folder, clients):
    for name, arrays in clients.items():
        (folder / name).mkdir(parents=True)
        for feature, array in arrays.items():
            np.save(folder / name / f"{feature}.npy", array)
    return folder


def write_images(folder, clients, shape=(4, 3)):
    """`clients` are {name: {class: number of images}}; returns the pixels by client."""
    rng = np.random.default_rng(0)
    pixels = {}
    for name, classes in clients.items():
        for label, count in classes.items():
            (folder / name / label).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / name / label / f"{i}.png")
                pixels.setdefault(name, []).append(image)
    return pixels


@pytest.mark.parametrize("write", [write_npz, write_npy])
def test_arrays_of_each_client_are_those_of_its_files(tmp_path, write):
    clients = arrays_of(12)
    people = datasets.from_folder(write(tmp_path, clients))
    assert people.names.tolist() == list(clients)  # site_2 before site_10
    assert people.fingerprint() == fl.Population.from_clients(list(clients.values())).fingerprint()
    some = datasets.from_folder(tmp_path, clients=["site_10", "site_3"], features={"y": "label"})
    assert some.names.tolist() == ["site_10", "site_3"]
    np.testing.assert_array_equal(some.client(0)["label"], clients["site_10"]["y"])
    assert datasets.from_folder(tmp_path, num_clients=3).names.tolist() == ["site_0", "site_1", "site_2"]


def test_train_and_test(tmp_path):
    clients = arrays_of(3)
    write_npz(tmp_path / "train", clients)
    write_npy(tmp_path / "test", dict(reversed(arrays_of(3, seed=1).items())))
    train, test = datasets.from_folder(tmp_path)
    assert train.names.tolist() == test.names.tolist() == list(clients)


def test_images_by_class(tmp_path):
    pixels = write_images(tmp_path, {"b": {"dog": 2, "cat": 1}, "a": {"cat": 2}, "c": {"10": 1, "9": 1}})
    people = datasets.from_folder(tmp_path)
    assert people.names.tolist() == ["a", "b", "c"]
    assert people.features["x"].shape[1:] == (4, 3, 3)
    classes = ["9", "10", "cat", "dog"]
    assert people.client(0)["y"].tolist() == [classes.index("cat")] * 2
    assert people.client(1)["y"].tolist() == [classes.index(c) for c in ("cat", "dog", "dog")]
    assert people.client(2)["y"].tolist() == [0, 1]
    np.testing.assert_array_equal(people.client(0)["x"], np.stack(pixels["a"]).astype(np.float32) / np.float32(255))
    raw = datasets.from_folder(tmp_path, pixels="uint8", classes=["dog", "cat", "9", "10"])
    assert raw.features["x"].dtype == np.uint8
    assert raw.client(1)["y"].tolist() == [1, 0, 0]
    np.testing.assert_array_equal(raw.client(1)["x"], np.stack([pixels["b"][2], *pixels["b"][:2]]))
    gray = datasets.from_folder(tmp_path, channels=1)
    by_pillow = np.asarray(Image.fromarray(pixels["a"][1]).convert("L"))
    np.testing.assert_array_equal(np.round(gray.client(0)["x"][1, ..., 0] * 255), by_pillow)


def test_labels_mean_the_same_in_training_and_test(tmp_path):
    write_images(tmp_path / "train", {"a": {"cat": 1, "dog": 1}})
    write_images(tmp_path / "test", {"a": {"dog": 1}})
    train, test = datasets.from_folder(tmp_path)
    assert train.features["y"].tolist() == [0, 1]
    assert test.features["y"].tolist() == [1]


def test_folders_of_another_form_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is empty; expected client.npz, client/x.npy"):
        datasets.from_folder(tmp_path)
    folder = write_npz(tmp_path / "a", arrays_of(1))
    with pytest.raises(ValueError, match=r"`path` is '.*site_0.npz', which is a file; expected a folder of client.npz"):
        datasets.from_folder(folder / "site_0.npz")
    (folder / "site_1").mkdir()
    with pytest.raises(ValueError, match=r"'.*site_1' holds no .npy file and no folder of a class"):
        datasets.from_folder(folder)
    np.save(folder / "site_1" / "x.npy", np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"'.*site_1' has the form npy, and others in that folder npz"):
        datasets.from_folder(folder)
    (folder / "readme.txt").write_text("")
    with pytest.raises(ValueError, match=r"'.*readme.txt' is no client's"):
        datasets.from_folder(folder)


def test_clients_that_differ_and_files_that_hold_something_else_are_refused(tmp_path):
    ones = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError, match=r"'x' is float32\[3\] at client 'b' in '.*', but float32\[2\] at client 'a'"):
        datasets.from_folder(write_npz(tmp_path / "1", {"a": {"x": ones}, "b": {"x": np.ones((1, 3), np.float32)}}))
    with pytest.raises(ValueError, match=r"client 'b' in '.*' has columns \['z'\], but client 'a' has \['x'\]"):
        datasets.from_folder(write_npy(tmp_path / "2", {"a": {"x": ones}, "b": {"z": ones}}))
    with pytest.raises(TypeError, match=r"column 'x' holds .*'hi'.* at row 0 of client 'a' in .*encode=\{'x'"):
        datasets.from_folder(write_npz(tmp_path / "3", {"a": {"x": np.array(["hi"])}}))
    with pytest.raises(ValueError, match=r"array 'x' of '.*a.npz' cannot be read \(Object arrays cannot be loaded"):
        datasets.from_folder(write_npz(tmp_path / "4", {"a": {"x": np.array([None])}}))
    (write_npz(tmp_path / "5", {"a": {"x": ones}}) / "b.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"'.*b.npz' cannot be read"):
        datasets.from_folder(tmp_path / "5")
    (write_npy(tmp_path / "6", {"a": {"x": ones}}) / "a" / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"'.*notes.txt' lies beside .npy files"):
        datasets.from_folder(tmp_path / "6")


def test_images_that_differ_are_refused(tmp_path):
    write_images(tmp_path, {"a": {"cat": 1, "dog": 1}})
    with pytest.raises(ValueError, match="'.*dog': expected a folder of a class, of: 'cat', 'dig'. Did you mean 'dig'"):
        datasets.from_folder(tmp_path, classes=["cat", "dig"])
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a" / "dog" / "1.png")
    with pytest.raises(ValueError, match=r"'.*1.png' has shape \[9, 9, 3\], and those before it \[4, 3, 3\]"):
        datasets.from_folder(tmp_path)
    (tmp_path / "a" / "dog" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"'.*1.png' is no image that Pillow reads"):
        datasets.from_folder(tmp_path)
    (tmp_path / "a" / "dog" / "1.png").rename(tmp_path / "a" / "dog" / "1.txt")
    with pytest.raises(ValueError, match=r"'.*1.txt' is no image; expected one of .png"):
        datasets.from_folder(tmp_path)
    (tmp_path / "a" / "dog" / "1.txt").unlink()
    with pytest.raises(ValueError, match="`channels` is 2; expected one of 1, 3, 4"):
        datasets.from_folder(tmp_path, channels=2)
    with pytest.raises(ValueError, match="`pixels` is 'float64'; expected one of 'float32', 'uint8'"):
        datasets.from_folder(tmp_path, pixels="float64")
    with pytest.raises(TypeError, match="`classes` is 'cat'; expected a list of names"):
        datasets.from_folder(tmp_path, classes="cat")


def test_sixteen_bits_are_not_taken_for_eight(tmp_path):
    (tmp_path / "a" / "cat").mkdir(parents=True)
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(tmp_path / "a" / "cat" / "0.png")
    with pytest.raises(ValueError, match="0.png.*mode 'I;16', whose pixels are not 0 to 255"):
        datasets.from_folder(tmp_path)
