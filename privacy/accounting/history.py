"""What a run is made of, in order: the rounds of every composition that its state went through.

A state keeps a ledger of the compositions that made its rounds. Without a state, or before the first round, a run is
the rounds of one composition.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import events
from fedjaxlite.privacy.accounting import facts as facts_of
from fedjaxlite.privacy.accounting.events import Event
from fedjaxlite.privacy.accounting.facts import Facts


class Part(NamedTuple):
    """The rounds of one composition.

    Attributes:
      begin: the rounds done before its first one.
      facts: of the composition; None where nothing added noise.
    """

    begin: int
    facts: Facts | None


class Account(NamedTuple):
    """A run, as accountants see it.

    Attributes:
      parts: in order; each lasts until the next begins, and the last is what runs.
      secret_cohorts: whether the key that cohorts come from is a secret; None where no state says so.
    """

    parts: tuple[Part, ...]
    secret_cohorts: bool | None = None

    @property
    def facts(self) -> Facts:
        """The facts of the composition that runs."""
        last = self.parts[-1].facts
        if last is None:
            raise AssertionError("the last part of an account has facts")
        return last


class Stretch(NamedTuple):
    """Some rounds of one composition and what they are to an accountant.

    Attributes:
      first, last: numbers of rounds, from 1.
      facts: None where nothing added noise.
      event: what is accounted for.
    """

    first: int
    last: int
    facts: Facts | None
    event: Event


def read(rounds: fl.Rounds, population: Any, params: Any = None, state: Any = None) -> Account:
    """The account of a run.

    Args:
      rounds: the composition that runs.
      population: a Population, or the number of its clients.
      params: as in `facts.read`.
      state: a RoundState of the run, whose ledger says what came before; None for a run of this composition alone.

    Raises:
      TypeError, ValueError: as `facts.read`; for a state that another composition made, and for one that does not know
        what noised it.
    """
    if state is None:
        return Account((Part(0, facts_of.read(rounds, population, params)),))
    if not isinstance(state, fl.RoundState):
        raise TypeError(f"`state` is a {type(state).__name__}; expected a RoundState of the run.")
    if np.ndim(state.round):
        raise ValueError(
            f"`state` is that of {len(state.round)} runs; expected one of them: jax.tree.map(lambda leaf: leaf[i], "
            "state)."
        )
    if params is None and isinstance(population, fl.Population):
        params = rounds.params(state)
    facts = facts_of.read(rounds, population, params)
    if isinstance(population, fl.Population):
        rounds.check(state, population)
    return _with_ledger(facts, state, population if isinstance(population, fl.Population) else facts.num_clients)


def of_start(start: fl.observers.Start, population: Any) -> Account:
    """The account of a run that is about to start or to go on, for observers.

    Args:
      start: what they are told.
      population: instead of the training data, or None.
    """
    people = start.population if population is None else population
    wire = start.wire
    if wire is None:
        wire = start.rounds.wire(start.rounds.params(start.state), start.population)
    facts = facts_of.of_wire(wire, start.rounds.sampler, facts_of.count_clients(people))
    return _with_ledger(facts, start.state, people)


def _with_ledger(facts: Facts, state: fl.RoundState, people: Any) -> Account:
    segments = state.ledger.segments
    if not segments:
        raise ValueError(
            "`state` does not say what its rounds were made by (its ledger is empty). Take one that rounds.init "
            "or a step returned."
        )
    count = None if isinstance(people, fl.Population) else facts_of.count_clients(people)
    before = tuple(Part(segment.begin, _facts(segment, count)) for segment in segments[:-1])
    told = _facts(segments[-1], count)
    if told is None or not facts_of.same_guarantee(told, facts):
        raise ValueError(
            "`state` was made by another composition than the one that is asked about. Pass the rounds that made it; "
            "or let these go on with it, state = rounds.go_on(state, population), and both are counted."
        )
    return Account((*before, Part(segments[-1].begin, facts)), bool(fl.records.here(state.keys.secret_cohorts)))


def _facts(segment: Any, num_clients: int | None) -> Facts | None:
    if not segment.facts:
        return None
    if segment.composition is None:
        raise ValueError(
            f"the noise of the rounds from {segment.begin + 1} on was a tracer when the state was made (a "
            "hyperparameter under jit or vmap), so the state does not know it and no guarantee follows from it. Leave "
            "state= out: then the figure is that of the composition alone, from its first round on."
        )
    _, sampler, _, wire = segment.composition
    return facts_of.of_wire(wire, sampler, wire.num_clients if num_clients is None else num_clients)


def stretches(account: Account, num_rounds: int) -> list[Stretch]:
    """The events of the first T rounds of a run, one for each composition.

    Args:
      account: of the run.
      num_rounds: T, at least 1.

    Raises:
      ValueError: as `events.event`.
    """
    fl.checks.positive_int(num_rounds=num_rounds)
    parts = [part for part in account.parts if part.begin < num_rounds]
    ends = [*(part.begin for part in parts[1:]), int(num_rounds)]
    found = []
    for part, end in zip(parts, ends, strict=True):
        length = end - part.begin
        if part.facts is None:
            event = Event("gaussian", "zero_out", length, length, 0.0)
        else:
            event = events.event(part.facts, length)
        found.append(Stretch(part.begin + 1, end, part.facts, event))
    return found


def events_of(account: Account, num_rounds: int) -> Sequence[Event]:
    """The events of `stretches` alone."""
    return [stretch.event for stretch in stretches(account, num_rounds)]
