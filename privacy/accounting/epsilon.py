"""Epsilon of a run, computed from the program that runs."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import conversions, curves, history
from fedjaxlite.privacy.accounting.events import Event
from fedjaxlite.privacy.accounting.history import Account, Stretch


class Guarantee(NamedTuple):
    """What a run of some rounds guarantees each client.

    Attributes:
      epsilon: the smaller of the two below: both hold for the same neighbors.
      delta: the chance that is allowed for.
      eps_pld: by the exact curve of a Gaussian, by privacy loss distributions, or by the optimal composition of local
        randomizers; infinite where there is none of them. For several compositions of which one has none of them, what
        each costs, added up.
      eps_rdp: by Rényi divergences; infinite where there are none.
      num_rounds: T.
      event: what was accounted for: neighbors, noise, participations, amplification. Of several compositions, the last.
      extrapolated: whether the noise is that of an imagined larger cohort.
      unamplified: epsilon against those who know who took part, without any amplification by sampling.
      events: of all compositions that made the rounds, in order; one, unless a state says otherwise.
      secret_cohorts: whether cohorts were drawn from a secret; None where no state was given to say so.
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

    @property
    def condition(self) -> str:
        """What epsilon rests on and nobody has checked: "if the seed is secret", or nothing."""
        rests = math.isfinite(self.epsilon) and any(event.amplification != "none" for event in self.events)
        return "if the seed is secret" if rests and not self.secret_cohorts else ""


def epsilon(
    rounds: Any, population: Any, *, num_rounds: int, delta: float, params: Any = None, state: Any = None
) -> float:
    """The epsilon of a run, for one client: of the aggregator, the sampler and the number of rounds that were composed.

    Nothing else can be said about the mechanism, so nothing else can be assumed: clip norm, noise, sampling and the
    meaning of neighbors are read off `rounds`. `privacy.report` prints them.

    Args:
      rounds: from `fl.rounds`.
      population: the training data, or the number of clients.
      num_rounds: T, from the run's beginning.
      delta: in (0, 1), below one over the number of clients.
      params: the model's parameters; needed, with a Population, where noise depends on the number of them.
      state: a RoundState of the run. Where rounds of other compositions are behind it (`rounds.go_on`), they count as
        they were. None is a run of these rounds alone.

    Returns:
      epsilon. Infinite without noise. Where it rests on amplification by sampling, it holds if the key that cohorts
      are drawn from is a secret, as it is unless a `cohort_key` or a `noise_key` was given; `guarantee` has the figure
      without amplification beside it.

    Raises:
      TypeError, ValueError: for arguments out of range, a chain without a mechanism, a sampler and a mechanism that do
        not go together, a state that other rounds than these made last.
      ModuleNotFoundError: dp-accounting is not installed.

    Warns:
      UserWarning: delta is one over the number of clients or more, so that publishing one client's data outright would
        pass.

    Guarantees:
      An upper bound for the mechanism with exact real-valued noise: every model and every aggregator metric of the
      first T rounds, together, is (epsilon, delta)-differentially private for the neighbors that `privacy.report`
      names. Amplification by sampling is counted only under a theorem that holds for the sampler and the mechanism.
      Metrics of local training and `PassInfo.clients` are not covered.

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
    return guarantee(rounds, population, num_rounds=num_rounds, delta=delta, params=params, state=state).epsilon


def guarantee(
    rounds: Any, population: Any, *, num_rounds: int, delta: float, params: Any = None, state: Any = None
) -> Guarantee:
    """As `epsilon`, with both accountants' figures, that without amplification, and what they are about.

    Args:
      rounds: as in `epsilon`.
      population: as in `epsilon`.
      num_rounds: as in `epsilon`.
      delta: as in `epsilon`.
      params: as in `epsilon`.
      state: as in `epsilon`.

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
    conversions.check_delta(delta)
    account = history.read(rounds, population, params, state)
    warn_of_delta(delta, account.facts.num_clients)
    return of_account(account, num_rounds, delta)


def of_account(account: Account, num_rounds: int, delta: float) -> Guarantee:
    """The guarantee that follows from what a run is made of.

    Args:
      account: of a run.
      num_rounds: T.
      delta: in (0, 1).

    Raises:
      ValueError: also where cutting cohorts to the sampler's capacity alone costs more than delta.
    """
    found, delta = history.stretches(account, num_rounds), float(delta)
    events = tuple(stretch.event for stretch in found)
    eps_pld, eps_rdp = curves.figures(events, delta)
    least = min(eps_pld, eps_rdp)
    hides = all(event.noise_multiplier != 0 for event in events)
    if math.isinf(least) and curves.cut_chance(events) > 0 and hides:
        raise ValueError(_capacity_text(found, delta))
    unamplified = least
    if any(event.amplification != "none" for event in events):
        unamplified = min(curves.figures([curves.without_amplification(event) for event in events], delta))
    return Guarantee(
        epsilon=least,
        delta=delta,
        eps_pld=eps_pld,
        eps_rdp=eps_rdp,
        num_rounds=num_rounds,
        event=events[-1],
        extrapolated=any(s.facts is not None and s.facts.mechanism.extrapolated for s in found),
        unamplified=unamplified,
        events=events,
        secret_cohorts=account.secret_cohorts,
    )


def epsilon_of(account: Account, num_rounds: int, delta: float) -> float:
    """The smaller figure of `of_account`, and nothing else."""
    return min(curves.figures(history.events_of(account, num_rounds), float(delta)))


def warn_of_delta(delta: float, num_clients: int) -> None:
    """Warns of a delta under which giving away one client's data would count as private."""
    if delta >= 1 / num_clients:
        warnings.warn(
            f"`delta` is {delta!r} for {num_clients} clients; take less than 1/{num_clients} = {1 / num_clients:.3g}: "
            "with more, publishing all data of one client picked at random would count as private.",
            UserWarning,
            stacklevel=3,
        )


def _capacity_text(found: Sequence[Stretch], delta: float) -> str:
    """Of the composition whose cohorts are cut most often."""
    worst = max(found, key=lambda stretch: stretch.event.overflow)
    event, facts = worst.event, worst.facts
    if facts is None:
        raise AssertionError("only a sampler cuts cohorts")
    sampler, n = facts.sampler, facts.num_clients
    epsilon = min(curve(delta) for curve in curves.curves([stretch.event for stretch in found]))
    share = 0.01 * delta / event.compositions / (1 + math.exp(min(epsilon, 700.0)))
    enough = fl.sampling.poisson_capacity(n + 1, event.rate, share)
    return (
        f"{sampler.name} has more clients than its capacity of {sampler.capacity} with probability "
        f"{event.overflow:.3g} a round, and the cuts of {event.compositions} rounds alone cost more than "
        f"delta={delta:g}. Use capacity={enough}, with which they cost next to nothing."
    )
