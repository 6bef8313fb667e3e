"""What a sweep leaves: curves of every run, intervals over seeds, the best point, a table and a frame."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.data.frames import frame_of_rows
from fedjaxlite.directions import Direction
from fedjaxlite.sweeps.grid import shown, told
from fedjaxlite.sweeps.intervals import Interval, interval, number

PyTree = Any


class Group(NamedTuple):
    """Points that ran as one program.

    Attributes:
      points: their places in `Sweep.points`.
      traced: the names whose values the program took as numbers.
    """

    points: tuple[int, ...]
    traced: tuple[str, ...]


class Sweep(NamedTuple):
    """Runs over P points and S seeds; see `fl.sweep`.

    Attributes:
      points: P dicts of hyperparameters, in the order of the grid.
      seeds: S ints.
      rounds: int `[T]`, the rounds after which was measured.
      curves: by metric float64 `[P, S, T]`, under the names that records use: "loss" and its like of the clients'
        training in that round, "test_accuracy" and its like of evaluations. NaN where a point does not have it.
      select: the metric that the best point is chosen by, or None.
      better: "lower" or "higher", of it.
      groups: the programs that ran, one a group of points.
      not_traced: why values of these names have a program each, by name.
      kept: by point what was kept of the last states: a list over seeds of parameters (NumPy) or of RoundStates.
      seconds: wall time, compiling included.
    """

    points: tuple[Mapping[str, Any], ...]
    seeds: tuple[int, ...]
    rounds: np.ndarray
    curves: Mapping[str, np.ndarray]
    select: str | None
    better: Direction | None
    groups: tuple[Group, ...]
    not_traced: Mapping[str, str]
    kept: tuple[list[Any], ...]
    seconds: float

    @property
    def programs(self) -> int:
        """How many programs were compiled for rounds: one a group."""
        return len(self.groups)

    @property
    def best(self) -> int | None:
        """The place of the point with the best mean over seeds of `select` after the last round.

        Of equal ones the first. A point with a seed whose value is not finite is never the best. None where nothing is
        selected by, or no point is finite.
        """
        if self.select is None:
            return None
        means = self.final(self.select).mean(axis=1)
        means = np.where(np.isfinite(means), means, np.nan)
        if np.isnan(means).all():
            return None
        return int(np.nanargmin(means) if self.better == "lower" else np.nanargmax(means))

    @property
    def best_point(self) -> dict[str, Any] | None:
        """The hyperparameters of the best point, as `make(**sweep.best_point)` takes them."""
        return None if self.best is None else dict(self.points[self.best])

    def final(self, metric: str) -> np.ndarray:
        """A metric after the last round, float64 `[P, S]`."""
        return self.curves[self._known(metric)][:, :, -1]

    def intervals(self, metric: str) -> list[Interval]:
        """By point the mean over seeds after the last round, with half its 95 % interval (Student's t)."""
        return [interval(values) for values in self.final(metric)]

    def table(self, metrics: Sequence[str] | None = None) -> str:
        """A table in Markdown: a row a point, means over seeds with 95 % intervals after the last round.

        Args:
          metrics: names in `curves`; None takes `select`, and accuracies and losses of evaluations.
        """
        metrics = self._shown() if metrics is None else [self._known(metric) for metric in metrics]
        names = list(self.points[0])
        best = self.best
        rows = [[*names, *metrics], ["---"] * (len(names) + len(metrics))]
        for place, point in enumerate(self.points):
            cells = [shown(value) for value in point.values()]
            cells += [_cell(self.final(metric)[place]) for metric in metrics]
            rows.append([f"**{cell}**" for cell in cells] if place == best else cells)
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([*lines, "", self.note()])

    def note(self) -> str:
        """What stands below the table: what the figures are, how the best was chosen, how many programs ran."""
        seeds = f"{len(self.seeds)} seeds, mean ± 95 % interval" if len(self.seeds) > 1 else "one seed"
        programs = f"{self.programs} program{'s' if self.programs > 1 else ''}"
        lines = [f"After round {self.rounds[-1]}; {seeds}; {len(self.points) * len(self.seeds)} runs in {programs}."]
        if self.select is None:
            lines.append("No best: there is nothing to choose by. Hold clients out, or say which metric to select by.")
        elif self.best is None:
            lines.append(f"No best: no point has a finite {self.select} with every seed.")
        else:
            by = f"{'lowest' if self.better == 'lower' else 'highest'} {self.select}"
            lines.append(f"Best by the {by}: {told(self.points[self.best])}.")
        return " ".join(lines)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One dict for every point, seed and measured round: the point's values, "seed", "round" and the metrics."""
        for place, point in enumerate(self.points):
            for index, seed in enumerate(self.seeds):
                for time, number_of_round in enumerate(self.rounds.tolist()):
                    found = {name: float(values[place, index, time]) for name, values in self.curves.items()}
                    yield {**point, "seed": seed, "round": number_of_round, **found}

    def to_frame(self, library: str = "pandas") -> Any:
        """All values as a data frame, a row for every point, seed and measured round; see `rows`.

        Args:
          library: "pandas" or "polars".

        Raises:
          ValueError: for another library. ModuleNotFoundError: it is not installed.
        """
        return frame_of_rows(list(self.rows()), library)

    def plot(self, metric: str | None = None, *, path: Any = None) -> Any:
        """Curves of a metric, one a point, with 95 % intervals over seeds; a figure, also written where `path` says.

        Args:
          metric: a name in `curves`; None takes the first of the table.
          path: of an image file, or None.
        """
        from fedjaxlite.sweeps import picture

        return picture.plot(self, self._shown()[0] if metric is None else self._known(metric), path)

    def __str__(self) -> str:
        return self.table()

    def _shown(self) -> list[str]:
        names = [n for n in self.curves if n.endswith(("_accuracy", "_loss")) and not n.startswith("train_")]
        first = [] if self.select is None else [self.select]
        found = [*first, *(name for name in names if name != self.select)]
        return found or list(self.curves)

    def _known(self, metric: str) -> str:
        if metric not in self.curves:
            raise ValueError(f"`metric` is {metric!r}; measured are {', '.join(self.curves)}. Name one of those.")
        return metric


def _cell(values: np.ndarray) -> str:
    """A mean with its interval, and how many seeds are finite where not all are."""
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        return "not finite"
    text = str(interval(finite)) if len(finite) > 1 else number(finite[0])
    return text if len(finite) == len(values) else f"{text} ({len(finite)} of {len(values)} seeds finite)"
