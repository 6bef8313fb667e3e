"""The bubbles and bars of a partition; what they show is measured by the caller."""

from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.plots import style


class Held(NamedTuple):
    """What the clients that are drawn hold.

    Attributes:
      histograms: int64 `[n, C]`, labels by client and class.
      sizes: int64 `[n]`, examples.
      clients: the names of the clients.
      classes: the names of the classes.
      label: the name of the feature.
      title: above all.
    """

    histograms: np.ndarray
    sizes: np.ndarray
    clients: list[str]
    classes: list[str]
    label: str
    title: str


def draw(held: Held, axes: Any, path: style.Path, legend: bool) -> Any:
    """A figure of bars of the clients' sizes above, and of a bubble for each client and class below."""
    shown, kinds = held.histograms.shape
    wide = float(np.clip(3.2 + 0.22 * shown, 6, 14))
    high = float(np.clip(2.2 + 0.26 * kinds, 4, 12))
    figure, bars, bubbles = style.above(axes, (wide, high), (1, 3))
    if bars is not None:
        bars.bar(np.arange(shown), held.sizes, color="0.45", edgecolor="black", linewidth=0.6)
        bars.set_ylabel("examples")
        style.whole_numbers(bars.yaxis, 4)
    style.entitle(bubbles if bars is None else bars, held.title)
    if axes is not None:
        box = bubbles.get_window_extent()
        wide, high = box.width / figure.dpi + 1.2, box.height / figure.dpi / 0.6
    largest = _draw_bubbles(bubbles, held.histograms, wide / shown, high / kinds)
    if legend:
        _explain_sizes(bubbles, int(held.histograms.max()), largest)
    step = max(1, -(-shown // 25))
    bubbles.set_xticks(np.arange(0, shown, step), held.clients[::step])
    if any(len(name) > 3 for name in held.clients[::step]):
        bubbles.tick_params(axis="x", labelrotation=90)
    step = max(1, -(-kinds // 30))
    bubbles.set_yticks(np.arange(0, kinds, step), held.classes[::step])
    bubbles.set_xlabel("client")
    bubbles.set_ylabel(f"class ({held.label})")
    return style.finish(figure, path)


def _draw_bubbles(axes: Any, histograms: np.ndarray, cell_width: float, cell_height: float) -> float:
    """Draws them; the area of the largest."""
    client, kind = np.nonzero(histograms)
    count = histograms[client, kind]
    # the largest bubble fills nearly its cell; scatter's sizes are squared points, 72 to the inch
    largest = min(0.8 * 72 * min(cell_width * 0.85, cell_height * 0.6), 24.0) ** 2
    top = histograms.max()
    axes.scatter(client, kind, s=np.maximum(largest * count / top, 0.8), c="0.25", edgecolors="black", linewidths=0.4)
    axes.set_axisbelow(True)
    axes.grid(color="0.85", linewidth=0.6)
    axes.set_ylim(-0.7, histograms.shape[1] - 0.3)
    axes.set_xlim(-0.7, histograms.shape[0] - 0.3)
    return largest


def _explain_sizes(axes: Any, top: int, largest: float) -> None:
    for value in sorted({top, max(1, top // 4)}, reverse=True):
        axes.scatter([], [], s=largest * value / top, c="0.25", label=str(value))
    axes.legend(title="labels", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelspacing=1.2)
