"""Pictures of what leaks: reconstructions beside originals, and curves of membership guesses."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import fedjaxlite as fl
from fedjaxlite.privacy.attacks.curves import Roc

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    """Draws pictures in rows, one row an attack or a view and one column a victim; see `fl.plots.reconstructions`.

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
      >>> import numpy as np
      >>> figure = plot_reconstructions({"original": np.ones((2, 8, 8))}, captions={"original": ["a", "b"]})
      >>> len(figure.axes)
      2
    """
    return fl.plots.reconstructions(
        rows, captions=captions, headings=headings, group=group, bounds=bounds, title=title, path=path
    )


def plot_roc(
    curves: Mapping[str, Roc], path: str | os.PathLike[str] | None = None, *, least: float = 1e-4, title: str = ""
) -> "Figure":
    """Draws ROC curves on two logarithmic axes; see `fl.plots.roc`.

    Args:
      curves: by name, from `roc`.
      path: where to write it (.png, .pdf, .svg), or None.
      least: where the axes begin.
      title: above all.

    Returns:
      the matplotlib figure.

    Raises:
      ValueError: without curves.

    Example:
      >>> from fedjaxlite.privacy.attacks.curves import roc
      >>> figure = plot_roc({"loss": roc([0.9, 0.1], [True, False])})
      >>> figure.axes[0].get_xlabel()
      'false positive rate'
    """
    return fl.plots.roc(curves, least=least, title=title, path=path)
