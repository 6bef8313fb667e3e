"""Data frames of records and reports: every value, of its type, and what is missing as the library of the frame has it."""

import math
import sys

import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.data.frames import frame_of_columns, frame_of_rows

RECORDS = [
    {"round": 1, "loss": 0.5, "reported": 3, "simulation_only": ["loss"]},
    {"round": 2, "missing": True},
    {"round": 3, "loss": 0.25, "reported": 2, "test_loss": np.float32(0.5), "simulation_only": ["loss"]},
]


def test_records_are_a_pandas_frame() -> None:
    frame = fl.observers.History(None, RECORDS).to_frame()
    assert list(frame.columns) == ["round", "loss", "reported", "simulation_only", "missing", "test_loss"]
    assert frame["round"].dtype == np.int64
    assert frame["loss"].dtype == frame["reported"].dtype == np.float64  # no integer says that it is missing
    assert frame["loss"].tolist()[::2] == [0.5, 0.25]
    assert math.isnan(frame["loss"][1])
    assert frame["missing"].isna().tolist() == [True, False, True]
    assert frame["missing"][1]
    assert frame["simulation_only"][0] == ["loss"]
    assert frame["test_loss"].isna().tolist() == [True, True, False]


def test_records_are_a_polars_frame() -> None:
    import polars

    frame = fl.observers.History(None, RECORDS).to_frame("polars")
    assert frame.columns == ["round", "loss", "reported", "simulation_only", "missing", "test_loss"]
    assert frame["reported"].dtype == polars.Int64
    assert frame["reported"].to_list() == [3, None, 2]
    assert frame["loss"].to_list() == [0.5, None, 0.25]
    assert frame["test_loss"].to_list() == [None, None, 0.5]
    assert frame["missing"].to_list() == [None, True, None]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_report_has_a_row_for_every_client(library) -> None:
    report = fl.ClientReport(np.array([2, 0, 5]), {"loss": np.float32([0.5, np.nan, 0.25])})
    frame = report.to_frame(library)
    assert list(frame.columns) == ["client", "num_examples", "loss"]
    assert frame["client"].to_list() == [0, 1, 2]
    assert frame["num_examples"].to_list() == [2, 0, 5]
    assert np.isnan(np.asarray(frame["loss"])).tolist() == [False, True, False]


def test_no_rows_are_an_empty_frame() -> None:
    assert len(frame_of_rows([], "pandas")) == 0
    assert len(frame_of_rows([], "polars")) == 0


def test_words_and_numbers_in_one_column_stay_what_they_are() -> None:
    column = {"batch_size": [10, "inf", None]}
    assert frame_of_columns(column, "pandas")["batch_size"].tolist() == [10, "inf", None]
    assert frame_of_columns({"codec": ["eden", None]}, "pandas")["codec"].isna().tolist() == [False, True]


def test_another_library_and_one_that_is_not_there_are_refused(monkeypatch) -> None:
    history = fl.observers.History(None, RECORDS)
    with pytest.raises(ValueError, match="`library` is 'panda'; expected one of 'pandas', 'polars'"):
        history.to_frame("panda")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        ModuleNotFoundError, match="a frame of pandas needs pandas: pip install pandas, or take library='polars'"
    ):
        history.to_frame()
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ModuleNotFoundError, match="a frame of polars needs polars: .* library='pandas'"):
        history.to_frame("polars")
