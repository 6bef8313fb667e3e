"""The attacker's models of a client are what clients of this library do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.privacy import attacks

MODEL = fl.models.logistic(num_classes=3, input_shape=(4,))
LOSS = fl.losses.cross_entropy(MODEL)
PARAMS = {"dense_0": {"kernel": jnp.full((4, 3), 0.1), "bias": jnp.zeros(3)}}
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(6, 4)).astype(np.float32), np.int32([0, 1, 2, 0, 1, 2])


def close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), a, b)


def delta_of_a_client(**options: Any) -> Any:
    """What a round of one client sends, through the engine."""
    train = fl.local_sgd(LOSS, client_optimizer=optax.sgd(0.5), shuffle=False, **options)
    people = fl.Population.from_arrays({"x": X, "y": Y}, client_ids=np.zeros(6, int))
    total = fl.federated_sum(
        lambda params, data: fl.ClientOutput(train(params, data).delta),
        aggregator=fl.mean(),
        execution=fl.Execution(devices=1),
    )
    cohort = fl.sampling.full(1).sample(jax.random.key(0), 0, people)
    return total(PARAMS, people, cohort, key=jax.random.key(0))[0].value


def test_local_updates_are_those_of_local_sgd() -> None:
    update_fn = attacks.local_update(LOSS, learning_rate=0.5, epochs=3, batch_size=2)
    close(jax.jit(update_fn)(PARAMS, X, Y), delta_of_a_client(batch_size=2, epochs=3))


def test_a_gradient_update_is_one_step() -> None:
    whole = attacks.local_update(LOSS, learning_rate=0.5, epochs=1, batch_size=6)(PARAMS, X, Y)
    close(whole, jax.tree.map(lambda leaf: 0.5 * leaf, attacks.gradient_update(LOSS)(PARAMS, X, Y)))


def test_updates_are_clipped_to_their_norm() -> None:
    plain = jax.jit(attacks.gradient_update(LOSS))(PARAMS, X, Y)
    clipped = jax.jit(attacks.gradient_update(LOSS, clip_norm=0.01))(PARAMS, X, Y)
    assert float(fl.global_norm(clipped)) == pytest.approx(0.01, rel=1e-5)
    close(clipped, jax.tree.map(lambda leaf: leaf * 0.01 / fl.global_norm(plain), plain))
    close(jax.jit(attacks.gradient_update(LOSS, clip_norm=1e6))(PARAMS, X, Y), plain)


def test_soft_labels_extend_cross_entropy() -> None:
    soft, batch = attacks.soft_cross_entropy(MODEL), {"x": X, "y": Y}
    soft, hard = jax.jit(soft), jax.jit(lambda params, batch: LOSS(params, batch, None)[0])(PARAMS, batch)
    close(soft(PARAMS, batch, None), hard)
    close(soft(PARAMS, {"x": X, "y": np.eye(3, dtype=np.float32)[Y]}, None), hard)


def test_errors() -> None:
    with pytest.raises(ValueError, match="`x` has 6 rows, which `batch_size`, 4, does not divide"):
        attacks.local_update(LOSS, learning_rate=0.5, epochs=1, batch_size=4)(PARAMS, X, Y)
    with pytest.raises(ValueError, match="`learning_rate` is 0; expected a finite number above 0"):
        attacks.local_update(LOSS, learning_rate=0, epochs=1, batch_size=4)
    with pytest.raises(ValueError, match="`clip_norm` is -1.0; expected a finite number above 0. None is no clipping"):
        attacks.gradient_update(LOSS, clip_norm=-1.0)
    with pytest.raises(TypeError, match="`loss_fn` is 3; expected a function"):
        attacks.gradient_update(3)
    with pytest.raises(ValueError, match=r"`y` has shape \[6, 2\] where the logits of `logistic` have \[6, 3\]"):
        attacks.soft_cross_entropy(MODEL)(PARAMS, {"x": X, "y": np.ones((6, 2), np.float32)}, None)
    batch_norm = fl.models.cifar_cnn(input_shape=(8, 8, 1), norm="batch")
    with pytest.raises(ValueError, match="`model` is `cifar_cnn`, which has a state"):
        attacks.soft_cross_entropy(batch_norm)
