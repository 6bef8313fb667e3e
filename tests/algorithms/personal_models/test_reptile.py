"""Reptile: a step of size epsilon along the plain mean of the deltas; with epsilon = 1, FedAvg."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import personal_problems as problems
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.algorithms.personal_models.reptile import reptile

RATE = 0.05


def settings() -> dict[str, Any]:
    return {"client_optimizer": optax.sgd(RATE), "batch_size": problems.BATCH, "epochs": 2, "shuffle": False}


def test_rounds_against_numpy_with_a_schedule_of_the_outer_step() -> None:
    """Clients count alike, whatever their sizes, and one without examples not at all."""
    people = problems.linear()
    fall = lambda count: 0.9 - 0.2 * count.astype(jnp.float32)  # noqa: E731
    run, state, infos = problems.played(reptile(helpers.linear_loss, epsilon=fall, **settings()), people)
    shared = problems.flat(problems.start())
    for number, cohort in enumerate(problems.COHORTS):
        deltas = []
        for k in (k for k in cohort if k >= 0 and problems.SIZES[k]):
            model = shared
            for batch in problems.batches(*problems.rows(people, k), 2, problems.work_of(cohort, k)):
                model = model - RATE * problems.gradient(model, *batch)
            deltas.append(shared - model)
        shared = shared - (0.9 - 0.2 * number) * np.mean(deltas, axis=0)
    assert problems.close(state.params, shared)
    problems.check_exports(run, state, people, [shared] * 4)
    assert infos[0].clients["local_steps"].tolist() == [2, 3, 0]


def test_the_fixed_point_does_not_depend_on_epsilon_and_the_way_there_does() -> None:
    """On a/2 (x - b)^2 with k steps of rate r: x* = sum c b / sum c, c = 1 - (1 - r a)^k; |x - x*| falls by 1 - eps c.

    With epsilon = 1 it is federated averaging of clients that have as many examples as each other.
    """
    people = problems.quadratics()
    settings: dict[str, Any] = {"client_optimizer": optax.sgd(0.1), "batch_size": 1, "steps": 5}

    def after(algorithm: fl.Algorithm) -> jax.Array:
        run = fl.rounds(algorithm, sampler=fl.sampling.full(3), aggregator=fl.weighted_mean(), execution=helpers.ONE)
        state = run.init(jnp.float32(0.3), people, key=jax.random.key(0))
        return run.steps(state, people, 4)[0].params

    @jax.jit
    def both(epsilons: jax.Array) -> tuple[jax.Array, jax.Array]:
        ours = jax.vmap(lambda epsilon: after(reptile(problems.quadratic, epsilon=epsilon, **settings)))(epsilons)
        return ours, after(algorithms.fed_avg(problems.quadratic, **settings))

    ours, average = both(jnp.float32([0.25, 0.5, 1.0]))
    pull = 1 - (1 - 0.1 * problems.A.astype(np.float64)) ** 5
    end = (pull * problems.B).sum() / pull.sum()
    want = [end + (1 - epsilon * pull.mean()) ** 4 * (0.3 - end) for epsilon in (0.25, 0.5, 1.0)]
    assert ours.tolist() == pytest.approx(want, abs=1e-5)
    assert float(average) == pytest.approx(float(ours[2]), abs=1e-6)


def test_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"`epsilon` is 0; expected a finite number above 0\. Or give an optax sch"):
        reptile(problems.quadratic, epsilon=0, client_optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"`epochs` is 1 and `steps` is 2; expected exactly one"):
        reptile(problems.quadratic, epsilon=0.5, client_optimizer=optax.sgd(0.1), epochs=1, steps=2)
