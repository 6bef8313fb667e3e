"""Plots that show clients call them by their names where these fit."""

import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import plots
from fedjaxlite.data.client_report import ClientReport

NAN = float("nan")
HOSPITALS = np.array(["Basel", "Bern", "Genf"])


def report(values, names=HOSPITALS, **fields):
    return ClientReport(np.ones(len(values), int), {"accuracy": np.array(values)}, names=names, **fields)


def ticks(axis, which="x"):
    return [text.get_text() for text in getattr(axis, f"get_{which}ticklabels")()]


def test_few_clients_stand_under_their_sorted_values():
    axis = plots.clients(report([0.9, NAN, 0.7])).axes[0]
    assert axis.lines[0].get_ydata().tolist() == [0.7, 0.9]
    assert ticks(axis) == ["Genf", "Basel"]
    assert axis.get_xticks().tolist() == axis.lines[0].get_xdata().tolist()
    assert "[%]" not in axis.get_xlabel()
    two = plots.clients({"a": report([0.9, 0.8, 0.7]), "b": report([0.1, 0.2, 0.3])}).axes[0]
    many = plots.clients(report(np.linspace(0, 1, 13), names=np.arange(13))).axes[0]
    for axis in (two, many, plots.clients([0.5, 0.6]).axes[0]):
        assert "[%]" in axis.get_xlabel()


def test_reports_are_compared_client_by_client_with_intervals():
    ends = {"low": {"accuracy": np.array([0.8, 0.1, 0.6])}, "high": {"accuracy": np.array([1.0, 0.3, 0.75])}}
    axis = plots.clients({"a": report([0.9, 0.2, 0.7], **ends), "b": report([0.5, NAN, 0.4])}, kind="named").axes[0]
    assert ticks(axis) == HOSPITALS.tolist()
    first, second = axis.lines
    assert first.get_ydata().tolist() == [0.9, 0.2, 0.7]
    np.testing.assert_array_equal(second.get_ydata(), [0.5, NAN, 0.4])
    assert (first.get_xdata() < second.get_xdata()).all()
    assert np.abs(np.r_[first.get_xdata(), second.get_xdata()] - [0, 1, 2, 0, 1, 2]).max() < 0.5
    assert first.get_marker() != second.get_marker()
    (bars,) = axis.collections
    assert [[y for _, y in path.vertices] for path in bars.get_paths()] == [[0.8, 1.0], [0.1, 0.3], [0.6, 0.75]]
    assert ticks(plots.clients([0.5, 0.6], kind="named").axes[0]) == ["0", "1"]


def test_other_clients_or_too_many_are_not_compared_by_name():
    with pytest.raises(ValueError, match=r"`reports\['b'\]` is on other clients than the first; kind='named' compares"):
        plots.clients({"a": report([0.9, 0.2, 0.7]), "b": report([0.9, 0.2, 0.7], HOSPITALS[::-1])}, kind="named")
    with pytest.raises(
        ValueError, match=r"`reports` has 61 clients, and kind='named' draws up to 60; take kind='sorted'"
    ):
        plots.clients(np.linspace(0, 1, 61), kind="named")


def test_who_took_part_is_told_by_name():
    axis = plots.participation([[0, 2], [1, -1]], 3, names=HOSPITALS).axes[1]
    assert ticks(axis, "y") == HOSPITALS.tolist()
    assert axis.get_yticks().tolist() == [0, 1, 2]
    crowd = plots.participation([[0]], 31, names=np.arange(100, 131)).axes[1]
    assert "130" not in ticks(crowd, "y")
    with pytest.raises(ValueError, match=r"names has 2 entries for 3 clients; expected one a client"):
        plots.participation([[0]], 3, names=["a", "b"])


def test_a_client_is_told_with_its_interval():
    told = report(
        [0.9, 0.2, 0.7], low={"accuracy": np.array([0.8, 0.1, 0.6])}, high={"accuracy": np.array([1.0, 0.3, 0.75])}
    )
    assert told.of("Bern") == {"accuracy": 0.2, "accuracy_low": 0.1, "accuracy_high": 0.3}


def test_a_partition_is_drawn_with_the_names_of_clients():
    population = fl.Population.from_arrays({"y": [0, 1, 1]}, client_ids=["Bern", "Basel", "Bern"])
    assert ticks(plots.partition(population).axes[1]) == ["Basel", "Bern"]
