"""Observers that watch a budget while a run goes: epsilon so far, and the end before it is passed."""

import math
from collections.abc import Mapping
from typing import Any

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import conversions, subjects
from fedjaxlite.privacy.accounting.calibrate import rounds_within
from fedjaxlite.privacy.accounting.epsilon import of_subjects, warn_of_delta
from fedjaxlite.privacy.accounting.subjects import Subjects, Unit, stretches

_VALUES = 20


def running_epsilon(*, delta: float, every: int | None = None, population: Any = None) -> fl.observers.Observer:
    """Adds epsilon to the records, so that the progress shows it too: what all rounds so far have cost.

    "epsilon" is that of clients, "epsilon_examples" that of the examples of the client that is protected least; a run
    has either, or both.

    Where it rests on amplification by sampling and the cohorts come from a key that was given, "epsilon_unamplified"
    stands beside it: what holds against those who know the key and draw the cohorts again.

    Args:
      delta: in (0, 1), below one over the number of clients.
      every: rounds between two values, which cost up to a second each. None gives about twenty in a run. The first
        round and the last always have one.
      population: as in `privacy.epsilon`, instead of the training data; for noise of an imagined larger cohort.

    Returns:
      an Observer for `fl.train`. It refuses a run without a mechanism of privacy. All of a run's rounds count: those
      before a resume, and those that other compositions made before this one went on.

    Raises:
      TypeError, ValueError: for a delta outside of (0, 1) or an `every` that is no int of at least 1.

    Warns:
      UserWarning: when the run starts, if delta is one over the number of clients or more.

    Example:
      >>> from fedjaxlite import privacy
      >>> watching = [privacy.running_epsilon(delta=1e-5), privacy.stop_at_epsilon(epsilon=2.0, delta=1e-5)]
      >>> # history = fl.train(rounds, state, train, num_rounds=1000, observers=watching, out_dir="runs/private")
    """
    delta = conversions.check_delta(delta)
    if every is not None:
        every = fl.checks.positive_int(every=every)
    run: dict[str, Any] = {}

    def start(start: fl.observers.Start) -> None:
        run["found"] = _all_units(start, population, delta)
        for found in run["found"].values():
            stretches(found)  # what cannot be accounted for is refused before the first round
        run["last"] = start.num_rounds
        run["every"] = math.ceil(start.num_rounds / _VALUES) if every is None else int(every)

    def each(record: Mapping[str, Any], state: Any) -> Mapping[str, float] | None:
        del state
        number = record["round"]
        if number % run["every"] and number not in (1, run["last"]):
            return None
        record = {}
        for name, subject in run["found"].items():
            found = of_subjects(subject.lasting(number), delta)
            beside = {"epsilon_unamplified": found.unamplified} if found.condition else {}
            record |= {name: found.epsilon, **beside}
        return record

    return fl.observers.Observer(each, start)


def stop_at_epsilon(
    *, epsilon: float, delta: float, population: Any = None, unit: Unit | None = None
) -> fl.observers.Observer:
    """Ends the run before a round that would pass the budget.

    The last round follows from the composed program before the first one runs, so that it does not matter how many
    rounds go in one dispatch, and a run that is resumed ends at the same round.

    Args:
      epsilon: the budget, above 0.
      delta: in (0, 1), below one over the number of clients.
      population: as in `privacy.epsilon`, instead of the training data; for noise of an imagined larger cohort.
      unit: as in `privacy.epsilon`: whether the budget is that of a client or of an example.

    Returns:
      an Observer for `fl.train`; `History.stopped` says where the budget ended, if it did.

    Raises:
      TypeError, ValueError: for arguments out of range. When the run starts: for a run without a mechanism of privacy,
        a budget below the cost of the first round, and a state that has passed it already.

    Warns:
      UserWarning: when the run starts, if delta is one over the number of clients or more.

    Guarantees:
      `privacy.epsilon` of the rounds that were run is at most `epsilon`: those before a resume are included, and those
      of other compositions behind the state. Where it rests on cohorts from a key that was given, the reason says so.

    Example:
      >>> from fedjaxlite import privacy
      >>> watching = [privacy.stop_at_epsilon(epsilon=2.0, delta=1e-5)]
      >>> # history = fl.train(rounds, state, train, num_rounds=1000, observers=watching); history.stopped
    """
    epsilon = fl.checks.positive("It is the budget.", epsilon=fl.checks.concrete(epsilon=epsilon))
    delta = conversions.check_delta(delta)

    def last_round(start: fl.observers.Start) -> fl.observers.LastRound | None:
        found, done = _subjects(start, population, delta, unit), int(fl.records.here(start.state.round))
        last = rounds_within(found, float(epsilon), delta, start.num_rounds)
        if last == 0:
            cost = of_subjects(found.lasting(1), delta).epsilon
            raise ValueError(
                f"the first round alone costs epsilon {cost:.4g} at delta {delta:g}, more than the budget of "
                f"{epsilon:g}. Use more noise (privacy.calibrate computes how much), a lower sampling rate, or a "
                "larger budget."
            )
        if last < done:
            spent = of_subjects(found.lasting(done), delta).epsilon
            raise ValueError(
                f"the state has done {done} rounds, which cost epsilon {spent:.4g} at delta {delta:g}; the budget of "
                f"{epsilon:g} ended at round {last}. Give a larger budget, or end the run here."
            )
        if last >= start.num_rounds:
            return None
        stretches(found.lasting(last + 1))  # refused where it is not the budget that ends here, but the mechanism
        return fl.observers.LastRound(last, _reason(found.lasting(last), epsilon, delta))

    return fl.observers.Observer(last_round=last_round)


def _reason(found: Subjects, epsilon: float, delta: float) -> str:
    spent, text = of_subjects(found, delta), f"the privacy budget of epsilon {epsilon:g} at delta {delta:g}"
    if spent.condition:
        text += f" ({spent.condition}; without amplification it is {spent.unamplified:.4g})"
    return f"{text} ends at round {spent.num_rounds}"


def _all_units(start: fl.observers.Start, population: Any, delta: float) -> dict[str, Subjects]:
    """By the name of the record, what a run protects: clients, examples, or both."""
    first = _subjects(start, population, delta, None)
    if first.unit == "example":
        return {"epsilon_examples": first}
    if not first.protects_examples:
        return {"epsilon": first}
    return {"epsilon": first, "epsilon_examples": _subjects(start, population, delta, "example")}


def _subjects(start: fl.observers.Start, population: Any, delta: float, unit: str | None) -> Subjects:
    found = subjects.of_start(start, population, unit)
    warn_of_delta(delta, found)
    return found
