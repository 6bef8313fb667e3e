"""Rows as they go through steps: populations, dicts of arrays, and what their columns are called."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import fedjaxlite as fl
from fedjaxlite.preprocessing import columns as columns_of
from fedjaxlite.preprocessing.step import Numbers, Step, learned
from fedjaxlite.preprocessing.sums import check_feature


def untouched(features: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays as read-only views: the first step that writes makes a copy, and those after it write into that."""
    views = {name: np.asarray(array).view() for name, array in features.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def population_like(population: fl.Population, features: Mapping[str, Any]) -> fl.Population:
    """The same clients, with other features of as many rows."""
    return fl.Population(dict(features), population.offsets, population.max_size, population.names)


def numbers_for(
    step: Step, numbers: dict[str, np.ndarray], features: Mapping[str, Any], offsets: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What a step works with: what it has learned, or each client's own numbers from these features.

    Raises:
      ValueError: for rows of nobody where every client has its own.
    """
    if step.own is None:
        return numbers
    check_feature(step.name, step.feature, features)
    if offsets is None:
        raise ValueError(f"{step.name} is about each client's own examples; expected a Population, not rows of nobody.")
    return learned(step, step.own(np.asarray(features[step.feature]), offsets))


def put(step: Step, numbers: Numbers, features: dict[str, Any], offsets: np.ndarray | None) -> None:
    """Puts what a step makes of its feature in place of it.

    Raises:
      TypeError, ValueError: for a feature that is not there, and a step that does not give as many rows.
    """
    check_feature(step.name, step.feature, features)
    rows = features[step.feature]
    done = np.asarray(step.apply(rows, numbers, offsets))
    if done.ndim == 0 or done.shape[0] != rows.shape[0]:
        raise ValueError(f"{step.name} made {list(done.shape)} of rows {list(rows.shape)}; expected as many rows.")
    features[step.feature] = done


def given_names(given: Any, features: set[str]) -> dict[str, tuple[str, ...]]:
    """The names of columns that a user gave, checked.

    Args:
      given: dict of a list of texts for some features, or None.
      features: those that steps are about.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(
            f"`column_names` is {fl.checks.shown(given)}; expected a dict, such as {{'x': ['age', 'pressure']}}."
        )
    names = {}
    for feature, own in given.items():
        if feature not in features:
            raise ValueError(
                f"`column_names` names the feature {feature!r}, which no step is about; expected some of "
                f"{sorted(features)}."
            )
        listed = columns_of.listing(own)
        if not listed or not all(isinstance(name, str) for name in listed) or len(set(listed)) < len(listed):
            raise ValueError(
                f"`column_names` of {feature!r} is {fl.checks.shown(own)}; expected distinct texts, one a column."
            )
        names[feature] = tuple(listed)
    return names


def first_names(
    given: Mapping[str, tuple[str, ...]], row_shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[str, ...]]:
    """What the columns are called before any step: as was said, or by their numbers."""
    names = {}
    for feature, shape in row_shapes.items():
        width = int(np.prod(shape, dtype=np.int64))
        names[feature] = given.get(feature, tuple(str(i) for i in range(width)))
        if len(names[feature]) != width:
            raise ValueError(
                f"`column_names` of {feature!r} has {len(names[feature])} names, and rows have {width} "
                f"column{'s' if width > 1 else ''}; expected one name a column."
            )
    return names


def rename(step: Step, names: dict[str, tuple[str, ...]], numbers: Numbers, features: Mapping[str, Any]) -> None:
    """Puts the names of a step's columns in place of those before; numbers, where a step says nothing of new ones."""
    before = names[step.feature]
    after = before if step.renamed is None else tuple(step.renamed(before, numbers))
    width = int(np.prod(np.shape(features[step.feature])[1:], dtype=np.int64))
    names[step.feature] = after if len(after) == width else tuple(str(i) for i in range(width))
