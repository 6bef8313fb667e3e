"""How a metric is distributed over clients: sorted curves, histograms, or client by client."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedjaxlite import checks, directions
from fedjaxlite.data.client_report import ClientReport
from fedjaxlite.plots import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 10
"""About how many."""

_MOST_TICKS, _MOST_NAMED = 12, 60
"""Clients whose names fit under sorted values, and those that can be drawn one by one."""


class _Spread(NamedTuple):
    """One model's values.

    Attributes:
      values: the finite ones, ascending.
      text: what the legend says of them.
      every: `[N]`, those that are not finite as NaN.
      names: `[N]`, those of the report; None where it has none.
      ends: `[2, N]`, the intervals that the report has; None where it has none.
    """

    values: np.ndarray
    text: str
    every: np.ndarray
    names: np.ndarray | None
    ends: np.ndarray | None


def clients(
    reports: Any,
    *,
    metric: str = "accuracy",
    kind: str = "sorted",
    title: str = "",
    legend: bool = True,
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws how a metric is distributed over clients, for one model or several beside one another.

    The legend has the mean over clients, each counting once, and the mean of the worst tenth of them; where
    nobody says which way the metric is better (`fedjaxlite.losses.declare`), those of the lowest and the highest tenth.
    Clients without a finite value are left out, and counted in the legend. Up to 12 clients of a single report stand
    under their values by name.

    Args:
      reports: `{label: report}` with what `fl.evaluate_clients` gives, or floats `[N]`; or a single one of these.
      metric: a name in the reports; the label of the axis for arrays.
      kind: "sorted", every client's value from the lowest to the highest; "histogram", about ten equal bins between
        round numbers; or "named", up to 60 clients by name in the reports' order, with intervals where these have some.
      title: above the axes.
      legend: whether to draw a legend; without one, that of the axes stays as it is.
      axes: matplotlib Axes to draw into, or None.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: there are no reports or no finite values; a report has no such metric; an array is not
        `[N]`; `kind` is unknown; "named" for too many clients, or for reports on others; `axes` are none.

    Example:
      >>> import fedjaxlite as fl
      >>> figure = fl.plots.clients({"FedAvg": [0.9, 0.5, 0.7], "Ditto": [0.8, 0.9, 0.9]})
      >>> [line.get_ydata().tolist() for line in figure.axes[0].lines]
      [[0.5, 0.7, 0.9], [0.8, 0.9, 0.9]]
    """
    checks.one_of(("sorted", "histogram", "named"), kind=kind)
    legend = checks.flag(legend=legend)
    spreads = {label: _spread(label, report, metric) for label, report in series.labeled(reports, "reports").items()}
    figure, axis = style.single(axes, (8.0, 4.0))
    name = metric.replace("_", " ")
    if kind == "sorted":
        _draw_sorted(axis, list(spreads.values()))
        named = _draw_names_sorted(axis, list(spreads.values()))
        axis.set_xlabel(f"clients, from the lowest to the highest {name}{'' if named else ' [%]'}")
        axis.set_ylabel(f"{name} of a client")
        axis.set_xlim(0, 100)
    elif kind == "named":
        _draw_named(axis, spreads)
        axis.set_ylabel(f"{name} of a client")
    else:
        _draw_histogram(axis, list(spreads.values()), metric)
        axis.set_xlabel(f"{name} of a client")
        axis.set_ylabel("clients [%]")
    axis.grid(visible=True, color=style.GRID)
    axis.set_axisbelow(True)
    if legend:
        style.legend(axis)
    style.entitle(axis, title)
    return style.finish(figure, path)


def _spread(label: str, report: Any, metric: str) -> _Spread:
    where = f"`reports[{label!r}]`" if label else "`reports`"
    metrics, better = getattr(report, "metrics", None), getattr(report, "better", {})
    names, ends = getattr(report, "names", None), None
    if metrics is not None:
        if metric not in metrics:
            raise ValueError(f"{where} has no {metric!r}; it has {', '.join(map(repr, metrics)) or 'nothing'}.")
        if metric in report.low:
            ends = np.stack([report.low[metric], report.high[metric]])
        report = metrics[metric]
    try:
        values = np.asarray(report, np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{where} is a {type(report).__name__}; expected what fl.evaluate_clients gives, or floats [N]."
        ) from None
    if values.ndim != 1:
        raise ValueError(f"{where} has shape {list(values.shape)}; expected one value a client, [N].")
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError(f"{where} has no finite {metric!r} among {values.size} clients; there is nothing to draw.")
    left = values.size - finite.size
    text = f"{label}\n" if label else ""
    way = directions.direction(metric, better)
    told = ClientReport(np.ones(finite.size, np.int64), {metric: finite}).summary(better={metric: way or "higher"})
    low, high = told[f"{metric}_worst10"], told[f"{metric}_best10"]
    tenths = f"worst tenth {low:.3g}" if way else f"lowest tenth {low:.3g}, highest {high:.3g}"
    text += f"mean {told[f'{metric}_mean']:.3g}, {tenths}"
    text += f"\n{left} of {values.size} without a value" if left else ""
    return _Spread(np.sort(finite), text, np.where(np.isfinite(values), values, np.nan), names, ends)


def _draw_sorted(axis: Any, spreads: list[_Spread]) -> None:
    for index, spread in enumerate(spreads, start=style.num_lines(axis)):
        look, values = style.look(index), spread.values
        axis.plot(
            100 * (np.arange(len(values)) + 0.5) / len(values),
            values,
            linestyle=look.linestyle,
            marker=look.marker,
            color=look.color,
            markevery=style.marked(values, index),
            markersize=4.5,
            linewidth=1.4,
            label=spread.text,
        )


def _draw_names_sorted(axis: Any, spreads: list[_Spread]) -> bool:
    """Names in place of per cent, where there is one report and few clients; whether there are."""
    names = spreads[0].names
    if len(spreads) > 1 or names is None or len(names) > _MOST_TICKS or style.num_lines(axis) > 1:
        return False
    order = np.argsort(spreads[0].every, kind="stable")[: len(spreads[0].values)]  # NaN comes last
    axis.set_xticks(100 * (np.arange(len(order)) + 0.5) / len(order), [str(name) for name in names[order]])
    axis.tick_params(axis="x", rotation=30 if len(order) > 4 else 0)
    return True


def _draw_named(axis: Any, spreads: dict[str, _Spread]) -> None:
    """A place for each client, and in it a marker for each model."""
    first = next(iter(spreads.values()))
    total = len(first.every)
    if total > _MOST_NAMED:
        raise ValueError(
            f"`reports` has {total} clients, and kind='named' draws up to {_MOST_NAMED}; take kind='sorted', or "
            "evaluate population.select(...)."
        )
    names = np.arange(total) if first.names is None else first.names
    for index, (label, spread) in enumerate(spreads.items()):
        own = names if spread.names is None else spread.names
        if len(spread.every) != total or [str(name) for name in own] != [str(name) for name in names]:
            raise ValueError(
                f"`reports[{label!r}]` is on other clients than the first; kind='named' compares the same ones."
            )
        look = style.look(index)
        at = np.arange(total) + 0.6 * ((index + 0.5) / len(spreads) - 0.5)
        options = {"color": look.color, "label": spread.text, "linestyle": "none"}
        if spread.ends is not None:
            low, high = spread.ends
            axis.vlines(at, low, high, color=look.color, linewidth=1.2)
        axis.plot(at, spread.every, marker=look.marker, markersize=5.5, **options)
    axis.set_xticks(np.arange(total), [str(name) for name in names])
    axis.tick_params(axis="x", rotation=0 if total <= 4 else 30 if total <= _MOST_TICKS else 90)
    axis.set_xlim(-0.6, total - 0.4)


def _draw_histogram(axis: Any, spreads: list[_Spread], metric: str) -> None:
    from matplotlib.ticker import MaxNLocator

    every = np.concatenate([spread.values for spread in spreads])
    share = "accuracy" in metric and every.min() >= 0 and every.max() <= 1
    low, high = (0.0, 1.0) if share else (every.min(), every.max())
    edges = np.asarray(MaxNLocator(_BINS).tick_values(low, high))
    width = 0.9 * (edges[1] - edges[0]) / len(spreads)
    for index, spread in enumerate(spreads):
        look, values = style.look(index), spread.values
        axis.bar(
            edges[:-1] + 0.05 * (edges[1] - edges[0]) + (index + 0.5) * width,
            100 * np.histogram(values, edges)[0] / len(values),
            width,
            facecolor=(look.color, 0.35),
            edgecolor="black",
            linewidth=0.7,
            hatch=look.hatch,
            label=spread.text,
        )
    axis.set_xticks(edges)
