"""When clients can train at all: traces of availability, simulated or recorded, and cohorts drawn from them."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.sampling import draws
from fedjaxlite.sampling.systems import Latency, check_latency, with_deadline, with_dropout
from fedjaxlite.sampling.types import Accounting, Cohort, Sampler, cohort


class Trace(NamedTuple):
    """When which client can train: conditions that must all hold.

    Attributes:
      conditions: `conditions(round_number, num_clients) -> {name: bool [N]}`, pure; `round_number` may be traced.
      num_clients: N where the trace is of so many clients, else None.
      name: for records and messages.

    Example:
      >>> even = Trace(lambda round_number, n: {"even": jnp.arange(n, dtype=jnp.int32) % 2 == 0})
      >>> even.available(0, 4).tolist()
      [True, False, True, False]
    """

    conditions: Callable[[Any, int], Mapping[str, Any]]
    num_clients: int | None = None
    name: str = "trace"

    def available(self, round_number: Any, num_clients: int) -> Any:
        """Whether every condition of a client holds in this round: bool `[N]`."""
        held = jnp.ones((num_clients,), bool)
        for condition in self.conditions(round_number, num_clients).values():
            held = held & condition
        return held


def recorded(available: Any) -> Trace:
    """A trace that replays measurements, and starts over at its end.

    Args:
      available: concrete bool (or 0 and 1) `[T, N]`, round by client.

    Returns:
      A Trace of N clients with the one condition "recorded".

    Raises:
      TypeError, ValueError: an array that is traced, not `[T, N]`, or holds anything but booleans.

    Example:
      >>> recorded([[True, False], [False, True]]).available(3, 2).tolist()
      [False, True]
    """
    if checks.is_traced(available):
        raise TypeError("`available` is traced; expected a concrete array [T, N]. Build the trace outside of jit.")
    table = checks.as_array("available", available, "booleans [rounds, clients]")
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"`available` has shape {list(table.shape)}; expected [rounds, clients].")
    if table.dtype != bool:
        if table.dtype.kind not in "iuf" or not np.isin(table, (0, 1)).all():
            raise ValueError(f"`available` has dtype {table.dtype} and values other than 0 and 1; expected booleans.")
        table = table.astype(bool)
    rows = jnp.asarray(table)

    def conditions(round_number: Any, num_clients: int) -> dict[str, Any]:
        del num_clients
        return {"recorded": rows[jnp.asarray(round_number, jnp.int32) % rows.shape[0]]}

    return Trace(conditions, num_clients=table.shape[1], name=f"recorded({table.shape[0]} rounds)")


def available(
    cohort_size: int,
    trace: Any,
    *,
    over_selection: float = 1.0,
    dropout: float = 0.0,
    deadline: float = math.inf,
    latency: Latency | None = None,
) -> Sampler:
    """Clients drawn uniformly without replacement among those that are available in the round.

    The server wants `cohort_size` reports. It selects ceil(`cohort_size * over_selection`) clients, or as many as are
    available; some drop out; the round closes when `cohort_size` have reported, or at the deadline.

    Args:
      cohort_size: the number of reports wanted.
      trace: a Trace, such as `diurnal()`, or a bool array `[T, N]` for `recorded`.
      over_selection: at least 1; production systems have used 1.3.
      dropout: chance in [0, 1) that a selected client does not report; see `with_dropout`.
      deadline: seconds; needs a `latency`. See `with_deadline`.
      latency: seconds a client takes, such as `lognormal_latency()`; None for any order of arrival alike.

    Returns:
      A Sampler with capacity ceil(`cohort_size * over_selection`) and accounting "availability". No amplification
      is claimed: who is available is not the server's coin, and may be known to an observer.

    Raises:
      TypeError, ValueError: arguments out of range; by `check`, a cohort larger than the population, or a trace of
        another number of clients.

    Source: Bonawitz et al. (2019), "Towards Federated Learning at Scale: System Design",
    https://arxiv.org/abs/1902.01046.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from fedjaxlite.data.population import Population
      >>> sampler = available(3, [[True, False, True, False, False]])
      >>> drawn = sampler.sample(jax.random.key(0), 0, Population({}, jnp.arange(6), max_size=1))
      >>> sorted(drawn.ids.tolist()), int(drawn.selected.sum())
      ([0, 0, 2], 2)
    """
    cohort_size = checks.positive_int(cohort_size=cohort_size)
    over_selection = checks.positive(over_selection=over_selection)
    dropout = checks.fraction("It is the chance that a selected client does not report.", dropout=dropout)
    checks.concrete("The capacity follows from it.", over_selection=over_selection)
    if latency is not None:
        check_latency(latency)
    if over_selection < 1:
        raise ValueError(f"`over_selection` is {over_selection!r}; expected at least 1, where 1.3 selects 30% more.")
    trace = trace if isinstance(trace, Trace) else recorded(trace)
    capacity = math.ceil(cohort_size * over_selection - 1e-9)
    accounting = Accounting(
        "availability",
        cohort_size=int(cohort_size),
        note=f"Drawn among the available clients of {trace.name}; no amplification is claimed.",
    )
    sampler = Sampler(
        _among_available(capacity, trace),
        capacity,
        accounting,
        f"available({cohort_size}, {trace.name})",
        check=_checker(capacity, trace),
    )
    if checks.is_traced(dropout) or dropout > 0:
        sampler = with_dropout(sampler, dropout)
    if capacity > cohort_size or latency is not None or not _never(deadline):
        sampler = with_deadline(sampler, reports=int(cohort_size), deadline=deadline, latency=latency)
    return sampler


def _among_available(capacity: int, trace: Trace) -> Callable[[Any, Any, Any], Cohort]:
    def sample(key: Any, round_number: Any, population: Any) -> Cohort:
        n = population.num_clients
        counts = draws.running_count(trace.available(round_number, n))
        count = counts[-1]
        slot = jnp.arange(capacity, dtype=jnp.int32)
        drawn = draws.first_distinct(
            draws.round_key(key, round_number, draws.COHORT),
            count,
            jnp.where(count > capacity, capacity, 0),
            slots=capacity,
            size=n,
            batch=2 * capacity + 32,
        )
        rank = jnp.where(count > capacity, drawn, slot)
        return cohort(draws.nth_true(counts, rank), slot < count)

    return sample


def _checker(capacity: int, trace: Trace) -> Callable[[int], None]:
    def check(num_clients: int) -> None:
        if trace.num_clients is not None and trace.num_clients != num_clients:
            raise ValueError(
                f"the trace {trace.name} is of {trace.num_clients} clients, but the population has {num_clients}; "
                "expected one column a client, in the population's order."
            )
        if capacity > num_clients:
            raise ValueError(
                f"available: {capacity} clients are to be selected a round (`cohort_size` times `over_selection`), "
                f"but the population has {num_clients} clients. Use a smaller cohort_size or over_selection."
            )

    return check


def _never(deadline: Any) -> bool:
    return isinstance(deadline, float) and deadline == math.inf
