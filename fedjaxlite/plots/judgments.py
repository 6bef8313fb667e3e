"""What a classifier takes for what, and whether it is as sure as it is right; pooled, or client by client."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.metrics.probabilities import reliability as reliability_metric
from fedjaxlite.plots import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PERFECT = "as sure as right"
_MOST = 16
"""Panels of one figure."""


def reliability(
    tables: Any,
    *,
    clients: Sequence[int] | None = None,
    title: str = "",
    legend: bool = True,
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws how often a model is right where it is how sure; below the diagonal it is surer than it should be.

    The legend has the expected calibration error, the mean distance from the diagonal.

    Args:
      tables: `{label: table}`, or one alone: `[bins, 3]` of `fl.metrics.reliability`; `(outputs, labels)`, logits
        `[n, C]` or `[n]` and classes `[n]`, for 15 bins; or a ClientReport that was made with that metric, whose
        clients are pooled.
      clients: indices of clients, for a line each instead; with reports alone.
      title: above the axes.
      legend: whether to draw a legend; without one, that of the axes stays as it is.
      axes: matplotlib Axes to draw into, or None.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: for what is none of these, or holds no example; for clients that a report does not have.

    Source: Guo, Pleiss, Sun, Weinberger (2017), https://arxiv.org/abs/1706.04599, figure 1.

    Example:
      >>> import fedjaxlite as fl
      >>> figure = fl.plots.reliability({"one": [[0, np.nan, np.nan], [8, 0.75, 0.5]]})
      >>> figure.axes[0].lines[1].get_label()
      'one (ECE 0.25)'
    """
    legend = checks.flag(legend=legend)
    lines: dict[str, np.ndarray] = {}
    for label, given in series.labeled(tables, "tables").items():
        where = f"`tables[{label!r}]`" if label else "`tables`"
        for name, table in _chosen(given, "reliability", where, clients).items():
            lines[" ".join(filter(None, (label, name)))] = _table(table, where)
    figure, axis = style.single(axes, (7.0, 4.4))
    before = style.num_lines(axis)
    if not any(line.get_label() == _PERFECT for line in axis.lines):
        axis.plot([0.0, 1.0], [0.0, 1.0], color="0.75", linewidth=1, label=_PERFECT)
    for index, (label, table) in enumerate(lines.items(), start=before):
        some = table[table[:, 0] > 0]
        look = style.look(index)
        error = float((some[:, 0] * np.abs(some[:, 2] - some[:, 1])).sum() / some[:, 0].sum())
        axis.plot(
            some[:, 1],
            some[:, 2],
            linestyle=look.linestyle,
            marker=look.marker,
            markersize=4.5,
            color=look.color,
            linewidth=1.4,
            label=f"{label} (ECE {error:.2g})".strip(),
        )
    axis.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axis.set_xlabel("confidence")
    axis.set_ylabel("accuracy")
    axis.grid(visible=True, color=style.GRID)
    if legend:
        style.legend(axis)
    style.entitle(axis, title)
    return style.finish(figure, path)


def confusion(
    matrices: Any,
    *,
    classes: Sequence[str] | None = None,
    clients: Sequence[int] | None = None,
    title: str = "",
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws what was taken for which: a panel a model, or a client.

    Shades are shares of a label's examples, so that a rare class shows as much as a frequent one; the numbers in the
    cells are counts, for up to 12 classes.

    Args:
      matrices: `{label: matrix}`, or one alone: `[C, C]` of `fl.metrics.confusion_matrix`, rows are labels; or a
        ClientReport that was made with that metric, whose clients are pooled.
      classes: their names, C of them; numbers where not given.
      clients: indices of clients, for a panel each instead, 16 at most; with reports alone.
      title: above the axes.
      axes: matplotlib Axes to draw a single panel into, or None.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: for what is no square matrix of counts; for names that are not one a class; for more than
        16 panels, or several and `axes`.

    Example:
      >>> import fedjaxlite as fl
      >>> figure = fl.plots.confusion([[8, 2], [1, 9]], classes=["ill", "well"])
      >>> [text.get_text() for text in figure.axes[0].texts]
      ['8', '2', '1', '9']
    """
    panels: dict[str, np.ndarray] = {}
    for label, given in series.labeled(matrices, "matrices").items():
        where = f"`matrices[{label!r}]`" if label else "`matrices`"
        for name, matrix in _chosen(given, "confusion_matrix", where, clients).items():
            panels[" ".join(filter(None, (label, name)))] = _square(matrix, where, classes)
    if len(panels) > _MOST or (axes is not None and len(panels) > 1):
        most = "1, since `axes` are given" if axes is not None else _MOST
        raise ValueError(
            f"there are {len(panels)} matrices to draw; expected at most {most}. Choose with clients=[...]."
        )
    columns = min(4, math.ceil(math.sqrt(len(panels))))
    rows = -(-len(panels) // columns)
    if axes is None and len(panels) > 1:
        figure = style.new_figure((2.6 * columns + 0.6, 2.6 * rows + 0.4))
        grid = list(np.ravel(figure.subplots(rows, columns)))
        for spare in grid[len(panels) :]:
            figure.delaxes(spare)
        if title:
            figure.suptitle(title, fontsize=10)
    else:
        figure, axis = style.single(axes, (5.2, 4.4))
        grid = [axis]
    for axis, (label, matrix) in zip(grid, panels.items(), strict=False):
        _panel(axis, matrix, classes)
        style.entitle(axis, label if len(panels) > 1 else title or label)
    return style.finish(figure, path)


def _panel(axis: Any, matrix: np.ndarray, classes: Sequence[str] | None) -> None:
    total = matrix.sum(1, keepdims=True)
    share = matrix / np.where(total > 0, total, 1.0)
    axis.imshow(share, cmap="Greys", vmin=0, vmax=1)
    size = len(matrix)
    if size <= 12:
        for row, column in np.ndindex(size, size):
            color = "white" if share[row, column] > 0.5 else "black"
            text = f"{matrix[row, column]:.4g}"
            axis.text(column, row, text, ha="center", va="center", fontsize=max(5, 11 - size // 2), color=color)
        names = [str(i) for i in range(size)] if classes is None else list(classes)
        longest = max(map(len, names))
        axis.set_xticks(range(size), names, fontsize=8, rotation=90 if longest > 3 else 0)
        axis.set_yticks(range(size), names, fontsize=8)
    else:
        style.whole_numbers(axis.xaxis)
        style.whole_numbers(axis.yaxis)
    axis.set_xlabel("taken for", fontsize=9)
    axis.set_ylabel("label", fontsize=9)


def _chosen(given: Any, metric: str, where: str, clients: Sequence[int] | None) -> dict[str, Any]:
    """What is to be drawn of an entry, by what is added to its label."""
    arrays = getattr(given, "arrays", None)
    if arrays is None:
        if clients is not None:
            raise TypeError(f"`clients` are given, and {where} is a {type(given).__name__}; expected a ClientReport.")
        return {"": given}
    if metric not in arrays:
        raise ValueError(
            f"{where} has no {metric!r} among its arrays; make it with fl.evaluate_clients(..., "
            f"metrics=[fl.metrics.{metric}()])."
        )
    every = np.asarray(arrays[metric], np.float64)
    if clients is None:
        return {"": _pooled(every) if metric == "reliability" else np.nansum(every, axis=0)}
    names = getattr(given, "names", None)
    found = {}
    for client in clients:
        if not isinstance(client, (int, np.integer)) or not 0 <= client < len(every):
            raise ValueError(f"`clients` has {client!r}; expected indices from 0 to {len(every) - 1} in {where}.")
        found[f"client {client if names is None else names[client]}"] = every[client]
    return found


def _pooled(tables: np.ndarray) -> np.ndarray:
    """One table `[bins, 3]` of those of all clients."""
    count = tables[:, :, :1]
    total = np.nansum(count, axis=0)
    sums = np.nansum(np.where(count > 0, count * np.nan_to_num(tables[:, :, 1:]), 0.0), axis=0)
    return np.concatenate([total, sums / np.where(total > 0, total, np.nan)], axis=1)


def _table(given: Any, where: str) -> np.ndarray:
    if isinstance(given, tuple) and len(given) == 2:
        import jax.numpy as jnp

        outputs, labels = (np.asarray(checks.real_array(**{where.strip("`"): each})) for each in given)
        metric = reliability_metric()
        given = metric.finish(
            metric.batch(jnp.asarray(outputs), jnp.asarray(labels), jnp.ones(len(labels), jnp.float32))
        )
    try:
        table = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{where} is a {type(given).__name__}; expected [bins, 3] of fl.metrics.reliability, (outputs, labels), or "
            "a ClientReport."
        ) from None
    if table.ndim != 2 or table.shape[1] != 3:
        raise ValueError(f"{where} has shape {list(table.shape)}; expected [bins, 3]: count, confidence, accuracy.")
    if not (table[:, 0] > 0).any():
        raise ValueError(f"{where} has no examples in any bin; there is nothing to draw.")
    return table


def _square(given: Any, where: str, classes: Sequence[str] | None) -> np.ndarray:
    try:
        matrix = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{where} is a {type(given).__name__}; expected [C, C], or a ClientReport.") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"{where} has shape {list(matrix.shape)}; expected [C, C], rows are labels.")
    if not (matrix >= 0).all():
        raise ValueError(f"{where} has NaN or numbers below 0; expected counts.")
    if classes is not None and len(classes) != len(matrix):
        raise ValueError(f"`classes` has {len(classes)} names for {len(matrix)} classes; expected one for each.")
    return matrix
