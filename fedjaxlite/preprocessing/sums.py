"""Sums over clients of statistics of columns, through any aggregator: what every step learns from.

A client sends one vector: for each of its C columns some sums over its examples, and how many there are.

    per="examples"   the sums and the counts themselves: every example counts alike
    per="clients"    the sums divided by the counts, and 1 (0 where nothing is known): every client counts alike

Where an aggregator clips or adds noise, statistics are of values within bounds, and every client counts alike: then the
length of the vector is known, and it is scaled to what the aggregator lets pass. Nothing is cut, whatever the clip norm
is, and the noise is as small beside the sums as that mechanism can make it.
"""

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.preprocessing import columns as columns_of
from fedjaxlite.preprocessing.columns import Per

Measure = Callable[[jax.Array, jax.Array, Any], dict[str, jax.Array]]
"""`(rows [B, C], mask [B], shared) -> {"total": [..., C], "count": [C], "strange": []}` of a batch."""

_NAMES = 5
_COHORTS = (16, 256, 4096, 65536)
_MARGIN = 0.999
"""Of a bound: rounding in float32 must not make a vector longer than it."""


class Limits(NamedTuple):
    """What one client may send through an aggregator: norms, infinite without a limit; and whether noise is added."""

    l2: float
    l1: float
    linf: float
    noised: bool

    @property
    def limited(self) -> bool:
        """Whether what a client sends has to be bounded."""
        return self.noised or min(self.l2, self.l1, self.linf) < math.inf

    def factor(self, terms: int) -> float:
        """What a vector of `terms` entries, each at most 1, is multiplied by to pass whole; 1 without a limit."""
        least = min(self.l2 / math.sqrt(terms), self.l1 / terms, self.linf)
        return least * _MARGIN if least < math.inf else 1.0


class Sums(NamedTuple):
    """What the server learns, in float64.

    Attributes:
      total: `[..., C]`.
      counts: `[C]`.
    """

    total: np.ndarray
    counts: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """`[..., C]`, NaN where nothing counts; noise can take the count of few to zero or below."""
        return self.total / np.where(self.counts > 0, self.counts, np.nan)


class ColumnSum(NamedTuple):
    """A statistic of columns, summed over clients.

    Attributes:
      call: `call(shared, population, cohort, key, noise_key, number=0) -> Sums`; `number` is that of several calls.
      sums: the federated sum behind it.
      limits: of its aggregator.
    """

    call: Callable[..., Sums]
    sums: fl.Computation
    limits: Limits

    def computation(self, name: str, run: Callable[..., Any], num_sums: int) -> fl.Computation:
        """A function that goes through this sum so many times, and states so."""
        return fl.Computation(run, self.sums.wire, self.sums.aggregator, num_sums, name)


class About(NamedTuple):
    """What a step is about: its name for messages, its feature, the columns, what counts alike, and bounds if any."""

    step: str
    feature: str
    columns: tuple[int, ...] | None
    per: Per
    bounded: bool


def column_sum(
    measure: Measure,
    about: About,
    *,
    terms: int,
    aggregator: fl.Aggregator | None,
    execution: fl.Execution,
    batch_size: int = 256,
) -> ColumnSum:
    """A statistic of columns, summed over clients.

    Args:
      measure: the sums of a batch.
      about: the step.
      terms: how long the part of a column is, as a sum of squares of entries of at most 1, count included.
      aggregator: `fl.mean()` if None.
      execution: lanes and devices.
      batch_size: rows at a time.

    Raises:
      ValueError: for an aggregator that clips or noises, where what a client sends has no bound.
    """
    aggregator = fl.mean() if aggregator is None else aggregator
    fl.checks.one_instance(fl.Aggregator, "an Aggregator, such as fl.mean()", aggregator=aggregator)
    limits = limits_of(aggregator)
    check_bounded(about, limits, aggregator)

    def client_fn(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
        check_feature(about.step, about.feature, data.features)
        row_shape = data.features[about.feature].shape[1:]
        chosen = jnp.asarray(columns_of.indices(about.step, about.columns, row_shape))
        plan = data.batches(batch_size=min(batch_size, data.wave.max_size), epochs=1, shuffle=False)

        def part(batch: Any, mask: jax.Array) -> dict[str, jax.Array]:
            return measure(columns_of.flat(batch[about.feature])[:, chosen], mask, shared)

        def add(sums: Any, batch: Any, mask: jax.Array, key: Any) -> Any:
            del key
            return jax.tree.map(jnp.add, sums, part(batch, mask))

        shapes = jax.eval_shape(lambda: part(*plan.batch(jnp.int32(0))))
        sums = plan.scan(add, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
        total, count = sums["total"], sums["count"]
        if about.per == "clients":
            beside = jnp.maximum(count, 1.0).reshape((1,) * (total.ndim - 1) + count.shape)
            total, count = total / beside, jnp.minimum(count, 1.0)
        factor = jnp.float32(limits.factor(terms * len(chosen)))
        update = {"total": total * factor, "count": count * factor}
        return fl.ClientOutput(update, jnp.int32(1), info={"known": count.sum(), "strange": sums["strange"]})

    sums = fl.federated_sum(client_fn, aggregator=aggregator, execution=execution)

    def call(
        shared: Any, population: fl.Population, cohort: fl.Cohort, key: jax.Array, noise_key: Any, number: int = 0
    ) -> Sums:
        aggregate, info = sums(
            shared, population, cohort, key=jax.random.fold_in(key, number), noise_key=noise_of(noise_key, number)
        )
        if number == 0:
            _tell(info, population, about)
        value = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), aggregate.value)
        scale = float(aggregate.weight) / limits.factor(terms * value["count"].size)
        return Sums(value["total"] * scale, value["count"] * scale)

    return ColumnSum(call, sums, limits)


def noise_of(noise_key: Any, number: int) -> Any:
    """A noise key of one's own for each of several sums; None stays None, which is a new one in every sum."""
    if isinstance(noise_key, fl.NoiseKeys):
        return fl.NoiseKeys(jax.random.fold_in(noise_key.key, number))
    return None if noise_key is None else jax.random.fold_in(noise_key, number)


def check_feature(step: str, feature: str, features: Any) -> None:
    """Refuses a step about a feature that is not there, or not of numbers."""
    if feature not in features:
        raise ValueError(f"{step} is about the feature {feature!r}, but the data have only {sorted(features)}.")
    columns_of.only_numbers(step, features[feature])


def limits_of(aggregator: fl.Aggregator) -> Limits:
    """Of the end of a chain, by a message that stands in for all: a limit is on a norm, whatever the shapes."""
    end = _end_of(aggregator)
    norms = [math.inf if norm is None else float(norm) for norm in (end.bounds.l2, end.bounds.l1, end.bounds.linf)]
    return Limits(*norms, noised=end.noised)


def _end_of(aggregator: fl.Aggregator) -> fl.Wire:
    """The wire behind the codecs, for some size of a cohort that they can work with; the true one is not known yet."""
    public = aggregator.public_count
    sizes = [2, *([] if public is None else [max(1, math.ceil(float(public)))]), *_COHORTS]
    refused = None
    for size in sizes:
        try:
            return aggregator.init(fl.wire_of(jnp.zeros(3), capacity=size))[1]
        except ValueError as error:
            refused = error if refused is None else refused
    raise refused or ValueError(f"{aggregator.name} cannot be built.")


def check_bounded(about: About, limits: Limits, aggregator: fl.Aggregator) -> None:
    """Refuses an aggregator that clips or noises, where what a client sends for a step has no bound."""
    if not limits.limited:
        return
    wanted = []
    if not about.bounded:
        wanted.append("bounds=(low, high), in the units that the data have at this step")
    if about.per != "clients":
        wanted.append("per='clients', so that a client with many examples sends no more than others")
    if wanted:
        does = "adds noise" if limits.noised else "clips"
        raise ValueError(
            f"{aggregator.name} {does}, and what one client sends for {about.step} has no bound. Pass "
            f"{' and '.join(wanted)}."
        )


def _tell(info: fl.PassInfo, population: fl.Population, about: About) -> None:
    """Says what the sums leave out: past the noise, so in a simulation only."""
    rows = {name: np.asarray(values) for name, values in info.clients.items()}
    there = rows["id"] >= 0
    strange = there & (rows["strange"] > 0)
    if strange.any():
        raise ValueError(
            f"{about.step}: {int(rows['strange'][strange].sum())} values of {about.feature!r} are no codes in the "
            f"stated range, at {int(strange.sum())} of {there.sum()} clients "
            f"({_names(rows['id'][strange], population)}). Widen the range, leave the column "
            "out, or make codes of the values first."
        )
    gone = int(info.num_nonfinite)
    if gone:
        names = _names(rows["id"][there & ~rows["in_sum"] & (rows["known"] > 0)], population)
        warnings.warn(
            f"{about.step}: the sums of {gone} clients over {about.feature!r} are not finite, so they are left out "
            f"whole ({names}).",
            UserWarning,
            stacklevel=_frames_to_the_caller(),
        )
    if not (rows["known"] * rows["in_sum"]).any():
        raise ValueError(
            f"{about.step}: none of {there.sum()} clients gave a value of {about.feature!r}, so there is nothing to "
            "learn. Check the cohort (who is selected, and reports) and the feature."
        )


def _frames_to_the_caller() -> int:
    """How far up the first frame is that is not of this library: where a warning is of use."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("fedjaxlite."):
        frame, level = frame.f_back, level + 1
    return level


def nobody(about: About, count: np.ndarray, row_shape: tuple[int, ...]) -> None:
    """Refuses columns that nobody knows a value of, by their numbers."""
    if (count > 0).all():
        return
    chosen = columns_of.indices(about.step, about.columns, row_shape)[count <= 0]
    raise ValueError(
        f"{about.step}: nobody has a value in column {', '.join(map(str, chosen[:_NAMES]))} of {about.feature!r}. "
        "Leave such columns out by columns=, or fill them in by impute(..., by=0.0)."
    )


def _names(ids: np.ndarray, population: fl.Population) -> str:
    known = ids if population.names is None else np.asarray(population.names)[ids]
    more = "" if len(ids) <= _NAMES else f" and {len(ids) - _NAMES} more"
    return ", ".join(str(name) for name in known[:_NAMES].tolist()) + more
