"""Who the clients are and when they take part: what they hold, and the rounds they were in."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import host_arrays
from fedjaxlite.data.heterogeneity import heterogeneity
from fedjaxlite.data.population import Population
from fedjaxlite.plots import bubbles, style
from fedjaxlite.sampling import Cohort

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED = 30
"""Clients whose names fit beside an axis."""


def partition(
    population: Population,
    *,
    label: str = "y",
    max_clients: int = 50,
    ignored_ids: tuple[int, ...] = (),
    legend: bool = True,
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws who has how much of what: a bubble for each client and class, and bars of the clients' sizes above.

    A bubble's area is proportional to the number of labels.

    Args:
      population: N clients.
      label: name of an integer feature, as in `fl.heterogeneity`.
      max_clients: the first so many clients are drawn.
      ignored_ids: labels that are none.
      legend: whether to draw a legend of the sizes of bubbles.
      axes: matplotlib Axes for the bubbles alone, two (bars, bubbles), or None.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: as `fl.heterogeneity`; `max_clients` is below 1; `axes` are none.

    Example:
      >>> import fedjaxlite as fl
      >>> population = fl.Population.from_arrays({"y": [0, 0, 1, 1]}, client_ids=["a", "a", "b", "b"])
      >>> [axes.get_ylabel() for axes in fl.plots.partition(population).axes]
      ['examples', 'class (y)']
    """
    return _draw_partition(population, (label, max_clients, ignored_ids, legend), axes, path)


def plot_partition(
    population: Population,
    path: style.Path = None,
    *,
    max_clients: int = 50,
    label: str = "y",
    ignored_ids: tuple[int, ...] = (),
    legend: bool = True,
) -> "Figure":
    """Draws who has how much of what: a bubble for each client and class, and bars of the clients' sizes above.

    A bubble's area is proportional to the number of labels. Reads the same in black and white.

    Args:
      population: N clients.
      path: where to write it (.png, .pdf, .svg), or None.
      max_clients: the first so many clients are drawn.
      label: as in `heterogeneity`.
      ignored_ids: labels that are none.
      legend: whether to draw a legend of the sizes of bubbles.

    Returns:
      The matplotlib figure.

    Raises:
      ValueError: as `fl.heterogeneity`, or `max_clients` below 1.

    Example:
      >>> import fedjaxlite as fl
      >>> population = fl.Population.from_arrays({"y": [0, 0, 1, 1]}, client_ids=["a", "a", "b", "b"])
      >>> [axes.get_ylabel() for axes in fl.plot_partition(population).axes]
      ['examples', 'class (y)']
    """
    return _draw_partition(population, (label, max_clients, ignored_ids, legend), None, path)


def _draw_partition(
    population: Population, options: tuple[str, int, tuple[int, ...], bool], axes: Any, path: style.Path
) -> "Figure":
    """`plot_partition`, into axes where given: those of the bubbles, or (bars, bubbles)."""
    label, max_clients, ignored_ids, legend = options
    legend = checks.flag(legend=legend)
    checks.positive_int(max_clients=max_clients)
    measured = heterogeneity(population, label=label, ignored_ids=ignored_ids)
    shown = min(max_clients, population.num_clients)
    names = np.arange(shown) if population.names is None else population.names[:shown]
    of = "" if shown == population.num_clients else f" (first {shown} shown)"
    held = bubbles.Held(
        histograms=measured.label_histograms[:shown],
        sizes=np.diff(np.asarray(population.offsets))[:shown],
        clients=[str(name) for name in names],
        classes=[str(name) for name in measured.classes],
        label=label,
        title=f"{population.num_clients} clients{of}, {measured.num_examples} examples; mean total variation from all "
        f"{measured.total_variation_mean:.2f}",
    )
    return bubbles.draw(held, axes, path, legend)


class _Rounds(NamedTuple):
    """Who was there: ids of clients and rounds (counted from 0), of those that reported and of those that did not."""

    ids: np.ndarray
    at: np.ndarray
    reported: np.ndarray
    num_rounds: int


def participation(
    cohorts: Any,
    num_clients: int,
    *,
    names: Sequence[Any] | np.ndarray | None = None,
    first_round: int = 1,
    title: str = "",
    legend: bool = True,
    axes: Any = None,
    path: style.Path = None,
) -> "Figure":
    """Draws who took part when: a dot for each client and round, and how many there were above.

    Args:
      cohorts: one of: the infos of `rounds.steps`, or their `clients`; Cohorts with leading axis `[rounds]`, as a
        sampler's `sample` under `jax.vmap` gives; a list with one info or Cohort a round; ints `[rounds, K]` of client
        ids, of which those below 0 are nobody. Of infos, whoever is in the sum has reported. Of ids, everybody has.
      num_clients: N of the population.
      names: `[N]` of its clients, `population.names`, written beside up to 30 of them; None for numbers.
      first_round: the number of the first of them.
      title: above the axes.
      legend: whether to draw legends; without them, those of the axes stay as they are.
      axes: matplotlib Axes for the dots alone, two (counts, dots), or None.
      path: where to write the figure, or None.

    Returns:
      The matplotlib figure.

    Raises:
      TypeError, ValueError: there are no rounds; an array has another shape; an id is N or more; `names` are not N;
        `axes` are none.

    Example:
      >>> import fedjaxlite as fl
      >>> figure = fl.plots.participation([[0, 2], [1, -1]], num_clients=3)
      >>> figure.axes[1].lines[0].get_xydata().tolist()
      [[1.0, 0.0], [1.0, 2.0], [2.0, 1.0]]
    """
    checks.positive_int(num_clients=num_clients)
    legend = checks.flag(legend=legend)
    names = None if names is None else host_arrays.names_of(names, num_clients)
    seen = _seen(cohorts)
    if seen.ids.size and seen.ids.max() >= num_clients:
        raise ValueError(f"`cohorts` holds client {seen.ids.max()}, but `num_clients` is {num_clients}.")
    figure, counts, dots = style.above(axes, (8.4, 5.0), (1, 3))
    rounds = first_round + np.arange(seen.num_rounds)
    size = float(np.clip(250.0 / max(seen.num_rounds, 0.7 * num_clients), 1.5, 5.0))
    absent = ~seen.reported
    for chosen, marker, color, name in (
        (seen.reported, "o", "black", "reported"),
        (absent, "x", "#D55E00", "selected, did not report"),
    ):
        if chosen.any() or marker == "o":
            dots.plot(
                first_round + seen.at[chosen],
                seen.ids[chosen],
                linestyle="none",
                marker=marker,
                color=color,
                markersize=size,
                label=name,
                rasterized=True,
            )
    dots.set_xlabel("round")
    dots.set_ylabel("client")
    dots.set_ylim(-0.5 - 0.01 * num_clients, num_clients - 0.5 + 0.01 * num_clients)
    dots.set_xlim(first_round - 0.5, rounds[-1] + 0.5)
    style.whole_numbers(dots.xaxis)
    style.whole_numbers(dots.yaxis)
    if names is not None and num_clients <= _MOST_NAMED:
        dots.set_yticks(np.arange(num_clients), [str(name) for name in names])
    if counts is not None:
        _draw_counts(counts, seen, first_round, any_absent=bool(absent.any()))
    if legend:
        for axis in (dots,) if counts is None else (counts, dots):
            style.legend(axis)
    once = len(np.unique(seen.ids[seen.reported]))
    said = f"{num_clients} clients, of which {once} reported at least once"
    style.entitle(dots if counts is None else counts, title or said)
    return style.finish(figure, path)


def _draw_counts(axis: Any, seen: _Rounds, first_round: int, *, any_absent: bool) -> None:
    rounds = first_round + np.arange(seen.num_rounds)
    selected = np.bincount(seen.at, minlength=seen.num_rounds)
    reported = np.bincount(seen.at[seen.reported], minlength=seen.num_rounds)
    edges = np.append(rounds - 0.5, rounds[-1] + 0.5)
    axis.stairs(reported, edges, fill=True, color="0.6", label="reported")
    if any_absent:
        axis.stairs(selected, edges, color="black", linewidth=1.0, linestyle="--", label="selected")
    axis.set_ylabel("clients\na round")
    axis.set_ylim(0, 1.1 * max(1, selected.max()))
    style.whole_numbers(axis.yaxis, 4)


def _seen(cohorts: Any) -> _Rounds:
    ids, reported = _arrays(cohorts)
    at, slot = np.nonzero(ids >= 0)
    return _Rounds(ids[at, slot], at, reported[at, slot], len(ids))


def _arrays(cohorts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ids `[rounds, K]`, -1 for nobody, and who of them reported."""
    single = _single(cohorts)
    if single is not None:
        ids, reported = single
    elif isinstance(cohorts, Sequence) and cohorts and all(_single(one) is not None for one in cohorts):
        rows = [row for one in cohorts if (row := _single(one)) is not None]
        most = max(row[0].shape[-1] for row in rows)
        pad = [[(0, 0)] * (row[0].ndim - 1) + [(0, most - row[0].shape[-1])] for row in rows]
        ids = np.stack([np.pad(row[0], p, constant_values=-1) for row, p in zip(rows, pad, strict=True)])
        reported = np.stack([np.pad(row[1], p) for row, p in zip(rows, pad, strict=True)])
    else:
        try:
            ids = np.asarray(cohorts)
        except ValueError:
            ids = np.asarray(None)
        if ids.dtype.kind not in "iu":
            raise TypeError(
                f"`cohorts` is a {type(cohorts).__name__} of {ids.dtype}; expected infos, Cohorts, or ints [rounds, K] "
                "of client ids."
            )
        reported = ids >= 0
    if ids.ndim != 2 or len(ids) == 0:
        raise ValueError(
            f"`cohorts` holds ids of shape {list(ids.shape)}; expected [rounds, K] with at least one round: of a "
            "single round, pass a list of one."
        )
    return ids, reported


def _single(value: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Ids and who reported, of an info, its clients or a Cohort; None of anything else."""
    value = getattr(value, "clients", value)
    if isinstance(value, Mapping) and "id" in value:
        ids = np.asarray(value["id"])
        return ids, np.asarray(value.get("in_sum", ids >= 0))
    if isinstance(value, Cohort):
        selected = np.asarray(value.selected)
        return np.where(selected, np.asarray(value.ids), -1), np.asarray(value.reported)
    return None
