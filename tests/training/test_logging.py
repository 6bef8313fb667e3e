"""What a run says: by which logger, at which level, and only where nobody reads it as progress."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import small_runs
from small_runs import go

import fedjaxlite as fl

ROOT = Path(__file__).resolve().parents[2]
LOGGERS = (
    *("fedjaxlite.training", "fedjaxlite.observers", "fedjaxlite.trackers", "fedjaxlite.sweeps"),
    *("fedjaxlite.execution", "fedjaxlite.storage", "fedjaxlite.streaming"),
    *("fedjaxlite.deploy", "fedjaxlite.deploy.service"),
)


def said(caplog) -> list[tuple[str, int, str]]:
    return [(record.name, record.levelno, record.getMessage()) for record in caplog.records]


def test_a_run_says_what_happens_at_info(tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO, "fedjaxlite"):
        go(tmp_path, 2)
    told = [(name, level) for name, level, _ in said(caplog)]
    assert set(told) == {("fedjaxlite.training", logging.INFO)}
    assert any("a run of 2 rounds begins" in text for _, _, text in said(caplog))


def test_a_run_that_failed_is_an_error_and_lost_rounds_are_a_warning(caplog) -> None:
    nan = small_runs.counting(loss=lambda params, batch, key: jnp.full(batch["y"].shape, jnp.nan) * params["b"])
    run = fl.rounds(nan, sampler=fl.sampling.full(6), aggregator=fl.weighted_mean(), execution=fl.Execution(devices=1))
    history = go(None, 2, run=run, lost_rounds=2)
    assert history.failed
    assert [(name, level) for name, level, text in said(caplog) if "ended after" in text] == [
        ("fedjaxlite.training", logging.ERROR)
    ]
    caplog.clear()
    watch = fl.observers.stop_when_lost(rounds=5)
    watch.round({"round": 1, "reported": 2, "nonfinite": 2}, None)
    watch.end(fl.observers.History(None, []))
    assert [(name, level) for name, level, _ in said(caplog)] == [("fedjaxlite.observers", logging.WARNING)]


def test_one_logger_can_be_silenced_without_the_others(caplog, tmp_path) -> None:
    logging.getLogger("fedjaxlite.training").setLevel(logging.ERROR)
    try:
        with caplog.at_level(logging.INFO, "fedjaxlite"):
            go(tmp_path, 1)
    finally:
        logging.getLogger("fedjaxlite.training").setLevel(logging.NOTSET)
    assert said(caplog) == []


def test_the_page_names_every_logger_and_there_are_no_others() -> None:
    used = set()
    for path in (ROOT / "fedjaxlite").rglob("*.py"):
        used.update(re.findall(r'getLogger\("(fedjaxlite[\w.]*)"\)', path.read_text()))
    assert used - {"fedjaxlite"} == set(LOGGERS)  # the root of them all has a level, and nobody logs to it
    page = (ROOT / "docs" / "how_to" / "trackers.md").read_text()
    assert all(f"| `{name}` |" in page for name in LOGGERS)


def test_the_library_installs_no_handler() -> None:
    program = (
        "import logging, fedjaxlite as fl\n"
        "logger = logging.getLogger('fedjaxlite')\n"
        "assert not logger.handlers and logger.level == logging.NOTSET and logger.propagate\n"
        "logging.getLogger('fedjaxlite.training').info('not as asked')\n"
        "logging.getLogger('fedjaxlite.training').warning('as asked')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "as asked\n"  # Python's own last resort
