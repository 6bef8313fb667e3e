"""The most frequent tokens of all clients, renumbered from 1."""

from typing import Any

import jax
import numpy as np

import fedjaxlite as fl
from fedjaxlite.algorithms import analytics
from fedjaxlite.preprocessing import columns as columns_of
from fedjaxlite.preprocessing import sums as sums_of
from fedjaxlite.preprocessing.categories import check_share, histogram
from fedjaxlite.preprocessing.columns import Per
from fedjaxlite.preprocessing.step import Numbers, Step
from fedjaxlite.preprocessing.sums import About

_DENSE = 1 << 20
_BITS_A_ROUND = 8
_ROWS = 1 << 14
"""At a time, so that what is looked up lies in memory once."""


def vocabulary(
    feature: str = "x",
    *,
    size: int,
    num_ids: int,
    padding: int | None = None,
    min_share: float = 0.0,
    heavy_hitters: bool = False,
    per: Per = "examples",
) -> Step:
    """Renumbers token ids: the most frequent of all clients become 1 to V, all others 0.

    A Population holds numbers, so tokens are ids already: bytes, characters, or words by a table or a hash
    that everyone knows (`zlib.crc32(word.encode()) % num_ids`). What this finds is which of them are worth a
    row of an embedding.

    Args:
      feature: its name; integer ids `[n]` or `[n, T]`, from 0 to `num_ids` - 1. It becomes int32.
      size: V, the most tokens that get a number.
      num_ids: how many ids there are.
      padding: an id that fills up sequences, if there is one: it is not counted. It becomes 0, and tokens that are not
        in the vocabulary V + 1.
      min_share: the least share of all tokens (or of clients' weight) of a token in the vocabulary. Above 0 where the
        aggregator adds noise, and with `heavy_hitters`.
      heavy_hitters: find the tokens by growing their ids digit by digit (`analytics.heavy_hitters`), in some sums of at
        most 256 / `min_share` numbers, instead of by one sum of `num_ids` numbers. Needed above 2^20 ids.
      per: what counts alike, "examples" (here: tokens) or "clients".

    Returns:
      a Step that learns "ids", int32 `[at most V]`, the most frequent first (of equally frequent ones the smaller id).
      It makes one sum over clients, or with `heavy_hitters` one for each digit.

    Raises:
      TypeError, ValueError: for arguments out of range; when fitted, for a feature that is no integers, and ids out of
        range.

    Example:
      >>> tokens = [[7, 7, 9, 0], [7, 9, 5, 0], [9, 7, 0, 0]]
      >>> people = fl.Population.from_arrays({"x": tokens}, client_ids=[0, 0, 1])
      >>> fitted = fl.preprocessing.pipeline(vocabulary("x", size=2, num_ids=10, padding=0)).fit(people)
      >>> fitted.numbers[0]["ids"].tolist(), fitted(people).features["x"].tolist()
      ([7, 9], [[1, 1, 2, 0], [1, 2, 3, 0], [2, 1, 0, 0]])
    """
    feature = fl.checks.text("It names a feature.", feature=feature)
    size, num_ids = fl.checks.positive_int(size=size, num_ids=num_ids)
    heavy_hitters = fl.checks.flag(heavy_hitters=heavy_hitters)
    per = fl.checks.one_of(("examples", "clients"), per=per)
    min_share = float(fl.checks.fraction(min_share=fl.checks.concrete(min_share=min_share)))
    if padding is not None:
        padding = int(fl.checks.nonnegative_int(padding=padding))
    if not heavy_hitters and num_ids > _DENSE:
        raise ValueError(
            f"`num_ids` is {num_ids}, and every client would send a number for each; expected at most {_DENSE}. Pass "
            "heavy_hitters=True, with a min_share, for more."
        )
    if heavy_hitters and min_share < 1e-4:
        raise ValueError(f"`min_share` is {min_share!r} with heavy_hitters=True; expected a share of at least 1e-4.")
    name = f"vocabulary({feature!r})"
    about = About(name, feature, None, per, bounded=True)

    def learn(aggregator: fl.Aggregator | None, execution: fl.Execution) -> fl.Computation:
        if heavy_hitters:
            made = _by_digits(about, size, num_ids, padding, min_share, aggregator, execution)
        else:
            made = _by_counts(about, size, num_ids, padding, min_share, aggregator, execution)
        return made

    def apply(rows: np.ndarray, numbers: Numbers, offsets: Any) -> np.ndarray:
        del offsets
        _only_integers(name, rows)
        done = columns_of.empty(rows.shape, np.int32)
        for begin in range(0, len(rows), _ROWS):
            done[begin : begin + _ROWS] = _renumbered(rows[begin : begin + _ROWS], numbers["ids"], padding)
        return done

    options = {"size": size, "num_ids": num_ids, "padding": padding, "min_share": min_share, "per": per}
    return Step(name, feature, learn, apply, options={**options, "heavy_hitters": heavy_hitters})


def _renumbered(rows: np.ndarray, ids: np.ndarray, padding: int | None) -> np.ndarray:
    """1 to V for `ids` in their order, and for the rest 0, or V + 1 where 0 is for padding."""
    other = 0 if padding is None else len(ids) + 1
    if not len(ids):
        return np.where(rows == padding, 0, other) if padding is not None else np.zeros(rows.shape, np.int32)
    order = np.argsort(ids)
    ascending = ids[order].astype(np.int64)
    place = np.minimum(np.searchsorted(ascending, rows), len(ids) - 1)
    found = np.where(ascending[place] == rows, order[place] + 1, other)
    return found if padding is None else np.where(rows == padding, 0, found)


def _by_counts(
    about: About,
    size: int,
    num_ids: int,
    padding: int | None,
    min_share: float,
    aggregator: fl.Aggregator | None,
    execution: fl.Execution,
) -> fl.Computation:
    check_share(about.step, min_share, aggregator)
    ask, computation = histogram(
        about._replace(columns=(0,)), (0, num_ids - 1), aggregator=aggregator, execution=execution, ignored=padding
    )

    def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array, *, noise_key: Any = None) -> Numbers:
        tokens = _tokens(about, population)
        share = np.nan_to_num(ask(tokens, cohort, key, noise_key).mean[:, 0], nan=0.0)
        least = max(min_share, 1e-6 / tokens.num_clients / tokens.max_size)
        order = np.argsort(-share.round(12), kind="stable")[:size]
        return {"ids": order[share[order] >= least - 1e-12].astype(np.int32)}

    return computation(about.step, run)


def _by_digits(
    about: About,
    size: int,
    num_ids: int,
    padding: int | None,
    min_share: float,
    aggregator: fl.Aggregator | None,
    execution: fl.Execution,
) -> fl.Computation:
    aggregator = fl.mean() if aggregator is None else aggregator
    sums_of.check_bounded(about, sums_of.limits_of(aggregator), aggregator)
    alphabet, length = digits(num_ids)
    find = analytics.heavy_hitters(
        about.feature,
        threshold=min_share,
        alphabet=alphabet,
        length=length,
        per=about.per,
        missing="skip",
        aggregator=aggregator,
        execution=execution,
    )

    def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array, *, noise_key: Any = None) -> Numbers:
        tokens = _tokens(about, population)
        ids = np.asarray(tokens.features[about.feature])
        if padding is not None:
            ids = np.where(ids == padding, -1, ids.astype(np.int32))
        strange = (ids >= num_ids) | ((ids < 0) & (np.asarray(tokens.features[about.feature]) != padding))
        if strange.any():
            raise ValueError(
                f"{about.step}: {int(strange.sum())} ids of {about.feature!r} are out of range; expected 0 to "
                f"{num_ids - 1}."
            )
        flat = fl.Population({about.feature: ids}, tokens.offsets, tokens.max_size, tokens.names)
        return {"ids": np.asarray(find(flat, cohort, key, noise_key=noise_key).items[:size], np.int32)}

    return fl.Computation(run, find.wire, find.aggregator, find.num_sums, about.step)


def digits(num_ids: int) -> tuple[int, int]:
    """(alphabet, length) with alphabet ** length of at least `num_ids` and at most 2^31, of few digits.

    Example:
      >>> digits(10**6), digits(2**30)
      ((128, 3), (64, 5))
    """
    bits = max(1, (num_ids - 1).bit_length())
    length = -(-bits // _BITS_A_ROUND)
    while -(-bits // length) * length > 31:
        length += 1
    return 2 ** -(-bits // length), length


def _tokens(about: About, population: fl.Population) -> fl.Population:
    """The same clients with one token a row: rows of sequences, one after the other."""
    sums_of.check_feature(about.step, about.feature, population.features)
    rows = np.asarray(population.features[about.feature])
    _only_integers(about.step, rows)
    width = int(np.prod(rows.shape[1:], dtype=np.int64))
    if rows.ndim > 2 or rows.size > fl.checks.LARGEST_INT:
        raise ValueError(f"{about.step}: {about.feature!r} has shape {list(rows.shape)}; expected ids [n] or [n, T].")
    offsets = np.asarray(population.offsets) * np.int32(width)
    return fl.Population({about.feature: rows.reshape(-1)}, offsets, population.max_size * width, population.names)


def _only_integers(step: str, rows: np.ndarray) -> None:
    if rows.dtype.kind not in "iu":
        raise TypeError(f"{step} is about token ids; the feature has dtype {rows.dtype}, expected integers.")
