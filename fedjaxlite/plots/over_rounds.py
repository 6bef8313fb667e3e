"""Metrics along a run: over rounds, bytes or seconds, with intervals over seeds."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from fedjaxlite import checks
from fedjaxlite.plots import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXIS = {
    "round": "round",
    "bytes": "sent so far, up and down, by all clients",
    "bytes_up": "sent so far by all clients",
    "bytes_down": "received so far by all clients",
    "seconds": "training time so far",
    "simulated_seconds": "virtual time so far",
}
MARK = " (simulation only)"
_SIZE = (8.0, 4.0)
INTERVALS = "mean and 95 % interval"


def curves(
    runs: Any,
    *,
    metric: str = "test_accuracy",
    over: str = "round",
    every: int = 1,
    title: str = "",
    legend: bool = True,
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws a metric along one or more runs; of several seeds, the mean and its 95 % interval (Student's t).

    A metric that only some records have (`evaluate_every`) is drawn through those; where it is not finite, the line is
    broken. Several seeds are averaged at the rounds that all of them measured, so that the longer ones are cut and no
    mean is of fewer seeds than the legend says. A single seed has no band. What records of a run under noise list as
    "simulation_only" is marked so on its axis.

    Args:
      runs: `{label: records}` with `history.records` (or the History), `{label: [records, records, ...]}` with one
        entry a seed, or `{label: array}` with floats `[rounds]` or `[seeds, rounds]`. Without labels, one run.
      metric: a name in the records; the label of the axis for arrays.
      over: "round"; "bytes", all that clients sent and received so far, or one way of it, "bytes_up" or "bytes_down";
        "seconds", the time of training so far, without evaluation but with compilation; or "simulated_seconds", the
        time on the clock of a run that has one. All but the first need records, and are means over seeds too.
      every: rounds between the entries of arrays, of which the first is that of round `every`.
      title: above the axes.
      legend: whether to draw a legend; without one, that of the axes stays as it is.
      axes: matplotlib Axes to draw into; looks go on behind the lines that are there. None is a new figure.
      path: where to write the figure (.png, .pdf, .svg), or None.

    Returns:
      The matplotlib figure.

    Raises:
      ValueError: there are no runs, records or finite values; no record has the metric; seeds have no round in common;
        an array has another shape, or is to be drawn over bytes or seconds; `over` is unknown.
      TypeError: a run is neither records nor numbers; `axes` are none.

    Example:
      >>> import fedjaxlite as fl
      >>> records = [{"round": 1, "test_accuracy": 0.5}, {"round": 2}, {"round": 3, "test_accuracy": 0.75}]
      >>> figure = fl.plots.curves({"FedAvg": records})
      >>> figure.axes[0].lines[0].get_xydata().tolist()
      [[1.0, 0.5], [3.0, 0.75]]
    """
    legend = checks.flag(legend=legend)
    found = series.lines(runs, metric=metric, over=over, every=every)
    figure, axis = style.single(axes, _SIZE)
    draw(axis, found, legend)
    describe(axis, over, metric, series.unseen(runs))
    style.entitle(axis, title)
    return style.finish(figure, path)


def accuracy_against_bytes(
    runs: Any,
    *,
    metric: str = "test_accuracy",
    over: str = "bytes",
    title: str = "",
    legend: bool = True,
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws what a metric costs in communication: `curves` over bytes.

    Args:
      runs: `{label: records}` or `{label: [records, ...]}`, as in `curves`; bytes are those of "bytes_up" and
        "bytes_down" of all rounds so far, those without an evaluation too.
      metric: a name in the records.
      over: "bytes", or one way of them, "bytes_up" or "bytes_down".
      title: above the axes.
      legend: whether to draw a legend; without one, that of the axes stays as it is.
      axes: matplotlib Axes to draw into, or None.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: as `curves`.

    Example:
      >>> import fedjaxlite as fl
      >>> records = [{"round": r, "bytes_up": 10, "bytes_down": 30, "test_accuracy": r / 4} for r in (1, 2)]
      >>> figure = fl.plots.accuracy_against_bytes({"FedAvg": records})
      >>> figure.axes[0].lines[0].get_xydata().tolist()
      [[40.0, 0.25], [80.0, 0.5]]
    """
    over = checks.one_of(("bytes", "bytes_up", "bytes_down"), over=over)
    return curves(runs, metric=metric, over=over, title=title, legend=legend, axes=axes, path=path)


def draw(axis: Any, lines: list[series.Line], legend: bool = True) -> None:
    """Adds lines, with bands where there are intervals, and a legend where asked for."""
    before = style.num_lines(axis)
    for index, line in enumerate(lines, start=before):
        look = style.look(index)
        seeds = f"{line.num_seeds} seeds" if line.half is not None else ""
        both = f"{line.label} ({seeds})" if line.label and seeds else line.label or seeds
        axis.plot(
            line.x,
            line.mean,
            linestyle=look.linestyle,
            marker=look.marker,
            color=look.color,
            markevery=style.marked(line.mean, index),
            markersize=4.5,
            linewidth=1.4,
            label=both or "_",
        )
        if line.half is not None:
            axis.fill_between(
                line.x,
                line.mean - line.half,
                line.mean + line.half,
                facecolor=(look.color, 0.15),
                edgecolor=(look.color, 0.5),
                linestyle=look.linestyle,
                linewidth=0.6,
            )
    if legend:
        style.legend(axis, INTERVALS if any(line.half is not None for line in lines) else "")


def describe(axis: Any, over: str, metric: str, unseen: Collection[str] = ()) -> None:
    """Names the axes, with units, and draws the grid; marks what no guarantee of privacy covers."""
    axis.set_xlabel(AXIS[over] + (MARK if any(name in unseen for name in series.costs(over)) else ""))
    axis.set_ylabel(metric.replace("_", " ") + (MARK if metric in unseen else ""))
    axis.grid(visible=True, color=style.GRID)
    axis.set_axisbelow(True)
    if over == "round":
        style.whole_numbers(axis.xaxis)
        return
    from matplotlib.ticker import EngFormatter

    axis.xaxis.set_major_formatter(EngFormatter(unit="s" if over.endswith("seconds") else "B"))
