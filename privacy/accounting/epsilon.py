"""Epsilon of a run, computed from the program that runs."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import conversions, curves, subjects
from fedjaxlite.privacy.accounting.events import Event, rests_on_cohorts
from fedjaxlite.privacy.accounting.subjects import Stretch, Subjects, Unit


class Guarantee(NamedTuple):
    """What a run of some rounds guarantees each client, or each example; or several things on the same data together.

    Attributes:
      epsilon: the smaller of the two below: both hold for the same neighbors.
      delta: the chance that is allowed for.
      eps_pld: by the exact curve of a Gaussian, by privacy loss distributions, or by the optimal composition of local
        randomizers; infinite where there is none of them. For several compositions of which one has none of them, what
        each costs, added up.
      eps_rdp: by Rényi divergences; infinite where there are none.
      num_rounds: T; of several runs and computations, all their rounds and calls.
      event: what was accounted for: neighbors, noise, participations, amplification. Of several compositions, the last.
      extrapolated: whether the noise is that of an imagined larger cohort.
      unamplified: epsilon against those who know who took part, without any amplification by sampling.
      events: of all that was composed, in order; one, unless there are several runs, computations or private local
        trainings, or a state says that several compositions made the rounds.
      secret_cohorts: whether cohorts were drawn from a secret; None where no state was given to say so.
      unit: what is protected, "client" or "example".
      num_examples: of the client that an examples' guarantee is about, the one that is protected least; None where the
        unit is a client.
    """

    epsilon: float
    delta: float
    eps_pld: float
    eps_rdp: float
    num_rounds: int
    event: Event
    extrapolated: bool
    unamplified: float
    events: tuple[Event, ...]
    secret_cohorts: bool | None = None
    unit: str = "client"
    num_examples: int | None = None

    @property
    def condition(self) -> str:
        """What epsilon rests on and nobody has checked: "if the seed is secret", or nothing."""
        rests = math.isfinite(self.epsilon) and any(rests_on_cohorts(event) for event in self.events)
        return "if the seed is secret" if rests and not self.secret_cohorts else ""


def epsilon(
    rounds: Any,
    population: Any,
    *,
    num_rounds: int | None = None,
    delta: float,
    params: Any = None,
    state: Any = None,
    unit: Unit | None = None,
) -> float:
    """The epsilon of what was composed: of its aggregator, sampler and local training, and of how often it is done.

    Nothing else can be said about the mechanism, so nothing else can be assumed: clip norm, noise, sampling and the
    meaning of neighbors are read off `rounds`. `privacy.report` prints them.

    Args:
      rounds: from `fl.rounds`; or a computation of federated sums, such as `algorithms.analytics.federated_mean(...)`;
        or a sequence of both on the same data, which are accounted for as one. In a sequence a run stands as
        `(rounds, num_rounds)` or `(rounds, num_rounds, state)`, a computation as itself or `(computation, calls)`.
      population: the training data, or the number of clients.
      num_rounds: T, from the run's beginning; for a computation the number of calls, 1 if None. Not with a sequence.
      delta: in (0, 1), below one over the number of clients (for examples: of all examples).
      params: the model's parameters; needed, with a Population, where noise depends on the number of them.
      state: a RoundState of the run. Where rounds of other compositions are behind it (`rounds.go_on`), they count as
        they were. None is a run of these rounds alone.
      unit: "client", all that a client has; or "example", one example of one client, where local training is
        `privacy.dp_sgd`. None is the clients' guarantee if everything in `rounds` has one, else the examples'.

    Returns:
      epsilon. Infinite without noise. Where it rests on amplification by sampling, it holds if the key that cohorts
      are drawn from is a secret, as it is unless a `cohort_key` or a `noise_key` was given; `guarantee` has the figure
      without amplification beside it. Of examples, that of the client which is protected least (the smallest, where
      the chance of an example follows from its client's size); `privacy.examples_epsilon` has every client's.

    Raises:
      TypeError, ValueError: for arguments out of range, a chain without a mechanism, a sampler and a mechanism that do
        not go together, a state that other rounds than these made last.
      ModuleNotFoundError: dp-accounting is not installed.

    Warns:
      UserWarning: delta is one over the number of clients or more, so that publishing one client's data outright would
        pass; likewise for examples.

    Guarantees:
      An upper bound for the mechanism with exact real-valued noise: every model and every aggregator metric of the
      first T rounds, and every result of the computations, together, is (epsilon, delta)-differentially private for
      the neighbors that `privacy.report` names. Amplification by sampling is counted only under a theorem that holds
      for the sampler and the mechanism. The examples' guarantee is about everything that a client sends, in all rounds
      that its sampler may put it into, also against the server. Metrics of local training and `PassInfo.clients` are
      not covered.

    Source: Abadi et al. (2016), https://arxiv.org/abs/1607.00133; McMahan et al. (2018),
    https://arxiv.org/abs/1710.06963; Koskela et al. (2020), https://arxiv.org/abs/1906.03049.

    Example:
      >>> import optax
      >>> from fedjaxlite import algorithms, privacy
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> rounds = fl.rounds(
      ...     algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.2), batch_size=None),
      ...     sampler=fl.sampling.full(100),
      ...     aggregator=fl.chain(fl.mean(over=100), privacy.gaussian(clip_norm=1.0, noise_multiplier=20.0)),
      ... )
      >>> round(epsilon(rounds, 100, num_rounds=400, delta=1e-5), 4)  # as one round of noise multiplier 1
      4.3772
    """
    options: dict[str, Any] = {"num_rounds": num_rounds, "params": params, "state": state, "unit": unit}
    return guarantee(rounds, population, delta=delta, **options).epsilon


def guarantee(
    rounds: Any,
    population: Any,
    *,
    num_rounds: int | None = None,
    delta: float,
    params: Any = None,
    state: Any = None,
    unit: Unit | None = None,
) -> Guarantee:
    """As `epsilon`, with both accountants' figures, that without amplification, and what they are about.

    Args:
      rounds: as in `epsilon`.
      population: as in `epsilon`.
      num_rounds: as in `epsilon`.
      delta: as in `epsilon`.
      params: as in `epsilon`.
      state: as in `epsilon`.
      unit: as in `epsilon`.

    Returns:
      a Guarantee.

    Raises:
      TypeError, ValueError, ModuleNotFoundError: as `epsilon`.

    Example:
      >>> import optax
      >>> from fedjaxlite import algorithms, privacy
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> rounds = fl.rounds(
      ...     algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.2), batch_size=None),
      ...     sampler=fl.sampling.uniform(10),
      ...     aggregator=fl.chain(fl.mean(over=10), privacy.gaussian(clip_norm=1.0, noise_multiplier=4.0)),
      ... )
      >>> found = guarantee(rounds, 100, num_rounds=50, delta=1e-7)
      >>> found.event.relation, found.event.noise_multiplier, found.epsilon == found.eps_rdp < found.eps_pld
      ('replace_one', 2.0, True)
    """
    delta = conversions.check_delta(delta)
    found = subjects.read(rounds, population, num_rounds, params, unit, state)
    warn_of_delta(delta, found)
    return of_subjects(found, delta)


def examples_epsilon(
    rounds: Any, population: fl.Population, *, num_rounds: int | None = None, delta: float, state: Any = None
) -> np.ndarray:
    """What a run with DP-SGD inside of its clients costs an example, client by client.

    Args:
      rounds: as in `epsilon`.
      population: the training data.
      num_rounds: as in `epsilon`.
      delta: in (0, 1), the same for every client.
      state: as in `epsilon`.

    Returns:
      float64 `[N]`, the epsilon of an example of each client; 0 for a client without any. Clients of as many examples
      have one figure, each of which costs up to a second to compute.

    Raises:
      TypeError, ValueError: as `epsilon` with `unit="example"`, and for a population that is a number.
      ModuleNotFoundError: dp-accounting is not installed.

    Example:
      >>> import numpy as np, optax
      >>> from fedjaxlite import algorithms, privacy
      >>> people = fl.Population.from_arrays({"x": np.arange(50.0)}, client_ids=[0] * 10 + [1] * 40)
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> local = privacy.dp_sgd(
      ...     loss, client_optimizer=optax.sgd(0.1), expected_batch_size=10, steps=5, clip_norm=1, noise_multiplier=2
      ... )
      >>> rounds = fl.rounds(algorithms.fed_avg_of(local), sampler=fl.sampling.full(2), aggregator=fl.weighted_mean())
      >>> examples_epsilon(rounds, people, num_rounds=1, delta=1e-3).round(2).tolist()
      [3.61, 0.88]
    """
    conversions.check_delta(delta)
    if not isinstance(population, fl.Population):
        raise TypeError(
            f"`population` is {population!r}; expected a Population, since each client has its own epsilon."
        )
    found = subjects.read(rounds, population, num_rounds, unit="example", state=state)
    sizes = np.asarray(population.num_examples)
    known: dict[tuple[float, ...], float] = {}
    each = np.zeros(len(sizes))
    for size in np.unique(sizes[sizes > 0]).tolist():
        rates = tuple(event.rate for event in subjects.events_of(found, size))
        if rates not in known:
            known[rates] = of_subjects(found, delta, size).epsilon
        each[sizes == size] = known[rates]
    return each


def of_subjects(found: Subjects, delta: float, num_examples: int | None = None) -> Guarantee:
    """The guarantee of what was read.

    Args:
      found: of a run, or of several things on the same data.
      delta: in (0, 1).
      num_examples: of the client whose examples are meant, as in `subjects.stretches`.

    Raises:
      ValueError: also where cutting cohorts to the sampler's capacity alone costs more than delta.
    """
    made, delta = subjects.stretches(found, num_examples), float(delta)
    events = tuple(stretch.event for stretch in made)
    eps_pld, eps_rdp = curves.figures(events, delta)
    least = min(eps_pld, eps_rdp)
    hides = all(event.noise_multiplier != 0 for event in events)
    if math.isinf(least) and curves.cut_chance(events) > 0 and hides:
        raise ValueError(_capacity_text(made, delta))
    unamplified = least
    if any(rests_on_cohorts(event) for event in events):
        unamplified = min(curves.figures([curves.without_amplification(event) for event in events], delta))
    size = None
    if found.unit == "example":
        size = subjects.least_protected(found) if num_examples is None else num_examples
    return Guarantee(
        epsilon=least,
        delta=delta,
        eps_pld=eps_pld,
        eps_rdp=eps_rdp,
        num_rounds=sum(found.times),
        event=events[-1],
        extrapolated=any(s.facts is not None and s.facts.mechanism.extrapolated for s in made),
        unamplified=unamplified,
        events=events,
        secret_cohorts=found.secret_cohorts,
        unit=found.unit,
        num_examples=size,
    )


def epsilon_of(found: Subjects, delta: float) -> float:
    """The smaller figure of `of_subjects`, and nothing else."""
    return min(curves.figures(subjects.events_of(found), float(delta)))


def warn_of_delta(delta: float, found: Subjects) -> None:
    """Warns of a delta under which giving away one client's data, or one example, would count as private."""
    number, what, lost = found.num_clients, "clients", "all data of one client"
    if found.unit == "example":
        if found.sizes is None:
            return
        number, what, lost = max(1, int(found.sizes.sum())), "examples", "one example"
    if delta >= 1 / number:
        warnings.warn(
            f"`delta` is {delta!r} for {number} {what}; take less than 1/{number} = {1 / number:.3g}: "
            f"with more, publishing {lost} picked at random would count as private.",
            UserWarning,
            stacklevel=3,
        )


def _capacity_text(found: Sequence[Stretch], delta: float) -> str:
    """Of the composition whose cohorts, or batches, are cut most often."""
    worst = max(found, key=lambda stretch: stretch.event.overflow)
    event, facts = worst.event, worst.facts
    epsilon = min(curve(delta) for curve in curves.curves([stretch.event for stretch in found]))
    share = 0.01 * delta / event.compositions / (1 + math.exp(min(epsilon, 700.0)))
    if facts is None:
        return (
            f"batches that have no room for an example, in one of {event.compositions} steps, cost more than "
            f"delta={delta:g} at epsilon={epsilon:.4g}. Make privacy.dp_sgd with max_overflow={share:.1g}."
        )
    sampler, n = facts.sampler, facts.num_clients
    enough = fl.sampling.poisson_capacity(n + 1, event.rate, share)
    return (
        f"{sampler.name} has more clients than its capacity of {sampler.capacity} with probability "
        f"{event.overflow:.3g} a round, and the cuts of {event.compositions} rounds alone cost more than "
        f"delta={delta:g}. Use capacity={enough}, with which they cost next to nothing."
    )
