"""The event loop of asynchronous servers against plain Python, over random cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_server import Plain, buffers

import fedjaxlite as fl
from fedjaxlite.data.population import Population
from fedjaxlite.sampling import Setting, cohort
from fedjaxlite.systems import Availability, Service, Staleness, candidates, fed_buff, filling

STEPS, PATIENCE, PERIOD = 25, 100, 30


def drawn_case(seed, num_clients, capacity, places, buffer, cohorts=9):
    """Cohorts that repeat clients of each other, spare slots, silent clients, and whole seconds that often tie."""
    draw = np.random.default_rng(seed)
    ids = np.stack([draw.permutation(num_clients)[:capacity] for _ in range(cohorts)]).astype(np.int32)
    if seed % 3 == 0:
        ids[: cohorts - 1] = ids[0]  # the rest of the population is a candidate once in a while
    selected = draw.random(ids.shape) < (1.0, 0.7, 0.1)[seed % 3]
    reports = selected & (draw.random(ids.shape) < 0.9)
    seconds = draw.integers(1, (2, 4, 20)[seed % 3], (7, num_clients)).astype(np.float32)
    clients = [[int(i) if s else None for i, s in zip(*row, strict=True)] for row in zip(ids, selected, strict=True)]
    plain = Plain(clients, reports.tolist(), seconds.tolist(), places, buffer, max_staleness=3, patience=PATIENCE)
    return plain, (ids, selected, reports, seconds)


def drawn_presence(seed, num_clients, buffer):
    """Two windows a client of which some are none, and clients that are always there; some can never begin."""
    draw = np.random.default_rng([seed, 1])
    begins = np.stack([draw.integers(6, 11, num_clients), draw.integers(17, 30, num_clients)], axis=1)
    ends = begins + draw.integers(0, 6, begins.shape)
    always = draw.random(num_clients) < 0.2
    begins[always], ends[always] = 0, [PERIOD, 0]
    able = draw.random(num_clients) < 0.8
    able[:buffer] = True
    windows = [list(zip(*pair, strict=True)) for pair in zip(begins.tolist(), ends.tolist(), strict=True)]
    arrays = begins.astype(np.float32), ends.astype(np.float32), able
    return {"windows": windows, "period": PERIOD, "able": np.flatnonzero(able).tolist()}, arrays


def seen(sizes, ids, selected, reports, seconds, begins=None, ends=None, able=None):
    num_clients, places, buffer = sizes

    def sample(key, number, population):
        row = number % ids.shape[0]
        return cohort(ids[row], selected[row])._replace(reported=reports[row])

    times = lambda key, clients, facts, work, number: seconds[number % seconds.shape[0], clients]  # noqa: E731
    server = fed_buff(
        buffer,
        concurrency=places,
        service=Service(times, able=None if able is None else lambda facts: able),
        sampler=fl.sampling.Sampler(sample, ids.shape[1], fl.sampling.uniform(1).accounting),
        staleness=Staleness(lambda age: age, "the age itself"),
        max_staleness=3,
        availability=begins
        if begins is None
        else Availability(begins, ends, jnp.full((num_clients,), PERIOD, jnp.int32)),
    )
    people = Population({}, jnp.arange(num_clients + 1), max_size=1)

    def fill(state, number):
        drawn, state = server.memory.sample(state, jax.random.key(0), number, people)
        return state, (drawn, server.memory.tell(state))

    ones = jnp.ones((num_clients,), jnp.int32)
    start = server.memory.init(Setting(num_clients, ones, 1_000_000_000, 8, None, 8))
    return jax.lax.scan(fill, start, jnp.arange(STEPS, dtype=jnp.int32))[1]


def check(drawn, told, plain):
    """That the plain server does the same; how many left midway."""
    everyone_who_left = 0
    for step, (buffer, now, dropped, left, stalled) in enumerate(buffers(plain, STEPS)):
        arrived = drawn.selected[step]
        ages = drawn.discount[step][arrived].astype(int).tolist()
        assert list(zip(drawn.ids[step][arrived].tolist(), ages, strict=True)) == buffer, step
        assert told["simulated_seconds"].whole[step] + told["simulated_seconds"].part[step] == now, step
        assert (told["dropped_stale"][step], told["stalled"][step]) == (dropped, stalled), step
        assert told["bytes_dropped"][step] == dropped * 1_000_000_000 % 2**32
        assert told.get("left_midway", np.zeros(STEPS))[step] == left
        everyone_who_left += left
    return everyone_who_left


def case_of(tree, at):
    return jax.tree.map(lambda leaf: leaf[at], tree)


@pytest.mark.parametrize(
    ("num_clients", "capacity", "places", "buffer", "window", "few"),
    [
        (8, 6, 4, 3, 4, 0),
        pytest.param(8, 7, 4, 5, 128, 128, marks=pytest.mark.slow),
        pytest.param(5, 3, 4, 2, 2, 128, marks=pytest.mark.slow),
        pytest.param(60, 50, 34, 6, 16, 128, marks=pytest.mark.slow),
    ],
)
def test_who_begins_and_who_arrives_is_what_one_candidate_after_the_other_gives(
    monkeypatch, num_clients, capacity, places, buffer, window, few
):
    """Crowded populations, where most candidates are at work or in the buffer, and devices that come and go."""
    monkeypatch.setattr(candidates, "_WINDOW", window)
    monkeypatch.setattr(candidates, "_FEW", few)
    monkeypatch.setattr(filling, "_PATIENCE", PATIENCE)
    cases = [drawn_case(seed, num_clients, capacity, places, buffer) for seed in range(6)]
    arrays = [np.stack(each) for each in zip(*(arrays for _, arrays in cases), strict=True)]
    sizes = (num_clients, places, buffer)
    run = jax.jit(jax.vmap(lambda *each: seen(sizes, *each)))
    without = jax.device_get(run(*arrays))
    for at, (plain, _) in enumerate(cases):
        check(*case_of(without, at), plain)

    presences = [drawn_presence(seed, num_clients, buffer) for seed in range(6)]
    coming = [np.stack(each) for each in zip(*(arrays for _, arrays in presences), strict=True)]
    with_windows = jax.device_get(run(*arrays, *coming))
    left = [
        check(*case_of(with_windows, at), plain._replace(**presence))
        for at, ((plain, _), (presence, _)) in enumerate(zip(cases, presences, strict=True))
    ]
    assert sum(left) > 0
    always = np.zeros_like(coming[0]), np.full_like(coming[1], PERIOD), np.ones_like(coming[2])
    always[1][..., 1] = 0
    cohorts, told = jax.device_get(run(*arrays, *always))
    assert not told.pop("left_midway").any()
    jax.tree.map(np.testing.assert_array_equal, (cohorts, told), without)
