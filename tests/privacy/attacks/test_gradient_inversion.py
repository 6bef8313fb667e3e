"""Searches for the data behind an update, on a tiny smooth network of 16-pixel pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.privacy import attacks

pytestmark = pytest.mark.whole

SHAPE = (1, 4, 4, 1)


def init(key):
    first, second = jax.random.split(key)
    return {
        "w": jax.random.uniform(first, (16, 12), minval=-1.0),
        "v": jax.random.uniform(second, (12, 3), minval=-1.0),
    }


def apply(params, x):
    return jax.nn.sigmoid(x.reshape(x.shape[0], 16) @ params["w"]) @ params["v"]


MODEL = fl.models.from_functions(init, apply, name="tiny")
UPDATE = attacks.gradient_update(attacks.soft_cross_entropy(MODEL))
PARAMS = init(jax.random.key(0))
IMAGES = jnp.asarray(np.random.default_rng(3).random((3, *SHAPE)), jnp.float32)
LABELS = jnp.array([[0], [2], [1]])
KEYS = jax.random.split(jax.random.key(5), 3)


@pytest.mark.slow
def test_dlg_finds_pictures_and_labels() -> None:
    """Three victims side by side; no bias in the model, so no layer gives its input away in closed form."""
    targets = jax.vmap(UPDATE, in_axes=(None, 0, 0))(PARAMS, IMAGES, LABELS)
    attack = attacks.dlg(UPDATE, shape=SHAPE, num_classes=3, steps=60)
    found = jax.vmap(attack, in_axes=(None, 0, 0))(PARAMS, targets, KEYS)
    assert found.trace.shape == (3, 1, 60)
    assert float(found.objective.max()) < 1e-5
    np.testing.assert_array_equal(found.y.argmax(-1), LABELS)
    assert float(jax.vmap(attacks.psnr)(found.x, IMAGES).min()) > 30


def test_inverting_gradients_finds_pictures_from_a_scaled_update() -> None:
    """The best of two starts, from an update that was clipped to a norm that the attacker does not know."""
    targets = jax.vmap(UPDATE, in_axes=(None, 0, 0))(PARAMS, IMAGES, LABELS)
    targets = jax.tree.map(lambda leaf: 1e-3 * leaf, targets)
    attack = attacks.invert_gradients(UPDATE, shape=SHAPE, steps=400, total_variation=0.0, restarts=2)
    found = jax.vmap(attack)(jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), PARAMS), targets, KEYS, LABELS)
    assert float(jax.vmap(attacks.psnr)(found.x, IMAGES).min()) > 25
    assert float(found.x.min()) >= 0
    assert float(found.x.max()) <= 1
    assert (found.trace[:, :, -1].min(1) >= found.objective - 1e-6).all()


@pytest.mark.slow
def test_total_variation_smooths() -> None:
    """With all the weight on it the picture is flat; the mean absolute difference is counted along both axes."""
    attack = attacks.invert_gradients(UPDATE, shape=SHAPE, steps=200, total_variation=100.0)
    target = UPDATE(PARAMS, IMAGES[0], LABELS[0])
    found = attack(PARAMS, target, KEYS[0], LABELS[0])
    assert float(found.x.std()) < 0.05 < float(IMAGES[0].std())


def test_a_search_that_diverges_keeps_its_best_point() -> None:
    update_fn = lambda params, x, y: jnp.where(jnp.abs(x - 0.5) < 0.2, x * params, jnp.nan)  # noqa: E731
    attack = attacks.invert_gradients(
        update_fn, shape=(1,), steps=50, total_variation=0.0, bounds=(0.4, 3.0), learning_rate=10.0, restarts=8
    )
    found = attack(jnp.float32(1.0), jnp.ones(1), jax.random.key(0), jnp.zeros(1, jnp.int32))
    assert bool(jnp.isfinite(found.objective))
    assert bool(jnp.isfinite(found.x).all())


def test_steps_are_adams() -> None:
    """Ten steps along random gradients, against Optax."""
    from fedjaxlite.privacy.attacks import gradients

    optimizer, mine = optax.adam(1.0), gradients._Adam(jnp.zeros(5), jnp.zeros(5), jnp.float32(0))
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam itself needs it
        theirs = optimizer.init(jnp.zeros(5))
        for key in jax.random.split(jax.random.key(0), 10):
            grad = jax.random.normal(key, (5,))
            expected, theirs = optimizer.update(grad, theirs)
            step, mine = gradients._adam(grad, mine)
            np.testing.assert_allclose(-step, expected, rtol=1e-4)


def test_errors() -> None:
    target = UPDATE(PARAMS, IMAGES[0], LABELS[0])
    with pytest.raises(ValueError, match="`labels` is None and so is `num_classes`"):
        attacks.dlg(UPDATE, shape=SHAPE)(PARAMS, target, KEYS[0])
    with pytest.raises(ValueError, match="`labels` is None; expected the labels"):
        attacks.invert_gradients(UPDATE, shape=SHAPE)(PARAMS, target, KEYS[0])
    with pytest.raises(
        ValueError, match=r"`target` has no leaf at \['v'\]; expected the structure of what `update_fn`"
    ):
        attacks.dlg(UPDATE, shape=SHAPE)(PARAMS, {"w": target["w"]}, KEYS[0], LABELS[0])
    with pytest.raises(ValueError, match=r"`target` has uint32\[12,? ?3\] at \['v'\]"):
        wrong = {**target, "v": target["v"].astype(jnp.uint32)}
        attacks.invert_gradients(UPDATE, shape=SHAPE)(PARAMS, wrong, KEYS[0], LABELS[0])
    with pytest.raises(ValueError, match=r"`shape` is \(1, 16\) and `total_variation` 0.01"):
        attacks.invert_gradients(UPDATE, shape=(1, 16))
    with pytest.raises(ValueError, match=r"`bounds` is \(1, 0\); expected \(least, largest\)"):
        attacks.invert_gradients(UPDATE, shape=SHAPE, bounds=(1, 0))
    with pytest.raises(TypeError, match=r"`shape` is 16; expected a tuple"):
        attacks.dlg(UPDATE, shape=16)
    with pytest.raises(ValueError, match=r"`shape\[1\]` is 0; expected an int of at least 1"):
        attacks.dlg(UPDATE, shape=(1, 0))
    with pytest.raises(ValueError, match="`steps` is 0; expected an int of at least 1"):
        attacks.dlg(UPDATE, shape=SHAPE, steps=0)
