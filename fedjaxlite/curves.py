"""curves.png: accuracy and loss over rounds and over bytes."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

# Lines that differ in pattern and marker, so that they can be told apart without color.
_STYLES = (("-", "o", "black"), ("--", "s", "tab:blue"), (":", "^", "tab:red"), ("-.", "D", "tab:green"))


def plot(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draws a run's curves into a file: the accuracies above, the losses below, over rounds and over bytes.

    Args:
      records: one dict a round, as `fedjaxlite.records` makes them. Every metric called "accuracy" or "loss", or
        ending in "_accuracy" or "_loss", becomes a line; those without a prefix are the clients' own, while training.
      path: the image file; its suffix says the format.
      title: a line above all.

    Raises:
      ValueError: without records, or without any loss or accuracy.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [(kind, names) for kind in ("accuracy", "loss") if (names := _names(records, kind))]
    if not rows:
        raise ValueError("there are no records with a loss or an accuracy to draw; run at least one round.")
    sent = _megabytes(records)
    figure = Figure(figsize=(10, 3.6 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 2, sharey="row", squeeze=False)
    for (kind, names), pair in zip(rows, axes, strict=True):
        for axis, over in zip(pair, ("rounds", "bytes"), strict=True):
            for name, style in zip(names, _STYLES * len(names), strict=False):
                _line(axis, records, name, sent if over == "bytes" else None, style)
            axis.set_xlabel("round" if over == "rounds" else "sent so far, up and down, by all clients [MB]")
            axis.grid(True, color="0.9")
        pair[0].set_ylabel(kind)
        pair[0].legend(frameon=False)
        if kind == "accuracy":
            pair[0].set_ylim(top=1.01)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _names(records: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """The metrics of a kind, those of the evaluation first."""
    found = dict.fromkeys(name for r in records for name in r if name == kind or name.endswith(f"_{kind}"))
    return sorted(found, key=lambda name: name == kind)


def _megabytes(records: Sequence[Mapping[str, Any]]) -> list[float]:
    total, sums = 0, []
    for record in records:
        total += record.get("bytes_up", 0) + record.get("bytes_down", 0)
        sums.append(total / 1e6)
    return sums


def _line(axis: Any, records: Sequence[Mapping[str, Any]], name: str, over: list[float] | None, style: Any) -> None:
    pattern, marker, color = style
    points = [
        (record["round"] if over is None else over[i], record[name])
        for i, record in enumerate(records)
        if name in record and math.isfinite(record[name])
    ]
    every = max(1, len(points) // 12)
    label = f"{name} (clients, in training)" if "_" not in name else name.replace("_", " ")
    axis.plot(
        *(zip(*points, strict=True) if points else ((), ())),
        linestyle=pattern,
        marker=marker,
        markevery=every,
        markersize=4,
        color=color,
        linewidth=1.4,
        label=label,
    )
