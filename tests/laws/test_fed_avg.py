"""Federated averaging in closed form: where it is gradient descent, where it is local training, where it drifts to."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, testing

PEOPLE = helpers.regression((4, 9, 1, 6))
START = {"w": jnp.float32([0.5, -1.0, 0.2]), "b": jnp.float32(0.1)}


def pooled(params: Any) -> jax.Array:
    return helpers.linear_loss(params, jax.tree.map(jnp.asarray, PEOPLE.features), None).mean()


@jax.jit
def descended(params: Any, rate: Any) -> Any:
    return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(pooled)(params))


def test_one_full_batch_step_at_server_rate_1_is_centralized_gradient_descent() -> None:
    """FedAvg with E = 1, B = infinity, and FedSGD at the same rate, over five rounds."""
    average = helpers.fed_avg(0.1, batch_size=None)
    summed = algorithms.fed_sgd(helpers.linear_loss, server_optimizer=optax.sgd(0.1))
    for algorithm in (average, summed):
        _, state, _ = helpers.one_run(algorithm, PEOPLE, START, num_rounds=5)
        want = START
        for _ in range(5):
            want = descended(want, 0.1)
        assert helpers.max_difference(state.params, want) < 1e-6
    assert helpers.max_difference(want, START) > 0.1


def test_chunks_of_a_full_batch_do_not_matter() -> None:
    train = lambda chunk: fl.local_sgd(  # noqa: E731
        helpers.linear_loss, client_optimizer=optax.sgd(0.1), batch_size=None, steps=2, chunk_size=chunk
    )

    def client(chunk: int) -> fl.Algorithm:
        def client_update(shared: Any, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
            result = train(chunk)(shared, data)
            return fl.ClientOutput(result.delta, result.num_examples, info=dict(result.metrics))

        return helpers.fed_avg()._replace(client_update=client_update)

    (_, one, one_info), (_, two, two_info) = (helpers.one_run(client(chunk), PEOPLE, START) for chunk in (256, 2))
    assert helpers.max_difference(one.params, two.params) < 1e-6
    assert float(one_info.metrics["loss"]) == pytest.approx(float(two_info.metrics["loss"]), rel=1e-6)


def test_a_server_optimizer_takes_the_mean_delta_for_a_gradient() -> None:
    server = optax.sgd(0.5, momentum=0.9)
    algorithm = helpers.fed_avg(0.1, batch_size=None, server_optimizer=server)
    _, state, _ = helpers.one_run(algorithm, PEOPLE, START, num_rounds=4)
    want, optimizer_state = START, server.init(START)
    for _ in range(4):
        delta = jax.tree.map(jnp.subtract, want, descended(want, 0.1))
        updates, optimizer_state = server.update(delta, optimizer_state, want)
        want = optax.apply_updates(want, updates)
    assert helpers.max_difference(state.params, want) < 1e-6
    assert helpers.max_difference(state.server_state.optimizer_state, optimizer_state) < 1e-6


def test_a_cohort_of_one_is_local_training() -> None:
    algorithm = helpers.fed_avg(0.05, batch_size=4, epochs=3, shuffle=False)
    _, state, info = helpers.one_run(algorithm, PEOPLE, START, sampler=fl.sampling.replay([[1]]))
    own, model = PEOPLE.client(1), START
    step = jax.jit(lambda p, x, y: jax.grad(lambda q: helpers.linear_loss(q, {"x": x, "y": y}, None).mean())(p))
    for _ in range(3):
        for start in (0, 4, 8):
            gradient = step(model, own["x"][start : start + 4], own["y"][start : start + 4])
            model = jax.tree.map(lambda p, g: p - 0.05 * g, model, gradient)
    assert helpers.max_difference(state.params, model) < 1e-6
    assert (int(info.clients["local_steps"][0]), int(info.num_examples)) == (9, 9)


def test_client_drift_ends_where_theory_says() -> None:
    """f_i = a_i / 2 (x - b_i)^2, K full-batch steps of rate 0.1: x* = sum c_i b_i / sum c_i, c_i = 1 - (1 - 0.1 a_i)^K."""
    data = fl.Population.from_arrays(
        {"a": np.float32([1, 4]), "b": np.float32([0, 1])}, client_ids=np.arange(2), check_finite=True
    )
    loss = lambda x, batch, key: batch["a"] / 2 * (x - batch["b"]) ** 2  # noqa: E731

    @jax.jit
    def fixed_point(local_steps: Any) -> jax.Array:
        algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=1, steps=local_steps)
        run = fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.mean(), execution=helpers.ONE)
        state = run.init(jnp.float32(0.3), data, key=jax.random.key(0))
        return run.steps(state, data, 80)[0].params

    for local_steps, want in ((1, 0.8), (10, 0.6041260077), (100, 0.5000066404)):
        assert float(fixed_point(jnp.int32(local_steps))) == pytest.approx(want, abs=1e-6)


def test_clients_weigh_by_their_examples() -> None:
    loss = lambda p, batch, key: (p - batch["x"]) ** 2 / 2  # noqa: E731
    algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(1.0), batch_size=None)
    people = helpers.one_value_each([0.0, 1.0, 4.0], [1, 2, 5])
    means = [
        float(helpers.one_run(algorithm, people, jnp.float32(9), aggregator=aggregator)[1].params)
        for aggregator in (fl.weighted_mean(), fl.mean())
    ]
    assert means == pytest.approx([22 / 8, 5 / 3])


def test_optimizer_counters_count_real_steps_only() -> None:
    """Adam's bias correction in a lane that waits for a larger client beside it."""
    adam = algorithms.fed_avg(helpers.linear_loss, client_optimizer=optax.adam(0.1), batch_size=2, epochs=2)
    case = testing.case(adam, START, PEOPLE, layouts=(fl.Execution(lanes=4, devices=1),), num_rounds=2)
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam itself needs it
        testing.check_layout_invariance(case)


def test_stragglers_do_part_of_their_steps() -> None:
    sampler = fl.sampling.with_stragglers(fl.sampling.full(4), 1.0, 0.0)
    run, state, info = helpers.one_run(helpers.fed_avg(batch_size=1, epochs=4), PEOPLE, START, sampler=sampler)
    cohort = sampler.sample(state.keys.sample, 0, PEOPLE)
    want = [max(1, int(np.ceil(w * 4 * n - 1e-4))) for w, n in zip(cohort.work.tolist(), (4, 9, 1, 6), strict=True)]
    assert info.clients["local_steps"].tolist() == want
    assert want != [16, 36, 4, 24]


def test_infos_tell_the_loss_before_each_step_averaged_over_examples() -> None:
    algorithm = helpers.fed_avg(1e-12, batch_size=2, epochs=1)
    _, _, info = helpers.one_run(algorithm, PEOPLE, START)
    assert float(info.metrics["loss"]) == pytest.approx(float(pooled(START)), rel=1e-5)
    for client in range(4):
        own = float(helpers.linear_loss(START, PEOPLE.client(client), None).mean())
        assert float(info.clients["loss"][client]) == pytest.approx(own, rel=1e-5)
    assert (int(info.num_selected), int(info.num_reported), int(info.num_examples)) == (4, 4, 20)
    assert info.clients["in_sum"].all()


def test_traffic_is_the_model_down_and_model_and_weight_up() -> None:
    run, _, _ = helpers.one_run(helpers.fed_avg(), PEOPLE, START, num_rounds=0)
    assert run.traffic(START, PEOPLE) == (4 * 4 + 4, 4 * 4)


def test_the_record_of_hyperparameters() -> None:
    assert helpers.fed_avg().hparams == {"batch_size": 8, "epochs": 1, "steps": None, "shuffle": True}
    assert algorithms.fed_sgd(helpers.linear_loss, server_optimizer=optax.sgd(0.1)).name == "fed_sgd"
