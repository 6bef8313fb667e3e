"""Cohorts of a fixed size: uniform, cyclic, everyone, and prescribed ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.sampling import draws
from fedjaxlite.sampling.systems import with_dropout
from fedjaxlite.sampling.types import Accounting, Cohort, Sampler, cohort
from fedjaxlite.shuffle import shuffled


def uniform(cohort_size: int, *, dropout: float = 0.0) -> Sampler:
    """`cohort_size` distinct clients, every subset of that size equally likely.

    Draws of random bits are kept while they are new and in range, until there are enough: exactly uniform given
    uniform bits, and never short. Time and memory grow with N by one pass over N integers, without a sort.

    Args:
      cohort_size: K, at most N; also the capacity.
      dropout: chance in [0, 1) that a selected client does not report; see `with_dropout`.

    Returns:
      A Sampler with accounting "without_replacement".

    Raises:
      TypeError, ValueError: a size that is no int of at least 1, a dropout outside [0, 1); by `check`, a cohort
        larger than the population.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjaxlite.data.population import Population
      >>> population = Population({}, jnp.arange(101), max_size=1)
      >>> drawn = uniform(10).sample(jax.random.key(0), 0, population)
      >>> len(set(drawn.ids.tolist())), bool(drawn.reported.all())
      (10, True)
    """
    cohort_size = checks.positive_int(cohort_size=cohort_size)
    dropout = checks.fraction("It is the chance that a selected client does not report.", dropout=dropout)
    size = int(cohort_size)

    def sample(key: Any, round_number: Any, population: Any) -> Cohort:
        n = population.num_clients
        ids = draws.distinct(draws.round_key(key, round_number, draws.COHORT), n, count=size, size=n)
        return cohort(ids, jnp.ones((size,), bool))

    def check(num_clients: int) -> None:
        _fits(size, num_clients)

    accounting = Accounting(
        "without_replacement",
        cohort_size=size,
        amplification=True,
        note="Fixed size without replacement: neighbors replace one client, so a clipped sum changes by 2 clip_norm.",
    )
    sampler = Sampler(sample, size, accounting, f"uniform({size})", check=check)
    return sampler if not checks.is_traced(dropout) and dropout == 0 else with_dropout(sampler, dropout)


def cyclic(cohort_size: int, min_separation: int) -> Sampler:
    """Groups take turns, so that two rounds of one client are at least `min_separation` rounds apart.

    The clients are dealt, by a permutation that depends on the key alone, into `min_separation` groups whose sizes
    differ by one at most. Round r draws `cohort_size` clients uniformly without replacement from group
    r mod `min_separation`. Over T rounds a client takes part at most ceil(T / min_separation) times: what banded
    matrix factorization asks of participation.

    Args:
      cohort_size: K, also the capacity.
      min_separation: b, the number of groups; `b * K` at most N. 1 is `uniform`, N // K visits nearly every client
        once in b rounds.

    Returns:
      A Sampler with accounting "cyclic". No amplification is claimed.

    Raises:
      TypeError, ValueError: arguments that are no ints of at least 1; by `check`, groups smaller than the cohort.

    Source: Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta, Xu (2023), "(Amplified) Banded Matrix
    Factorization", https://arxiv.org/abs/2306.08153.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjaxlite.data.population import Population
      >>> population = Population({}, jnp.arange(101), max_size=1)
      >>> seen = [cyclic(10, 10).sample(jax.random.key(0), r, population).ids for r in range(10)]
      >>> len(set(jnp.concatenate(seen).tolist()))
      100
    """
    cohort_size, min_separation = checks.positive_int(cohort_size=cohort_size, min_separation=min_separation)
    size, groups = int(cohort_size), int(min_separation)

    def sample(key: Any, round_number: Any, population: Any) -> Cohort:
        n = population.num_clients
        group = jnp.asarray(round_number, jnp.int32) % groups
        members = (n - group + groups - 1) // groups
        own = draws.round_key(key, round_number, draws.COHORT)
        turn = draws.distinct(own, members, count=size, size=-(-n // groups))
        seed = jax.random.bits(draws.round_key(key, 0, draws.GROUPS), (2,), jnp.uint32)
        ids = shuffled(seed, jnp.int32(0), group + turn * groups, jnp.int32(n))
        return cohort(ids, jnp.ones((size,), bool))

    def check(num_clients: int) -> None:
        _fits(size, num_clients)
        if size * groups > num_clients:
            raise ValueError(
                f"cyclic(cohort_size={size}, min_separation={groups}) needs {size * groups} clients, but the "
                f"population has {num_clients}. Use min_separation={num_clients // size} or less, or a cohort_size "
                f"of {num_clients // groups} or less."
            )

    accounting = Accounting(
        "cyclic",
        cohort_size=size,
        min_separation=groups,
        note=f"Each round draws from one of {groups} fixed groups; no amplification is claimed.",
    )
    return Sampler(sample, size, accounting, f"cyclic({size}, {groups})", check=check)


def full(num_clients: int) -> Sampler:
    """Everyone, in every round.

    Args:
      num_clients: N, which the population must have exactly; also the capacity.

    Returns:
      A Sampler with accounting "full": every client is in every round.

    Raises:
      TypeError, ValueError: not an int of at least 1; by `check`, a population of another size.

    Example:
      >>> import jax.numpy as jnp
      >>> from fedjaxlite.data.population import Population
      >>> full(4).sample(None, 0, Population({}, jnp.arange(5), max_size=1)).ids.tolist()
      [0, 1, 2, 3]
    """
    num_clients = checks.positive_int(num_clients=num_clients)
    size = int(num_clients)

    def sample(key: Any, round_number: Any, population: Any) -> Cohort:
        del key, round_number, population
        return cohort(jnp.arange(size, dtype=jnp.int32), jnp.ones((size,), bool))

    def check(num_clients: int) -> None:
        if num_clients != size:
            raise ValueError(
                f"full({size}) takes everyone of {size} clients, but the population has {num_clients}. "
                "Use fl.sampling.full(population.num_clients)."
            )

    return Sampler(sample, size, Accounting("full", cohort_size=size), f"full({size})", check=check)


def replay(ids: Any) -> Sampler:
    """These clients in these rounds: cohorts that another framework, or an earlier run, has drawn.

    Args:
      ids: concrete integers `[R, K]`; row r is the cohort of round r, distinct but for -1, which leaves a slot empty.

    Returns:
      A Sampler of capacity K with accounting "replay" and `num_rounds` R. A round past R, which a run cannot be
      stopped from asking for once it is compiled, selects nobody; so do negative rounds.

    Raises:
      TypeError, ValueError: ids that are no integers or not `[R, K]`, an id twice in a round or below -1; by
        `check`, an id of N or more.

    Example:
      >>> sampler = replay([[4, 2], [7, -1]])
      >>> [sampler.sample(None, r, None).ids.tolist() for r in range(2)]
      [[4, 2], [7, 0]]
      >>> sampler.sample(None, 2, None).selected.tolist()
      [False, False]
    """
    table = _replay_table(ids)
    num_rounds, capacity = table.shape
    on_device = jnp.asarray(table)

    def sample(key: Any, round_number: Any, population: Any) -> Cohort:
        del key, population
        number = jnp.asarray(round_number, jnp.int32)
        row = on_device[jnp.clip(number, 0, num_rounds - 1)]
        return cohort(row, (row >= 0) & (number >= 0) & (number < num_rounds))

    def check(num_clients: int) -> None:
        if table.max() >= num_clients:
            row, slot = np.argwhere(table >= num_clients)[0]
            raise ValueError(
                f"replay: `ids` holds {table[row, slot]} in round {row}, slot {slot}, but the population has "
                f"{num_clients} clients; expected ids below {num_clients}. Use positions in the population (its "
                "`names` lists the clients' own ids by position)."
            )

    used = table[table >= 0]
    most = int(np.bincount(used).max()) if used.size else 0
    accounting = Accounting("replay", cohort_size=capacity, max_participations=most, note="Prescribed cohorts.")
    name = f"replay({num_rounds} rounds)"
    return Sampler(sample, capacity, accounting, name, check=check, num_rounds=num_rounds)


def _replay_table(ids: Any) -> np.ndarray:
    if checks.is_traced(ids):
        raise TypeError("replay: `ids` is traced; expected concrete integers [R, K]. Build the sampler outside of jit.")
    table = checks.as_array("ids", ids, "integers [rounds, cohort]")
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(
            f"replay: `ids` has shape {list(table.shape)}; expected [rounds, cohort]. Pad shorter cohorts with -1."
        )
    if not np.issubdtype(table.dtype, np.integer):
        raise TypeError(f"replay: `ids` has dtype {table.dtype}; expected integers. Use positions in the population.")
    if table.min() < -1:
        row, slot = np.argwhere(table < -1)[0]
        raise ValueError(
            f"replay: `ids` holds {table[row, slot]} in round {row}, slot {slot}; expected ids of at least 0, or -1 "
            "for an empty slot."
        )
    if table.max() > np.iinfo(np.int32).max:
        raise ValueError(f"replay: `ids` holds {table.max()}; expected ids that fit int32.")
    in_order = np.sort(table, axis=1)
    twice = np.argwhere((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0))
    if twice.size:
        row, slot = twice[0]
        raise ValueError(
            f"replay: `ids` holds client {in_order[row, slot]} twice in round {row}; expected distinct ids. A client "
            "that counts double is expressed by `Cohort.scale`."
        )
    return table.astype(np.int32)


def _fits(cohort_size: int, num_clients: int) -> None:
    if cohort_size > num_clients:
        raise ValueError(
            f"`cohort_size` is {cohort_size}, but the population has {num_clients} clients. Use a cohort_size of "
            f"{num_clients} or less, or a population with more clients."
        )
