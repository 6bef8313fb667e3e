"""Runs of several compositions: what each of their rounds cost counts, whoever is asked."""

import functools
import itertools
import math

import helpers
import jax
import numpy as np
import pytest
from private_runs import DELTA, N, mechanism, noised, poisson, run

import fedjaxlite as fl
from fedjaxlite.privacy.accounting import (
    curves,
    epsilon,
    gaussian_epsilon,
    guarantee,
    max_rounds,
    report,
    running_epsilon,
    stop_at_epsilon,
)
from fedjaxlite.privacy.accounting.events import Event
from fedjaxlite.privacy.central.laplace import laplace

PEOPLE = helpers.one_value_each(np.zeros(N))


def begun(*compositions: fl.Rounds, every: int = 5, **options) -> fl.RoundState:
    """A state that each composition took some rounds further; only its ledger and its round are looked at."""
    state = compositions[0].init(np.float32(0), PEOPLE, key=jax.random.key(0), **options)
    for i, following in enumerate(compositions[1:], start=1):
        state = following.go_on(state._replace(round=np.int32(i * every) + 0 * state.round), PEOPLE, **options)
    return state


def of(*compositions: fl.Rounds, num_rounds: int = 10, **options) -> float:
    return epsilon(compositions[-1], PEOPLE, num_rounds=num_rounds, delta=DELTA, state=begun(*compositions, **options))


def plain() -> fl.Rounds:
    return fl.rounds(helpers.sender(helpers.first_value), sampler=poisson(), aggregator=fl.mean(over=10))


MAKERS = {
    "poisson": lambda: run(poisson(), noised(1.6)),
    "more noise": lambda: run(poisson(), noised(3.0)),
    "everyone": lambda: run(fl.sampling.full(N), noised(4.0)),
    "cyclic": lambda: run(fl.sampling.cyclic(10, 5), noised(2.0)),
    "fixed size": lambda: run(fl.sampling.uniform(10), noised(3.0)),
    "laplace": lambda: run(fl.sampling.full(N), laplace(clip_norm=1.0, noise_multiplier=6.0)),
    "pure local": lambda: run(fl.sampling.full(N), mechanism(options={"epsilon": 0.2, "delta": 0.0})),
    "local": lambda: run(fl.sampling.full(N), mechanism(options={"epsilon": 0.2, "delta": 1e-9})),
    "discrete": lambda: run(fl.sampling.full(N), mechanism(options={"rdp": lambda orders: 0.01 * np.asarray(orders)})),
}
COMPOSITIONS = {name: functools.cache(make) for name, make in MAKERS.items()}
PAIRS = list(itertools.combinations([name for name in COMPOSITIONS if name != "more noise"], 2))


@functools.cache
def alone(name: str, num_rounds: int = 5) -> float:
    return epsilon(COMPOSITIONS[name](), PEOPLE, num_rounds=num_rounds, delta=DELTA)


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{a}, {b}" for a, b in PAIRS])
@pytest.mark.whole
def test_both_count_in_either_order(first, second) -> None:
    made = COMPOSITIONS[first](), COMPOSITIONS[second]()
    both, turned = of(*made), of(*reversed(made))
    assert both == pytest.approx(turned, rel=1e-6)
    assert both >= max(alone(first), alone(second)) * (1 - 1e-3)
    # Basic composition at half of delta each, doubled at most where a client that was removed is replaced.
    events = [event for rounds in made for event in guarantee(rounds, PEOPLE, num_rounds=5, delta=DELTA).events]
    relation = curves.relation_of(events)
    added = sum(min(curves.figures([curves.restated(event, relation)], DELTA / 2)) for event in events)
    assert both <= added * (1 + 1e-3)


@pytest.mark.parametrize(
    "name", helpers.some_often(["everyone", "cyclic", "poisson", "fixed size", "laplace", "pure local", "discrete"], 3)
)
def test_a_run_in_two_pieces_costs_what_it_costs_in_one(name) -> None:
    # The ways to one figure differ by their grids; cyclic rounds in two pieces may count a client once more.
    whole, pieces = alone(name, 10), of(COMPOSITIONS[name](), COMPOSITIONS[name]())
    assert pieces == pytest.approx(whole, rel=2e-3)


def test_gaussians_without_amplification_are_one_release() -> None:
    sampler = fl.sampling.full(N)
    both = of(run(sampler, noised(3.0)), run(sampler, noised(4.0)))
    merged = (5 / 3.0**2 + 5 / 4.0**2) ** -0.5
    assert both == pytest.approx(gaussian_epsilon(noise_multiplier=merged, delta=DELTA), rel=1e-9)


def test_poisson_rounds_compose_as_dp_accounting_composes_them() -> None:
    import dp_accounting

    accountant = dp_accounting.pld.PLDAccountant()
    for noise in (1.6, 3.0):
        accountant.compose(dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(noise)), 5)
    want = accountant.get_epsilon(DELTA)
    assert of(COMPOSITIONS["poisson"](), COMPOSITIONS["more noise"]()) == pytest.approx(want, rel=1e-3)


def test_a_client_that_is_replaced_is_twice_one_that_is_removed() -> None:
    added, replaced = run(fl.sampling.full(N), noised(4.0)), run(fl.sampling.uniform(10), noised(4.0))
    found = guarantee(replaced, PEOPLE, num_rounds=10, delta=DELTA, state=begun(added, replaced))
    assert curves.relation_of(found.events) == "replace_one"
    assert found.eps_pld == pytest.approx(gaussian_epsilon(noise_multiplier=2 / 10**0.5, delta=DELTA), rel=1e-9)


def test_discrete_noise_is_restated_by_two_steps() -> None:
    linear = Event("rdp", "zero_out", 1, 1, math.nan, rdp=lambda orders: 0.1 * np.asarray(orders))
    assert curves.restated(linear, "replace_one").rdp(np.array([2.0, 8.0])).tolist() == pytest.approx([1.2, 4.8])


@pytest.mark.parametrize("order", [(plain, "poisson"), ("poisson", plain, "poisson")])
def test_rounds_without_noise_protect_nobody_whatever_follows(order) -> None:
    made = [COMPOSITIONS[part]() if isinstance(part, str) else part() for part in order]
    num_rounds = 5 * len(made)
    found = report(made[-1], PEOPLE, num_rounds=num_rounds, delta=DELTA, state=begun(*made))
    assert found.guarantee.epsilon == math.inf
    assert "nothing that adds noise." in found.mechanism
    assert "epsilon is infinite: this run protects nobody." in found.warnings
    assert epsilon(made[-1], PEOPLE, num_rounds=5, delta=DELTA) < math.inf


def test_only_the_rounds_that_were_asked_for_count() -> None:
    first, second = COMPOSITIONS["poisson"](), COMPOSITIONS["more noise"]()
    assert of(first, second, num_rounds=5) == of(first, second, num_rounds=5, every=9) == alone("poisson")
    assert of(first, second, num_rounds=3) == alone("poisson", 3)


def test_the_page_names_the_rounds_of_each() -> None:
    first, second = COMPOSITIONS["poisson"](), COMPOSITIONS["fixed size"]()
    found = report(second, PEOPLE, num_rounds=12, delta=DELTA, state=begun(first, second))
    text = " ".join(str(found).split())
    for claim in (
        "Differential privacy of 12 rounds",
        "Rounds 1 to 5: gaussian, noise multiplier 1.6 over",
        "Rounds 6 to 12: gaussian, noise multiplier 3 over",
        "Rounds 1 to 5: poisson(0.1) of 100 clients.",
        "Rounds 6 to 12: uniform(10) of 100 clients.",
        "Neighbors (replace_one)",
    ):
        assert claim in text, claim


def test_a_state_of_another_composition_is_refused_by_whoever_is_asked() -> None:
    first, second = COMPOSITIONS["poisson"](), COMPOSITIONS["more noise"]()
    state = begun(first)
    for ask in (epsilon, guarantee, report):
        with pytest.raises(ValueError, match=r"`state` was noised by another composition.*rounds.go_on\(state, "):
            ask(second, PEOPLE, num_rounds=10, delta=DELTA, state=state)
        with pytest.raises(ValueError, match="`state` was made by another composition than the one that is asked"):
            ask(second, N, num_rounds=10, delta=DELTA, state=state)
        with pytest.raises(TypeError, match="`state` is a int; expected a RoundState"):
            ask(second, N, num_rounds=10, delta=DELTA, state=3)
    with pytest.raises(ValueError, match=r"its ledger is empty\). Take one that rounds.init"):
        epsilon(first, N, num_rounds=10, delta=DELTA, state=state._replace(ledger=type(state.ledger)()))


def test_states_of_several_runs_are_asked_about_one_by_one() -> None:
    rounds = COMPOSITIONS["poisson"]()
    begin = lambda noise_key: rounds.init(np.float32(0), PEOPLE, key=jax.random.key(0), noise_key=noise_key)  # noqa: E731
    states = jax.vmap(begin)(fl.noise_keys(3))
    with pytest.raises(ValueError, match="`state` is that of 3 runs; expected one of them"):
        report(rounds, PEOPLE, num_rounds=5, delta=DELTA, state=states)
    one = report(rounds, PEOPLE, num_rounds=5, delta=DELTA, state=jax.tree.map(lambda leaf: leaf[1], states))
    assert (one.secret, one.guarantee.condition) == (True, "")


class TestBudgets:
    """Observers of a run that begins at a state with rounds behind it."""

    @functools.cached_property
    def made(self) -> tuple[fl.Rounds, fl.Rounds]:
        return COMPOSITIONS["poisson"](), COMPOSITIONS["more noise"]()

    def start(self, num_rounds: int = 40) -> fl.observers.Start:
        first, second = self.made
        return fl.observers.Start(second, begun(first, second), PEOPLE, num_rounds, fl.Traffic(4, 4), (), {})

    def test_the_running_epsilon_counts_what_came_before(self) -> None:
        observer = running_epsilon(delta=DELTA, every=1)
        observer.start(self.start())
        for number in (6, 10):
            told = observer.round({"round": number}, None)
            assert told == {"epsilon": pytest.approx(of(*self.made, num_rounds=number), rel=1e-9)}

    def test_the_budget_ends_where_both_have_spent_it(self) -> None:
        budget = of(*self.made, num_rounds=14) * (1 + 1e-6)
        last = stop_at_epsilon(epsilon=budget, delta=DELTA).last_round(self.start())
        assert last is not None
        assert last.round == 14
        state = begun(*self.made)
        most = functools.partial(max_rounds, self.made[1], PEOPLE, epsilon=budget, delta=DELTA, at_most=40)
        assert most(state=state) == 14
        assert most() > 14

    def test_a_budget_that_is_spent_already_is_refused(self) -> None:
        with pytest.raises(ValueError, match="the state has done 5 rounds, which cost epsilon .* ended at round"):
            stop_at_epsilon(epsilon=alone("poisson") * 0.9, delta=DELTA).last_round(self.start())


class TestKnownCohorts:
    """Amplification is worth nothing against those who can draw the cohorts again, and every figure says so."""

    def test_the_figure_without_amplification_stands_beside(self) -> None:
        found = guarantee(COMPOSITIONS["poisson"](), PEOPLE, num_rounds=10, delta=DELTA)
        assert found.condition == "if the seed is secret"
        exact = gaussian_epsilon(noise_multiplier=1.6 / 10**0.5, delta=DELTA)
        assert found.unamplified == pytest.approx(exact, rel=1e-9)
        assert found.epsilon < found.unamplified

    def test_cut_cohorts_cost_nothing_more_where_they_are_known(self) -> None:
        found = guarantee(run(poisson(0.1, 30), noised(2.0)), PEOPLE, num_rounds=5, delta=1e-3)
        assert found.event.overflow > 0
        assert found.unamplified == pytest.approx(gaussian_epsilon(noise_multiplier=2 / 5**0.5, delta=1e-3), rel=1e-9)

    def test_a_fixed_size_has_both_figures_too(self) -> None:
        found = guarantee(COMPOSITIONS["fixed size"](), PEOPLE, num_rounds=10, delta=DELTA)
        assert found.unamplified == found.eps_pld > found.eps_rdp == found.epsilon

    @pytest.mark.parametrize("name", ["everyone", "cyclic"])
    def test_what_rests_on_no_amplification_has_no_condition(self, name) -> None:
        found = guarantee(COMPOSITIONS[name](), PEOPLE, num_rounds=10, delta=DELTA)
        assert (found.condition, found.unamplified) == ("", found.epsilon)

    @pytest.mark.parametrize(
        ("options", "condition", "claim"),
        [
            ({}, "", "cohorts Drawn from the operating system's entropy, a secret that checkpoints hold."),
            (
                {"cohort_key": jax.random.key(1)},
                "if the seed is secret",
                "cohorts Drawn from a key that was given: amplification is worth something if the seed is secret.",
            ),
            (
                {"noise_key": jax.random.key(1)},
                "if the seed is secret",
                "WARNING cohorts come from a key that was given",
            ),
        ],
    )
    def test_a_state_knows_whether_its_cohorts_are_secret(self, options, condition, claim) -> None:
        rounds = COMPOSITIONS["poisson"]()
        found = report(rounds, PEOPLE, num_rounds=10, delta=DELTA, state=begun(rounds, **options))
        assert found.guarantee.condition == condition
        text = " ".join(str(found).split())
        assert claim in text
        assert f"epsilon is {found.guarantee.unamplified:.4g}" in text
        assert (f"{found.guarantee.unamplified:.4g} without amplification" in text) == bool(condition)

    def test_records_and_reasons_say_so(self) -> None:
        rounds = COMPOSITIONS["poisson"]()
        fixed, secret = begun(rounds, cohort_key=jax.random.key(1)), begun(rounds)
        for state, told in ((fixed, {"epsilon", "epsilon_unamplified"}), (secret, {"epsilon"})):
            start = fl.observers.Start(rounds, state, PEOPLE, 40, fl.Traffic(4, 4), (), {})
            observer = running_epsilon(delta=DELTA)
            observer.start(start)
            assert set(observer.round({"round": 1}, None)) == told
            last = stop_at_epsilon(epsilon=alone("poisson", 10), delta=DELTA).last_round(start)
            assert last is not None
            assert ("(if the seed is secret; without amplification it is" in last.reason) == (state is fixed)
