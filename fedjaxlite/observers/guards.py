"""Observers that end a run which has nothing left to gain: no update is finite, or the loss has left all bounds."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedjaxlite import checks
from fedjaxlite.data.prepared.drawing import drawn_by
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers.observer import History, Observer, Start, Stop
from fedjaxlite.observers.records import here
from fedjaxlite.observers.recovery import spans

LOG = logging.getLogger("fedjaxlite.observers")
_EMPTY = 10
_BEYOND = 1e30
"""A loss above this is next to float32's end, whatever its unit."""


def stop_when_lost(rounds: int = 10) -> Observer:
    """Ends a run, as failed, after some rounds in a row that gave the server nothing to go on.

    That is a round in which clients reported and no update was finite. A round in which nobody reported says nothing of
    the model (devices sleep, a Poisson cohort is empty); ten times as many of those in a row end the run too. Of a run
    shorter than that, all rounds have to be such.

    Args:
      rounds: how many in a row.

    Returns:
      an Observer. Its reason names the rounds, and the clients that reported in them. After a resume it goes on from
      the records of the rounds before. Under noise for privacy its decision follows from what lies past the noise: no
      guarantee covers when the run ends.

    Raises:
      TypeError, ValueError: for a number of rounds below 1.

    Example:
      >>> watch = stop_when_lost(rounds=2)
      >>> watch.round({"round": 1, "reported": 3, "nonfinite": 3}, None)
      >>> watch.round({"round": 2, "reported": 3, "nonfinite": 3}, None).failed
      True
    """
    checks.positive_count(rounds=rounds)
    lost: list[int] = []
    empty: list[int] = []
    about: list[Start] = []

    def count(record: Mapping[str, Any]) -> None:
        if "reported" not in record:  # a record that was lost
            return
        if not record["reported"]:
            empty.append(record["round"])
            return
        empty.clear()
        if record["nonfinite"] < record["reported"]:
            lost.clear()
        else:
            lost.append(record["round"])

    def each(record: Mapping[str, Any], state: RoundState | None) -> Stop | None:
        count(record)
        most = about[0].num_rounds if about else rounds * _EMPTY
        if len(lost) >= min(rounds, most):
            who = _reporters(about, state, lost)
            return Stop(
                f"no client's update was finite in {spans(lost)}{who}. Look for NaN in their data, or lower the "
                "clients' rate; lost_rounds=None (--lost-rounds 0) goes on all the same",
                failed=True,
            )
        if len(empty) >= min(rounds * _EMPTY, most):
            return Stop(
                f"nobody reported in {spans(empty)}. Look at the sampler and its dropout; lost_rounds=None "
                "(--lost-rounds 0) goes on all the same",
                failed=True,
            )
        return None

    def start(start: Start) -> None:
        lost.clear()
        empty.clear()
        about[:] = [start]
        for record in start.records:
            count(record)

    def end(history: History) -> None:
        if lost and history.stopped is None:
            LOG.warning("the run ends, and no client's update was finite in %s", spans(lost))

    return Observer(each, start, end)


def stop_when_diverged(rounds: int = 10, *, growth: float = 1e6) -> Observer:
    """Ends a run, as failed, when a loss was out of all bounds for some of its values in a row.

    Watched are "loss", the clients' own, and every evaluated metric called "..._loss". A value is out of bounds where
    it is not finite, above 1e30, or above `growth` times the lowest value so far (1 where that is below 1).

    Args:
      rounds: how many values in a row; the clients' loss has one in each round, an evaluated one in each evaluation. In
        a run of fewer rounds, as many as it has rounds.
      growth: see above.

    Returns:
      an Observer. After a resume it goes on from the records of the rounds before. Under noise for privacy its decision
      follows from losses past the noise: no guarantee covers when the run ends.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Example:
      >>> watch = stop_when_diverged(rounds=2)
      >>> [watch.round({"round": i, "test_loss": v}, None) for i, v in enumerate([3.0, 4e7])]
      [None, None]
      >>> watch.round({"round": 2, "test_loss": float("inf")}, None).reason[:44]
      'test_loss is out of bounds in rounds 1 to 2 '
    """
    checks.positive_count(rounds=rounds)
    checks.positive(growth=growth)
    lowest: dict[str, float] = {}
    out: dict[str, list[tuple[int, float]]] = {}
    limit = [rounds]

    def count(record: Mapping[str, Any]) -> None:
        for name, value in _losses(record):
            finite = math.isfinite(value)
            lowest[name] = min(lowest.get(name, math.inf), value if finite else math.inf)
            if finite and value <= min(_BEYOND, growth * max(1.0, lowest[name])):
                out.pop(name, None)
            else:
                out.setdefault(name, []).append((record["round"], value))

    def each(record: Mapping[str, Any], state: RoundState | None) -> Stop | None:
        del state
        count(record)
        for name, found in out.items():
            if len(found) >= limit[0]:
                return Stop(
                    f"{_told(name, found)}. Lower the clients' or the server's rate, or clip updates; "
                    "diverged_rounds=None (--diverged-rounds 0) goes on all the same",
                    failed=True,
                )
        return None

    def start(start: Start) -> None:
        lowest.clear()
        out.clear()
        limit[0] = min(rounds, start.num_rounds)
        for record in start.records:
            count(record)

    def end(history: History) -> None:
        if history.stopped is None:
            for name, found in out.items():
                LOG.warning("the run ends, and %s", _told(name, found))

    return Observer(each, start, end)


def _losses(record: Mapping[str, Any]) -> list[tuple[str, float]]:
    nobody = record.get("reported", 1) <= record.get("nonfinite", 0)
    return [(n, v) for n, v in record.items() if (n == "loss" and not nobody) or n.endswith("_loss")]


def _told(name: str, found: Sequence[tuple[int, float]]) -> str:
    values = ", ".join(f"{value:.3g}" for _, value in found[:3])
    more = ", ..." if len(found) > 3 else ""
    return f"{name} is out of bounds in {spans([number for number, _ in found])} ({values}{more})"


def _reporters(about: Sequence[Start], state: RoundState | None, rounds: Sequence[int]) -> str:
    """The clients that reported in some rounds: the cohorts are drawn again, as records do not name them."""
    if not about or state is None:
        return ""
    sampler, population = about[0].rounds.sampler, about[0].population
    if sampler.memory is not None:  # what it drew then followed from a memory that has gone on
        return ""
    sample, data = jax.jit(sampler.sample), population
    if population.on_disk:  # of which a draw gets the sizes alone
        sample, data = jax.jit(drawn_by(sampler, population)), np.asarray(population.offsets).astype(np.int32)
    found: set[int] = set()
    for number in rounds[-10:]:
        cohort = jax.tree.map(np.asarray, sample(here(state.keys.sample), number - 1, data))
        found.update(cohort.ids[cohort.selected & cohort.reported].tolist())
    named = ", ".join(map(str, sorted(found)[:20]))
    more = f" and {len(found) - 20} more" if len(found) > 20 else ""
    return f"; the clients were {named}{more}"
