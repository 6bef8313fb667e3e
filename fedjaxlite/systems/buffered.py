"""Servers that do not wait: a buffer that fills while clients work on models of different ages, and buffers of one.

Such a server is a sampler with a memory. The cohort of round r are the clients whose messages fill the r-th buffer, and
the memory is what lies between two of the server's steps: who is at work, on which model, and until when.
"""

from functools import partial
from typing import Any

from fedjaxlite import checks
from fedjaxlite.sampling import Accounting, Cohort, Memory, Sampler, uniform
from fedjaxlite.systems import filling
from fedjaxlite.systems.service import Service
from fedjaxlite.systems.staleness import Staleness, constant


def fed_buff(
    buffer: int,
    *,
    concurrency: int,
    service: Service,
    sampler: Sampler | None = None,
    staleness: Staleness | None = None,
    max_staleness: int | None = None,
) -> Sampler:
    """FedBuff: M clients are always at work, and the server steps whenever K messages have arrived.

    Whoever hands in makes place for the next candidate, who begins with the newest model there is. The arrival that
    fills the buffer leaves its place to one who gets the model of this buffer. Where all who are at work are done at
    the same instant, and fit into the buffer, they hand in together, in the order they began in, and their places are
    given out after them: with K = M and equal speeds, cohorts are those of `sampler`, and the run is a synchronous one.

    The time is virtual (`simulated_seconds` in records). Clients whose messages are dropped or never come are in no
    cohort: their bytes are in no count.

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

    Returns:
      A Sampler that claims no amplification. It tells simulated_seconds, staleness_mean and staleness_max of the
      cohort, dropped_stale since the step before, and stalled: 1 where nobody came any more, and the cohort has spare
      slots.

    Raises:
      TypeError, ValueError: arguments out of range, a sampler with a memory; by `check`, a population smaller than
        the buffer.

    Source: Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba (2022), "Federated Learning with Buffered
    Asynchronous Aggregation", https://arxiv.org/abs/2106.06639.

    Example:
      >>> from fedjaxlite.systems import service, staleness
      >>> sampler = fed_buff(10, concurrency=30, service=service.exponential(60.0), staleness=staleness.polynomial(0.5))
      >>> sampler.capacity, sampler.memory.versions
      (10, 31)
    """
    buffer, concurrency = checks.positive_int(buffer=buffer, concurrency=concurrency)
    return _sampler(_server(buffer, concurrency, service, sampler, staleness, max_staleness), "fed_buff", mixes=False)


def fed_async(
    concurrency: int,
    *,
    service: Service,
    sampler: Sampler | None = None,
    staleness: Staleness | None = None,
    max_staleness: int | None = None,
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
    return _sampler(_server(1, concurrency, service, sampler, staleness, max_staleness), "fed_async", mixes=True)


def _server(
    buffer: int, concurrency: int, service: Any, sampler: Any, staleness: Any, max_staleness: int | None
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
    return filling.Server(buffer, concurrency, service, candidates, staleness or constant(), max_staleness)


def _sampler(server: filling.Server, name: str, *, mixes: bool) -> Sampler:
    def check(num_clients: int) -> None:
        if server.buffer > num_clients:
            raise ValueError(
                f"`buffer` is {server.buffer}, but the population has {num_clients} clients, and nobody is twice in a "
                f"buffer. Use a buffer of {num_clients} or less."
            )
        server.sampler.check(num_clients)
        server.service.check(num_clients)

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
        return filling.cohort_of(server, filling.empty(server.buffer))

    size = f"{server.buffer}, " if name == "fed_buff" else ""
    return Sampler(
        shapes,
        server.buffer,
        accounting,
        f"{name}({size}{server.concurrency})",
        scaled=server.sampler.scaled,
        check=check,
        memory=memory,
    )
