"""A state knows what noised it: steps by another composition are refused, unless it is said that it goes on.

Clients send their first target: what they train decides nothing here. One composition is compiled once for all tests.
"""

import functools
import re

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy

PEOPLE = helpers.regression((3,) * 8)
MORE = helpers.regression((3,) * 12)
PARAMS = helpers.linear_params()
KEY = jax.random.key(0)


def remembers() -> fl.Algorithm:
    """Clients that keep the sum of what they sent."""
    base = helpers.sends()

    def client_update(shared, own, data, key) -> fl.ClientOutput:
        output = base.client_update(shared, own, data, key)
        return output._replace(client_state=jax.tree.map(jnp.add, own, output.update))

    return base._replace(client_update=client_update, init_client=lambda params: jax.tree.map(jnp.zeros_like, params))


def noise(multiplier=1.0, clip_norm=1.0, over=4) -> fl.Aggregator:
    return fl.chain(fl.mean(over=over), privacy.gaussian(clip_norm=clip_norm, noise_multiplier=multiplier))


def composed(aggregator=None, *, sampler=None, algorithm=None, execution=helpers.ONE) -> fl.Rounds:
    return fl.rounds(
        helpers.sends() if algorithm is None else algorithm,
        sampler=fl.sampling.uniform(4) if sampler is None else sampler,
        aggregator=noise() if aggregator is None else aggregator,
        execution=execution,
    )


@functools.cache
def noised(multiplier=1.0) -> fl.Rounds:
    return composed(noise(multiplier))


@functools.cache
def plain() -> fl.Rounds:
    return composed(fl.mean())


def begun(run: fl.Rounds, num_rounds: int = 2) -> fl.RoundState:
    state = run.init(PARAMS, PEOPLE, key=KEY, noise_key=KEY)
    for _ in range(num_rounds):
        state, _ = run.step(state, PEOPLE)
    return state


@functools.cache
def base() -> fl.RoundState:
    return begun(noised())


@functools.cache
def unprotected() -> fl.RoundState:
    return begun(plain())


OTHERS = {
    "noise": (noise(2.0), None, "aggregator.gaussian.noise_multiplier 2 instead of 1"),
    "clip": (noise(1.0, 0.5), None, "aggregator.gaussian.clip_norm 0.5 instead of 1"),
    "none": (fl.mean(over=4), None, "no mechanism of privacy"),
    "another mechanism": (
        fl.chain(fl.mean(over=4), privacy.laplace(clip_norm=1.0, noise_multiplier=1.0)),
        None,
        "laplace",
    ),
    "sampler": (noise(), fl.sampling.cyclic(4, 2), r"sampler.accounting.kind cyclic instead of without_replacement"),
    "cohort": (noise(1.0, 1.0, 5), fl.sampling.uniform(5), r"sampler.accounting.cohort_size 5 instead of 4"),
    "codec behind it": (
        fl.chain(*noise().parts, fl.quantize(bits=8)),
        None,
        r"aggregator.name chain\(mean, gaussian, quantize\) instead of chain\(mean, gaussian\)",
    ),
}
STEPS = {
    "step": lambda run, state: run.step(state, PEOPLE),
    "steps": lambda run, state: run.steps(state, PEOPLE, 2),
    "jit": lambda run, state: jax.jit(run.step)(state, PEOPLE),
    "check": lambda run, state: run.check(state, PEOPLE),
    "train": lambda run, state: fl.train(run, state, PEOPLE, num_rounds=9, progress=False),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
@pytest.mark.parametrize(("aggregator", "sampler", "told"), OTHERS.values(), ids=list(OTHERS))
def test_a_step_by_another_composition_is_refused(aggregator, sampler, told, step) -> None:
    state = base()
    with pytest.raises(ValueError, match=r"`state` was noised by another.*" + told + r".*rounds.go_on\(state, "):
        step(composed(aggregator, sampler=sampler), state)


def test_noise_after_rounds_without_any_is_refused_too() -> None:
    with pytest.raises(ValueError, match="which has a mechanism of privacy, which they had not. One epsilon for all"):
        noised().step(unprotected(), PEOPLE)


def test_another_population_is_another_guarantee() -> None:
    with pytest.raises(ValueError, match="num_clients 12 instead of 8"):
        noised().step(base(), MORE)
    plain().step(unprotected(), MORE)


def test_what_changes_no_guarantee_goes_on_without_a_word() -> None:
    state = base()
    for run in (
        noised(),
        composed(noise(jnp.float32(1.0), np.float64(1.0))),
        composed(execution=fl.Execution(lanes=2, devices=2)),
        composed(algorithm=helpers.sends(0.5)),
    ):
        onwards, _ = run.step(state, PEOPLE)
        assert int(onwards.round) == 3
        assert onwards.ledger == state.ledger
    slower = composed(fl.weighted_mean(), algorithm=helpers.sends(0.01))
    assert int(slower.step(unprotected(), PEOPLE)[0].round) == 3  # where nothing is noised, as ever


def test_a_streamed_cohort_is_held_against_the_ledger_too() -> None:
    run, state = noised(), base()
    cohort = run.sampler.sample(state.keys.sample, 2, PEOPLE)
    prepared = fl.prepare_cohort(PEOPLE, cohort, num_examples=12)
    streamed, _ = run.step(state, prepared)
    whole, _ = run.step(state, PEOPLE)
    assert helpers.max_difference(streamed.params, whole.params) == 0
    with pytest.raises(ValueError, match="`state` was noised by another composition"):
        noised(2.0).step(state, prepared)


def test_a_ledger_is_structure() -> None:
    state = base()
    assert jax.tree.leaves(state.ledger) == []
    assert [segment.begin for segment in state.ledger.segments] == [0]
    doubled = jax.tree.map(lambda leaf: leaf, state)
    assert doubled.ledger is state.ledger
    other = begun(noised(2.0))
    assert jax.tree.structure(other) != jax.tree.structure(state)
    with pytest.raises(ValueError):
        jax.tree.map(lambda a, b: a, state, other)


def test_a_state_without_a_ledger_is_refused_under_noise_alone() -> None:
    bare = base()._replace(ledger=type(base().ledger)())
    with pytest.raises(ValueError, match="`state` does not say what its rounds were made by"):
        noised().step(bare, PEOPLE)
    plain().step(unprotected()._replace(ledger=bare.ledger), PEOPLE)


class TestGoingOn:
    def test_the_rest_of_the_state_stays(self) -> None:
        first = composed(algorithm=remembers())
        second = composed(noise(3.0), algorithm=remembers())
        before = begun(first)
        after = second.go_on(before, PEOPLE)
        assert int(after.round) == 2
        assert helpers.max_difference(after.server_state, before.server_state) == 0
        assert helpers.max_difference(after.clients, before.clients) == 0
        assert [segment.begin for segment in after.ledger.segments] == [0, 2]
        same = [jax.random.key_data(k).tolist() for s in (before, after) for k in (s.keys.client, s.keys.server)]
        assert same[:2] == same[2:]
        third, _ = second.step(after, PEOPLE)
        assert int(third.round) == 3
        assert third.ledger == after.ledger

    def test_noise_begins_anew_and_what_was_known_stays_known(self) -> None:
        before = base()
        two = [noised(3.0).go_on(before, PEOPLE) for _ in range(2)]
        drawn = {tuple(jax.random.key_data(state.keys.noise).tolist()) for state in (*two, before)}
        assert len(drawn) == 3  # two ways on from one state do not share their noise
        assert not bool(two[0].keys.secret)
        secret = noised().init(PARAMS, PEOPLE, key=KEY)
        assert bool(noised(3.0).go_on(secret, PEOPLE).keys.secret)
        assert not bool(noised(3.0).go_on(secret, PEOPLE, noise_key=KEY).keys.secret)
        bare = plain().init(PARAMS, PEOPLE, key=KEY, noise_key=KEY)
        assert bool(noised().go_on(bare, PEOPLE).keys.secret)

    def test_the_aggregator_begins_anew(self) -> None:
        tree = composed(
            fl.chain(fl.mean(over=4), privacy.tree_gaussian(clip_norm=1.0, noise_multiplier=1.0, num_rounds=3))
        )
        state = tree.go_on(base(), PEOPLE)
        state, info = tree.steps(state, PEOPLE, 3)
        assert int(info.aggregator["tree_gaussian_rounds_left"][-1]) == 0
        with pytest.raises(ValueError, match="is made for 3 rounds; 3 are done and 1 more were asked for"):
            tree.step(state, PEOPLE)
        with pytest.raises(ValueError, match="`num_rounds` is 6, but .*tree_gaussian.* knows 5 rounds; ask for fewer"):
            fl.train(tree, state, PEOPLE, num_rounds=6, progress=False)

    def test_states_of_different_pasts_share_one_program(self) -> None:
        traced = []

        def loss(params, batch, key):
            traced.append(1)
            return helpers.linear_loss(params, batch, key)

        algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.02), batch_size=8)
        second = composed(noise(3.0), algorithm=algorithm)
        for before in (base(), begun(noised(2.0), 1)):
            state, _ = second.step(second.go_on(before, PEOPLE), PEOPLE)
            assert [segment.begin for segment in state.ledger.segments] == [0, int(before.round)]
            traced.append(0)
        assert 1 not in traced[traced.index(0) :]

    def test_at_once_it_replaces_what_never_ran(self) -> None:
        state = noised().init(PARAMS, PEOPLE, key=KEY)
        assert [segment.begin for segment in noised(2.0).go_on(state, PEOPLE).ledger.segments] == [0]

    def test_a_state_of_another_algorithm_is_refused(self) -> None:
        adam = algorithms.fed_adam(
            helpers.linear_loss, client_optimizer=optax.sgd(0.1), batch_size=8, server_lr=0.1, tau=1e-3
        )
        with pytest.raises(ValueError, match="the server's state has .*Begin a run of its own"):
            composed(algorithm=adam).go_on(base(), PEOPLE)
        with pytest.raises(ValueError, match="the clients' state has .*Begin a run of its own"):
            composed(algorithm=helpers.local_momentum()).go_on(base(), PEOPLE)

    def test_inside_of_a_transformation_it_is_refused(self) -> None:
        with pytest.raises(ValueError, match="`go_on` is called inside of jit or vmap, where the number of rounds"):
            jax.jit(lambda state: noised(2.0).go_on(state, PEOPLE, noise_key=KEY))(base())
        with pytest.raises(TypeError, match="`state` is a int; expected the RoundState"):
            noised().go_on(3, PEOPLE)
        with pytest.raises(TypeError, match="`population` is a int; expected the Population"):
            noised().go_on(base(), 3)


class TestTracedHyperparameters:
    """What was a tracer is not known afterwards, and the ledger says so."""

    def test_a_sweep_runs_and_its_states_do_not_claim_to_know(self) -> None:
        def play(multiplier, noise_key):
            run = composed(noise(multiplier))
            return run.steps(run.init(PARAMS, PEOPLE, key=KEY, noise_key=noise_key), PEOPLE, 2)[0]

        states = jax.jit(jax.vmap(play))(jnp.array([0.5, 5.0]), fl.noise_keys(2))
        (segment,) = states.ledger.segments
        assert segment.traced
        assert "<traced>" in segment.facts
        one = jax.tree.map(lambda leaf: leaf[0], states)
        with pytest.raises(ValueError, match="noise_multiplier 0.5 instead of <traced>"):
            noised(0.5).step(one, PEOPLE)
        with pytest.raises(
            ValueError, match="rounds from 1 on was a tracer when the state was made .*Leave state= out"
        ):
            onwards = noised(0.5).go_on(one, PEOPLE)
            privacy.epsilon(noised(0.5), 8, num_rounds=4, delta=1e-3, state=onwards)

    def test_numbers_inside_of_jit_stay_numbers(self) -> None:
        run = noised()
        inside = jax.jit(lambda noise_key: run.init(PARAMS, PEOPLE, key=KEY, noise_key=noise_key))(KEY)
        assert inside.ledger == begun(run).ledger
        assert not inside.ledger.segments[0].traced
        run.step(inside, PEOPLE)


def test_facts_are_the_same_text_for_the_same_composition() -> None:
    texts = {base().ledger.segments[0].facts for _ in range(2)}
    assert len(texts) == 1
    assert not re.search("0x[0-9a-f]+", texts.pop())  # no addresses
