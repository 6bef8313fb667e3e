"""Observers that watch a budget while a run goes: epsilon so far, and the end before it is passed."""

import math
from collections.abc import Mapping
from typing import Any

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import conversions
from fedjaxlite.privacy.accounting import facts as facts_of
from fedjaxlite.privacy.accounting.calibrate import rounds_within
from fedjaxlite.privacy.accounting.epsilon import of_facts, warn_of_delta
from fedjaxlite.privacy.accounting.events import event
from fedjaxlite.privacy.accounting.facts import Facts

_VALUES = 20


def running_epsilon(*, delta: float, every: int | None = None, population: Any = None) -> fl.observers.Observer:
    """Adds "epsilon" to the records, so that the progress shows it too: what all rounds so far have cost.

    Args:
      delta: in (0, 1), below one over the number of clients.
      every: rounds between two values, which cost up to a second each. None gives about twenty in a run. The first
        round and the last always have one.
      population: as in `privacy.epsilon`, instead of the training data; for noise of an imagined larger cohort.

    Returns:
      an Observer for `fl.train`. It refuses a run without a mechanism of privacy. All of a run's rounds count, also
      those before a resume.

    Raises:
      TypeError, ValueError: for a delta outside of (0, 1) or an `every` that is no int of at least 1.

    Warns:
      UserWarning: when the run starts, if delta is one over the number of clients or more.

    Example:
      >>> from fedjaxlite import privacy
      >>> watching = [privacy.running_epsilon(delta=1e-5), privacy.stop_at_epsilon(epsilon=2.0, delta=1e-5)]
      >>> # history = fl.train(rounds, state, train, num_rounds=1000, observers=watching, out_dir="runs/private")
    """
    conversions.check_delta(delta)
    if every is not None:
        fl.checks.positive_int(every=every)
    run: dict[str, Any] = {}

    def start(start: fl.observers.Start) -> None:
        run["facts"] = _facts(start, population, delta)
        event(run["facts"], start.num_rounds)  # what cannot be accounted for is refused before the first round
        run["last"] = start.num_rounds
        run["every"] = math.ceil(start.num_rounds / _VALUES) if every is None else int(every)

    def each(record: Mapping[str, Any], state: Any) -> Mapping[str, float] | None:
        del state
        number = record["round"]
        if number % run["every"] and number not in (1, run["last"]):
            return None
        return {"epsilon": of_facts(run["facts"], number, delta).epsilon}

    return fl.observers.Observer(each, start)


def stop_at_epsilon(*, epsilon: float, delta: float, population: Any = None) -> fl.observers.Observer:
    """Ends the run before a round that would pass the budget.

    The last round follows from the composed program before the first one runs, so that it does not matter how many
    rounds go in one dispatch, and a run that is resumed ends at the same round.

    Args:
      epsilon: the budget, above 0.
      delta: in (0, 1), below one over the number of clients.
      population: as in `privacy.epsilon`, instead of the training data; for noise of an imagined larger cohort.

    Returns:
      an Observer for `fl.train`; `History.stopped` says where the budget ended, if it did.

    Raises:
      TypeError, ValueError: for arguments out of range. When the run starts: for a run without a mechanism of privacy,
        a budget below the cost of the first round, and a state that has passed it already.

    Warns:
      UserWarning: when the run starts, if delta is one over the number of clients or more.

    Guarantees:
      `privacy.epsilon` of the rounds that were run, those before a resume included, is at most `epsilon`.

    Example:
      >>> from fedjaxlite import privacy
      >>> watching = [privacy.stop_at_epsilon(epsilon=2.0, delta=1e-5)]
      >>> # history = fl.train(rounds, state, train, num_rounds=1000, observers=watching); history.stopped
    """
    fl.checks.positive("It is the budget.", epsilon=epsilon)
    conversions.check_delta(delta)

    def last_round(start: fl.observers.Start) -> fl.observers.LastRound | None:
        facts, done = _facts(start, population, delta), int(start.state.round)
        last = rounds_within(facts, float(epsilon), delta, start.num_rounds)
        if last == 0:
            cost = of_facts(facts, 1, delta).epsilon
            raise ValueError(
                f"the first round alone costs epsilon {cost:.4g} at delta {delta:g}, more than the budget of "
                f"{epsilon:g}. Use more noise (privacy.calibrate computes how much), a lower sampling rate, or a "
                "larger budget."
            )
        if last < done:
            spent = of_facts(facts, done, delta).epsilon
            raise ValueError(
                f"the state has done {done} rounds, which cost epsilon {spent:.4g} at delta {delta:g}; the budget of "
                f"{epsilon:g} ended at round {last}. Give a larger budget, or end the run here."
            )
        if last >= start.num_rounds:
            return None
        event(facts, last + 1)  # refused where it is not the budget that ends here, but the mechanism
        return fl.observers.LastRound(
            last, f"the privacy budget of epsilon {epsilon:g} at delta {delta:g} ends at round {last}"
        )

    return fl.observers.Observer(last_round=last_round)


def _facts(start: fl.observers.Start, population: Any, delta: float) -> Facts:
    num_clients = start.population.num_clients if population is None else facts_of.count_clients(population)
    wire = start.wire
    if wire is None:
        wire = start.rounds.wire(start.rounds.params(start.state), start.population)
    warn_of_delta(delta, num_clients)
    return facts_of.of_wire(wire, start.rounds.sampler, num_clients)
