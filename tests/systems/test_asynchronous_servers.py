"""FedBuff's and FedAsync's event loop, by the laws of queues that have a closed form, without training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.data.population import Population
from fedjaxlite.sampling import Setting, cohort
from fedjaxlite.systems import Service, Staleness, fed_async, fed_buff, service, staleness


def people(num_clients):
    return Population({}, jnp.arange(num_clients + 1), max_size=1)


def setting(num_clients):
    return Setting(num_clients, jnp.ones((num_clients,), jnp.int32), 8, 8, None, 8)


def buffers(sampler, num_clients, num_rounds, key):
    """What the server sees and tells, of so many buffers."""

    def fill(state, number):
        drawn, state = sampler.memory.sample(state, key, number, people(num_clients))
        now = {**sampler.memory.tell(state), "place": sampler.memory.place(state), "version": state.version - 1}
        return state, (drawn, now)

    start = sampler.memory.init(setting(num_clients))
    return jax.lax.scan(fill, start, jnp.arange(num_rounds, dtype=jnp.int32))[1]


@partial(jax.jit, static_argnames=("server", "num_clients", "num_rounds"))
def ages(server, num_clients, num_rounds, memoryless, key):
    """float32 `[R, K]`: with exponential times, or all of them 1 s."""

    def seconds(key, clients, facts, work, number):
        return jnp.where(memoryless, jax.random.exponential(key, clients.shape, jnp.float32), 1)

    told_age = Staleness(lambda age: age, "the age itself")
    drawn, _ = buffers(server(service=Service(seconds), staleness=told_age), num_clients, num_rounds, key)
    return drawn.discount


def law(concurrency, buffer, age):
    """The chance of an age: G other arrivals, geometric, since a download at which u messages lay in the buffer."""
    others = np.arange(2000)
    chance = (1 - 1 / concurrency) ** others / concurrency
    return np.mean([chance[(others + u) // buffer == age].sum() for u in range(buffer)])


SERVERS = {
    (10, 3): partial(fed_buff, 3, concurrency=10),
    (20, 10): partial(fed_buff, 10, concurrency=20),
    (7, 2): partial(fed_buff, 2, concurrency=7),
    (5, 1): partial(fed_async, 5),
}


@pytest.mark.parametrize(("concurrency", "buffer"), [(10, 3), (20, 10), (5, 1)])
def test_memoryless_clients_are_as_stale_as_the_closed_form_says(concurrency, buffer):
    # 40 batches of 100 buffers, far longer than the queue remembers. Five standard errors of 40 batch means, for five
    # numbers: a false alarm in about 15,000.
    seen = np.asarray(ages(SERVERS[concurrency, buffer], 60, 4050, True, jax.random.key(1)))[50:]
    batches = seen.reshape(40, -1)

    def close(numbers, exact):
        error = numbers.std(ddof=1) / np.sqrt(len(numbers))
        assert abs(numbers.mean() - exact) < 5 * error, (numbers.mean(), exact, error)

    close(batches.mean(axis=1), (concurrency - 1) / buffer)
    for age in range(4):
        close((batches == age).mean(axis=1), law(concurrency, buffer, age))


def test_the_closed_form_is_the_published_one():
    rounded = [[round(law(*sizes, age), 4) for age in range(4)] for sizes in ((10, 3), (20, 10))]
    assert rounded == [[0.1870, 0.2203, 0.1606, 0.1171], [0.2376, 0.3059, 0.1832, 0.1097]]


@pytest.mark.parametrize(("concurrency", "buffer"), [(10, 3), (20, 10), pytest.param(7, 2, marks=pytest.mark.slow)])
def test_equal_speeds_give_two_ages_at_most(concurrency, buffer):
    rounds = 4050 if buffer > 2 else 100
    seen = np.asarray(ages(SERVERS[concurrency, buffer], 60, rounds, False, jax.random.key(1)))[20:]
    assert set(np.unique(seen)) == {(concurrency - 1) // buffer, -(-(concurrency - 1) // buffer)}
    assert abs(seen.mean() - (concurrency - 1) / buffer) < 0.01


def test_equal_speeds_and_a_buffer_for_all_are_the_rounds_of_the_sampler():
    # Half a second, from what the run is told of its bytes.
    by_size = Service(
        lambda key, clients, facts, work, number: facts[clients],
        facts=lambda told: jnp.full((told.num_clients,), told.bytes_down / 16, jnp.float32),
    )
    uniform = fl.sampling.uniform(5)

    def sample(key, number, population):
        drawn = uniform.sample(key, number, population)
        return drawn._replace(work=(drawn.ids.astype(jnp.float32) + 1) / 16, scale=drawn.ids.astype(jnp.float32))

    candidates = uniform._replace(sample=sample, scaled=True)
    key = jax.random.key(7)
    sampler = fed_buff(5, concurrency=5, service=by_size, sampler=candidates)
    drawn, now = jax.jit(partial(buffers, sampler, 12, 4))(key)
    expected = jax.jit(jax.vmap(lambda number: candidates.sample(key, number, people(12))))(jnp.arange(4))
    for name in ("ids", "selected", "reported", "work", "scale", "overflow"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(expected, name))
    assert drawn.discount is None
    assert sampler.scaled
    assert not sampler.memory.discounts
    assert now["staleness_max"].tolist() == [0] * 4
    assert now["simulated_seconds"].whole.tolist() == [0, 1, 1, 2]
    assert now["simulated_seconds"].part.tolist() == [0.5, 0, 0.5, 0]
    # Everyone begins with the newest model, whose slot is the place of the round before.
    assert drawn.version.tolist() == [[slot] * 5 for slot in [0, *now["place"][:-1].tolist()]]


@pytest.mark.parametrize("max_staleness", [None, pytest.param(0, marks=pytest.mark.slow), 2])
def test_cohorts_are_distinct_and_their_models_are_still_there(max_staleness):
    sampler = fed_buff(
        3,
        concurrency=6,
        service=service.exponential(2.0),
        sampler=fl.sampling.full(6),
        staleness=Staleness(lambda age: age),
        max_staleness=max_staleness,
    )
    drawn, now = jax.jit(partial(buffers, sampler, 6, 300))(jax.random.key(2))
    age = np.asarray(drawn.discount).astype(int)
    assert all(len(set(ids)) == 3 for ids in np.asarray(drawn.ids).tolist())
    assert drawn.selected.all()
    assert sampler.memory.versions == {None: 7, 0: 1, 2: 3}[max_staleness]
    np.testing.assert_array_equal(now["staleness_max"], age.max(axis=1))
    np.testing.assert_allclose(now["staleness_mean"], age.mean(axis=1), rtol=1e-6)
    dropped = int(now["dropped_stale"].sum())
    if max_staleness is None:
        assert age.max() > 6
        assert dropped == 0
    else:
        assert age.max() == max_staleness
        assert dropped > 0
    holds = {0: 0}  # which model lies in which slot
    for number in range(300):
        assert [holds[slot] for slot in drawn.version[number].tolist()] == (number - age[number]).tolist()
        holds[int(now["place"][number])] = number + 1


def test_a_batch_of_runs_is_the_runs_one_by_one():
    def run(seed, mean, exponent):
        sampler = fed_buff(
            2,
            concurrency=4,
            service=service.exponential(mean),
            sampler=fl.sampling.full(6),
            staleness=staleness.polynomial(exponent),
            max_staleness=3,
        )
        return buffers(sampler, 6, 20, jax.random.key(seed))

    seeds, means, exponents = jnp.arange(3), jnp.array([1.0, 2.0, 0.3]), jnp.array([0.5, 1.0, 2.0])
    together = jax.jit(jax.vmap(run))(seeds, means, exponents)
    alone = jax.jit(run)
    for number in range(3):
        one = alone(seeds[number], means[number], exponents[number])
        for several, single in zip(jax.tree.leaves(together), jax.tree.leaves(one), strict=True):
            np.testing.assert_array_equal(several[number], single)


def test_measured_times_are_followed_by_hand():
    # 0 and 1 begin at 0 s; 0 is done at 2 s and 2 begins; 1 at 3 s: the first buffer. 0 takes the second model then,
    # until 5 s, and 1 begins; 2 is done at 6 s, one step behind, and 0 begins. 1 and 0 are done together at 8 s. Then
    # there are no candidates.
    sampler = fed_buff(
        2,
        concurrency=2,
        service=service.measured([2.0, 3.0, 4.0]),
        sampler=fl.sampling.replay([[0, 1], [2, 0], [1, 0]]),
        staleness=staleness.polynomial(1.0),
    )
    drawn, now = buffers(sampler, 3, 4, jax.random.key(0))
    assert drawn.ids.tolist() == [[0, 1], [0, 2], [1, 0], [0, 0]]
    assert drawn.selected.tolist() == [[True, True]] * 3 + [[False, False]]
    assert drawn.discount.tolist() == [[1.0, 1.0], [1.0, 0.5], [0.5, 1.0], [1.0, 1.0]]
    assert now["simulated_seconds"].whole.tolist() == [3, 6, 8, 8]
    assert now["stalled"].tolist() == [0, 0, 0, 1]


def test_where_nobody_comes_any_more_the_server_says_so():
    def once(key, number, population):
        drawn = cohort(jnp.arange(2), jnp.ones((2,), bool))
        return drawn._replace(reported=jnp.array([True, False]) & (number == 0))

    silent = fl.sampling.Sampler(once, 2, fl.sampling.uniform(2).accounting)
    sampler = fed_buff(3, concurrency=2, service=service.constant(1.0), sampler=silent)
    drawn, now = jax.jit(partial(buffers, sampler, 4, 2))(jax.random.key(0))
    assert drawn.selected.tolist() == [[True, False, False], [False] * 3]
    assert drawn.ids.tolist() == [[0, 0, 0]] * 2
    assert now["stalled"].tolist() == [1, 1]


def test_what_an_asynchronous_server_refuses():
    second = service.constant(1.0)
    server = fed_buff(2, concurrency=3, service=second)
    with pytest.raises(ValueError, match=r"`sampler` is fed_buff\(2, 3\), which has a memory of its own"):
        fed_buff(2, concurrency=3, service=second, sampler=server)
    with pytest.raises(ValueError, match="`buffer` is 2, but the population has 1 clients, and nobody is twice"):
        server.check(1)
    with pytest.raises(ValueError, match="the seconds of 2 clients, but the population has 5"):
        fed_async(3, service=service.measured([1.0, 2.0])).check(5)
    with pytest.raises(TypeError, match="`service` is 1.0; expected a Service, such as"):
        fed_async(3, service=1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`max_staleness` is -1"):
        fed_async(3, service=second, max_staleness=-1)
    wrong = Service(lambda key, clients, facts, work, number: jnp.float32(1), "mine")
    with pytest.raises(TypeError, match=r"`service` \(mine\) returned .*; expected float32 \[n\]"):
        buffers(fed_async(3, service=wrong), 5, 1, jax.random.key(0))
