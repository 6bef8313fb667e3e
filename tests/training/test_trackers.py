"""Trackers, each with its real package and without a network: their stores hold what records.jsonl holds."""

import json
import logging
import math
import os
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_runs
from small_runs import go

import fedjaxlite as fl
from fedjaxlite import records
from fedjaxlite.observers.trackers import tracking

pytestmark = pytest.mark.usefixtures("no_pictures")

TRACKERS = ("mlflow", "wandb", "trackio")
HERE = Path(__file__).parent

PROGRAM = """
import os
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
import conftest
import small_runs
import fedjaxlite as fl

class Broken(RuntimeError): pass

def fails(record, state):
    if record["round"] == 5:
        raise Broken("as asked")

def lost(record, state):
    return fl.observers.Stop("nothing is left", failed=True) if record["round"] == 2 else None

tracker, config = {tracker}, {{"note": "small", "scale": 0.5}}
watch = lambda: {{
    "mlflow": lambda: fl.observers.mlflow("tests", uri=str(Path("mlruns").resolve()), name="one", config=config),
    "wandb": lambda: fl.observers.wandb("tests", mode="offline", name="one", config=config),
    "trackio": lambda: fl.observers.trackio("tests", config=config, auto_log_cpu=False, auto_log_gpu=False),
}}[tracker]()
if tracker == "wandb":  # the process that writes its files was begun in another folder, by somebody else's run
    import wandb
    place = os.getcwd()
    os.chdir(os.path.dirname(place))
    wandb.init(project="another", mode="offline", dir=os.path.join(place, "another")).finish()
    os.chdir(place)
evaluate = lambda params: {{"accuracy": float(params["b"]), "odd": float("nan")}}
more = {{"evaluate": evaluate, "evaluate_every": 2}}
try:
    small_runs.go(Path("run"), 8, observers=[watch(), fails], **more)
except Broken:
    pass
small_runs.go(Path("run"), 8, observers=[watch()], resume=True, **more)
small_runs.go(Path("lost"), 4, observers=[watch(), lost], **more)
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """A folder in which every tracker has two runs: one that broke and went on, and one that failed."""
    folder = tmp_path_factory.mktemp("tracked")
    going = {}
    for tracker in TRACKERS:
        place = folder / tracker
        place.mkdir()
        program = PROGRAM.format(tracker=repr(tracker), tests=str(HERE.parent), here=str(HERE))
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        going[tracker] = subprocess.Popen([sys.executable, "-c", program], cwd=place, env=_quiet(place), **pipes)
    for tracker, process in going.items():
        told = process.communicate(timeout=300)[1]
        assert process.returncode == 0, f"{tracker}: {told[-4000:]}"
    return folder


def _quiet(place: Path) -> dict[str, str]:
    """No network, no telemetry, and all files below a folder."""
    return {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[1]),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "TRACKIO_DIR": str(place / "trackio"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **{f"{name}_PROXY": "http://127.0.0.1:9" for name in ("HTTP", "HTTPS")},
    }


def in_records(place: Path, run: str) -> dict[int, dict[str, float]]:
    """What records.jsonl holds, by round: what every tracker has to hold."""
    return {r["round"]: records.numbers_of(r) for r in records.read(place / run / "records.jsonl")}


def assert_same(found: dict[int, dict[str, float]], place: Path, run: str, *, again: tuple[int, ...] = ()) -> None:
    """Equal numbers; of rounds that were done twice, the tracker has the seconds of the first time."""
    expected = in_records(place, run)
    assert sorted(found) == sorted(expected)
    for number, values in expected.items():
        assert sorted(found[number]) == sorted(values)
        for name, value in values.items():
            if not (number in again and name in ("seconds", "elapsed")):
                assert found[number][name] == value or (math.isnan(found[number][name]) and math.isnan(value)), name


@pytest.mark.whole
def test_mlflow_holds_the_same_numbers(stores, monkeypatch) -> None:
    """Read back by its own client."""
    place = stores / "mlflow"
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "true")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=str(place / "mlruns"))
    for folder, status in {"run": "FINISHED", "lost": "FAILED"}.items():
        noted = json.loads((place / folder / "mlflow.json").read_text())
        assert noted["round"] == len(in_records(place, folder))
        run = client.get_run(noted["id"])
        assert (run.info.status, run.info.run_name) == (status, "one")
        found: dict[int, dict[str, float]] = {}
        for key in run.data.metrics:
            for metric in client.get_metric_history(noted["id"], key):
                assert key not in found.setdefault(metric.step, {})  # nothing twice
                found[metric.step][key] = metric.value
        assert_same(found, place, folder, again=(5, 6))
        params = run.data.params
        assert (params["note"], params["algorithm"], params["algorithm.batch_size"]) == ("small", "fed_avg", "5")
        assert params["num_clients"] == "6"


@pytest.mark.whole
def test_wandb_holds_the_same_numbers(stores) -> None:
    """Read back by the reader of its own files."""
    place = stores / "wandb"
    for folder, codes in {"run": [1, 0], "lost": [1]}.items():
        found: dict[int, dict[str, float]] = {}
        run_id, ends = json.loads((place / folder / "wandb.json").read_text())["id"], []
        for file in sorted((place / folder / "wandb").glob(f"offline-run-*/run-{run_id}.wandb")):
            rows, config, code = _wandb_file(file)
            for row in rows:
                assert row["_step"] not in found  # nothing twice
                found[row["_step"]] = {name: float(value) for name, value in row.items() if not name.startswith("_")}
            assert config["scale"] == 0.5
            assert config["algorithm.batch_size"] == 5
            ends.append(code)
        assert ends == codes
        assert_same(found, place, folder, again=(5, 6))


def _wandb_file(path: Path) -> tuple[list[dict], dict, int]:
    """Rows, config and exit code, by wandb's own messages."""
    from wandb.proto import wandb_internal_pb2

    rows, config, code = [], {}, -1
    for data in _leveldb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            items = record.history.item
            rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
        elif kind == "exit":
            code = record.exit.exit_code
    return rows, config, code


def _leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, of which wandb installs no reader: blocks of 32 kB, pieces in them."""
    assert content[:4] == b":W&B"
    place, whole = 7, b""
    while place < len(content):
        if 2**15 - place % 2**15 < 7:  # too short for the head of a piece: the rest of the block is empty
            place += 2**15 - place % 2**15
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # all of a record, or its last piece
            yield whole
            whole = b""


@pytest.mark.whole
def test_trackio_holds_the_same_numbers(stores) -> None:
    place = stores / "trackio"
    database = sqlite3.connect(next((place / "trackio").glob("*.db")))
    for folder in ("run", "lost"):
        name = json.loads((place / folder / "trackio.json").read_text())["id"]
        rows = database.execute("select step, metrics from metrics where run_name=?", (name,)).fetchall()
        assert len(rows) == len({step for step, _ in rows})  # nothing twice
        found = {step: {n: float(v) for n, v in json.loads(metrics).items()} for step, metrics in rows}
        assert_same(found, place, folder, again=(5, 6))
        [(config,)] = database.execute("select config from configs where run_name=?", (name,)).fetchall()
        assert json.loads(config)["algorithm.batch_size"] == 5
        alerts = database.execute("select title, level from alerts where run_name=?", (name,)).fetchall()
        assert alerts == [("the run failed", "error")]  # that which went on had failed before
    database.close()


# What they have in common, with a tracker that is a list


class Listed:
    """A tracker in memory; `broken` makes its network fail."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int]] = []
        self.opened: list[str | None] = []
        self.closed: list[str] = []
        self.broken = False
        self.facts: dict = {}

    def open_run(self, start, facts, run_id) -> tracking.Open:
        self.opened.append(run_id)
        self.facts = dict(facts)
        name = run_id or f"run{len(self.opened)}"

        def send(waiting) -> None:
            if self.broken:
                time.sleep(0.01)
                raise ConnectionError("no route to host")
            self.rows += [(name, record["round"]) for record in waiting]

        return tracking.Open(name, send, self.closed.append, "a list")


def test_a_network_that_fails_never_ends_a_run_and_loses_nothing(tmp_path, caplog) -> None:
    tracker = Listed()

    def cut(record, state) -> None:
        tracker.broken = record["round"] in (3, 4, 5)
        time.sleep(0.12 if record["round"] == 6 else 0)  # longer than the pause that follows a failure

    observers = [cut, tracking.tracked("listed", tracker.open_run, None)]
    history = go(tmp_path / "a", 8, observers=observers)
    assert history.stopped is None
    assert [number for _, number in tracker.rows] == list(range(1, 9))
    assert tracker.closed == ["finished"]
    assert "listed did not take round 3 (ConnectionError: no route to host); the run goes on" in caplog.text
    assert "listed takes numbers again, from round 3 on" in caplog.text
    assert {r.name for r in caplog.records if "listed" in r.getMessage()} == {"fedjaxlite.trackers"}


def test_a_network_that_stays_away_is_told_at_the_end(tmp_path, caplog) -> None:
    tracker = Listed()
    tracker.broken = True
    go(None, 4, observers=[tracking.tracked("listed", tracker.open_run, None)])
    assert "listed lacks the last 4 rounds; records.jsonl has all" in caplog.text
    assert caplog.text.count("did not take") == 1


def test_what_a_tracker_refuses_before_training_is_an_error() -> None:
    def no_login(start, facts, run_id):
        raise PermissionError("no API key")

    trained = []
    with pytest.raises(
        RuntimeError, match=r"listed could not begin a run \(PermissionError: no API key\). Nothing was"
    ):
        go(
            None,
            2,
            observers=[tracking.tracked("listed", no_login, None), lambda record, state: trained.append(record)],
        )
    assert trained == []


def test_an_ended_run_is_marked_as_what_it_was() -> None:
    for stop, how in (
        ("nothing is left", "failed"),
        ("interrupted", "killed"),
        ("SIGTERM", "killed"),
        (None, "finished"),
    ):
        tracker = Listed()
        watch = tracking.tracked("listed", tracker.open_run, None)
        watch.start(_start())
        watch.end(fl.observers.History(None, [], stop, how == "failed"))
        assert tracker.closed == [how]
    tracker = Listed()
    with pytest.raises(ZeroDivisionError):
        go(None, 2, observers=[tracking.tracked("listed", tracker.open_run, None), lambda record, state: 1 / 0])
    assert tracker.closed == ["failed"]
    with pytest.raises(KeyboardInterrupt):
        go(None, 2, observers=[tracking.tracked("listed", tracker.open_run, None), _interrupts])
    assert tracker.closed == ["failed", "killed"]


def _interrupts(record, state) -> None:
    raise KeyboardInterrupt


def _start() -> fl.observers.Start:
    run, state = small_runs.composed(), small_runs.begin()
    traffic = run.traffic(small_runs.PARAMS, small_runs.people())
    return fl.observers.Start(run, state, small_runs.people(), 2, traffic, (), {})


def test_facts_are_numbers_and_texts() -> None:
    facts = tracking.facts_of(_start())
    assert facts["algorithm.batch_size"] == 5
    assert facts["num_params"] == 4
    assert all(value is None or isinstance(value, (bool, int, float, str)) for value in facts.values())


def test_an_id_that_cannot_be_read_begins_a_new_run(tmp_path, caplog) -> None:
    tracker = Listed()
    go(tmp_path, 2, observers=[tracking.tracked("listed", tracker.open_run, None)])
    (tmp_path / "listed.json").write_text("{")
    go(tmp_path, 4, observers=[tracking.tracked("listed", tracker.open_run, None)], resume=True)
    assert tracker.opened == [None, None]
    assert "listed.json does not say which run it was; a new one begins" in caplog.text
    assert tracker.rows == [("run1", 1), ("run1", 2), ("run2", 3), ("run2", 4)]


def test_what_is_opened_says_where(tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO, "fedjaxlite"):
        go(None, 1, observers=[tracking.tracked("listed", Listed().open_run, {"mine": 1})])
    assert "listed takes the numbers of this run: a list" in caplog.text


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_package_that_is_missing_is_named_with_its_extra(tracker, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf'fl.observers.{tracker} needs .* pip install "fedjaxlite\[{tracker}\]"'
    ):
        getattr(fl.observers, tracker)()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: fl.observers.mlflow(3), "`experiment` is 3; expected a str"),
        (lambda: fl.observers.mlflow(uri=3), "`uri` is 3; expected a str, or None"),
        (lambda: fl.observers.wandb(mode="of-line"), "`mode` is 'of-line'; expected one of 'online', 'offline'"),
        (lambda: fl.observers.wandb(resume=True), "`resume` was given; the run's folder says which run goes on"),
        (lambda: fl.observers.trackio("a", resume="must"), "`resume` was given"),
        (lambda: tracking.tracked("x", lambda *a: None, 3), "`config` is a int; expected a dict"),
    ],
)
def test_what_a_tracker_cannot_take_is_said_when_it_is_built(call, text) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        call()
