"""Figures that several tables draw."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fedjaxlite as fl


def panels(runs: Mapping[str, Mapping[str, Any]], path: Path, *, metric: str, every: int = 1) -> None:
    """Draws curves side by side, a panel for each setting.

    Args:
      runs: by panel and label, floats `[seeds, rounds / every]`.
      path: of the figure.
      metric: the label of the vertical axes.
      every: rounds between the entries.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6 * len(runs), 3.8), layout="constrained")
    for axes, (title, own) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True):
        fl.plots.curves(own, metric=metric, every=every, title=title, axes=axes)
    figure.savefig(path, dpi=150)
