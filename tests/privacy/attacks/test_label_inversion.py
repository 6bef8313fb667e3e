"""Labels, read off the last layer's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.privacy import attacks

MODEL = fl.models.mlp(features=(12, 10))  # its last features are behind a ReLU
UPDATE = jax.jit(attacks.gradient_update(fl.losses.cross_entropy(MODEL)))
IMAGES = np.random.default_rng(0).random((30, 8, 8, 1)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 10, 30).astype(np.int32)


def test_idlg_is_always_right_for_one_example() -> None:
    """With 30 models and images; and from the bias alone."""
    for seed, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        update = UPDATE(MODEL.init(jax.random.key(seed)), image[None], label[None])["dense_1"]
        assert int(attacks.idlg_label(update["kernel"])) == label
        assert int(attacks.idlg_label(update["bias"])) == label


def test_counts_are_exact_with_the_models_mean_output() -> None:
    params = MODEL.init(jax.random.key(0))
    bias = UPDATE(params, IMAGES, LABELS)["dense_1"]["bias"]
    mean = jax.jit(lambda params: jax.nn.softmax(MODEL.apply(params, IMAGES)).mean(0))(params)
    found = attacks.label_counts(bias, batch_size=30, probabilities=mean)
    np.testing.assert_array_equal(found, np.bincount(LABELS, minlength=10))


def test_counts_are_exact_within_the_stated_error() -> None:
    """Probabilities off by 1 / (4 B C) in alternating directions."""
    truth = np.array([3, 0, 1, 2])
    mean = np.full(4, 0.25, np.float32)
    guess = mean + np.float32([1, -1, 1, -1]) / (4 * 6 * 4)
    found = attacks.label_counts(mean - np.float32(truth / 6), batch_size=6, probabilities=guess)
    np.testing.assert_array_equal(found, truth)


def test_counts_always_add_up() -> None:
    rng = np.random.default_rng(2)
    for size in (1, 7, 64):
        for scale in (0.1, 10.0):
            found = attacks.label_counts(scale * rng.normal(size=10).astype(np.float32), batch_size=size)
            assert int(found.sum()) == size
            assert int(found.min()) >= 0
    assert attacks.label_counts(jnp.full(4, 9.0), batch_size=10).tolist() == [3, 3, 2, 2]


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`kernel` has shape \[1, 2, 3\]; expected \[d, C\]"):
        attacks.idlg_label(jnp.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="`batch_size` is 0; expected an int of at least 1"):
        attacks.label_counts(jnp.ones(3), batch_size=0)
    with pytest.raises(ValueError, match=r"`bias` has shape \[1, 3\]"):
        attacks.label_counts(jnp.ones((1, 3)), batch_size=1)
    with pytest.raises(ValueError, match=r"`probabilities` has shape \[2\]; expected \[3\]"):
        attacks.label_counts(jnp.ones(3), batch_size=1, probabilities=jnp.ones(2))
