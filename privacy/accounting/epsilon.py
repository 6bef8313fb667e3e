"""Epsilon of a run, computed from the program that runs."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import backend, conversions, events
from fedjaxlite.privacy.accounting import facts as facts_of
from fedjaxlite.privacy.accounting.events import Event
from fedjaxlite.privacy.accounting.facts import Facts
from fedjaxlite.privacy.accounting.gaussians import pld_epsilon


class Guarantee(NamedTuple):
    """What a run of some rounds guarantees each client.

    Attributes:
      epsilon: the smaller of the two below: both hold for the same neighbors.
      delta: the chance that is allowed for.
      eps_pld: by the exact curve of a Gaussian, by privacy loss distributions, or by the optimal composition of local
        randomizers; infinite where there is none of them.
      eps_rdp: by Rényi divergences; infinite where there are none.
      num_rounds: T.
      event: what was accounted for: neighbors, noise, participations, amplification.
      extrapolated: whether the noise is that of an imagined larger cohort.
    """

    epsilon: float
    delta: float
    eps_pld: float
    eps_rdp: float
    num_rounds: int
    event: Event
    extrapolated: bool


def epsilon(rounds: Any, population: Any, *, num_rounds: int, delta: float, params: Any = None) -> float:
    """The epsilon of a run, for one client: of the aggregator, the sampler and the number of rounds that were composed.

    Nothing else can be said about the mechanism, so nothing else can be assumed: clip norm, noise, sampling and the
    meaning of neighbors are read off `rounds`. `privacy.report` prints them.

    Args:
      rounds: from `fl.rounds`.
      population: the training data, or the number of clients.
      num_rounds: T, from the run's beginning.
      delta: in (0, 1), below one over the number of clients.
      params: the model's parameters; needed, with a Population, where noise depends on the number of them.

    Returns:
      epsilon. Infinite without noise.

    Raises:
      TypeError, ValueError: for arguments out of range, a chain without a mechanism, a sampler and a mechanism that do
        not go together.
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
    return guarantee(rounds, population, num_rounds=num_rounds, delta=delta, params=params).epsilon


def guarantee(rounds: Any, population: Any, *, num_rounds: int, delta: float, params: Any = None) -> Guarantee:
    """As `epsilon`, with both accountants' figures and what they are about.

    Args:
      rounds: as in `epsilon`.
      population: as in `epsilon`.
      num_rounds: as in `epsilon`.
      delta: as in `epsilon`.
      params: as in `epsilon`.

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
    facts = facts_of.read(rounds, population, params)
    warn_of_delta(delta, facts.num_clients)
    return of_facts(facts, num_rounds, delta)


def of_facts(facts: Facts, num_rounds: int, delta: float) -> Guarantee:
    """The guarantee that follows from facts.

    Args:
      facts: of a run.
      num_rounds: T.
      delta: in (0, 1).

    Raises:
      ValueError: also where cutting cohorts to the sampler's capacity alone costs more than delta.
    """
    event, delta = events.event(facts, num_rounds), float(delta)
    eps_pld, eps_rdp = figures(event, delta)
    least = min(eps_pld, eps_rdp)
    if math.isinf(least) and event.overflow > 0 and event.noise_multiplier > 0:
        raise ValueError(_capacity_text(facts, event, min(curve(delta) for curve in _curves(event)), delta))
    return Guarantee(least, delta, eps_pld, eps_rdp, num_rounds, event, facts.mechanism.extrapolated)


def figures(event: Event, delta: float) -> tuple[float, float]:
    """Epsilon by loss distributions and by Rényi divergences; infinite where cut cohorts alone cost more than delta."""
    by_pld, by_rdp = _curves(event)
    return _with_overflow(by_pld, event, delta), _with_overflow(by_rdp, event, delta)


def rough_figure(event: Event, delta: float, coarser: float) -> float:
    """The smaller of `figures`, nearly and sooner: loss distributions on a grid `coarser` times as coarse.

    Rényi divergences are left out where losses have the same amplification: their epsilon is hardly ever the smaller.
    """
    by_pld, by_rdp = _curves(event, coarser)
    found = _with_overflow(by_pld, event, delta)
    if math.isfinite(found) and event.amplification != "without_replacement":
        return found
    return min(found, _with_overflow(by_rdp, event, delta))


def renyi_figure(event: Event, delta: float) -> float:
    """The second of `figures` alone, which costs next to nothing for another number of rounds."""
    return _with_overflow(_curves(event)[1], event, delta)


def warn_of_delta(delta: float, num_clients: int) -> None:
    """Warns of a delta under which giving away one client's data would count as private."""
    if delta >= 1 / num_clients:
        warnings.warn(
            f"`delta` is {delta!r} for {num_clients} clients; take less than 1/{num_clients} = {1 / num_clients:.3g}: "
            "with more, publishing all data of one client picked at random would count as private.",
            UserWarning,
            stacklevel=3,
        )


Curve = Callable[[float], float]
"""From delta to epsilon."""


def _no_curve(delta: float) -> float:
    del delta
    return math.inf


def _curves(event: Event, coarser: float = 1.0) -> tuple[Curve, Curve]:
    """An event's epsilon by loss distributions and by Rényi divergences, as functions of delta."""
    k, noise = event.compositions, event.noise_multiplier
    if event.kind == "local":
        each, fails = event.local
        return (lambda delta: conversions.composed_epsilon(each, fails, k, delta)), _no_curve
    if event.rdp is not None:
        rdp, orders = event.rdp, conversions.INTEGER_ORDERS
        return _no_curve, lambda delta: conversions.rdp_epsilon(orders, k * rdp(orders), delta)
    if noise == 0:
        return _no_curve, _no_curve
    if math.isinf(noise):
        return (lambda delta: 0.0), (lambda delta: 0.0)
    if event.kind == "laplace":
        return _laplace(event, coarser)
    if event.amplification == "without_replacement":
        size, n = event.cohort
        added = 2 * noise  # over the sensitivity to adding a client, half of that to replacing one
        sampled = lambda: backend.renyi_of_fixed_size(added, size, n)  # noqa: E731
        return (lambda delta: pld_epsilon(noise, 1.0, k, delta)), _renyi(sampled, k)
    by_pld = lambda delta: pld_epsilon(noise, event.rate, k, delta, coarser)  # noqa: E731
    return by_pld, _renyi(lambda: backend.renyi("gaussian", noise, event.rate), k)


def _renyi(divergences: Callable[[], Any], compositions: int) -> Curve:
    def curve(delta: float) -> float:
        orders, rdp = divergences()
        return conversions.rdp_epsilon(orders, compositions * rdp, delta)

    return curve


def _laplace(event: Event, coarser: float) -> tuple[Curve, Curve]:
    k, noise = event.compositions, event.noise_multiplier

    def by_pld(delta: float) -> float:
        losses = backend.loss_distribution("laplace", noise, event.rate, k, coarser)
        return min(k / noise, float(losses.get_epsilon_for_delta(delta)))

    by_rdp = _renyi(lambda: backend.renyi("laplace", noise), k) if event.rate == 1 else _no_curve
    return by_pld, by_rdp


def _with_overflow(curve: Curve, event: Event, delta: float) -> float:
    """The smallest epsilon for which curve and cut cohorts together spend delta; infinite if there is none.

    A round whose cohort is cut is at most the overflow's chance away, in total variation, from one that is not; that
    costs (1 + exp(epsilon)) times the chance, for every round.

    Source: Chua, Ghazi, Kamath, Kumar, Manurangsi, Sinha, Zhang (2024), "Scalable DP-SGD: Shuffling vs. Poisson
    Subsampling", https://arxiv.org/abs/2411.04205.
    """
    found = curve(delta)
    if event.overflow == 0:
        return found
    for _ in range(100):
        if math.isinf(found):
            return math.inf
        left = delta - (1 + math.exp(min(found, 700.0))) * event.overflow * event.compositions
        if left <= 0:
            return math.inf
        following = curve(left)
        if following <= found * (1 + 1e-9):
            return following
        found = following
    return math.inf


def _capacity_text(facts: Facts, event: Event, epsilon: float, delta: float) -> str:
    sampler, n = facts.sampler, facts.num_clients
    share = 0.01 * delta / event.compositions / (1 + math.exp(min(epsilon, 700.0)))
    enough = fl.sampling.poisson_capacity(n + 1, event.rate, share)
    return (
        f"{sampler.name} has more clients than its capacity of {sampler.capacity} with probability "
        f"{event.overflow:.3g} a round, and the cuts of {event.compositions} rounds alone cost more than "
        f"delta={delta:g}. Use capacity={enough}, with which they cost next to nothing."
    )
