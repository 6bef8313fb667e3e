"""What is accounted for: runs, computations of federated sums, or several of them on the same data, as events.

A subject may protect clients (by a mechanism in its chain), single examples (by DP-SGD inside of its clients), or both.
These are two guarantees of different units, which are never added.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import events, history
from fedjaxlite.privacy.accounting import facts as facts_of
from fedjaxlite.privacy.accounting.events import Event
from fedjaxlite.privacy.accounting.facts import Facts
from fedjaxlite.privacy.accounting.history import Account, Part
from fedjaxlite.privacy.mechanisms import ExampleMechanism

Unit = Literal["client", "example"]


class Subjects(NamedTuple):
    """All that is released of one population.

    Attributes:
      accounts: of each run and computation.
      times: the rounds of each run, from its beginning, and the calls of each computation.
      unit: what a figure is about, "client" or "example".
      num_clients: N.
      sizes: int `[N]`, the clients' numbers of examples; None where only the number of clients is known.
    """

    accounts: tuple[Account, ...]
    times: tuple[int, ...]
    unit: str
    num_clients: int
    sizes: np.ndarray | None

    @property
    def secret_cohorts(self) -> bool | None:
        """Whether all cohorts come from secret keys; None where that is not known."""
        found = {account.secret_cohorts for account in self.accounts if not account.num_sums}
        return None if None in found else all(found)

    @property
    def protects_examples(self) -> bool:
        """Whether what runs states a guarantee for single examples everywhere."""
        return all(account.last.examples for account in self.accounts)

    def lasting(self, num_rounds: int) -> "Subjects":
        """The same single run or computation, for another number of rounds or calls."""
        return self._replace(times=(num_rounds,))


class Stretch(NamedTuple):
    """Some rounds of one composition, or calls of a computation, and what they are to an accountant.

    Attributes:
      label: what they are among others; "" where they are all there is.
      num_rounds: how many.
      num_sums: of each call of a computation; 0 for rounds.
      facts: of the chain; None where nothing added noise, and where examples are meant.
      example: what protects an example; None likewise.
      sampler: of clients.
      event: what is accounted for.
    """

    label: str
    num_rounds: int
    num_sums: int
    facts: Facts | None
    example: ExampleMechanism | None
    sampler: fl.Sampler
    event: Event


def read(
    given: Any, population: Any, num_rounds: Any = None, params: Any = None, unit: Any = None, state: Any = None
) -> Subjects:
    """The subjects that an accountant was given.

    Args:
      given: from `fl.rounds`, a Computation, or a sequence of both; there a run stands as `(rounds, num_rounds)` or
        `(rounds, num_rounds, state)`, and a computation alone or as `(computation, calls)`.
      population: the data of all of them, or the number of clients.
      num_rounds: T of a single run; the calls of a single computation, one if None.
      params: as in `privacy.epsilon`.
      unit: "client" or "example"; None for the clients' guarantee where all subjects have one, else the examples'.
      state: of a single run.

    Raises:
      TypeError, ValueError: for arguments that are not what they should be, and subjects that do not protect the unit.
    """
    if unit is not None:
        fl.checks.one_of(("client", "example"), unit=unit)
    items = _items(given, num_rounds, state)
    if params is not None and len(items) > 1:
        raise ValueError(
            "`params` was given with several runs or computations; expected it for a single one, since each has shapes "
            "of its own. Ask for those whose noise depends on shapes one by one."
        )
    count = facts_of.count_clients(population)
    sizes = np.asarray(population.num_examples) if isinstance(population, fl.Population) else None
    accounts = tuple(history.read(run, population, params, own, facts=unit != "example") for run, _, own in items)
    return _of_one_unit(Subjects(accounts, tuple(times for _, times, _ in items), "", count, sizes), unit)


def of_start(start: fl.observers.Start, population: Any, unit: str | None = None) -> Subjects:
    """The run that is about to start or to go on, for observers.

    Args:
      start: what they are told.
      population: instead of the training data, or None.
      unit: as in `read`.
    """
    people = start.population if population is None else population
    account = history.of_start(start, population, facts=unit != "example")
    sizes = np.asarray(start.population.num_examples)
    return _of_one_unit(Subjects((account,), (start.num_rounds,), "", facts_of.count_clients(people), sizes), unit)


def stretches(subjects: Subjects, num_examples: int | None = None) -> list[Stretch]:
    """The events of all subjects, which are one release of everything.

    Args:
      subjects: as read.
      num_examples: of the client whose examples are meant; None for the one that is protected least. Of no matter where
        the unit is a client.

    Raises:
      ValueError: as `events.event`.
    """
    size = 0
    if subjects.unit == "example":
        size = least_protected(subjects) if num_examples is None else num_examples
    found: list[Stretch] = []
    for account, times in zip(subjects.accounts, subjects.times, strict=True):
        fl.checks.positive_int(num_rounds=times)
        parts = [part for part in account.parts if part.begin < times]
        ends = [*(part.begin for part in parts[1:]), int(times)]
        for part, end in zip(parts, ends, strict=True):
            rounds = f"rounds {part.begin + 1} to {end}" if len(parts) > 1 else ""
            name = account.name if len(subjects.accounts) > 1 else ""
            label = ", ".join(filter(None, [name, rounds]))
            found += _stretches(part, account.num_sums, label, end - part.begin, size)
    return found


def events_of(subjects: Subjects, num_examples: int | None = None) -> tuple[Event, ...]:
    """The events of `stretches` alone."""
    return tuple(stretch.event for stretch in stretches(subjects, num_examples))


def least_protected(subjects: Subjects) -> int:
    """The number of examples of the client whose examples are drawn most often: of the smallest that has any."""
    if subjects.sizes is not None:
        some = subjects.sizes[subjects.sizes > 0]
        return int(some.min()) if some.size else 1
    if any(own.batch_size is not None for account in subjects.accounts for own in account.last.examples):
        raise ValueError(
            f"`population` is the number {subjects.num_clients}, and how often an example is drawn depends on the size "
            "of its client. Pass the Population, or give privacy.dp_sgd a rate alone."
        )
    return 1


def _stretches(part: Part, num_sums: int, label: str, length: int, size: int) -> list[Stretch]:
    """Of one composition; `size` is that of the client whose examples are meant, 0 where clients are."""
    if size == 0:
        if part.facts is None:
            event = events.no_noise("zero_out", length)
        elif num_sums:
            event = events.event_of_sums(part.facts, length * num_sums)
        else:
            event = events.event(part.facts, length)
        return [Stretch(label, length, num_sums, part.facts, None, part.sampler, event)]
    if not part.examples:
        event = events.no_noise("zero_out_example", length)
        return [Stretch(label, length, num_sums, None, None, part.sampler, event)]
    all_events = [events.event_of_examples(own, part.sampler, length, size) for own in part.examples]
    pairs = zip(part.examples, all_events, strict=True)
    return [Stretch(label, length, num_sums, None, own, part.sampler, event) for own, event in pairs]


def _of_one_unit(found: Subjects, unit: str | None) -> Subjects:
    """The subjects, of which all protect the unit; as in `read`."""
    protects = {
        "client": [account.last.facts is not None for account in found.accounts],
        "example": [bool(account.last.examples) for account in found.accounts],
    }
    if unit is None:
        unit = "example" if all(protects["example"]) and not all(protects["client"]) else "client"
    if not all(protects[unit]):
        pairs = zip(found.accounts, protects[unit], strict=True)
        raise ValueError(_unprotected_text(unit, ", ".join(account.name for account, does in pairs if not does)))
    return found._replace(unit=unit)


def _items(given: Any, num_rounds: Any, state: Any) -> list[tuple[Any, int, Any]]:
    """(run or computation, how often, state)."""
    if isinstance(given, fl.Rounds):
        fl.checks.positive_int(num_rounds=num_rounds)
        return [(given, num_rounds, state)]
    if isinstance(given, fl.Computation):
        times = 1 if num_rounds is None else num_rounds
        fl.checks.positive_int(num_rounds=times)
        return [(given, times, state)]
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise TypeError(
            f"`rounds` is a {type(given).__name__}; expected what fl.rounds(...) returns, a computation such as "
            "algorithms.analytics.federated_mean(...), or a sequence of them."
        )
    for name, value in (("num_rounds", num_rounds), ("state", state)):
        if value is not None:
            raise ValueError(
                f"`{name}` was given beside a sequence; expected None, and each run in the sequence as (rounds, "
                "num_rounds), or (rounds, num_rounds, state)."
            )
    return [_item(i, item) for i, item in enumerate(given)]


def _item(i: int, item: Any) -> tuple[Any, int, Any]:
    if isinstance(item, fl.Computation):
        return item, 1, None
    single = isinstance(item, fl.Rounds)
    parts: tuple[Any, ...] = tuple(item) if isinstance(item, (list, tuple)) else ()
    if single or len(parts) not in (2, 3) or not isinstance(parts[0], (fl.Rounds, fl.Computation)):
        what = "rounds without a number of them" if single else f"a {type(item).__name__}"
        raise TypeError(
            f"`rounds[{i}]` is {what}; expected (rounds, num_rounds), a computation, or (computation, calls)."
        )
    fl.checks.positive_int(**{f"rounds[{i}][1]": parts[1]})
    return parts[0], int(parts[1]), parts[2] if len(parts) == 3 else None


def _unprotected_text(unit: str, listed: str) -> str:
    if unit == "example":
        return (
            f"the local training of {listed} states no guarantee for single examples. Train by privacy.dp_sgd, such as "
            "algorithms.fed_avg_of(privacy.dp_sgd(...)), or ask for the clients' guarantee."
        )
    return (
        f"the aggregator of {listed} holds no mechanism of differential privacy, so there is no epsilon (it is "
        "infinite). Put one into the chain, such as fl.chain(fl.mean(over=...), privacy.gaussian(clip_norm=..., "
        "noise_multiplier=...))."
    )
