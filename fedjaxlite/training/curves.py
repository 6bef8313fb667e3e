"""curves.png: accuracy and loss over rounds and over bytes."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_KINDS = ("accuracy", "loss")


def can_be_drawn(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any record has an accuracy or a loss: an algorithm need not tell one, and nobody may have evaluated."""
    return any(_names(records, kind) for kind in _KINDS)


def plot(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draws a run's curves into a file: the accuracies above, the losses below, over rounds and over bytes.

    Args:
      records: one dict a round, as `fedjaxlite.records` makes them. Every metric called "accuracy" or "loss", or
        ending in "_accuracy" or "_loss", becomes a line; those without a prefix are the clients' own, while training.
        Where a record was lost, what was sent by then is not known, and there are no curves over bytes.
        What records list as "simulation_only" is marked so.
      path: the image file; its suffix says the format.
      title: a line above all.

    Raises:
      ValueError: without records, or without any loss or accuracy.
    """
    # Inside, so that a program which writes no picture does not load what draws them.
    from fedjaxlite.plots import over_rounds, series, style

    rows = [(kind, _names(records, kind)) for kind in _KINDS if _names(records, kind)]
    if not rows:
        raise ValueError("there are no records with a loss or an accuracy to draw; run at least one round.")
    spans = ("round",) if any(record.get("missing") for record in records) else ("round", "bytes")
    figure = style.new_figure((11.5, 3.6 * len(rows)))
    axes = figure.subplots(len(rows), len(spans), sharey="row", squeeze=False)
    for (kind, names), pair in zip(rows, axes, strict=True):
        for axis, over in zip(pair, spans, strict=True):
            over_rounds.draw(axis, [_line(records, name, over) for name in names], legend=over == spans[-1])
            over_rounds.describe(axis, over, kind if over == "round" else "", series.unseen(records))
        if kind == "accuracy":
            pair[0].set_ylim(top=1.01)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _names(records: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """The metrics of a kind, those of the evaluation first."""
    found = dict.fromkeys(name for r in records for name in r if name == kind or name.endswith(f"_{kind}"))
    return sorted(found, key=lambda name: name == kind)


def _line(records: Sequence[Mapping[str, Any]], name: str, over: str) -> Any:
    from fedjaxlite.plots import over_rounds, series

    points = np.array(list(series.points(records, name, over, "the run").values()))
    label = f"{name} (clients, in training)" if "_" not in name else name.replace("_", " ")
    if name in series.unseen(records):
        label += over_rounds.MARK
    return series.Line(label, points[:, 0], points[:, 1], None, 1)
