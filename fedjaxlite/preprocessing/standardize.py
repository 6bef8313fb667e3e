"""Columns of mean 0 and deviation 1: of all clients' examples together, or each client's by its own numbers."""

from typing import Any

import jax
import numpy as np

import fedjaxlite as fl
from fedjaxlite.preprocessing import columns as columns_of
from fedjaxlite.preprocessing.columns import Bounds, Columns, Per
from fedjaxlite.preprocessing.moments import moments
from fedjaxlite.preprocessing.step import Numbers, Step, by_name
from fedjaxlite.preprocessing.sums import About

_ENTRIES = 1 << 18
"""Numbers in float64 at a time: rows are worked on where they lie."""


def standardize(feature: str = "x", *, columns: Columns = None, per: Per = "examples", bounds: Bounds = None) -> Step:
    """Subtracts the mean of a column and divides by its deviation, both of all clients together.

    Args:
      feature: its name; numbers `[n, ...]`. It becomes float32.
      columns: numbers of columns, among the flattened entries of a row, or their names; None for all.
      per: what counts alike in a mean, "examples" or "clients".
      bounds: (low, high), or one such pair a column: values beyond them count as the bound when numbers are learned
        (rows are not cut). Needed where the aggregator clips or adds noise, with per="clients".

    Returns:
      a Step that learns "mean" and "deviation", float64 `[C]`. It makes three sums over clients, and one where the
      aggregator clips or adds noise. Values that are missing (NaN or infinite) do not count, and stay as they are.

    Raises:
      TypeError, ValueError: for arguments out of range; when the pipeline is fitted, if the feature or a column is
        missing, or nobody has a value in one.

    Guarantees:
      Without noise, means and deviations of float32 numbers are those of the pooled examples to 1e-5 of the deviation,
      however far from zero they lie. A deviation of 0 divides by 1. Under noise, a deviation is at least 0.01 of half
      the width of the bounds, since noise may take a variance to nothing; a mean lies within the bounds.

    Example:
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 11])}, client_ids=[0, 0, 1])
      >>> fitted = fl.preprocessing.pipeline(standardize("x")).fit(people)
      >>> fitted.numbers[0]["mean"].tolist(), fitted(people).features["x"].astype(float).round(2).tolist()
      ([5.0], [-0.93, -0.46, 1.39])
    """
    feature = fl.checks.text("It names a feature.", feature=feature)
    if columns_of.are_names(columns):
        return by_name(standardize, feature, columns, {"per": per, "bounds": bounds})
    per = fl.checks.one_of(("examples", "clients"), per=per)
    chosen = columns_of.checked_columns(columns)
    pairs = columns_of.checked_bounds(bounds, None if chosen is None else len(chosen))
    name = f"standardize({feature!r})"
    about = About(name, feature, chosen, per, pairs is not None)

    def learn(aggregator: fl.Aggregator | None, execution: fl.Execution) -> fl.Computation:
        ask, computation = moments(about, pairs, aggregator=aggregator, execution=execution)

        def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array, *, noise_key: Any = None) -> Numbers:
            return ask(population, cohort, key, noise_key)._asdict()

        return computation(name, run)

    def apply(rows: np.ndarray, numbers: Numbers, offsets: Any) -> np.ndarray:
        del offsets
        return shifted(rows, columns_of.indices(name, chosen, rows.shape[1:]), numbers["mean"], numbers["deviation"])

    options = {"columns": chosen, "per": per, "bounds": None if pairs is None else pairs.tolist()}
    return Step(name, feature, learn, apply, options=options)


def standardize_locally(feature: str = "x", *, columns: Columns = None, min_examples: int = 10) -> Step:
    """Every client subtracts the mean of its own examples and divides by their deviation: nothing is sent.

    It takes away what devices and places add to a measurement, and with it what a client's level says. A client with
    few examples keeps a column as it is, for it has no deviation to speak of: put `standardize` before, and it has
    everyone's.

    Args:
      feature: its name; numbers `[n, ...]`. It becomes float32.
      columns: as in `standardize`.
      min_examples: of known values of a column, from which on a client has a mean and deviation of its own.

    Returns:
      a Step that learns nothing from clients and makes no sum: it costs no privacy. `fitted(test, own=train)` takes
      each client's numbers from its examples in `train`. A deviation of 0 divides by 1.

    Raises:
      TypeError, ValueError: for arguments out of range; when it is applied, to rows without clients.

    Example:
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 110, 130])}, client_ids=[0, 0, 1, 1])
      >>> fitted = fl.preprocessing.pipeline(standardize_locally("x", min_examples=2)).fit(people)
      >>> fitted(people).features["x"].tolist()
      [-1.0, 1.0, -1.0, 1.0]
    """
    feature = fl.checks.text("It names a feature.", feature=feature)
    if columns_of.are_names(columns):
        return by_name(standardize_locally, feature, columns, {"min_examples": min_examples})
    min_examples = fl.checks.positive_int(min_examples=min_examples)
    chosen = columns_of.checked_columns(columns)
    name = f"standardize_locally({feature!r})"

    def own(rows: np.ndarray, offsets: np.ndarray) -> Numbers:
        columns_of.only_numbers(name, rows)
        picked = columns_of.indices(name, chosen, rows.shape[1:])
        owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        flat, shape = columns_of.flat(rows), (len(offsets) - 1, len(picked))
        mean, deviation = np.zeros(shape), np.ones(shape)
        for place, column in enumerate(picked):
            mean[:, place], deviation[:, place] = _of_each_client(flat[:, column], owner, shape[0], min_examples)
        return {"mean": mean, "deviation": deviation}

    def apply(rows: np.ndarray, numbers: Numbers, offsets: np.ndarray | None) -> np.ndarray:
        if offsets is None:
            raise ValueError(f"{name} is about each client's own examples; expected a Population, not rows of nobody.")
        picked = columns_of.indices(name, chosen, rows.shape[1:])
        owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        return shifted(rows, picked, numbers["mean"], numbers["deviation"], owner)

    return Step(name, feature, None, apply, own, options={"columns": chosen, "min_examples": min_examples})


def shifted(
    rows: np.ndarray, picked: np.ndarray, mean: np.ndarray, deviation: np.ndarray, owner: np.ndarray | None = None
) -> np.ndarray:
    """(rows - mean) / deviation in float64, a column at a time, into float32 rows.

    Args:
      rows: `[n, ...]`.
      picked: `[C]`, which columns.
      mean: `[C]`, or `[N, C]` of each client.
      deviation: likewise; 0 divides by 1.
      owner: `[n]`, the client of each row, where each has numbers of its own.
    """
    rows = columns_of.writable(rows, np.float32)
    flat, by = columns_of.flat(rows), np.where(deviation > 0, deviation, 1.0)
    every = np.array_equal(picked, np.arange(flat.shape[1]))
    chunk = max(1, _ENTRIES // max(1, len(picked)))
    for begin in range(0, len(flat), chunk):
        part = flat[begin : begin + chunk]
        mine = slice(None) if owner is None else owner[begin : begin + chunk]
        wide = (part if every else part[:, picked]).astype(np.float64)
        wide -= mean if owner is None else mean[mine]
        wide /= by if owner is None else by[mine]
        part[:, picked if not every else slice(None)] = wide
    return rows


def _of_each_client(
    values: np.ndarray, owner: np.ndarray, num_clients: int, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation `[N]` of each client's known values; 0 and 1 for clients with too few of them."""
    values = values.astype(np.float64)
    known = np.isfinite(values)
    count = np.bincount(owner[known], minlength=num_clients)
    some = np.maximum(count, 1)
    mean = np.bincount(owner[known], values[known], num_clients) / some
    square = np.bincount(owner[known], (values[known] - mean[owner[known]]) ** 2, num_clients) / some
    enough = count >= least
    return np.where(enough, mean, 0.0), np.where(enough, np.sqrt(square), 1.0)
