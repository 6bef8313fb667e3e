"""Missing values, filled in by what the other clients' values are."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

import fedjaxlite as fl
from fedjaxlite.preprocessing import columns as columns_of
from fedjaxlite.preprocessing.categories import histogram, most_frequent
from fedjaxlite.preprocessing.columns import Bounds, Columns, Per
from fedjaxlite.preprocessing.moments import moments
from fedjaxlite.preprocessing.quantiles import quantiles
from fedjaxlite.preprocessing.step import Learn, Numbers, Step, by_name
from fedjaxlite.preprocessing.sums import About

By = Literal["mean", "median", "most_frequent"] | float | Sequence[float]
WAYS = ("mean", "median", "most_frequent")


def impute(
    feature: str = "x",
    *,
    by: By = "mean",
    columns: Columns = None,
    indicators: bool = False,
    per: Per = "examples",
    bounds: Bounds = None,
    codes: tuple[int, int] | None = None,
    num_rounds: int = 10,
) -> Step:
    """Fills in missing values, which are NaN or infinite, by a number a column that clients find together.

    Args:
      feature: its name; numbers `[n, ...]`. It becomes float32. `fl.Population.from_arrays(..., check_finite=False)`
        takes data with holes.
      by: "mean", "median", or "most_frequent" of the known values; or what to fill in, one number or one a column.
      columns: numbers of columns, among the flattened entries of a row, or their names; None for all.
      indicators: append a column for each of `columns`, 1 where a value was missing and 0 elsewhere. Needs rows `[C]`
        or single numbers.
      per: what counts alike, "examples" or "clients".
      bounds: (low, high), or a pair a column, as in `standardize` and `clip_quantiles`; for "mean" and "median".
      codes: (low, high), the range of whole numbers, for "most_frequent".
      num_rounds: of a median between bounds, as in `clip_quantiles`.

    Returns:
      a Step that learns "fill", float64 `[C]`. It makes as many sums over clients as `standardize` ("mean"),
      `clip_quantiles` ("median") or `one_hot` ("most_frequent"), and none for numbers that are given.

    Raises:
      TypeError, ValueError: for arguments out of range, and for "most_frequent" without `codes`; when fitted, for a
        column that nobody knows a value of.

    Guarantees:
      Without noise: the mean of the pooled known values to 1e-5 of their deviation; their median exactly (of two in the
      middle the mean); of codes that are equally frequent the smallest.

    Example:
      >>> x = np.float32([[1, 5], [np.nan, 7], [3, np.nan]])
      >>> people = fl.Population.from_arrays({"x": x}, client_ids=[0, 0, 1], check_finite=False)
      >>> fl.preprocessing.pipeline(impute("x", indicators=True)).fit(people)(people).features["x"].tolist()
      [[1.0, 5.0, 0.0, 0.0], [2.0, 7.0, 1.0, 0.0], [3.0, 6.0, 0.0, 1.0]]
    """
    feature = fl.checks.text("It names a feature.", feature=feature)
    if columns_of.are_names(columns):
        return by_name(
            impute,
            feature,
            columns,
            {
                "by": by,
                "indicators": indicators,
                "per": per,
                "bounds": bounds,
                "codes": codes,
                "num_rounds": num_rounds,
            },
        )
    chosen = columns_of.checked_columns(columns)
    per = fl.checks.one_of(("examples", "clients"), per=per)
    indicators = fl.checks.flag(indicators=indicators)
    num_rounds = fl.checks.positive_int(num_rounds=num_rounds)
    pairs = columns_of.checked_bounds(bounds, None if chosen is None else len(chosen))
    span = None if codes is None else columns_of.checked_codes(codes)
    given = None if isinstance(by, str) else _numbers(by, chosen)
    way = fl.checks.one_of(WAYS, "Or give a number.", by=by) if isinstance(by, str) else "given"
    if way == "most_frequent" and span is None:
        raise ValueError(
            "`codes` is None with by='most_frequent'; expected (low, high), the range of the numbers to be counted."
        )
    for argument, value, ways in (("codes", span, ("most_frequent",)), ("bounds", pairs, ("mean", "median"))):
        if value is not None and way not in ways:
            raise ValueError(f"`{argument}` was given with by={by!r}, which has no use for it; leave it out.")
    name = f"impute({feature!r})"
    about = About(name, feature, chosen, per, bounded=pairs is not None or way == "most_frequent")
    learn = None if given is not None else _learner(about, way, pairs, span, num_rounds)

    def apply(rows: np.ndarray, numbers: Numbers, offsets: Any) -> np.ndarray:
        del offsets
        picked = columns_of.indices(name, chosen, rows.shape[1:])
        fill = numbers["fill"] if given is None else np.broadcast_to(given, len(picked))
        return _filled(name, rows, picked, fill, indicators=indicators)

    def renamed(names: tuple[str, ...], numbers: Numbers) -> tuple[str, ...]:
        del numbers
        picked = range(len(names)) if chosen is None else chosen
        return (*names, *(f"{names[column]} is missing" for column in picked)) if indicators else names

    options = {
        "by": way if given is None else given.tolist(),
        "columns": chosen,
        "indicators": indicators,
        "per": per,
        "bounds": None if pairs is None else pairs.tolist(),
        "codes": span,
        "rounds": num_rounds,
    }
    return Step(name, feature, learn, apply, renamed=renamed, options=options)


def _learner(
    about: About, way: str, bounds: np.ndarray | None, codes: tuple[int, int] | None, num_rounds: int
) -> Learn:
    def learn(aggregator: fl.Aggregator | None, execution: fl.Execution) -> fl.Computation:
        through: dict[str, Any] = {"aggregator": aggregator, "execution": execution}
        if way == "mean":
            of_mean, computation = moments(about, bounds, **through)
            ask = lambda *given: of_mean(*given).mean  # noqa: E731
        elif way == "median":
            of_quantiles, computation = quantiles(about, bounds, (0.5,), num_rounds=num_rounds, **through)
            ask = lambda *given: of_quantiles(*given)[0]  # noqa: E731
        else:
            low, high = codes or (0, 0)
            counts, computation = histogram(about, (low, high), **through)
            ask = lambda *given: most_frequent(counts(*given), low)  # noqa: E731

        def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array, *, noise_key: Any = None) -> Numbers:
            return {"fill": ask(population, cohort, key, noise_key)}

        return computation(about.step, run)

    return learn


def _numbers(by: Any, chosen: tuple[int, ...] | None) -> np.ndarray:
    """float64 `[]` or `[C]`."""
    expected = "one of 'mean', 'median', 'most_frequent', or a finite number, or one for each column"
    if by is None or isinstance(by, (bool, np.bool_, bytes)):
        raise TypeError(f"`by` is {by!r}; expected {expected}.")
    fl.checks.concrete("Build the step outside of jit.", by=by)
    fill = np.asarray(fl.checks.real_array(by=by, shape="[] or [C]"), np.float64)
    if fill.ndim > 1 or fill.size == 0 or not np.isfinite(fill).all() or np.abs(fill).max() > fl.checks.LARGEST_FLOAT:
        raise ValueError(f"`by` is {fl.checks.shown(by)}; expected {expected}.")
    if fill.ndim == 1 and chosen is None:
        raise ValueError("`by` is one number a column, so that `columns` has to name the columns; got None.")
    if fill.ndim == 1 and chosen is not None and len(fill) != len(chosen):
        raise ValueError(f"`by` has {len(fill)} numbers for {len(chosen)} columns; expected one a column, or one.")
    return fill


def _filled(step: str, rows: np.ndarray, picked: np.ndarray, fill: np.ndarray, *, indicators: bool) -> np.ndarray:
    if indicators and rows.ndim > 2:
        raise ValueError(
            f"`indicators` of {step} are further columns, and rows have shape {list(rows.shape[1:])}; expected rows of "
            "[C]."
        )
    rows = columns_of.writable(rows, np.float32)
    flat = columns_of.flat(rows)
    width = flat.shape[1]
    if indicators:
        wide = columns_of.empty((len(flat), width + len(picked)), np.float32)
        wide[:, :width] = flat
        flat = rows = wide
    for place, column in enumerate(picked):
        lost = ~np.isfinite(flat[:, column])
        if indicators:
            flat[:, width + place] = lost
        np.copyto(flat[:, column], np.float32(fill[place]), where=lost)
    return rows
