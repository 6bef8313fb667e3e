"""How well a backdoor gets in: the trigger, its success and the accuracy on clean examples, over rounds."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedjaxlite import checks
from fedjaxlite.plots import over_rounds, series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = ("success", "accuracy")


def backdoor(
    runs: Mapping[str, Mapping[str, Any]],
    *,
    images: Mapping[str, Any] | None = None,
    first: int = 0,
    every: int = 1,
    title: str = "",
    legend: bool = True,
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws an attack's success and the accuracy on clean examples beside each other, a line for each rule.

    Args:
      runs: `{label: {"success": array, "accuracy": array}}`; floats `[rounds]`, or `[seeds, rounds]` for the mean and
        its 95 % interval (Student's t), in any unit.
      images: `{label: picture}`, such as an example without the trigger and with it; `[H, W]`, or `[H, W, C]` with 1 or
        3 channels, from 0 to 1. They stand on the left, one below the other.
      first: the round of the first entry of an array: 0 is before any round.
      every: rounds between entries.
      title: above all.
      legend: whether to draw a legend.
      axes: two matplotlib Axes, for success and for accuracy; there are no pictures then. None is a new figure.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: there are no runs, or one without both arrays; arrays that are none; pictures that are
        none, or where `axes` are given; `every` is below 1.

    Example:
      >>> import fedjaxlite as fl
      >>> figure = fl.plots.backdoor({"mean": {"success": [0.0, 0.9], "accuracy": [0.95, 0.94]}})
      >>> [axis.get_ylabel() for axis in figure.axes]
      ['success', 'accuracy']
    """
    legend, every, first = (
        checks.flag(legend=legend),
        checks.positive_int(every=every),
        checks.nonnegative_int(first=first),
    )
    pictures = {label: _picture(label, picture) for label, picture in (images or {}).items()}
    lines = {metric: _lines(runs, metric, first, every) for metric in METRICS}
    figure, places, both = _places(len(pictures), axes)
    for axis, (label, picture) in zip(places, pictures.items(), strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set(xticks=[], yticks=[], ylabel=label)
    for axis, metric in zip(both, METRICS, strict=True):
        over_rounds.draw(axis, lines[metric], legend and axis is both[-1])
        over_rounds.describe(axis, "round", metric, set())
    if title:
        figure.suptitle(title, fontsize=10)
    return style.finish(figure, path)


def _lines(runs: Any, metric: str, first: int, every: int) -> list[series.Line]:
    arrays = {}
    for label, run in series.labeled(runs, "runs").items():
        if not isinstance(run, Mapping) or metric not in run:
            raise ValueError(
                f"`runs[{label!r}]` is {checks.shown(run)}; expected a dict of two arrays, {METRICS[0]!r} and "
                f"{METRICS[1]!r}."
            )
        arrays[label] = checks.real_array(**{f"runs[{label!r}][{metric!r}]": run[metric]})
    found = series.lines(arrays, metric=metric, every=every)
    return [line._replace(x=line.x + (first - every)) for line in found]


def _picture(label: str, picture: Any) -> np.ndarray:
    values = np.asarray(checks.real_array(**{f"images[{label!r}]": picture}), np.float64)
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[-1] == 3):
        raise ValueError(
            f"`images[{label!r}]` has shape {list(values.shape)}; expected [height, width], or with 1 or 3 channels."
        )
    return np.clip(np.nan_to_num(values), 0.0, 1.0)


def _places(num_pictures: int, axes: Any) -> tuple[Any, list[Any], list[Any]]:
    """A figure, its axes for pictures, and the two for lines."""
    if axes is not None:
        given = list(np.ravel(np.asarray(axes, dtype=object)))
        if num_pictures or len(given) != len(METRICS):
            raise ValueError(
                f"`axes` holds {len(given)} and there are {num_pictures} pictures; expected two Axes, for success and "
                "accuracy, and no pictures."
            )
        figure = style.single(given[0], (0, 0))[0]
        style.single(given[1], (0, 0))
        return figure, [], given
    figure = style.new_figure((11.0 if num_pictures else 9.4, 3.6))
    if not num_pictures:
        return figure, [], list(figure.subplots(1, 2))
    grid = figure.add_gridspec(num_pictures, 3, width_ratios=(1.0, 2.6, 2.6))
    places = [figure.add_subplot(grid[row, 0]) for row in range(num_pictures)]
    return figure, places, [figure.add_subplot(grid[:, column]) for column in (1, 2)]
