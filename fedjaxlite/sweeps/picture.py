"""The picture of a sweep."""

import os
from typing import Any

import numpy as np

from fedjaxlite.plots import over_rounds, series, style
from fedjaxlite.sweeps.grid import told


def plot(sweep: Any, metric: str, path: str | os.PathLike[str] | None) -> Any:
    """Curves over rounds, a line a point with 95 % intervals over seeds; where one round was measured, a point each."""
    figure = style.new_figure((6.5, 4.0))
    axis = figure.subplots()
    lines = []
    for place, point in enumerate(sweep.points):
        mean, half = series.interval(sweep.curves[metric][place])
        label = told(point) + (" (best)" if place == sweep.best else "")
        lines.append(series.Line(label, sweep.rounds.astype(np.float64), mean, half, len(sweep.seeds)))
    if len(sweep.rounds) > 1:
        over_rounds.draw(axis, lines, legend=True)
        over_rounds.describe(axis, "round", metric.replace("_", " "), set())
    else:
        halves = None if lines[0].half is None else [float(line.half[0]) for line in lines]
        places = np.arange(len(lines))
        axis.errorbar(places, [float(line.mean[0]) for line in lines], yerr=halves, fmt="o", capsize=3)
        axis.set_xticks(places, [line.label for line in lines], rotation=30, ha="right")
        axis.set_ylabel(metric.replace("_", " "))
    return style.finish(figure, path)
