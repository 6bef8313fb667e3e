"""Rounds on the clock: over-selection, deadlines, partial work, devices that come and go."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjaxlite import sampling, systems
from fedjaxlite.data.population import Population
from fedjaxlite.sampling import Seconds, Setting, cohort
from fedjaxlite.systems import Devices, availability, timed
from fedjaxlite.systems.round_times import share_of

N = 6
EXAMPLES = np.array([4, 8, 3, 10, 6, 5], np.int32)


def people(num_clients=N, examples=None):
    sizes = np.ones(num_clients, np.int32) if examples is None else examples
    return Population({}, jnp.asarray(np.concatenate([[0], np.cumsum(sizes)]), jnp.int32), max_size=int(sizes.max()))


def setting(num_clients=N, examples=None, steps=None):
    sizes = np.ones(num_clients, np.int32) if examples is None else examples
    return Setting(num_clients, jnp.asarray(sizes), 20, 40, steps, 100)


def exponential(key, round_number, cohort, population):
    key = jax.random.fold_in(key, round_number)
    return jax.random.exponential(key, cohort.ids.shape, jnp.float32)


def devices(num_clients=N, **changes):
    ones = np.ones(num_clients, np.float32)
    base = Devices(0.5 * np.arange(1, num_clients + 1, dtype=np.float32), 10 * ones, 20 * ones, 0.25 * ones)
    return base._replace(**changes)


def run(sampler, rounds, *, seed=0, population=None, setting_=None):
    """The last state, and the cohorts and states of all rounds, as one scan."""
    population = people() if population is None else population
    state = sampler.memory.init(setting() if setting_ is None else setting_)
    key = jax.random.key(seed)

    def one(state, number):
        cohort, state = sampler.memory.sample(state, key, number, population)
        return state, (cohort, state.round_seconds, state.clock)

    return jax.lax.scan(one, state, jnp.arange(rounds, dtype=jnp.int32))


@pytest.mark.parametrize(
    ("reports", "selected", "mean"), [(10, 10, 2.928968), (10, 13, 1.346800), (100, 130, 1.453604)]
)
def test_over_selection_takes_as_long_as_order_statistics_of_exponentials(reports, selected, mean):
    below = np.arange(1, selected + 1)[-reports:]
    assert abs(np.sum(1 / below) - mean) < 1e-6  # H_n - H_{n-k}
    rounds = 4000
    sampler = timed(sampling.full(selected), exponential, reports=reports)
    _, (cohorts, seconds, _) = run(sampler, rounds, population=people(selected), setting_=setting(selected))
    error = np.sqrt(np.sum(1.0 / below**2) / rounds)
    assert abs(float(np.mean(np.asarray(seconds, np.float64))) - mean) < 4.5 * error  # false alarms: 7e-6
    assert (np.asarray(cohorts.reported).sum(1) == reports).all()
    assert (np.asarray(cohorts.late).sum(1) == selected - reports).all()


def test_a_deadline_lets_in_who_is_that_fast():
    rounds, clients, deadline = 1000, 50, 1.25
    sampler = timed(sampling.full(clients), exponential, deadline=deadline)
    _, (cohorts, seconds, _) = run(sampler, rounds, population=people(clients), setting_=setting(clients))
    share, law = float(np.mean(np.asarray(cohorts.reported))), 1 - np.exp(-deadline)
    assert abs(share - law) < 4.5 * np.sqrt(law * (1 - law) / (rounds * clients))  # false alarms: 7e-6
    assert set(np.asarray(seconds).tolist()) == {deadline}  # somebody of 50 is always late


def test_a_round_of_devices_by_hand():
    """Seconds: 0.25 + 40/20 + examples * 0.5 * (id + 1) + 20/10 = 4.25 + (2, 8, 4.5, 20, 15, 15)."""
    told = timed(sampling.full(N), devices(), reports=3)
    state, (cohorts, seconds, _) = run(told, 1, setting_=setting(examples=EXAMPLES))
    assert float(seconds[0]) == 12.25
    assert np.asarray(cohorts.reported[0]).tolist() == [True, True, True, False, False, False]
    assert np.asarray(cohorts.late[0]).tolist() == [False, False, False, True, True, True]
    row = told.memory.tell(state)
    assert (float(row["round_seconds"]), int(row["late"]), int(row["waited_for"])) == (12.25, 3, 0)
    assert (int(row["simulated_seconds"].whole), float(row["simulated_seconds"].part)) == (12, 0.25)
    # Of steps, where the algorithm tells them.
    steps = lambda sizes, work: jnp.full_like(sizes, 2)  # noqa: E731
    _, (_, seconds, _) = run(timed(sampling.full(N), devices()), 1, setting_=setting(examples=EXAMPLES, steps=steps))
    assert float(seconds[0]) == 4.25 + 2 * 3.0


def test_partial_work_is_that_of_a_loop():
    deadline = 9.5
    sampler = timed(sampling.full(N), devices(), deadline=deadline, partial_work=True)
    _, (cohorts, seconds, _) = run(sampler, 1, setting_=setting(examples=EXAMPLES))
    work, reported = [], []
    for client, steps in enumerate(EXAMPLES.tolist()):
        done = 0
        while done < steps and 4.25 + 0.5 * (client + 1) * (done + 1) <= deadline:
            done += 1
        reported.append(done > 0)
        work.append(1.0 if done in (0, steps) else done * 65536 // steps / 65536)
        if done:  # what a client counts of its share
            assert max(1, np.ceil(np.float32(work[-1]) * np.float32(steps) - np.float32(1e-4))) == done
    assert np.asarray(cohorts.work[0]).tolist() == work
    assert np.asarray(cohorts.reported[0]).tolist() == reported
    assert float(seconds[0]) <= deadline
    early = timed(sampling.full(N), devices(), deadline=5.0, partial_work=True)
    _, (cohorts, seconds, _) = run(early, 1, setting_=setting(examples=EXAMPLES))
    assert np.asarray(cohorts.reported[0]).tolist() == [True, False, False, False, False, False]
    assert not np.asarray(cohorts.late).any()
    assert float(seconds[0]) == 5.0


def test_a_share_of_work_is_just_so_many_steps():
    """For any number of steps: a client counts ceil(work * steps - 1e-4)."""
    whole = np.random.default_rng(0).integers(2, 60_000, 20_000)
    done = np.maximum(1, (whole * np.random.default_rng(1).random(20_000)).astype(int))
    share = np.asarray(share_of(jnp.asarray(done, jnp.int32), jnp.asarray(whole, jnp.int32)))
    counted = np.ceil(share * whole.astype(np.float32) - np.float32(1e-4))
    assert (counted <= done).all()
    assert (counted[whole < 2000] == done[whole < 2000]).all()
    assert (share * 65536 == np.floor(share * 65536)).all()
    assert (share > 0).all()


def test_the_clock_is_the_exact_sum_of_its_rounds():
    sampler = timed(sampling.full(2), exponential)
    _, (_, seconds, clocks) = run(sampler, 1000, population=people(2), setting_=setting(2))
    assert (_float64(clocks) == np.cumsum(np.asarray(seconds, np.float64))).all()
    # And of 10^5 rounds, from a millisecond to an hour: those below a second are multiples of 2^-23 s.
    drawn = 10 ** np.random.default_rng(0).uniform(-3, 3.5, 100_000)
    lasts = np.where(drawn < 1, np.round(drawn * 2**23) / 2**23, drawn).astype(np.float32)
    start = Seconds(jnp.int32(0), jnp.float32(0))
    _, clocks = jax.lax.scan(lambda clock, long: (clock.after(long),) * 2, start, jnp.asarray(lasts))
    exact = np.cumsum(lasts.astype(np.float64))
    assert (_float64(clocks) == exact).all()
    assert exact[-1] > 1e7


def _float64(clock):
    return np.asarray(clock.whole, np.float64) + np.asarray(clock.part, np.float64)


def test_devices_are_waited_for_and_leave():
    """Client 0 comes after 100 s; 1 leaves before it is done; 2 is there; 3 never comes."""
    trace = availability({0: [(100, 200)], 1: [(0, 5)], 2: [(0, 1000)], 3: []}, period=1000)
    four = devices(4, seconds_per_step=np.ones(4, np.float32))
    sampler = timed(sampling.full(4), four, availability=trace)
    examples = np.array([4, 4, 4, 4], np.int32)
    state, (cohorts, seconds, _) = run(sampler, 2, population=people(4), setting_=setting(4, examples))
    assert np.asarray(cohorts.reported[0]).tolist() == [True, False, True, False]
    assert not np.asarray(cohorts.late).any()
    assert np.asarray(seconds).tolist() == [108.25, 8.25]  # in the second round, client 0 is there
    assert int(state.waited_for) == 2  # clients 1 and 3
    short = timed(sampling.full(4), four, availability=trace, deadline=50.0)
    _, (cohorts, seconds, _) = run(short, 1, population=people(4), setting_=setting(4, examples))
    assert float(seconds[0]) == 50.0
    assert np.asarray(cohorts.late[0]).tolist() == [True, False, False, False]


def test_a_round_without_any_report_still_ends():
    trace = availability({i: [(10 * i + 5, 10 * i + 8)] for i in range(2)}, period=100)
    sampler = timed(sampling.full(2), devices(2), availability=trace)
    _, (cohorts, seconds, _) = run(sampler, 1, population=people(2), setting_=setting(2))
    assert not np.asarray(cohorts.reported).any()
    assert float(seconds[0]) == 18.0


def test_fewer_than_are_wanted_do_not_keep_a_round_open():
    """Of four slots one is taken: its message is all that can come, whatever `reports` says."""
    one = sampling.full(4)._replace(sample=lambda *_: cohort(jnp.arange(4), jnp.arange(4) == 2))
    _, (cohorts, seconds, _) = run(timed(one, devices(4), reports=3, deadline=99.0), 1, setting_=setting(4))
    assert np.asarray(cohorts.reported[0]).tolist() == [False, False, True, False]
    assert float(seconds[0]) == 4.25 + 1.5


def test_batteries_and_memories_have_ends():
    ones = np.ones(N, np.float32)
    limited = devices(
        joules_per_step=ones,
        joules_per_byte=0.1 * ones,
        battery_joules=np.array([20, 10, 9, 20, 20, 20], np.float32),
        memory_bytes=np.array([400, 400, 400, 399, 400, 0], np.float32),
    )
    sampler = timed(sampling.full(N), limited, memory_models=4)
    _, (cohorts, _, _) = run(sampler, 1, setting_=setting(examples=EXAMPLES))
    assert np.asarray(cohorts.selected[0]).tolist() == [True, True, True, False, True, False]
    assert np.asarray(cohorts.reported[0]).tolist() == [True, False, True, False, True, False]
    assert np.asarray(cohorts.ids[0]).tolist() == [0, 1, 2, 0, 4, 0]


def test_rounds_under_vmap_over_keys_and_deadlines():
    population, first = people(), setting(examples=EXAMPLES)

    def total(seed, deadline):
        sampler = timed(sampling.with_dropout(sampling.full(N), 0.2), devices(), deadline=deadline, partial_work=True)
        state = sampler.memory.init(first)
        key = jax.random.key(seed)

        def one(state, number):
            cohort, state = sampler.memory.sample(state, key, number, population)
            return state, jnp.sum(cohort.reported, dtype=jnp.int32)

        state, reports = jax.lax.scan(one, state, jnp.arange(8, dtype=jnp.int32))
        return Seconds(*state.clock), reports

    seeds, deadlines = jnp.array([0, 1, 2]), jnp.array([8.0, 12.0, 1000.0], jnp.float32)
    clocks, reports = jax.jit(jax.vmap(total))(seeds, deadlines)
    single = jax.jit(total)
    for at in range(3):
        clock, own = single(seeds[at], deadlines[at])
        assert clock.whole == clocks.whole[at]
        assert clock.part == clocks.part[at]
        assert np.asarray(own).tolist() == np.asarray(reports[at]).tolist()


def test_what_an_accountant_reads_and_what_records_are_told():
    sampler = timed(sampling.uniform(6), exponential, reports=4)
    assert not sampler.accounting.amplification
    assert sampler.accounting.cohort_size == 4
    assert sampler.name.endswith("+timed")
    assert "clock" in sampler.accounting.note
    assert sampler.sample(jax.random.key(0), 0, people()).late.shape == (6,)


def test_a_clock_around_a_clock_is_refused():
    service = systems.service.constant(1.0)
    own = systems.fed_buff(2, concurrency=2, service=service, max_staleness=0)  # which keeps a single model
    for sampler in (own, timed(sampling.uniform(2), service)):
        with pytest.raises(ValueError, match="which has a clock of its own"):
            timed(sampler, service)


def test_a_service_of_other_clients_is_refused():
    sampler = systems.timed(sampling.uniform(2), systems.service.measured([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match=r"seconds of 3 clients, but the population has 5"):
        sampler.check(5)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"devices": 3}, "`devices` is 3"),
        ({"deadline": -1.0}, "`deadline` is -1.0"),
        ({"reports": 7}, "`reports` is 7; expected at most the sampler's capacity, 6"),
        ({"partial_work": True, "deadline": 3.0}, "`partial_work` is True without Devices"),
        ({"devices": devices(), "partial_work": True}, "`partial_work` is True without a `deadline`"),
        ({"memory_bytes": 5}, "without Devices.memory_bytes"),
        ({"devices": devices(memory_bytes=np.ones(N)), "memory_bytes": 5, "memory_models": 2}, "both given"),
        ({"devices": devices(up_bytes_per_second=np.zeros(N))}, "`Devices.up_bytes_per_second` is 0.0 for client 0"),
        ({"devices": devices(latency_seconds=np.zeros(3))}, r"`Devices.latency_seconds` has shape \[3\]"),
        ({"availability": 3}, "`availability` is 3; expected an Availability"),
        ({"sampler": timed(sampling.full(N), exponential)}, "a clock of its own"),
    ],
    ids=range(11),
)
def test_what_cannot_be_meant_is_refused(arguments, text):
    arguments: dict[str, Any] = {"sampler": sampling.full(N), "devices": exponential, **arguments}
    with pytest.raises((TypeError, ValueError), match=text):
        timed(**arguments)


def test_other_numbers_of_clients_are_refused():
    with pytest.raises(ValueError, match="`devices` are of 4 clients, but the population has 6"):
        timed(sampling.full(6), devices(4)).check(6)
    wrong = lambda key, number, cohort, population: jnp.float32(1)  # noqa: E731
    with pytest.raises(TypeError, match="`devices` returned"):
        run(timed(sampling.full(6), wrong), 1)
