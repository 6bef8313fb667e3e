"""The models: parameter counts of the papers, one step of training each, the LSTM's two gradients, errors."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import some_often

from fedjaxlite import losses, models
from fedjaxlite.models.lstm import lstm
from fedjaxlite.variables import Variables, trainable, with_state, with_trainable

COUNTS = {
    "logistic on digits": (lambda: models.logistic(num_classes=10), 650),
    "logistic on MNIST": (lambda: models.logistic(input_shape=(28, 28, 1)), 7_850),
    "2NN on digits": (lambda: models.mlp(features=(200, 200, 10)), 55_210),
    "2NN": (lambda: models.mlp(features=(200, 200, 10), input_shape=(28, 28, 1)), 199_210),
    "McMahan CNN": (lambda: models.cnn(input_shape=(28, 28, 1), num_classes=10), 1_663_370),
    "EMNIST CNN": (models.dropout_cnn, 1_206_590),
    "pfl-research CNN": (lambda: models.dropout_cnn(input_shape=(32, 32, 3), num_classes=10), 1_626_442),
    "CIFAR CNN on crops": (lambda: models.cifar_cnn(input_shape=(24, 24, 3)), 1_068_298),
    "CIFAR CNN": (models.cifar_cnn, 1_756_426),
    "CIFAR CNN, GroupNorm": (lambda: models.cifar_cnn(norm="group"), 1_756_426 + 4 * 64),
    "CIFAR CNN, BatchNorm": (lambda: models.cifar_cnn(norm="batch"), 1_756_426 + 4 * 64),
    "char-LSTM, 90 characters": (lambda: models.char_lstm(vocab_size=90), 820_522),
    "char-LSTM, 86 characters": (lambda: models.char_lstm(vocab_size=86), 819_462),
    "char-LSTM of the paper": (lambda: models.char_lstm(vocab_size=258, peephole=True), 866_578),
    "word-LSTM": (models.word_lstm, 4_050_748),
}

TINY_CNN = {"input_shape": (8, 8, 1), "num_classes": 3, "filters": (2, 3)}
IMAGES = {
    "logistic": lambda: models.logistic(num_classes=3),
    "mlp": lambda: models.mlp(features=(7, 3)),
    "cnn": lambda: models.cnn(**TINY_CNN, hidden=8),
    "dropout_cnn": lambda: models.dropout_cnn(**TINY_CNN, hidden=8),
    "cifar_cnn": lambda: models.cifar_cnn(**TINY_CNN, hidden=(8, 4)),
    "cifar_cnn batch": lambda: models.cifar_cnn(**TINY_CNN, hidden=(8,), norm="batch"),
    "cifar_cnn group": lambda: models.cifar_cnn(**TINY_CNN, hidden=(8,), norm="group"),
}
TEXTS = {
    "char_lstm": lambda: models.char_lstm(vocab_size=6, embed=3, hidden=5),
    "char_lstm peephole": lambda: models.char_lstm(vocab_size=6, embed=3, hidden=5, layers=1, peephole=True),
    "word_lstm": lambda: models.word_lstm(vocab_size=600, embed=3, hidden=5),
}


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_parameters(name):
    build, count = COUNTS[name]
    params = jax.eval_shape(build().init, jax.random.key(0))
    assert models.num_params(params) == count
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def _trained(loss_fn, params, batch):
    """The mean loss before and after five small steps, in training mode with one key, and the last parameters."""

    def mean(part, params):
        rows, aux = loss_fn(with_trainable(params, part), batch, jax.random.key(1))
        return rows.mean(), aux

    @jax.jit
    def step(params):
        (value, aux), grad = jax.value_and_grad(mean, has_aux=True)(trainable(params), params)
        new = jax.tree.map(lambda p, g: p - 0.05 * g, trainable(params), grad)
        return with_state(with_trainable(params, new), aux.state), value

    values = []
    for _ in range(6):
        params, value = step(params)
        values.append(float(value))
    return values, params


@pytest.mark.parametrize("name", some_often(IMAGES, 3))
def test_image_model_learns(name):
    model = IMAGES[name]()
    x = jax.random.uniform(jax.random.key(2), (6, 8, 8, 1))
    batch = {"x": x, "y": jnp.array([0, 1, 2, 0, 1, 2]), "mask": jnp.ones(6, bool)}
    params = jax.jit(model.init)(jax.random.key(0))
    values, trained = _trained(losses.cross_entropy(model), params, batch)
    assert values[-1] < values[0]
    assert isinstance(params, Variables) == model.stateful
    assert jax.tree.structure(trained) == jax.tree.structure(params)
    outputs = jax.jit(model.apply)(trained, x)
    outputs = outputs[0] if model.stateful else outputs
    assert outputs.shape == (6, 3)
    assert outputs.dtype == jnp.float32


@pytest.mark.parametrize("name", some_often(TEXTS, 3))
def test_language_model_learns(name):
    model = TEXTS[name]()
    x = jax.random.randint(jax.random.key(2), (4, 7), 0, 6)
    batch = {"x": x, "y": (x + 1) % 6}
    params = jax.jit(model.init)(jax.random.key(0))
    values, trained = _trained(losses.sequence_cross_entropy(model, ignored_ids=()), params, batch)
    assert values[-1] < values[0]
    apply = jax.jit(model.apply)
    outputs = apply(trained, x)
    assert outputs.shape == (4, 7, model.hparams["vocab_size"])
    # causal: what comes later does not change what was predicted before
    later = apply(trained, x.at[:, 4:].set(0))
    np.testing.assert_array_equal(outputs[:, :4], later[:, :4])


def test_initialization_is_a_function_of_the_key_and_of_the_documented_kind():
    model = models.char_lstm(vocab_size=6, embed=3, hidden=4, layers=1, peephole=True)
    init = jax.jit(model.init)
    first, other = init(jax.random.key(0)), init(jax.random.key(1))
    assert not np.allclose(first["embedding"], other["embedding"])
    assert np.abs(first["embedding"]).max() <= 0.05
    layer = first["lstm_0"]
    np.testing.assert_array_equal(layer["bias"], np.repeat([0.0, 1.0, 0.0, 0.0], 4))
    np.testing.assert_array_equal(layer["peepholes"], np.zeros((3, 4)))
    recurrent = np.asarray(layer["recurrent"])  # NumPy's product: a GPU's default precision is less
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(4), atol=1e-5)
    assert not np.any(jax.jit(models.logistic(num_classes=3).init)(jax.random.key(0))["dense_0"]["kernel"])
    kernel = jax.jit(models.mlp(features=(5, 3)).init)(jax.random.key(0))["dense_0"]["kernel"]
    assert np.abs(kernel).max() <= np.sqrt(6 / (64 + 5))


def test_cnn_is_the_one_of_the_paper():
    """Against a convolution and a pooling written out in NumPy: SAME padding, ReLU, 2x2 max-pooling, twice."""
    model = models.cnn(input_shape=(4, 4, 1), num_classes=2, filters=(2, 2), hidden=3)
    params = jax.tree.map(lambda p: np.asarray(p) + np.float32(0.1), jax.jit(model.init)(jax.random.key(0)))
    x = np.random.default_rng(0).uniform(size=(2, 4, 4, 1)).astype(np.float32)

    def conv(x, layer):
        padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
        height, width = x.shape[1:3]
        windows = [[padded[:, i : i + 5, j : j + 5] for j in range(width)] for i in range(height)]
        return np.einsum("ijbklc,klcd->bijd", np.asarray(windows), layer["kernel"]) + layer["bias"]

    def pool(x):
        batch, height, width, channels = x.shape
        return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))

    hidden = x
    for name in ("conv_0", "conv_1"):
        hidden = pool(np.maximum(conv(hidden, params[name]), 0))
    hidden = np.maximum(hidden.reshape(2, -1) @ params["dense_0"]["kernel"] + params["dense_0"]["bias"], 0)
    expected = hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
    np.testing.assert_allclose(jax.jit(model.apply)(params, x), expected, rtol=1e-5, atol=1e-5)


def _lstm_inputs(time, batch, hidden, peephole):
    keys = jax.random.split(jax.random.key(time + 10 * batch + 100 * hidden), 4)
    return (
        jax.random.normal(keys[0], (time, batch, 4 * hidden)),
        0.5 * jax.random.normal(keys[1], (hidden, 4 * hidden)),
        0.5 * jax.random.normal(keys[2], (3, hidden)) if peephole else None,
    ), jax.random.normal(keys[3], (time, batch, hidden))


@pytest.mark.parametrize(
    ("time", "batch", "hidden", "peephole"),
    [(1, 1, 1, False), pytest.param(4, 2, 3, False, marks=pytest.mark.slow), (3, 2, 2, True)],
)
def test_hoisted_gradient_equals_the_stepwise_one(time, batch, hidden, peephole):
    inputs, weights = _lstm_inputs(time, batch, hidden, peephole)

    def derivatives(inputs, hoisted):
        value = lambda i: jnp.sum(weights * lstm(*i, hoisted_gradient=hoisted))  # noqa: E731
        tangents = jax.tree.map(jnp.cos, inputs)
        return jax.value_and_grad(value)(inputs), jax.jvp(value, (inputs,), (tangents,))  # reverse and forward mode

    pairs = jax.jit(lambda i: (derivatives(i, True), derivatives(i, False)))(inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), *pairs)


def test_hoisted_gradient_takes_one_product_after_the_loop():
    """The recurrent matrix's gradient is neither carried through a loop nor stacked by one."""
    inputs, _ = _lstm_inputs(5, 2, 3, False)

    def carried(hoisted):
        jaxpr = jax.make_jaxpr(jax.grad(lambda w: lstm(inputs[0], w, hoisted_gradient=hoisted).sum()))(inputs[1])
        scans = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "scan"]
        return [v.aval.shape for e in scans for v in e.outvars if v.aval.shape[-2:] == (3, 12)]

    assert carried(True) == []
    assert carried(False) == [(3, 12)]


def test_hoisted_lstm_under_vmap_scan_and_second_order():
    inputs, _ = _lstm_inputs(3, 2, 2, True)
    lanes = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), inputs)

    def train(hoisted):
        def lane(inputs):
            def step(w, _):
                return w - 0.1 * jax.grad(lambda w: lstm(inputs[0], w, inputs[2], hoisted_gradient=hoisted).sum())(
                    w
                ), None

            return jax.lax.scan(step, inputs[1], None, length=2)[0]

        return jax.vmap(lane)(lanes)

    def curvature(hoisted):
        value = lambda w: (lstm(inputs[0], w, inputs[2], hoisted_gradient=hoisted) ** 2).sum()  # noqa: E731
        return jax.jvp(jax.grad(value), (inputs[1],), (jnp.ones_like(inputs[1]),))[1]

    trained, curved = jax.jit(lambda: [[of(True), of(False)] for of in (train, curvature)])()
    np.testing.assert_allclose(*trained, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(*curved, rtol=1e-4, atol=1e-4)


def test_lstm_equals_the_cell_of_flax():
    from flax import nnx

    (projected, recurrent, _), _ = _lstm_inputs(4, 2, 3, False)
    cell = nnx.OptimizedLSTMCell(1, 3, rngs=nnx.Rngs(0))
    cell.dense_h.kernel[...] = recurrent
    carry = (jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    expected = []
    for z in projected:
        cell.dense_i.kernel[...] = jnp.zeros((1, 12))
        rows = []
        for row in range(2):  # the pre-activations of one example enter as biases
            cell.dense_h.bias[...] = z[row]
            rows.append(cell(jax.tree.map(lambda c, r=row: c[r : r + 1], carry), jnp.zeros((1, 1)))[0])
        carry = jax.tree.map(lambda *r: jnp.concatenate(r), *rows)
        expected.append(carry[1])
    np.testing.assert_allclose(lstm(projected, recurrent), jnp.stack(expected), rtol=1e-5, atol=1e-6)


def test_token_out_of_range_is_noticed():
    for vocab_size in (6, 600):
        model = models.char_lstm(vocab_size=vocab_size, embed=2, hidden=3, layers=1)
        x = jnp.array([[1, vocab_size], [1, 2], [-1, 2]])
        outputs = jax.jit(lambda key, model=model, x=x: model.apply(model.init(key), x))(jax.random.key(0))
        np.testing.assert_array_equal(np.isnan(outputs).any(-1), [[False, True], [False, False], [True, True]])


def test_summary_and_bytes():
    text = models.summary(models.cifar_cnn(**TINY_CNN, hidden=(8,), norm="batch"))
    assert "['conv_0']['kernel']" in text
    assert text.splitlines()[-1] == "cifar_cnn: 346 parameters, 1,424 bytes (40 of them state)"
    assert models.num_bytes({"a": np.zeros((2, 3), np.int8), "b": np.zeros(2, np.float32)}) == 14


def test_models_are_described():
    model = models.mlp(features=[5, 3])
    assert model.name == "mlp"
    assert model.input_shape == (8, 8, 1)
    assert model.hparams == {"features": (5, 3), "input_shape": (8, 8, 1)}
    assert models.cnn(**TINY_CNN, hidden=8).hparams["hidden"] == (8,)
    assert "char_lstm" in dir(models)


def test_types_and_losses_do_not_load_flax():
    code = "import sys, fedjaxlite.models.types, fedjaxlite.models, fedjaxlite.losses; sys.exit('flax' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-P", "-c", code], env=env, check=False).returncode == 0


def _apply(model, x):
    return jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0)), x)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: models.mlp(features=()), TypeError, r"`features` is \(\); expected a tuple of ints"),
        (lambda: models.mlp(features=(5, 0)), ValueError, r"`features\[1\]` is 0; expected an int of at least 1"),
        (lambda: models.mlp(input_shape=28), TypeError, r"`input_shape` is 28; .*without the batch axis"),
        (lambda: models.logistic(num_classes=2.0), TypeError, r"`num_classes` is 2.0"),
        (lambda: models.cnn(input_shape=(28, 28)), ValueError, r"expected \(height, width, channels\)"),
        (lambda: models.cnn(input_shape=(3, 3, 1)), ValueError, r"`cnn` leave at least one pixel"),
        (lambda: models.cnn(hidden=0), ValueError, r"`hidden\[0\]` is 0"),
        (lambda: models.dropout_cnn(dropout=(0.1, 1.0)), ValueError, r"`dropout` is 1.0; expected .*\[0, 1\)"),
        (lambda: models.dropout_cnn(dropout=(0.1,)), ValueError, r"expected two rates"),
        (lambda: models.cifar_cnn(norm="layer"), ValueError, r"`norm` is 'layer'; expected one of None, 'batch'"),
        (lambda: models.char_lstm(hidden=0), ValueError, r"`hidden` is 0"),
        (lambda: models.word_lstm(vocab_size="5"), TypeError, r"`vocab_size` is '5'"),
        (
            lambda: _apply(models.mlp(features=(4,)), jnp.zeros((2, 28, 28, 1))),
            ValueError,
            r"`mlp` was built for examples of shape \[8, 8, 1\], but x has shape \[2, 28, 28, 1\]. "
            r"Build the model with `input_shape=`.*\[B, 8, 8, 1\]",
        ),
        (lambda: _apply(models.mlp(features=(4,)), jnp.zeros((8, 8, 1))), ValueError, r"one example; .*`x\[None\]`"),
        (
            lambda: _apply(models.mlp(features=(4,)), jnp.zeros((2, 8, 8, 1), jnp.uint8)),
            TypeError,
            r"`mlp` got x of dtype uint8; expected floats. .*/ 255",
        ),
        (
            lambda: _apply(models.cnn(**TINY_CNN, hidden=4), jnp.zeros((2, 64))),
            ValueError,
            r"`cnn` was built for examples of shape \[8, 8, 1\], but x has shape \[2, 64\]",
        ),
        (
            lambda: _apply(models.cnn(**TINY_CNN, hidden=4), jnp.zeros((2, 8, 8, 1), jnp.int32)),
            TypeError,
            r"`cnn` got x of dtype int32",
        ),
        (
            lambda: _apply(TEXTS["char_lstm"](), jnp.zeros(5, jnp.int32)),
            ValueError,
            r"`char_lstm` got x of int32\[5\]; expected token ids, ints \[B, T\]",
        ),
        (lambda: _apply(TEXTS["char_lstm"](), jnp.zeros((2, 5))), ValueError, r"float32\[2, 5\]; expected token ids"),
        (lambda: models.resnet, AttributeError, r"no attribute 'resnet'; it has .*mlp"),
    ],
)
def test_errors(act, error, text):
    with pytest.raises(error, match=text):
        act()


def test_flattened_examples_are_welcome_where_the_model_flattens_anyway():
    model = models.mlp(features=(4,))
    params = jax.jit(model.init)(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 1))
    both = jax.jit(lambda params, x: (model.apply(params, x), model.apply(params, x.reshape(2, 64))))
    np.testing.assert_array_equal(*both(params, x))
