"""Data sets of PyTorch: by stand-ins that follow their protocol, and by the package where it is."""

import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import interop


class Items:
    """A map-style data set of what a function gives."""

    def __init__(self, count, item):
        self.count, self.item, self.asked = count, item, []

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.asked.append(i)
        return self.item(i)


class Tensor:
    """What of a tensor is asked for, one that needs a gradient and lies on an accelerator."""

    def __init__(self, array, on_host=False):
        self.array, self.on_host, self.dtype = np.asarray(array), on_host, "torch.float32"

    def detach(self):
        return self

    def cpu(self):
        return Tensor(self.array, on_host=True)

    def numpy(self):
        assert self.on_host
        return self.array


OWNERS = ["b", "a", "b", "c", "a"]


def test_items_are_asked_for_once_each_and_grouped_by_client():
    items = Items(5, lambda i: (Tensor([i, i + 0.5]), i))
    people = interop.from_torch(items, OWNERS)
    assert items.asked == list(range(5))
    assert people.names.tolist() == ["a", "b", "c"]
    assert people.client(0)["y"].tolist() == [1, 4]
    assert people.client(1)["x"].tolist() == [[0, 0.5], [2, 2.5]]
    arrays = {"x": [[i, i + 0.5] for i in range(5)], "y": range(5)}
    assert (
        people.fingerprint()
        == fl.Population.from_arrays({k: np.array(v) for k, v in arrays.items()}, OWNERS).fingerprint()
    )


def test_dicts_and_tuples_of_other_lengths(monkeypatch):
    monkeypatch.setattr("fedjaxlite.data.incoming.gather.CHUNK_ROWS", 2)
    by_name = interop.from_torch(Items(5, lambda i: {"x": [i], "y": i, "z": 0.0}), OWNERS)
    assert list(by_name.features) == ["x", "y", "z"]
    assert by_name.client(1)["y"].tolist() == [0, 2]
    three = interop.from_torch(Items(5, lambda i: (i, i, i)), OWNERS, names=("a", "b", "c"))
    assert list(three.features) == ["a", "b", "c"]
    alone = interop.from_torch(Items(5, float), np.array([1, 0, 1, 0, 1]), names=["x"])
    assert alone.client(0)["x"].tolist() == [1, 3]


def test_a_data_set_a_client():
    parts = [Items(n, lambda i, n=n: ([n, i], i)) for n in (2, 3)]
    people = interop.from_torch(parts, client_names=["u", "v"])
    assert people.names.tolist() == ["u", "v"]
    assert people.client(1)["x"].tolist() == [[3, 0], [3, 1], [3, 2]]
    assert interop.from_torch(parts).names.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: interop.from_torch(3, [1]), r"`dataset` is 3; expected a map-style data set, with len\(\) and \[i\]"),
        (
            lambda: interop.from_torch(Items(2, float)),
            "`client_ids` is None and `dataset` is .*; expected the client of",
        ),
        (lambda: interop.from_torch(Items(2, float), [1]), "client_ids has 1 entries, but `dataset` has 2 items"),
        (
            lambda: interop.from_torch(Items(2, float), [1, 2]),
            r"item 0 of dataset has 1 values, and `names` is \('x', 'y'\)",
        ),
        (
            lambda: interop.from_torch(Items(2, lambda i: ([0] * i, 0)), [1, 2]),
            r"'x' has shape \[1\] at row 1 of `dataset`",
        ),
        (
            lambda: interop.from_torch(Items(2, lambda i: ("hi", 0)), [1, 2]),
            "column 'x' holds 'hi' at row 0 of `dataset`",
        ),
        (
            lambda: interop.from_torch(Items(2, lambda i: {f"{i}": 0}), [1, 2]),
            r"item 1 of dataset has \['1'\], and those",
        ),
        (lambda: interop.from_torch([Items(2, float), 3]), "expected the client of each item, or a list"),
        (lambda: interop.from_torch([Items(0, float)]), "no client in `dataset` has an example"),
        (
            lambda: interop.from_torch(Items(1, float), [1], client_names=["a"]),
            "`client_names` is for a list of data sets",
        ),
        (lambda: interop.from_torch(Items(1, float), [1], names="x"), "`names` is 'x'; expected a name for each value"),
    ],
)
def test_what_is_no_such_data_set_is_refused(call, text):
    with pytest.raises((TypeError, ValueError), match=text):
        call()


def test_data_sets_of_torch_itself():
    torch = pytest.importorskip("torch")
    from torch.utils import data

    x, y = torch.arange(10.0).reshape(5, 2), torch.arange(5)
    whole = interop.from_torch(data.TensorDataset(x, y), OWNERS)
    assert whole.client(1)["x"].tolist() == [[0, 1], [4, 5]]
    parts = [data.Subset(data.TensorDataset(x, y), rows) for rows in ([4, 0], [2])]
    people = interop.from_torch(parts)
    assert [people.client(i)["y"].tolist() for i in range(2)] == [[4, 0], [2]]
    items = data.Subset(Items(5, lambda i: (torch.full((2,), i, dtype=torch.bfloat16, requires_grad=True), i)), [3, 1])
    assert interop.from_torch(items, [0, 0]).client(0)["x"].tolist() == [[3, 3], [1, 1]]
