"""Observers that end a run: at a target, or when a metric no longer improves."""

import math
from collections.abc import Mapping
from typing import Any

from fedjaxlite import checks
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.observers.observer import Observer, Start, Stop


def stop_at(target: Mapping[str, float]) -> Observer:
    """Ends the run at the first evaluated round that reaches every target.

    Args:
      target: such as {"accuracy": 0.97}. A name is that of an evaluated metric in the records, or that name without
        "test_". Metrics with "loss" or "error" in their name are to fall to the target, all others to rise to it.

    Returns:
      an Observer.

    Raises:
      TypeError, ValueError: for targets that are no finite numbers; before the first round, for names that the
        evaluation does not give.
    """
    if not isinstance(target, Mapping) or not target:
        raise TypeError(f'`target` is {target!r}; expected a dict such as {{"accuracy": 0.97}}.')
    for name, value in target.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"`target[{name!r}]` is {value!r}; expected a finite number.")
    resolved: dict[str, float] = {}

    def start(start: Start) -> None:
        for name, value in target.items():
            found = next((n for n in (name, f"test_{name}") if n in start.metrics), None)
            if found is None:
                known = ", ".join(start.metrics) or "nothing, since there is no `evaluate`"
                raise ValueError(f"`target` names {name!r}, but the evaluation gives {known}. Name one of those.")
            resolved[found] = float(value)

    def each(record: Mapping[str, Any], state: RoundState) -> Stop | None:
        del state
        for name, value in resolved.items():
            if name not in record or not _reached(name, record[name], value):
                return None
        reached = " and ".join(f"{name} reached {record[name]:.4g}" for name in resolved)
        return Stop(f"{reached} at round {record['round']}")

    return Observer(each, start)


def _reached(name: str, value: float, target: float) -> bool:
    return value <= target if _falls(name) else value >= target


def _falls(name: str) -> bool:
    return "loss" in name or "error" in name


def early_stop(metric: str, *, patience: int, min_change: float = 0.0) -> Observer:
    """Ends the run when a metric has not improved for some of its values.

    Args:
      metric: a name in the records, such as "test_loss"; rounds without it are passed over. Better is lower for names
        with "loss" or "error" in them, else higher. A value that is not finite is no improvement.
      patience: how many values in a row without improvement are too many.
      min_change: what counts as improvement.

    Returns:
      an Observer. After a resume it goes on from the records of the rounds before.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Example:
      >>> watch = early_stop("test_loss", patience=2)
      >>> [watch.round({"round": i, "test_loss": v}, None) for i, v in enumerate([3.0, 2.0, 2.5])]
      [None, None, None]
      >>> watch.round({"round": 3, "test_loss": 2.0}, None).reason
      'test_loss has not improved since round 1'
    """
    checks.positive_int(patience=patience)
    checks.nonnegative(min_change=min_change)
    best: dict[str, float] = {}

    def each(record: Mapping[str, Any], state: RoundState | None) -> Stop | None:
        del state
        if metric not in record:
            return None
        value = -record[metric] if _falls(metric) else record[metric]
        if math.isfinite(value) and value > best.get("value", -math.inf) + min_change:
            best.update(value=value, round=record["round"], waited=0)
            return None
        best["waited"] = best.get("waited", 0) + 1
        if best["waited"] < patience:
            return None
        return Stop(f"{metric} has not improved since round {best.get('round', 0)}")

    def start(start: Start) -> None:
        best.clear()
        for record in start.records:
            each(record, None)

    return Observer(each, start)
