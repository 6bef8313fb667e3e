"""Federated analytics: means, variances, histograms, quantiles and heavy hitters of what clients hold.

Everything here is `fl.federated_sum` of a small vector per client, once or for some rounds, so it goes through any
aggregator that this takes: clipped, or noised. Every client sends sums and a count, and the server divides one by the
other; so the result is that of the pooled examples under any mean, whatever it divides by.

    per="examples"   every example counts alike: a client sends its sum and its number of examples
    per="clients"    every client counts alike: a client sends its own mean and 1

Each function returns `run(population, cohort, key, *, noise_key=None)`, compiled once for every shape. Clients in the
cohort that do not report, or have no examples, do not count; where nobody counts, the result is NaN and a warning says
so. Values that are missing are left out one by one: `missing` is

    "warn"           with a warning that counts them and names the clients
    "skip"           without a word
    "refuse"         not at all: `run` raises a ValueError (under `jax.jit`, where it cannot, the result is NaN)

These words are those of a simulation, past any noise. An aggregator with noise for privacy draws it from the operating
system's entropy in every call, and never from `key`; each `run` is a computation that states what it releases, so that
`privacy.epsilon(run, population, delta=...)` is what a call costs, and `privacy.epsilon([run, (rounds, 100)], ...)`
what it costs together with a training on the same data. A clip cuts a client's sums and counts as one vector. With
per="clients" its L2 norm is at most sqrt(2) for histograms and heavy hitters, and sqrt(Q + 1) for Q quantiles.

Sources: for heavy hitters, Zhu, Kairouz, McMahan, Sun, Li (2020), "Federated Heavy Hitters Discovery with Differential
Privacy", https://arxiv.org/abs/1902.08534 (a trie grown from prefixes, round by round; here without its sampling of
votes: give an aggregator with noise for privacy).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.algorithms.without_a_model.ratios import Missing, Options, Per, ratio


class Moments(NamedTuple):
    """What `federated_variance` gives.

    Attributes:
      mean: float32, of the shape of a row.
      variance: float32, likewise; divided by the count, not by one less.
    """

    mean: jax.Array
    variance: jax.Array


class HeavyHitters(NamedTuple):
    """What `heavy_hitters` gives, the most frequent first.

    Attributes:
      items: int `[M]` or `[M, length]`, like the feature's rows.
      shares: float `[M]`, the share of all examples (or of clients) that each has.
    """

    items: np.ndarray
    shares: np.ndarray


def federated_mean(
    feature: str = "x",
    *,
    per: Per = "examples",
    missing: Missing = "warn",
    aggregator: fl.Aggregator | None = None,
    execution: fl.Execution = fl.Execution(),  # noqa: B008  (a NamedTuple, immutable)
) -> fl.Computation:
    """The mean of a feature.

    Args:
      feature: its name; numbers `[n, ...]`.
      per: what counts alike, "examples" or "clients".
      missing: what to do about missing values, "warn", "skip" or "refuse"; see above. They are NaN and infinite
        entries; other entries of their rows count.
      aggregator: `fl.mean()` if None.
      execution: lanes and devices.

    Returns:
      `run(population, cohort, key) -> float32`, of the shape of a row.

    Raises:
      TypeError, ValueError: for arguments out of range; by `run`, if the feature is missing.

    Example:
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 11])}, client_ids=[0, 0, 1])
      >>> everyone = fl.sampling.full(2).sample(jax.random.key(0), 0, people)
      >>> [float(federated_mean(per=per)(people, everyone, jax.random.key(0))) for per in ("examples", "clients")]
      [5.0, 6.5]
    """
    mean = ratio(_entries, Options(feature, per, missing, aggregator, execution), absent="NaN or infinite")

    def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array, *, noise_key: Any = None) -> jax.Array:
        return mean.call((), population, cohort, key, noise_key)

    return mean.computation("federated_mean", run)


def federated_variance(
    feature: str = "x",
    *,
    per: Per = "examples",
    missing: Missing = "warn",
    aggregator: fl.Aggregator | None = None,
    execution: fl.Execution = fl.Execution(),  # noqa: B008
) -> fl.Computation:
    """The mean and variance of a feature, in two passes, so that a large mean does not eat the variance's digits.

    Args:
      feature: its name; numbers `[n, ...]`.
      per: what counts alike, "examples" or "clients".
      missing: what to do about missing values, "warn", "skip" or "refuse"; see above. They are NaN and infinite
        entries; other entries of their rows count.
      aggregator: `fl.mean()` if None; used twice.
      execution: lanes and devices.

    Returns:
      `run(population, cohort, key) -> Moments`, over the same cohort in both passes.

    Raises:
      TypeError, ValueError: for arguments out of range; by `run`, if the feature is missing.

    Example:
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 11])}, client_ids=[0, 0, 1])
      >>> everyone = fl.sampling.full(2).sample(jax.random.key(0), 0, people)
      >>> moments = federated_variance()(people, everyone, jax.random.key(0))
      >>> round(float(moments.variance), 3)
      18.667
    """
    options = Options(feature, per, missing, aggregator, execution)
    mean_of = ratio(_entries, options, absent="NaN or infinite")

    def squares(rows: jax.Array, mask: jax.Array, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, known = _entries(rows, mask, ())
        return (values - mean[None]) ** 2, known & jnp.isfinite(mean)[None] if known.ndim > 1 else known

    square_of = ratio(squares, options)

    def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array, *, noise_key: Any = None) -> Moments:
        mean = mean_of.call((), population, cohort, key, noise_key)
        return Moments(mean, square_of.call(mean, population, cohort, key, noise_key, number=1))

    return mean_of.computation("federated_variance", run, num_sums=2)


def federated_histogram(
    edges: Any,
    feature: str = "x",
    *,
    per: Per = "examples",
    missing: Missing = "warn",
    aggregator: fl.Aggregator | None = None,
    execution: fl.Execution = fl.Execution(),  # noqa: B008
) -> fl.Computation:
    """How a feature of one number is distributed over bins.

    Args:
      edges: float `[M + 1]`, ascending. A bin holds its left edge, the last one its right edge too, as in NumPy.
      feature: its name; numbers `[n]`.
      per: what counts alike, "examples" or "clients".
      missing: what to do about missing values, "warn", "skip" or "refuse"; see above. They are NaN; infinite ones
        lie outside of the edges.
      aggregator: `fl.mean()` if None.
      execution: lanes and devices.

    Returns:
      `run(population, cohort, key) -> float32 [M]`, the share of each bin. They add up to 1, less the share of what
      lies outside of the edges.

    Raises:
      TypeError, ValueError: for edges that do not ascend; by `run`, if the feature is missing or no single number.

    Example:
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 4, 9])}, client_ids=[0, 0, 1, 1])
      >>> everyone = fl.sampling.full(2).sample(jax.random.key(0), 0, people)
      >>> federated_histogram([0, 2, 4])(people, everyone, jax.random.key(0)).tolist()
      [0.25, 0.5]
    """
    fl.checks.concrete("Build the statistic outside of jit.", edges=edges)
    edges = fl.checks.real_array(narrow=True, edges=edges, shape="[M + 1]").astype(np.float32)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"`edges` is {edges}; expected at least 2 ascending numbers.")
    num_bins = len(edges) - 1

    def bins(rows: jax.Array, mask: jax.Array, shared: Any) -> tuple[jax.Array, jax.Array]:
        del shared
        values = _scalars(rows, mask, feature)
        place = jnp.searchsorted(jnp.asarray(edges), values, side="right").astype(jnp.int32) - 1
        place = jnp.where(values == edges[-1], num_bins - 1, place)
        return jax.nn.one_hot(place, num_bins, dtype=jnp.float32), ~jnp.isnan(values)  # zeros outside of the edges

    shares = ratio(bins, Options(feature, per, missing, aggregator, execution))

    def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array, *, noise_key: Any = None) -> jax.Array:
        return shares.call((), population, cohort, key, noise_key)

    return shares.computation("federated_histogram", run)


def federated_quantiles(
    quantiles: Sequence[float],
    feature: str = "x",
    *,
    low: float,
    high: float,
    num_rounds: int = 16,
    per: Per = "examples",
    missing: Missing = "warn",
    aggregator: fl.Aggregator | None = None,
    execution: fl.Execution = fl.Execution(),  # noqa: B008
) -> fl.Computation:
    """Quantiles of a feature of one number, by bisection: a round halves the interval of each of them.

    Args:
      quantiles: Q numbers in (0, 1].
      feature: its name; numbers `[n]`.
      low: a bound below all values.
      high: a bound above all values; larger ones count as this one.
      num_rounds: T.
      per: what counts alike, "examples" or "clients".
      missing: what to do about missing values, "warn", "skip" or "refuse"; see above. They are NaN; infinite ones
        count as the bounds.
      aggregator: `fl.mean()` if None; used T times.
      execution: lanes and devices.

    Returns:
      `run(population, cohort, key) -> float32 [Q]`. Each is at most (high - low) / 2^T above the smallest value that so
      large a share of examples does not exceed (NumPy's method "inverted_cdf"), and not below it but for rounding.

    Raises:
      TypeError, ValueError: for arguments out of range; by `run`, if the feature is missing or no single number.

    Example:
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 4, 9])}, client_ids=[0, 0, 1, 1])
      >>> everyone = fl.sampling.full(2).sample(jax.random.key(0), 0, people)
      >>> run = federated_quantiles([0.5, 1.0], low=0, high=16)
      >>> run(people, everyone, jax.random.key(0)).round(2).tolist()
      [3.0, 9.0]
    """
    num_rounds = fl.checks.positive_int(num_rounds=num_rounds)
    fl.checks.concrete("Build the statistic outside of jit.", quantiles=quantiles, low=low, high=high)
    given = fl.checks.real_array(narrow=True, quantiles=quantiles, shape="[Q]", ndim=1)
    quantiles = [float(fl.checks.probability(quantiles=quantile)) for quantile in given.tolist()]
    low, high = fl.checks.number(low=low, high=high)
    if not low < high:
        raise ValueError(f"`low` is {low} and `high` is {high}; expected low below high.")
    targets = jnp.asarray(quantiles, jnp.float32)

    def below(rows: jax.Array, mask: jax.Array, middles: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = _scalars(rows, mask, feature)
        return (values[:, None] <= middles[None]).astype(jnp.float32), ~jnp.isnan(values)

    shares = ratio(below, Options(feature, per, missing, aggregator, execution), shared=targets)

    def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array, *, noise_key: Any = None) -> jax.Array:
        least, most = jnp.full(targets.shape, low, jnp.float32), jnp.full(targets.shape, high, jnp.float32)
        nobody = jnp.bool_(False)
        for number in range(num_rounds):
            middles = (least + most) / 2
            share = shares.call(middles, population, cohort, key, noise_key, number)
            nobody = nobody | jnp.isnan(share).any()
            enough = share >= targets - 1e-6  # a share that is equal but for rounding
            least, most = jnp.where(enough, least, middles), jnp.where(enough, middles, most)
        return jnp.where(nobody, jnp.nan, most)

    return shares.computation("federated_quantiles", run, num_sums=num_rounds)


def heavy_hitters(
    feature: str = "x",
    *,
    threshold: float,
    alphabet: int,
    length: int,
    max_prefixes: int | None = None,
    per: Per = "examples",
    missing: Missing = "warn",
    aggregator: fl.Aggregator | None = None,
    execution: fl.Execution = fl.Execution(),  # noqa: B008
) -> fl.Computation:
    """The most frequent strings or numbers, found by growing a trie: a round extends the prefixes that are frequent.

    Args:
      feature: its name: tokens `[n, length]` from 0 to `alphabet` - 1 (strings, padded by a token of their own), or
        integers `[n]` from 0 to `alphabet` ** `length` - 1, which are taken by their digits.
      threshold: the share, in (0, 1], from which on an item counts as frequent.
      alphabet: A, the number of tokens, or the base of the digits.
      length: the number of rounds. A client sends P x A numbers in each.
      max_prefixes: P, how many prefixes may live; 1 / `threshold`, rounded down, if None: so many can be frequent.
      per: what counts alike, "examples" or "clients" (each divides one vote among its examples).
      missing: what to do about missing values, "warn", "skip" or "refuse"; see above. They are tokens and numbers
        out of range, such as -1.
      aggregator: `fl.mean()` if None; used `length` times.
      execution: lanes and devices.

    Returns:
      `run(population, cohort, key) -> HeavyHitters`. Without noise, and with `max_prefixes` of None, exactly the items
      whose share is at least the threshold: a prefix is never rarer than what it begins.

    Raises:
      TypeError, ValueError: for arguments out of range; by `run`, if the feature is missing or of another shape.

    Source: Zhu et al. (2020), https://arxiv.org/abs/1902.08534.

    Example:
      >>> people = fl.Population.from_arrays({"x": [17, 17, 99, 17, 4]}, client_ids=[0, 0, 0, 1, 1])
      >>> everyone = fl.sampling.full(2).sample(jax.random.key(0), 0, people)
      >>> run = heavy_hitters(threshold=0.3, alphabet=10, length=2)
      >>> run(people, everyone, jax.random.key(0)).items.tolist()
      [17]
    """
    threshold = fl.checks.probability(threshold=fl.checks.concrete(threshold=threshold))
    alphabet, length = fl.checks.positive_int(alphabet=alphabet, length=length)
    if max_prefixes is None and 1 / threshold > fl.checks.LARGEST_INT:
        raise ValueError(f"`threshold` is {threshold!r}; expected a larger share, or `max_prefixes` with it.")
    width = fl.checks.positive_int(max_prefixes=int(1 / threshold + 1e-6) if max_prefixes is None else max_prefixes)

    def votes(rows: jax.Array, mask: jax.Array, shared: Any) -> tuple[jax.Array, jax.Array]:
        prefixes, alive, place = shared
        tokens, known = _tokens(rows, mask, feature, alphabet, length)
        beyond = jnp.arange(length, dtype=jnp.int32)[None, None] >= place
        match = jnp.all((tokens[:, None] == prefixes[None]) | beyond, axis=2) & alive[None]
        following = jax.nn.one_hot(tokens[:, place], alphabet, dtype=jnp.float32)
        return match[:, :, None].astype(jnp.float32) * following[:, None], known

    first = (jnp.zeros((width, length), jnp.int32), jnp.arange(width) == 0, jnp.int32(0))
    options = Options(feature, per, missing, aggregator, execution)
    counted = ratio(votes, options, shared=first, absent="out of range")

    def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array, *, noise_key: Any = None) -> HeavyHitters:
        prefixes, alive = np.zeros((width, length), np.int32), np.arange(width) == 0
        kept = np.zeros((0,), np.float32)
        for place in range(length):
            shared = (jnp.asarray(prefixes), jnp.asarray(alive), jnp.int32(place))
            shares = np.asarray(counted.call(shared, population, cohort, key, noise_key, place))
            order = np.argsort(-shares, axis=None, kind="stable")[:width]
            order = order[shares.reshape(-1)[order] >= threshold - 1e-6]
            kept = shares.reshape(-1)[order]
            parents, last = np.unravel_index(order, shares.shape)
            prefixes, old = np.zeros_like(prefixes), prefixes
            prefixes[: len(order)] = old[parents]
            prefixes[: len(order), place] = last
            alive = np.arange(width) < len(order)
        items = prefixes[: len(kept)]
        if population.features[feature].ndim == 1:
            items = items @ (alphabet ** np.arange(length - 1, -1, -1))
        return HeavyHitters(items, kept)

    return counted.computation("heavy_hitters", run, num_sums=length)


def _entries(rows: jax.Array, mask: jax.Array, shared: Any) -> tuple[jax.Array, jax.Array]:
    """Every entry of a row by itself; those of integers are all known, so that rows are counted."""
    del shared
    values = rows.astype(jnp.float32)
    return values, jnp.isfinite(values) if jnp.issubdtype(rows.dtype, jnp.floating) else mask


def _scalars(rows: jax.Array, mask: jax.Array, feature: str) -> jax.Array:
    if rows.ndim != 1:
        raise ValueError(f"feature {feature!r} has rows of shape {list(rows.shape[1:])}; expected one number each.")
    return jnp.where(mask, rows.astype(jnp.float32), 0.0)


def _tokens(rows: jax.Array, mask: jax.Array, feature: str, alphabet: int, length: int) -> tuple[jax.Array, jax.Array]:
    """int32 `[B, length]`: the tokens, or the digits of integers, the highest first; and which are in range."""
    shape = rows.shape[1:]
    if not jnp.issubdtype(rows.dtype, jnp.integer) or shape not in ((), (length,)):
        raise ValueError(
            f"feature {feature!r} has rows of {rows.dtype}{list(shape)}; expected integers, or [{length}] tokens each."
        )
    if shape == ():
        if alphabet**length > 2**31:
            raise ValueError(
                f"`alphabet` ** `length` is {alphabet**length}; expected at most 2^31, the range of int32."
            )
        divisors = jnp.asarray([alphabet**place for place in range(length - 1, -1, -1)], jnp.int32)
        known = (rows >= 0) & (rows < alphabet**length) if alphabet**length <= jnp.iinfo(rows.dtype).max else rows >= 0
        rows = rows.astype(jnp.int32)[:, None] // divisors[None] % alphabet
    else:
        known = jnp.all((rows >= 0) & (rows < alphabet), axis=1)
    return jnp.where(mask[:, None], rows.astype(jnp.int32), 0), known
