"""The command line's clock: servers that do not wait, rounds with a deadline, and every refusal."""

from pathlib import Path
from typing import Any

import pytest
from test_cli import SMALL, call, refused

from fedjaxlite.cli import taking_part
from fedjaxlite.cli.settings import Settings
from fedjaxlite.cli.taking_part.times import Facts
from fedjaxlite.observers import records


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--concurrency", "3"], "--concurrency is of an asynchronous server; give --async-buffer K too"),
        (["--async-buffer", "3", "--deadline", "2"], "asks for a server without rounds. Leave one out."),
        (["--async-buffer", "3", "--async-mix"], "expected --async-buffer 1"),
        (["--over-select", "3", "--cohort", "5"], "--over-select is 3, and --cohort 5 reports are wanted"),
        (["--async-buffer", "3", "--service", "expo:1"], "Did you mean 'exponential'?"),
        (["--async-buffer", "3", "--staleness", "poly:1"], "Did you mean 'polynomial'?"),
        (["--deadline", "-1"], "--deadline is -1.0; expected a finite number above 0."),
        (["--service", "file:nowhere.csv"], "nowhere.csv"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: list[str], text: str) -> None:
    assert text in refused("run", *SMALL, *options)


def test_options_become_samplers() -> None:
    def made(**options: Any) -> Any:
        return taking_part.sampler(Settings(cohort=4, **options), Facts(20))

    assert made().memory is None
    assert made(service="constant:2").name == "uniform(4)+timed"
    assert made(over_select=6).capacity == 6
    buffered = made(async_buffer=3, concurrency=5, max_staleness=2)
    assert (buffered.name, buffered.capacity, buffered.memory.versions) == ("fed_buff(3, 5)", 3, 3)
    assert made(async_buffer=1, concurrency=5, async_mix=True, staleness="hinge:10,4").memory.mixes


@pytest.mark.whole
def test_a_buffer_of_all_at_equal_speeds_is_a_run_of_rounds(tmp_path: Path) -> None:
    def told(name: str, *options: str) -> list[dict[str, Any]]:
        call("run", *SMALL, "--rounds", "3", "--out", str(tmp_path / name), *options)
        return records.read(tmp_path / name / "records.jsonl")

    rounds = told("rounds", "--cohort", "4")
    clocked = told("clock", "--async-buffer", "4", "--concurrency", "4", "--service", "constant:2")
    for one, other in zip(rounds, clocked, strict=True):
        assert {name: other[name] for name in one if name not in ("seconds", "elapsed")} == {
            name: value for name, value in one.items() if name not in ("seconds", "elapsed")
        }
    assert [r["simulated_seconds"] for r in clocked] == [2.0, 4.0, 6.0]
    assert {r[name] for r in clocked for name in ("staleness_mean", "staleness_max", "dropped_stale")} == {0}
