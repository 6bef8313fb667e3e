"""How far apart groups of clients are served."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjaxlite import checks


class Gaps(NamedTuple):
    """Metrics by group of clients.

    Attributes:
      groups: their names, sorted.
      num_clients: int `[G]`.
      num_examples: int `[G]`.
      metrics: dict of float64 `[G]`, the mean over a group's examples of what its clients have; NaN for one without.
      gap: dict of floats, the largest less the smallest of the groups; groups of NaN are left out.
    """

    groups: tuple[Any, ...]
    num_clients: np.ndarray
    num_examples: np.ndarray
    metrics: Mapping[str, np.ndarray]
    gap: Mapping[str, float]


def gaps_of(
    num_examples: np.ndarray, metrics: Mapping[str, np.ndarray], defined: Mapping[str, np.ndarray], groups: Any
) -> Gaps:
    """The metrics of clients by group; see `ClientReport.gaps`.

    Args:
      num_examples: int `[N]`.
      metrics: dict of float `[N]`.
      defined: dict of bool `[N]`, which of them count.
      groups: `[N]`, or None for each client on its own.
    """
    names, owner = group_ids(groups, len(num_examples))
    sizes = np.asarray(num_examples, np.float64)
    means = {}
    for name, values in metrics.items():
        counts = defined[name] & (sizes > 0)
        weight = np.where(counts, sizes, 0.0)
        total = np.bincount(owner, np.where(counts, np.asarray(values, np.float64), 0.0) * weight, len(names))
        share = np.bincount(owner, weight, len(names))
        means[name] = total / np.where(share > 0, share, np.nan)
    gap = {
        name: float(np.nanmax(mean) - np.nanmin(mean)) if np.isfinite(mean).any() else np.nan
        for name, mean in means.items()
    }
    examples = np.bincount(owner, sizes, len(names)).astype(np.int64)
    return Gaps(tuple(names.tolist()), np.bincount(owner, minlength=len(names)), examples, means, gap)


def group_ids(groups: Any, num_clients: int) -> tuple[np.ndarray, np.ndarray]:
    """The groups' names, sorted, and the index of each client's, refused unless there is one a client."""
    expected = f"one int or str a client, [{num_clients}]"
    given = np.arange(num_clients) if groups is None else checks.as_array("groups", groups, expected)
    if given.dtype == object and given.ndim == 1 and all(isinstance(each, str) for each in given):
        given = given.astype(str)
    if given.ndim != 1 or given.dtype.kind not in "biuUS":
        raise TypeError(f"`groups` has dtype {given.dtype} and shape {list(given.shape)}; expected {expected}.")
    if len(given) != num_clients:
        raise ValueError(f"`groups` has {len(given)} entries for {num_clients} clients; expected one for each of them.")
    names, owner = np.unique(given, return_inverse=True)
    return names, owner
