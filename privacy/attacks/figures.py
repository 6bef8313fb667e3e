"""Pictures of what leaks: reconstructions beside originals, and curves of membership guesses."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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
    bounds: tuple[float, float] = (0.0, 1.0),
    title: str = "",
) -> "Figure":
    """Draws pictures in rows, one row an attack or a view and one column a victim.

    Args:
      rows: by name, floats `[n, height, width]` or `[n, height, width, channels]` with 1 or 3 channels; rows may
        differ in n. Values outside `bounds` are cut, and what is not finite is drawn black.
      path: where to write it (.png, .pdf, .svg), or None.
      captions: by name, a text below each picture, such as its PSNR.
      headings: a text above each column.
      bounds: the values of black and white.
      title: above all.

    Returns:
      the matplotlib figure.

    Raises:
      ValueError: without rows, or for arrays that are no pictures.

    Example:
      >>> figure = plot_reconstructions({"original": np.ones((2, 8, 8))}, captions={"original": ["a", "b"]})
      >>> len(figure.axes)
      2
    """
    from matplotlib.figure import Figure

    pictures = {name: _pictures(name, row, bounds) for name, row in rows.items()}
    if not pictures:
        raise ValueError("`rows` is empty; expected at least one row of pictures.")
    wide = max(len(row) for row in pictures.values())
    labels = max(len(name) for name in pictures)
    line = 1.05 if captions else 0.85
    figure = Figure(figsize=(0.85 * wide + 0.075 * labels + 0.3, line * len(pictures) + 0.5), layout="constrained")
    grid = figure.subplots(len(pictures), wide, squeeze=False)
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
    for axis, text in zip(grid[0], headings, strict=False):
        axis.set_title(text, fontsize=9)
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
