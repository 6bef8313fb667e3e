"""Figures that several tables draw."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import fedjaxlite as fl
from fedjaxlite.plots import style
from fedjaxlite.reproduce.seeds import interval
from fedjaxlite.reproduce.table import Cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def by_setting(done: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows named "setting: method", by setting and method.

    Example:
      >>> by_setting({"iid: FedAvg": 1, "iid: Ditto": 2, "skewed: FedAvg": 3})
      {'iid': {'FedAvg': 1, 'Ditto': 2}, 'skewed': {'FedAvg': 3}}
    """
    settings: dict[str, dict[str, Any]] = {}
    for name, value in done.items():
        setting, method = name.split(": ", 1)
        settings.setdefault(setting, {})[method] = value
    return settings


def panels(runs: Mapping[str, Mapping[str, Any]], *, metric: str, every: int = 1) -> "Figure":
    """Draws curves side by side, a panel for each setting.

    Args:
      runs: by panel and label, floats `[seeds, rounds / every]`.
      metric: the label of the vertical axes.
      every: rounds between the entries.

    Returns:
      the figure.
    """
    alike = len({tuple(own) for own in runs.values()}) == 1
    width = 4.2 * len(runs) + 2.6 if alike else 6.6 * len(runs)
    figure = style.new_figure((width, 3.8))
    grid = figure.subplots(1, len(runs), squeeze=False)[0]
    for axes, (title, own) in zip(grid, runs.items(), strict=True):
        legend = not alike or axes is grid[-1]  # one is enough
        fl.plots.curves(own, metric=metric, every=every, title=title, legend=legend, axes=axes)
    return figure


def points(rows: Mapping[str, Mapping[str, Cells]], columns: Sequence[str], *, xlabel: str) -> "Figure":
    """Draws means over seeds with 95 % intervals, a panel for each setting and a line of it for each row.

    Args:
      rows: by panel and row, cells that hold a number, or a list of one a seed, under each of `columns`.
      columns: what to draw, each with its own marker.
      xlabel: the label of the values.

    Returns:
      the figure.
    """
    most = max(map(len, rows.values()))
    figure = style.new_figure((4.6 * len(rows) + 1.8, 0.34 * most + 1.3))
    for axes, (title, own) in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows.items(), strict=True):
        for index, column in enumerate(columns):
            found = [interval(np.atleast_1d(cells[column])) for cells in own.values()]
            look, at = style.look(index), np.arange(len(own)) + 0.18 * (index - (len(columns) - 1) / 2)
            means, halves = [value.mean for value in found], np.nan_to_num([value.half for value in found])
            common = {"color": look.color, "marker": look.marker, "markersize": 5, "linestyle": "none"}
            axes.errorbar(means, at, xerr=halves, capsize=3, elinewidth=1, label=column, **common)
        axes.set_yticks(range(len(own)), list(own))
        axes.set_ylim(len(own) - 0.5, -0.5)
        axes.set_xlabel(xlabel)
        axes.set_title(title, fontsize=10)
        axes.grid(visible=True, axis="x", color=style.GRID)
    if len(columns) > 1:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def stamp(figure: "Figure", words: str) -> None:
    """Writes across a figure."""
    look: dict[str, Any] = {"fontsize": 20, "color": "0.4", "alpha": 0.5, "rotation": 20, "zorder": 100}
    figure.text(0.5, 0.5, words, ha="center", va="center", **look)
