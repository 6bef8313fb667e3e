"""How a metric is distributed over clients: sorted curves, or histograms."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedjaxlite import checks, directions
from fedjaxlite.data.client_report import ClientReport
from fedjaxlite.plots import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 10
"""About how many."""


class _Spread(NamedTuple):
    """One model's finite values, ascending, and what the legend says of them."""

    values: np.ndarray
    text: str


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
    Clients without a finite value are left out, and counted in the legend.

    Args:
      reports: `{label: report}` with what `fl.evaluate_clients` gives, or floats `[N]`; or a single one of these.
      metric: a name in the reports; the label of the axis for arrays.
      kind: "sorted", every client's value from the lowest to the highest; or "histogram", about ten
        equal bins between round numbers.
      title: above the axes.
      legend: whether to draw a legend; without one, that of the axes stays as it is.
      axes: matplotlib Axes to draw into, or None.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: there are no reports or no finite values; a report has no such metric; an array is not
        `[N]`; `kind` is unknown; `axes` are none.

    Example:
      >>> import fedjaxlite as fl
      >>> figure = fl.plots.clients({"FedAvg": [0.9, 0.5, 0.7], "Ditto": [0.8, 0.9, 0.9]})
      >>> [line.get_ydata().tolist() for line in figure.axes[0].lines]
      [[0.5, 0.7, 0.9], [0.8, 0.9, 0.9]]
    """
    checks.one_of(("sorted", "histogram"), kind=kind)
    legend = checks.flag(legend=legend)
    spreads = {label: _spread(label, report, metric) for label, report in series.labeled(reports, "reports").items()}
    figure, axis = style.single(axes, (8.0, 4.0))
    name = metric.replace("_", " ")
    if kind == "sorted":
        _draw_sorted(axis, list(spreads.values()))
        axis.set_xlabel(f"clients, from the lowest to the highest {name} [%]")
        axis.set_ylabel(f"{name} of a client")
        axis.set_xlim(0, 100)
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
    if metrics is not None:
        if metric not in metrics:
            raise ValueError(f"{where} has no {metric!r}; it has {', '.join(map(repr, metrics)) or 'nothing'}.")
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
    return _Spread(np.sort(finite), text + (f"\n{left} of {values.size} without a value" if left else ""))


def _draw_sorted(axis: Any, spreads: list[_Spread]) -> None:
    for index, (values, text) in enumerate(spreads, start=style.num_lines(axis)):
        look = style.look(index)
        axis.plot(
            100 * (np.arange(len(values)) + 0.5) / len(values),
            values,
            linestyle=look.linestyle,
            marker=look.marker,
            color=look.color,
            markevery=style.marked(values, index),
            markersize=4.5,
            linewidth=1.4,
            label=text,
        )


def _draw_histogram(axis: Any, spreads: list[_Spread], metric: str) -> None:
    from matplotlib.ticker import MaxNLocator

    every = np.concatenate([spread.values for spread in spreads])
    share = "accuracy" in metric and every.min() >= 0 and every.max() <= 1
    low, high = (0.0, 1.0) if share else (every.min(), every.max())
    edges = np.asarray(MaxNLocator(_BINS).tick_values(low, high))
    width = 0.9 * (edges[1] - edges[0]) / len(spreads)
    for index, (values, text) in enumerate(spreads):
        look = style.look(index)
        axis.bar(
            edges[:-1] + 0.05 * (edges[1] - edges[0]) + (index + 0.5) * width,
            100 * np.histogram(values, edges)[0] / len(values),
            width,
            facecolor=(look.color, 0.35),
            edgecolor="black",
            linewidth=0.7,
            hatch=look.hatch,
            label=text,
        )
    axis.set_xticks(edges)
