"""A page on what a run guarantees: for whom, against whom, under which assumptions, and what it does not cover."""

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import conversions, subjects
from fedjaxlite.privacy.accounting import facts as facts_of
from fedjaxlite.privacy.accounting.curves import relation_of
from fedjaxlite.privacy.accounting.epsilon import Guarantee, of_subjects, warn_of_delta
from fedjaxlite.privacy.accounting.events import RELATIONS, Event, rests_on_cohorts
from fedjaxlite.privacy.accounting.subjects import Stretch, Subjects, Unit
from fedjaxlite.privacy.mechanisms import ExampleMechanism

_WIDTH = 100

_PARAGRAPHS = (
    *("unit", "relation", "examples", "mechanism", "sampling", "cohorts", "trust", "noise", "released", "not_released"),
)
_UNITS = {
    "client": "One client: everything it sends in all rounds, so all of its examples together.",
    "example": "One example of one client, in everything that the client sends in all rounds; not the client itself.",
}
_NOT_RELEASED = (
    "Metrics of local training (the loss in the records) and PassInfo.clients are computed from the clients' data past "
    "the noise. How many clients took part is not public either: counts of clients, reports and examples, bytes up and "
    "down, and the time that rounds took tell whether there was one more. All of this is simulation only, and records "
    "say so. Evaluations on the clients' own data likewise. What clients keep (control variates, personal models) "
    "stays with them."
)


class Report(NamedTuple):
    """What a run guarantees, or several things on the same data, as a page (`print(report)`) and as fields.

    Attributes:
      guarantee: epsilon, delta, both accountants' figures and the events that they are of.
      subject: what was done how often.
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
      examples: what single examples are guaranteed, the least and the best protected; "" where nothing is stated.
      examples_guarantee: that of the client whose examples are protected least; None likewise.
    """

    guarantee: Guarantee
    subject: str
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
    examples: str = ""
    examples_guarantee: Guarantee | None = None

    def __str__(self) -> str:
        found = self.guarantee
        mark = " (extrapolated)" if found.extrapolated else ""
        lines = [
            f"Differential privacy of {self.subject}{mark}",
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
    rounds: Any,
    population: Any,
    *,
    num_rounds: int | None = None,
    delta: float,
    params: Any = None,
    state: Any = None,
    unit: Unit | None = None,
) -> Report:
    """Everything about a guarantee on one page: of a run, of a computation of federated sums, or of several together.

    Args:
      rounds: as in `privacy.epsilon`.
      population: the training data, or the number of clients.
      num_rounds: as in `privacy.epsilon`.
      delta: in (0, 1), below one over the number of clients.
      params: as in `privacy.epsilon`.
      state: a RoundState of the run, which knows where its noise and its cohorts come from, and which compositions made
        its rounds: all of them count. None leaves the first open, and is a run of these rounds alone.
      unit: as in `privacy.epsilon`. Where clients are protected and examples too, the page says both.

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
    delta = conversions.check_delta(delta)
    found = subjects.read(rounds, population, num_rounds, params, unit, state)
    warn_of_delta(delta, found)
    guarantee, made = of_subjects(found, delta), subjects.stretches(found)
    examples, text = _examples(found, guarantee)
    secret, relation = (
        None if state is None else bool(fl.records.here(state.keys.secret)),
        relation_of(guarantee.events),
    )
    calls_only = all(stretch.num_sums for stretch in made)
    return Report(
        guarantee=guarantee,
        subject=_subject(found),
        unit=_UNITS[found.unit],
        relation=f"Neighbors ({relation}): {RELATIONS[relation]}.",
        mechanism=_each(made, _mechanism),
        sampling=_each(made, lambda stretch: _sampling(stretch, guarantee, found.num_clients)),
        cohorts=_cohorts(guarantee),
        trust=_trust(made),
        noise=_randomness(
            secret, in_floats=any(event.rdp is None for event in guarantee.events), calls_only=calls_only
        ),
        released=_released(rounds, state, found, calls_only),
        not_released=_NOT_RELEASED,
        secret=secret,
        warnings=tuple(_warnings(made, guarantee, secret, found)),
        examples=text,
        examples_guarantee=examples,
    )


def _subject(found: Subjects) -> str:
    texts = []
    for account, times in zip(found.accounts, found.times, strict=True):
        if not account.num_sums:
            texts.append(f"{times} rounds" + (f" of {account.name}" if len(found.accounts) > 1 else ""))
        else:
            sums = "" if account.num_sums == 1 else f" ({account.num_sums} sums each)"
            texts.append(f"{times} call{'s' * (times > 1)} of {account.name}{sums}")
    return " and ".join(texts)


def _each(made: Sequence[Stretch], say: Callable[[Stretch], str]) -> str:
    """What is to say of everything that was composed, each under its name where there are several."""
    if len(made) == 1:
        return say(made[0])
    texts = [(stretch.label, say(stretch)) for stretch in made]
    return " ".join(f"{label[:1].upper()}{label[1:]}: {text}" for label, text in dict.fromkeys(texts))


def _examples(found: Subjects, guarantee: Guarantee) -> tuple[Guarantee | None, str]:
    """The examples' guarantee, of the clients that are protected least and best, where there is one."""
    if not found.protects_examples:
        return None, ""
    own = found._replace(unit="example")
    least = guarantee if found.unit == "example" else of_subjects(own, guarantee.delta)
    text = f"Epsilon {_figure(least.epsilon)} at delta {least.delta:.3g}"
    largest = least.num_examples if found.sizes is None else int(found.sizes.max())
    if subjects.events_of(own, largest) == least.events:
        text += " for an example of any client, whatever its size."
    else:
        best = of_subjects(own, guarantee.delta, largest)
        text += (
            f" for an example of the smallest client ({least.num_examples} examples), which is drawn most often, and "
            f"{_figure(best.epsilon)} of the largest ({largest}). privacy.examples_epsilon has every client's."
        )
    apart = " It is another guarantee than the clients', and is not added to it."
    return least, text if found.unit == "example" else text + apart


def _trust(made: Sequence[Stretch]) -> str:
    stated = [s.example if s.facts is None else s.facts.mechanism for s in made]
    text = " ".join(dict.fromkeys(one.trust for one in stated if one is not None))
    masked = any(s.facts is not None and s.facts.wire.masked for s in made)
    return text + (" Here a mask hides every message but the sum." if masked else "")


def _cohorts(found: Guarantee) -> str:
    """Whether anybody can draw the cohorts again, where that matters."""
    if not any(rests_on_cohorts(event) for event in found.events):
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


def _mechanism(stretch: Stretch) -> str:
    facts, event = stretch.facts, stretch.event
    if stretch.example is not None:
        return _dp_sgd(stretch.example)
    if facts is None:
        return "nothing that adds noise."
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
    what = "sum" if stretch.num_sums else "round"
    text = f"{name}, noise multiplier {added:.4g} over the sensitivity to one client added, all releases of a {what} "
    text += "together"
    if stretch.num_sums:
        count = stretch.num_sums * stretch.num_rounds
        text += f"; {count} sums of the same clients, each with noise of its own" if count > 1 else ""
    elif "squared_sensitivity" in facts.mechanism.options:
        text += f"; correlated over the rounds: all are one release of noise multiplier {event.noise_multiplier:.4g}"
    elif event.noise_multiplier != added:
        text += f"; {event.noise_multiplier:.4g} where the sum can change by two clips"
    return text + "."


def _dp_sgd(own: ExampleMechanism) -> str:
    limit = "" if own.batch_size is None else f", at most {own.batch_size:g} of them on average"
    return (
        f"DP-SGD inside of a client: {own.steps} steps a round, each example drawn with chance {own.rate:.4g}{limit}, "
        f"noise multiplier {facts_of.number(own.noise_multiplier, 'the noise'):.4g} over the clip norm of one gradient."
    )


def _sampling(stretch: Stretch, found: Guarantee, num_clients: int) -> str:
    event, facts, accounting = stretch.event, stretch.facts, stretch.sampler.accounting
    text = f"{stretch.sampler.name} of {num_clients} clients. "
    extrapolated = facts is not None and facts.mechanism.extrapolated
    if facts is not None and extrapolated:
        text = f"{facts.mechanism.options['noise_cohort_size']:g} clients in a round of {facts.num_clients}, imagined. "
    if event.amplification == "poisson":
        text += f"Amplification by Poisson sampling at rate {event.rate:.4g} is counted."
        if event.overflow > 0:
            spent = event.overflow * event.compositions * (1 + math.exp(min(found.epsilon, 700.0)))
            text += (
                f" Cutting cohorts to {stretch.sampler.capacity} slots costs {spent:.2g} of delta, which is included."
            )
    elif event.amplification == "without_replacement":
        text += (
            f"Amplification by sampling {event.cohort[0]} of {event.cohort[1]} without replacement is counted in the "
            "Rényi figure; the other figure does without it."
        )
    elif stretch.example is not None:
        text += (
            f"A client counts in {event.participations} of {stretch.num_rounds} rounds, the most that it may be in: "
            "that clients are sampled is not made use of, since the server sees who is there."
        )
        return text + " Amplification by Poisson batches of examples is counted." * (event.amplification == "batches")
    elif stretch.num_sums:
        text += "No theorem of amplification by sampling is used: a client counts in every sum."
    else:
        text += (
            f"No theorem of amplification by sampling is used: a client counts in {event.participations} of "
            f"{stretch.num_rounds} rounds, the most that it may be in."
        )
    if extrapolated or event.rdp is not None:  # the sampler's note is of other cohorts, or of other neighbors
        return text
    return f"{text} {accounting.note}".strip()


def _randomness(secret: bool | None, *, in_floats: bool, calls_only: bool) -> str:
    kept = "Checkpoints hold the noise key and must be kept secret."
    text = {
        None: f"From the operating system's entropy, unless `init` was given a noise_key: pass state= to know. {kept}",
        True: f"From the operating system's entropy. {kept}",
        False: "Reproducible, not private: the noise key was given, and whoever knows it can subtract the noise.",
    }[secret]
    if calls_only:
        text = "From the operating system's entropy in every call, unless it was given a noise_key."
    if in_floats:
        text += (
            " Drawn in float32: close to the distribution that is accounted for, and not hardened against attacks on "
            "floating point (Mironov 2012) as discrete noise is."
        )
    return text


def _released(rounds: Any, state: Any, found: Subjects, calls_only: bool) -> str:
    if found.unit == "example":
        return "Every update that a client sends, and so every model: all of it follows, at no further cost."
    if calls_only:
        return (
            "The results, and what is computed from them: all of it follows from the noised sums, at no further cost."
        )
    text = "The model after every round, and the scalars that the algorithm sends beside the update"
    metrics = [] if state is None else sorted(rounds.aggregator.metrics(state.aggregator_state))
    if metrics:
        text += f", and the aggregator's metrics ({', '.join(metrics)})"
    if any(account.num_sums for account in found.accounts):
        text += ", and the results of the computations"
    return f"{text}: all of it follows from the noised sums, at no further cost."


def _warnings(made: Sequence[Stretch], found: Guarantee, secret: bool | None, of: Subjects) -> Iterator[str]:
    examples = found.unit == "example"
    count = of.num_clients if not examples else 0 if of.sizes is None else int(of.sizes.sum())
    if count and found.delta >= 1 / count:
        what, lost = ("examples", "one example") if examples else ("clients", "one client's data")
        yield (
            f"delta {found.delta:.3g} is at least one over the number of {what} ({1 / count:.3g}): publishing {lost} "
            "outright would pass."
        )
    for facts in (stretch.facts for stretch in made):
        if facts is not None and facts.mechanism.extrapolated:
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
    if not text:
        return []
    head = f"  {name:<13}"
    return textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
