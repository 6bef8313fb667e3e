"""Power of choice: of a few candidates, those whose loss was largest when they were last heard of."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.sampling import draws
from fedjaxlite.sampling.types import Accounting, Cohort, Memory, Sampler, Seen, Setting, cohort
from fedjaxlite.sampling.utility import choosing
from fedjaxlite.sampling.utility.scores import sound


class LastLosses(NamedTuple):
    """Attributes: loss: float32 `[N]`, what each client told last; infinity before it told anything."""

    loss: Any


def power_of_choice(
    cohort_size: int, candidates: int, *, weights: Literal["num_examples", "equal"] = "num_examples"
) -> Sampler:
    """Draws `candidates` clients, and takes the `cohort_size` of them that told the largest loss last.

    This is the variant rpow-d of the source, which needs no extra round of losses: a candidate counts with the mean
    loss that it sent when it took part last, and with an infinite one before. Of equal losses any is as likely.
    With as many candidates as the cohort holds, it is a draw without regard to loss. A loss that is no finite number
    above 0 counts as 0, and so does a message that was left out of the sum, as one with NaN is: a broken client would
    else stay the first choice.

    Args:
      cohort_size: K, also the capacity.
      candidates: d, from K to N. The larger, the more the draw leans to large losses.
      weights: "num_examples" draws candidates without replacement in proportion to their examples, as in the source
        (clients without examples never are); "equal" draws all alike.

    Returns:
      A Sampler with a memory that reads "loss", and accounting "availability". No amplification is claimed: who takes
      part follows from the clients' data. Rounds refuse it beside noise and masks.

    Raises:
      TypeError, ValueError: sizes that are no ints of at least 1, fewer candidates than the cohort holds; by `check`,
        more candidates than clients.

    Source: Cho, Wang, Joshi (2020), "Client Selection in Federated Learning: Convergence Analysis and Power-of-Choice
    Selection Strategies", https://arxiv.org/abs/2010.01243.

    Example:
      >>> import jax.numpy as jnp
      >>> from fedjaxlite.data.population import Population
      >>> population, sampler = Population({}, jnp.arange(7), max_size=1), power_of_choice(2, 6)
      >>> told = LastLosses(jnp.array([0.5, 2.0, 0.1, 3.0, 0.2, 0.3]))
      >>> drawn, told = sampler.memory.sample(told, jax.random.key(0), 0, population)
      >>> sorted(drawn.ids.tolist())
      [1, 3]
    """
    cohort_size, candidates = checks.positive_int(cohort_size=cohort_size, candidates=candidates)
    weights = checks.one_of(("num_examples", "equal"), weights=weights)
    if candidates < cohort_size:
        raise ValueError(
            f"`candidates` is {candidates}, fewer than `cohort_size`={cohort_size}; expected at least as many. Twice "
            "the cohort is a mild choice."
        )
    size, many = int(cohort_size), int(candidates)

    def init(setting: Setting) -> LastLosses:
        return LastLosses(jnp.full((setting.num_clients,), jnp.inf, jnp.float32))

    def sample(state: LastLosses, key: Any, round_number: Any, population: Any) -> tuple[Cohort, LastLosses]:
        own = draws.round_key(key, round_number, draws.COHORT)
        examples = jnp.asarray(population.num_examples).astype(jnp.float32)
        equal = weights == "equal"
        rates = jnp.ones_like(examples) if equal else examples
        ids, there = choosing.in_proportion(own, rates, rates > 0, many)
        scores = jnp.where(there, state.loss[ids], choosing.NOBODY)
        places, found = choosing.best(jax.random.fold_in(own, choosing.TIES), scores, size)
        return cohort(ids[places], found), state

    def learn(state: LastLosses, seen: Seen) -> LastLosses:
        came, counted = choosing.heard_of(seen)
        loss = jnp.where(counted, sound(seen.metrics["loss"]), jnp.float32(0))
        return LastLosses(choosing.learned(state.loss, seen.cohort.ids, came, loss))

    def first(key: Any, round_number: Any, population: Any) -> Cohort:
        return sample(init(choosing.setting_of(population)), key, round_number, population)[0]

    accounting = Accounting(
        "availability",
        cohort_size=size,
        note="The cohort follows from losses that clients told, so from their data; no amplification is claimed.",
    )
    return Sampler(
        first,
        size,
        accounting,
        f"power_of_choice({size}, {many})",
        check=lambda num_clients: choosing.fits("candidates", many, num_clients),
        memory=Memory(init, sample, learn, reads=("loss",)),
    )
