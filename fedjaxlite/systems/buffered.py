"""Servers that do not wait: a buffer that fills while clients work on models of different ages, and buffers of one.

Such a server is a sampler with a memory. The cohort of round r are the clients whose messages fill the r-th buffer, and
the memory is what lies between two of the server's steps: who is at work, on which model, and until when.
"""

from functools import partial
from typing import Any

from fedjaxlite import checks
from fedjaxlite.sampling import Accounting, Cohort, Memory, Sampler, uniform
from fedjaxlite.systems import filling, traces
from fedjaxlite.systems.presence import check_trace
from fedjaxlite.systems.service import Service
from fedjaxlite.systems.staleness import Staleness, constant
from fedjaxlite.systems.traces import Availability


def fed_buff(
    buffer: int,
    *,
    concurrency: int,
    service: Service,
    sampler: Sampler | None = None,
    staleness: Staleness | None = None,
    max_staleness: int | None = None,
    availability: Availability | None = None,
    grace: float | None = None,
    capacity: int | None = None,
) -> Sampler:
    """FedBuff: M clients are always at work, and the server steps whenever K messages have arrived.

    Whoever hands in makes place for the next candidate, who begins with the newest model there is. The arrival that
    fills the buffer leaves its place to one who gets the model of this buffer. Where all who are at work are done at
    the same instant, and fit into the buffer, they hand in together, in the order they began in, and their places are
    given out after them: with K = M and equal speeds, cohorts are those of `sampler`, and the run is a synchronous one.

    With `grace`, the K-th message is a quorum and not yet the step: it is made that many seconds later, or as soon as
    `capacity` messages have come. Until then the newest model is the present one, so whoever begins in between begins
    with that, and whoever has handed in waits for the step, as always. Decoupled DiLoCo is `fl.algorithms.di_lo_co`
    under this; its learners go on with local steps while they wait, and it draws the window's length anew from how
    much of that is left.

    The time is virtual (`simulated_seconds` in records). Clients whose messages are dropped or never come are in no
    cohort: of the bytes of messages that come for nothing, `bytes_dropped` tells; they are in no other count.

    With an availability, who is not there is passed over like one who is at work, and who leaves before it is done
    hands nothing in: its place is empty when it leaves. A place for which nobody was found stays empty until the next
    client is done, or the first comes of the candidates that were looked at. Where nobody is at work, the clock moves
    on to the next moment at which anybody can begin.

    Args:
      buffer: K, messages in a step of the server; the capacity.
      concurrency: M, clients at work.
      service: how long a client takes.
      sampler: whose cohorts 0, 1, 2, ... are the candidates, slot by slot; None for `uniform(concurrency)`. A
        candidate who is at work or in the buffer is passed over; one who is selected without having reported holds its
        place and hands nothing in.
      staleness: what an update counts by the server's steps since its client's download; None for `constant()`.
      max_staleness: an update that is staler is dropped and counted (`dropped_stale`); None drops none. It bounds the
        models that are kept, `min(max_staleness, M) + 1` of them.
      availability: when clients are there, on the virtual clock; None for always.
      grace: seconds; messages that come later than the K-th by less than that are in the same step. At least 0; None
        and 0 are a server that steps at the K-th. May be traced; then the cohort has room for `capacity` whatever it
        is, and 0 gives the numbers of None.
      capacity: with `grace`, the messages in a step at most, at least K; None for the larger of K and M.

    Returns:
      A Sampler that claims no amplification. It tells simulated_seconds, staleness_mean and staleness_max of the
      cohort; since the step before, dropped_stale, their bytes on the way up as bytes_dropped (mod 2^32) and, with an
      availability, left_midway, clients that left before they were done; and stalled: 1 where nobody came any more,
      and the cohort has spare slots.

    Raises:
      TypeError, ValueError: arguments out of range, a sampler with a memory; by `check`, a population smaller than
        the buffer, an availability of another number of clients; when a run begins, devices of which too few can do
        the work.

    Source: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba (2022), "Federated Learning with Buffered
    Asynchronous Aggregation", https://arxiv.org/abs/2106.06639. Quorum and grace: Douillard, Rush, Donchev, Charles,
    Fallen et al. (2026), "Decoupled DiLoCo for Resilient Distributed Pre-training",
    https://arxiv.org/abs/2604.21428.

    Example:
      >>> from fedjaxlite.systems import service, staleness
      >>> sampler = fed_buff(10, concurrency=30, service=service.exponential(60.0), staleness=staleness.polynomial(0.5))
      >>> sampler.capacity, sampler.memory.versions
      (10, 31)
      >>> fed_buff(2, concurrency=4, service=service.exponential(60.0), grace=10.0).capacity
      4
    """
    buffer, concurrency = checks.positive_int(buffer=buffer, concurrency=concurrency)
    server = _server(buffer, concurrency, service, sampler, staleness, max_staleness, availability)
    return _sampler(_with_grace(server, grace, capacity), "fed_buff", mixes=False)


def fed_async(
    concurrency: int,
    *,
    service: Service,
    sampler: Sampler | None = None,
    staleness: Staleness | None = None,
    max_staleness: int | None = None,
    availability: Availability | None = None,
) -> Sampler:
    """FedAsync: M clients are always at work, and the server mixes each model that arrives into its own.

    `x <- (1 - a s) x + a s x_client`, with a the rate of the server's step and s the weight of the update's age: the
    client's model is compared with the newest, not with the one that it began from.

    Args:
      concurrency: M, clients at work.
      service: how long a client takes.
      sampler: the candidates; see `fed_buff`.
      staleness: s, such as `polynomial(0.5)`; None for `constant()`.
      max_staleness: see `fed_buff`.
      availability: see `fed_buff`.

    Returns:
      A Sampler of one client a round; see `fed_buff`.

    Raises:
      TypeError, ValueError: see `fed_buff`.

    Source: Xie, Koyejo, Gupta (2019), "Asynchronous Federated Optimization", https://arxiv.org/abs/1903.03934.

    Example:
      >>> from fedjaxlite.systems import service
      >>> sampler = fed_async(30, service=service.exponential(60.0))
      >>> sampler.capacity, sampler.memory.mixes
      (1, True)
    """
    concurrency = checks.positive_int(concurrency=concurrency)
    if isinstance(staleness, Staleness) and staleness.tells:
        raise ValueError(
            f"`staleness` is {staleness.name}, which leaves weights to what aggregates; that divides by their sum, and "
            "of one message a step nothing is left. Take fl.systems.staleness.polynomial(0.5), or fed_buff."
        )
    server = _server(1, concurrency, service, sampler, staleness, max_staleness, availability)
    return _sampler(server, "fed_async", mixes=True)


def _server(
    buffer: int,
    concurrency: int,
    service: Any,
    sampler: Any,
    staleness: Any,
    max_staleness: int | None,
    availability: Any,
) -> filling.Server:
    checks.one_instance(Service, "a Service, such as fl.systems.service.exponential(60.0)", service=service)
    if sampler is not None:
        checks.one_instance(Sampler, "a Sampler, such as fl.sampling.uniform(10)", sampler=sampler)
        if sampler.memory is not None:
            raise ValueError(
                f"`sampler` is {sampler.name}, which has a memory of its own; expected one that is a function of key "
                "and round, such as fl.sampling.uniform(10): its cohorts are the candidates of an asynchronous server."
            )
    if staleness is not None:
        checks.one_instance(Staleness, "a Staleness, such as fl.systems.staleness.polynomial(0.5)", staleness=staleness)
    if max_staleness is not None:
        max_staleness = checks.nonnegative_int("None drops no update.", max_staleness=max_staleness)
    candidates = uniform(concurrency) if sampler is None else sampler
    trace = None if availability is None else traces.checked(availability)
    return filling.Server(buffer, concurrency, service, candidates, staleness or constant(), max_staleness, trace)


def _with_grace(server: filling.Server, grace: Any, capacity: int | None) -> filling.Server:
    if capacity is not None:
        capacity = int(checks.positive_int(capacity=capacity))
        if grace is None:
            raise ValueError(
                f"`capacity` is {capacity} without `grace`; a step has `buffer`={server.buffer} messages then. Pass "
                "seconds of `grace`, or leave `capacity` out."
            )
        if capacity < server.buffer:
            raise ValueError(
                f"`capacity` is {capacity}, fewer than `buffer`={server.buffer}; expected what a step has at most."
            )
    if grace is not None:
        remedy = "It is how many seconds the server waits after its buffer is full."
        grace = checks.nonnegative(remedy, grace=checks.number(remedy, grace=grace))
        grace = grace if checks.is_traced(grace) else float(grace)
    if grace is None or (not checks.is_traced(grace) and grace == 0):
        return server
    return server._replace(grace=grace, capacity=capacity or max(server.buffer, server.concurrency))


def _sampler(server: filling.Server, name: str, *, mixes: bool) -> Sampler:
    def check(num_clients: int) -> None:
        if server.buffer > num_clients:
            raise ValueError(
                f"`buffer` is {server.buffer}, but the population has {num_clients} clients, and nobody is twice in a "
                f"buffer. Use a buffer of {num_clients} or less."
            )
        server.sampler.check(num_clients)
        server.service.check(num_clients)
        if server.availability is not None:
            check_trace(server.availability, num_clients)

    accounting = Accounting(
        "availability",
        cohort_size=server.buffer,
        note="Who arrives depends on the clients' speeds; each is at most once in a buffer.",
    )
    memory = Memory(
        init=partial(filling.begin, server),
        sample=partial(filling.fill, server),
        tell=lambda state: {"simulated_seconds": state.now, **state.told},
        versions=filling.depth(server),
        place=lambda state: state.slot,
        discounts=server.staleness.discounts,
        mixes=mixes,
        clock=True,
    )

    def shapes(key: Any, round_number: Any, population: Any) -> Cohort:
        del key, round_number, population
        return filling.cohort_of(server, filling.empty(filling.most(server)))

    size = f"{server.buffer}, " if name == "fed_buff" else ""
    shown = "traced" if checks.is_traced(server.grace) else server.grace
    grace = "" if server.grace is None else f", grace={shown}, capacity={server.capacity}"
    return Sampler(
        shapes,
        filling.most(server),
        accounting,
        f"{name}({size}{server.concurrency}{grace})",
        scaled=server.sampler.scaled,
        check=check,
        memory=memory,
    )
