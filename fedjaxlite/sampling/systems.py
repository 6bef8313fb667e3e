"""What happens to a cohort after it is drawn: dropouts, stragglers and deadlines, around any sampler.

Every draw depends on the key, the round and the client's id alone, so it does not matter which slot a client is in, nor
who else was drawn, but where a number is fixed: of reports (`with_deadline`) or of stragglers (`exact`).
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.sampling import draws
from fedjaxlite.sampling.types import Accounting, Cohort, Sampler, around

Latency = Callable[[Any, Any, Cohort, Any], Any]
"""`latency(key, round_number, cohort, population) -> float32 [C]`: seconds from selection to report, slot by slot."""
_STEP = 2.0**-16
"""Of the shares of work that stragglers do."""


def with_dropout(sampler: Sampler, rate: float) -> Sampler:
    """Selected clients that never report, each independently with probability `rate`.

    They have downloaded the model (and hold masks of secure aggregation), and are not in the aggregate.

    Args:
      sampler: any Sampler.
      rate: in [0, 1); may be traced.

    Returns:
      A Sampler. Its accounting is that of `sampler`: who drops out does not depend on the data.

    Raises:
      TypeError, ValueError: a rate outside [0, 1).

    Example:
      >>> import jax
      >>> from fedjaxlite import sampling
      >>> drawn = with_dropout(sampling.full(1000), 0.25).sample(jax.random.key(0), 0, None)
      >>> bool(drawn.selected.all()), 700 < int(drawn.reported.sum()) < 800
      (True, True)
    """
    _check_sampler(sampler)
    rate = checks.fraction("It is the chance that a selected client does not report.", rate=rate)
    layer = sampler.name.count("+dropout")

    def change(cohort: Cohort, key: Any, round_number: Any, population: Any) -> Cohort:
        del population
        (uniforms,) = draws.client_uniforms(
            draws.round_key(key, round_number, draws.DROPOUT, layer), cohort.ids, draws=1
        )
        return cohort._replace(reported=cohort.reported & (uniforms >= rate))

    return around(sampler, change)._replace(
        name=f"{sampler.name}+dropout",
        accounting=sampler.accounting.noting("Dropouts are drawn after sampling, independently of the data."),
    )


def with_stragglers(sampler: Sampler, fraction: float, min_work: float, *, exact: bool = False) -> Sampler:
    """Clients that get only part of their local steps done.

    Each client is slow with probability `fraction`, anew every round; a slow one does a share of its work that is
    uniform on (min_work, 1], in steps of 2^-16. The share multiplies what `sampler` gave.

    Args:
      sampler: any Sampler.
      fraction: in [0, 1]; may be traced.
      min_work: in [0, 1); may be traced.
      exact: every round has the same share of slow clients, as in the experiments of the source: of m selected ones
        `fraction * m`, rounded to a whole number, any of them equally likely, each with less than all of its work.

    Returns:
      A Sampler with the accounting of `sampler`; with `exact` it claims no amplification, and neighbors are two runs
      with the same cohorts: who is slow then depends on who else was drawn.

    Raises:
      TypeError, ValueError: arguments out of range.

    Source: the systems heterogeneity of Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith (2020), "Federated Optimization
    in Heterogeneous Networks", https://arxiv.org/abs/1812.06127.

    Example:
      >>> import jax
      >>> from fedjaxlite import sampling
      >>> drawn = with_stragglers(sampling.full(1000), 0.9, 0.2).sample(jax.random.key(0), 0, None)
      >>> 850 < int((drawn.work < 1).sum()) < 950, bool((drawn.work > 0.2).all())
      (True, True)
      >>> drawn = with_stragglers(sampling.full(10), 0.9, 0.2, exact=True).sample(jax.random.key(0), 0, None)
      >>> int((drawn.work < 1).sum())
      9
    """
    _check_sampler(sampler)
    fraction = checks.nonnegative("It is the chance that a client is slow.", fraction=fraction)
    if not checks.is_traced(fraction) and fraction > 1:
        raise ValueError(f"`fraction` is {fraction!r}; expected a number in [0, 1].")
    min_work = checks.fraction("It is the smallest share of its work that a slow client does.", min_work=min_work)
    exact = checks.flag(exact=exact)
    layer = sampler.name.count("+stragglers")

    def change(cohort: Cohort, key: Any, round_number: Any, population: Any) -> Cohort:
        del population
        own = draws.round_key(key, round_number, draws.STRAGGLERS, layer)
        uniforms, shares = draws.client_uniforms(own, cohort.ids, draws=2)
        share = _share(shares, min_work)
        if exact:
            most = jnp.sum(cohort.selected, dtype=jnp.float32)
            count = jnp.round(jnp.asarray(fraction, jnp.float32) * most).astype(jnp.int32)
            slow = cohort.selected & (rank(jnp.where(cohort.selected, uniforms, jnp.inf), cohort.ids) < count)
            share = jnp.minimum(share, jnp.float32(1 - _STEP))
        else:
            slow = cohort.selected & (uniforms < fraction)
        return cohort._replace(work=jnp.where(slow, cohort.work * share, cohort.work))

    accounting = _with_slow_clients(sampler.accounting, exact)
    return around(sampler, change)._replace(name=f"{sampler.name}+stragglers", accounting=accounting)


def _with_slow_clients(accounting: Accounting, exact: bool) -> Accounting:
    if not exact:
        return accounting.noting("Stragglers are drawn after sampling, independently of the data.")
    # With a client more or less, others would be slow: of "full", too, only cohorts that stay the same are compared.
    kind = "availability" if accounting.kind == "full" else accounting.kind
    remark = "A fixed share of each cohort is slow, so a client's work depends on who else was drawn."
    return accounting.noting(remark, kind=kind, amplification=False)


def with_deadline(
    sampler: Sampler, *, reports: int | None = None, deadline: float = math.inf, latency: Latency | None = None
) -> Sampler:
    """Closes the round after the first `reports` reports, or at the deadline, whichever comes first.

    Over-selection is a sampler of a larger cohort with `reports` set to the size that is wanted. Clients that have
    dropped out before are not waited for.

    Args:
      sampler: any Sampler.
      reports: how many reports are enough, at most the capacity; None takes all that are in time.
      deadline: seconds after selection; may be traced.
      latency: seconds of each client, such as `lognormal_latency()`: a function of type `Latency`. None makes every
        order of arrival equally likely, and allows no finite deadline.

    Returns:
      A Sampler that claims no amplification: who is late depends on the others, and on how much data a client has.

    Raises:
      TypeError, ValueError: arguments out of range, a deadline without a latency.

    Source: over-selection and the reporting window of Bonawitz et al. (2019), "Towards Federated Learning at Scale:
    System Design", https://arxiv.org/abs/1902.01046.

    Example:
      >>> import jax
      >>> from fedjaxlite import sampling
      >>> drawn = with_deadline(sampling.full(13), reports=10).sample(jax.random.key(0), 0, None)
      >>> int(drawn.selected.sum()), int(drawn.reported.sum())
      (13, 10)
    """
    _check_sampler(sampler)
    if not _infinite(deadline):
        deadline = checks.positive(deadline=deadline)
    if reports is not None:
        reports = int(checks.positive_int(reports=reports))
        if reports > sampler.capacity:
            raise ValueError(f"`reports` is {reports}; expected at most the sampler's capacity, {sampler.capacity}.")
    if latency is None and not _infinite(deadline):
        raise ValueError(f"`deadline` is {deadline} without a `latency`; pass latency=fl.sampling.lognormal_latency().")
    if latency is not None:
        check_latency(latency)
    layer = sampler.name.count("+deadline")

    def change(cohort: Cohort, key: Any, round_number: Any, population: Any) -> Cohort:
        if latency is None:
            own = draws.round_key(key, round_number, draws.DEADLINE, layer)
            (seconds,) = draws.client_uniforms(own, cohort.ids, draws=1)
        else:
            seconds = latency(key, round_number, cohort, population)
            if getattr(seconds, "shape", None) != cohort.ids.shape:
                given, expected = checks.shown(seconds), f"float32 {list(cohort.ids.shape)}, the seconds of each slot"
                raise TypeError(f"`latency` returned {given}; expected {expected}.")
        seconds = jnp.where(cohort.reported, seconds, jnp.inf)
        first = rank(seconds, cohort.ids) < (sampler.capacity if reports is None else reports)
        in_time = (seconds <= deadline) & first
        late = cohort.reported & ~in_time
        late = late if cohort.late is None else cohort.late | late
        return cohort._replace(reported=cohort.reported & in_time, late=late)

    accounting = sampler.accounting.noting(
        "Late clients are cut by order of arrival, so a client's report may depend on others.", amplification=False
    )
    if reports is not None:
        accounting = accounting._replace(cohort_size=reports)
    return around(sampler, change)._replace(name=f"{sampler.name}+deadline", accounting=accounting)


def lognormal_latency(
    *,
    seconds_per_example: float = 0.05,
    overhead: float = 5.0,
    device_spread: float = 0.6,
    round_spread: float = 0.3,
) -> Latency:
    """A latency in which some devices are always slower than others, and every device has its days.

    A client with n examples that does the share w of its work reports after
    `(overhead + seconds_per_example * n * w) * exp(device_spread * z_i + round_spread * z_ir)` seconds, with z_i
    standard normal for each client and z_ir for each client and round.

    Args:
      seconds_per_example: of local training on the median device.
      overhead: seconds for download and upload on the median device.
      device_spread: standard deviation of the log speed over devices.
      round_spread: standard deviation of the log speed of one device over rounds.

    Returns:
      A function for `with_deadline` and `available`.

    Raises:
      TypeError, ValueError: negative arguments.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjaxlite import sampling
      >>> from fedjaxlite.data.population import Population
      >>> population = Population({}, jnp.arange(101) * 20, max_size=20)
      >>> sampler = with_deadline(sampling.full(100), deadline=6.0, latency=lognormal_latency())
      >>> 30 < int(sampler.sample(jax.random.key(0), 0, population).reported.sum()) < 70
      True
    """
    seconds_per_example, overhead = checks.nonnegative(seconds_per_example=seconds_per_example, overhead=overhead)
    device_spread, round_spread = checks.nonnegative(device_spread=device_spread, round_spread=round_spread)

    def latency(key: Any, round_number: Any, cohort: Cohort, population: Any) -> Any:
        examples = jnp.asarray(population.num_examples)[cohort.ids].astype(jnp.float32)
        device = draws.client_normals(draws.round_key(key, 0, draws.DEVICE), cohort.ids)
        today = draws.client_normals(draws.round_key(key, round_number, draws.LATENCY), cohort.ids)
        median = overhead + seconds_per_example * examples * cohort.work
        return median * jnp.exp(device_spread * device + round_spread * today)

    return latency


def _share(uniforms: Any, min_work: Any) -> Any:
    """float32 `[C]`, uniform on the multiples of 2^-16 in (min_work, 1].

    They are exact, so that no compiler's rounding can make another number of local steps of them.
    """
    below = jnp.floor(jnp.asarray(min_work, jnp.float32) * 65536.0)
    above = jnp.minimum(jnp.floor(uniforms * (65536.0 - below)) + 1.0, 65536.0 - below)
    return (below + above) * jnp.float32(_STEP)


def rank(values: Any, ids: Any) -> Any:
    """int32 `[C]`, each slot's place from 0 in the order of the values, and of the ids where they are equal."""
    order = jnp.lexsort((ids, values))
    return jnp.zeros_like(ids).at[order].set(jnp.arange(len(ids), dtype=jnp.int32))


def check_latency(latency: Any) -> None:
    """Refuses what cannot be called as a latency is."""
    checks.is_function_of("key", "round_number", "cohort", "population", latency=latency)


def _check_sampler(sampler: Any) -> None:
    checks.one_instance(Sampler, "a Sampler, such as fl.sampling.uniform(10)", sampler=sampler)


def _infinite(deadline: Any) -> bool:
    return isinstance(deadline, (float, np.floating)) and deadline == math.inf
