"""Federated analytics: means, variances, histograms, quantiles and heavy hitters of what clients hold.

Everything here is `fl.federated_sum` of a small vector per client, once or for some rounds, so it goes through any
aggregator that this takes: clipped, or noised. Every client sends sums and a count, and the server divides one by the
other; so the result is that of the pooled examples under any mean, whatever it divides by.

    per="examples"   every example counts alike: a client sends its sum and its number of examples
    per="clients"    every client counts alike: a client sends its own mean and 1

Each function returns `run(population, cohort, key)`, compiled once for every shape. Clients in the cohort that do not
report, or have no examples, do not count.

Sources: for heavy hitters, Zhu, Kairouz, McMahan, Sun, Li (2020), "Federated Heavy Hitters Discovery with Differential
Privacy", https://arxiv.org/abs/1902.08534 (a trie grown from prefixes, round by round; here without its sampling of
votes: give an aggregator with noise for privacy).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl

Per = Literal["examples", "clients"]
Run = Callable[[fl.Population, fl.Cohort, jax.Array], Any]
_BATCH = 256


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
    aggregator: fl.Aggregator | None = None,
    execution: fl.Execution = fl.Execution(),  # noqa: B008  (a NamedTuple, immutable)
) -> Run:
    """The mean of a feature.

    Args:
      feature: its name; numbers `[n, ...]`.
      per: what counts alike, "examples" or "clients".
      aggregator: `fl.mean()` if None.
      execution: lanes and devices.

    Returns:
      `run(population, cohort, key) -> float32`, of the shape of a row; zero where nobody reports.

    Raises:
      TypeError, ValueError: for arguments out of range; by `run`, if the feature is missing.

    Example:
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 11])}, client_ids=[0, 0, 1])
      >>> everyone = fl.sampling.full(2).sample(jax.random.key(0), 0, people)
      >>> [float(federated_mean(per=per)(people, everyone, jax.random.key(0))) for per in ("examples", "clients")]
      [5.0, 6.5]
    """
    call = _ratio(lambda rows, mask, shared: rows.astype(jnp.float32), feature, per, aggregator, execution)
    return lambda population, cohort, key: call((), population, cohort, key)


def federated_variance(
    feature: str = "x",
    *,
    per: Per = "examples",
    aggregator: fl.Aggregator | None = None,
    execution: fl.Execution = fl.Execution(),  # noqa: B008
) -> Run:
    """The mean and variance of a feature, in two passes, so that a large mean does not eat the variance's digits.

    Args:
      feature: its name; numbers `[n, ...]`.
      per: what counts alike, "examples" or "clients".
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
    mean_of = federated_mean(feature, per=per, aggregator=aggregator, execution=execution)
    square = lambda rows, mask, mean: (rows.astype(jnp.float32) - mean[None]) ** 2  # noqa: E731
    square_of = _ratio(square, feature, per, aggregator, execution)

    def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array) -> Moments:
        first, second = jax.random.split(key)
        mean = mean_of(population, cohort, first)
        return Moments(mean, square_of(mean, population, cohort, second))

    return run


def federated_histogram(
    edges: Any,
    feature: str = "x",
    *,
    per: Per = "examples",
    aggregator: fl.Aggregator | None = None,
    execution: fl.Execution = fl.Execution(),  # noqa: B008
) -> Run:
    """How a feature of one number is distributed over bins.

    Args:
      edges: float `[M + 1]`, ascending. A bin holds its left edge, the last one its right edge too, as in NumPy.
      feature: its name; numbers `[n]`.
      per: what counts alike, "examples" or "clients".
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
    edges = np.asarray(edges, np.float32)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"`edges` is {edges}; expected at least 2 ascending numbers.")
    num_bins = len(edges) - 1

    def bins(rows: jax.Array, mask: jax.Array, shared: Any) -> jax.Array:
        del shared
        values = _scalars(rows, mask, feature)
        place = jnp.searchsorted(jnp.asarray(edges), values, side="right").astype(jnp.int32) - 1
        place = jnp.where(values == edges[-1], num_bins - 1, place)
        return jax.nn.one_hot(place, num_bins, dtype=jnp.float32)  # zeros outside of the edges

    call = _ratio(bins, feature, per, aggregator, execution)
    return lambda population, cohort, key: call((), population, cohort, key)


def federated_quantiles(
    quantiles: Sequence[float],
    feature: str = "x",
    *,
    low: float,
    high: float,
    num_rounds: int = 16,
    per: Per = "examples",
    aggregator: fl.Aggregator | None = None,
    execution: fl.Execution = fl.Execution(),  # noqa: B008
) -> Run:
    """Quantiles of a feature of one number, by bisection: a round halves the interval of each of them.

    Args:
      quantiles: Q numbers in (0, 1].
      feature: its name; numbers `[n]`.
      low: a bound below all values.
      high: a bound above all values; larger ones count as this one.
      num_rounds: T.
      per: what counts alike, "examples" or "clients".
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
    fl.checks.positive_int(num_rounds=num_rounds)
    for quantile in quantiles:
        fl.checks.probability(quantiles=quantile)
    if not low < high:
        raise ValueError(f"`low` is {low} and `high` is {high}; expected low below high.")
    targets = jnp.asarray(quantiles, jnp.float32)

    def below(rows: jax.Array, mask: jax.Array, middles: jax.Array) -> jax.Array:
        return (_scalars(rows, mask, feature)[:, None] <= middles[None]).astype(jnp.float32)

    call = _ratio(below, feature, per, aggregator, execution)

    def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array) -> jax.Array:
        least, most = jnp.full(targets.shape, low, jnp.float32), jnp.full(targets.shape, high, jnp.float32)
        for number in range(num_rounds):
            middles = (least + most) / 2
            share = call(middles, population, cohort, jax.random.fold_in(key, number))
            enough = share >= targets - 1e-6  # a share that is equal but for rounding
            least, most = jnp.where(enough, least, middles), jnp.where(enough, middles, most)
        return most

    return run


def heavy_hitters(
    feature: str = "x",
    *,
    threshold: float,
    alphabet: int,
    length: int,
    max_prefixes: int | None = None,
    per: Per = "examples",
    aggregator: fl.Aggregator | None = None,
    execution: fl.Execution = fl.Execution(),  # noqa: B008
) -> Run:
    """The most frequent strings or numbers, found by growing a trie: a round extends the prefixes that are frequent.

    Args:
      feature: its name: tokens `[n, length]` from 0 to `alphabet` - 1 (strings, padded by a token of their own), or
        integers `[n]` from 0 to `alphabet` ** `length` - 1, which are taken by their digits.
      threshold: the share, in (0, 1], from which on an item counts as frequent.
      alphabet: A, the number of tokens, or the base of the digits.
      length: the number of rounds. A client sends P x A numbers in each.
      max_prefixes: P, how many prefixes may live; 1 / `threshold`, rounded down, if None: so many can be frequent.
      per: what counts alike, "examples" or "clients" (each divides one vote among its examples).
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
    fl.checks.probability(threshold=threshold)
    fl.checks.positive_int(alphabet=alphabet, length=length)
    width = int(1 / threshold + 1e-6) if max_prefixes is None else max_prefixes
    fl.checks.positive_int(max_prefixes=width)

    def votes(rows: jax.Array, mask: jax.Array, shared: Any) -> jax.Array:
        prefixes, alive, place = shared
        tokens = _tokens(rows, mask, feature, alphabet, length)
        beyond = jnp.arange(length, dtype=jnp.int32)[None, None] >= place
        match = jnp.all((tokens[:, None] == prefixes[None]) | beyond, axis=2) & alive[None]
        following = jax.nn.one_hot(tokens[:, place], alphabet, dtype=jnp.float32)
        return match[:, :, None].astype(jnp.float32) * following[:, None]

    call = _ratio(votes, feature, per, aggregator, execution)

    def run(population: fl.Population, cohort: fl.Cohort, key: jax.Array) -> HeavyHitters:
        prefixes, alive = np.zeros((width, length), np.int32), np.arange(width) == 0
        kept = np.zeros((0,), np.float32)
        for place in range(length):
            shared = (jnp.asarray(prefixes), jnp.asarray(alive), jnp.int32(place))
            shares = np.asarray(call(shared, population, cohort, jax.random.fold_in(key, place)))
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

    return run


def _ratio(
    statistic: Callable[[jax.Array, jax.Array, Any], jax.Array],
    feature: str,
    per: Per,
    aggregator: fl.Aggregator | None,
    execution: fl.Execution,
) -> Callable[..., jax.Array]:
    """`call(shared, population, cohort, key)`: the mean over examples (or clients) of a statistic of every row."""
    fl.checks.one_of(("examples", "clients"), per=per)

    def client_fn(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
        if feature not in data.features:
            raise ValueError(f"the data have no feature {feature!r}, only {sorted(data.features)}; give `feature`.")
        plan = data.batches(batch_size=min(_BATCH, data.wave.max_size), epochs=1, shuffle=False)

        def measure(batch: Any, mask: jax.Array) -> jax.Array:
            values = statistic(batch[feature], mask, shared)
            return jnp.where(mask.reshape(-1, *(1 for _ in values.shape[1:])), values, 0.0).sum(0)

        def add(total: jax.Array, batch: Any, mask: jax.Array, key: Any) -> jax.Array:
            del key
            return total + measure(batch, mask)

        shape = jax.eval_shape(lambda: measure(*plan.batch(jnp.int32(0)))).shape
        total, count = plan.scan(add, jnp.zeros(shape, jnp.float32)), data.num_examples.astype(jnp.float32)
        if per == "clients":
            total, count = total / jnp.maximum(count, 1.0), jnp.minimum(count, 1.0)
        return fl.ClientOutput({"total": total, "count": count}, jnp.int32(1))

    sums = fl.federated_sum(client_fn, aggregator=fl.mean() if aggregator is None else aggregator, execution=execution)

    def call(shared: Any, population: fl.Population, cohort: fl.Cohort, key: jax.Array) -> jax.Array:
        value = sums(shared, population, cohort, key=key)[0].value
        return value["total"] / jnp.where(value["count"] > 0, value["count"], 1.0)

    return call


def _scalars(rows: jax.Array, mask: jax.Array, feature: str) -> jax.Array:
    if rows.ndim != 1:
        raise ValueError(f"feature {feature!r} has rows of shape {list(rows.shape[1:])}; expected one number each.")
    return jnp.where(mask, rows.astype(jnp.float32), 0.0)


def _tokens(rows: jax.Array, mask: jax.Array, feature: str, alphabet: int, length: int) -> jax.Array:
    """int32 `[B, length]`: the tokens, or the digits of integers, the most significant first."""
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
        rows = rows.astype(jnp.int32)[:, None] // divisors[None] % alphabet
    return jnp.where(mask[:, None], rows.astype(jnp.int32), 0)
