"""Clients are asked for by name or by index, in populations and in reports."""

import jax
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.data.client_report import ClientReport


def hospitals():
    owners = ["Basel", "Zürich", "Basel", "Bern"]
    return fl.Population.from_arrays({"y": np.array([0, 1, 2, 3])}, client_ids=owners)


def test_strings_are_names_and_ints_are_indices():
    population = hospitals()
    assert population.names.tolist() == ["Basel", "Bern", "Zürich"]
    assert population.client("Basel")["y"].tolist() == population.client(0)["y"].tolist() == [0, 2]
    assert population.client(population.names[2])["y"].tolist() == [1]
    for wanted in (["Zürich", "Basel"], ("Zürich", "Basel"), np.array(["Zürich", "Basel"]), population.names[[2, 0]]):
        assert population.select(wanted).names.tolist() == ["Zürich", "Basel"]
    assert population.select(np.array(["Bern"], object)).client("Bern")["y"].tolist() == [3]
    assert population.index_of("Bern") == 1
    assert isinstance(population.index_of("Bern"), int)
    assert population.index_of(["Zürich", "Basel"]).tolist() == [2, 0]


def test_where_names_are_ints_an_int_stays_an_index():
    population = fl.Population.from_arrays({"y": [10, 20, 30]}, client_ids=[2, 0, 7])
    assert population.client(2)["y"].tolist() == [30]  # the index
    assert population.client(population.index_of(2))["y"].tolist() == [10]  # the name
    assert population.index_of(np.int64(7)) == 2
    assert population.index_of([7, 2]).tolist() == population.index_of(np.array([7, 2])).tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"no client named 3; the population's 3 clients are named 0, 2, 7\."):
        population.index_of([7, 3])
    with pytest.raises(TypeError, match=r"a client's name is '7'; this population's names are ints, such as 0\."):
        population.client("7")


def test_a_wrong_name_is_told_the_nearest_one():
    population = hospitals()
    text = r"no client named 'basle'; did you mean 'Basel'\? the population's 3 clients are named 'Basel', 'Bern', 'Zür"
    for call in (population.client, population.index_of, lambda name: population.select(["Bern", name])):
        with pytest.raises(ValueError, match=text):
            call("basle")
    with pytest.raises(ValueError, match=r"no client named 'Oslo'; the population's 3 clients are named"):
        population.client("Oslo")


def test_what_is_no_name_is_refused():
    population = hospitals()
    with pytest.raises(TypeError, match=r"ids is 'Basel'; expected a list, such as \['Basel'\]"):
        population.select("Basel")
    with pytest.raises(TypeError, match=r"a client's name is 1; this population's names are strings, such as 'Basel'"):
        population.select(["Basel", 1])
    with pytest.raises(TypeError, match=r"`names` is 1.5; expected a client's name, or a list of names"):
        population.index_of(1.5)
    with pytest.raises(TypeError, match=r"a client's name is True"):
        fl.Population.from_arrays({"y": [1]}, client_ids=[1]).index_of([True])
    with pytest.raises(ValueError, match="ids holds 0 more than once"):
        population.select(["Basel", "Basel"])
    nameless = jax.tree.map(np.asarray, population)
    with pytest.raises(
        ValueError, match=r"clients have no names, so 'Basel' is none of them; ask by index, 0 to 2, or"
    ):
        nameless.client("Basel")


def test_names_survive_splits_selection_and_files(tmp_path):
    population = hospitals()
    train, test = fl.partition.train_test_split(population, test_fraction=0.5)
    assert train.names.tolist() == test.names.tolist() == population.names.tolist()
    population.save(tmp_path / "hospitals.npz")
    assert fl.Population.load(tmp_path / "hospitals.npz").client("Bern")["y"].tolist() == [3]


def test_a_report_knows_its_clients_by_name():
    population = fl.Population.from_arrays({"x": np.float32([1, 3, 10])}, client_ids=["b", "b", "a"])
    square = lambda params, batch, key: (params - batch["x"]) ** 2  # noqa: E731
    report = fl.evaluate_clients(square, population)(np.float32(2))
    assert report.names.tolist() == ["a", "b"]
    assert report.of("a") == report.of(0) == {"loss": 64.0}
    assert report.of("b") == {"loss": 1.0}
    with pytest.raises(ValueError, match=r"no client named 'c'"):
        report.of("c")
    with pytest.raises(IndexError, match=r"`client` is 2; the report has clients 0 to 1"):
        report.of(2)
    with pytest.raises(TypeError, match=r"`client` is 0.5; expected a client's name, or an int in \[0, 2\)"):
        report.of(0.5)
    with pytest.raises(ValueError, match="have no names"):
        ClientReport(np.ones(2, int), {"loss": np.ones(2)}).of("a")


def test_finding_names_among_many_is_fast():
    names = [f"user{i}" for i in range(100_000)]
    population = fl.Population.from_arrays({"y": np.arange(100_000)}, client_ids=names)
    assert population.select(names[::-1]).names.tolist() == names[::-1]
    with pytest.raises(ValueError, match=r"no client named 'usr7'; did you mean 'user\d+'"):
        population.client("usr7")
