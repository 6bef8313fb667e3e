"""The sum behind federated analytics: the mean over examples, or clients, of a statistic of every row that is known.

A value that is missing would make its client's whole message NaN, which no sum can take: the client would be gone, its
known values with it. So what is missing is left out value by value, counted, and told of.
"""

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl

Per = Literal["examples", "clients"]
Missing = Literal["warn", "skip", "refuse"]
Statistic = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, jax.Array]]
"""`(rows [B, ...], mask [B], shared) -> (values [B, ...], known)`: `known` is bool, `[B]` or of the values' shape."""

_BATCH = 256
_NAMES = 5


class Options(NamedTuple):
    """What all functions of analytics have in common, under the names of their arguments."""

    feature: str
    per: Per
    missing: Missing
    aggregator: fl.Aggregator | None
    execution: fl.Execution


class Ratio(NamedTuple):
    """A sum of a statistic and a count, made into a mean.

    Attributes:
      call: `call(shared, population, cohort, key, noise_key, number=0) -> [...]`, the mean, NaN where nothing is
        counted. What is missing is told of where `number` is 0, the first of several calls over one cohort.
      sums: the federated sum behind it.
      shared: what stands for `shared` where only shapes matter.
    """

    call: Callable[..., jax.Array]
    sums: fl.Computation
    shared: Any

    def computation(self, name: str, run: Callable[..., Any], num_sums: int = 1) -> fl.Computation:
        """A function of the caller's that goes through these sums, and states so."""
        wire = lambda shared, population: self.sums.wire(self.shared, population)  # noqa: E731
        return fl.Computation(run, wire, self.sums.aggregator, num_sums, name)


def ratio(statistic: Statistic, options: Options, *, shared: Any = (), absent: str = "NaN") -> Ratio:
    """The mean over examples (or clients) of a statistic of every row.

    Args:
      statistic: what is averaged, and of which rows or values it is known.
      options: the arguments of the function.
      shared: as in `Ratio`.
      absent: what is said to be wrong with values that are not known.
    """
    feature, per = options.feature, options.per
    per = fl.checks.one_of(("examples", "clients"), per=per)
    feature = fl.checks.text("It names a feature.", feature=feature)
    fl.checks.one_of(("warn", "skip", "refuse"), missing=options.missing)

    def client_fn(shared: Any, data: fl.ClientData) -> fl.ClientOutput:
        if feature not in data.features:
            raise ValueError(f"the data have no feature {feature!r}, only {sorted(data.features)}; give `feature`.")
        plan = data.batches(batch_size=min(_BATCH, data.wave.max_size), epochs=1, shuffle=False)

        def measure(batch: Any, mask: jax.Array) -> dict[str, jax.Array]:
            values, known = statistic(batch[feature], mask, shared)
            known = known & _beside(mask, known)
            total = jnp.where(_beside(known, values), values, 0.0).sum(0)
            absent = jnp.sum(~known & _beside(mask, known), dtype=jnp.int32)
            return {"total": total, "count": known.astype(jnp.float32).sum(0), "missing": absent}

        def add(sums: Any, batch: Any, mask: jax.Array, key: Any) -> Any:
            del key
            return jax.tree.map(jnp.add, sums, measure(batch, mask))

        shapes = jax.eval_shape(lambda: measure(*plan.batch(jnp.int32(0))))
        sums = plan.scan(add, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
        info = {"missing": sums.pop("missing"), "known": sums["count"].sum()}
        if per == "clients":
            total, count = sums["total"], sums["count"]
            sums = {"total": total / _beside(jnp.maximum(count, 1.0), total), "count": jnp.minimum(count, 1.0)}
        return fl.ClientOutput(sums, jnp.int32(1), info=info)

    aggregator = fl.mean() if options.aggregator is None else options.aggregator
    sums = fl.federated_sum(client_fn, aggregator=aggregator, execution=options.execution)

    def call(
        shared: Any, population: fl.Population, cohort: fl.Cohort, key: jax.Array, noise_key: Any, number: int = 0
    ) -> jax.Array:
        aggregate, info = sums(
            shared, population, cohort, key=jax.random.fold_in(key, number), noise_key=_of_call(noise_key, number)
        )
        total, count = aggregate.value["total"], aggregate.value["count"]
        # Noise can take the count of few to zero or below: then nothing is known either.
        mean = total / _beside(jnp.where(count > 0, count, jnp.nan), total)
        if fl.checks.is_traced(info):
            gone = jnp.any(info.clients["missing"] > 0) | (info.num_nonfinite > 0)
            return jnp.where(gone, jnp.nan, mean) if options.missing == "refuse" else mean
        if number == 0:
            _tell(info, population, options, absent)
        return mean

    return Ratio(call, sums, shared)


def _of_call(noise_key: Any, number: int) -> Any:
    """A noise key of one's own for each of several sums; None stays None, which is a new one in every sum."""
    if isinstance(noise_key, fl.NoiseKeys):
        return fl.NoiseKeys(jax.random.fold_in(noise_key.key, number))
    return None if noise_key is None else jax.random.fold_in(noise_key, number)


def _beside(few: jax.Array, many: jax.Array) -> jax.Array:
    """`few` with axes of 1 behind its own, so that it goes beside `many`."""
    return few.reshape(*few.shape, *(1 for _ in range(many.ndim - few.ndim)))


def _tell(info: fl.PassInfo, population: fl.Population, options: Options, absent: str) -> None:
    """Says which values and which clients are not in a result: past the noise, so in a simulation only."""
    rows = {name: np.asarray(values) for name, values in info.clients.items()}
    there, feature = rows["id"] >= 0, options.feature
    said, lost = [], there & (rows["missing"] > 0)
    if lost.any():
        count, names = int(rows["missing"][lost].sum()), _names(rows["id"][lost], population)
        where = f"at {int(lost.sum())} of {there.sum()} clients ({names})"
        said.append(f"values of {feature!r} are missing ({absent}): {count}, {where}")
    gone = int(info.num_nonfinite)
    if gone:
        # A client in the cohort that is not in the sum did not report, or reported what no sum can take.
        names = _names(rows["id"][there & ~rows["in_sum"] & (rows["known"] > 0)], population)
        said.append(f"the sums of {gone} clients over {feature!r} are not finite, so they are left out whole ({names})")
    if said and options.missing == "refuse":
        raise ValueError(
            f"{' and '.join(said)}. Pass missing='skip' to leave out what is missing, or fill it in before."
        )
    if said and (gone or options.missing == "warn"):
        end = "" if gone else "; they are left out. Pass missing='skip' where that is meant, or missing='refuse'"
        warnings.warn(f"{' and '.join(said)}{end}.", UserWarning, stacklevel=5)
    if not (rows["known"] * rows["in_sum"]).any():
        warnings.warn(
            f"none of {there.sum()} clients gave a value of {feature!r}, so there is no result: it is NaN, or empty.",
            UserWarning,
            stacklevel=5,
        )


def _names(ids: np.ndarray, population: fl.Population) -> str:
    known = ids if population.names is None else np.asarray(population.names)[ids]
    more = "" if len(ids) <= _NAMES else f" and {len(ids) - _NAMES} more"
    return ", ".join(str(name) for name in known[:_NAMES].tolist()) + more
