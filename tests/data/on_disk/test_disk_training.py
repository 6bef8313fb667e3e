"""Runs on a population that lies on a disk: the numbers of memory, and what would put all of it on a device refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms

MODEL = fl.models.logistic(num_classes=3, input_shape=(4,))
RNG = np.random.default_rng(0)
CLIENTS = [
    {"x": RNG.normal(size=(n, 4)).astype(np.float32), "y": RNG.integers(0, 3, n)} for n in RNG.integers(1, 9, 17)
]


ONE = fl.Execution(devices=1)


def composed(sampler, execution):
    algorithm = algorithms.fed_avg(fl.losses.cross_entropy(MODEL), client_optimizer=optax.sgd(0.1), batch_size=4)
    return fl.rounds(algorithm, sampler=sampler, aggregator=fl.weighted_mean(), execution=execution)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "people"
    return fl.Population.write(folder, CLIENTS), fl.Population.from_clients(CLIENTS)


@pytest.mark.parametrize(
    ("sampler", "execution"),
    [(fl.sampling.uniform(5), ONE), pytest.param(fl.sampling.weighted(4), fl.Execution(), marks=pytest.mark.slow)],
    ids=["uniform, one device", "by size, all devices"],
)
def test_a_run_from_the_disk_has_the_numbers_of_memory(both, sampler, execution):
    rounds = composed(sampler, execution)
    found = []
    for people in both:
        state = rounds.init(MODEL.init(jax.random.key(0)), people, key=jax.random.key(1))
        evaluate = fl.evaluate(MODEL, people)
        found.append(fl.train(rounds, state, people, num_rounds=6, evaluate=evaluate, progress=False))
    disk, memory = found
    for one, other in zip(
        jax.tree.leaves(rounds.params(disk.state)), jax.tree.leaves(rounds.params(memory.state)), strict=True
    ):
        # Several devices share a cohort by other rules, and add it up in another order.
        np.testing.assert_allclose(one, other, rtol=0, atol=0 if execution is ONE else 1e-6)
    losses = [[r["loss"] for r in history.records] + [history.records[-1]["test_loss"]] for history in found]
    np.testing.assert_allclose(*losses, rtol=0 if execution is ONE else 1e-5)


def test_a_step_on_all_of_it_says_what_to_do(both):
    disk, _ = both
    rounds = composed(fl.sampling.uniform(5), ONE)
    state = rounds.init(MODEL.init(jax.random.key(0)), disk, key=jax.random.key(1))
    text = (
        r"lies on a disk \(.*people'\), and rounds.step .*fl.train takes it .*prepare_cohort.*population.in_memory\(\)"
    )
    with pytest.raises(ValueError, match=text):
        rounds.step(state, disk)
    with pytest.raises(ValueError, match=text):
        rounds.steps(state, disk, 2)
    cohort = rounds.sampler.sample(state.keys.sample, 0, disk)
    prepared, _ = rounds.step(state, fl.prepare_cohort(disk, cohort))
    whole, _ = rounds.step(state, disk.in_memory())
    assert jnp.array_equal(jax.tree.leaves(rounds.params(prepared))[0], jax.tree.leaves(rounds.params(whole))[0])
