"""Data of FedJAX and Flower: by stand-ins that follow their protocols, and by the packages where they are."""

from types import SimpleNamespace

import numpy as np
import pytest

from fedjaxlite import interop

hf = pytest.importorskip("datasets")

# --- FedJAX -----------------------------------------------------------------------------------------------------------


def client_dataset(**arrays):
    return SimpleNamespace(all_examples=lambda: arrays)


class FederatedData:
    """What of fedjax.FederatedData is asked for; `loaded` are the clients whose examples were."""

    def __init__(self, clients):
        self.held, self.loaded = clients, []

    def client_ids(self):
        yield from self.held

    def get_clients(self, ids):
        for i in ids:
            self.loaded.append(i)
            yield i, self.held[i]

    def clients(self):
        yield from self.get_clients(self.held)


def federated_data():
    return FederatedData(
        {
            name.encode(): client_dataset(x=np.full((n, 2), n, np.float64), y=np.arange(n))
            for name, n in (("b", 3), ("a", 1), ("ç", 2))
        }
    )


def test_fedjax_clients_keep_their_order_and_names():
    people = interop.from_fedjax(federated_data(), features={"x": "image", "y": "y"})
    assert people.names.tolist() == ["b", "a", "ç"]
    assert people.num_examples.tolist() == [3, 1, 2]
    assert people.client(2)["image"].tolist() == [[2, 2], [2, 2]]
    assert people.features["y"].dtype == np.int32


def test_only_the_fedjax_clients_that_are_wanted_are_loaded():
    data = federated_data()
    people = interop.from_fedjax(data, clients=["ç", "b"])
    assert people.names.tolist() == ["ç", "b"]
    assert sorted(data.loaded) == sorted([b"b", "ç".encode()])
    data = federated_data()
    assert interop.from_fedjax(data, num_clients=1).names.tolist() == ["b"]
    assert data.loaded == [b"b"]


def test_what_is_no_federated_data_is_refused():
    with pytest.raises(TypeError, match=r"`federated_data` is 3; expected a fedjax.FederatedData, whose clients\(\)"):
        interop.from_fedjax(3)
    odd = SimpleNamespace(clients=lambda: iter([(b"u", {"x": [1]})]))
    with pytest.raises(TypeError, match=r"gives \{'x': \[1\]\} for client 'u'; expected a fedjax.ClientDataset"):
        interop.from_fedjax(odd)
    with pytest.raises(ValueError, match="`clients` names 'z', and there is no such client in the federated data"):
        interop.from_fedjax(federated_data(), clients=["z"])
    with pytest.raises(ValueError, match="num_clients=4, but the federated data has 3 clients"):
        interop.from_fedjax(federated_data(), num_clients=4)
    with pytest.raises(ValueError, match="there are no clients in the federated data"):
        interop.from_fedjax(FederatedData({}))


# --- Flower -----------------------------------------------------------------------------------------------------------


class Partitioner:
    """What of a partitioner of flwr_datasets is asked for."""

    def __init__(self, rows, natural=None):
        self.rows, self.dataset, self.partition_id_to_natural_id = rows, None, natural or {}

    def is_dataset_assigned(self):
        return self.dataset is not None

    @property
    def num_partitions(self):
        return len(self.rows)

    def load_partition(self, partition_id):
        return self.dataset.select(self.rows[partition_id])


class FederatedDataset:
    """Of a FederatedDataset; the data set is given to its partitioners by the first load."""

    def __init__(self, dataset, **partitioners):
        self.held, self.partitioners = dataset, partitioners

    def load_partition(self, partition_id, split=None):
        self.partitioners[split].dataset = self.held[split]
        return self.partitioners[split].load_partition(partition_id)


def table(n=10):
    return hf.Dataset.from_dict({"v": np.arange(2.0 * n).reshape(n, 2).tolist(), "label": list(range(n))})


def test_a_client_is_a_partition_of_flower():
    partitioner = Partitioner([[3, 1], [0], [9, 8, 2]])
    partitioner.dataset = table()
    people = interop.from_flower(partitioner, features={"v": "x", "label": "y"})
    assert people.names.tolist() == [0, 1, 2]
    assert [people.client(i)["y"].tolist() for i in range(3)] == partitioner.rows
    assert people.client(0)["x"].tolist() == [[6, 7], [2, 3]]
    some = interop.from_flower(partitioner, clients=[2, 0])
    assert [some.client(i)["label"].tolist() for i in range(2)] == [[9, 8, 2], [3, 1]]
    assert interop.from_flower(partitioner, num_clients=1).num_clients == 1
    named = Partitioner(partitioner.rows, {0: "ann", 1: "bob", 2: "cy"})
    named.dataset = table()
    assert interop.from_flower(named, clients=["cy"]).client(0)["label"].tolist() == [9, 8, 2]


def test_the_eleventh_partition_comes_after_the_tenth():
    partitioner = Partitioner([[i] for i in range(12)])
    partitioner.dataset = table(12)
    people = interop.from_flower(partitioner, features=["label"])
    assert people.names.tolist() == people.features["label"].tolist() == list(range(12))


def test_batches_of_a_partition_make_one_client(monkeypatch):
    monkeypatch.setattr("fedjaxlite.data.incoming.hf_dataset.BATCH", 2)
    partitioner = Partitioner([[5, 4, 3, 2, 1]])
    partitioner.dataset = table()
    people = interop.from_flower(partitioner, encode={"label": lambda y: [y, -y]})
    assert people.client(0)["label"].tolist() == [[y, -y] for y in (5, 4, 3, 2, 1)]
    assert people.client(0)["v"][:, 0].tolist() == [10, 8, 6, 4, 2]


def test_a_split_of_a_flower_data_set():
    data = {"train": table(), "test": table(4)}
    both = FederatedDataset(data, train=Partitioner([[0, 1], [2]]), test=Partitioner([[3]]))
    assert interop.from_flower(both, split="train").num_examples.tolist() == [2, 1]
    one = FederatedDataset(data, test=Partitioner([[3]]))
    assert interop.from_flower(one).client(0)["label"].tolist() == [3]
    with pytest.raises(ValueError, match="`split` is None; expected one of 'train', 'test', which have partitioners"):
        interop.from_flower(both)
    with pytest.raises(
        ValueError, match="`split` is 'tests'; there are partitioners for: 'train', 'test'. Did you mean"
    ):
        interop.from_flower(both, split="tests")


def test_what_is_no_partitioner_is_refused():
    with pytest.raises(TypeError, match="`partitions` is 3; expected a partitioner of flwr_datasets"):
        interop.from_flower(3)
    partitioner = Partitioner([[0], []])
    with pytest.raises(
        ValueError, match="`partitions` has no data set yet; assign it first: partitioner.dataset = dat"
    ):
        interop.from_flower(partitioner)
    partitioner.dataset = table()
    with pytest.raises(ValueError, match="`split` is 'train', but `partitions` is one partitioner"):
        interop.from_flower(partitioner, split="train")
    with pytest.raises(
        ValueError, match="`features` names 'lable'; the columns are: 'v', 'label'. Did you mean 'label'"
    ):
        interop.from_flower(partitioner, features=["lable"])
    with pytest.raises(ValueError, match=r"client 1 \(1\) has no examples"):
        interop.from_flower(partitioner)
    assert interop.from_flower(partitioner, allow_empty=True).num_examples.tolist() == [1, 0]
    unlabeled = Partitioner([[0, 1]])
    features = hf.Features({"y": hf.ClassLabel(names=["no", "yes"])})
    unlabeled.dataset = hf.Dataset.from_dict({"y": [1, -1]}, features=features)
    with pytest.raises(ValueError, match=r"column 'y' has no class \(-1\) in row 1 of partition 0"):
        interop.from_flower(unlabeled)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "natural"])
def test_partitions_of_flower_itself(kind):
    made = pytest.importorskip("flwr_datasets.partitioner")
    partitioner = {
        "iid": lambda: made.IidPartitioner(5),
        "dirichlet": lambda: made.DirichletPartitioner(5, partition_by="label", alpha=0.5, min_partition_size=1),
        "natural": lambda: made.NaturalIdPartitioner(partition_by="label"),
    }[kind]()
    partitioner.dataset = hf.Dataset.from_dict({"row": list(range(60)), "label": [i % 4 for i in range(60)]})
    people = interop.from_flower(partitioner)
    assert people.num_clients == partitioner.num_partitions
    for i in range(people.num_clients):
        assert people.client(i)["row"].tolist() == list(partitioner.load_partition(i)["row"])
