"""A page on what a run guarantees: for whom, against whom, under which assumptions, and what it does not cover."""

import math
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import conversions
from fedjaxlite.privacy.accounting import facts as facts_of
from fedjaxlite.privacy.accounting.epsilon import Guarantee, of_facts, warn_of_delta
from fedjaxlite.privacy.accounting.events import RELATIONS, Event
from fedjaxlite.privacy.accounting.facts import Facts

_WIDTH = 100


class Report(NamedTuple):
    """What a run guarantees, as a page (`print(report)`) and as fields.

    Attributes:
      guarantee: epsilon, delta, both accountants' figures and the event that they are of.
      unit: what is protected.
      relation: what neighbors are, in words.
      mechanism: the noise, in words.
      sampling: how cohorts come about, and whether a theorem of amplification was used.
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
            f"  epsilon      {_figure(found.epsilon)} at delta {found.delta:.3g}",
            *_accountants(found),
        ]
        for name in ("unit", "relation", "mechanism", "sampling", "trust", "noise", "released", "not_released"):
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
      state: a RoundState of the run, which knows where its noise comes from. None leaves that open.

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
    facts = facts_of.read(rounds, population, params)
    warn_of_delta(delta, facts.num_clients)
    found = of_facts(facts, num_rounds, delta)
    secret = None if state is None else bool(state.keys.secret)
    return Report(
        guarantee=found,
        unit="One client: everything it sends in all rounds, so all of its examples together.",
        relation=f"Neighbors ({found.event.relation}): {RELATIONS[found.event.relation]}.",
        mechanism=_mechanism(facts, found.event),
        sampling=_sampling(facts, found),
        trust=facts.mechanism.trust + (" Here a mask hides every message but the sum." if facts.wire.masked else ""),
        noise=_randomness(secret, in_floats=found.event.rdp is None),
        released=_released(rounds, state),
        not_released=(
            "Metrics of local training (the loss in the records), counts of examples and of non-finite reports, and "
            "PassInfo.clients are computed from the clients' data past the noise: simulation only. Evaluations on the "
            "clients' own data likewise. What clients keep (control variates, personal models) stays with them."
        ),
        secret=secret,
        warnings=tuple(_warnings(facts, found, secret)),
    )


def _figure(epsilon: float) -> str:
    return "infinite" if math.isinf(epsilon) else f"{epsilon:.4g}"


def _accountants(found: Guarantee) -> list[str]:
    event = found.event
    by = {
        "local": "optimal composition of local randomizers",
        "laplace": "privacy loss distributions, upper estimate",
    }.get(event.kind, "privacy loss distributions, upper estimate" if event.rate < 1 else "exact curve of a Gaussian")
    by += ", without amplification" if event.amplification == "without_replacement" else ""
    grid = "integer orders 2 to 1024" if event.rdp is not None else "orders 1.1 to 1024, dp-accounting's grid"
    rows = ((found.eps_pld, by), (found.eps_rdp, f"Rényi divergences, {grid}, conversion of Canonne et al. 2020"))
    if math.isinf(found.epsilon):
        return []
    said = [f"{_figure(value)} by {how}" for value, how in rows if math.isfinite(value)]
    return [line for text in said for line in _paragraph("", text)]


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


def _sampling(facts: Facts, found: Guarantee) -> str:
    event, accounting = found.event, facts.sampler.accounting
    text = f"{facts.sampler.name} of {facts.num_clients} clients. "
    if found.extrapolated:
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
            f"{found.num_rounds} rounds, the most that it may be in."
        )
    if found.extrapolated or event.rdp is not None:  # the sampler's note is of other cohorts, or of other neighbors
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


def _paragraph(name: str, text: str) -> list[str]:
    head = f"  {name:<13}"
    return textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
