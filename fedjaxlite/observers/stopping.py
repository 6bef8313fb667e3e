"""Observers that end a run: at a target, or when a metric no longer improves."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fedjaxlite import checks, directions
from fedjaxlite.directions import Direction
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers.observer import Observer, Start, Stop

_EVALUATED = ("test_", "clients_")
"""How the names of evaluated metrics begin where the evaluation has no name of its own."""


def stop_at(target: Mapping[str, float], *, better: Mapping[str, Direction] | None = None) -> Observer:
    """Ends the run at the first evaluated round that reaches every target.

    Args:
      target: such as {"accuracy": 0.97}. A name is that of an evaluated metric in the records, or that name without
        "test_". A metric falls or rises to its target as is better: the library's own ("loss", "accuracy",
        "absolute_error", and what `ClientReport.summary` makes of them) are known.
      better: "lower" or "higher" for other metrics, by the names in `target`, such as {"mae": "lower"}; needed where
        neither `fl.train(better=...)` nor the loss (`fedjaxlite.losses.declare`) says it.

    Returns:
      an Observer.

    Raises:
      TypeError, ValueError: for targets that are no finite numbers; before the first round, for names that the
        evaluation does not give, and for metrics of which nobody says which way is better.
    """
    if not isinstance(target, Mapping) or not target:
        raise TypeError(f'`target` is {target!r}; expected a dict such as {{"accuracy": 0.97}}.')
    for name, value in target.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"`target[{name!r}]` is {value!r}; expected a finite number.")
    given = directions.directions("better", better)
    resolved: dict[str, tuple[float, Direction]] = {}

    def start(start: Start) -> None:
        for name, value in target.items():
            found = next((n for n in (name, f"test_{name}") if n in start.metrics), None)
            if found is None:
                raise ValueError(f"`target` names {name!r}, but {_evaluated(start.metrics)}. Name one of those.")
            way: Direction | None = given.get(name) or given.get(found) or start.better.get(found)
            if way is None:
                raise ValueError(
                    f"`target` names {name!r}, and nobody says whether it is to fall or to rise to {value:g}. Say "
                    f'which is better: better={{{name!r}: "lower"}}, or "higher".'
                )
            resolved[found] = (float(value), way)

    def each(record: Mapping[str, Any], state: RoundState) -> Stop | None:
        del state
        for name, (value, way) in resolved.items():
            if name not in record or not (record[name] <= value if way == "lower" else record[name] >= value):
                return None
        reached = " and ".join(f"{name} reached {record[name]:.4g}" for name in resolved)
        return Stop(f"{reached} at round {record['round']}")

    return Observer(each, start)


def early_stop(metric: str, *, patience: int, min_change: float = 0.0, better: Direction | None = None) -> Observer:
    """Ends the run when a metric has not improved for some of its values.

    Args:
      metric: a name in the records, such as "test_loss"; rounds without it are passed over. A value that is not finite
        is no improvement.
      patience: how many values in a row without improvement are too many.
      min_change: what counts as improvement.
      better: "lower" or "higher". Needed for metrics other than "loss", "accuracy" and "absolute_error" (evaluated, or
        of the local training), where neither `fl.train(better=...)` nor the loss (`fedjaxlite.losses.declare`) says it.

    Returns:
      an Observer. After a resume it goes on from the records of the rounds before.

    Raises:
      TypeError, ValueError: for arguments out of range; before the first round, for a name that the evaluation does not
        give, or of which nobody says which way is better; after the first, for one that is not evaluated and that
        its record does not have either.

    Example:
      >>> watch = early_stop("test_loss", patience=2)
      >>> [watch.round({"round": i, "test_loss": v}, None) for i, v in enumerate([3.0, 2.0, 2.5])]
      [None, None, None]
      >>> watch.round({"round": 3, "test_loss": 2.0}, None).reason
      'test_loss has not improved since round 1'
    """
    if not isinstance(metric, str):
        raise TypeError(f'`metric` is {metric!r}; expected a name in the records, such as "test_loss".')
    checks.positive_count(patience=patience)
    checks.nonnegative(min_change=min_change)
    if better is not None:
        directions.one("better", better)
    best: dict[str, float] = {}
    told: dict[str, Any] = {"better": better or _known(metric), "sought": False}

    def each(record: Mapping[str, Any], state: RoundState | None) -> Stop | None:
        del state
        if metric not in record:
            if told["sought"]:
                raise ValueError(
                    f"`metric` is {metric!r}, which is neither evaluated nor in the record of round {record['round']}, "
                    f"which has {', '.join(record)}. Name one of those; an observer that adds it has to stand before "
                    "early_stop, and to add it from the first round on."
                )
            return None
        told["sought"] = False
        if told["better"] is None:
            raise ValueError(_unsaid(metric))
        value = -record[metric] if told["better"] == "lower" else record[metric]
        if math.isfinite(value) and value > best.get("value", -math.inf) + min_change:
            best.update(value=value, round=record["round"], waited=0)
            return None
        best["waited"] = best.get("waited", 0) + 1
        if best["waited"] < patience:
            return None
        return Stop(f"{metric} has not improved since round {best.get('round', 0)}")

    def start(start: Start) -> None:
        told.update(better=_checked(metric, better, start), sought=False)
        best.clear()
        for record in start.records:
            each(record, None)
        told["sought"] = metric not in start.metrics and not any(metric in record for record in start.records)

    return Observer(each, start)


def _checked(metric: str, better: Direction | None, start: Start) -> Direction:
    """Which way the metric is better, if there may be one of this name."""
    evaluated = metric in start.metrics
    way = better or start.better.get(metric) or _known(metric)
    if not evaluated and (way is None or metric.startswith(_EVALUATED)):
        raise ValueError(
            f"`metric` is {metric!r}, but {_evaluated(start.metrics)}. Name one of those; or a metric of the local "
            'training, or one that an observer adds, together with better="lower" or better="higher".'
        )
    if way is None:
        raise ValueError(_unsaid(metric))
    return way


def _known(metric: str) -> Direction | None:
    return directions.direction(metric.removeprefix("test_"), {})


def _unsaid(metric: str) -> str:
    return (
        f"`metric` is {metric!r}, and nobody says which way it is better. Say it: "
        f'early_stop({metric!r}, better="lower", ...), or "higher".'
    )


def _evaluated(metrics: Iterable[str]) -> str:
    return f"the evaluation gives {', '.join(metrics) or 'nothing, since there is no `evaluate`'}"
