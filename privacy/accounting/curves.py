"""From events to epsilon: what rounds of one or of several compositions cost together, as functions of delta.

Events of several compositions are one adaptive composition: their losses add up under neighbors that all of them are
about. Where the events name different ones, each is restated for neighbors that imply its own.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedjaxlite.privacy.accounting import backend, conversions
from fedjaxlite.privacy.accounting.conversions import pld_epsilon
from fedjaxlite.privacy.accounting.events import Event, rests_on_cohorts

Curve = Callable[[float], float]
"""From delta to epsilon."""


def figures(events: Sequence[Event], delta: float) -> tuple[float, float]:
    """Epsilon by loss distributions and by Rényi divergences; infinite where cut cohorts alone cost more than delta.

    Args:
      events: at least one; all of them happen, one after the other.
      delta: in (0, 1).
    """
    by_pld, by_rdp = curves(events)
    cut = cut_chance(events)
    return _with_overflow(by_pld, cut, delta), _with_overflow(by_rdp, cut, delta)


def rough_figure(events: Sequence[Event], delta: float, coarser: float) -> float:
    """The smaller of `figures`, nearly and sooner: loss distributions on a grid `coarser` times as coarse.

    Rényi divergences are left out where losses have the same amplification: their epsilon is hardly ever the smaller.
    """
    by_pld, by_rdp = curves(events, coarser)
    cut = cut_chance(events)
    found = _with_overflow(by_pld, cut, delta)
    if math.isfinite(found) and all(event.amplification != "without_replacement" for event in events):
        return found
    return min(found, _with_overflow(by_rdp, cut, delta))


def renyi_figure(events: Sequence[Event], delta: float) -> float:
    """The second of `figures` alone, which costs next to nothing for another number of rounds."""
    return _with_overflow(curves(events)[1], cut_chance(events), delta)


def cut_chance(events: Sequence[Event]) -> float:
    """A bound on the chance that a cohort of any of the rounds was cut to its capacity."""
    return sum(event.overflow * event.compositions for event in events)


def relation_of(events: Sequence[Event]) -> str:
    """The neighbors that a guarantee of all events together is about.

    A client that is added or removed changes a sum as one does whose contributions become nothing, where everyone
    decides for itself whether to take part; and a client is replaced by way of no client.
    """
    found = {event.relation for event in events}
    if len(found) == 1:
        return found.pop()
    if found <= {"zero_out_example", "add_or_remove_example"}:
        return "zero_out_example"
    return "replace_one" if "replace_one" in found else "zero_out"


def _no_curve(delta: float) -> float:
    del delta
    return math.inf


def curves(events: Sequence[Event], coarser: float = 1.0) -> tuple[Curve, Curve]:
    """The epsilon of events by loss distributions and by Rényi divergences, as functions of delta.

    Args:
      events: at least one.
      coarser: how many times as coarse the grid of losses is to be.
    """
    if len(events) == 1:
        return _curves_of_one(events[0], coarser)
    relation = relation_of(events)
    events = [restated(event, relation) for event in events]
    if any(_free(event) for event in events):
        events = [event for event in events if not _free(event)] or list(events[:1])
        if len(events) == 1:
            return _curves_of_one(events[0], coarser)
    if any(event.kind in ("gaussian", "laplace") and event.noise_multiplier == 0 for event in events):
        return _no_curve, _no_curve
    by_distributions, by_renyi = _by_distributions(events, coarser), _by_renyi(events)
    if by_renyi is _no_curve:  # then nothing counts what only Rényi divergences are known to amplify
        return (lambda delta: min(by_distributions(delta), _added_up(events, delta))), by_renyi
    return by_distributions, by_renyi


def restated(event: Event, relation: str) -> Event:
    """An event as one about neighbors that imply its own; what the others of a composition are about.

    Twice the sensitivity, and no amplification, where a client is replaced that was added or removed.
    """
    if relation == event.relation or relation in ("zero_out", "zero_out_example"):
        return event._replace(relation=relation)
    if event.rdp is not None:
        own = event.rdp
        # Two steps from neighbor to neighbor: Mironov (2017), https://arxiv.org/abs/1702.07476, proposition 2.
        return event._replace(relation=relation, rdp=lambda orders: 3 * own(2 * np.asarray(orders)))
    return without_amplification(event)._replace(relation=relation, noise_multiplier=event.noise_multiplier / 2)


def without_amplification(event: Event) -> Event:
    """An event against those who know the cohorts: every client counts as present in every round."""
    if not rests_on_cohorts(event):
        return event
    # Where cohorts are known, a client that sends nothing keeps its place in them.
    relation = "zero_out" if event.relation == "add_or_remove" else event.relation
    return event._replace(relation=relation, amplification="none", rate=1.0, cohort=(0, 0), overflow=0.0)


def _free(event: Event) -> bool:
    return event.kind in ("gaussian", "laplace") and math.isinf(event.noise_multiplier)


def _curves_of_one(event: Event, coarser: float = 1.0) -> tuple[Curve, Curve]:
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
        return _laplace(event, coarser), (_by_renyi([event]) if event.rate == 1 else _no_curve)
    rate = 1.0 if event.amplification == "without_replacement" else event.rate
    return (lambda delta: pld_epsilon(noise, rate, k, delta, coarser)), _by_renyi([event])


def _laplace(event: Event, coarser: float) -> Curve:
    k, noise = event.compositions, event.noise_multiplier

    def by_pld(delta: float) -> float:
        losses = backend.loss_distribution("laplace", noise, event.rate, k, coarser)
        return min(k / noise, float(losses.get_epsilon_for_delta(delta)))

    return by_pld


def _by_distributions(events: Sequence[Event], coarser: float) -> Curve:
    """Loss distributions of several events, convolved; what is known of them by less is added up."""
    if all(event.kind == "gaussian" and _unamplified(event) for event in events):
        # Gaussian releases are one of a longer vector.
        whole = sum(event.compositions / event.noise_multiplier**2 for event in events) ** -0.5
        return lambda delta: pld_epsilon(whole, 1.0, 1, delta)
    if any(event.kind == "rdp" for event in events):
        return lambda delta: _added_up(events, delta)
    parts = tuple(_part(event) for event in events)
    return lambda delta: float(backend.composed_losses(parts, coarser).get_epsilon_for_delta(delta))


def _unamplified(event: Event) -> bool:
    return event.rate == 1 or event.amplification == "without_replacement"


def _part(event: Event) -> tuple[str, float, float, int]:
    if event.kind == "local":
        return "local", *event.local, event.compositions
    return event.kind, event.noise_multiplier, 1.0 if _unamplified(event) else event.rate, event.compositions


def _added_up(events: Sequence[Event], delta: float) -> float:
    """Basic composition: every event gets an equal share of delta, and the epsilons add up."""
    return sum(min(curve(delta / len(events)) for curve in _curves_of_one(event)) for event in events)


def _by_renyi(events: Sequence[Event]) -> Curve:
    """Rényi divergences, which add up at every order; a curve without a bound where one of them has none."""
    if any(event.kind == "laplace" and event.rate < 1 for event in events):
        return _no_curve
    if any(event.kind == "local" and event.local[1] > 0 for event in events):
        return _no_curve
    grid = tuple(map(float, conversions.INTEGER_ORDERS)) if any(event.kind == "rdp" for event in events) else None

    def curve(delta: float) -> float:
        found = backend.default_orders() if grid is None else np.asarray(grid)
        total = sum(event.compositions * _divergences(event, grid, found) for event in events)
        return conversions.rdp_epsilon(found, total, delta)

    return curve


def _divergences(event: Event, grid: tuple[float, ...] | None, orders: np.ndarray) -> Any:
    """The Rényi divergence of one composition of an event, at orders that are the grid's (None: the default ones)."""
    noise = event.noise_multiplier
    if event.rdp is not None:
        return event.rdp(orders)
    if event.kind == "local":  # pure: Bun, Steinke (2016), https://arxiv.org/abs/1605.02065, proposition 3.3
        return np.minimum(event.local[0], orders * event.local[0] ** 2 / 2)
    if event.amplification == "without_replacement":
        size, n = event.cohort
        # The noise over the sensitivity to adding a client, half of that to replacing one.
        return backend.renyi_of_fixed_size(2 * noise, size, n, grid)[1]
    return backend.renyi(event.kind, noise, event.rate, grid)[1]


def _with_overflow(curve: Curve, cut: float, delta: float) -> float:
    """The smallest epsilon for which curve and cut cohorts together spend delta; infinite if there is none.

    A round whose cohort is cut is at most the overflow's chance away, in total variation, from one that is not; that
    costs (1 + exp(epsilon)) times the chance, for every round.

    Source: Chua, Ghazi, Kamath, Kumar, Manurangsi, Sinha, Zhang (2024), "Scalable DP-SGD: Shuffling vs. Poisson
    Subsampling", https://arxiv.org/abs/2411.04205.
    """
    found = curve(delta)
    if cut == 0:
        return found
    for _ in range(100):
        if math.isinf(found):
            return math.inf
        left = delta - (1 + math.exp(min(found, 700.0))) * cut
        if left <= 0:
            return math.inf
        following = curve(left)
        if following <= found * (1 + 1e-9):
            return following
        found = following
    return math.inf
