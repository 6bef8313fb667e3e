"""Outputs of a model for every example, in the order of the data."""

from functools import cache

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.evaluation import by_size

PEOPLE = helpers.regression((3, 1, 8, 300))
MODEL = fl.models.from_functions(
    lambda key: helpers.linear_params(), lambda p, x: {"y": x @ p["w"] + p["b"], "two": x[:, :2]}, name="linear"
)
PARAMS = {"w": jnp.float32([0.3, -0.2, 1.0]), "b": jnp.float32(0.5)}


@pytest.mark.parametrize("batch_size", [1000, 64])
def test_rows_come_in_the_order_of_the_data(batch_size: int) -> None:
    x = np.asarray(PEOPLE.features["x"])
    for data in (PEOPLE, {"x": x}):
        found = fl.predict(MODEL, data, batch_size=batch_size)(PARAMS)
        np.testing.assert_allclose(found["y"], x @ np.asarray(PARAMS["w"]) + 0.5, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found["two"], x[:, :2])


@cache
def personal() -> tuple[fl.Rounds, fl.RoundState]:
    """Clients with models of their own, after a round of two of them."""
    sampler = fl.sampling.replay([[2, 0]])
    run, state, _ = helpers.one_run(helpers.local_momentum(), PEOPLE, PARAMS, sampler=sampler)
    return run, state


@pytest.mark.parametrize("ragged", [False, True])
def test_personal_models_say_what_they_say_of_their_own_clients(ragged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if ragged:
        monkeypatch.setattr(by_size, "_FEW", 0)
        monkeypatch.setattr(by_size, "_STEP", 3)
        assert [group.ids.tolist() for group in by_size.groups(PEOPLE, jax.random.key(0))] == [[0, 1, 2], [3]]
        monkeypatch.setattr("fedjaxlite.evaluation.predictions._AT_ONCE", 16)
    run, state = personal()
    found = fl.predict(MODEL, PEOPLE, rounds=run, batch_size=7, execution=fl.Execution(lanes=2, devices=1))(state)
    for i in range(4):
        own, mine = PEOPLE.client(i)["x"], run.client_params(state, i)
        rows = slice(int(PEOPLE.offsets[i]), int(PEOPLE.offsets[i + 1]))
        want = own @ np.asarray(mine["w"]) + float(mine["b"])
        np.testing.assert_allclose(found["y"][rows], want, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found["two"][rows], own[:, :2])


def test_a_loss_tells_its_model_and_evaluation_is_no_training() -> None:
    model = fl.models.dropout_cnn(num_classes=3, input_shape=(8, 8, 1), filters=(2, 2), hidden=4)
    params = model.init(jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(9, 8, 8, 1)).astype(np.float32)
    found = fl.predict(fl.losses.cross_entropy(model), {"x": x}, batch_size=4)(params)
    np.testing.assert_allclose(found, jax.jit(model.apply)(params, x), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_predicted_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`model` is 3; expected a Model, such as"):
        fl.predict(3, PEOPLE)  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ValueError, match="`model` is the loss `linear_loss`, which does not tell its model; give the M"
    ):
        fl.predict(fl.losses.declare(helpers.linear_loss), PEOPLE)
    with pytest.raises(ValueError, match=r"`data` has no feature \"x\", which a model reads, only \['y'\]"):
        fl.predict(MODEL, {"y": np.ones(3)})
    run, _ = personal()
    with pytest.raises(
        TypeError, match="`data` is a dict; expected a Population|`data` is .*; expected a Population, whose"
    ):
        fl.predict(MODEL, {"x": np.ones((3, 3))}, rounds=run)
