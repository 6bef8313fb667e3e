"""Cohorts in which some clients are likelier than others: importance sampling, and size-proportional selection."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.sampling import draws
from fedjaxlite.sampling.types import Accounting, Cohort, Sampler, cohort

_RESOLUTION = 2**30


def weighted(
    cohort_size: int,
    weights: Literal["num_examples"] | Sequence[float] | np.ndarray | jax.Array = "num_examples",
    *,
    replacement: bool = True,
) -> Sampler:
    r"""Clients with probability proportional to a weight.

    **With replacement** (importance sampling). K = `cohort_size` independent draws from p_i = w_i / sum(w); a client
    that is drawn c_i times takes one slot, with `Cohort.scale` = c_i / (N p_i). Then, if x_i is what client i would
    send and everyone selected reports,

    - under `fl.mean(over=K)` the aggregate is (1/K) sum_i scale_i x_i, and since E[c_i] = K p_i its expectation is
      (1/N) sum_i x_i: an unbiased estimate of the plain mean over all clients, whatever the weights, as long as
      they are positive;
    - under `fl.weighted_mean()` with `weights="num_examples"` the examples cancel against p_i, and the aggregate is
      (1/K) sum_i c_i x_i: an unbiased estimate of the mean over all examples.

    **Without replacement.** K distinct clients, each next one with probability proportional to its weight among those
    that are left (drawn as the K first arrivals of independent exponential clocks, which is the Gumbel top-k trick).
    `scale` is 1, and inclusion is *not* proportional to the weight: heavy clients saturate. Neither mean is unbiased.

    Args:
      cohort_size: K, also the capacity. With replacement there are at most K distinct clients, and spare slots.
      weights: "num_examples", or concrete numbers `[N]`, non-negative and finite. With replacement the
        probabilities are rounded to multiples of about 2^-30, at least one for a positive weight, and `scale` uses
        the rounded ones; "num_examples" is exact.
      replacement: which of the two.

    Returns:
      A Sampler with accounting "weighted", `scaled` where drawn with replacement. No amplification is claimed.

    Raises:
      TypeError, ValueError: a size that is no int of at least 1, weights that are no numbers `[N]`, negative, NaN or
        all zero; by `check`, weights of another length than the population's.

    Source: scheme I of Li, Huang, Yang, Wang, Zhang (2020), "On the Convergence of FedAvg on Non-IID Data",
    https://arxiv.org/abs/1907.02189; Efraimidis, Spirakis (2006), "Weighted random sampling with a reservoir".

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjaxlite.data.population import Population
      >>> population = Population({}, jnp.array([0, 98, 99, 100]), max_size=98)
      >>> drawn = weighted(5).sample(jax.random.key(0), 0, population)
      >>> int(drawn.ids[0]), round(float(drawn.scale[0]), 3), int(drawn.selected.sum())
      (0, 1.701, 1)
    """
    replacement = checks.flag(replacement=replacement)
    cohort_size = checks.positive_int(cohort_size=cohort_size)
    table = None if isinstance(weights, str) else _weight_table(weights)
    if table is None:
        weights = checks.one_of(("num_examples",), "Or pass an array of one weight a client.", weights=weights)
    elif not replacement and np.count_nonzero(table) < cohort_size:
        raise ValueError(
            f"`cohort_size` is {cohort_size}, but only {np.count_nonzero(table)} of the `weights` are positive. Use "
            "a smaller cohort, or replacement=True."
        )
    size = int(cohort_size)
    sample = _with_replacement(size, table) if replacement else _without_replacement(size, table)

    def check(num_clients: int) -> None:
        if table is not None and table.size != num_clients:
            raise ValueError(
                f"`weights` has {table.size} entries, but the population has {num_clients} clients; expected one "
                "weight a client, in the population's order."
            )
        if size > num_clients and not replacement:
            raise ValueError(
                f"`cohort_size` is {size}, but the population has {num_clients} clients. Use a cohort_size of "
                f"{num_clients} or less, or replacement=True."
            )

    how = "with" if replacement else "without"
    note = f"Drawn in proportion to weights, {how} replacement; no amplification is claimed."
    accounting = Accounting("weighted", cohort_size=size, note=note)
    return Sampler(sample, size, accounting, f"weighted({size})", scaled=replacement, check=check)


def _with_replacement(size: int, table: np.ndarray | None) -> Any:
    """The client of a uniform example, in effect: weights become whole numbers of tickets, which is exact."""
    fixed = None if table is None else jnp.asarray(_tickets(table))

    def sample(key: Any, round_number: Any, population: Any) -> Cohort:
        offsets = jnp.asarray(population.offsets if fixed is None else fixed, jnp.int32)
        total = jnp.maximum(offsets[-1], 1)
        ticket = draws.integers(draws.round_key(key, round_number, draws.COHORT), total, count=size)
        drawn = jnp.sort(jnp.searchsorted(offsets, ticket, side="right").astype(jnp.int32) - 1)
        new = jnp.concatenate([jnp.ones((1,), bool), drawn[1:] != drawn[:-1]])
        slot = jnp.cumsum(new, dtype=jnp.int32) - 1
        ids = jnp.zeros((size,), jnp.int32).at[slot].set(drawn)
        times = jnp.zeros((size,), jnp.float32).at[slot].add(1.0)
        tickets = jnp.maximum(offsets[ids + 1] - offsets[ids], 1).astype(jnp.float32)
        scale = times * (total.astype(jnp.float32) / population.num_clients) / tickets
        return cohort(ids, (times > 0) & (offsets[-1] > 0), scale=scale)

    return sample


def _without_replacement(size: int, table: np.ndarray | None) -> Any:
    fixed = None if table is None else jnp.asarray(table / table.max(), jnp.float32)

    def sample(key: Any, round_number: Any, population: Any) -> Cohort:
        weights = jnp.asarray(population.num_examples).astype(jnp.float32) if fixed is None else fixed
        own, n = draws.round_key(key, round_number, draws.COHORT), weights.shape[0]
        if not draws.in_blocks(own, n):
            arrival, ids = jax.lax.top_k(-_clock(jax.random.bits(own, (n,), jnp.uint32), weights), size)
            return cohort(ids, arrival > -jnp.inf)
        begins = draws.blocks(n)
        rows = jnp.pad(weights, (0, -n % draws.BLOCK)).reshape(len(begins), draws.BLOCK)  # nobody weighs nothing

        def block(best: Any, one: Any) -> Any:
            begin, weights = one
            ids = begin + jnp.arange(draws.BLOCK, dtype=jnp.int32)
            both = jnp.concatenate([best[0], -_clock(draws.block_bits(own, begin), weights)])
            arrival, place = jax.lax.top_k(both, size)  # of equal ones the first, as of all at once
            return (arrival, jnp.concatenate([best[1], ids])[place]), None

        nobody = (jnp.full((size,), -jnp.inf), jnp.zeros((size,), jnp.int32))
        (arrival, ids), _ = jax.lax.scan(block, nobody, (begins, rows))
        return cohort(ids, arrival > -jnp.inf)

    return sample


def _clock(bits: Any, weights: Any) -> Any:
    """When each client arrives."""
    # Early arrivals decide, so the draw is fine where it is small: a float32 from jax.random.uniform has only
    # 2^23 values, and the first hundred of a million would tie.
    uniform = jnp.minimum((bits.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-32), jnp.float32(1 - 2.0**-24))
    return jnp.where(weights > 0, -jnp.log1p(-uniform) / weights, jnp.inf)


def _tickets(table: np.ndarray) -> np.ndarray:
    """int32 `[N + 1]`: cumulative whole numbers in proportion to the weights, at least 1 where a weight is positive."""
    shares = np.rint(table / table.sum() * _RESOLUTION).astype(np.int64)
    shares = np.where(table > 0, np.maximum(shares, 1), 0)
    return np.concatenate([[0], np.cumsum(shares)]).astype(np.int32)


def _weight_table(weights: Any) -> np.ndarray:
    if checks.is_traced(weights):
        raise TypeError("`weights` is traced; expected concrete numbers [N]. Build the sampler outside of jit.")
    table = checks.as_array("weights", weights, "one number a client, [N]")
    if table.ndim != 1 or table.size == 0:
        raise ValueError(f"`weights` has shape {list(table.shape)}; expected one number a client, [N].")
    if table.dtype == bool or not np.issubdtype(table.dtype, np.number) or np.iscomplexobj(table):
        raise TypeError(f"`weights` has dtype {table.dtype}; expected real numbers.")
    table = table.astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(table) & (table >= 0)))
    if bad.size:
        raise ValueError(
            f"`weights` is {table[bad[0]]} for client {bad[0]} ({bad.size} such clients); expected finite numbers of "
            "at least 0."
        )
    if not table.any():
        raise ValueError("`weights` are all 0; expected at least one positive weight.")
    return table
