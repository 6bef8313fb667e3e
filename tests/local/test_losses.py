"""Losses against closed forms, their behavior under masks and wrong labels, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import fedjaxlite as fl
from fedjaxlite import losses, models

IDENTITY = models.from_functions(lambda key: jnp.float32(1.0), lambda params, x: params * x, name="identity")
KEY = jax.random.key(0)


def _logits(*shape):
    return jax.random.normal(jax.random.key(7), shape)


@settings(max_examples=5)
@given(st.sampled_from([0.0, 0.1, 0.5]), st.sampled_from(["int32", "uint8"]))
def test_cross_entropy_equals_its_definition(smoothing, dtype):
    logits, labels = 3 * _logits(5, 4), jnp.array([0, 3, 1, 2, 0], dtype)
    values, aux = jax.jit(losses.cross_entropy(IDENTITY, label_smoothing=smoothing))(
        1.0, {"x": logits, "y": labels}, KEY
    )
    target = (1 - smoothing) * np.eye(4)[np.asarray(labels)] + smoothing / 4
    np.testing.assert_allclose(values, -np.sum(target * np.asarray(jax.nn.log_softmax(logits)), axis=1), rtol=1e-5)
    np.testing.assert_array_equal(aux.metrics["accuracy"], np.argmax(np.asarray(logits), 1) == np.asarray(labels))
    assert values.dtype == aux.metrics["accuracy"].dtype == jnp.float32
    assert aux.state is None
    assert aux.example_weight is None


def test_cross_entropy_gradient_is_softmax_minus_one_hot():
    labels = jnp.array([1, 0])
    loss = losses.cross_entropy(IDENTITY)

    @jax.jit
    def both(logits):
        grad = jax.grad(lambda x: loss(1.0, {"x": x, "y": labels}, KEY)[0].sum())(logits)
        return grad, jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3)

    np.testing.assert_allclose(*both(_logits(2, 3)), atol=1e-6)


def test_losses_are_computed_in_float32():
    batch = {"x": (100 * _logits(2, 3)).astype(jnp.bfloat16), "y": jnp.array([1, 0])}
    model = IDENTITY._replace(apply=lambda params, x, **_: x)
    values, _ = jax.eval_shape(losses.cross_entropy(model), 1.0, batch, KEY)
    assert values.dtype == jnp.float32


@pytest.mark.whole
def test_losses_stay_float32_where_64_bits_are_the_default():
    """As the docstrings say: a gradient of float64 parameters is float64, with the accuracy of float32."""
    with jax.enable_x64(True):
        make = lambda *shape: models.from_functions(lambda key: jnp.full(shape, 1 / 3), lambda p, x: x @ p)  # noqa: E731
        x, short = jnp.full((2, 4), 0.1), jnp.full((2, 3, 4), 0.1)
        cases = [
            (losses.cross_entropy(make(4, 3)), x, jnp.array([0, 2])),
            (losses.binary_cross_entropy(make(4)), x, jnp.array([0.0, 1.0])),
            (losses.squared_error(make(4)), x, jnp.array([0.5, 1.0])),
            (losses.sequence_cross_entropy(make(4, 5)), short, jnp.ones((2, 3), jnp.int64)),
        ]
        for loss, x, y in cases:
            params, batch = loss.model.init(KEY), {"x": x, "y": y}
            values, aux = loss(params, batch, KEY)
            said = [values, *aux.metrics.values(), *jax.tree.leaves(aux.example_weight)]
            assert {a.dtype.name for a in said} == {"float32"}, loss.name
            gradient = jax.grad(lambda p, loss=loss, batch=batch: loss(p, batch, KEY)[0].sum())(params)
            assert params.dtype == x.dtype == gradient.dtype == jnp.float64


def test_label_out_of_range_gives_nan_unless_masked():
    loss = losses.cross_entropy(IDENTITY)
    batch = {"x": _logits(4, 3), "y": jnp.array([0, 3, -1, 2])}

    def total(scale, batch):
        mask = batch.get("mask", jnp.ones(4, bool))
        values = loss(scale, batch, KEY)[0]
        return jnp.where(mask, values, 0.0).sum(), values

    slope = jax.jit(jax.grad(total, has_aux=True))
    grad, values = slope(jnp.float32(1), batch)
    np.testing.assert_array_equal(np.isnan(values), [False, True, True, False])
    assert np.isnan(grad)
    masked = {**batch, "mask": jnp.array([True, False, False, True])}
    assert np.isfinite(slope(jnp.float32(1), masked)[0])


@settings(max_examples=5)
@given(st.booleans(), st.sampled_from([(0,), (0, 3), (-1,), ()]))
def test_sequence_cross_entropy_is_the_mean_over_real_tokens(token_weighting, ignored):
    logits, labels = _logits(3, 4, 4), jnp.array([[1, 2, 3, 0], [2, 2, 0, 0], [0, 0, 0, 0]])
    if -1 in ignored:
        labels = jnp.where(labels == 0, -1, labels)
    loss = jax.jit(losses.sequence_cross_entropy(IDENTITY, ignored_ids=ignored, token_weighting=token_weighting))
    values, aux = loss(1.0, {"x": logits, "y": labels}, KEY)
    logits, labels = np.asarray(logits), np.asarray(labels)
    tokens = -np.take_along_axis(special.log_softmax(logits, -1), np.maximum(labels, 0)[..., None], 2)[..., 0]
    right = np.argmax(logits, -1) == labels
    for row in range(3):
        real = ~np.isin(labels[row], ignored)
        count = real.sum()
        weight = float(count if token_weighting else count > 0)
        assert float(aux.example_weight[row]) == weight
        mean = lambda values, real=real: float(np.mean(np.asarray(values)[real])) if real.any() else 0.0  # noqa: E731
        np.testing.assert_allclose(values[row], mean(tokens[row]), rtol=1e-5)
        np.testing.assert_allclose(aux.metrics["accuracy"][row], mean(right[row]), rtol=1e-6)


def test_sequence_target_out_of_range_gives_nan():
    batch = {"x": _logits(2, 2, 3), "y": jnp.array([[1, 5], [1, 0]])}
    values = jax.jit(losses.sequence_cross_entropy(IDENTITY))(1.0, batch, KEY)[0]
    np.testing.assert_array_equal(np.isnan(values), [True, False])
    quiet = jax.jit(losses.sequence_cross_entropy(IDENTITY))(1.0, {**batch, "mask": jnp.array([False, True])}, KEY)[0]
    assert np.isfinite(quiet).all()


def test_binary_cross_entropy():
    logits, labels = jnp.array([-200.0, 0.5, 3.0]), jnp.array([0, 1, 0])
    loss = jax.jit(losses.binary_cross_entropy(IDENTITY))
    expected = optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32))
    for x in (logits, logits[:, None]):
        values, aux = loss(1.0, {"x": x, "y": labels}, KEY)
        np.testing.assert_allclose(values, expected, rtol=1e-6)
        np.testing.assert_array_equal(aux.metrics["accuracy"], [1.0, 1.0, 0.0])
    values, aux = loss(1.0, {"x": logits[None], "y": labels[None].astype(bool)}, KEY)
    np.testing.assert_allclose(values, expected.mean()[None], rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["accuracy"], [2 / 3], rtol=1e-6)


def test_squared_error():
    batch = {"x": jnp.array([[1.0, 2.0], [0.0, 4.0]]), "y": jnp.array([[0.0, 0.0], [0.0, 1.0]])}
    values, aux = losses.squared_error(IDENTITY)(1.0, batch, KEY)
    np.testing.assert_allclose(values, [2.5, 4.5])
    np.testing.assert_allclose(aux.metrics["absolute_error"], [1.5, 1.5])
    values, _ = jax.jit(losses.squared_error(IDENTITY))(1.0, {"x": jnp.array([[3.0]]), "y": jnp.array([1])}, KEY)
    np.testing.assert_allclose(values, [4.0])


def test_key_none_is_evaluation():
    model = models.dropout_cnn(input_shape=(8, 8, 1), num_classes=3, filters=(2, 2), hidden=4)
    loss = jax.jit(losses.cross_entropy(model))
    params = jax.jit(model.init)(KEY)
    batch = {"x": jax.random.uniform(KEY, (2, 8, 8, 1)), "y": jnp.array([0, 1])}
    np.testing.assert_array_equal(loss(params, batch, None)[0], loss(params, batch, None)[0])
    assert not np.allclose(loss(params, batch, jax.random.key(1))[0], loss(params, batch, jax.random.key(2))[0])


def test_stateful_model_gives_its_new_state_in_training_only():
    model = models.cifar_cnn(input_shape=(8, 8, 1), num_classes=3, filters=(2, 2), hidden=(4,), norm="batch")
    loss = losses.cross_entropy(model)
    assert loss.cross_example
    params = jax.jit(model.init)(KEY)
    batch = {"x": jax.random.uniform(KEY, (2, 8, 8, 1)), "y": jnp.array([0, 1]), "mask": jnp.array([True, False])}
    _, aux = jax.jit(loss)(params, batch, KEY)
    assert jax.tree.structure(aux.state) == jax.tree.structure(params.state)
    assert not np.array_equal(aux.state["norm_0"]["mean"], params.state["norm_0"]["mean"])
    assert jax.jit(loss)(params, batch, None)[1].state is None


def test_loss_is_described_and_plain_functions_can_be():
    loss = losses.cross_entropy(IDENTITY)
    assert (loss.cross_example, loss.model, loss.name) == (False, IDENTITY, "cross_entropy")

    def contrastive(params, batch, key):
        return batch["x"] - batch["x"].mean()

    declared = losses.declare(contrastive, cross_example=True)
    assert (declared.cross_example, declared.name, declared.model) == (True, "contrastive", None)
    np.testing.assert_array_equal(declared(None, {"x": jnp.array([1.0, 3.0])}, KEY), [-1.0, 1.0])


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: losses.declare(3), TypeError, r"`fn` is 3; expected a function"),
        (lambda: losses.cross_entropy(IDENTITY, label_smoothing=1.0), ValueError, r"`label_smoothing` is 1.0"),
        (lambda: losses.sequence_cross_entropy(IDENTITY, ignored_ids=("a",)), TypeError, r"`ignored_ids\[0\]` is 'a'"),
        (
            lambda: losses.cross_entropy(IDENTITY)(1.0, {"x": _logits(2, 3), "y": jnp.zeros((2, 1), jnp.int32)}, KEY),
            ValueError,
            r"cross_entropy of `identity` got logits of shape \[2, 3\] and labels of shape \[2, 1\]; expected \[B, C\] "
            r"and \[B\]",
        ),
        (
            lambda: losses.cross_entropy(IDENTITY)(1.0, {"x": _logits(2, 3), "y": jnp.zeros(2)}, KEY),
            TypeError,
            r"labels of dtype float32; expected ints",
        ),
        (
            lambda: losses.sequence_cross_entropy(IDENTITY)(1.0, {"x": _logits(2, 3), "y": jnp.zeros(2, int)}, KEY),
            ValueError,
            r"expected \[B, T, C\] and \[B, T\]",
        ),
        (
            lambda: losses.squared_error(IDENTITY)(1.0, {"x": _logits(2, 3), "y": jnp.zeros(2)}, KEY),
            ValueError,
            r"squared_error of `identity` got outputs of shape \[2, 3\] and targets of shape \[2\]",
        ),
        (
            lambda: losses.binary_cross_entropy(IDENTITY)(1.0, {"x": _logits(2, 3), "y": jnp.zeros((2, 2))}, KEY),
            ValueError,
            r"the same shape",
        ),
        (
            lambda: losses.cross_entropy(IDENTITY)(1.0, {"x": _logits(2, 3), "label": 0}, KEY),
            ValueError,
            r"the batch has no `y`, only \['label', 'x'\]",
        ),
    ],
)
def test_errors(act, error, text):
    with pytest.raises(error, match=text):
        act()


@pytest.mark.parametrize(
    "model", [models.logistic(num_classes=1), models.mlp(features=(4, 1)), models.cnn(num_classes=1, filters=(2,))]
)
def test_a_model_of_one_output_has_no_classes(model):
    text = rf"`model` is `{model.name}` with 1 output; expected one a class, 2 at least.*binary_cross_entropy\(model\)"
    with pytest.raises(ValueError, match=text):
        losses.cross_entropy(model)
    losses.binary_cross_entropy(model)


def test_logits_of_one_class_are_refused_when_traced():
    labels = jnp.zeros(2, jnp.int32)
    with pytest.raises(
        ValueError, match=r"cross_entropy of `identity` got logits of shape \[2, 1\]; expected one a cl"
    ):
        losses.cross_entropy(IDENTITY)(1.0, {"x": _logits(2, 1), "y": labels}, KEY)
    with pytest.raises(ValueError, match=r"sequence_cross_entropy of `identity` got logits of shape \[2, 3, 1\]"):
        losses.sequence_cross_entropy(IDENTITY)(1.0, {"x": _logits(2, 3, 1), "y": jnp.zeros((2, 3), jnp.int32)}, KEY)
    people = fl.Population.from_arrays({"x": np.ones((2, 1), np.float32), "y": labels}, client_ids=[0, 1])
    algorithm = fl.algorithms.fed_avg(losses.cross_entropy(IDENTITY), client_optimizer=optax.sgd(0.1), batch_size=1)
    run = fl.rounds(algorithm, sampler=fl.sampling.full(2), aggregator=fl.mean())
    with pytest.raises(ValueError, match="expected one a class, 2 at least"):
        run.init(jnp.float32(1), people, key=KEY)
