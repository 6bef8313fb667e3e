"""Baselines against training by hand, and against the same data in one place."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl

SIZES = (3, 1, 8, 5)
TRAIN, TEST = helpers.regression(SIZES), helpers.regression((2, 4, 1, 3), seed=5)
PARAMS = {"w": jnp.float32([0.3, -0.2, 1.0]), "b": jnp.float32(0.5)}
KEY = jax.random.key(0)
MODEL = fl.models.from_functions(lambda key: PARAMS, lambda p, x: x @ p["w"] + p["b"], name="linear")
LOSS = fl.losses.squared_error(MODEL)
STEPS: dict[str, Any] = {"client_optimizer": optax.sgd(0.05), "steps": 3, "batch_size": 100, "key": KEY}


def by_hand(features: dict[str, np.ndarray]) -> Any:
    """Three steps of full batches, in float64."""
    w, b = np.asarray(PARAMS["w"], np.float64), float(PARAMS["b"])
    for _ in range(3):
        error = features["x"] @ w + b - features["y"]
        w, b = w - 0.1 * (features["x"] * error[:, None]).mean(0), b - 0.1 * error.mean()
    return w, b


def loss_of(model: Any, features: dict[str, np.ndarray]) -> float:
    return float(((features["x"] @ model[0] + model[1] - features["y"]) ** 2).mean())


def test_central_training_is_that_on_all_data() -> None:
    done = fl.baselines.central(LOSS, PARAMS, TRAIN, TEST, **STEPS, metrics=[fl.metrics.mean_absolute_error()])
    model = by_hand(TRAIN.features)
    np.testing.assert_allclose(done.params["w"], model[0], rtol=1e-4)
    want = [loss_of(model, TEST.client(i)) for i in range(4)]
    np.testing.assert_allclose(done.report.metrics["loss"], want, rtol=1e-4)
    assert set(done.report.metrics) == {"loss", "absolute_error", "mean_absolute_error"}


@pytest.mark.parametrize("execution", [helpers.ONE, fl.Execution(lanes=3, devices=helpers.available(2))])
def test_every_client_alone(execution: fl.Execution) -> None:
    done = fl.baselines.local_only(LOSS, PARAMS, TRAIN, TEST, **STEPS, execution=execution)
    want = [loss_of(by_hand(TRAIN.client(i)), TEST.client(i)) for i in range(4)]
    np.testing.assert_allclose(done.report.metrics["loss"], want, rtol=1e-4)
    assert done.params is None


@pytest.mark.parametrize("execution", [helpers.ONE, fl.Execution(lanes=3, devices=helpers.available(2))])
@pytest.mark.whole
def test_a_client_left_out_is_not_trained_on(execution: fl.Execution) -> None:
    done = fl.baselines.leave_one_client_out(LOSS, PARAMS, TRAIN, TEST, **STEPS, bootstrap=10, execution=execution)
    others = [[j for j in range(4) if j != i] for i in range(4)]
    want = [loss_of(by_hand(TRAIN.select(others[i]).features), TEST.client(i)) for i in range(4)]
    np.testing.assert_allclose(done.report.metrics["loss"], want, rtol=1e-4)
    assert set(done.report.low) == {"loss", "absolute_error"}
    small = {**STEPS, "batch_size": 5}
    again = fl.baselines.leave_one_client_out(LOSS, PARAMS, TRAIN, TEST, **small, execution=execution)
    # What the client holds does not matter to the model it is tested with.
    marked = TRAIN.features["x"].copy()
    marked[3] = 1e6
    other = fl.Population({**TRAIN.features, "x": marked}, TRAIN.offsets, TRAIN.max_size)
    changed = fl.baselines.leave_one_client_out(LOSS, PARAMS, other, TEST, **small, execution=execution)
    same = changed.report.metrics["loss"] == again.report.metrics["loss"]
    assert same.tolist() == [False, True, False, False]


@pytest.mark.whole
def test_a_federated_run_without_each_client() -> None:
    def rounds(population: fl.Population) -> fl.Rounds:
        full = fl.sampling.full(population.num_clients)
        algorithm = fl.algorithms.fed_sgd(LOSS, server_optimizer=optax.sgd(0.05))
        return fl.rounds(algorithm, sampler=full, aggregator=fl.weighted_mean(), execution=helpers.ONE)

    few = [TRAIN.select([0, 1, 2]), TEST.select([0, 1, 2])]
    done = fl.baselines.leave_one_client_out(
        LOSS, PARAMS, *few, rounds=rounds, num_rounds=3, metrics=[fl.metrics.r2()], key=KEY, execution=helpers.ONE
    )
    central = fl.baselines.leave_one_client_out(LOSS, PARAMS, *few, **STEPS, metrics=[fl.metrics.r2()])
    for name in ("loss", "r2"):
        np.testing.assert_allclose(done.report.metrics[name], central.report.metrics[name], rtol=1e-3)
    assert done.report.num_examples.tolist() == [2, 4, 1]


def test_what_is_wrong_is_refused() -> None:
    leave = fl.baselines.leave_one_client_out
    with pytest.raises(
        ValueError, match=r"`client_optimizer`, `steps`, `rounds` and `num_rounds`, none was given; expec"
    ):
        leave(LOSS, PARAMS, TRAIN, TEST, key=KEY)
    with pytest.raises(ValueError, match="client_optimizer, rounds was given"):
        leave(LOSS, PARAMS, TRAIN, TEST, client_optimizer=optax.sgd(1), rounds=lambda population: 0, key=KEY)
    with pytest.raises(TypeError, match=r"`rounds` is 0; expected a function that returns what fl.rounds"):
        leave(LOSS, PARAMS, TRAIN, TEST, num_rounds=1, rounds=lambda population: 0, key=KEY)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`train` has 1 client; expected at least 2"):
        leave(LOSS, PARAMS, TRAIN.select([0]), TEST.select([0]), **STEPS)
    for function in (leave, fl.baselines.local_only):
        with pytest.raises(ValueError, match="`train` has 4 clients and `test` 2; expected the same clients"):
            function(LOSS, PARAMS, TRAIN, TEST.select([0, 1]), **STEPS)
    with pytest.raises(ValueError, match="`steps` is 0; expected an int of at least 1"):
        fl.baselines.central(LOSS, PARAMS, TRAIN, TEST, **{**STEPS, "steps": 0})
    with pytest.raises(TypeError, match="`train` is 1; expected a Population"):
        fl.baselines.central(LOSS, PARAMS, 1, TEST, **STEPS)  # pyright: ignore[reportArgumentType]
