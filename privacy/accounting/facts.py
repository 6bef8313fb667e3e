"""What an accountant may know of a run: read off the composed program, never asked of its user."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.privacy.mechanisms import Mechanism

_PROBE_ORDERS = np.array([2.0, 8.0])
_SIZES = (3, 5)


class Facts(NamedTuple):
    """The facts of a run that its guarantee follows from.

    Attributes:
      mechanism: the chain's one mechanism.
      sensitivity: how much one client changes the sum of the values when added or removed: in L2, or in the norm that
        the mechanism's noise is for. Infinite where nothing bounds it.
      wire: the facts at the end of the chain.
      sampler: the run's Sampler.
      num_clients: int, N.
    """

    mechanism: Mechanism
    sensitivity: float
    wire: fl.Wire
    sampler: fl.Sampler
    num_clients: int


def read(run: fl.Rounds | fl.Computation, population: Any, params: Any = None) -> Facts | None:
    """The facts of a composed run, or of a computation of federated sums.

    Args:
      run: from `fl.rounds`, or a Computation.
      population: a Population, or the number of its clients.
      params: the model's parameters, or their shapes (of a computation: what its clients share). Needed, with a
        Population, where the noise or a bound depends on the shapes of a message (quantization widens a bound by the
        root of the number of entries).

    Returns:
      Facts; None for a chain without a mechanism of privacy.

    Raises:
      TypeError, ValueError: arguments that are not what they should be; facts that depend on the model, without
        `params`; a population that the sampler cannot serve.
    """
    num_clients, sampler = count_clients(population), sampler_of(run, population)
    if params is not None:
        if not isinstance(population, fl.Population):
            raise TypeError(
                f"`params` was given beside the number {population!r}; expected a Population with it, since the shapes "
                "of a client's message follow from both. Pass the training data."
            )
        return of_wire(run.wire(params, population), sampler, num_clients)
    first, second = (_stand_in(run, sampler, size) for size in _SIZES)
    facts = of_wire(first, sampler, num_clients)
    if facts is None:
        return None
    other = of_wire(second, sampler, num_clients)
    if other is None or not _same(facts, other):
        raise ValueError(
            f"the noise or the bounds of {run.aggregator.name} depend on the number of parameters, so its epsilon "
            "does too. Pass params= (the model's parameters) and the Population."
        )
    return facts


def sampler_of(run: fl.Rounds | fl.Computation, population: Any) -> fl.Sampler:
    """Who draws the cohorts. Of a computation's nothing is known: everyone may be in them, whatever the data are."""
    if isinstance(run, fl.Rounds):
        return run.sampler
    note = "Cohorts are the caller's; they must not depend on the clients' data."
    accounting = fl.sampling.Accounting("replay", note=note)
    return fl.Sampler(_drawn_by_the_caller, count_clients(population), accounting, "a cohort of the caller's")


def _drawn_by_the_caller(key: Any, round_number: Any, population: Any) -> fl.Cohort:
    raise NotImplementedError("the caller of a federated sum gives the cohort")


def of_wire(wire: fl.Wire, sampler: fl.Sampler, num_clients: int) -> Facts | None:
    """The facts of a run whose wire is known; None for a chain without a mechanism of privacy.

    Args:
      wire: the facts at the end of the chain, such as `fl.observers.Start.wire`.
      sampler: the run's.
      num_clients: N.

    Raises:
      ValueError: for a chain with two mechanisms, or without the bound that its mechanism needs.
    """
    found: list[Mechanism] = list(wire.mechanisms)
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(
            f"the aggregator holds {len(found)} mechanisms ({', '.join(m.kind for m in found)}); an epsilon is "
            "computed for one. Keep one of them."
        )
    mechanism = found[0]
    if not mechanism.extrapolated:  # else the sampler is not the imagined one
        sampler.check(num_clients)
    bound = None if is_self_contained(mechanism) else getattr(wire.bounds, mechanism.options.get("norm", "l2"))
    stds = [release.std for release in mechanism.releases if release.sensitivity is None]
    if bound is None and not is_self_contained(mechanism) and any(fl.checks.is_traced(s) or s > 0 for s in stds):
        raise ValueError(
            f"nothing at the end of the chain bounds what one client of the {mechanism.kind} mechanism can send, so "
            "there is no sensitivity. Take out the codec behind it that drops the bound."
        )
    sensitivity = math.inf if bound is None else number(bound, "the bound on a client's update")
    return Facts(mechanism, sensitivity, wire, sampler, num_clients)


def is_self_contained(mechanism: Mechanism) -> bool:
    """Whether a mechanism's options alone say what it costs, without the wire's bounds."""
    return "rdp" in mechanism.options or "epsilon" in mechanism.options


def noise_multiplier(facts: Facts) -> float:
    """The noise of all that is released in a round, over its sensitivity to one client added or removed.

    Several quantities with noise of their own are one release of a longer vector, in the units of the noise: in L2 its
    sensitivity is the root of the sum of the squares of theirs, in L1 (Laplace noise) their sum.

    Args:
      facts: of a mechanism whose releases say what its noise is.

    Returns:
      1 / sqrt(sum((sensitivity / std)^2)), or 1 / sum(sensitivity / scale); 0 where one of them has no noise, or no
      bound. Where the noise was scaled down from a larger cohort's (`Mechanism.extrapolated`), it is the larger one's.

    Source: Andrew, Thakkar, McMahan, Ramaswamy (2021), "Differentially Private Learning with Adaptive Clipping",
    https://arxiv.org/abs/1905.03871, theorem 1.
    """
    in_l1 = facts.mechanism.options.get("norm") == "l1"
    ratios = []
    for release in facts.mechanism.releases:
        std = number(release.std, "the standard deviation of the noise")
        bound = facts.sensitivity if release.sensitivity is None else number(release.sensitivity, "a sensitivity")
        if math.isinf(bound) or (std == 0 and bound > 0):
            return 0.0
        width = std / math.sqrt(2) if in_l1 else std  # a Laplace variable of scale 1 has standard deviation sqrt(2)
        ratios.append(0.0 if bound == 0 else bound / width)
    whole = sum(ratios) if in_l1 else math.hypot(*ratios)
    if whole == 0:
        return math.inf
    return 1 / whole / number(facts.mechanism.options.get("noise_scale", 1.0), "`noise_cohort_size`")


def number(value: Any, what: str) -> float:
    """A concrete float; an epsilon is no function that can be traced."""
    if fl.checks.is_traced(value):
        raise TypeError(
            f"{what} is traced, and an epsilon is computed from concrete numbers. Compute it outside of jit and vmap, "
            "for one run at a time."
        )
    return float(value)


def count_clients(population: Any) -> int:
    """N, of a Population or of a number; refuses anything else."""
    if isinstance(population, fl.Population):
        return population.num_clients
    if isinstance(population, bool) or not isinstance(population, (int, np.integer)):
        raise TypeError(
            f"`population` is {population!r}; expected a Population, or the number of its clients as an int."
        )
    return fl.checks.positive_int(population=population)


def _stand_in(run: fl.Rounds | fl.Computation, sampler: fl.Sampler, size: int) -> fl.Wire:
    """The end of the chain for a made-up update of `size` numbers."""
    rounds = isinstance(run, fl.Rounds)
    scalar_bounds = dict(run.algorithm.scalar_bounds) if rounds else {}
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    wire = fl.Wire(
        value=jax.ShapeDtypeStruct((size,), jnp.float32),
        weight=jax.ShapeDtypeStruct((), jnp.int32),
        scalars=dict.fromkeys(scalar_bounds, scalar),
        scalar_bounds=scalar_bounds,
        capacity=sampler.capacity,
        scaled=sampler.scaled,
        participation=sampler.accounting if rounds else None,
    )
    try:
        return run.aggregator.init(wire)[1]
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{run.aggregator.name} cannot be built without the model: {error} If this is about the update's "
            "structure, pass params= (the model's parameters) and the Population."
        ) from error


def same_guarantee(one: Facts | None, other: Facts) -> bool:
    """Whether two compositions have the same guarantee, as far as their facts tell."""
    if one is None:
        return False
    sampled = [(f.mechanism.kind, f.sampler.name, f.sampler.capacity, f.sampler.accounting) for f in (one, other)]
    return sampled[0] == sampled[1] and _same(one, other)


def _same(one: Facts, other: Facts) -> bool:
    """Whether two sets of facts, such as of stand-ins of different sizes, have the same numbers."""
    numbers = _numbers(one), _numbers(other)
    return len(numbers[0]) == len(numbers[1]) and bool(np.allclose(*numbers, rtol=1e-6, atol=0.0))


def _numbers(facts: Facts) -> list[float]:
    found = [facts.sensitivity]
    for release in facts.mechanism.releases:
        found += [number(x, "a fact of the noise") for x in (release.std, release.sensitivity) if x is not None]
    for name, value in sorted(facts.mechanism.options.items()):
        if name == "rdp":
            found += np.asarray(value(_PROBE_ORDERS), np.float64).tolist()
        elif name == "squared_sensitivity":
            found.append(float(value(1, 1, 1)))
        elif isinstance(value, (int, float)):
            found.append(float(value))
    return found
