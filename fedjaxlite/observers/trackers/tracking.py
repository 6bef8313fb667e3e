"""What the observers of all trackers have in common: which run it is, what is sent, and what a failure costs."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite import checks, processes
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers import records
from fedjaxlite.observers.observer import History, Observer, Start
from fedjaxlite.storage import replace_text

LOG = logging.getLogger("fedjaxlite.trackers")
_PATIENCE = 10.0
"""After a failure nothing is sent for so many times as long as it took: a dead network costs a run a tenth at most."""


class Open(NamedTuple):
    """A run of a tracker that takes numbers.

    Attributes:
      id: what opens it again.
      send: `send(records)`, the records of some rounds; may raise, and is given them again then.
      close: `close(how)`, "finished", "failed" or "killed".
      where: for people: where its numbers are.
    """

    id: str
    send: Callable[[Sequence[records.Record]], None]
    close: Callable[[str], None]
    where: str


Opens = Callable[[Start, Mapping[str, Any], str | None], Open]
"""`open_run(start, facts, id)`: a new run with facts to show (hyperparameters), or that of an id."""


def tracked(tracker: str, open_run: Opens, config: Mapping[str, Any] | None) -> Observer:
    """The observer of a tracker.

    Args:
      tracker: its name; the run's id is kept as NAME.json in the run's folder.
      open_run: see Opens.
      config: facts beside those that the library knows, such as a program's own arguments.

    Returns:
      an Observer. What fails before the first round is raised. What fails later is told as a warning and sent again
      with later rounds, and never ends a run. Of several processes the first one tracks.

    Raises:
      TypeError: `config` is no dict. RuntimeError: by `start`, where the tracker refuses.
    """
    if config is not None and not isinstance(config, Mapping):
        raise TypeError(f"`config` is a {type(config).__name__}; expected a dict of what to show beside the run.")
    if not processes.is_first():
        return Observer()
    held: dict[str, Any] = {}

    def start(start: Start) -> None:
        place = None if start.folder is None else start.folder / f"{tracker}.json"
        known = _known(place)
        opened = _opened(tracker, open_run, start, {**facts_of(start), **(config or {})}, known.get("id"))
        sent = int(known.get("round", 0)) if known.get("id") == opened.id else 0
        held.update(open=opened, place=place, waiting=[], sent=sent, wait_until=0.0, failed=0)
        _note(held)
        LOG.info("%s takes the numbers of this run: %s", tracker, opened.where)

    def each(record: Mapping[str, Any], state: RoundState | None) -> None:
        del state
        if record["round"] > held["sent"] and not record.get("missing"):  # else it has this round from before
            held["waiting"].append(dict(record))
        if time.monotonic() >= held["wait_until"]:
            _send(tracker, held)

    def end(history: History) -> None:
        if not held:
            return
        _send(tracker, held)
        if held["waiting"]:
            LOG.warning("%s lacks the last %d rounds; records.jsonl has all", tracker, len(held["waiting"]))
        try:
            held["open"].close(_how(history))
        except Exception as error:  # a tracker's errors are of many types, and none of them ends a run
            LOG.warning("%s could not end its run: %s", tracker, error)
        held.clear()

    return Observer(each, start, end)


def _opened(tracker: str, open_run: Opens, start: Start, facts: Mapping[str, Any], run_id: str | None) -> Open:
    try:
        return open_run(start, facts, run_id)
    except Exception as error:  # a wrong address, a missing login: of many types
        raise RuntimeError(
            f"{tracker} could not begin a run ({type(error).__name__}: {error}). Nothing was trained: mend it, or "
            "leave the tracker out."
        ) from error


def _send(tracker: str, held: dict[str, Any]) -> None:
    waiting, began = held["waiting"], time.monotonic()
    if not waiting:
        return
    try:
        held["open"].send(waiting)
    except Exception as error:  # likewise
        took = time.monotonic() - began
        held["wait_until"] = time.monotonic() + _PATIENCE * took
        held["failed"] += 1
        if held["failed"] == 1:
            LOG.warning(
                "%s did not take round %d (%s: %s); the run goes on, and it is sent again with later rounds",
                *(tracker, waiting[0]["round"], type(error).__name__, error),
            )
        return
    if held["failed"]:
        LOG.warning("%s takes numbers again, from round %d on", tracker, waiting[0]["round"])
        held["failed"] = 0
    held["sent"] = waiting[-1]["round"]
    waiting.clear()
    _note(held)


def _known(place: Path | None) -> dict[str, Any]:
    """What an earlier part of this run left."""
    if place is None or not place.exists():
        return {}
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("id"), str):
        LOG.warning("%s does not say which run it was; a new one begins", place)
        return {}
    return found


def _note(held: Mapping[str, Any]) -> None:
    if held["place"] is not None:
        replace_text(held["place"], json.dumps({"id": held["open"].id, "round": held["sent"]}) + "\n")


def _how(history: History) -> str:
    if history.failed:
        return "failed"
    return "killed" if history.stopped in ("interrupted", "SIGTERM") else "finished"


def facts_of(start: Start) -> dict[str, Any]:
    """What a tracker shows beside a run: what was composed, flat, as numbers and texts."""
    rounds, sizes = start.rounds, np.asarray(start.population.num_examples)
    facts: dict[str, Any] = {"algorithm": rounds.algorithm.name}
    facts |= {f"algorithm.{name}": value for name, value in rounds.algorithm.hparams.items()}
    facts |= {"sampler": rounds.sampler.name, "aggregator": rounds.aggregator.name}
    facts |= {f"aggregator.{name}": value for name, value in rounds.aggregator.hparams.items()}
    facts |= {
        "num_rounds": start.num_rounds,
        "num_clients": start.population.num_clients,
        "num_examples": int(sizes.sum()),
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(rounds.params(start.state))),
        "bytes_up_of_a_client": start.traffic.up,
        "bytes_down_of_a_client": start.traffic.down,
        "jax": jax.__version__,
    }
    return {name: plain(value) for name, value in facts.items()}


def plain(value: Any) -> Any:
    """A fact as every tracker takes it: a number, a text, True, False or None."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.generic, np.ndarray, jax.Array)) and np.ndim(value) == 0:
        return np.asarray(value).item()
    name = getattr(value, "__qualname__", None)
    return name if isinstance(name, str) else checks.shown(value)


def package(name: str, installed: str, extra: str) -> Any:
    """The tracker's own package, which nothing else needs."""
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != name:
            raise  # the package is there, and something of its own is missing
        raise ModuleNotFoundError(
            f'fl.observers.{name} needs {installed}: pip install "fedjaxlite[{extra}]", or leave this tracker out.'
        ) from error


def text_or_none(**named: Any) -> None:
    """Refuses what is neither a str, a path nor None, by the argument's name."""
    for name, value in named.items():
        if value is not None and not isinstance(value, (str, os.PathLike)):
            raise TypeError(f"`{name}` is {checks.shown(value)}; expected a str, or None.")
