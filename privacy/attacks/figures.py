"""Pictures of what leaks: reconstructions beside originals, and curves of membership guesses."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.attacks.curves import Roc, auc

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Lines that differ in pattern too, so that they can be told apart without color.
_STYLES = (
    ("-", "black"),
    ("--", "tab:blue"),
    ("-.", "tab:red"),
    (":", "tab:green"),
    ("-", "tab:orange"),
    ("--", "0.5"),
)


def plot_reconstructions(
    rows: Mapping[str, Any],
    path: str | os.PathLike[str] | None = None,
    *,
    captions: Mapping[str, Sequence[str]] | None = None,
    headings: Sequence[str] = (),
    group: int | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    title: str = "",
) -> "Figure":
    """Draws pictures in rows, one row an attack or a view and one column a victim.

    Args:
      rows: by name, floats `[n, height, width]` or `[n, height, width, channels]` with 1 or 3 channels; rows may
        differ in n. Values outside `bounds` are cut, and what is not finite is drawn black.
      path: where to write it (.png, .pdf, .svg), or None.
      captions: by name, a text below each picture, such as its PSNR.
      headings: a text above each group of columns.
      group: columns in a group, with a gap between groups; None is all in one.
      bounds: the values of black and white.
      title: above all.

    Returns:
      the matplotlib figure.

    Raises:
      ValueError, TypeError: without rows, for arrays that are no pictures, or a `group` below 1.

    Example:
      >>> figure = plot_reconstructions({"original": np.ones((2, 8, 8))}, captions={"original": ["a", "b"]})
      >>> len(figure.axes)
      2
    """
    if group is not None:
        fl.checks.positive_int(group=group)
    pictures = {name: _pictures(name, row, bounds) for name, row in rows.items()}
    if not pictures:
        raise ValueError("`rows` is empty; expected at least one row of pictures.")
    wide = max(len(row) for row in pictures.values())
    group = wide if group is None else group
    figure, grid = _grid(list(pictures), wide, group, 1.05 if captions else 0.85)
    for (name, row), axes in zip(pictures.items(), grid, strict=True):
        texts = (captions or {}).get(name, ())
        for column, axis in enumerate(axes):
            if column >= len(row):
                axis.remove()
                continue
            axis.imshow(row[column], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if column < len(texts):
                axis.set_xlabel(texts[column], fontsize=7, labelpad=2)
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for axis, text in zip(grid[0][::group], headings, strict=False):
        axis.set_title(text, fontsize=9, loc="left")
    if title:
        figure.suptitle(title, fontsize=10)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def plot_roc(
    curves: Mapping[str, Roc], path: str | os.PathLike[str] | None = None, *, least: float = 1e-4, title: str = ""
) -> "Figure":
    """Draws ROC curves on two logarithmic axes, where the few that are found without false alarms are seen.

    Args:
      curves: by name, from `roc`.
      path: where to write it (.png, .pdf, .svg), or None.
      least: where the axes begin.
      title: above all.

    Returns:
      the matplotlib figure.

    Raises:
      ValueError: without curves.

    Source: Carlini et al. (2022), https://arxiv.org/abs/2112.03570, section III, on why logarithmic.

    Example:
      >>> from fedjaxlite.privacy.attacks.curves import roc
      >>> figure = plot_roc({"loss": roc([0.9, 0.1], [True, False])})
      >>> figure.axes[0].get_xlabel()
      'false positive rate'
    """
    from matplotlib.figure import Figure

    if not curves:
        raise ValueError("`curves` is empty; expected at least one curve.")
    figure = Figure(figsize=(7.4, 4.4), layout="constrained")
    axis = figure.subplots()
    line = np.array([least, 1.0])
    axis.plot(line, line, color="0.75", linewidth=1, label="guessing (AUC 0.50)")
    for index, (name, curve) in enumerate(curves.items()):
        pattern, color = _STYLES[index % len(_STYLES)]
        axis.step(
            np.maximum(curve.fpr, least),
            np.maximum(curve.tpr, least),
            where="post",
            linestyle=pattern,
            color=color,
            linewidth=1.5,
            label=f"{name} (AUC {auc(curve):.2f})",
        )
    axis.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.05))
    axis.set_xlabel("false positive rate")
    axis.set_ylabel("true positive rate")
    axis.grid(color="0.92")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    if title:
        axis.set_title(title, fontsize=10)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _grid(names: Sequence[str], wide: int, group: int, line: float) -> tuple[Any, list[list[Any]]]:
    """A figure, and its axes by row and column, with a narrow empty column between groups."""
    from matplotlib.figure import Figure

    places, widths = [], []
    for column in range(wide):
        if column and column % group == 0:
            widths.append(0.25)
        places.append(len(widths))
        widths.append(1.0)
    size = (0.85 * sum(widths) + 0.075 * max(map(len, names)) + 0.3, line * len(names) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    spec = figure.add_gridspec(len(names), len(widths), width_ratios=widths)
    return figure, [[figure.add_subplot(spec[row, place]) for place in places] for row in range(len(names))]


def _pictures(name: str, row: Any, bounds: tuple[float, float]) -> np.ndarray:
    values = np.asarray(row, np.float64)
    if values.ndim == 4 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3 and not (values.ndim == 4 and values.shape[-1] == 3):
        raise ValueError(
            f"`rows[{name!r}]` has shape {list(values.shape)}; expected [n, height, width], or with 1 or 3 "
            "channels behind."
        )
    values = (np.nan_to_num(values, nan=bounds[0]) - bounds[0]) / (bounds[1] - bounds[0])
    return np.clip(values, 0.0, 1.0)
