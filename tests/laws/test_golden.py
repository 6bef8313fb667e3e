"""The golden file holds what the table of methods holds, and a trajectory that differs is told by method and round."""

import copy
import math
from typing import Any

import pytest
from methods import METHODS, golden

WANT: dict[str, Any] = {
    "hparams": "mu=0.1",
    "aggregator": "mean",
    "rounds": [{"params.w": [5.0, 3.0, 4.0]}, {"params.w": [10.0, 6.0, 8.0]}],
}


def changed(number: int, place: int, by: float) -> dict[str, Any]:
    entry = copy.deepcopy(WANT)
    entry["rounds"][number]["params.w"][place] += by
    return entry


@pytest.mark.skipif(golden.UPDATE, reason="the file is being written")
def test_the_file_holds_every_method_and_no_other() -> None:
    assert list(golden.recorded()) == [method.name for method in METHODS], f"write it with `{golden.COMMAND}`"


@pytest.mark.skipif(golden.UPDATE, reason="the file is being written")
def test_every_recorded_method_moves() -> None:
    """A trajectory of zeros, or one that stands still, would hold nothing."""
    for name, entry in golden.recorded().items():
        first, last = entry["rounds"][0], entry["rounds"][-1]
        assert first != last, f"{name} ends where it was after the first round"
        numbers = [value for row in entry["rounds"] for values in row.values() for value in values]
        assert all(map(math.isfinite, numbers)), name


def test_the_method_and_the_round_that_differ_are_named() -> None:
    golden.compare("fed_new", WANT, WANT)
    golden.compare("fed_new", changed(1, 1, 9e-4), WANT)
    with pytest.raises(
        AssertionError,
        match=r"fed_new, round 1 of 2: params\.w has the norm and first values \[10\.0, 6\.002, 8\.0\], recorded are "
        r"\[10\.0, 6\.0, 8\.0\]\. They differ by 0\.002, the tolerance is 0\.001\. If that is meant, record it with "
        r"`FEDJAXLITE_UPDATE_GOLDEN=1 python -m pytest tests/laws/test_methods\.py -k golden` and look at the diff",
    ):
        golden.compare("fed_new", changed(1, 1, 2e-3), WANT)
    with pytest.raises(AssertionError, match="fed_new, round 0 of 2"):
        golden.compare("fed_new", changed(0, 0, math.nan), WANT)


def test_what_else_may_differ_is_told() -> None:
    with pytest.raises(AssertionError, match=r"fed_new has no golden trajectory\. Record it with `FEDJAXLITE_UPDATE"):
        golden.compare("fed_new", WANT, None)
    with pytest.raises(AssertionError, match=r"fed_new: its hparams are 'mu=0\.2', recorded are 'mu=0\.1'"):
        golden.compare("fed_new", {**WANT, "hparams": "mu=0.2"}, WANT)
    with pytest.raises(AssertionError, match=r"round 0: the leaves are \['params\.v'\], recorded \['params\.w'\]"):
        golden.compare("fed_new", {**WANT, "rounds": [{"params.v": [1.0]}] * 2}, WANT)
