"""The guarantee of single examples, of runs whose local training is DP-SGD: by every accountant, client by client."""

import functools
import math
from typing import Any

import dp_accounting as dp
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy
from fedjaxlite.privacy.accounting import running_epsilon, stop_at_epsilon

pytestmark = pytest.mark.whole

SIZES, DELTA = (40, 80, 400), 1e-3
PEOPLE = helpers.regression(SIZES)


def local(noise: Any = 1.0, **options: Any) -> Any:
    options = {"rate": 0.2, "steps": 5, "clip_norm": 1.0, **options}
    return privacy.dp_sgd(helpers.linear_loss, client_optimizer=optax.sgd(0.1), noise_multiplier=noise, **options)


def run(noise: Any = 1.0, *, sampler: Any = None, aggregator: Any = None, **options: Any) -> fl.Rounds:
    return fl.rounds(
        algorithms.fed_avg_of(local(noise, **options)),
        sampler=fl.sampling.full(3) if sampler is None else sampler,
        aggregator=fl.weighted_mean() if aggregator is None else aggregator,
        execution=helpers.ONE,
    )


@functools.cache
def pld(noise: float, rate: float, steps: int, delta: float = DELTA) -> float:
    """By dp_accounting itself."""
    event = dp.GaussianDpEvent(noise)
    accountant = dp.pld.PLDAccountant()
    accountant.compose(event if rate == 1 else dp.PoissonSampledDpEvent(rate, event), steps)
    return float(accountant.get_epsilon(delta))


def test_it_is_the_composition_of_all_steps_of_all_rounds() -> None:
    for rounds in (1, 20):
        found = privacy.guarantee(run(), PEOPLE, num_rounds=rounds, delta=DELTA)
        assert found.epsilon == pytest.approx(pld(1.0, 0.2, 5 * rounds), rel=1e-3)
        assert found.epsilon >= pld(1.0, 0.2, 5 * rounds) * (1 - 1e-6)
        assert (found.unit, found.event.participations) == ("example", rounds)
        assert found.event.relation == "zero_out_example"


@pytest.mark.whole
def test_an_example_counts_in_every_round_that_its_client_may_be_in() -> None:
    """Clients that are sampled are not amplified: the server sees who is there."""
    for sampler, present in (
        (fl.sampling.cyclic(1, 3), 4),
        (fl.sampling.uniform(1), 12),
        (fl.sampling.poisson(0.5, capacity=3), 12),
        (fl.sampling.replay([[0], [1], [0], [2]] * 3), 6),
    ):
        found = privacy.guarantee(run(sampler=sampler), PEOPLE, num_rounds=12, delta=DELTA)
        assert found.epsilon == pytest.approx(pld(1.0, 0.2, 5 * present), rel=1e-3), sampler.name
        assert found.unamplified == found.epsilon
        assert found.condition == ""


def test_every_client_has_its_own_epsilon() -> None:
    """Expected batches of 8: rates of .2, .1 and .02; and a limit that the smallest two do not meet."""
    rounds = run(rate=None, expected_batch_size=8)
    each = privacy.examples_epsilon(rounds, PEOPLE, num_rounds=4, delta=DELTA)
    assert each == pytest.approx([pld(1.0, 8 / n, 20) for n in SIZES], rel=1e-3)
    assert privacy.epsilon(rounds, PEOPLE, num_rounds=4, delta=DELTA) == each.max() == each[0]
    both = privacy.examples_epsilon(run(rate=0.1, expected_batch_size=8), PEOPLE, num_rounds=4, delta=DELTA)
    assert both == pytest.approx([pld(1.0, q, 20) for q in (0.1, 0.1, 0.02)], rel=1e-3)
    fixed = privacy.examples_epsilon(run(rate=0.1), PEOPLE, num_rounds=4, delta=DELTA)
    assert len(set(fixed.tolist())) == 1


def test_a_client_without_examples_has_none_to_tell() -> None:
    people = fl.Population.from_arrays({"x": np.zeros(4)}, client_ids=[0, 0, 2, 2], order=[0, 1, 2], allow_empty=True)
    rounds = run(rate=None, expected_batch_size=1)
    each = privacy.examples_epsilon(rounds, people, num_rounds=1, delta=0.01)
    assert (each[1], each[0]) == (0.0, each[2])
    assert privacy.epsilon(rounds, people, num_rounds=1, delta=0.01) == each[0] > 0


def test_large_and_small_batches_are_those_of_the_program() -> None:
    """What the accountant takes for the chance of an example is no less than the share of them that is drawn."""
    from fedjaxlite.privacy.local.per_example import poisson_batches

    rounds = run(rate=None, expected_batch_size=8)
    (own,) = rounds.algorithm.mechanisms
    for client, size in enumerate(SIZES):
        data = fl.client_view(PEOPLE, client, key=jax.random.key(0))
        draw = jax.jit(jax.vmap(poisson_batches(data, own.rate, own.max_overflow, own.batch_size)))
        drawn = np.asarray(draw(jax.random.split(jax.random.key(client), 3000))[1]).sum(1)
        rate = own.rate_of(size)
        assert drawn.mean() / size == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / size / 3000))


def test_secret_sizes_are_examples_added_or_removed() -> None:
    rounds = run(rate=0.2, expected_batch_size=30, sizes="secret")
    found = privacy.guarantee(rounds, PEOPLE, num_rounds=4, delta=DELTA)
    assert found.epsilon == pytest.approx(pld(1.0, 0.2, 20), rel=1e-3)
    assert found.event.relation == "add_or_remove_example"
    assert len(set(privacy.examples_epsilon(rounds, PEOPLE, num_rounds=4, delta=DELTA).tolist())) == 1


def test_calibration_and_rounds_are_its_inverses() -> None:
    make = lambda z: run(z, rate=None, expected_batch_size=8)  # noqa: E731
    z = privacy.calibrate(make, PEOPLE, epsilon=2.0, delta=DELTA, num_rounds=20)
    assert privacy.epsilon(make(z), PEOPLE, num_rounds=20, delta=DELTA) == pytest.approx(2.0, rel=1e-3)
    assert privacy.epsilon(make(z), PEOPLE, num_rounds=20, delta=DELTA) <= 2.0
    assert privacy.max_rounds(make(z * 1.0001), PEOPLE, epsilon=2.0, delta=DELTA) == 20


def test_the_clients_guarantee_stands_beside() -> None:
    """DP-SGD inside and noise on the sum: two figures of two units, each by its name."""
    noised = fl.chain(fl.mean(over=3), privacy.gaussian(clip_norm=1.0, noise_multiplier=5.0))
    rounds = run(aggregator=noised)
    clients, examples = (
        privacy.epsilon(rounds, PEOPLE, num_rounds=4, delta=DELTA, unit=unit) for unit in ("client", "example")
    )
    assert clients == privacy.epsilon(rounds, PEOPLE, num_rounds=4, delta=DELTA)
    assert clients == pytest.approx(pld(5.0, 1.0, 4), rel=1e-3)
    assert examples == pytest.approx(pld(1.0, 0.2, 20), rel=1e-3)
    found = privacy.report(rounds, PEOPLE, num_rounds=4, delta=DELTA)
    text = " ".join(str(found).split())
    assert (found.guarantee.epsilon, found.examples_guarantee.epsilon) == (clients, examples)
    assert "unit One client" in text
    assert f"examples Epsilon {examples:.4g} at delta 0.001 for an example of any client, whatever its size." in text
    assert "It is another guarantee than the clients', and is not added to it." in text
    z = privacy.calibrate(
        lambda z: run(z, aggregator=noised), PEOPLE, epsilon=2.0, delta=DELTA, num_rounds=4, unit="example"
    )
    assert privacy.epsilon(run(z), PEOPLE, num_rounds=4, delta=DELTA) == pytest.approx(2.0, rel=1e-3)


def test_the_page_names_the_least_and_the_best_protected() -> None:
    rounds = run(rate=None, expected_batch_size=8)
    each = privacy.examples_epsilon(rounds, PEOPLE, num_rounds=4, delta=DELTA)
    found = privacy.report(rounds, PEOPLE, num_rounds=4, delta=DELTA)
    text = " ".join(str(found).split())
    for claim in (
        f"Differential privacy of 4 rounds epsilon {each[0]:.4g} at delta 0.001",
        "unit One example of one client, in everything that the client sends in all rounds; not the client itself.",
        "Neighbors (zero_out_example): one example of one client counts for nothing",
        f"for an example of the smallest client (40 examples), which is drawn most often, and {each[2]:.4g} of the largest",
        "DP-SGD inside of a client: 5 steps a round, each example drawn with chance 1, at most 8 of them on average, noise",
        "full(3) of 3 clients. A client counts in 4 of 4 rounds",
        "trust The client is trusted with its own examples",
        "released Every update that a client sends",
    ):
        assert claim in text, claim
    assert found.warnings == ()
    assert "epsilon is infinite" in str(privacy.report(run(0.0), PEOPLE, num_rounds=4, delta=DELTA))


def test_algorithms_around_others_pass_it_on() -> None:
    inner = algorithms.fed_avg_of(local())
    tuned = algorithms.fine_tuned(inner, helpers.linear_loss, client_optimizer=optax.sgd(0.1))
    made = algorithms.scheduled(
        lambda client_lr: algorithms.fed_avg_of(
            privacy.dp_sgd(
                helpers.linear_loss,
                client_optimizer=optax.sgd(client_lr),
                rate=0.2,
                steps=5,
                clip_norm=1.0,
                noise_multiplier=1.0,
            )
        ),
        client_lr=lambda t: 0.1,
    )
    for algorithm in (tuned, made):
        rounds = fl.rounds(algorithm, sampler=fl.sampling.full(3), aggregator=fl.weighted_mean(), execution=helpers.ONE)
        found = privacy.epsilon(rounds, PEOPLE, num_rounds=4, delta=DELTA)
        assert found == pytest.approx(pld(1.0, 0.2, 20), rel=1e-3), algorithm.name


def test_noise_that_is_scheduled_has_no_figure_and_a_clip_that_is_has_one() -> None:
    def scheduled(**schedules: Any) -> fl.Rounds:
        def make(noise_multiplier: Any = 1.0, clip_norm: Any = 1.0) -> fl.Algorithm:
            return algorithms.fed_avg_of(local(noise_multiplier, clip_norm=clip_norm))

        algorithm = algorithms.scheduled(make, **schedules)
        return fl.rounds(algorithm, sampler=fl.sampling.full(3), aggregator=fl.weighted_mean(), execution=helpers.ONE)

    with pytest.raises(ValueError, match="the noise multiplier of privacy.dp_sgd is scheduled, .* rounds.go_on"):
        privacy.epsilon(scheduled(noise_multiplier=lambda t: 1.0 / (1 + t)), PEOPLE, num_rounds=4, delta=DELTA)
    found = privacy.epsilon(scheduled(clip_norm=lambda t: 1.0 / (1 + t)), PEOPLE, num_rounds=4, delta=DELTA)
    assert found == pytest.approx(pld(1.0, 0.2, 20), rel=1e-3)


def test_several_trainings_on_the_same_examples_are_one_figure() -> None:
    found = privacy.guarantee([(run(), 4), (run(2.0, rate=0.5), 3)], PEOPLE, delta=DELTA)
    accountant = dp.pld.PLDAccountant()
    accountant.compose(dp.PoissonSampledDpEvent(0.2, dp.GaussianDpEvent(1.0)), 20)
    accountant.compose(dp.PoissonSampledDpEvent(0.5, dp.GaussianDpEvent(2.0)), 15)
    assert found.epsilon == pytest.approx(accountant.get_epsilon(DELTA), rel=2e-3)
    assert found.unit == "example"


def go(rounds: fl.Rounds, *observers: Any, **options: Any) -> fl.observers.History:
    state = rounds.init(helpers.linear_params(), PEOPLE, key=jax.random.key(0))
    return fl.train(rounds, state, PEOPLE, observers=observers, **{"num_rounds": 4, "progress": False, **options})


@pytest.mark.whole
def test_while_a_run_goes() -> None:
    history = go(run(), running_epsilon(delta=DELTA))
    want = [privacy.epsilon(run(), PEOPLE, num_rounds=t, delta=DELTA) for t in range(1, 5)]
    assert [record["epsilon_examples"] for record in history.records] == want
    assert all("epsilon" not in record for record in history.records)
    assert {"loss", "nonfinite", "examples"} <= set(history.records[0]["simulation_only"])
    budget = (want[1] + want[2]) / 2
    stopped = go(run(), stop_at_epsilon(epsilon=budget, delta=DELTA))
    assert (int(stopped.state.round), "ends at round 2" in str(stopped.stopped)) == (2, True)
    with pytest.raises(ValueError, match="the first round alone costs epsilon"):
        go(run(), stop_at_epsilon(epsilon=0.01, delta=DELTA))


def test_while_a_run_of_both_goes() -> None:
    noised = fl.chain(fl.mean(over=3), privacy.gaussian(clip_norm=1.0, noise_multiplier=5.0))
    record = go(run(aggregator=noised), running_epsilon(delta=DELTA), num_rounds=1).records[0]
    for name, unit in (("epsilon", "client"), ("epsilon_examples", "example")):
        want = privacy.epsilon(run(aggregator=noised), PEOPLE, num_rounds=1, delta=DELTA, unit=unit)
        assert record[name] == want
    with pytest.raises(ValueError, match="the first round alone costs epsilon"):
        go(run(aggregator=noised), stop_at_epsilon(epsilon=1.0, delta=DELTA, unit="example"))


@pytest.mark.whole
def test_a_state_that_other_noise_made_counts_as_it_was() -> None:
    first, second = run(0.5), run(10.0)
    state = first.init(helpers.linear_params(), PEOPLE, key=jax.random.key(0))
    state, _ = first.steps(state, PEOPLE, 2)
    with pytest.raises(ValueError, match="noised by another composition|made by another composition"):
        privacy.report(second, PEOPLE, num_rounds=4, delta=DELTA, state=state)
    state = second.go_on(state, PEOPLE)
    found = privacy.guarantee(second, PEOPLE, num_rounds=4, delta=DELTA, state=state)
    accountant = dp.pld.PLDAccountant()
    for noise in (0.5, 10.0):
        accountant.compose(dp.PoissonSampledDpEvent(0.2, dp.GaussianDpEvent(noise)), 10)
    assert found.epsilon == pytest.approx(accountant.get_epsilon(DELTA), rel=2e-3)
    plain = fl.rounds(
        helpers.fed_avg(), sampler=fl.sampling.full(3), aggregator=fl.weighted_mean(), execution=helpers.ONE
    )
    state = plain.init(helpers.linear_params(), PEOPLE, key=jax.random.key(0))
    state, _ = plain.step(state, PEOPLE)
    # Training with no noise at all tells everything, whatever comes later.
    went_on = second.go_on(state, PEOPLE)
    assert privacy.epsilon(second, PEOPLE, num_rounds=4, delta=DELTA, state=went_on) == math.inf


def test_a_number_of_clients_is_enough_where_sizes_do_not_matter() -> None:
    assert privacy.epsilon(run(), 3, num_rounds=4, delta=DELTA) == pytest.approx(pld(1.0, 0.2, 20), rel=1e-3)
    with pytest.raises(ValueError, match="`population` is the number 3, and how often an example is drawn depends on"):
        privacy.epsilon(run(rate=None, expected_batch_size=8), 3, num_rounds=4, delta=DELTA)
    with pytest.raises(TypeError, match="`population` is 3; expected a Population, since each client has its own"):
        privacy.examples_epsilon(run(), 3, num_rounds=4, delta=DELTA)  # pyright: ignore[reportArgumentType]


def test_what_does_not_protect_the_unit_is_refused() -> None:
    plain = fl.rounds(
        helpers.fed_avg(), sampler=fl.sampling.full(3), aggregator=fl.weighted_mean(), execution=helpers.ONE
    )
    with pytest.raises(ValueError, match="the local training of fed_avg states no guarantee for single examples"):
        privacy.epsilon(plain, PEOPLE, num_rounds=4, delta=DELTA, unit="example")
    with pytest.raises(ValueError, match="the aggregator of fed_avg_of holds no mechanism of differential privacy"):
        privacy.epsilon(run(), PEOPLE, num_rounds=4, delta=DELTA, unit="client")
    with pytest.raises(ValueError, match="`unit` is 'hospital'; expected one of 'client', 'example'"):
        privacy.epsilon(run(), PEOPLE, num_rounds=4, delta=DELTA, unit="hospital")  # pyright: ignore[reportArgumentType]
    with pytest.warns(UserWarning, match="`delta` is 0.01 for 520 examples; take less than 1/520 = 0.00192"):
        privacy.epsilon(run(), PEOPLE, num_rounds=1, delta=0.01)


def test_batches_that_overflow_too_often_are_refused() -> None:
    with pytest.raises(
        ValueError, match="batches that have no room for an example, in one of 20 steps, cost more than"
    ):
        privacy.epsilon(run(max_overflow=1e-3), PEOPLE, num_rounds=4, delta=DELTA)
    assert jnp.isfinite(privacy.epsilon(run(max_overflow=1e-9), PEOPLE, num_rounds=4, delta=DELTA))
