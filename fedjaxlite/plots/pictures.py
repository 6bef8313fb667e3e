"""Pictures in rows: what was trained on, and what was reconstructed of it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.plots import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reconstructions(
    rows: Any,
    *,
    captions: Mapping[str, Sequence[str]] | None = None,
    headings: Sequence[str] = (),
    group: int | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    title: str = "",
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws pictures in rows: the originals in the first, below them one row for each attack or view of the server.

    Args:
      rows: `{label: array}` in the order of the rows; floats `[n, H, W]` or `[n, H, W, C]` with 1 or 3 channels, n of
        which may differ. Values outside `bounds` are cut, and what is not finite is drawn black.
      captions: `{label: texts}` for a text below each picture of a row, such as its PSNR.
      headings: a text above each group of columns.
      group: columns in a group, with a gap between groups; None is all in one.
      bounds: the values of black and white.
      title: above all.
      axes: an array of matplotlib Axes `[rows, columns]`, or None.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: there are no rows, or arrays that are no pictures; captions of a row that there is not;
        `group` is below 1, the second of `bounds` not above the first, or `axes` of another shape.

    Example:
      >>> import fedjaxlite as fl
      >>> figure = fl.plots.reconstructions({"original": np.ones((2, 8, 8))}, captions={"original": ["a", "b"]})
      >>> len(figure.axes)
      2
    """
    if group is not None:
        checks.positive_int(group=group)
    if not bounds[0] < bounds[1]:
        raise ValueError(f"`bounds` is {bounds}; expected (black, white) with black below white.")
    pictures = {label: _pictures(label, row, bounds) for label, row in series.labeled(rows, "rows").items()}
    captions = captions or {}
    if unknown := [label for label in captions if label not in pictures]:
        raise ValueError(
            f"`captions` has the rows {', '.join(map(repr, unknown))}, but the pictures are those of "
            f"{', '.join(map(repr, pictures))}."
        )
    wide = max(len(row) for row in pictures.values())
    group = wide if group is None else group
    figure, grid = _grid(list(pictures), wide, group, 1.05 if captions else 0.85, axes)
    for (label, row), places in zip(pictures.items(), grid, strict=True):
        texts = captions.get(label, ())
        for column, axis in enumerate(places):
            if column >= len(row):
                axis.remove()
                continue
            axis.imshow(row[column], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if column < len(texts):
                axis.set_xlabel(str(texts[column]), fontsize=7, labelpad=2)
        places[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    for axis, text in zip(grid[0][::group], headings, strict=False):
        axis.set_title(text, fontsize=9, loc="left")
    if title:
        figure.suptitle(title, fontsize=10)
    return style.finish(figure, path)


def _grid(names: Sequence[str], wide: int, group: int, line: float, axes: Any) -> tuple[Any, list[list[Any]]]:
    """A figure, and its axes by row and column, with a narrow empty column between groups."""
    if axes is not None:
        given = np.asarray(axes, dtype=object)
        if given.size == len(names) * wide and given.ndim < 2:
            given = given.reshape(len(names), wide)
        if given.shape != (len(names), wide):
            raise ValueError(
                f"`axes` has shape {list(given.shape)}; expected [{len(names)}, {wide}], one for each picture: "
                "figure.subplots(rows, columns, squeeze=False)."
            )
        return given[0, 0].figure.figure, given.tolist()
    places, widths = [], []
    for column in range(wide):
        if column and column % group == 0:
            widths.append(0.25)
        places.append(len(widths))
        widths.append(1.0)
    size = (0.85 * sum(widths) + 0.075 * max(map(len, names)) + 0.3, line * len(names) + 0.5)
    figure = style.new_figure(size)
    spec = figure.add_gridspec(len(names), len(widths), width_ratios=widths)
    return figure, [[figure.add_subplot(spec[row, place]) for place in places] for row in range(len(names))]


def _pictures(label: str, row: Any, bounds: tuple[float, float]) -> np.ndarray:
    values = np.asarray(row, np.float64)
    if values.ndim == 4 and values.shape[-1] == 1:
        values = values[..., 0]
    if (values.ndim != 3 and not (values.ndim == 4 and values.shape[-1] == 3)) or len(values) == 0:
        raise ValueError(
            f"`rows[{label!r}]` has shape {list(values.shape)}; expected [n, height, width], or with 1 or 3 "
            "channels behind."
        )
    values = (np.nan_to_num(values, nan=bounds[0]) - bounds[0]) / (bounds[1] - bounds[0])
    return np.clip(values, 0.0, 1.0)
