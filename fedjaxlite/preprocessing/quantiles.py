"""Quantiles of columns, all at once, by bisection.

Without a limit on what clients send, the interval that is halved is that of all float32 numbers in their order, as
integers: after 32 sums a single one is left, and it is exactly the value of so large a rank. With bounds, as noise
needs them, it is the interval between them, halved as often as one likes to pay for.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.preprocessing import columns as columns_of
from fedjaxlite.preprocessing import sums as sums_of
from fedjaxlite.preprocessing.columns import Bounds, Columns, Per
from fedjaxlite.preprocessing.step import Numbers, Step, by_name
from fedjaxlite.preprocessing.sums import About, Sums

BITS = 32
"""Sums that find one float32 number among all."""

LearnQuantiles = Callable[..., np.ndarray]


def clip_quantiles(
    feature: str = "x",
    low: float = 0.01,
    high: float = 0.99,
    *,
    columns: Columns = None,
    per: Per = "examples",
    bounds: Bounds = None,
    num_rounds: int = 10,
) -> Step:
    """Cuts a column to the interval between two of its quantiles over all clients: outliers become its ends.

    Args:
      feature: its name; numbers `[n, ...]`. It becomes float32.
      low: the lower quantile, in [0, 1).
      high: the upper quantile, in (0, 1], above `low`.
      columns: numbers of columns, among the flattened entries of a row, or their names; None for all.
      per: what counts alike, "examples" or "clients".
      bounds: (low, high), or a pair a column, that all values are believed to lie between; others count as the nearer
        one. Needed where the aggregator clips or adds noise, with per="clients".
      num_rounds: T, of the bisection between bounds where the aggregator clips or adds noise; the quantiles are then
        found to (bounds' width) / 2^T, less the noise.

    Returns:
      a Step that learns "low" and "high", float64 `[C]`. It makes 32 sums over clients, or T where the aggregator clips
      or adds noise. Values that are missing (NaN) do not count and stay NaN; infinite ones are cut.

    Raises:
      TypeError, ValueError: for arguments out of range; when fitted, as `standardize`.

    Guarantees:
      Without a limit and with per="examples", the quantiles are `np.nanquantile` of the pooled examples, of up to 2^23
      of them: those values, interpolated. With per="clients" they are the smallest values that such a share of the
      clients' weight does not exceed.

    Example:
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 2, 3, 4, 900])}, client_ids=[0, 0, 1, 1, 1])
      >>> fl.preprocessing.pipeline(clip_quantiles("x", 0.0, 0.75)).fit(people)(people).features["x"].tolist()
      [1.0, 2.0, 3.0, 4.0, 4.0]
    """
    feature = fl.checks.text("It names a feature.", feature=feature)
    if columns_of.are_names(columns):
        return by_name(
            clip_quantiles,
            feature,
            columns,
            {"low": low, "high": high, "per": per, "bounds": bounds, "num_rounds": num_rounds},
        )
    low = fl.checks.fraction(low=fl.checks.concrete(low=low))
    high = fl.checks.probability(high=fl.checks.concrete(high=high))
    if not low < high:
        raise ValueError(f"`low` is {low} and `high` is {high}; expected low below high.")
    per = fl.checks.one_of(("examples", "clients"), per=per)
    num_rounds = fl.checks.positive_int(num_rounds=num_rounds)
    chosen = columns_of.checked_columns(columns)
    pairs = columns_of.checked_bounds(bounds, None if chosen is None else len(chosen))
    name = f"clip_quantiles({feature!r}, {low:g}, {high:g})"
    about = About(name, feature, chosen, per, pairs is not None)

    def learn(aggregator: fl.Aggregator | None, execution: fl.Execution) -> fl.Computation:
        ask, computation = quantiles(
            about, pairs, (low, high), num_rounds=num_rounds, aggregator=aggregator, execution=execution
        )

        def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array, *, noise_key: Any = None) -> Numbers:
            found = np.maximum.accumulate(ask(population, cohort, key, noise_key))  # noise can cross two quantiles
            return {"low": found[0], "high": found[1]}

        return computation(name, run)

    def apply(rows: np.ndarray, numbers: Numbers, offsets: Any) -> np.ndarray:
        del offsets
        picked = columns_of.indices(name, chosen, rows.shape[1:])
        rows = columns_of.writable(rows, np.float32)
        flat = columns_of.flat(rows)
        for place, column in enumerate(picked):
            least, most = np.float32(numbers["low"][place]), np.float32(numbers["high"][place])
            np.clip(flat[:, column], least, most, out=flat[:, column])
        return rows

    options = {"columns": chosen, "per": per, "bounds": None if pairs is None else pairs.tolist(), "rounds": num_rounds}
    return Step(name, feature, learn, apply, options=options)


def quantiles(
    about: About,
    bounds: np.ndarray | None,
    levels: Sequence[float],
    *,
    num_rounds: int,
    aggregator: fl.Aggregator | None,
    execution: fl.Execution,
) -> tuple[LearnQuantiles, Callable[..., fl.Computation]]:
    """Quantiles of the columns of a step.

    Args:
      about: the step.
      bounds: of its columns, or None.
      levels: Q numbers in [0, 1].
      num_rounds: of the bisection, where there is a limit on what clients send.
      aggregator: `fl.mean()` if None.
      execution: lanes and devices.

    Returns:
      `learn(population, cohort, key, noise_key) -> float64 [Q, C]`, and what makes a Computation of a function.
    """
    terms = len(levels) + 1
    column_sum = sums_of.column_sum(_measure, about, terms=terms, aggregator=aggregator, execution=execution)
    limited = column_sum.limits.limited

    def learn(population: fl.Population, cohort: fl.Cohort, key: jax.Array, noise_key: Any) -> np.ndarray:
        sums_of.check_feature(about.step, about.feature, population.features)
        row_shape = population.features[about.feature].shape[1:]
        chosen = columns_of.indices(about.step, about.columns, row_shape)
        low, high = columns_of.bounds_of(about.step, bounds, len(chosen))

        def call(number: int, middles: np.ndarray) -> Sums:
            ends = [jnp.asarray(_key_of(np.float32(end))) for end in (low, high)]
            shared = (jnp.asarray(middles), *ends)
            got = column_sum.call(shared, population, cohort, key, noise_key, number)
            if not limited:
                sums_of.nobody(about, got.counts, row_shape)
            return got

        if limited:
            return _between(call, np.asarray(levels), low, high, num_rounds)
        exact = about.per == "examples" and bool(np.all(np.asarray(cohort.scale) == 1))  # else there are no ranks
        return (
            _exactly(call, np.asarray(levels), len(chosen))
            if exact
            else _by_share(call, np.asarray(levels), len(chosen))
        )

    def computation(name: str, run: Callable[..., Any]) -> fl.Computation:
        return column_sum.computation(name, run, num_rounds if limited else BITS)

    return learn, computation


def _measure(rows: jax.Array, mask: jax.Array, shared: Any) -> dict[str, jax.Array]:
    """How many known values do not exceed each of some numbers, by the order of their keys."""
    middles, low, high = shared
    values = rows.astype(jnp.float32)
    known = ~jnp.isnan(values) & mask[:, None]
    values = jnp.where(values == 0, 0.0, values)  # one zero
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    keys = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))
    keys = jnp.clip(keys, low[None], high[None])
    below = (keys[:, None] <= middles[None]) & known[:, None]
    return {
        "total": below.astype(jnp.float32).sum(0),
        "count": known.astype(jnp.float32).sum(0),
        "strange": jnp.int32(0),
    }


def _key_of(values: Any) -> np.ndarray:
    """uint32 that are in the order of float32 numbers."""
    bits = np.where(values == 0, np.float32(0), values).astype(np.float32).view(np.uint32)
    return np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31)).astype(np.uint32)


def _number_of(keys: np.ndarray) -> np.ndarray:
    """The float32 numbers of keys."""
    keys = keys.astype(np.uint32)
    return np.where(keys >> 31 == 1, keys & np.uint32(2**31 - 1), ~keys).astype(np.uint32).view(np.float32)


def _bisect(
    call: Callable[[int, np.ndarray], Sums], enough: Callable[[Sums], np.ndarray], shape: tuple[int, int]
) -> np.ndarray:
    """float64: the smallest number of all float32 numbers at which there is enough at or below it."""
    least, most = np.zeros(shape, np.uint64), np.full(shape, 2**32 - 1, np.uint64)
    for number in range(BITS):
        middle = (least + most) // 2
        is_enough = enough(call(number, middle.astype(np.uint32)))
        least, most = np.where(is_enough, least, middle + 1), np.where(is_enough, middle, most)
    return _number_of(least).astype(np.float64)


def _exactly(call: Callable[[int, np.ndarray], Sums], levels: np.ndarray, num_columns: int) -> np.ndarray:
    """Values of two neighboring ranks for each level, interpolated as NumPy does by default."""

    def ranks(count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = levels[:, None] * (count[None] - 1)
        first = np.floor(place + 1e-9)
        return first, np.clip(place - first, 0.0, 1.0)

    seen: list[np.ndarray] = []

    def enough(got: Sums) -> np.ndarray:
        count = np.round(got.counts)
        seen.append(count)
        first, _ = ranks(count)
        wanted = np.concatenate([first + 1, np.minimum(first + 2, count[None])])
        return np.round(got.total) >= wanted

    found = _bisect(call, enough, (2 * len(levels), num_columns))
    below, above = found[: len(levels)], found[len(levels) :]
    part = ranks(seen[-1])[1]
    with np.errstate(invalid="ignore"):  # between two infinities
        return np.where((below == above) | (part == 0), below, below + (above - below) * part)


def _by_share(call: Callable[[int, np.ndarray], Sums], levels: np.ndarray, num_columns: int) -> np.ndarray:
    """The smallest values that so large a share of the weight does not exceed."""
    least = np.maximum(levels, 1e-6)[:, None]  # the level 0 is the smallest value, which has some weight
    return _bisect(call, lambda got: got.mean >= least - 5e-7, (len(levels), num_columns))


def _between(
    call: Callable[[int, np.ndarray], Sums], levels: np.ndarray, low: np.ndarray, high: np.ndarray, num_rounds: int
) -> np.ndarray:
    shape = (len(levels), len(low))
    least, most = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
    target = np.maximum(levels, 1e-6)[:, None]
    for number in range(num_rounds):
        middle = (least + most) / 2
        share = call(number, _key_of(middle.astype(np.float32))).mean
        enough = np.nan_to_num(share, nan=0.0) >= target - 5e-7
        least, most = np.where(enough, least, middle), np.where(enough, middle, most)
    # A level in the lower half is cut at the lower end of what is left, one in the upper half at the upper end.
    return np.where(levels[:, None] < 0.5, least, most)
