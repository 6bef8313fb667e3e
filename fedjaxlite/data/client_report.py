"""What was measured at every client, and how it is distributed over them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite.directions import Direction, direction, directions

PyTree = Any


class ClientReport(NamedTuple):
    """How a model does at every client.

    Attributes:
      num_examples: int `[N]`.
      metrics: dict of float `[N]`, each client's mean; NaN for a client without examples.
      better: "lower" or "higher" for metrics that are not the library's own, as the loss declared.
    """

    num_examples: np.ndarray
    metrics: Mapping[str, np.ndarray]
    better: Mapping[str, Direction] = {}

    def summary(self, *, better: Mapping[str, Direction] | None = None) -> dict[str, float]:
        """The distribution over clients of each metric, as flat names for records.

        Args:
          better: which way metrics of one's own are better, such as {"mae": "lower"}, where the loss does not say so
            (`fedjaxlite.losses.declare`); "loss", "accuracy" and "absolute_error" are known.

        Returns:
          for a metric m: "m" (mean weighted by examples), "m_mean" (every client alike), "m_p10", "m_p50", "m_p90"
          (quantiles over clients), "m_worst10" and "m_best10" (mean over the worst and best tenth of clients, at least
          one), "m_var" (variance), "m_gini" (0: all alike).

        Raises:
          ValueError: nobody says which way a metric is better, so that its worst tenth is not known.
        """
        given: dict[str, Direction] = {**self.better, **directions("better", better)}
        some = self.num_examples > 0
        weight = self.num_examples[some].astype(np.float64)
        report: dict[str, float] = {}
        for name, values in self.metrics.items():
            way = _way(name, given)
            report.update(_distribution(name, np.asarray(values, np.float64)[some], weight, way))
        return report


def _way(name: str, given: Mapping[str, Direction]) -> Direction:
    way = direction(name, given)
    if way is None:
        raise ValueError(
            f"the report has the metric {name!r}, and nobody says whether lower or higher is better, so its worst and "
            f'best tenth are not known. Say it of the loss: fl.losses.declare(loss, better={{{name!r}: "lower"}}) (or '
            f'"higher"); or here: report.summary(better={{...}}).'
        )
    return way


def _distribution(name: str, values: np.ndarray, weight: np.ndarray, way: Direction) -> dict[str, float]:
    if not len(values):
        return {}
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
