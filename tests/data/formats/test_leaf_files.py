"""LEAF's JSON, written by its rules: many users to a file, many files to a folder, train and test beside each other."""

import json
import tracemalloc

import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import datasets


def write(folder, files):
    """`files` are {name: [(user, x, y), ...]}."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, users in files.items():
        data = {
            "users": [user for user, _, _ in users],
            "num_samples": [len(y) for _, _, y in users],
            "user_data": {user: {"x": x, "y": y} for user, x, y in users},
        }
        (folder / name).write_text(json.dumps(data))
    return folder


def femnist(num_users, seed=0, pixels=9):
    rng = np.random.default_rng(seed)
    return [
        (f"f{i:04d}_{seed}", rng.random((n, pixels)).round(4).tolist(), rng.integers(0, 62, n).tolist())
        for i, n in enumerate(rng.integers(1, 6, num_users))
    ]


def edited(folder, **changes):
    """The only file of a folder with other entries."""
    path = next(folder.glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_every_example_is_there_once_in_the_order_of_files_and_users(tmp_path):
    users = femnist(25)
    parts = {f"all_data_{i}.json": users[3 * i : 3 * i + 3] for i in range(9)}
    people = datasets.from_leaf(write(tmp_path, dict(reversed(parts.items()))))
    assert people.names.tolist() == [user for user, _, _ in users]
    assert people.features["x"].dtype == np.float32
    assert people.features["y"].dtype == np.int32
    for i, (_, x, y) in enumerate(users):
        np.testing.assert_array_equal(people.client(i)["x"], np.asarray(x, np.float32))
        assert people.client(i)["y"].tolist() == y
    one_by_one = fl.Population.from_clients([{"x": x, "y": y} for _, x, y in users])
    assert people.fingerprint() == one_by_one.fingerprint()


def test_file_10_comes_after_file_2(tmp_path):
    users = femnist(11)
    write(tmp_path, {f"all_data_{i}.json": [user] for i, user in enumerate(users)})
    assert datasets.from_leaf(tmp_path).names.tolist() == [user for user, _, _ in users]
    files = [tmp_path / "all_data_10.json", str(tmp_path / "all_data_2.json")]
    assert datasets.from_leaf(files).names.tolist() == [users[10][0], users[2][0]]
    assert datasets.from_leaf(files[0]).names.tolist() == [users[10][0]]


def test_train_and_test_come_together_with_the_same_clients_in_the_same_order(tmp_path):
    users = femnist(6)
    write(
        tmp_path / "train", {"all_data_0_keep_0_train_9.json": users[:4], "all_data_1_keep_0_train_9.json": users[4:]}
    )
    write(tmp_path / "test", {"all_data_0_keep_0_test_9.json": [(u, x[:1], y[:1]) for u, x, y in reversed(users)]})
    train, test = datasets.from_leaf(tmp_path)
    assert train.names.tolist() == test.names.tolist() == [user for user, _, _ in users]
    assert test.client(2)["y"].tolist() == users[2][2][:1]
    write(tmp_path / "test", {"all_data_0_keep_0_test_9.json": femnist(3, seed=7)})  # split by user: others
    _, others = datasets.from_leaf(tmp_path)
    assert others.names.tolist() == [f"f000{i}_7" for i in range(3)]


def test_some_clients_in_the_order_asked_for(tmp_path):
    users = femnist(9)
    write(tmp_path, {f"a_{i}.json": users[3 * i : 3 * i + 3] for i in range(3)})
    some = datasets.from_leaf(tmp_path, clients=[users[7][0], users[0][0]])
    assert some.names.tolist() == [users[7][0], users[0][0]]
    assert some.client(0)["y"].tolist() == users[7][2]
    (tmp_path / "a_2.json").write_text("this file is not read")
    assert datasets.from_leaf(tmp_path, num_clients=5).names.tolist() == [user for user, _, _ in users[:5]]


def test_shapes_and_names(tmp_path):
    write(tmp_path, {"a.json": femnist(2)})
    people = datasets.from_leaf(tmp_path, features={"x": "image", "y": "y"}, shapes={"x": (3, 3, 1)})
    assert people.features["image"].shape[1:] == (3, 3, 1)
    assert list(datasets.from_leaf(tmp_path, features=["y"]).features) == ["y"]


def test_shakespeare_and_sent140_by_functions_of_one_value(tmp_path):
    plays = [("HAMLET", ["to be", "o be "], ["o", "t"]), ("LEAR", ["b o e"], ["?"])]
    encode = datasets.encode_characters("beot ")
    people = datasets.from_leaf(
        write(tmp_path / "s", {"a.json": plays}), encode={"x": encode, "y": encode}, shapes={"y": ()}
    )
    alphabet = {character: i + 2 for i, character in enumerate("beot ")}
    assert people.client(0)["x"].tolist() == [[alphabet[c] for c in text] for text in plays[0][1]]
    assert people.features["y"].tolist() == [alphabet["o"], alphabet["t"], 1]
    tweets = [("ann", [["1", "Mon", "NO_QUERY", "ann", "Good good day"]], [1])]
    words = datasets.encode_words(["good", "bad"], length=4)
    people = datasets.from_leaf(write(tmp_path / "t", {"a.json": tweets}), encode={"x": lambda row: words(row[4])})
    assert people.client(0)["x"].tolist() == [[2, 2, 1, 0]]


def test_what_leaf_leaves_in_its_files_is_left_out(tmp_path):
    # split_data.py keeps users of fewer than two samples in user_data, without examples, and their hierarchies
    users = femnist(2)
    write(tmp_path, {"a.json": users})
    data = json.loads((tmp_path / "a.json").read_text())["user_data"]
    data["gone"] = {"x": [], "y": []}
    data[users[0][0]]["raw"] = "the whole text"
    people = datasets.from_leaf(edited(tmp_path, user_data=data, hierarchies=["play", "play", "play"]))
    assert people.names.tolist() == [user for user, _, _ in users]
    assert list(people.features) == ["x", "y"]


def test_whole_numbers_in_one_file_and_fractions_in_another(tmp_path):
    write(tmp_path, {"a_0.json": [("u", [[0], [1]], [0, 1])], "a_1.json": [("v", [[0.5]], [1])]})
    people = datasets.from_leaf(tmp_path)
    assert people.features["x"].dtype == np.float32
    assert people.features["x"].ravel().tolist() == [0, 1, 0.5]
    write(tmp_path, {"a_0.json": [("u", [[2**24 + 1], [1]], [0, 1])]})
    with pytest.raises(ValueError, match=r"feature 'x' holds fractions, and whole numbers beyond 2\*\*24"):
        datasets.from_leaf(tmp_path)


def test_one_file_at_a_time_is_held(tmp_path):
    def peak(num_files):
        folder = write(tmp_path / str(num_files), {f"a_{i}.json": femnist(40, i, 400) for i in range(num_files)})
        datasets.from_leaf(folder)
        tracemalloc.start()
        people = datasets.from_leaf(folder)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most, sum(array.nbytes for array in people.features.values())

    (few, few_bytes), (many, many_bytes) = peak(1), peak(5)
    assert many_bytes > 3 * few_bytes
    assert many - few < 2.2 * (many_bytes - few_bytes)  # parsed, a number takes eight times what it takes here


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"num_samples": [2]},
            r"user 'u' in '.*a.json' has 1 examples, but `num_samples` says 2; the file is not whole",
        ),
        ({"num_samples": [1, 1]}, "`num_samples` of '.*' does not say one number for each of 1 users"),
        ({"users": ["u", "u"], "num_samples": [1, 1]}, "user 'u' stands twice in `users`"),
        ({"users": ["u", "w"], "num_samples": [1, 1]}, "names user 'w', but has no data of that user"),
        ({"users": [3]}, "`users` of '.*' holds 3; expected ids that are strings"),
        ({"users": [], "num_samples": []}, "has examples of 'u', who is not among its `users`"),
        ({"user_data": []}, r"holds the keys .*expected LEAF's \{\"users\""),
        ({"user_data": {"u": {"x": [[1]], "y": [1, 2]}}}, r"of user 'u' .* have lengths \{'x': 1, 'y': 2\}"),
        ({"user_data": {"u": {"x": 3, "y": [1]}}}, "`x` of user 'u' in '.*' is 3; expected a list"),
        (
            {"user_data": {"u": {"x": [None], "y": [1]}}},
            r"'x' holds nothing \(null\) at row 0 of client 'u' in '.*a.json'",
        ),
        (
            {"user_data": {"u": {"x": ["hi"], "y": [1]}}},
            r"holds 'hi' at row 0 of client 'u' .* encode=\{'x': a function",
        ),
        ({"user_data": {"u": {"x": [[1, "hi"]], "y": [1]}}}, "column 'x' holds 'hi' at row 0 of client 'u'"),
        ({"user_data": {"u": {"x": [float("nan")], "y": [1]}}}, "'x' holds nan at row 0 of client 'u' .*finite"),
        ({"user_data": {"u": {"x": [1], "y": [2**40]}}}, "'y' holds 1099511627776 at row 0 of client 'u'"),
    ],
)
def test_what_is_not_as_leaf_writes_it_is_refused_by_file_and_user(tmp_path, changes, text):
    write(tmp_path, {"a.json": [("u", [[1.0]], [1])]})
    with pytest.raises((ValueError, TypeError), match=text):
        datasets.from_leaf(edited(tmp_path, **changes))


def test_users_that_differ_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'x' has shape \[3\] at row 1 of client 'v' in .*, and shape \[2\] at row 0"):
        datasets.from_leaf(write(tmp_path, {"a.json": [("u", [[1, 2]], [1]), ("v", [[1, 2], [1, 2, 3]], [1, 2])]}))
    with pytest.raises(
        ValueError, match=r"'x' is float32\[3\] in .*b.json', but float32\[2\] before that, in '.*a.json'"
    ):
        datasets.from_leaf(
            write(tmp_path, {"a.json": [("u", [[1.0, 2.0]], [1])], "b.json": [("v", [[1.0, 2.0, 3.0]], [1])]})
        )
    with pytest.raises(ValueError, match=r"client 'u' is in '.*a.json' and in '.*b.json'; expected every client once"):
        datasets.from_leaf(write(tmp_path, {"a.json": [("u", [1], [1])], "b.json": [("u", [1], [1])]}))


def test_arguments_are_checked(tmp_path):
    write(tmp_path, {"a.json": [("ann", [[1.0]], [1]), ("bob", [], [])]})
    with pytest.raises(ValueError, match=r"client 1 \('bob'\) has no examples"):
        datasets.from_leaf(tmp_path)
    assert datasets.from_leaf(tmp_path, allow_empty=True).num_examples.tolist() == [1, 0]
    with pytest.raises(ValueError, match="`features` names 'label'; the columns are: 'x', 'y'"):
        datasets.from_leaf(tmp_path, features=["label"])
    with pytest.raises(ValueError, match="`encode` names 'xs'; the columns are: 'x', 'y'. Did you mean 'x'"):
        datasets.from_leaf(tmp_path, encode={"xs": str})
    with pytest.raises(ValueError, match="`shapes` names 'y', which `features` leaves out"):
        datasets.from_leaf(tmp_path, features=["x"], shapes={"y": ()})
    with pytest.raises(
        ValueError, match=r"`shapes` has \[2, 2\] for 'x', but its rows have shape \[1\], as at row 0 of"
    ):
        datasets.from_leaf(tmp_path, shapes={"x": (2, 2)})
    with pytest.raises(ValueError, match="`clients` names 'anna', and there is no such client in"):
        datasets.from_leaf(tmp_path, clients=["anna"])
    with pytest.raises(ValueError, match="num_clients=3, but '.*' has 2 clients"):
        datasets.from_leaf(tmp_path, num_clients=3)
    with pytest.raises(ValueError, match="`clients` names clients and `num_clients` is 1; expected one of the two"):
        datasets.from_leaf(tmp_path, clients=["ann"], num_clients=1)
    with pytest.raises(TypeError, match=r"`clients` is 'ann'; expected a list of ids, such as \['ann'\]"):
        datasets.from_leaf(tmp_path, clients="ann")
    with pytest.raises(TypeError, match=r"encode\['x'\] made None of \[1.0\], row 0 of client 'ann'"):
        datasets.from_leaf(tmp_path, encode={"x": lambda value: None})
    with pytest.raises(ZeroDivisionError) as raised:
        datasets.from_leaf(tmp_path, encode={"x": lambda value: 1 / 0})
    assert "encode['x'] raised this on [1.0], row 0 of client 'ann'" in raised.value.__notes__[0]
    with pytest.raises(FileNotFoundError, match="`path` is 'nowhere'; there is no such file or folder"):
        datasets.from_leaf("nowhere")
    (tmp_path / "b").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no .json file in '.*b'; it holds nothing"):
        datasets.from_leaf(tmp_path / "b")
    (tmp_path / "a.json").write_text('{"users": [')
    with pytest.raises(ValueError, match=r"a.json' is no JSON: Expecting value: line 1 column"):
        datasets.from_leaf(tmp_path)


def test_words_and_characters():
    words = datasets.encode_words(["b", "a"], length=3)
    assert words("A b\tc d").tolist() == [3, 2, 1]
    assert words([b"a"]).tolist() == [3, 0, 0]
    assert datasets.encode_words(["A"], length=1, lower=False)("a").tolist() == [1]
    assert datasets.encode_characters("ba")("abé").tolist() == [3, 2, 1]
    assert datasets.encode_characters("ba", length=2)(b"a").tolist() == [3, 0]
    with pytest.raises(ValueError, match="`alphabet` holds 'a' twice"):
        datasets.encode_characters("aba")
    with pytest.raises(ValueError, match="`vocabulary` is empty"):
        datasets.encode_words([], length=1)
    with pytest.raises(TypeError, match="`vocabulary` is 'the cat'; expected a list of words"):
        datasets.encode_words("the cat", length=1)
    with pytest.raises(TypeError, match="encode_words was given 3; expected a text"):
        words(3)
