"""Data with holes and scales of their own, and short calls, for the tests of preprocessing."""

from typing import Any

import helpers
import jax
import numpy as np

import fedjaxlite as fl
from fedjaxlite import preprocessing

N, ROWS, KEY = 6, 40, jax.random.key(0)


def columns(seed: int = 0, holes: float = 0.15) -> np.ndarray:
    """float32 `[40, 4]`: heart-disease-like columns, the last of codes 0 to 3; a share of them missing."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.normal(246, 51, ROWS),
        1e6 + rng.normal(size=ROWS),
        rng.exponential(size=ROWS),
        rng.integers(0, 4, ROWS),
    ]
    x = np.stack(parts, axis=1).astype(np.float32)
    x[rng.random(x.shape) < holes] = np.nan
    return x


def people(cuts: Any = (5, 6, 20, 20, 33), x: np.ndarray | None = None, **features: Any) -> fl.Population:
    """Six clients that own consecutive rows, perhaps none; the same shapes for all cuts."""
    x = columns() if x is None else x
    offsets = np.concatenate([[0], np.sort(np.asarray(cuts)), [len(x)]]).astype(np.int32)
    return fl.Population({"x": x, **features}, offsets, len(x), np.array(list("abcdef")[: len(offsets) - 1]))


def fit(
    *steps: preprocessing.Step, data: fl.Population | None = None, column_names: Any = None, **options: Any
) -> preprocessing.Fitted:
    """Fits steps to the six clients."""
    made = preprocessing.pipeline(*steps, column_names=column_names)
    return made.fit(people() if data is None else data, execution=helpers.ONE, **options)


def learner(step: preprocessing.Step, **options: Any) -> Any:
    """`run(population, cohort=everyone) -> numbers` of one step, compiled once for all populations of its shapes."""
    (made,) = preprocessing.pipeline(step).computations(execution=helpers.ONE, **options)

    def run(data: fl.Population, cohort: fl.Cohort | None = None) -> Any:
        return made(data, everyone(data) if cohort is None else cohort, KEY)

    return run


def everyone(data: fl.Population) -> fl.Cohort:
    return fl.sampling.full(data.num_clients).sample(KEY, 0, data)


def only(data: fl.Population, ids: Any) -> fl.Cohort:
    """All are selected, and some report."""
    reported = np.zeros(data.num_clients, bool)
    reported[list(ids)] = True
    return everyone(data)._replace(reported=reported)


def of_clients(data: fl.Population, ids: Any, name: str = "x") -> np.ndarray:
    """float64, the pooled examples of some clients."""
    return np.concatenate([data.client(i)[name] for i in ids]).astype(np.float64)
