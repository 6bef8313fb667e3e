"""A quorum and a window of grace behind it, against the event loop in plain Python."""

import itertools
from functools import partial
from typing import Any, NamedTuple

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import testing
from fedjaxlite.data.population import Population
from fedjaxlite.sampling import Sampler, Setting
from fedjaxlite.systems import Service, Staleness, availability, fed_async, fed_buff, service, timed

STEPS, TIMES = 12, 64
SECOND = service.exponential(1.0)


class Step(NamedTuple):
    """What a server steps with: clients in their order of arrival, their ages, and when."""

    clients: list[int]
    ages: list[int]
    seconds: float


def by_hand(seconds: np.ndarray, grace: float, buffer: int, concurrency: int, capacity: int) -> list[Step]:
    """Candidates are all clients, over and over; the n-th who begins takes `seconds[n, client]`."""
    num_clients, now, begun, work, steps = seconds.shape[1], 0.0, 0, [], []
    candidates = itertools.cycle(range(num_clients))
    limit = capacity if grace > 0 else buffer
    for version in range(STEPS):
        arrived: list[tuple[int, int]] = []
        closes = np.inf
        while len(arrived) < limit:
            while len(work) < concurrency and len(work) + len(arrived) < num_clients:
                taken = {client for _, _, client, _ in work} | {client for client, _ in arrived}
                client = next(candidates)
                if client not in taken:
                    work.append((now + float(seconds[begun % TIMES, client]), begun, client, version))
                    begun += 1
            due = min((done for done, *_ in work), default=np.inf)
            if due >= closes:
                now = closes
                break
            now = due
            first = sorted(one for one in work if one[0] == due)
            together = len(first) == len(work) <= limit - len(arrived)
            for one in first if together else first[:1]:
                work.remove(one)
                arrived.append((one[2], version - one[3]))
                if len(arrived) == buffer:
                    closes = now + grace if grace > 0 else now
            if grace == 0 and len(arrived) == buffer:
                break
        steps.append(Step([client for client, _ in arrived], [age for _, age in arrived], now))
    return steps


def people(num_clients: int) -> Population:
    return Population({}, jnp.arange(num_clients + 1), max_size=1)


def steps_of(sampler: Sampler, num_clients: int) -> Any:
    assert sampler.memory is not None
    memory, population = sampler.memory, people(num_clients)

    def step(state: Any, number: Any) -> Any:
        cohort, state = memory.sample(state, jax.random.key(0), number, population)
        return state, (cohort, memory.tell(state), memory.place(state))

    setting = Setting(num_clients, population.num_examples, 0, 0, None, 0)
    return jax.lax.scan(step, memory.init(setting), jnp.arange(STEPS, dtype=jnp.int32))[1]


def from_table(seconds: Any) -> Service:
    return Service(lambda key, clients, facts, work, number: seconds[number % TIMES, clients])


@partial(jax.jit, static_argnames=("buffer", "concurrency", "capacity", "num_clients"))
@partial(jax.vmap, in_axes=(0, 0, None, None, None, None))
def runs(seconds: Any, grace: Any, buffer: int, concurrency: int, capacity: int | None, num_clients: int) -> Any:
    sampler = fed_buff(
        buffer,
        concurrency=concurrency,
        service=from_table(seconds),
        sampler=fl.sampling.full(num_clients),
        staleness=Staleness(lambda age: age, "the age itself"),
        grace=grace,
        capacity=capacity,
    )
    return steps_of(sampler, num_clients)


@pytest.mark.parametrize(
    ("buffer", "concurrency", "capacity", "num_clients"),
    helpers.some_often([(2, 4, None, 9), (2, 4, 5, 9), (3, 5, None, 5), (1, 3, None, 3)], 4),
)
def test_steps_are_those_of_the_event_loop_by_hand(
    buffer: int, concurrency: int, capacity: int | None, num_clients: int
) -> None:
    """Whole quarters of a second, so that many arrive at once, and some just as the window ends."""
    graces = [0.0, 0.25, 0.5, 1.0, 3.0, 1000.0, 0.0]
    draw = np.random.default_rng(buffer)
    seconds = draw.integers(1, 9, (len(graces), TIMES, num_clients)).astype(np.float32) / 4
    seconds[[2, 6]] = 1.0  # equal speeds
    seconds[3, :, -1] = np.inf  # who is never done, and whom no window waits for
    cohorts, told, places = jax.tree.map(
        np.asarray, runs(seconds, np.array(graces, np.float32), buffer, concurrency, capacity, num_clients)
    )
    sizes = set()
    for run, grace in enumerate(graces):
        expected = by_hand(seconds[run], grace, buffer, concurrency, capacity or max(buffer, concurrency))
        holds = {0: 0}
        for number, step in enumerate(expected):
            taken = cohorts.selected[run, number]
            assert taken.tolist() == [slot < len(step.clients) for slot in range(len(taken))]
            assert cohorts.ids[run, number][taken].tolist() == step.clients
            assert cohorts.discount[run, number][taken].tolist() == step.ages
            assert told["staleness_max"][run, number] == max(step.ages)
            np.testing.assert_allclose(told["staleness_mean"][run, number], np.mean(step.ages), rtol=1e-6)
            at = told["simulated_seconds"]
            assert at.whole[run, number] + at.part[run, number] == step.seconds
            # Each began from a model that is still kept.
            begun = [holds[slot] for slot in cohorts.version[run, number][taken].tolist()]
            assert begun == [number - age for age in step.ages]
            holds[int(places[run, number])] = number + 1
            sizes.add(len(step.clients))
    assert min(sizes) == buffer
    assert max(sizes) == (capacity or concurrency)
    assert not told["stalled"].any()


def test_no_grace_is_the_program_of_a_server_that_steps_at_the_quorum() -> None:
    def server(**grace: Any) -> Sampler:
        return fed_buff(2, concurrency=4, service=SECOND, **grace)

    plain, zero = server(), server(grace=0.0, capacity=3)
    assert (zero.capacity, zero.name) == (2, plain.name) == (2, "fed_buff(2, 4)")
    assert fed_buff(5, concurrency=4, service=SECOND, grace=1.0).capacity == 5
    assert server(grace=1).name == "fed_buff(2, 4, grace=1.0, capacity=4)"
    program = lambda sampler: str(jax.make_jaxpr(lambda: steps_of(sampler, 6))())  # noqa: E731
    assert program(plain) == program(zero)


@pytest.mark.slow
@pytest.mark.parametrize(("capacity", "seconds"), [(3, [6, 13, 20]), (4, [7, 14, 21])])
def test_who_comes_within_a_window_begins_and_the_window_does_not_grow(capacity: int, seconds: list[int]) -> None:
    """0 and 1 are done at 2 s, when 1 leaves soon; 2 comes at 4 s and is done at 6 s. Then 1 is not waited for."""
    there = availability({0: [(0.0, 100.0)], 1: [(0.0, 3.0)], 2: [(4.0, 100.0)]}, period=100)
    sampler = fed_buff(
        1,
        concurrency=2,
        service=service.constant(2.0),
        sampler=fl.sampling.full(3),
        availability=there,
        grace=5.0,
        capacity=capacity,
    )
    cohorts, told, _ = jax.jit(partial(steps_of, sampler, 3))()
    assert told["simulated_seconds"].whole[:3].tolist() == seconds
    there_in = [sorted(ids[taken].tolist()) for ids, taken in zip(cohorts.ids, cohorts.selected, strict=True)]
    assert there_in[:3] == [[0, 1, 2], [0, 2], [0, 2]]


CLOCKS = {
    "fed_buff with grace": lambda: fed_buff(2, concurrency=4, service=SECOND, grace=0.5, max_staleness=2),
    "fed_buff": lambda: fed_buff(3, concurrency=4, service=SECOND, sampler=fl.sampling.uniform(4, dropout=0.3)),
    "fed_async": lambda: fed_async(3, service=SECOND),
    "timed": lambda: timed(fl.sampling.uniform(5), SECOND, deadline=1.0, reports=3),
}


@pytest.mark.parametrize("name", helpers.some_often(CLOCKS, len(CLOCKS)))
def test_samplers_with_a_clock_keep_the_laws_of_samplers(name: str) -> None:
    testing.check_sampler(CLOCKS[name](), 11, num_rounds=30)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"capacity": 3}, ValueError, "`capacity` is 3 without `grace`; a step has `buffer`=2 messages then. Pass sec"),
        ({"grace": 1.0, "capacity": 1}, ValueError, "`capacity` is 1, fewer than `buffer`=2; expected what a step has"),
        ({"grace": 1.0, "capacity": 2.5}, TypeError, "`capacity` is 2.5; expected an int of at least 1"),
        ({"grace": -1.0}, ValueError, "`grace` is -1.0; expected a number of at least 0. It is how many seconds"),
        ({"grace": float("inf")}, ValueError, "`grace` is inf; expected a finite number. It is how many seconds"),
        ({"grace": "1 s"}, TypeError, "`grace` is '1 s'; expected a finite number"),
    ],
)
def test_what_is_no_window_is_refused(options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        fed_buff(2, concurrency=3, service=service.constant(1.0), **options)
