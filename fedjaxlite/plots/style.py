"""What all figures share: looks that differ without color, legends beside the data, display and files."""

import io
import os
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The colors of Okabe and Ito, which remain apart for the color blind; their yellow is too pale for a line on white.
COLORS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "0.5")
PATTERNS = ("-", "--", ":", "-.", (0, (8, 2)), (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 1, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "oooo", "----")
GRID = "0.9"
LEGEND_WIDTH = 32
"""Letters in a line of a legend: a longer label is broken, not cut off."""

Path = str | os.PathLike[str] | None


class Look(NamedTuple):
    """How one line or bar is told from the others.

    Attributes:
      linestyle: a pattern of Matplotlib.
      marker: likewise.
      color: likewise.
      hatch: likewise, of bars.
    """

    linestyle: Any
    marker: str
    color: str
    hatch: str


def look(index: int) -> Look:
    """The look of line `index`: the first 64 differ in their pattern or their marker, the first eight in both.

    Example:
      >>> len({look(i)[:2] for i in range(64)})
      64
    """
    turn, place = divmod(index, 8)
    return Look(PATTERNS[place], MARKERS[(place + turn) % 8], COLORS[place], HATCHES[place])


def num_lines(axis: Any) -> int:
    """How many lines axes already hold, so that a second call goes on with other looks."""
    return sum(line.get_marker() in MARKERS for line in axis.lines)


def marked(values: np.ndarray, index: int, most: int = 12) -> list[int]:
    """Which points of line `index` get a marker: about `most`, and those that have no neighbor to draw a line to.

    The markers of many points begin elsewhere for each line, so that lines which coincide still show theirs.
    """
    finite = np.isfinite(values)
    some = np.flatnonzero(finite)
    bare = np.concatenate([[False], finite, [False]])
    alone = np.flatnonzero(finite & ~bare[:-2] & ~bare[2:])
    step = max(1, -(-len(some) // most))
    return sorted({*some[index % 8 * step // 8 :: step].tolist(), *alone.tolist()})


def new_figure(size: tuple[float, float]) -> "Figure":
    """A figure of `size` inches that pyplot does not know of."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def single(axes: Any, size: tuple[float, float]) -> tuple[Any, Any]:
    """(figure, axes) to draw into: those given, or new ones.

    Raises:
      TypeError: `axes` is neither None nor one Axes.
    """
    if axes is None:
        figure = new_figure(size)
        return figure, figure.subplots()
    if not _is_axes(axes):
        raise TypeError(
            f"`axes` is a {type(axes).__name__}; expected one matplotlib Axes, such as `figure.subplots()` gives."
        )
    return axes.figure.figure, axes


def above(axes: Any, size: tuple[float, float], heights: Sequence[float]) -> tuple[Any, Any, Any]:
    """(figure, upper axes or None, main axes): both new, both given, or the main ones alone where one is given.

    Raises:
      TypeError: `axes` is neither None, nor one Axes, nor two.
    """
    if axes is None:
        figure = new_figure(size)
        upper, main = figure.subplots(2, 1, sharex=True, height_ratios=list(heights))
        return figure, upper, main
    if _is_axes(axes):
        return axes.figure.figure, None, axes
    given = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(given) != 2 or not all(_is_axes(axis) for axis in given):
        raise TypeError(f"`axes` is {axes!r}; expected one matplotlib Axes, or two: (the upper, the main one).")
    return given[0].figure.figure, given[0], given[1]


def _is_axes(value: Any) -> bool:
    return hasattr(value, "get_legend_handles_labels")


def legend(axis: Any, title: str = "") -> None:
    """A legend of the labels there are: beside the axes where the figure makes room for it, else where most is free.

    A title that is there stays, since the axes may hold more than was just drawn.
    """
    handles, labels = axis.get_legend_handles_labels()
    if not handles:
        return
    room = axis.figure.figure.get_layout_engine() is not None
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0.0} if room else {"loc": "best"}
    lines = [[textwrap.fill(line, LEGEND_WIDTH) for line in label.split("\n")] for label in labels]
    before = axis.get_legend()
    axis.legend(
        handles,
        ["\n".join(each) for each in lines],
        title=title or (before.get_title().get_text() if before else "") or None,
        title_fontsize=9,
        alignment="left",
        fontsize=9,
        handlelength=3.6,
        frameon=not room,
        **place,
    )


def entitle(axis: Any, title: str) -> None:
    """A title, broken where it would be wider than the axes; none where it is empty."""
    if title:
        inches = axis.get_window_extent().width / axis.figure.figure.dpi
        axis.set_title(textwrap.fill(title, max(20, int(inches / 0.08))), fontsize=10)


def whole_numbers(axis: Any, most: int | Literal["auto"] = "auto") -> None:
    """Ticks at whole numbers only, for rounds and clients."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10]))


def finish(figure: "Figure", path: Path) -> "Figure":
    """Writes the figure where asked to, and hands it back such that notebooks show it without pyplot."""
    # Notebooks know figures of pyplot only; any other object they ask for this method.
    vars(figure).setdefault("_repr_png_", partial(_png, figure))
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
