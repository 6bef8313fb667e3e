"""A page on what a run guarantees: for whom, against whom, under which assumptions, and what it does not cover."""

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import conversions, history
from fedjaxlite.privacy.accounting import facts as facts_of
from fedjaxlite.privacy.accounting.curves import relation_of
from fedjaxlite.privacy.accounting.epsilon import Guarantee, of_account, warn_of_delta
from fedjaxlite.privacy.accounting.events import RELATIONS, Event
from fedjaxlite.privacy.accounting.facts import Facts
from fedjaxlite.privacy.accounting.history import Stretch

_WIDTH = 100

_PARAGRAPHS = (*("unit", "relation", "mechanism", "sampling", "cohorts", "trust", "noise", "released", "not_released"),)
_NOT_RELEASED = (
    "Metrics of local training (the loss in the records) and PassInfo.clients are computed from the clients' data past "
    "the noise. How many clients took part is not public either: counts of clients, reports and examples, bytes up and "
    "down, and the time that rounds took tell whether there was one more. All of this is simulation only, and records "
    "say so. Evaluations on the clients' own data likewise. What clients keep (control variates, personal models) "
    "stays with them."
)


class Report(NamedTuple):
    """What a run guarantees, as a page (`print(report)`) and as fields.

    Attributes:
      guarantee: epsilon, delta, both accountants' figures and the event that they are of.
      unit: what is protected.
      relation: what neighbors are, in words.
      mechanism: the noise, in words.
      sampling: how cohorts come about, and whether a theorem of amplification was used.
      cohorts: whether the cohorts are a secret, and what epsilon is against those who know them.
      trust: who sees what.
      noise: where the noise's randomness comes from.
      released: what the guarantee covers.
      not_released: what it does not cover, and has to stay in the simulation.
      secret: whether the noise comes from the operating system; None where no state was given.
      warnings: what makes the guarantee weaker than it may look.
    """

    guarantee: Guarantee
    unit: str
    relation: str
    mechanism: str
    sampling: str
    cohorts: str
    trust: str
    noise: str
    released: str
    not_released: str
    secret: bool | None
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        found = self.guarantee
        mark = " (extrapolated)" if found.extrapolated else ""
        lines = [
            f"Differential privacy of {found.num_rounds} rounds{mark}",
            f"  epsilon      {_figure(found.epsilon)} at delta {found.delta:.3g}"
            + (f", {found.condition}" if found.condition else ""),
            *(_paragraph("", f"{_figure(found.unamplified)} without amplification") if found.condition else ()),
            *_accountants(found),
        ]
        for name in _PARAGRAPHS:
            lines += _paragraph(name.replace("_", " "), getattr(self, name))
        for warning in self.warnings:
            lines += _paragraph("WARNING", warning)
        return "\n".join(lines)


def report(
    rounds: Any, population: Any, *, num_rounds: int, delta: float, params: Any = None, state: Any = None
) -> Report:
    """Everything about a run's guarantee on one page.

    Args:
      rounds: from `fl.rounds`.
      population: the training data, or the number of clients.
      num_rounds: T, from the run's beginning.
      delta: in (0, 1), below one over the number of clients.
      params: as in `privacy.epsilon`.
      state: a RoundState of the run, which knows where its noise and its cohorts come from, and which compositions made
        its rounds: all of them count. None leaves the first open, and is a run of these rounds alone.

    Returns:
      a Report, to be printed or read.

    Raises:
      TypeError, ValueError, ModuleNotFoundError: as `privacy.epsilon`.

    Warns:
      UserWarning: delta is one over the number of clients or more.

    Example:
      >>> import optax
      >>> from fedjaxlite import algorithms, privacy
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> rounds = fl.rounds(
      ...     algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.2), batch_size=None),
      ...     sampler=fl.sampling.full(100),
      ...     aggregator=fl.chain(fl.mean(over=100), privacy.gaussian(clip_norm=1.0, noise_multiplier=4.0)),
      ... )
      >>> print(str(report(rounds, 100, num_rounds=1, delta=1e-5)).splitlines()[1])
        epsilon      0.9263 at delta 1e-05
    """
    conversions.check_delta(delta)
    account = history.read(rounds, population, params, state)
    facts = account.facts
    warn_of_delta(delta, facts.num_clients)
    found, made = of_account(account, num_rounds, delta), history.stretches(account, num_rounds)
    secret, relation = None if state is None else bool(fl.records.here(state.keys.secret)), relation_of(found.events)
    return Report(
        guarantee=found,
        unit="One client: everything it sends in all rounds, so all of its examples together.",
        relation=f"Neighbors ({relation}): {RELATIONS[relation]}.",
        mechanism=_each(made, lambda stretch, facts: _mechanism(facts, stretch.event)),
        sampling=_each(made, lambda stretch, facts: _sampling(facts, found, stretch)),
        cohorts=_cohorts(found),
        trust=facts.mechanism.trust + (" Here a mask hides every message but the sum." if facts.wire.masked else ""),
        noise=_randomness(secret, in_floats=found.event.rdp is None),
        released=_released(rounds, state),
        not_released=_NOT_RELEASED,
        secret=secret,
        warnings=tuple(_warnings(facts, found, secret)),
    )


def _each(made: Sequence[Stretch], say: Callable[[Stretch, Facts], str]) -> str:
    """What is to say of every composition that made rounds, with the rounds where there are several."""
    texts = [(s, "nothing that adds noise." if s.facts is None else say(s, s.facts)) for s in made]
    if len(texts) == 1:
        return texts[0][1]
    return " ".join(f"Rounds {stretch.first} to {stretch.last}: {text}" for stretch, text in texts)


def _cohorts(found: Guarantee) -> str:
    """Whether anybody can draw the cohorts again, where that matters."""
    if all(event.amplification == "none" for event in found.events):
        return "Epsilon does not rest on them: who takes part may be known."
    known = f"Against those who can draw them again, epsilon is {_figure(found.unamplified)}."
    return {
        True: f"Drawn from the operating system's entropy, a secret that checkpoints hold. {known}",
        False: f"Drawn from a key that was given: amplification is worth something if the seed is secret. {known}",
        None: "Drawn from the operating system's entropy, unless `init` was given a noise_key or a cohort_key: pass "
        f"state= to know. {known}",
    }[found.secret_cohorts]


def _figure(epsilon: float) -> str:
    return "infinite" if math.isinf(epsilon) else f"{epsilon:.4g}"


def _accountants(found: Guarantee) -> list[str]:
    by = _distributions(found.events)
    discrete = any(event.rdp is not None for event in found.events)
    grid = "integer orders 2 to 1024" if discrete else "orders 1.1 to 1024, dp-accounting's grid"
    rows = ((found.eps_pld, by), (found.eps_rdp, f"Rényi divergences, {grid}, conversion of Canonne et al. 2020"))
    if math.isinf(found.epsilon):
        return []
    said = [f"{_figure(value)} by {how}" for value, how in rows if math.isfinite(value)]
    return [line for text in said for line in _paragraph("", text)]


def _distributions(events: Sequence[Event]) -> str:
    """How the first of the two figures was found."""
    convolved = "privacy loss distributions, upper estimate"
    if len(events) > 1:
        return "adding up what each composition costs" if any(event.rdp is not None for event in events) else convolved
    (event,) = events
    if event.kind == "local":
        return "optimal composition of local randomizers"
    if event.kind == "laplace" or event.rate < 1:
        return convolved
    exact = "exact curve of a Gaussian"
    return f"{exact}, without amplification" if event.amplification == "without_replacement" else exact


def _mechanism(facts: Facts, event: Event) -> str:
    name = facts.mechanism.kind.replace("_", " ")
    if event.kind == "local":
        return f"{name}: a client's report in one round has epsilon {event.local[0]:.4g}, delta {event.local[1]:.3g}."
    if facts.mechanism.kind == "local_gaussian":
        own = facts.mechanism.options
        return f"{name}: a client's report in one round has epsilon {own['epsilon']:.4g}, delta {own['delta']:.3g}."
    if event.rdp is not None:
        return f"{name}: integer noise, accounted for by its own Rényi divergences, rounding included."
    added = facts_of.noise_multiplier(facts)
    if added == 0:
        return f"{name} without noise, or without a bound on what it hides: no privacy."
    text = f"{name}, noise multiplier {added:.4g} over the sensitivity to one client added, all releases of a round "
    text += "together"
    if "squared_sensitivity" in facts.mechanism.options:
        text += f"; correlated over the rounds: all are one release of noise multiplier {event.noise_multiplier:.4g}"
    elif event.noise_multiplier != added:
        text += f"; {event.noise_multiplier:.4g} where the sum can change by two clips"
    return text + "."


def _sampling(facts: Facts, found: Guarantee, stretch: Stretch) -> str:
    event, accounting = stretch.event, facts.sampler.accounting
    text = f"{facts.sampler.name} of {facts.num_clients} clients. "
    if facts.mechanism.extrapolated:
        text = f"{facts.mechanism.options['noise_cohort_size']:g} clients in a round of {facts.num_clients}, imagined. "
    if event.amplification == "poisson":
        text += f"Amplification by Poisson sampling at rate {event.rate:.4g} is counted."
        if event.overflow > 0:
            spent = event.overflow * event.compositions * (1 + math.exp(min(found.epsilon, 700.0)))
            text += f" Cutting cohorts to {facts.sampler.capacity} slots costs {spent:.2g} of delta, which is included."
    elif event.amplification == "without_replacement":
        text += (
            f"Amplification by sampling {event.cohort[0]} of {event.cohort[1]} without replacement is counted in the "
            "Rényi figure; the other figure does without it."
        )
    else:
        text += (
            f"No theorem of amplification by sampling is used: a client counts in {event.participations} of "
            f"{stretch.last - stretch.first + 1} rounds, the most that it may be in."
        )
    if (
        facts.mechanism.extrapolated or event.rdp is not None
    ):  # the sampler's note is of other cohorts, or of other neighbors
        return text
    return f"{text} {accounting.note}".strip()


def _randomness(secret: bool | None, *, in_floats: bool) -> str:
    kept = "Checkpoints hold the noise key and must be kept secret."
    text = {
        None: f"From the operating system's entropy, unless `init` was given a noise_key: pass state= to know. {kept}",
        True: f"From the operating system's entropy. {kept}",
        False: "Reproducible, not private: the noise key was given, and whoever knows it can subtract the noise.",
    }[secret]
    if in_floats:
        text += (
            " Drawn in float32: close to the distribution that is accounted for, and not hardened against attacks on "
            "floating point (Mironov 2012) as discrete noise is."
        )
    return text


def _released(rounds: fl.Rounds, state: Any) -> str:
    text = "The model after every round, and the scalars that the algorithm sends beside the update"
    metrics = [] if state is None else sorted(rounds.aggregator.metrics(state.aggregator_state))
    if metrics:
        text += f", and the aggregator's metrics ({', '.join(metrics)})"
    return f"{text}: all of it follows from the noised sums, at no further cost."


def _warnings(facts: Facts, found: Guarantee, secret: bool | None) -> Iterator[str]:
    if found.delta >= 1 / facts.num_clients:
        yield (
            f"delta {found.delta:.3g} is at least one over the number of clients ({1 / facts.num_clients:.3g}): "
            "publishing one client's data outright would pass."
        )
    if found.extrapolated:
        size = facts_of.number(facts.mechanism.options["noise_cohort_size"], "`noise_cohort_size`")
        yield (
            f"extrapolated: the guarantee is that of an imagined run with {size:g} clients in a round of "
            f"{facts.num_clients}. The simulated clients have less noise, and not this guarantee."
        )
    if math.isinf(found.epsilon):
        yield "epsilon is infinite: this run protects nobody."
    if secret is False:
        yield "the noise is reproducible, so the guarantee is void against anyone who knows the noise key."
    if found.condition and found.secret_cohorts is False:
        yield (
            "cohorts come from a key that was given. Against anyone who knows it, epsilon is "
            f"{_figure(found.unamplified)}: nothing is amplified for those who can draw the cohorts again."
        )


def _paragraph(name: str, text: str) -> list[str]:
    head = f"  {name:<13}"
    return textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
