"""From the facts of a run to the event that is accounted for: which neighbors, which noise, how often, which theorem.

How a mechanism is composed follows from what it says in `Mechanism.options`:

    "rdp"                  rdp(orders [n]) -> [n], the Rényi divergence of one round (discrete noise, modular sums)
    "squared_sensitivity"  f(max_participations, min_separation, num_rounds), of the strategy matrix of correlated noise
    "epsilon", "delta"     of one participation: noise that a client adds for itself
    "num_rounds"           the most rounds that the mechanism is made for
    "norm"                 "l1": `Mechanism.releases` are of Laplace noise
    none of these          `Mechanism.releases` are of Gaussian noise, drawn anew in every round

A sampler for which no theorem of amplification is known gets none: a client then counts as present in every round that
it may be in. Which neighbors are meant follows from the sampler, and is part of the result.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import backend
from fedjaxlite.privacy.accounting import facts as facts_of
from fedjaxlite.privacy.accounting.facts import Facts
from fedjaxlite.privacy.mechanisms import ExampleMechanism

RELATIONS = {
    "add_or_remove": "one client is added or removed",
    "zero_out": "one client's contributions become nothing, while everyone takes part in the same rounds as before",
    "replace_one": "one client is replaced by any other",
    "zero_out_example": "one example of one client counts for nothing, while the client's number of examples, which is "
    "public, stays",
    "add_or_remove_example": "one example of one client is added or removed",
}
"""What neighbors are, by the name of the relation."""


class Event(NamedTuple):
    """What a number of rounds is to an accountant.

    Attributes:
      kind: "gaussian", "laplace", "rdp" or "local".
      relation: a key of `RELATIONS`.
      compositions: how many rounds count; 1 where they are one release of a longer vector (correlated noise).
      participations: the most rounds that one client counts in.
      noise_multiplier: noise over the sensitivity *under the relation*, of one composition; NaN where it says nothing.
      amplification: "poisson", "without_replacement", "batches" (Poisson batches inside of a client), or "none".
      rate: of Poisson sampling, of clients or of examples; 1 without.
      cohort: (K, N) of sampling without replacement; (0, 0) without.
      overflow: the chance that a round's cohort was cut to its capacity, so that the theorem does not hold for it.
      rdp: the Rényi divergence of one round, where the kind is "rdp".
      local: epsilon and delta of one participation, where the kind is "local".
    """

    kind: str
    relation: str
    compositions: int
    participations: int
    noise_multiplier: float
    amplification: str = "none"
    rate: float = 1.0
    cohort: tuple[int, int] = (0, 0)
    overflow: float = 0.0
    rdp: Callable[[Any], Any] | None = None
    local: tuple[float, float] = (0.0, 0.0)


def rests_on_cohorts(event: Event) -> bool:
    """Whether a theorem is used that holds against those alone who do not know who takes part."""
    return event.amplification in ("poisson", "without_replacement")


def no_noise(relation: str, num_rounds: int) -> Event:
    """The event of rounds in which nothing adds noise."""
    return Event("gaussian", relation, num_rounds, num_rounds, 0.0)


def event(facts: Facts, num_rounds: int) -> Event:
    """The event of a run of `num_rounds` rounds.

    Args:
      facts: of the run.
      num_rounds: T, at least 1.

    Raises:
      ValueError: for more rounds than the sampler or the mechanism is made for, and for pairs of them without any valid
        account.

    Source: the relations are those of Ponomareva et al. (2023), "How to DP-fy ML", https://arxiv.org/abs/2303.00654,
    section 2.1; correlated noise is composed after Choquette-Choo et al. (2023), https://arxiv.org/abs/2306.08153.
    """
    num_rounds = _checked_rounds(facts, num_rounds)
    options, accounting = facts.mechanism.options, facts.sampler.accounting
    relation, factor = _relation(facts)
    present = accounting.participations(num_rounds)
    if "epsilon" in options:
        return _local(facts, present)
    if "rdp" in options:
        return _discrete(facts, present)
    if "squared_sensitivity" in options:
        squared = options["squared_sensitivity"](present, accounting.min_separation, num_rounds)
        # Without a theorem for cut cohorts, nobody may get a place because another client is gone.
        relation = "zero_out" if facts.sampler.may_overflow else relation
        noise = facts_of.noise_multiplier(facts) / factor / math.sqrt(facts_of.number(squared, "a sensitivity"))
        return Event("gaussian", relation, 1, present, noise)
    kind, noise = "laplace" if options.get("norm") == "l1" else "gaussian", facts_of.noise_multiplier(facts)
    if accounting.amplification and accounting.kind == "poisson":
        rate, overflow = _poisson(facts)
        if rate < 1:
            found = Event(kind, relation, num_rounds, num_rounds, noise)
            return found._replace(amplification="poisson", rate=rate, overflow=overflow)
        relation = "zero_out"  # everyone, with as many slots: a client more would have none
    cohort = _fixed_size(facts)
    if kind == "gaussian" and accounting.amplification and 0 < cohort[0] < cohort[1]:
        return Event(
            kind, relation, num_rounds, num_rounds, noise / factor, amplification="without_replacement", cohort=cohort
        )
    return Event(kind, relation, present, present, noise / factor)


def event_of_sums(facts: Facts, num_sums: int) -> Event:
    """The event of sums outside of rounds, each with a mechanism that starts afresh, over cohorts of the caller's.

    Args:
      facts: of a Computation.
      num_sums: all of them, at least 1; a client counts in each.

    Raises:
      ValueError: as `event`.
    """
    fl.checks.positive_int(num_sums=num_sums)
    one = event(facts, 1)
    return one._replace(compositions=one.compositions * num_sums, participations=num_sums)


def event_of_examples(mechanism: ExampleMechanism, sampler: fl.Sampler, num_rounds: int, num_examples: int) -> Event:
    """The event of DP-SGD inside of a client, for one of its examples.

    All steps count of all rounds that the client may be in. Sampling of clients is not made use of: the server sees who
    takes part, and the guarantee is to hold against it too.

    Args:
      mechanism: of the local training.
      sampler: of clients.
      num_rounds: T, at least 1.
      num_examples: of the client, at least 1.

    Source: Abadi et al. (2016), https://arxiv.org/abs/1607.00133, theorem 1, by the accountants of today.
    """
    num_rounds = _checked_sampler_rounds(sampler, num_rounds)
    present = sampler.accounting.participations(num_rounds)
    relation = "zero_out_example" if mechanism.public_sizes else "add_or_remove_example"
    if isinstance(mechanism.noise_multiplier, str):
        raise ValueError(
            "the noise multiplier of privacy.dp_sgd is scheduled, and an epsilon is computed for rounds of one noise. "
            "Compose rounds for each noise, and go on from one to the next by rounds.go_on."
        )
    noise = facts_of.number(mechanism.noise_multiplier, "the noise multiplier")
    found = Event("gaussian", relation, present * mechanism.steps, present, noise)
    rate = mechanism.rate_of(num_examples)
    if rate == 1:
        return found
    return found._replace(amplification="batches", rate=rate, overflow=mechanism.max_overflow)


def _relation(facts: Facts) -> tuple[str, int]:
    """The neighbors that the sampler makes sense of, and by how many clips they change the sum of a round."""
    accounting = facts.sampler.accounting
    if accounting.kind == "without_replacement":
        return "replace_one", 2
    if _displaces(facts):  # without one client another gets in: one clip less, and one more
        return "zero_out", 2
    return ("add_or_remove" if accounting.kind in ("poisson", "full") else "zero_out"), 1


def _displaces(facts: Facts) -> bool:
    """Whether what one client has can decide about another client's place in a round."""
    accounting, capacity = facts.sampler.accounting, facts.sampler.capacity
    if accounting.kind == "weighted":  # by sizes, perhaps
        return True
    if accounting.kind in ("poisson", "without_replacement"):  # where the theorem is gone, a deadline took it away
        return not accounting.amplification
    return accounting.cohort_size is not None and capacity > accounting.cohort_size


def _poisson(facts: Facts) -> tuple[float, float]:
    """The rate, and the chance that a round has more clients than slots."""
    sampler, n = facts.sampler, facts.num_clients
    if facts.mechanism.extrapolated:
        return _imagined(facts) / n, 0.0
    rate = facts_of.number(sampler.accounting.rate, "the sampler's rate")
    # One of two neighbors has a client more.
    return rate, fl.sampling.overflow_probability(n + 1, rate, sampler.capacity) if sampler.may_overflow else 0.0


def _fixed_size(facts: Facts) -> tuple[int, int]:
    """(K, N) of a cohort of a fixed size."""
    size = facts.sampler.accounting.cohort_size or 0
    if facts.mechanism.extrapolated:
        size = math.ceil(_imagined(facts))
    return size, facts.num_clients


def _imagined(facts: Facts) -> float:
    """The number of clients in a round of the run that the noise was scaled down from."""
    size = facts_of.number(facts.mechanism.options["noise_cohort_size"], "`noise_cohort_size`")
    if size > facts.num_clients:
        raise ValueError(
            f"the noise is that of an imagined cohort of {size:g} clients, out of a population of {facts.num_clients}. "
            "Pass the number of clients of the imagined population instead of the training data's."
        )
    return size


def _discrete(facts: Facts, present: int) -> Event:
    # Clients bring the noise themselves, so without a client some of it would be missing: a client is compared with
    # itself, sending zeros. That is possible where a client's place in a round does not depend on anyone's data.
    if _displaces(facts):
        raise ValueError(
            f"no guarantee is known for {facts.mechanism.kind} noise with {facts.sampler.name}, where one client's "
            "data decide about another's place in the round. Use a sampler without a limit on reports, and without "
            "sizes as weights."
        )
    return Event("rdp", "zero_out", present, present, math.nan, rdp=facts.mechanism.options["rdp"])


def _local(facts: Facts, present: int) -> Event:
    options = facts.mechanism.options
    each, fails = (facts_of.number(options.get(name, 0.0), f"the {name} of a client") for name in ("epsilon", "delta"))
    if facts.mechanism.kind == "local_gaussian" and each > 0 and fails > 0 and math.isfinite(each):
        # The noise of which one client's update has exactly this epsilon and delta.
        noise = backend.gaussian_sigma(each, fails)
        return Event("gaussian", "replace_one", present, present, noise)
    return Event("local", "replace_one", present, present, math.nan, local=(each, fails))


def _checked_rounds(facts: Facts, num_rounds: int) -> int:
    num_rounds = fl.checks.positive_int(num_rounds=num_rounds)
    most = facts.mechanism.options.get("num_rounds")
    if most is not None and num_rounds > most:
        raise ValueError(
            f"`num_rounds` is {num_rounds}, but the {facts.mechanism.kind} mechanism of the chain was made for {most}. "
            f"Make it with num_rounds={num_rounds}, or ask for at most {most}."
        )
    return _checked_sampler_rounds(facts.sampler, num_rounds)


def _checked_sampler_rounds(sampler: fl.Sampler, num_rounds: int) -> int:
    num_rounds = fl.checks.positive_int(num_rounds=num_rounds)
    most = sampler.num_rounds
    if most is not None and num_rounds > most:
        raise ValueError(
            f"`num_rounds` is {num_rounds}, but {sampler.name} knows {most} rounds; ask for at most {most}."
        )
    return num_rounds
