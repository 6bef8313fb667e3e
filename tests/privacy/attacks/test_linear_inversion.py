"""Inputs of a linear layer, read off its update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite.privacy import attacks

MODEL = fl.models.mlp(features=(12, 10))
LOSS = fl.losses.cross_entropy(MODEL)
PARAMS = MODEL.init(jax.random.key(0))
IMAGES = np.random.default_rng(0).random((4, 8, 8, 1)).astype(np.float32)
LABELS = jnp.array([3, 1, 4, 1])


update_of_one = jax.jit(attacks.gradient_update(LOSS))


def first_layer(update):
    return update["dense_0"]["kernel"], update["dense_0"]["bias"]


def test_one_example_is_exact() -> None:
    update = update_of_one(PARAMS, IMAGES[:1], LABELS[:1])
    np.testing.assert_allclose(attacks.invert_linear(*first_layer(update)), IMAGES[0].ravel(), atol=1e-4)


def test_one_example_is_exact_after_local_epochs_and_clipping_and_any_scale() -> None:
    update_fn = attacks.local_update(LOSS, learning_rate=0.3, epochs=5, batch_size=1, clip_norm=0.01)
    update = jax.tree.map(lambda leaf: -1e-20 * leaf, jax.jit(update_fn)(PARAMS, IMAGES[:1], LABELS[:1]))
    np.testing.assert_allclose(attacks.invert_linear(*first_layer(update)), IMAGES[0].ravel(), atol=1e-4)


def test_a_real_round_gives_the_example_away() -> None:
    """The global model before and after a round of one client with one example, and nothing else."""
    from fedjaxlite import algorithms

    people = fl.Population.from_arrays({"x": IMAGES[:1], "y": np.int32([3])}, client_ids=[0])
    algorithm = algorithms.fed_avg(LOSS, client_optimizer=optax.sgd(0.1), batch_size=1, epochs=2)
    rounds = fl.rounds(
        algorithm, sampler=fl.sampling.full(1), aggregator=fl.weighted_mean(), execution=fl.Execution(devices=1)
    )
    after, _ = rounds.step(rounds.init(PARAMS, people, key=jax.random.key(1)), people)
    delta = jax.tree.map(jnp.subtract, PARAMS, after.params)
    np.testing.assert_allclose(attacks.invert_linear(*first_layer(delta)), IMAGES[0].ravel(), atol=1e-4)


def test_units_that_one_example_activates_give_it_away_from_a_batch() -> None:
    """Layer with one unit per example that only this one activates, and one that all do: its candidate is a mean."""
    x = np.eye(3, dtype=np.float32) + 0.1
    kernel = np.concatenate([np.eye(3) - 0.3, np.ones((3, 1))], axis=1).astype(np.float32)
    loss = lambda w, b: jnp.sum(jax.nn.relu(x @ w + b[None, :])) / 3  # noqa: E731
    found = attacks.linear_candidates(*jax.grad(loss, argnums=(0, 1))(jnp.asarray(kernel), jnp.zeros(4)))
    np.testing.assert_allclose(found.inputs[:3], x, atol=1e-5)
    np.testing.assert_allclose(found.inputs[3], x.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.strength, [1 / 3, 1 / 3, 1 / 3, 1], rtol=1e-5)


def test_silent_units_and_layers_give_zeros() -> None:
    kernel, bias = jnp.ones((3, 2)), jnp.array([0.0, 2.0])
    found = attacks.linear_candidates(kernel, bias)
    assert found.inputs.tolist() == [[0, 0, 0], [0.5, 0.5, 0.5]]
    assert found.strength.tolist() == [0, 1]
    assert attacks.invert_linear(jnp.zeros((3, 2)), jnp.zeros(2)).tolist() == [0, 0, 0]


def test_a_uniform_message_has_nothing_of_the_example() -> None:
    """A one-time pad over the quantized update: over 400 pads the mean correlation is 0 within 4 standard errors.

    One false alarm in 16,000 seeds; without the pad the correlation is 1.
    """
    update = first_layer(update_of_one(PARAMS, IMAGES[:1], LABELS[:1]))
    rng, image = np.random.default_rng(7), IMAGES[0].ravel()

    def correlations(pads: int) -> np.ndarray:
        found = []
        for _ in range(pads):
            words = [np.round(np.asarray(leaf) * 2**16).astype(np.int32).view(np.uint32) for leaf in update]
            masked = [word + rng.integers(0, 2**32, word.shape, np.uint32) for word in words]
            x = attacks.invert_linear(*[m.view(np.int32).astype(np.float32) for m in masked])
            found.append(np.corrcoef(x, image)[0, 1])
        return np.array(found)

    found = correlations(400)
    assert abs(found.mean()) < 4 * found.std() / 20
    assert found.std() == pytest.approx(1 / np.sqrt(64), rel=0.15)
    plain = attacks.invert_linear(*[np.round(np.asarray(leaf) * 2**16).astype(np.float32) for leaf in update])
    assert np.corrcoef(plain, image)[0, 1] > 0.999


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`kernel` has shape \[3, 2\] and `bias` \[3\]; expected \[inputs, units\]"):
        attacks.invert_linear(jnp.ones((3, 2)), jnp.ones(3))
    with pytest.raises(TypeError, match="`kernel` has dtype uint32; expected floats"):
        attacks.linear_candidates(jnp.ones((3, 2), jnp.uint32), jnp.ones(2))
