"""Which way a metric is better: of the library's own it stands here, of all others it is told, never guessed."""

from collections.abc import Mapping
from typing import Any, Literal

Direction = Literal["lower", "higher"]

OWN: Mapping[str, Direction] = {
    "loss": "lower",
    "accuracy": "higher",
    "absolute_error": "lower",
}
"""The metrics that `fedjaxlite.losses` give."""

_LIKE = ("_mean", "_p10", "_p50", "_p90", "_worst10", "_best10", "_low", "_high")
_SPREAD = ("_var", "_gini", "_undefined")
"""What `ClientReport.summary` and intervals add to a name: values of the metric itself, and how unlike the clients are,
or how many have none."""


def direction(metric: str, given: Mapping[str, Direction]) -> Direction | None:
    """Which way a metric is better, or None where nobody has said so.

    Args:
      metric: its name, without that of the evaluation in front; it may be one that `ClientReport.summary` made.
      given: what was said of other metrics than the library's own; it goes first.

    Example:
      >>> direction("accuracy_worst10", {}), direction("loss_gini", {}), direction("mae", {"mae": "lower"})
      ('higher', 'lower', 'lower')
      >>> direction("log_loss", {}) is None
      True
    """
    known: dict[str, Direction] = {**OWN, **given}
    if metric in known:
        return known[metric]
    for end in (*_LIKE, *_SPREAD):
        if metric.endswith(end) and metric.removesuffix(end) in known:
            return "lower" if end in _SPREAD else known[metric.removesuffix(end)]
    return None


def directions(name: str, given: Any) -> dict[str, Direction]:
    """A mapping from metrics to "lower" or "higher", by the argument's name; None is an empty one."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f'`{name}` is {given!r}; expected a dict such as {{"mae": "lower"}}.')
    for metric, way in given.items():
        if not isinstance(metric, str):
            raise TypeError(f"`{name}` has the key {metric!r}; expected the name of a metric, a string.")
        one(f"{name}[{metric!r}]", way)
    return dict(given)


def one(name: str, way: Any) -> None:
    """Refuses what is neither "lower" nor "higher", by the argument's name."""
    if not isinstance(way, str) or way not in ("lower", "higher"):
        raise ValueError(f'`{name}` is {way!r}; expected "lower" or "higher", whichever is better.')
