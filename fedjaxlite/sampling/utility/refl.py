"""REFL's choice of participants: of those who are there, the ones that will hardly be there again."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.sampling import draws
from fedjaxlite.sampling.availability import Trace, recorded
from fedjaxlite.sampling.types import Accounting, Cohort, Memory, Sampler, Setting, cohort
from fedjaxlite.sampling.utility import choosing
from fedjaxlite.sampling.utility.scores import predicted_availability


class Presence(NamedTuple):
    """What was seen of who is there when.

    Attributes:
      present: float32 `[P, N]`, how often each client was there at each time of the period.
      rounds: float32 `[P]`, how often one looked.
      last: int32 `[N]`, the round, counted from 1, in which a client was selected last; 0 before the first.
    """

    present: Any
    rounds: Any
    last: Any


def refl(cohort_size: int, trace: Any, *, period: int = 1, ahead: int = 1, rest: int = 5) -> Sampler:
    """Takes, of the clients that are available, those that are predicted to be available least `ahead` rounds later.

    Clients that are always there can be asked later, so the rare ones go first, and more of all clients' data is
    heard. The prediction is learned while the run goes on, from who was available: with a client that was there s of
    the m times that the round fell on the same time of the period, it is (s + 1) / (m + 2). Equal ones are drawn with
    equal chances. What REFL does besides, to weigh late updates by their age and by how far they are from the fresh
    ones, is `fl.robust.stale_weights` at a server that does not wait; `fl.systems.timed` drops late messages.

    In the source a client predicts its own availability from its past, for the time between one and two mean
    durations of a round from now; here the server does it, and that time is the next round.

    Args:
      cohort_size: K, also the capacity; fewer are selected in rounds in which fewer are available.
      trace: who is available when: a Trace, such as `diurnal()`, or a bool array `[T, N]` for `recorded`.
      period: rounds after which habits repeat, as a trace's `rounds_per_day`; 1 learns how often a client is there at
        all. The memory is period x N float32.
      ahead: rounds from now of which the prediction is made.
      rest: a client that was selected comes after all others for so many rounds, so that the rarest of those who are
        there are not asked again at once; 0 for none.

    Returns:
      A Sampler with a memory, and accounting "availability". No amplification is claimed: who takes part follows from
      when clients are there.

    Raises:
      TypeError, ValueError: sizes that are no ints of at least 1, a trace that is none; by `check`, a cohort larger
        than the population, or a trace of another number of clients.

    Source: Abdelmoniem, Sahu, Canini, Fahmy (2023), "REFL: Resource-Efficient Federated Learning",
    https://arxiv.org/abs/2111.01108, section 4.1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjaxlite.data.population import Population
      >>> population, sampler = Population({}, jnp.arange(4), max_size=1), refl(1, [[1, 1, 0], [1, 1, 1]], rest=0)
      >>> state = sampler.memory.init(Setting(3, population.num_examples, 0, 0, None, 0))
      >>> for r in range(4):
      ...     drawn, state = sampler.memory.sample(state, jax.random.key(0), r, population)
      >>> drawn.ids.tolist()  # in round 3 all are there, and client 2 was seen least
      [2]
    """
    cohort_size, period, ahead = checks.positive_int(cohort_size=cohort_size, period=period, ahead=ahead)
    rest = checks.nonnegative_int(rest=rest)
    trace = trace if isinstance(trace, Trace) else recorded(trace)
    size = int(cohort_size)

    def init(setting: Setting) -> Presence:
        n = setting.num_clients
        times, last = jnp.zeros((period,), jnp.float32), jnp.zeros((n,), jnp.int32)
        return Presence(jnp.zeros((period, n), jnp.float32), times, last)

    def sample(state: Presence, key: Any, round_number: Any, population: Any) -> tuple[Cohort, Presence]:
        number = jnp.asarray(round_number, jnp.int32)
        there = trace.available(number, population.num_clients)
        now, then = number % period, (number + ahead) % period
        present, rounds = state.present.at[now].add(there.astype(jnp.float32)), state.rounds.at[now].add(1.0)
        resting = (state.last > 0) & (number + 1 - state.last <= rest)
        chance = predicted_availability(present[then], rounds[then]) + resting.astype(jnp.float32)
        own = draws.round_key(key, number, draws.COHORT)
        ids, found = choosing.best(own, jnp.where(there, -chance, choosing.NOBODY), size)
        last = choosing.learned(state.last, ids, found, jnp.full((size,), number + 1, jnp.int32))
        return cohort(ids, found), Presence(present, rounds, last)

    def first(key: Any, round_number: Any, population: Any) -> Cohort:
        return sample(init(choosing.setting_of(population)), key, round_number, population)[0]

    def check(num_clients: int) -> None:
        if trace.num_clients is not None and trace.num_clients != num_clients:
            raise ValueError(
                f"the trace {trace.name} is of {trace.num_clients} clients, but the population has {num_clients}; "
                "expected one column a client, in the population's order."
            )
        choosing.fits("cohort_size", size, num_clients)

    accounting = Accounting(
        "availability",
        cohort_size=size,
        note=f"The cohort follows from who is available in {trace.name}, and was before; no amplification is claimed.",
    )
    memory = Memory(init, sample)
    return Sampler(first, size, accounting, f"refl({size}, {trace.name})", check=check, memory=memory)
