"""What was measured at every client, and how it is distributed over them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks
from fedjaxlite.data import client_names
from fedjaxlite.data.frames import frame_of_columns
from fedjaxlite.data.group_gaps import Gaps, gaps_of
from fedjaxlite.directions import Direction, direction, directions

PyTree = Any


class ClientReport(NamedTuple):
    """How a model does at every client.

    Attributes:
      num_examples: int `[N]`.
      metrics: dict of float `[N]`, each client's mean; NaN for a client without examples.
      better: "lower" or "higher" for metrics that are not the library's own, as the loss or the metric declared.
      arrays: dict of float `[N, ...]`, metrics that are arrays, such as a client's confusion matrix.
      low: dict of float `[N]`, the lower ends of the metrics' 95 % intervals, where they were asked for.
      high: the upper ends.
      names: `[N]` strings or ints, those of the population that was measured; None where it had none.
    """

    num_examples: np.ndarray
    metrics: Mapping[str, np.ndarray]
    better: Mapping[str, Direction] = {}
    arrays: Mapping[str, np.ndarray] = {}
    low: Mapping[str, np.ndarray] = {}
    high: Mapping[str, np.ndarray] = {}
    names: np.ndarray | None = None

    def of(self, client: int | str) -> dict[str, float]:
        """The metrics of one client, and where they have intervals the ends of these.

        Args:
          client: its name where names are strings, or its index in `[0, N)`; an int is always an index.

        Returns:
          a dict from a metric's name to its value, NaN where it has none; of a metric m with an interval also "m_low"
          and "m_high". Metrics that are arrays stay in `arrays`.

        Raises:
          ValueError: nobody has this name. IndexError: the index is out of range. TypeError: it is neither.

        Example:
          >>> import numpy as np
          >>> names = np.array(["Basel", "Bern"])
          >>> ClientReport(np.array([3, 2]), {"accuracy": np.array([0.5, 0.75])}, names=names).of("Bern")
          {'accuracy': 0.75}
        """
        total = len(self.num_examples)
        index = client_names.index_of(self.names, total, client) if client_names.are_names(client) else client
        if isinstance(index, (bool, np.bool_)) or not isinstance(index, (int, np.integer)):
            raise TypeError(f"`client` is {checks.shown(client)}; expected a client's name, or an int in [0, {total}).")
        if not 0 <= index < total:
            raise IndexError(f"`client` is {index}; the report has clients 0 to {total - 1}.")
        ends = {f"{name}_{end}": values for end in ("low", "high") for name, values in getattr(self, end).items()}
        return {name: float(values[index]) for name, values in {**self.metrics, **ends}.items()}

    def summary(self, *, better: Mapping[str, Direction] | None = None) -> dict[str, float]:
        """The distribution over clients of each metric, as flat names for records.

        Args:
          better: which way metrics of one's own are better, such as {"mae": "lower"}, where the loss does not say so
            (`fedjaxlite.losses.declare`); "loss", "accuracy" and "absolute_error" are known.

        Returns:
          for a metric m: "m" (mean weighted by examples), "m_mean" (every client alike), "m_p10", "m_p50", "m_p90"
          (quantiles over clients), "m_worst10" and "m_best10" (mean over the worst and best tenth of clients, at least
          one), "m_var" (variance), "m_gini" (0: all alike). A client with a loss for whom a metric is undefined (an
          area under a curve of one class alone) is left out of it, and "m_undefined" says how many there are. A client
          whose loss is NaN is not: then the metric is NaN.

        Raises:
          ValueError: nobody says which way a metric is better, so that its worst tenth is not known.
        """
        given: dict[str, Direction] = {**self.better, **directions("better", better)}
        some = self.num_examples > 0
        weight = self.num_examples[some].astype(np.float64)
        report: dict[str, float] = {}
        for name, values in self.metrics.items():
            way = _way(name, given)
            there, own = self._defined(name)[some], np.asarray(values, np.float64)[some]
            if there.any():
                report.update(_distribution(name, own[there], weight[there], way))
            elif some.any():
                report.update(_distribution(name, own, weight, way))  # NaN throughout
            if not there.all():
                report[f"{name}_undefined"] = int((~there).sum())
        return report

    def gaps(self, groups: Any = None) -> Gaps:
        """How far apart groups of clients are served.

        Args:
          groups: `[N]`, the group of each client, ints or strings; None where each client is one. For metrics that are
            no means over examples (areas under curves, R2) pool the groups' examples with
            `fl.evaluate_clients(..., groups=groups)`, and ask that report for its gaps.

        Returns:
          a Gaps: each metric in each group, the mean over its clients' examples, and the largest difference.

        Raises:
          TypeError, ValueError: for what is not one group a client.

        Example:
          >>> report = ClientReport(np.array([10, 30, 20]), {"accuracy": np.array([0.9, 0.5, 0.8])})
          >>> found = report.gaps(["city", "city", "village"])
          >>> found.groups, found.metrics["accuracy"].round(3).tolist(), round(found.gap["accuracy"], 3)
          (('city', 'village'), [0.6, 0.8], 0.2)
        """
        defined = {name: self._defined(name) for name in self.metrics}
        return gaps_of(self.num_examples, self.metrics, defined, groups)

    def _defined(self, name: str) -> np.ndarray:
        """Which clients count, bool `[N]`: False where a metric is undefined although there is a loss."""
        values = np.asarray(self.metrics[name], np.float64)
        loss = np.asarray(self.metrics.get("loss", np.zeros(len(values))), np.float64)
        return ~np.isnan(values) | np.isnan(loss)

    def to_frame(self, library: str = "pandas") -> Any:
        """The report as a data frame, a row a client: its name (or number), its examples and its metrics.

        Args:
          library: "pandas" or "polars".

        Raises:
          ValueError: for another library. ModuleNotFoundError: it is not installed.

        Example:
          >>> report = ClientReport(np.array([2, 1]), {"loss": np.float32([0.5, 1.5])})
          >>> report.to_frame().to_dict("list")
          {'client': [0, 1], 'num_examples': [2, 1], 'loss': [0.5, 1.5]}
        """
        client = np.arange(len(self.num_examples)) if self.names is None else self.names.tolist()
        columns = {"client": client, "num_examples": np.asarray(self.num_examples)}
        columns |= {name: np.asarray(values) for name, values in self.metrics.items()}
        for end, bounds in (("low", self.low), ("high", self.high)):
            columns |= {f"{name}_{end}": np.asarray(values) for name, values in bounds.items()}
        return frame_of_columns(columns, library)


def _way(name: str, given: Mapping[str, Direction]) -> Direction:
    way = direction(name, given)
    if way is None:
        raise ValueError(
            f"the report has the metric {name!r}, and nobody says whether lower or higher is better, so its worst and "
            f'best tenth are not known. Say it of the loss: fl.losses.declare(loss, better={{{name!r}: "lower"}}) (or '
            f'"higher"); of a fl.metrics.Metric: its `better`; or here: report.summary(better={{...}}).'
        )
    return way


def _distribution(name: str, values: np.ndarray, weight: np.ndarray, way: Direction) -> dict[str, float]:
    ordered = np.sort(values)
    tenth = max(1, round(0.1 * len(values)))
    low, high = float(ordered[:tenth].mean()), float(ordered[-tenth:].mean())
    return {
        name: float(np.average(values, weights=weight)),
        f"{name}_mean": float(values.mean()),
        **{f"{name}_p{q}": float(np.quantile(values, q / 100)) for q in (10, 50, 90)},
        f"{name}_worst10": high if way == "lower" else low,
        f"{name}_best10": low if way == "lower" else high,
        f"{name}_var": float(values.var()),
        f"{name}_gini": gini(values),
    }


def gini(values: np.ndarray) -> float:
    """The Gini coefficient of nonnegative values: 0 where all are alike, towards 1 where one has everything."""
    ordered = np.sort(np.asarray(values, np.float64))
    n, total = len(ordered), float(ordered.sum())
    if n == 0 or total <= 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))
