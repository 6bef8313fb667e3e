"""What was measured at every client, and how it is distributed over them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

PyTree = Any


class ClientReport(NamedTuple):
    """How a model does at every client.

    Attributes:
      num_examples: int `[N]`.
      metrics: dict of float `[N]`, each client's mean; NaN for a client without examples.
    """

    num_examples: np.ndarray
    metrics: Mapping[str, np.ndarray]

    def summary(self) -> dict[str, float]:
        """The distribution over clients of each metric, as flat names for records.

        Returns:
          for a metric m: "m" (mean weighted by examples), "m_mean" (every client alike), "m_p10", "m_p50", "m_p90"
          (quantiles over clients), "m_worst10" and "m_best10" (mean over the worst and best tenth of clients, at least
          one), "m_var" (variance), "m_gini" (0: all alike). Low is bad, but for metrics with "loss" or "error" in
          their name.
        """
        some = self.num_examples > 0
        weight = self.num_examples[some].astype(np.float64)
        report: dict[str, float] = {}
        for name, values in self.metrics.items():
            report.update(_distribution(name, np.asarray(values, np.float64)[some], weight))
        return report


def _distribution(name: str, values: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    ordered = np.sort(values)
    tenth = max(1, round(0.1 * len(values)))
    low, high = float(ordered[:tenth].mean()), float(ordered[-tenth:].mean())
    bad_is_high = "loss" in name or "error" in name
    return {
        name: float(np.average(values, weights=weight)),
        f"{name}_mean": float(values.mean()),
        **{f"{name}_p{q}": float(np.quantile(values, q / 100)) for q in (10, 50, 90)},
        f"{name}_worst10": high if bad_is_high else low,
        f"{name}_best10": low if bad_is_high else high,
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
