"""Codes of categories: which there are, found by counting, and a column of zeros and ones for each."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.preprocessing import columns as columns_of
from fedjaxlite.preprocessing import sums as sums_of
from fedjaxlite.preprocessing.columns import Columns, Per
from fedjaxlite.preprocessing.step import Numbers, Step, by_name
from fedjaxlite.preprocessing.sums import About, Measure, Sums

TERMS = 2
"""The shares of one client's codes, which add up to at most 1, and the count."""

_SOME = 1e-6
"""Of a client's or an example's weight: what is above it has been seen."""


def one_hot(
    feature: str = "x",
    *,
    columns: Columns = None,
    codes: tuple[int, int] | None = None,
    categories: Sequence[Sequence[int]] | None = None,
    min_share: float = 0.0,
    unknown: Literal["zeros", "refuse"] = "zeros",
    per: Per = "examples",
) -> Step:
    """A column of zeros and ones for each category of a column of codes.

    The columns that are not encoded come first, in their order; then the categories, column by column, in ascending
    order. Categories are found by counting codes at the clients, or given.

    Args:
      feature: its name; rows `[C]` or single numbers. It becomes float32.
      columns: numbers or names of the columns of codes; None for all.
      codes: (low, high), the range that whole-numbered codes lie in, both included; a client sends a number for each.
      categories: instead of `codes`, the categories of each column in `columns`; then nothing is asked of clients.
      min_share: the share of examples (or of clients' weight) from which on a category has a column. At 0 all that are
        seen have one. Above 0 where the aggregator adds noise, in which every code looks as if it was there.
      unknown: what a code without a column becomes when it is applied: "zeros" in all of them, or "refuse" with an
        error. Missing values (NaN) are such.
      per: what counts alike in shares, "examples" or "clients".

    Returns:
      a Step that learns "category" and "column", int32 `[M]`: which code of which column each new column is. It makes
      one sum over clients, or none where categories are given.

    Raises:
      TypeError, ValueError: for arguments out of range, and unless one of `codes` and `categories` is given; when
        fitted, for values that are no codes in the range.

    Example:
      >>> people = fl.Population.from_arrays({"x": np.float32([[.5, 3], [.25, 7], [.5, 3]])}, client_ids=[0, 0, 1])
      >>> fitted = fl.preprocessing.pipeline(one_hot("x", columns=[1], codes=(0, 9))).fit(people)
      >>> fitted(people).features["x"].tolist(), fitted.columns["x"]
      ([[0.5, 1.0, 0.0], [0.25, 0.0, 1.0], [0.5, 1.0, 0.0]], ('0', '1=3', '1=7'))
    """
    feature = fl.checks.text("It names a feature.", feature=feature)
    if columns_of.are_names(columns):
        return by_name(
            one_hot,
            feature,
            columns,
            {"codes": codes, "categories": categories, "min_share": min_share, "unknown": unknown, "per": per},
        )
    chosen = columns_of.checked_columns(columns)
    unknown = fl.checks.one_of(("zeros", "refuse"), unknown=unknown)
    per = fl.checks.one_of(("examples", "clients"), per=per)
    min_share = float(fl.checks.fraction(min_share=fl.checks.concrete(min_share=min_share)))
    if (codes is None) == (categories is None):
        raise ValueError(
            f"`codes` is {codes!r} and `categories` is {fl.checks.shown(categories)}; expected exactly one of them: "
            "the range in which categories are to be found, or the categories."
        )
    given = None if categories is None else _given(categories, chosen)
    span = None if codes is None else columns_of.checked_codes(codes)
    name = f"one_hot({feature!r})"
    about = About(name, feature, chosen, per, bounded=True)

    def learn(aggregator: fl.Aggregator | None, execution: fl.Execution) -> fl.Computation:
        ask, computation = histogram(about, span or (0, 0), aggregator=aggregator, execution=execution)
        check_share(name, min_share, aggregator)

        def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array, *, noise_key: Any = None) -> Numbers:
            share = np.nan_to_num(ask(population, cohort, key, noise_key).mean, nan=0.0)
            column, place = np.nonzero(max(min_share, _SOME / population.num_clients / population.max_size) <= share.T)
            return {"category": (place + (span or (0, 0))[0]).astype(np.int32), "column": column.astype(np.int32)}

        return computation(name, run)

    def apply(rows: np.ndarray, numbers: Numbers, offsets: Any) -> np.ndarray:
        del offsets
        picked = columns_of.indices(name, chosen, rows.shape[1:])
        return _encoded(name, rows, picked, given or numbers, refuse=unknown == "refuse")

    def renamed(names: tuple[str, ...], numbers: Numbers) -> tuple[str, ...]:
        found = given or numbers
        picked = range(len(names)) if chosen is None else chosen
        kept = [own for i, own in enumerate(names) if i not in picked]
        if not found:
            return (*kept, columns_of.UNKNOWN)
        pairs = zip(found["column"], found["category"], strict=True)
        return (*kept, *(f"{names[picked[column]]}={category}" for column, category in pairs))

    options: dict[str, Any] = {"columns": chosen, "codes": span, "min_share": min_share, "unknown": unknown, "per": per}
    options["categories"] = None if given is None else {part: array.tolist() for part, array in given.items()}
    return Step(name, feature, learn if given is None else None, apply, renamed=renamed, options=options)


def histogram(
    about: About,
    codes: tuple[int, int],
    *,
    aggregator: fl.Aggregator | None,
    execution: fl.Execution,
    ignored: Any = None,
) -> tuple[Callable[..., Sums], Callable[..., fl.Computation]]:
    """How often each code is, in each column of a step.

    Args:
      about: the step.
      codes: (low, high), both included.
      aggregator: `fl.mean()` if None.
      execution: lanes and devices.
      ignored: a code that counts as missing, or None.

    Returns:
      `learn(population, cohort, key, noise_key) -> Sums` with a total `[M, C]`, and what makes a Computation of a
      function around it.
    """
    # A batch makes a histogram, so it had better have as many rows.
    batch_size = min(max(256, codes[1] - codes[0] + 1), 8192)
    column_sum = sums_of.column_sum(
        _counts(codes, ignored),
        about,
        terms=TERMS,
        aggregator=aggregator,
        execution=execution,
        batch_size=batch_size,
    )

    def learn(population: fl.Population, cohort: fl.Cohort, key: jax.Array, noise_key: Any) -> Sums:
        sums_of.check_feature(about.step, about.feature, population.features)
        row_shape = population.features[about.feature].shape[1:]
        got = column_sum.call((), population, cohort, key, noise_key)
        if not column_sum.limits.limited:
            sums_of.nobody(about, got.counts, row_shape)
        return got

    return learn, lambda name, run: column_sum.computation(name, run, 1)


def check_share(step: str, min_share: float, aggregator: fl.Aggregator | None) -> None:
    """Refuses to look for whatever is above nothing, in noise."""
    if min_share > 0 or aggregator is None or not sums_of.limits_of(aggregator).noised:
        return
    raise ValueError(
        f"{aggregator.name} adds noise, in which every code looks as if it was there. Give {step} a `min_share` above "
        "0, or the codes themselves."
    )


def most_frequent(got: Sums, low: int) -> np.ndarray:
    """float64 `[C]`: the code that is most often there, the smallest of several."""
    return (np.argmax(np.round(got.total, 3), axis=0) + low).astype(np.float64)


def _counts(codes: tuple[int, int], ignored: Any) -> Measure:
    low, high = codes

    def measure(rows: jax.Array, mask: jax.Array, shared: Any) -> dict[str, jax.Array]:
        del shared
        there = jnp.broadcast_to(mask[:, None], rows.shape)
        if columns_of.is_float(rows.dtype):
            values = rows.astype(jnp.float32)
            there = there & ~jnp.isnan(values)
            whole = (values == jnp.floor(values)) & (values >= low) & (values <= high)
            whole_numbers = jnp.where(whole, values, float(low)).astype(jnp.int32)
        else:
            wide = rows.astype(jnp.int32)
            whole = (wide >= low) & (wide <= high)
            whole_numbers = wide
        if ignored is not None:
            there = there & ~(whole & (whole_numbers == ignored))
        known, width = there & whole, rows.shape[1]
        number = jnp.where(known, whole_numbers - low, 0) * width + jnp.arange(width, dtype=jnp.int32)[None]
        total = jnp.zeros((high - low + 1) * width, jnp.float32).at[number].add(known.astype(jnp.float32))
        return {
            "total": total.reshape(high - low + 1, width),
            "count": known.astype(jnp.float32).sum(0),
            "strange": (there & ~whole).sum(dtype=jnp.int32),
        }

    return measure


def _given(categories: Any, chosen: tuple[int, ...] | None) -> dict[str, np.ndarray]:
    expected = "a list of distinct whole numbers for each column in `columns`, such as [[0, 1], [1, 2, 3]]"
    if chosen is None:
        raise ValueError("`categories` was given without `columns`; name the columns that they are the categories of.")
    if isinstance(categories, (str, bytes)) or not isinstance(categories, Sequence) or len(categories) != len(chosen):
        raise ValueError(f"`categories` is {fl.checks.shown(categories)}; expected {expected} ({len(chosen)} of them).")
    column: list[int] = []
    category: list[int] = []
    for place, own in enumerate(categories):
        listed = columns_of.listing(own)
        if not listed or not all(isinstance(c, (int, np.integer)) and not isinstance(c, bool) for c in listed):
            raise ValueError(f"`categories[{place}]` is {fl.checks.shown(own)}; expected {expected}.")
        if len(set(listed)) < len(listed) or max(map(abs, listed)) >= 2**31:
            raise ValueError(f"`categories[{place}]` is {fl.checks.shown(own)}; expected {expected}, within 2^31.")
        column += [place] * len(listed)
        category += [int(c) for c in listed]
    return {"category": np.asarray(category, np.int32), "column": np.asarray(column, np.int32)}


def _encoded(step: str, rows: np.ndarray, picked: np.ndarray, found: Numbers, *, refuse: bool) -> np.ndarray:
    if rows.ndim > 2:
        raise ValueError(f"{step} encodes columns, and rows have shape {list(rows.shape[1:])}; expected rows of [C].")
    flat = columns_of.flat(rows)
    kept = [i for i in range(flat.shape[1]) if i not in set(picked.tolist())]
    made = columns_of.empty((len(flat), len(kept) + len(found["category"])), np.float32)
    made[:, : len(kept)] = flat[:, kept]
    known = np.zeros((len(flat), len(picked)), bool) if refuse else None
    for place, (column, category) in enumerate(zip(found["column"], found["category"], strict=True), len(kept)):
        hit = flat[:, picked[column]] == category
        made[:, place] = hit
        if known is not None:
            known[:, column] |= hit
    if known is not None and not known.all():
        row, column = map(int, np.argwhere(~known)[0])
        raise ValueError(
            f"{step}: row {row} holds {flat[row, picked[column]]} in column {picked[column]}, which is none of the "
            f"categories {found['category'][found['column'] == column].tolist()}; so do {int((~known).sum())} entries. "
            "Pass unknown='zeros' where that is meant, or give the categories."
        )
    return made
