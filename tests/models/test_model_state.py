"""Models with state (BatchNorm) and with randomness (dropout), through whole rounds."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, testing

SIZES = (4, 9, 3, 6, 2, 13)
PEOPLE = helpers.regression(SIZES)
START = fl.Variables({"w": jnp.float32([0.3, -0.2, 1.0])}, {"mean": jnp.zeros(3), "count": jnp.float32(0)})


def running_mean_loss(params: fl.Variables, batch: Any, key: Any) -> Any:
    """Centers the features by the real rows of the batch, and keeps a running mean of them as its state."""
    mask = batch["mask"].astype(jnp.float32).reshape((-1, 1))
    mean = (batch["x"] * mask).sum(0) / jnp.maximum(mask.sum(), 1.0)
    used = params.state["mean"] if key is None else mean
    state = {"mean": 0.5 * params.state["mean"] + 0.5 * mean, "count": params.state["count"] + 1}
    losses = ((batch["x"] - used.reshape((1, 3))) @ params.params["w"] - batch["y"]) ** 2
    return losses, fl.LossAux(state=state)


def fed_avg(**options: Any) -> fl.Algorithm:
    loss = fl.losses.declare(running_mean_loss, cross_example=True)
    return algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.02), batch_size=4, shuffle=False, **options)


def test_state_is_averaged_like_the_parameters() -> None:
    _, state, _ = helpers.one_run(fed_avg(), PEOPLE, START)
    means, counts = [], []
    for i, n in enumerate(SIZES):
        mean, x = np.zeros(3), PEOPLE.client(i)["x"]
        for start in range(0, n, 4):
            mean = 0.5 * mean + 0.5 * x[start : start + 4].mean(0)
        means.append(mean)
        counts.append(-(-n // 4))
    np.testing.assert_allclose(state.params.state["mean"], np.average(means, axis=0, weights=SIZES), atol=1e-6)
    np.testing.assert_allclose(state.params.state["count"], np.average(counts, weights=SIZES), rtol=1e-6)


def test_the_server_optimizer_does_not_see_the_state() -> None:
    """With half a server rate the parameters go half the way, the statistics the whole."""
    _, whole, _ = helpers.one_run(fed_avg(), PEOPLE, START)
    _, half, _ = helpers.one_run(fed_avg(server_optimizer=optax.sgd(0.5, momentum=0.9)), PEOPLE, START)
    way = lambda state: np.asarray(state.params.params["w"] - START.params["w"])  # noqa: E731
    np.testing.assert_allclose(way(half), 0.5 * way(whole), atol=1e-6)
    assert helpers.max_difference(half.params.state, whole.params.state) < 1e-6
    assert jax.tree.structure(half.server_state.optimizer_state[0].trace) == jax.tree.structure(START.params)


def test_the_laws_hold_for_a_model_with_state() -> None:
    case = testing.case(
        fed_avg(), START, PEOPLE, layouts=(fl.Execution(lanes=3, devices=helpers.available(2)),), num_rounds=2
    )
    for check in (testing.check_layout_invariance, testing.check_padding, testing.check_resume):
        check(case)


@pytest.mark.usefixtures("full_precision")
@pytest.mark.whole
def test_evaluation_uses_the_running_statistics_and_leaves_them() -> None:
    _, state, _ = helpers.one_run(fed_avg(), PEOPLE, START)
    got = fl.evaluate(running_mean_loss, PEOPLE, batch_size=7)(state.params)
    x, y = np.asarray(PEOPLE.features["x"]), np.asarray(PEOPLE.features["y"])
    want = ((x - np.asarray(state.params.state["mean"])) @ np.asarray(state.params.params["w"]) - y) ** 2
    assert float(got["loss"]) == pytest.approx(want.mean(), rel=1e-5)


def test_the_probe_finds_batch_statistics() -> None:
    batch = PEOPLE.client(3)
    with pytest.raises(AssertionError, match="`running_mean_loss` of row"):
        testing.check_cross_example(running_mean_loss, START, batch)
    declared = fl.losses.declare(running_mean_loss, cross_example=True)
    assert testing.check_cross_example(declared, START, batch)


@pytest.mark.whole
def test_an_nnx_model_with_batch_norm_and_dropout_trains_and_keeps_the_laws() -> None:
    from flax import nnx

    class Small(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.inner = nnx.Linear(3, 4, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.drop = nnx.Dropout(0.2, rngs=rngs)
            self.outer = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.outer(self.drop(nnx.relu(self.norm(self.inner(x)))))

    model = fl.models.from_nnx(Small)
    loss = fl.losses.cross_entropy(model)
    people = fl.Population({**PEOPLE.features, "y": (PEOPLE.features["y"] > 0).astype(np.int32)}, PEOPLE.offsets, 13)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # Flax itself needs them
        params = model.init(jax.random.key(0))
        algorithm = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=4, epochs=2)
        case = testing.case(algorithm, params, people, layouts=(fl.Execution(lanes=2, devices=1),), num_rounds=2)
        testing.check_layout_invariance(case)
        testing.check_padding(case)
        state = case.play(testing.REFERENCE).state
        evaluate = fl.evaluate(model, people)
        assert float(evaluate(state.params)["loss"]) < float(evaluate(params)["loss"])
        assert testing.check_cross_example(loss, params, people.client(1))
    assert isinstance(params, fl.Variables)
    assert helpers.max_difference(state.params.state, params.state) > 0
