"""Samplers that remember what clients told: closed forms on four clients, laws of their cohorts, texts of refusals.

Statistical tests use fixed seeds and fail below p = 1e-5: a correct sampler under another seed fails one test in
100,000. Draws come in bulk, one compiled program of `vmap` over keys each.
"""

import math
from collections.abc import Callable
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import fedjaxlite as fl
from fedjaxlite import sampling, testing
from fedjaxlite.data.population import Population
from fedjaxlite.sampling import utility
from fedjaxlite.sampling.utility import scores

FALSE_ALARM = 1e-5
KEY = jax.random.key(11)
DRAWS = 20_000


def people(sizes: Any) -> Population:
    offsets = np.concatenate([[0], np.cumsum(np.asarray(sizes))]).astype(np.int32)
    return Population({}, jnp.asarray(offsets), int(np.max(sizes)))


def memory_of(sampler: sampling.Sampler) -> sampling.Memory:
    assert sampler.memory is not None
    return sampler.memory


def first(sampler: sampling.Sampler, population: Population) -> Any:
    setting = sampling.Setting(population.num_clients, population.num_examples, 0, 0, None, 0)
    return memory_of(sampler).init(setting)


def drawing(sampler: sampling.Sampler, population: Population) -> Callable[[Any, Any, Any], Any]:
    """`sample` of the memory, as one program for all rounds."""
    return jax.jit(lambda state, key, number: memory_of(sampler).sample(state, key, number, population))


def counts(sampler: sampling.Sampler, state: Any, population: Population, round_number: int = 3) -> np.ndarray:
    """How often each client is drawn from one state, over many keys."""
    draw = lambda key: memory_of(sampler).sample(state, key, jnp.int32(round_number), population)[0]  # noqa: E731
    drawn = jax.jit(jax.vmap(draw))(jax.random.split(KEY, DRAWS))
    ids, taken = np.asarray(drawn.ids), np.asarray(drawn.selected)
    assert all(len(set(row[slots])) == slots.sum() for row, slots in zip(ids[:500], taken[:500], strict=True))
    return np.bincount(ids[taken], minlength=population.num_clients)


def p_of_uniform(observed: np.ndarray, size: int) -> float:
    """Of inclusion counts of draws of `size` out of N without replacement, whose covariance is known.

    Each count has variance D p (1 - p), and counts are correlated by -1 / (N - 1): the sum of squares over
    D p (1 - p) N / (N - 1) is chi-square with N - 1 degrees of freedom.
    """
    n, p = len(observed), size / len(observed)
    spread = DRAWS * p * (1 - p) * n / (n - 1)
    return float(scipy.stats.chi2.sf(((observed - DRAWS * p) ** 2).sum() / spread, n - 1))


def heard(state: Any, losses: list[float], sizes: list[int], last: list[int]) -> Any:
    worth = utility.statistical_utility(jnp.array(sizes), jnp.array(losses))
    return state._replace(utility=worth, last=jnp.array(last, jnp.int32))


# closed forms


def test_the_worth_of_four_clients_by_hand() -> None:
    every, seconds = jnp.ones((4,), bool), jnp.array([5.0, 10.0, 20.0, 40.0])

    @jax.jit
    def told() -> Any:
        sizes, losses = jnp.array([10, 20, 30, 40]), jnp.array([2.0, 0.5, jnp.nan, jnp.inf])
        return {
            "statistical": utility.statistical_utility(sizes, losses),
            "system": [utility.system_utility(seconds, t, a) for t, a in ((10.0, 2.0), (10.0, 0.0), (math.inf, 2.0))],
            "bonus": utility.staleness_bonus(7, jnp.array([0, 1, 4, 7])),
            "first bonus": utility.staleness_bonus(1, jnp.array([1])),
            # The cap is entry floor(0.5 * 4) = 2 of 1, 2, 3, 1000.
            "scaled": utility.scaled(jnp.array([1000.0, 1.0, 3.0, 2.0]), every, 0.5),
            "nothing": [utility.scaled(jnp.zeros((4,)), every, 0.95), utility.scaled(seconds, ~every, 0.95)],
            "there": utility.predicted_availability(jnp.array([0.0, 1.0, 2.0, 2.0]), 2.0),
        }

    found = jax.tree.map(lambda x: x.tolist(), told())
    assert found["statistical"] == [20.0, 10.0, 0.0, 0.0]
    assert found["system"] == [[1.0, 1.0, 0.25, 0.0625], [1.0] * 4, [1.0] * 4]
    bonus = [0.0, *(math.sqrt(0.1 * math.log(7) / last) for last in (1, 4, 7))]
    np.testing.assert_allclose(found["bonus"], bonus, rtol=1e-6)
    assert found["first bonus"] == [0.0]
    np.testing.assert_allclose(found["scaled"], [1.0, 0.001 / 2.001, 1.0, 1.001 / 2.001], rtol=1e-4)
    assert found["nothing"] == [[0.0] * 4] * 2
    assert found["there"] == [0.25, 0.5, 0.75, 0.75]


def test_the_value_of_a_rank_is_that_of_the_sorted_ones() -> None:
    rng = np.random.default_rng(3)
    values = np.where(rng.random(200) < 0.2, 0.0, np.exp(20 * rng.normal(size=200))).astype(np.float32)
    values[50:60], known = values[50], rng.random(200) < 0.7
    ranks = jnp.arange(known.sum(), dtype=jnp.int32)
    found = jax.vmap(lambda rank: scores.nth_smallest(jnp.asarray(values), jnp.asarray(known), rank))(ranks)
    np.testing.assert_array_equal(found, np.sort(values[known]))


def test_oort_takes_the_best_of_four_in_proportion_to_what_they_are_worth() -> None:
    population, sizes, losses, last = people([10, 10, 10, 10]), [10] * 4, [1.0, 2.0, 4.0, 4.0], [1, 2, 2, 3]
    sampler = sampling.oort(
        1, exploration=0.0, min_exploration=0.0, latency=[5.0, 5.0, 20.0, 5.0], preferred_seconds=10.0, alpha=1.0,
        cut_off=0.4,
    )  # fmt: skip
    state = heard(first(sampler, population), losses, sizes, last)
    scaled = np.array([0.01, 10.01, 30.01, 30.01]) / 30.01
    worth = (scaled + np.sqrt(0.1 * np.log(4) / np.array(last))) * [1, 1, 0.5, 1]
    pool = worth >= 0.4 * worth.max()
    assert pool.tolist() == [False, True, True, True]
    observed = counts(sampler, state, population)
    assert observed[0] == 0
    expected = DRAWS * worth[pool] / worth[pool].sum()
    assert scipy.stats.chisquare(observed[pool], expected).pvalue > FALSE_ALARM
    best = sampling.oort(1, exploration=0.0, min_exploration=0.0)
    assert counts(best, heard(first(best, population), losses, sizes, [2] * 4), population)[:2].tolist() == [0, 0]


# laws

SAMPLERS: dict[str, Callable[[], sampling.Sampler]] = {
    "oort": lambda: sampling.oort(4, latency=sampling.lognormal_latency(), preferred_seconds=6.0, pacer_seconds=1.0),
    "power_of_choice": lambda: sampling.power_of_choice(4, 8),
    "refl": lambda: sampling.refl(4, sampling.diurnal(rounds_per_day=4), period=4),
}


def learned(sampler: sampling.Sampler, state: Any, cohort: sampling.Cohort, losses: Any, population: Population) -> Any:
    examples = jnp.asarray(population.num_examples)[cohort.ids]
    seen = sampling.Seen(cohort, cohort.reported, examples, {"loss": losses[cohort.ids]})
    return memory_of(sampler).learn(state, seen)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_keeps_the_laws(name: str) -> None:
    n, sampler = 23, SAMPLERS[name]()
    testing.check_sampler(sampler, n, population=people(1 + np.arange(n) % 6), num_rounds=30)
    accounting = sampler.accounting
    assert (accounting.kind, accounting.amplification, accounting.cohort_size) == ("availability", False, 4)
    assert "no amplification is claimed" in accounting.note
    assert memory_of(sampler).reads == (() if name == "refl" else ("loss",))


@pytest.mark.parametrize("name", ["oort", "oort, explored", "power_of_choice", "power_of_choice, new", "refl"])
def test_equal_clients_are_drawn_alike(name: str) -> None:
    n, size = 9, 4
    population = people([5] * n)
    if name.startswith("oort"):
        sampler = sampling.oort(size)
        state = first(sampler, population)
        state = heard(state, [1.5] * n, [5] * n, [2] * n) if name == "oort" else state
    elif name == "refl":
        sampler = sampling.refl(size, np.ones((1, n), bool))
        state = first(sampler, population)
    else:
        sampler = sampling.power_of_choice(size, 7)
        state = first(sampler, population)
        state = state if name.endswith("new") else state._replace(loss=jnp.full((n,), 1.5))
    observed = counts(sampler, state, population)
    assert observed.sum() == size * DRAWS
    assert p_of_uniform(observed, size) > FALSE_ALARM


def test_power_of_choice_takes_the_largest_losses_among_its_candidates() -> None:
    n, population = 5, people([1, 1, 1, 1, 1])
    told = utility.LastLosses(jnp.array([0.5, 4.0, 1.0, 3.0, 2.0]))
    everyone = sampling.power_of_choice(2, n)
    assert counts(everyone, told, population).tolist() == [0, DRAWS, 0, DRAWS, 0]
    # Of 3 candidates out of 5, one is taken: the largest of a set of which all 10 are as likely.
    few = sampling.power_of_choice(1, 3, weights="equal")
    observed = counts(few, told, population)
    order = np.argsort([0.5, 4.0, 1.0, 3.0, 2.0])
    assert observed[order[:2]].tolist() == [0, 0]
    assert scipy.stats.chisquare(observed[order[2:]], DRAWS * np.array([1, 3, 6]) / 10).pvalue > FALSE_ALARM
    # Whoever was never heard of comes first.
    new = utility.LastLosses(told.loss.at[2].set(jnp.inf))
    assert counts(sampling.power_of_choice(1, n), new, population)[2] == DRAWS
    # One candidate is a draw by examples.
    by_size = counts(sampling.power_of_choice(1, 1), told, people([1, 0, 3, 2, 4]))
    assert by_size[1] == 0
    assert scipy.stats.chisquare(by_size[[0, 2, 3, 4]], DRAWS * np.array([1, 3, 2, 4]) / 10).pvalue > FALSE_ALARM


def test_what_came_is_learned_and_what_was_left_out_counts_as_nothing() -> None:
    population = people([4, 3, 2, 1, 5])
    # Slot by slot: one that counted, a late one, one whose loss is NaN, one that was left out, a spare one.
    cohort = sampling.cohort(jnp.array([2, 1, 3, 4, 0]), jnp.array([True, True, True, True, False]))
    late = jnp.array([False, True, False, False, False])
    seen = sampling.Seen(
        cohort._replace(late=late, reported=cohort.reported & ~late),
        jnp.array([True, False, True, False, False]),
        jnp.array([2, 3, 1, 5, 0]),
        {"loss": jnp.array([1.5, 9.0, jnp.nan, 9.0, 9.0])},
    )
    poc = sampling.power_of_choice(5, 5)
    assert memory_of(poc).learn(first(poc, population), seen).loss.tolist() == [math.inf, math.inf, 1.5, 0.0, 0.0]
    oort = sampling.oort(5, latency=sampling.lognormal_latency(), preferred_seconds=5.0)
    state = first(oort, population)._replace(round=jnp.int32(6), taking=jnp.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    new = jax.jit(memory_of(oort).learn)(state, seen)
    assert new.utility.tolist() == [0.0, 0.0, 3.0, 0.0, 0.0]
    assert new.last.tolist() == [0, 0, 6, 6, 6]
    assert new.seconds.tolist() == [0.0, 2.0, 1.0, 3.0, 4.0]  # that of the late one too
    assert float(new.gained) == 3.0


def test_a_slow_client_is_chosen_less_the_larger_alpha_is() -> None:
    population, n = people([5] * 6), 6

    def chosen(alpha: Any) -> Any:
        sampler = sampling.oort(
            2, exploration=0.0, min_exploration=0.0, alpha=alpha, latency=[1.0] * 5 + [4.0], preferred_seconds=2.0,
            cut_off=0.01,
        )  # fmt: skip
        state = heard(first(sampler, population), [1.0] * n, [5] * n, [1] * n)
        draw = lambda key: memory_of(sampler).sample(state, key, 1, population)[0].ids  # noqa: E731
        return jnp.mean(jax.vmap(draw)(jax.random.split(KEY, 4000)) == 5, dtype=jnp.float32) * 2

    slow = np.asarray(jax.jit(jax.vmap(chosen))(jnp.array([0.0, 1.0, 2.0])))
    # With weight w = 2^-alpha beside five of weight 1, the chance to be among the first two arrivals.
    exact = [w / (5 + w) + 5 / (5 + w) * w / (4 + w) for w in (1.0, 0.5, 0.25)]
    np.testing.assert_allclose(slow, exact, atol=4.5 * math.sqrt(0.25 / 4000))  # 1 in 100,000
    assert slow[0] > slow[1] > slow[2]
    explored = sampling.oort(2, latency=[1.0] * 5 + [8.0], preferred_seconds=2.0)
    assert counts(explored, first(explored, population), population)[5] < DRAWS / 8  # one in 3, were it as fast


def test_exploration_decays_and_the_pacer_makes_room() -> None:
    population = people([1] * 40)
    sampler = sampling.oort(
        10, exploration=0.8, exploration_decay=0.5, min_exploration=0.3, latency=[1.0] * 40, preferred_seconds=2.0,
        pacer_rounds=2, pacer_seconds=0.5,
    )  # fmt: skip

    def one(state: Any, given: Any) -> Any:
        number, loss = given
        cohort, state = memory_of(sampler).sample(state, KEY, number, population)
        known = jnp.sum(state.last[cohort.ids] > 0, dtype=jnp.int32)
        state = learned(sampler, state, cohort, jnp.full((40,), loss), population)
        return state, (known, memory_of(sampler).tell(state))

    given = jnp.arange(6, dtype=jnp.int32), jnp.array([4.0, 4.0, 2.0, 2.0, 3.0, 3.0])
    _, (known, told) = jax.jit(lambda state: jax.lax.scan(one, state, given))(first(sampler, population))
    np.testing.assert_allclose(told["exploration"], [0.8, 0.4, 0.3, 0.3, 0.3, 0.3], rtol=1e-6)
    assert known.tolist() == [0, 6, 7, 7, 7, 7]
    assert told["preferred_seconds"].tolist() == [2.0, 2.0, 2.0, 2.5, 2.5, 2.5]  # utilities fell once, and then rose


def test_refl_takes_who_will_hardly_be_there() -> None:
    # Client 0 is always there, 1 in even rounds, 2 in odd ones, and 3 in the first of four.
    table = np.array([[1, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0]], bool)
    population, sampler = people([1] * 4), sampling.refl(1, table, period=4, rest=0)
    state, taken, draw = first(sampler, population), [], drawing(sampler, population)
    for r in range(8):
        cohort, state = draw(state, KEY, r)
        taken.append(int(cohort.ids[0]))
        assert table[r % 4, taken[-1]]
    assert state.present.tolist() == (2.0 * table).tolist()
    # In the second period it knows: in round 4 clients 0, 1, 3 are there, and of them 1 and 3 not in round 5.
    assert taken[4] in (1, 3)
    assert taken[5:] == [2, 1, 2]
    rare = sampling.refl(2, [[0, 0, 1]])
    never, _ = drawing(rare, people([1] * 3))(first(rare, people([1] * 3)), KEY, 0)
    assert (never.ids.tolist(), never.selected.tolist()) == ([2, 0], [True, False])


def test_refl_lets_clients_rest() -> None:
    population, sampler = people([1] * 7), sampling.refl(2, np.ones((1, 7), bool), rest=2)
    state, taken, draw = first(sampler, population), [], drawing(sampler, population)
    for r in range(6):
        cohort, state = draw(state, KEY, r)
        taken.append(set(cohort.ids.tolist()))
    assert all(len(set.union(*taken[r : r + 3])) == 6 for r in range(4))
    few = sampling.refl(2, np.ones((1, 2), bool))  # where all rest, they are taken all the same
    resting = first(few, people([1, 1]))._replace(last=jnp.ones((2,), jnp.int32))
    cohort, _ = drawing(few, people([1, 1]))(resting, KEY, 1)
    assert bool(cohort.selected.all())


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_rounds_carry_what_was_learned(name: str) -> None:
    sampler, population = SAMPLERS[name](), helpers.regression()
    rounds = fl.rounds(helpers.fed_avg(), sampler=sampler, aggregator=fl.weighted_mean(), execution=helpers.ONE)
    state = rounds.init(helpers.linear_params(), population, key=KEY)
    asked = np.zeros(population.num_clients, bool)
    for _ in range(3):
        state, info = rounds.step(state, population)
        clients = jax.tree.map(np.asarray, info.clients)
        asked[clients["id"][clients["in_sum"]]] = True
    if name == "power_of_choice":
        np.testing.assert_array_equal(np.isfinite(state.sampler.loss), asked)
    else:
        np.testing.assert_array_equal(np.asarray(state.sampler.last) > 0, asked)


# refusals


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: sampling.oort(0), ValueError, "`cohort_size` is 0; expected an int of at least 1"),
        (lambda: sampling.oort(2, exploration=1.5), ValueError, "`exploration` is 1.5; expected a number in .0, 1."),
        (lambda: sampling.oort(2, exploration_decay=0.0), ValueError, "`exploration_decay` is 0.0; expected a number"),
        (lambda: sampling.oort(2, alpha=-1.0), ValueError, "`alpha` is -1.0; expected a number of at least 0"),
        (lambda: sampling.oort(2, cut_off=0.0), ValueError, "`cut_off` is 0.0; expected a number in"),
        (lambda: sampling.oort(2, preferred_seconds=3.0), ValueError, "`preferred_seconds` is 3.0 without a `latency`"),
        (lambda: sampling.oort(2, latency=[1.0]), ValueError, "`latency` is given without `preferred_seconds`"),
        (
            lambda: sampling.oort(2, latency=[1.0, 0.0], preferred_seconds=1.0),
            ValueError,
            "`latency` is 0.0 for client 1; expected a Latency, or finite seconds above 0",
        ),
        (
            lambda: sampling.oort(2, latency=[[1.0]], preferred_seconds=1.0),
            ValueError,
            r"`latency` has shape \[1, 1\]; expected a Latency, or finite seconds above 0, one a client",
        ),
        (
            lambda: sampling.oort(2, latency=[True], preferred_seconds=1.0),
            TypeError,
            "`latency` has dtype bool; expected a Latency",
        ),
        (
            lambda: sampling.oort(2, latency=lambda key: key, preferred_seconds=1.0),
            TypeError,
            "`latency` is .*; expected a function of .key, round_number, cohort, population.",
        ),
        (
            lambda: sampling.oort(1, latency=[1.0], preferred_seconds=1.0).check(2),
            ValueError,
            "`latency` holds the seconds of 1 clients, but the population has 2; expected one number a client",
        ),
        (
            lambda: sampling.oort(2, latency=lambda k, r, c, p: 1.0, preferred_seconds=1.0).sample(KEY, 0, people([1] * 3)),
            TypeError,
            r"`latency` returned 1.0; expected float32 .2., the seconds of each slot",
        ),
        (lambda: sampling.oort(3).check(2), ValueError, "`cohort_size` is 3, but the population has 2 clients. Use a"),
        (lambda: sampling.power_of_choice(3, 2), ValueError, "`candidates` is 2, fewer than `cohort_size`=3; expected"),
        (lambda: sampling.power_of_choice(2, 3, weights="x"), ValueError, "`weights` is 'x'; expected one of"),  # type: ignore[arg-type]
        (lambda: sampling.power_of_choice(2, 3).check(2), ValueError, "`candidates` is 3, but the population has 2"),
        (lambda: sampling.refl(2, [[True]], period=0), ValueError, "`period` is 0; expected an int of at least 1"),
        (lambda: sampling.refl(2, [[True]], rest=-1), ValueError, "`rest` is -1; expected an int of at least 0"),
        (lambda: sampling.refl(1, [[True]]).check(2), ValueError, "is of 1 clients, but the population has 2"),
        (lambda: sampling.refl(3, [[1, 1]]).check(2), ValueError, "`cohort_size` is 3, but the population has 2"),
    ],
)  # fmt: skip
def test_refusals_say_what_to_do(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
