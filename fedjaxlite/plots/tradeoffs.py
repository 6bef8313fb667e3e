"""What privacy costs: epsilon over rounds, accuracy against epsilon, and rates of found members."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.plots import over_rounds, series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (8.0, 4.0)
_KNOWN = "(where the seed is known)"
_GUESSING = "guessing (AUC 0.50)"


def epsilon(
    runs: Any,
    *,
    budget: float | None = None,
    over: str = "round",
    title: str = "",
    legend: bool = True,
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws the epsilon that all rounds so far have cost, from records that hold "epsilon".

    Where it rests on cohorts from a seed that was given, what holds against those who know the seed is drawn too.

    Args:
      runs: as in `curves`; `privacy.running_epsilon` puts "epsilon" into the records of `fl.train`.
      budget: an epsilon to mark by a horizontal line, or None.
      over: "round", "bytes" or "seconds".
      title: above the axes, such as the delta.
      legend: whether to draw a legend; without one, that of the axes stays as it is.
      axes: matplotlib Axes to draw into, or None.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: as `curves`; a budget that is no finite number above 0.

    Example:
      >>> import fedjaxlite as fl
      >>> records = [{"round": 1, "epsilon": 0.5}, {"round": 2, "epsilon": 0.7}]
      >>> figure = fl.plots.epsilon({"z = 1": records}, budget=1.0)
      >>> figure.axes[0].get_ylabel()
      'epsilon so far'
    """
    legend = checks.flag(legend=legend)
    if budget is not None:
        checks.positive(budget=budget)
    remedy = "Train with observers=[privacy.running_epsilon(delta=...)], which adds it."
    found = series.lines(runs, metric="epsilon", over=over, remedy=remedy)
    figure, axis = style.single(axes, _SIZE)
    over_rounds.draw(axis, found, legend=False)
    beside = series.having(runs, "epsilon_unamplified")
    if beside:
        known = series.lines(beside, metric="epsilon_unamplified", over=over)
        named = [line._replace(label=f"{line.label} {_KNOWN}".strip()) for line in known]
        over_rounds.draw(axis, named, legend=False)
    if budget is not None:
        axis.axhline(budget, color="black", linewidth=2.2, linestyle=(0, (2, 1)), label=f"budget {budget:g}")
    if legend:
        style.legend(axis)
    over_rounds.describe(axis, over, "epsilon so far", series.unseen(runs))
    axis.set_ylim(bottom=0)
    style.entitle(axis, title)
    return style.finish(figure, path)


def accuracy_against_epsilon(
    rows: Any,
    epsilons: Sequence[float],
    *,
    ylabel: str = "test accuracy",
    title: str = "",
    legend: bool = True,
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws accuracy against the epsilon of a whole run, on a logarithmic axis; no noise stands apart on the right.

    Args:
      rows: `{label: values}`, by mechanism or method; values are floats `[E]`, floats `[seeds, E]` (drawn as means with
        95 % intervals, Student's t), or E intervals: objects or dicts with "mean" and "half". NaN is left out.
      epsilons: `[E]`, distinct and above 0; infinity is training without noise.
      ylabel: of the accuracies, with their unit.
      title: above the axes.
      legend: whether to draw a legend; without one, that of the axes stays as it is.
      axes: matplotlib Axes to draw into, or None.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: there are no rows or epsilons; a row does not have E values; epsilons are not above 0 or
        not distinct; `axes` are none.

    Example:
      >>> import fedjaxlite as fl
      >>> figure = fl.plots.accuracy_against_epsilon({"DP-FedAvg": [0.6, 0.8, 0.9]}, [1, 8, float("inf")])
      >>> [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
      ['1', '8', 'no noise']
    """
    legend = checks.flag(legend=legend)
    given = _epsilons(epsilons)
    table = {label: _row(label, row, len(given)) for label, row in series.labeled(rows, "rows").items()}
    order = np.argsort(given)
    place, finite = _places(given[order]), np.isfinite(given[order])
    figure, axis = style.single(axes, _SIZE)
    before = style.num_lines(axis)
    for index, (label, (mean, half)) in enumerate(table.items()):
        # Without noise there is no distance to keep to, so that what coincides there can stand side by side.
        shift = np.where(finite, 0.0, 0.12 * (index - (len(table) - 1) / 2))
        points = np.stack([place + shift, mean[order], half[order]], axis=1)
        _draw_row(axis, before + index, label, points, int(finite.sum()))
    axis.set_xticks(place, [f"{value:g}" if math.isfinite(value) else "no noise" for value in given[order]])
    if len(place) > 1 and not finite.all():
        axis.axvline((place[-2] + place[-1]) / 2, color="0.6", linewidth=0.8)
    axis.set_xlabel("epsilon of the whole run")
    axis.set_ylabel(ylabel)
    axis.grid(visible=True, color=style.GRID)
    if legend:
        style.legend(axis, over_rounds.INTERVALS if any(np.isfinite(half).any() for _, half in table.values()) else "")
    style.entitle(axis, title)
    return style.finish(figure, path)


def roc(
    curves: Any,
    *,
    scale: str = "log",
    least: float = 1e-4,
    title: str = "",
    legend: bool = True,
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws ROC curves: of attacks on two logarithmic axes, where the few found without false alarms are seen.

    Args:
      curves: `{label: (fpr, tpr)}`, both ascending floats `[T]`; further entries, such as thresholds, are left out. A
        curve of a model, or of one for each client, is `fl.metrics.roc_curve(outputs, labels)`.
      scale: "log", or "linear" as is usual for classifiers.
      least: where logarithmic axes begin, in (0, 1).
      title: above the axes.
      legend: whether to draw a legend; without one, that of the axes stays as it is.
      axes: matplotlib Axes to draw into, or None.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: there are no curves, or rates of different lengths; `least` is out of range.

    Source: Carlini et al. (2022), https://arxiv.org/abs/2112.03570, section III, on why logarithmic.

    Example:
      >>> import fedjaxlite as fl
      >>> figure = fl.plots.roc({"loss": ([0.0, 0.5, 1.0], [0.0, 0.9, 1.0])})
      >>> figure.axes[0].lines[1].get_label()
      'loss (AUC 0.70)'
    """
    checks.probability(least=least)
    linear = checks.one_of(("log", "linear"), scale=scale) == "linear"
    least = 0.0 if linear else least
    legend = checks.flag(legend=legend)
    table = {label: _rates(label, curve) for label, curve in series.labeled(curves, "curves").items()}
    figure, axis = style.single(axes, (8.0, 4.4))
    before = style.num_lines(axis)
    if not any(line.get_label() == _GUESSING for line in axis.lines):
        axis.plot([least, 1.0], [least, 1.0], color="0.75", linewidth=1, label=_GUESSING)
    for index, (label, (fpr, tpr)) in enumerate(table.items(), start=before):
        look = style.look(index)
        area = f"(AUC {np.trapezoid(tpr, fpr):.2f})"
        axis.step(
            np.maximum(fpr, least),
            np.maximum(tpr, least),
            where="post",
            linestyle=look.linestyle,
            marker=look.marker,
            markevery=(0.02 * index, 0.12),  # a share of the diagonal: the points lie densely on the right
            markersize=4.5,
            color=look.color,
            linewidth=1.4,
            label=f"{label} {area}".strip(),
        )
    axis.set(xscale=scale, yscale=scale, xlim=(least, 1), ylim=(least, 1.02 if linear else 1.05))
    axis.set_xlabel("false positive rate")
    axis.set_ylabel("true positive rate")
    axis.grid(visible=True, color=style.GRID)
    if legend:
        style.legend(axis)
    style.entitle(axis, title)
    return style.finish(figure, path)


def _places(ascending: np.ndarray) -> np.ndarray:
    """Where epsilons stand: by their logarithm, and infinity behind them with room for a line between."""
    finite = ascending[np.isfinite(ascending)]
    logs = np.log2(finite)
    if len(finite) == len(ascending):
        return logs
    return np.append(logs, logs[-1] + max(1.2, 0.25 * np.ptp(logs)) if len(logs) else 0.0)


def _draw_row(axis: Any, index: int, label: str, points: np.ndarray, finite: int) -> None:
    """One line through points `[E, 3]` (place, mean, half width or NaN), broken behind those of finite epsilon."""
    look = style.look(index)
    place, mean, half = points.T
    gap = np.full((1 if 0 < finite < len(points) else 0, 3), np.nan)
    broken = np.concatenate([points[:finite], gap, points[finite:]])
    axis.plot(
        broken[:, 0],
        broken[:, 1],
        linestyle=look.linestyle,
        marker=look.marker,
        color=look.color,
        markersize=5,
        linewidth=1.4,
        label=label or "_",
    )
    if np.isfinite(half).any():
        axis.errorbar(place, mean, half, fmt="none", ecolor=look.color, capsize=3, elinewidth=1)


def _epsilons(epsilons: Any) -> np.ndarray:
    given = np.asarray(epsilons, np.float64)
    if given.ndim != 1 or given.size == 0:
        raise ValueError(f"`epsilons` has shape {list(given.shape)}; expected at least one number, [E].")
    if not (given > 0).all() or len(np.unique(given)) < len(given):
        raise ValueError(
            f"`epsilons` is {given.tolist()}; expected distinct numbers above 0, infinity for training without noise."
        )
    return given


def _row(label: str, row: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and half widths; NaN where there is no interval."""
    where = f"`rows[{label!r}]`"
    if not isinstance(row, np.ndarray) and isinstance(row, Sequence) and row and all(map(_is_interval, row)):
        pairs = [(v["mean"], v["half"]) if isinstance(v, Mapping) else (v.mean, v.half) for v in row]
        both = np.array([[series.number(v, where) for v in pair] for pair in pairs])
        mean, half = both[:, 0], both[:, 1]
    else:
        try:
            values = np.asarray(row, np.float64)
        except (TypeError, ValueError):
            raise TypeError(
                f"{where} is {row!r}; expected {count} numbers or intervals, or [seeds, {count}]."
            ) from None
        if values.ndim not in (1, 2) or values.size == 0:
            raise ValueError(f"{where} has shape {list(values.shape)}; expected [{count}] or [seeds, {count}].")
        mean, found = series.interval(np.where(np.isfinite(values), values, np.nan).reshape(-1, values.shape[-1]))
        half = np.full_like(mean, np.nan) if found is None else found
    if len(mean) != count:
        raise ValueError(
            f"{where} has {len(mean)} values for {count} epsilons; expected one for each of them, [{count}] or "
            f"[seeds, {count}]."
        )
    return mean, half


def _is_interval(value: Any) -> bool:
    return hasattr(value, "half") or (isinstance(value, Mapping) and {"mean", "half"} <= set(value))


def _rates(label: str, curve: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        fpr, tpr = (np.asarray(rate, np.float64) for rate in tuple(curve)[:2])
    except (TypeError, ValueError):
        raise TypeError(f"`curves[{label!r}]` is a {type(curve).__name__}; expected (fpr, tpr).") from None
    if fpr.ndim != 1 or fpr.shape != tpr.shape or fpr.size == 0:
        raise ValueError(
            f"`curves[{label!r}]` has rates of shape {list(fpr.shape)} and {list(tpr.shape)}; expected [T] both."
        )
    return fpr, tpr
