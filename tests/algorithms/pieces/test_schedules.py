"""Scheduled hyperparameters: a run equals rounds that are run by hand, each with its own values."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.algorithms.one_model.fed_dyn import fed_dyn
from fedjaxlite.algorithms.pieces.schedules import scheduled

PEOPLE = helpers.regression((4, 9, 1, 6))
RATES, STEPS = [0.1, 0.05, 0.05, 0.0125], [5, 3, 2, 1]
START = helpers.linear_params()


def make(client_lr: Any, steps: Any) -> fl.Algorithm:
    return algorithms.fed_avg(
        helpers.linear_loss, client_optimizer=optax.sgd(client_lr), batch_size=2, steps=steps, shuffle=False
    )


def falling_rate(t: Any) -> Any:
    return jnp.float32(RATES)[t]


def falling_steps(t: Any) -> Any:
    return jnp.float32([4.6, 3.2, 2.0, -7.0])[t]  # rounded, and at least 1


def test_a_run_equals_rounds_by_hand_with_changing_rates_and_steps() -> None:
    algorithm = scheduled(make, client_lr=falling_rate, steps=falling_steps)
    run = fl.rounds(algorithm, sampler=fl.sampling.full(4), aggregator=fl.weighted_mean(), execution=helpers.ONE)
    key = jax.random.key(0)
    state, infos = run.steps(run.init(START, PEOPLE, key=key), PEOPLE, 4)

    @jax.jit
    def one_round(params: Any, rate: Any, steps: Any) -> Any:
        alone = fl.rounds(
            make(rate, steps), sampler=fl.sampling.full(4), aggregator=fl.weighted_mean(), execution=helpers.ONE
        )
        return alone.step(alone.init(params, PEOPLE, key=key, noise_key=key), PEOPLE)[0].params

    params = START
    for rate, steps in zip(RATES, STEPS, strict=True):
        params = one_round(params, jnp.float32(rate), jnp.int32(steps))
    assert helpers.max_difference(state.params, params) < 1e-6
    assert infos.clients["local_steps"].tolist() == [[s] * 4 for s in STEPS]
    assert infos.metrics["client_lr"] == pytest.approx(RATES)
    assert int(state.server_state.round) == 4
    assert algorithm.name == "scheduled(fed_avg)"
    assert algorithm.hparams["steps"] == "scheduled"
    assert run.traffic(START, PEOPLE) == (4 * 4 + 4, 4 * 4 + 4)  # the round goes down beside the model


def test_servers_follow_the_schedule_too_and_optax_schedules_serve() -> None:
    def dyn(alpha: Any) -> fl.Algorithm:
        return fed_dyn(helpers.linear_loss, alpha=alpha, num_clients=4, client_optimizer=optax.sgd(0.05))

    moving = scheduled(dyn, alpha=optax.piecewise_constant_schedule(0.5, {1: 4.0}))
    mean = jax.tree.map(jnp.ones_like, START)
    aggregate = fl.Aggregate(mean, jnp.float32(2.0), jnp.int32(2), {})
    state, inner = moving.init(START), dyn(0.5).init(START)
    for alpha in (0.5, 2.0, 2.0):
        state = moving.server_update(state, aggregate, jax.random.key(0))
        inner = dyn(alpha).server_update(inner, aggregate, jax.random.key(0))
        assert helpers.max_difference(state.inner, inner) < 1e-6
    assert helpers.max_difference(state.params, dyn(0.5).params(inner)) < 1e-6
    assert jax.tree.structure(moving.init_client(START)) == jax.tree.structure(START)
    assert helpers.max_difference(moving.client_params(moving.broadcast(state), ()), state.params) == 0


def test_a_rate_that_decays_ends_closer_to_the_optimum() -> None:
    """a = (1, 4), b = (0, 1): ten local steps of a fixed rate of 0.1 end at 0.604, the optimum is 0.8."""
    data = fl.Population.from_arrays({"a": np.float32([1, 4]), "b": np.float32([0, 1])}, client_ids=[0, 1])
    loss = lambda x, batch, key: batch["a"] / 2 * (x - batch["b"]) ** 2  # noqa: E731

    def local(client_lr: Any) -> fl.Algorithm:
        return algorithms.fed_avg(loss, client_optimizer=optax.sgd(client_lr), batch_size=1, steps=10)

    ends = []
    for schedule in (lambda t: 0.1, lambda t: 0.1 / (1.0 + 0.2 * t.astype(jnp.float32))):
        run = fl.rounds(
            scheduled(local, client_lr=schedule),
            sampler=fl.sampling.full(2),
            aggregator=fl.mean(),
            execution=helpers.ONE,
        )
        state, _ = run.steps(run.init(jnp.float32(0.3), data, key=jax.random.key(0)), data, 500)
        ends.append(float(state.params))
    assert ends[0] == pytest.approx(0.6041260077, abs=1e-5)
    assert abs(ends[1] - 0.8) < 0.02


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: scheduled(None), TypeError, r"`make` is None; expected a function\. It makes the algorithm"),  # type: ignore[arg-type]
        (lambda: scheduled(make), ValueError, r"no hyperparameter is scheduled; expected at least one"),
        (
            lambda: scheduled(make, client_lr=0.1),
            TypeError,
            r"`client_lr` is 0\.1; expected a function of \(round\)\. It gives",
        ),  # type: ignore[arg-type]
        (lambda: scheduled(lambda a: a, a=lambda t: 1.0), TypeError, r"`make` returned a float; expected an fl\.Algo"),
        (
            lambda: scheduled(lambda a: a, a=lambda t: jnp.ones(2)),
            ValueError,
            r"schedule of `a` gave an array of shape",
        ),
        (
            lambda: scheduled(lambda client_lr: make(client_lr, 1), client_lr=lambda t: -1.0),
            ValueError,
            r"steps uphill",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(build: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        build()
