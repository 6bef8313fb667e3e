"""What a step of a pipeline is: what it learns from clients, and what it does to rows."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

import fedjaxlite as fl
from fedjaxlite.preprocessing import columns as columns_of

Numbers = Mapping[str, np.ndarray]
"""What a step has learned, by name."""

Learn = Callable[[fl.Aggregator | None, fl.Execution], fl.Computation]
Apply = Callable[[np.ndarray, Numbers, np.ndarray | None], np.ndarray]
Own = Callable[[np.ndarray, np.ndarray], Numbers]


Bind = Callable[[tuple[str, ...]], "Step"]


class Step(NamedTuple):
    """One step of a pipeline; those of this room are made by functions, and one of your own is made like this.

    Attributes:
      name: for messages, and for telling pipelines apart: `standardize('x')`.
      feature: the feature that it changes.
      learn: `learn(aggregator, execution) -> fl.Computation`, whose `run(population, cohort, key, *, noise_key=None)`
        gives the numbers, a dict of arrays (or one array, or a NamedTuple of them), as the functions of
        `algorithms.analytics` do. None where there is nothing to learn.
      apply: `apply(rows, numbers, offsets) -> rows`, for NumPy's arrays `[n, ...]`. Rows that are writable may be
        written into. `offsets` are the clients' `[N + 1]`, or None for rows of nobody.
      own: `own(rows, offsets) -> numbers` of each client by itself, without a word to the server; None for most steps.
      renamed: `renamed(names, numbers) -> names`, what the columns are called after the step, as far as the numbers
        tell (before it is fitted there are none); None if as before.
      bind: `bind(names) -> Step`, the step once the columns' names are known; None for a step that needs none.
      options: what else tells the step from others, in plain values: a file of learned numbers goes with them.

    Example:
      A step that subtracts the mean and leaves the scale, by a function of `analytics`:

      >>> import jax, fedjaxlite as fl
      >>> from fedjaxlite.algorithms import analytics
      >>> center = Step(
      ...     "center('x')", "x",
      ...     learn=lambda aggregator, execution: analytics.federated_mean("x", aggregator=aggregator),
      ...     apply=lambda rows, numbers, offsets: rows - numbers["value"],
      ... )
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 11])}, client_ids=[0, 0, 1])
      >>> fl.preprocessing.pipeline(center).fit(people)(people).features["x"].tolist()
      [-4.0, -2.0, 6.0]
    """

    name: str
    feature: str
    learn: Learn | None
    apply: Apply
    own: Own | None = None
    renamed: Callable[[tuple[str, ...], Numbers], tuple[str, ...]] | None = None
    bind: Bind | None = None
    options: Mapping[str, Any] = {}


def by_name(make: Callable[..., Step], feature: str, columns: Any, options: Mapping[str, Any]) -> Step:
    """A step whose columns are given by name: what it will be, but for their numbers.

    Args:
      make: the function of the step.
      feature: its first argument.
      columns: names.
      options: its other arguments by keyword, which are checked now.
    """
    chosen = columns_of.listing(columns) or []
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"`columns` is {chosen}, which names a column twice; expected distinct names.")
    shape = make(feature, columns=list(range(len(chosen))), **options)

    def bind(names: tuple[str, ...]) -> Step:
        return make(feature, columns=columns_of.positions(shape.name, chosen, names), **options)

    return shape._replace(bind=bind, options={"columns": chosen})


def plain(found: Any) -> dict[str, np.ndarray]:
    """What a computation returned, as a dict of arrays."""
    if isinstance(found, Mapping):
        named = found
    elif hasattr(found, "_asdict"):
        named = found._asdict()
    else:
        named = {"value": found}
    return {str(name): np.asarray(value) for name, value in named.items()}


def learned(step: Step, numbers: Any) -> dict[str, np.ndarray]:
    """The numbers that a computation gave to a step, checked to be arrays of numbers."""
    arrays = plain(numbers)
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{step.name} learned {name!r} of dtype {array.dtype}; expected arrays of numbers.")
        array.flags.writeable = False
    return arrays
