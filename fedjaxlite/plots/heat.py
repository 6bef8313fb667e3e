"""Heat maps: numbers by row and column, such as rules against attacks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heat_map(
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str = "",
    xlabel: str = "",
    ylabel: str = "",
    limits: tuple[float, float] | None = None,
    digits: int = 1,
    title: str = "",
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws numbers by row and column as cells in shades, with the numbers in them; NaN stays empty.

    Args:
      values: floats `[R, C]`; or `[seeds, R, C]`, of which the means are drawn.
      rows: R labels, the first on top.
      columns: C labels.
      label: of the shades, what is shown and its unit.
      xlabel: what the columns are.
      ylabel: what the rows are.
      limits: the numbers of the darkest and of the lightest shade; None takes the least and the largest.
      digits: behind the point.
      title: above the axes.
      axes: matplotlib Axes to draw into, or None.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: values that are no numbers or of another shape; limits out of order; `axes` are none.

    Example:
      >>> import fedjaxlite as fl
      >>> figure = fl.plots.heat_map([[90.0, 11.0], [89.0, 80.0]], ["mean", "median"], ["f=1", "f=3"])
      >>> [text.get_text() for text in figure.axes[0].texts]
      ['90.0', '11.0', '89.0', '80.0']
    """
    digits = checks.nonnegative_int(digits=digits)
    table = _table(values, rows, columns)
    low, high = _limits(table, limits)
    figure, axis = style.single(axes, (1.6 + 0.9 * len(columns) + 0.09 * max(map(len, rows)), 1.2 + 0.38 * len(rows)))
    # One hue from dark to light reads the same in gray and for the color blind.
    image = axis.imshow(np.ma.masked_invalid(table), cmap="cividis", vmin=low, vmax=high, aspect="auto")
    axis.set_xticks(range(len(columns)), list(columns))
    axis.set_yticks(range(len(rows)), list(rows))
    middle = (low + high) / 2
    for (row, column), value in np.ndenumerate(table):
        if np.isfinite(value):
            color = "white" if value < middle else "black"
            axis.text(column, row, f"{value:.{digits}f}", ha="center", va="center", color=color, fontsize=9)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    figure.colorbar(image, ax=axis, label=label)
    style.entitle(axis, title)
    return style.finish(figure, path)


def _table(values: Any, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    for name, labels in {"rows": rows, "columns": columns}.items():
        if isinstance(labels, str) or not all(isinstance(text, str) for text in labels) or not labels:
            raise TypeError(f"`{name}` is {checks.shown(labels)}; expected a list of labels, at least one.")
    try:
        table = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"`values` is {checks.shown(values)}; expected floats [R, C] or [seeds, R, C].") from None
    table = table.mean(0) if table.ndim == 3 and len(table) else table
    if table.shape != (len(rows), len(columns)):
        raise ValueError(
            f"`values` has shape {list(np.shape(values))}, and there are {len(rows)} rows and {len(columns)} columns; "
            f"expected [{len(rows)}, {len(columns)}], or [seeds, {len(rows)}, {len(columns)}]."
        )
    return table


def _limits(table: np.ndarray, limits: tuple[float, float] | None) -> tuple[float, float]:
    if limits is None:
        finite = table[np.isfinite(table)]
        return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if not isinstance(limits, Sequence) or len(limits) != 2 or not limits[0] < limits[1]:
        raise ValueError(f"`limits` is {checks.shown(limits)}; expected (least, largest), the least first.")
    return float(limits[0]), float(limits[1])
