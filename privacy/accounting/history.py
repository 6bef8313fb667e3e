"""What a run is made of, in order: the rounds of every composition that its state went through.

A state keeps a ledger of the compositions that made its rounds. Without a state, or before the first round, a run is
the rounds of one composition. A computation of federated sums keeps no state: every sum of it begins anew.
"""

from typing import Any, NamedTuple

import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import facts as facts_of
from fedjaxlite.privacy.accounting.facts import Facts
from fedjaxlite.privacy.mechanisms import ExampleMechanism


class Part(NamedTuple):
    """The rounds of one composition, or the calls of a computation.

    Attributes:
      begin: the rounds done before its first one.
      facts: what the clients' guarantee follows from; None where the chain adds no noise.
      examples: what the local training says of single examples; empty where it protects none.
      sampler: of clients.
    """

    begin: int
    facts: Facts | None
    examples: tuple[ExampleMechanism, ...]
    sampler: fl.Sampler


class Account(NamedTuple):
    """A run or a computation, as accountants see it.

    Attributes:
      name: for messages and reports.
      parts: in order; each lasts until the next begins, and the last is what runs.
      secret_cohorts: whether the key that cohorts come from is a secret; None where no state says so.
      num_sums: the sums of one call of a computation; 0 for a run.
    """

    name: str
    parts: tuple[Part, ...]
    secret_cohorts: bool | None = None
    num_sums: int = 0

    @property
    def last(self) -> Part:
        """What runs."""
        return self.parts[-1]


def read(
    run: fl.Rounds | fl.Computation, population: Any, params: Any = None, state: Any = None, *, facts: bool = True
) -> Account:
    """The account of a run, or of a computation.

    Args:
      run: the composition that runs, or the computation.
      population: a Population, or the number of its clients.
      params: as in `facts.read`.
      state: a RoundState of the run, whose ledger says what came before; None for a run of this composition alone.
      facts: whether facts of the chain are asked for.

    Raises:
      TypeError, ValueError: as `facts.read`; for a state that another composition made, and for one that does not know
        what noised it.
    """
    if isinstance(run, fl.Computation):
        if state is not None:
            raise TypeError(f"`state` was given with {run.name}, which keeps none; leave it out.")
        part = Part(
            0, facts_of.read(run, population, params) if facts else None, (), facts_of.sampler_of(run, population)
        )
        return Account(run.name, (part,), num_sums=run.num_sums)
    if state is not None and not isinstance(state, fl.RoundState):
        raise TypeError(f"`state` is a {type(state).__name__}; expected a RoundState of the run.")
    if state is not None and np.ndim(state.round):
        raise ValueError(
            f"`state` is that of {len(state.round)} runs; expected one of them: jax.tree.map(lambda leaf: leaf[i], "
            "state)."
        )
    if state is not None and params is None and isinstance(population, fl.Population):
        params = run.params(state)
    part = Part(0, facts_of.read(run, population, params) if facts else None, examples_of(run.algorithm), run.sampler)
    if state is None:
        return Account(run.algorithm.name, (part,))
    if isinstance(population, fl.Population):
        run.check(state, population)
    return _with_ledger(run.algorithm.name, part, state, population, facts)


def of_start(start: fl.observers.Start, population: Any, *, facts: bool = True) -> Account:
    """The account of a run that is about to start or to go on, for observers.

    Args:
      start: what they are told.
      population: instead of the training data, or None.
      facts: as in `read`.
    """
    people, rounds = start.population if population is None else population, start.rounds
    wire = start.wire
    if wire is None:
        wire = rounds.wire(rounds.params(start.state), start.population)
    own = facts_of.of_wire(wire, rounds.sampler, facts_of.count_clients(people)) if facts else None
    part = Part(0, own, examples_of(rounds.algorithm), rounds.sampler)
    return _with_ledger(rounds.algorithm.name, part, start.state, people, facts)


def examples_of(algorithm: fl.Algorithm) -> tuple[ExampleMechanism, ...]:
    """What an algorithm's local training states of single examples."""
    return tuple(mechanism for mechanism in algorithm.mechanisms if isinstance(mechanism, ExampleMechanism))


def _with_ledger(name: str, now: Part, state: fl.RoundState, people: Any, facts: bool) -> Account:
    segments = state.ledger.segments
    if not segments:
        raise ValueError(
            "`state` does not say what its rounds were made by (its ledger is empty). Take one that rounds.init "
            "or a step returned."
        )
    count = None if isinstance(people, fl.Population) else facts_of.count_clients(people)
    *before, told = [_part(segment, count, now.sampler, facts) for segment in segments]
    same = told.facts is None if now.facts is None else facts_of.same_guarantee(told.facts, now.facts)
    if not same or told.examples != now.examples:
        raise ValueError(
            "`state` was made by another composition than the one that is asked about. Pass the rounds that made it; "
            "or let these go on with it, state = rounds.go_on(state, population), and both are counted."
        )
    secret = bool(fl.records.here(state.keys.secret_cohorts))
    return Account(name, (*before, now._replace(begin=told.begin)), secret)


def _part(segment: Any, num_clients: int | None, sampler: fl.Sampler, facts: bool) -> Part:
    if not segment.facts:
        return Part(segment.begin, None, (), sampler)
    if segment.composition is None:
        raise ValueError(
            f"the noise of the rounds from {segment.begin + 1} on was a tracer when the state was made (a "
            "hyperparameter under jit or vmap), so the state does not know it and no guarantee follows from it. Leave "
            "state= out: then the figure is that of the composition alone, from its first round on."
        )
    algorithm, sampler, _, wire = segment.composition
    count = wire.num_clients if num_clients is None else num_clients
    own = facts_of.of_wire(wire, sampler, count) if facts else None
    return Part(segment.begin, own, examples_of(algorithm), sampler)
