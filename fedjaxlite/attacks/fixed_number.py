"""A sampler that draws the same number of bad clients in each round."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.attacks.who import as_bad
from fedjaxlite.sampling import Accounting, Cohort, Sampler, cohort, draws


def fixed_number(cohort_size: int, bad: Any, num: int) -> Sampler:
    """Draws exactly `num` bad clients in each round, and the others of the cohort from the honest ones.

    Both draws are uniform without replacement, so that a fraction of bad clients holds in every round, as the analyses
    of robust rules assume. A fixed pool under `fl.sampling.uniform` is the other protocol: how many are there is random
    then (hypergeometric), and an attack has rounds with nobody of it.

    Args:
      cohort_size: K, also the capacity.
      bad: a fixed pool of clients: `attacks.pool`, or ids.
      num: how many of them take part in each round, from 0 to K and at most the pool's size.

    Returns:
      a Sampler. No amplification by sampling is claimed: bad and honest clients are drawn at different rates.

    Raises:
      TypeError, ValueError: for arguments that do not fit, a pool that is traced or drawn by chance; by `check`, ids
        beyond the population, or fewer honest clients than are needed.

    Source: Sun, Kairouz, Suresh, McMahan (2019), "Can You Really Backdoor Federated Learning?",
    https://arxiv.org/abs/1911.07963, section 3 (fixed-frequency attack, and random sampling).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjaxlite.data.population import Population
      >>> drawn = fixed_number(4, bad=range(10), num=1).sample(jax.random.key(0), 0, Population({}, jnp.arange(101), 1))
      >>> sum(client < 10 for client in drawn.ids.tolist())
      1
    """
    size = checks.positive_int(cohort_size=cohort_size)
    num = checks.nonnegative_int(num=num)
    members = _members(bad)
    if num > min(size, members.size):
        raise ValueError(
            f"`num` is {num}; expected at most {min(size, members.size)}, for a cohort of {size} and a pool of "
            f"{members.size} bad clients."
        )
    # Below the i-th bad client there are so many honest ones.
    honest_below = jnp.asarray(members - np.arange(members.size, dtype=np.int32))
    pool = jnp.asarray(members)

    def sample(key: Any, round_number: Any, population: Any) -> Cohort:
        n = population.num_clients
        of_bad, of_honest, order = jax.random.split(draws.round_key(key, round_number, draws.COHORT), 3)
        ids = []
        if num:
            ids.append(pool[draws.distinct(of_bad, members.size, count=num, size=members.size)])
        if size > num:
            left = n - members.size
            rank = draws.distinct(of_honest, left, count=size - num, size=left)
            ids.append(rank + jnp.searchsorted(honest_below, rank, side="right").astype(jnp.int32))
        # In random order, since rules break ties by it.
        return cohort(jax.random.permutation(order, jnp.concatenate(ids)), jnp.ones((size,), bool))

    def check(num_clients: int) -> None:
        if members.size and members[-1] >= num_clients:
            raise ValueError(f"`bad` holds client {members[-1]}, and the population has {num_clients} clients.")
        if size - num > num_clients - members.size:
            raise ValueError(
                f"fixed_number({size}, num={num}) needs {size - num} honest clients, and of {num_clients} clients "
                f"{num_clients - members.size} are honest. Use a smaller cohort_size or pool, or a larger num."
            )

    note = f"{num} of {members.size} bad clients and {size - num} others; no amplification is claimed."
    accounting = Accounting("weighted", cohort_size=size, note=note)
    return Sampler(sample, size, accounting, f"fixed_number({size}, {num} bad)", check=check)


def _members(bad: Any) -> np.ndarray:
    """The ids of a pool, int32, in order."""
    checks.concrete("Build the sampler outside of jit.", bad=bad)
    who = as_bad(bad)
    if who.rate is not None:
        raise ValueError("`bad` is a share of clients; expected a fixed pool, such as fl.attacks.pool(range(3)).")
    checks.concrete("Build the sampler outside of jit.", bad=who)
    return np.sort(who.members if who.mask is None else np.flatnonzero(who.mask)).astype(np.int32)
