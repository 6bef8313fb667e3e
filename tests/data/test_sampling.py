"""Participation: laws of every sampler, statistics of every draw, and the texts of refusals.

Statistical tests use fixed seeds and fail below p = 1e-5: a correct sampler under another seed fails one test in
100,000. Draws come in bulk, one compiled program of `vmap` over rounds each.
"""

import gc
import logging
import math
import weakref
from collections.abc import Callable
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import some_often
from hypothesis import strategies as st

from fedjaxlite import sampling
from fedjaxlite.data.population import Population
from fedjaxlite.sampling import draws

FALSE_ALARM = 1e-5
N = 23
KEY = jax.random.key(7)


def people(sizes: Any) -> Population:
    sizes = np.asarray(sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return Population({}, jnp.asarray(offsets), int(sizes.max()))


def many(sampler: sampling.Sampler, population: Population, count: int, key: Any = KEY) -> sampling.Cohort:
    """The cohorts of rounds 0 to `count`, stacked, on the host."""
    drawn = jax.jit(jax.vmap(lambda r: sampler.sample(key, r, population)))(jnp.arange(count, dtype=jnp.int32))
    return jax.tree.map(np.asarray, drawn)


def chi_square(observed: Any, probabilities: Any) -> float:
    """The p-value of counts under probabilities that sum to 1, rare cells merged."""
    observed, expected = np.asarray(observed, float), np.asarray(probabilities, float) * np.sum(observed)
    order = np.argsort(expected)
    observed, expected = observed[order], expected[order]
    rare = np.searchsorted(np.cumsum(expected), 5.0) + 1
    observed = np.concatenate([[observed[:rare].sum()], observed[rare:]])
    expected = np.concatenate([[expected[:rare].sum()], expected[rare:]])
    return float(scipy.stats.chisquare(observed, expected).pvalue)


def subset_counts(ids: np.ndarray, n: int) -> np.ndarray:
    """How often each subset of its size was drawn, over all of them, `[C(n, K)]`."""
    seen, counts = np.unique(np.sort(ids, axis=1), axis=0, return_counts=True)
    return np.concatenate([counts, np.zeros(math.comb(n, ids.shape[1]) - len(seen))])


SAMPLERS: dict[str, Callable[[], sampling.Sampler]] = {
    "uniform": lambda: sampling.uniform(5),
    "poisson": lambda: sampling.poisson(rate=0.5, capacity=6, max_overflow=1.0),
    "cyclic": lambda: sampling.cyclic(3, min_separation=7),
    "full": lambda: sampling.full(N),
    "weighted": lambda: sampling.weighted(5),
    "weighted, no replacement": lambda: sampling.weighted(5, replacement=False),
    "available": lambda: sampling.available(4, sampling.diurnal(rounds_per_day=4), over_selection=1.3, dropout=0.2),
    "replay": lambda: sampling.replay([[3, 1, -1], [22, 0, 5]]),
    "stragglers": lambda: sampling.with_stragglers(sampling.full(N), 0.5, 0.1),
    "so many stragglers": lambda: sampling.with_stragglers(sampling.uniform(9, dropout=0.2), 0.5, 0.1, exact=True),
    "wrapped": lambda: sampling.with_deadline(
        sampling.with_stragglers(sampling.uniform(9, dropout=0.2), 0.5, 0.1),
        reports=5,
        deadline=20.0,
        latency=sampling.lognormal_latency(),
    ),
}


@pytest.mark.parametrize("name", some_often(SAMPLERS, 2))
def test_every_sampler_keeps_the_laws(name: str) -> None:
    sampler, population = SAMPLERS[name](), people(np.arange(N) % 6)
    sampler.check(N)

    def rounds(key: Any) -> sampling.Cohort:
        rounds = jnp.arange(5, dtype=jnp.int32)
        return jax.lax.scan(lambda c, r: (c, sampler.sample(key, r, population)), None, rounds)[1]

    run = jax.jit(jax.vmap(rounds))
    keys = jax.random.split(KEY, 3)
    batch = jax.tree.map(np.asarray, run(keys))
    # A function of key and round: neither the place under vmap nor the number of the call matters.
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[::-1], np.asarray(b)), batch, run(keys[::-1]))
    plain = jax.tree.map(lambda x: x[1, 3], batch)
    late = () if plain.late is None else (plain.late,)  # None where nobody can be late
    assert [x.dtype.name for x in plain[:6]] == ["int32", "bool", "bool", "float32", "float32", "int32"]
    assert [x.shape for x in plain[:6]] == [(sampler.capacity,)] * 5 + [()]
    assert [(x.dtype.name, x.shape) for x in late] == [("bool", (sampler.capacity,))] * len(late)
    for place in np.ndindex(batch.overflow.shape):
        assert len(set(batch.ids[place][batch.selected[place]])) == batch.selected[place].sum()
    assert (batch.ids >= 0).all()
    assert (batch.ids < N).all()
    assert not (batch.reported & ~batch.selected).any()
    assert (batch.ids[~batch.selected] == 0).all()
    assert (batch.work[~batch.selected] == 1).all()
    assert (batch.scale[~batch.selected] == 1).all()
    assert ((batch.work > 0) & (batch.work <= 1)).all()
    assert (batch.overflow >= 0).all()
    assert sampler.may_overflow or (batch.overflow == 0).all()
    assert (batch.scale > 0).all()
    assert sampler.scaled or (batch.scale == 1).all()


@pytest.mark.parametrize("name", ["poisson", "stragglers"])
def test_a_plain_call_draws_what_a_compiled_scan_draws(name: str) -> None:
    sampler, population = SAMPLERS[name](), people(1 + np.arange(N) % 6)
    plain, compiled = sampler.sample(KEY, 2, population), many(sampler, population, 3)
    jax.tree.map(lambda one, scanned: np.testing.assert_array_equal(np.asarray(one), scanned[2]), plain, compiled)


def test_rounds_and_keys_draw_anew() -> None:
    sampler, population = sampling.uniform(11), people(np.ones(N, int))
    keys, rounds = jax.random.split(KEY, 60), jnp.arange(60, dtype=jnp.int32) // 2
    ids = np.asarray(jax.jit(jax.vmap(lambda k, r: sampler.sample(k, r, population).ids))(keys, rounds))
    assert len(np.unique(np.sort(ids, axis=1), axis=0)) > 57


# uniform, and the draws beneath


@pytest.mark.parametrize(("n", "size"), [(7, 3), (7, 5)])
def test_uniform_draws_every_subset_equally_often(n: int, size: int) -> None:
    ids = many(sampling.uniform(size), people(np.ones(n, int)), 20_000).ids
    counts = subset_counts(ids, n)
    assert chi_square(counts, np.full(counts.shape, 1 / counts.size)) > FALSE_ALARM


@pytest.mark.parametrize(("n", "size"), [(1, 1), (300, 300), (1_000_000, 100)])
def test_uniform_is_distinct_at_every_size(n: int, size: int) -> None:
    ids = sampling.uniform(size).sample(KEY, 0, people(np.ones(n, int))).ids
    assert len(np.unique(ids)) == size
    assert np.min(ids) >= 0
    assert np.max(ids) < n


@hypothesis.given(limit=st.integers(0, 64), target=st.integers(0, 32), seed=st.integers(0, 1000))
def test_distinct_draws_never_fall_short(limit: int, target: int, seed: int) -> None:
    # Four draws a turn, so that the loop goes round many times.
    values = np.asarray(_few_at_a_time(jax.random.key(seed), jnp.int32(limit), jnp.int32(target)))
    wanted = values[: min(limit, target)]
    assert len(set(wanted)) == min(limit, target)
    assert ((wanted >= 0) & (wanted < limit)).all()


_few_at_a_time = jax.jit(lambda k, limit, target: draws.first_distinct(k, limit, target, slots=32, size=64, batch=4))


def test_distinct_draws_are_uniform_whatever_the_batch() -> None:
    def draw(seed: Any) -> Any:
        return draws.first_distinct(jax.random.fold_in(KEY, seed), 5, 3, slots=3, size=8, batch=2)

    values = np.asarray(jax.jit(jax.vmap(draw))(jnp.arange(20_000, dtype=jnp.int32)))
    _, counts = np.unique(values, axis=0, return_counts=True)
    assert counts.size == 5 * 4 * 3  # every order too
    assert chi_square(counts, np.full(60, 1 / 60)) > FALSE_ALARM


@pytest.mark.parametrize("limit", [1, 5, 8])
def test_integers_are_uniform(limit: int) -> None:
    values = np.asarray(draws.integers(KEY, jnp.int32(limit), count=20_000))
    counts = np.bincount(values, minlength=limit)
    assert counts.size == limit
    assert limit == 1 or chi_square(counts, np.full(limit, 1 / limit)) > FALSE_ALARM


# Poisson


def test_poisson_sizes_and_inclusions() -> None:
    n, rate, count = 12, 0.3, 20_000
    cohort = many(sampling.poisson(rate, n), people(np.ones(n, int)), count)
    sizes = np.bincount(cohort.selected.sum(1), minlength=n + 1)
    assert chi_square(sizes, scipy.stats.binom.pmf(np.arange(n + 1), n, rate)) > FALSE_ALARM
    present = np.zeros((count, n + 1), bool)
    np.put_along_axis(present, np.where(cohort.selected, cohort.ids, n), True, axis=1)
    together = present[:, :n].T.astype(float) @ present[:, :n]
    expected = np.where(np.eye(n, dtype=bool), rate, rate**2)
    z = (together / count - expected) / np.sqrt(expected * (1 - expected) / count)
    assert np.abs(z).max() < scipy.stats.norm.isf(FALSE_ALARM / n**2 / 2)


def test_poisson_overflow_is_counted_and_cut_without_preference() -> None:
    n, count, population = 9, 20_000, people(np.ones(9, int))
    samplers = sampling.poisson(0.5, n), sampling.poisson(0.5, 4, max_overflow=1.0)
    both = jax.jit(jax.vmap(lambda r: [s.sample(KEY, r, population) for s in samplers]))
    everyone, cut = jax.tree.map(np.asarray, both(jnp.arange(count, dtype=jnp.int32)))
    size = everyone.selected.sum(1)
    np.testing.assert_array_equal(cut.overflow, np.maximum(size - 4, 0))
    np.testing.assert_array_equal(cut.selected.sum(1), np.minimum(size, 4))
    kept = np.bincount(cut.ids[(size > 4)].ravel(), minlength=n)
    # Clients of one round exclude each other, so counts vary less than a multinomial's: the test is conservative.
    assert chi_square(kept, np.full(n, 1 / n)) > FALSE_ALARM


def test_poisson_with_rate_one_takes_everyone() -> None:
    sampler = sampling.poisson(1.0, N)
    sampler.check(N)
    assert bool(sampler.sample(KEY, 0, people(np.ones(N, int))).selected.all())


@pytest.mark.parametrize(
    ("n", "rate", "capacity"),
    [
        (100, 0.1, 40),
        (100, 0.1, 5),
        (10**6, 0.01, 10_500),
        (10**6, 1e-4, 160),
        (50, 0.9, 48),
        (10, 1.0, 9),
        (5, 0.5, 5),
    ],
)
def test_overflow_probability_is_the_binomial_tail(n: int, rate: float, capacity: int) -> None:
    expected = scipy.stats.binom.sf(capacity, n, rate)
    np.testing.assert_allclose(sampling.overflow_probability(n, rate, capacity), expected, rtol=1e-7, atol=1e-300)


@pytest.mark.parametrize(("n", "rate"), [(100, 0.1), (10**6, 1e-3), (3, 0.5)])
def test_poisson_capacity_is_the_smallest_that_suffices(n: int, rate: float) -> None:
    capacity = sampling.poisson_capacity(n, rate)
    assert sampling.overflow_probability(n, rate, capacity) <= 1e-6
    assert sampling.overflow_probability(n, rate, capacity - 1) > 1e-6
    sampling.poisson(rate, capacity).check(n)


# cyclic


@pytest.mark.parametrize(("n", "size", "separation"), [(23, 3, 7), (23, 5, 1)])
def test_cyclic_keeps_the_separation_in_every_round(n: int, size: int, separation: int) -> None:
    sampler = sampling.cyclic(size, separation)
    sampler.check(n)
    ids = many(sampler, people(np.ones(n, int)), 60).ids
    last: dict[int, int] = {}
    for r, row in enumerate(ids):
        assert len(set(row)) == size
        for client in row:
            assert r - last.get(client, -separation) >= separation
            last[client] = r
    assert np.bincount(ids.ravel()).max() <= sampler.accounting.participations(60)


def test_cyclic_deals_the_groups_by_the_key() -> None:
    sampler, population = sampling.cyclic(2, 5), people(np.ones(11, int))
    keys = jax.random.split(KEY, 20_000)
    draw = jax.jit(jax.vmap(lambda k, r: sampler.sample(k, r, population).ids, in_axes=(0, None)))
    for r in (0, 3):  # a group of three clients, and one of two
        counts = subset_counts(np.asarray(draw(keys, jnp.int32(r))), 11)
        assert chi_square(counts, np.full(counts.shape, 1 / counts.size)) > FALSE_ALARM


# weighted


@pytest.mark.parametrize("weights", ["num_examples", [5.0, 1.0, 1e-3, 2.5, 0.5, 1.0]])
def test_weighted_estimates_are_unbiased(weights: Any) -> None:
    sizes, values = np.array([9, 1, 4, 2, 7, 30]), np.array([1.0, -2.0, 0.01, 0.5, 3.0, -1.0])
    cohort = many(sampling.weighted(3, weights), people(sizes), 40_000)
    weight = np.where(cohort.selected, cohort.scale, 0).astype(float)
    estimates = [(weight * values[cohort.ids]).sum(1) / 3]  # fl.mean(over=3)
    targets = [values.mean()]
    if weights == "num_examples":  # fl.weighted_mean()
        weight = weight * sizes[cohort.ids]
        estimates.append((weight * values[cohort.ids]).sum(1) / weight.sum(1))
        targets.append((sizes * values).sum() / sizes.sum())
    for estimate, target in zip(estimates, targets, strict=True):
        z = (estimate.mean() - target) / (estimate.std() / math.sqrt(estimate.size))
        assert abs(z) < scipy.stats.norm.isf(FALSE_ALARM / 2)
        assert estimate.std() > 0.1


def test_weighted_counts_are_multinomial() -> None:
    sizes = np.array([4, 0, 1, 3])
    cohort = many(sampling.weighted(2), people(sizes), 20_000)
    times = np.where(cohort.selected, cohort.scale * 4 * sizes[cohort.ids] / 8, 0)
    np.testing.assert_allclose(times, np.rint(times), atol=1e-5)
    assert (times.sum(1).round() == 2).all()
    p = sizes / 8
    twice = np.bincount(cohort.ids[cohort.selected.sum(1) == 1, 0], minlength=4)
    assert chi_square([*twice[p > 0], len(times) - twice.sum()], [*(p**2)[p > 0], 1 - (p**2).sum()]) > FALSE_ALARM


@pytest.mark.parametrize("by_examples", [True, False])
def test_weighted_without_replacement_is_successive_sampling(by_examples: bool) -> None:
    sizes = np.array([6, 1, 0, 2, 3])
    sampler = sampling.weighted(2, "num_examples" if by_examples else sizes / 7, replacement=False)
    ids = np.sort(many(sampler, people(sizes), 20_000).ids, axis=1)
    p = sizes / sizes.sum()
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5) if p[i] * p[j] > 0]
    expected = [p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i, j in pairs]
    counts = [int(((ids[:, 0] == i) & (ids[:, 1] == j)).sum()) for i, j in pairs]
    assert sum(counts) == len(ids)
    assert chi_square(counts, expected) > FALSE_ALARM


@pytest.mark.parametrize("replacement", [True, False])
def test_weighted_never_takes_a_client_without_examples(replacement: bool) -> None:
    sampler = sampling.weighted(4, replacement=replacement)
    draw = jax.jit(jax.vmap(lambda r, population: sampler.sample(KEY, r, population), in_axes=(0, None)))
    rounds = jnp.arange(50, dtype=jnp.int32)
    some = jax.tree.map(np.asarray, draw(rounds, people([0, 3, 0, 0, 2])))
    assert set(some.ids[some.selected]) == {1, 4}
    nobody = draw(rounds, Population({}, jnp.zeros((6,), jnp.int32), 3))
    assert not bool(nobody.selected.any())
    assert bool(jnp.isfinite(nobody.scale).all())


# availability


def test_available_takes_available_clients_alike() -> None:
    table = np.zeros((2, 8), bool)
    table[0, [0, 2, 3, 5, 7]] = True
    table[1, [1, 6]] = True
    cohort = many(sampling.available(3, table), people(np.ones(8, int)), 20_000)
    even, odd = cohort.ids[::2], cohort.ids[1::2]
    assert cohort.selected[::2].all()
    counts = subset_counts(even, 5)
    assert set(even.ravel()) == {0, 2, 3, 5, 7}
    assert chi_square(counts, np.full(10, 0.1)) > FALSE_ALARM
    assert (cohort.selected[1::2].sum(1) == 2).all()
    assert set(odd[cohort.selected[1::2]]) == {1, 6}


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 40])
def test_available_with_any_number_of_clients(count: int) -> None:
    mask = np.random.default_rng(count).permutation(np.arange(40) < count)
    cohort = _sample_masked(jnp.asarray(mask))
    ids = np.asarray(cohort.ids)[np.asarray(cohort.selected)]
    assert len(set(ids)) == len(ids) == min(7, count)
    assert mask[ids].all()


@jax.jit
def _sample_masked(mask: Any) -> sampling.Cohort:
    sampler = sampling.available(7, sampling.Trace(lambda r, n: {"given": mask}))
    return sampler.sample(KEY, 0, people(np.ones(40, int)))


def test_diurnal_needs_all_three_conditions_and_follows_the_day() -> None:
    trace = sampling.diurnal(rounds_per_day=24)
    held = jax.jit(jax.vmap(lambda r: trace.conditions(r, 2000)))(jnp.arange(96, dtype=jnp.int32))
    together = jax.jit(jax.vmap(lambda r: trace.available(r, 2000)))(jnp.arange(96, dtype=jnp.int32))
    assert sorted(held) == ["charging", "idle", "wireless"]
    np.testing.assert_array_equal(together, held["charging"] & held["idle"] & held["wireless"])
    share = np.asarray(together).mean(1)
    assert share[26:29].min() > 0.35  # two to four in the second night
    assert share[36:42].max() < 0.05  # noon to six
    # Nights differ and so do clients.
    nights = np.asarray(together)[[26, 50, 74]]
    assert 0.2 < (nights[0] != nights[1]).mean() < 0.6
    assert len(np.unique(np.asarray(together), axis=1).T) > 1000


def test_diurnal_is_the_seeds_and_the_clients_own() -> None:
    cases = [(0, 400), (0, 50), (1, 400)]
    compiled = jax.jit(lambda r: [sampling.diurnal(seed=seed).available(r, n) for seed, n in cases])
    table, fewer, other = map(np.asarray, compiled(jnp.int32(10)))
    np.testing.assert_array_equal(fewer, table[:50])
    assert 0.2 < (table != other).mean() < 0.8


def test_diurnal_windows_open_and_close_on_time() -> None:
    always, night = sampling.Window(12.0, 24.0), sampling.Window(22.0, 4.0)
    trace = sampling.diurnal(
        rounds_per_day=24, zone_spread=0, person_spread=0, daily_spread=0, idle=night, charging=always, wireless=always
    )
    together = jax.jit(jax.vmap(lambda r: trace.available(r, 3)))(jnp.arange(48, dtype=jnp.int32))
    assert np.flatnonzero(np.asarray(together).all(1)).tolist() == [0, 1, 22, 23, 24, 25, 46, 47]


def test_over_selection_closes_the_round_when_enough_have_reported() -> None:
    sampler = sampling.available(10, np.ones((1, 40), bool), over_selection=1.3, dropout=0.15)
    assert (sampler.capacity, sampler.accounting.cohort_size) == (13, 10)
    cohort = many(sampler, people(np.ones(40, int)), 200)
    assert cohort.selected.all()
    reports = cohort.reported.sum(1)
    assert reports.max() == 10
    assert 5 < reports.min() < 10


# dropout, stragglers, deadlines


def test_fates_depend_on_the_client_and_not_on_its_slot() -> None:
    order = np.random.default_rng(0).permutation(N)
    population, fates = people(1 + np.arange(N)), []
    for ids in (np.arange(N), order):
        sampler = sampling.with_stragglers(sampling.replay(ids[None]), 0.5, 0.2)
        sampler = sampling.with_deadline(
            sampling.with_dropout(sampler, 0.4), reports=6, deadline=30.0, latency=sampling.lognormal_latency()
        )
        cohort = sampler.sample(KEY, 0, population)
        fates.append([np.asarray(x)[np.argsort(ids)] for x in (cohort.reported, cohort.work)])
    np.testing.assert_array_equal(fates[0][0], fates[1][0])
    np.testing.assert_array_equal(fates[0][1], fates[1][1])
    assert fates[0][0].sum() == 6


def test_dropout_has_its_rate_and_two_layers_are_independent() -> None:
    count, population = 500, people(np.ones(40, int))
    once = sampling.with_dropout(sampling.full(40), 0.3)
    for sampler, rate in ((once, 0.3), (sampling.with_dropout(once, 0.3), 0.51)):
        lost = int((~many(sampler, population, count).reported).sum())
        assert scipy.stats.binomtest(lost, 40 * count, rate).pvalue > FALSE_ALARM


def test_a_dropout_rate_may_be_traced_and_vmapped() -> None:
    def reports(rate: Any) -> Any:
        return sampling.uniform(400, dropout=rate).sample(KEY, 0, people(np.ones(500, int))).reported.sum()

    counts = np.asarray(jax.jit(jax.vmap(reports))(jnp.array([0.0, 0.25, 0.75])))
    assert counts[0] == 400
    assert 250 < counts[1] < 350
    assert 60 < counts[2] < 140


def test_stragglers_do_a_uniform_share() -> None:
    sampler = sampling.with_stragglers(sampling.full(40), 0.6, 0.2)
    work = many(sampler, people(np.ones(40, int)), 500).work.ravel()
    slow = work[work < 1]
    assert scipy.stats.binomtest(slow.size, work.size, 0.6).pvalue > FALSE_ALARM
    assert slow.min() > 0.2
    assert scipy.stats.kstest(slow, scipy.stats.uniform(0.2, 0.8).cdf).pvalue > FALSE_ALARM


@pytest.mark.parametrize("make", [sampling.uniform, lambda size: sampling.poisson(size / N, N)])
def test_exactly_so_many_are_stragglers_and_each_as_often(make: Callable[[int], sampling.Sampler]) -> None:
    population, count = people(np.ones(N, int)), 2000

    def slow_of(fraction: Any) -> Any:
        sampler = sampling.with_stragglers(make(10), fraction, 0.0, exact=True)
        drawn = jax.vmap(lambda r: sampler.sample(KEY, r, population))(jnp.arange(count, dtype=jnp.int32))
        return drawn.ids, drawn.selected, drawn.work

    fractions = np.float32([0.0, 0.3, 0.9, 1.0])
    ids, selected, work = map(np.asarray, jax.jit(jax.vmap(slow_of))(fractions))
    slow = work < 1
    assert not (slow & ~selected).any()
    wanted = np.round(fractions[:, None] * selected.sum(2, dtype=np.float32))
    np.testing.assert_array_equal(slow.sum(2), wanted)
    assert chi_square(np.bincount(ids[1][slow[1]], minlength=N), np.full(N, 1 / N)) > FALSE_ALARM
    assert scipy.stats.kstest(work[2][slow[2]], scipy.stats.uniform(0, 1).cdf).pvalue > FALSE_ALARM


def test_exact_stragglers_depend_on_no_slot_and_always_leave_work_undone() -> None:
    order, fates = np.random.default_rng(0).permutation(N), []
    for ids in (np.arange(N), order):
        sampler = sampling.with_stragglers(sampling.replay(ids[None]), 0.5, 1 - 2.0**-16, exact=True)
        fates.append(np.asarray(sampler.sample(KEY, 0, people(1 + np.arange(N))).work)[np.argsort(ids)])
    np.testing.assert_array_equal(fates[0], fates[1])
    assert (fates[0] < 1).sum() == 12  # 11.5, to the even one


def test_a_deadline_cuts_the_slow_and_the_late() -> None:
    def latency(key: Any, round_number: Any, cohort: sampling.Cohort, population: Population) -> Any:
        return cohort.ids.astype(jnp.float32) * cohort.work

    base = sampling.replay([[5, 1, 9, 3, -1]])
    reported = {
        (reports, deadline): sampling.with_deadline(base, reports=reports, deadline=deadline, latency=latency)
        .sample(KEY, 0, None)
        .reported.tolist()
        for reports, deadline in [(None, 5.0), (2, math.inf), (5, 100.0)]
    }
    assert reported[None, 5.0] == [True, True, False, True, False]
    assert reported[2, math.inf] == [False, True, False, True, False]
    assert reported[5, 100.0] == [True, True, True, True, False]


def test_latency_keeps_a_devices_speed_over_rounds() -> None:
    latency, population = sampling.lognormal_latency(overhead=0.0, seconds_per_example=1.0), people([4, 4, 8] * 300)
    cohort = sampling.full(900).sample(KEY, 0, population)
    first, second = (np.log(np.asarray(latency(KEY, r, cohort, population))) for r in (0, 1))
    assert np.corrcoef(first, second)[0, 1] > 0.6
    assert abs(np.median(first[2::3]) - math.log(8)) < 0.2
    assert abs(np.std(first[::3]) - math.hypot(0.6, 0.3)) < 0.1


# replay, accounting, differentiation


def test_replay_is_exact_and_ends() -> None:
    table = np.array([[4, 0, 2], [1, -1, -1]])
    sampler = sampling.replay(table)
    cohort = many(sampler, people(np.ones(5, int)), 4)
    np.testing.assert_array_equal(np.where(cohort.selected, cohort.ids, -1), [*table, [-1] * 3, [-1] * 3])
    assert sampler.num_rounds == 2
    assert sampler.accounting.max_participations == 1
    assert not bool(sampler.sample(KEY, -1, None).selected.any())


def test_accounting_says_what_holds() -> None:
    accounts = {name: make().accounting for name, make in SAMPLERS.items()}
    amplified = {name for name, a in accounts.items() if a.amplification}
    assert amplified == {n for n in SAMPLERS if n.startswith(("uniform", "poisson"))}
    slow = accounts["so many stragglers"]
    assert slow.kind == "without_replacement"
    assert "a client's work depends on who else was drawn" in slow.note
    assert sampling.with_stragglers(sampling.full(N), 0.5, 0.1, exact=True).accounting.kind == "availability"
    assert accounts["uniform"].expected_size(N) == 5
    assert accounts["poisson"].expected_size(100) == pytest.approx(50)
    assert accounts["cyclic"].participations(15) == 3
    assert accounts["replay"].participations(100) == 1
    assert accounts["uniform"].participations(100) == 100
    assert "Dropouts" in sampling.uniform(5, dropout=0.1).accounting.note
    late = sampling.with_deadline(sampling.uniform(5), reports=3).accounting
    assert (late.amplification, late.cohort_size) == (False, 3)


def test_a_round_with_sampling_in_it_can_be_differentiated() -> None:
    sampler, population = sampling.with_dropout(sampling.uniform(3), 0.2), people(np.ones(N, int))

    def loss(x: Any) -> Any:
        def step(total: Any, r: Any) -> tuple[Any, None]:
            cohort = sampler.sample(KEY, r, population)
            return total + jnp.sum(jnp.where(cohort.reported, x[cohort.ids] ** 2, 0.0)), None

        return jax.lax.scan(step, jnp.float32(0), jnp.arange(4, dtype=jnp.int32))[0]

    cohort = many(sampler, population, 4)
    expected = 2 * np.bincount(cohort.ids[cohort.reported], minlength=N)
    ones = jnp.ones(N)
    reverse, forward = jax.jit(lambda x: (jax.grad(loss)(x), jax.jvp(loss, (x,), (x,))[1]))(ones)
    np.testing.assert_allclose(reverse, expected)
    np.testing.assert_allclose(forward, expected.sum())


# refusals

REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: sampling.with_stragglers(sampling.full(5), 0.5, 0.1, exact="yes"),  # type: ignore[arg-type]
        TypeError,
        "`exact` is 'yes'; expected True or False",
    ),
    (lambda: sampling.uniform(0), ValueError, "`cohort_size` is 0; expected an int of at least 1"),
    (lambda: sampling.uniform(2.5), TypeError, "`cohort_size` is 2.5; expected an int"),  # type: ignore[arg-type]
    (lambda: sampling.uniform(24).check(N), ValueError, "`cohort_size` is 24, but the population has 23 clients. Use"),
    (lambda: sampling.uniform(3, dropout=1.0), ValueError, r"`dropout` is 1.0; expected a number in \[0, 1\)"),
    (lambda: sampling.uniform(3, dropout=-0.1), ValueError, r"`dropout` is -0.1; expected a number in \[0, 1\)"),
    (
        lambda: sampling.full(5).check(6),
        ValueError,
        r"full\(5\) takes everyone .* population has 6. Use fl.sampling.full",
    ),
    (lambda: sampling.poisson(0.0, 5), ValueError, r"`rate` is 0.0; expected a number in \(0, 1\]"),
    (lambda: sampling.poisson(-0.5, 5), ValueError, "`rate` is -0.5; expected"),
    (lambda: sampling.poisson(1.5, 5), ValueError, "`rate` is 1.5; expected"),
    (lambda: sampling.poisson(float("nan"), 5), ValueError, "`rate` is nan; expected"),
    (lambda: sampling.poisson(1e-12, 5), ValueError, r"expected at least 2\^-32"),
    (lambda: sampling.poisson(0.1, 0), ValueError, "`capacity` is 0; expected an int of at least 1"),
    (lambda: sampling.poisson(0.1, 20).check(100), ValueError, r"more than 20 with probability 0.000808.* capacity=27"),
    (lambda: jax.jit(lambda q: sampling.poisson(q, 5))(0.1), TypeError, "`rate` is traced; expected a concrete number"),
    (lambda: sampling.cyclic(3, 0), ValueError, "`min_separation` is 0; expected an int of at least 1"),
    (
        lambda: sampling.cyclic(3, 8).check(N),
        ValueError,
        "needs 24 clients, but the population has 23. Use min_sep.*=7",
    ),
    (lambda: sampling.weighted(3, "size"), ValueError, "`weights` is 'size'; expected one of 'num_examples'"),  # type: ignore[arg-type]
    (lambda: sampling.weighted(3, [1, 2]).check(5), ValueError, "`weights` has 2 entries, but the population has 5"),
    (lambda: sampling.weighted(1, [1.0, -2.0]), ValueError, r"`weights` is -2.0 for client 1"),
    (lambda: sampling.weighted(1, [float("nan"), 1]), ValueError, "`weights` is nan for client 0"),
    (lambda: sampling.weighted(1, [0, 0]), ValueError, "`weights` are all 0"),
    (lambda: sampling.weighted(1, [[1.0]]), ValueError, r"`weights` has shape \[1, 1\]"),  # type: ignore[list-item]
    (lambda: sampling.weighted(1, ["a"]), TypeError, "`weights` has dtype <U1"),  # type: ignore[list-item]
    (lambda: sampling.weighted(2, [1, 0], replacement=False), ValueError, "only 1 of the `weights` are positive"),
    (
        lambda: sampling.weighted(6, replacement=False).check(5),
        ValueError,
        "`cohort_size` is 6, but the population has 5",
    ),
    (lambda: sampling.replay([1, 2]), ValueError, r"`ids` has shape \[2\]; expected \[rounds, cohort\]"),
    (lambda: sampling.replay([[1.0]]), TypeError, "`ids` has dtype float64; expected integers"),
    (lambda: sampling.replay([[0, 1], [4, 4]]), ValueError, "holds client 4 twice in round 1"),
    (lambda: sampling.replay([[0, -2]]), ValueError, "holds -2 in round 0, slot 1"),
    (
        lambda: sampling.replay([[0, 7]]).check(7),
        ValueError,
        "holds 7 in round 0, slot 1, but the population has 7 clients",
    ),
    (lambda: sampling.available(9, np.ones((1, 5), bool)).check(5), ValueError, "9 clients are to be selected a round"),
    (
        lambda: sampling.available(2, np.ones((1, 5), bool)).check(6),
        ValueError,
        "is of 5 clients, but the population has 6",
    ),
    (
        lambda: sampling.available(2, np.ones(5, bool)),
        ValueError,
        r"`available` has shape \[5\]; expected \[rounds, cli",
    ),
    (lambda: sampling.available(2, [[0.5]]), ValueError, "values other than 0 and 1"),
    (
        lambda: sampling.available(2, [[True]], over_selection=0.9),
        ValueError,
        "`over_selection` is 0.9; expected at least 1",
    ),
    (lambda: sampling.available(2, [[True]], deadline=3.0), ValueError, "`deadline` is 3.0 without a `latency`"),
    (lambda: sampling.with_dropout(sampling.full(2), 1.0), ValueError, r"`rate` is 1.0; expected a number in \[0, 1\)"),
    (lambda: sampling.with_stragglers(sampling.full(2), 1.5, 0.1), ValueError, r"`fraction` is 1.5; expected"),
    (lambda: sampling.with_stragglers(sampling.full(2), 0.5, 1.0), ValueError, r"`min_work` is 1.0; expected"),
    (
        lambda: sampling.with_deadline(sampling.full(2), reports=3),
        ValueError,
        "`reports` is 3; expected at most .* capacity, 2",
    ),
    (
        lambda: sampling.lognormal_latency(overhead=-1.0),
        ValueError,
        "`overhead` is -1.0; expected a number of at least 0",
    ),
    (lambda: sampling.diurnal(rounds_per_day=0), ValueError, "`rounds_per_day` is 0; expected an int of at least 1"),
    (lambda: sampling.diurnal(seed=0.5), TypeError, "`seed` is 0.5; expected an int"),  # type: ignore[arg-type]
    (lambda: sampling.diurnal(zone_spread=13.0), ValueError, r"`zone_spread` is 13.0; expected hours in \[0, 12\]"),
    (
        lambda: sampling.diurnal(idle=sampling.Window(6.0, 8.0)),
        ValueError,
        "`idle` opens at 6.0 .* past the next local noon",
    ),
    (lambda: sampling.diurnal(idle=(6.0, 8.0)), TypeError, r"`idle` is \(6.0, 8.0\); expected a fl.sampling.Window"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("build", "error", "text"), REFUSED, ids=[text[:40] for _, _, text in REFUSED])
def test_bad_arguments_are_refused(build: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build()


# outside of a program


def compilations(caplog: pytest.LogCaptureFixture, call: Callable[[], Any]) -> list[str]:
    """The programs that JAX compiles in a call."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        jax.block_until_ready(call())
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling")]


@pytest.mark.parametrize("name", some_often(SAMPLERS, 2, first=1))
def test_a_cohort_is_drawn_outside_of_jit_without_compiling_anew(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """As data that stream are: round by round, on the host. Another sampler and population of the same sizes too."""
    first, others = people(1 + np.arange(N) % 6), people(1 + np.arange(N) % 5)
    sampler = SAMPLERS[name]()
    sampler.sample(KEY, 0, first)
    assert not compilations(caplog, lambda: [sampler.sample(KEY, r, first) for r in range(1, 4)])
    assert not compilations(caplog, lambda: SAMPLERS[name]().sample(jax.random.key(8), 1, others))


def test_whole_cohorts_are_vmapped_without_compiling_anew(caplog: pytest.LogCaptureFixture) -> None:
    population, keys = people(np.ones(N, int)), jax.random.split(KEY, 3)
    draw = lambda sampler: jax.vmap(lambda k: sampler.sample(k, 0, population))(keys)  # noqa: E731
    draw(sampling.cyclic(3, min_separation=7))
    assert not compilations(caplog, lambda: draw(sampling.cyclic(3, min_separation=7)))


def test_features_are_neither_read_nor_kept_by_a_draw(caplog: pytest.LogCaptureFixture) -> None:
    """They may be a file on a disk, and larger than the device."""

    class Untouched:
        shape, dtype = (46, 3), np.dtype(np.float32)

        def __array__(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("a feature was read")

    offsets = np.arange(0, 47, 2, dtype=np.int32)
    population = Population({"x": Untouched()}, offsets, 2)
    kept = weakref.ref(population)
    for name, make in SAMPLERS.items():
        assert make().sample(KEY, 0, population).ids.shape, name
    del population
    gc.collect()
    assert kept() is None
