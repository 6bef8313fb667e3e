"""Adapters: nnx, linen, Equinox and plain functions give what they give directly, as pure functions."""

import functools

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from fedjaxlite import models
from fedjaxlite.variables import Variables, with_state, with_trainable

X = jax.random.normal(jax.random.key(9), (4, 3))


class Dense(nnx.Module):
    """Two layers in a list, dropout between them."""

    def __init__(self, *, rate=0.5, rngs):
        self.layers = nnx.List([nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)])
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.dropout(jnp.tanh(self.layers[0](x))))


class Normed(nnx.Module):
    """A BatchNorm in the middle, and a value kept beside it."""

    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.5, rngs=rngs)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.first(x))
        self.hidden = nnx.Intermediate(x)
        return self.last(x)


class LinenNormed(nn.Module):
    """The same in linen, with dropout."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(4)(x))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


def _jitted(model, train=False):
    """init and apply, each compiled once: eager module code would compile operation by operation."""
    return jax.jit(model.init), jax.jit(functools.partial(model.apply, train=train))


@pytest.mark.usefixtures("full_precision")
def test_nnx_equals_the_module_itself():
    model = models.from_nnx(lambda rngs: Dense(rngs=rngs), input_shape=(3,))
    init, apply = _jitted(model)
    params = init(jax.random.key(0))
    module = Dense(rngs=nnx.Rngs(jax.random.key(0)))
    module.eval()
    np.testing.assert_allclose(apply(params, X), module(X), rtol=1e-6)
    assert jax.tree.map(jnp.shape, params) == {
        "layers": {"0": {"bias": (8,), "kernel": (3, 8)}, "1": {"bias": (2,), "kernel": (8, 2)}}
    }
    assert model.name == "Dense"
    assert not model.stateful


def test_nnx_constructor_may_be_the_class_or_take_rngs_by_position():
    class Own(nnx.Module):
        def __init__(self, streams):
            self.linear = nnx.Linear(3, 2, rngs=streams)

        def __call__(self, x):
            return self.linear(x)

    for ctor in (Own, Normed, functools.partial(nnx.Linear, 3, 2)):
        model = models.from_nnx(ctor)
        shape = jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0)), X)
        assert jax.tree.leaves(shape)[0].shape == (4, 2)


def test_dropout_is_a_pure_function_of_the_key():
    model = models.from_nnx(lambda rngs: Dense(rngs=rngs))
    init, train = _jitted(model, train=True)
    _, evaluate = _jitted(model)
    params = init(jax.random.key(0))
    one, again, other = (train(params, X, key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(evaluate(params, X), evaluate(params, X, key=jax.random.key(3)))
    assert not np.allclose(evaluate(params, X), one)


def test_dropout_layers_draw_apart():
    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return jnp.stack([self.first(x), self.second(x)])

    model = models.from_nnx(Twice)
    ones = jnp.ones((1, 64))
    train = jax.jit(functools.partial(model.apply, train=True))
    both = train(model.init(jax.random.key(0)), ones, key=jax.random.key(1))
    assert not np.array_equal(both[0], both[1])  # a false alarm has probability 2^-64


def _normed(kind):
    if kind == "nnx":
        return models.from_nnx(Normed, input_shape=(3,))
    return models.from_linen(LinenNormed(), jnp.ones((1, 3)))


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_batch_norm_ignores_padding_even_of_nan(kind):
    model = _normed(kind)
    assert model.stateful
    assert model.cross_example
    init, train = _jitted(model, train=True)
    params = init(jax.random.key(0))
    assert isinstance(params, Variables)
    key = jax.random.key(1)
    padded = jnp.concatenate([X, jnp.full((2, 3), jnp.nan)])
    mask = jnp.array([True] * 4 + [False] * 2)

    _, state = train(params, X, key=key)
    _, masked_state = train(params, padded, key=key, mask=mask)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), masked_state, state)
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state, params.state)), strict=True))

    @jax.jit
    def gradient(part, x, mask):
        def loss(part):
            outputs, _ = model.apply(with_trainable(params, part), x, key=key, train=True, mask=mask)
            return jnp.sum(jnp.where(mask[:, None], outputs[:, :], 0.0) ** 2)

        return jax.grad(loss)(part)

    first = gradient(params.params, padded, mask)
    filler = gradient(params.params, padded.at[4:].set(7.0), mask)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), first, filler)
    # a batch of padding only: whatever comes out, it is finite
    nothing = train(params, jnp.full((2, 3), jnp.nan), key=key, mask=jnp.zeros(2, bool))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nothing))


def test_batch_norm_equals_the_module_itself():
    model = models.from_nnx(Normed)
    init, train = _jitted(model, train=True)
    params = init(jax.random.key(0))
    module = Normed(nnx.Rngs(jax.random.key(0)))
    outputs, state = train(params, X)
    np.testing.assert_allclose(outputs, module(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["norm"]["var"], module.norm.var[...], rtol=1e-5)
    assert jax.tree.structure(state) == jax.tree.structure(params.state)  # the value kept is no part of it
    outputs, same = jax.jit(model.apply)(with_state(params, state), X)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    module.eval()
    np.testing.assert_allclose(outputs, module(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_adapters_are_pure_under_every_transformation(kind):
    """vmap over lanes of a scan over steps of a rematerialized gradient, equal to a Python loop."""
    model = _normed(kind)
    lanes, steps = 2, 2
    keys = jax.random.split(jax.random.key(3), lanes)
    xs = jax.random.normal(jax.random.key(4), (lanes, steps, 4, 3))
    mask = jnp.array([True, True, True, False])

    def step(params, inputs):
        x, key = inputs

        @jax.remat
        def loss(part):
            outputs, state = model.apply(with_trainable(params, part), x, key=key, train=True, mask=mask)
            return jnp.sum(jnp.where(mask[:, None], outputs, 0.0) ** 2), state

        grad, state = jax.grad(loss, has_aux=True)(params.params)
        return Variables(jax.tree.map(lambda p, g: p - 0.1 * g, params.params, grad), state), None

    @jax.jit
    def together(keys, xs):
        def lane(key, xs):
            return jax.lax.scan(step, model.init(key), (xs, jax.random.split(key, steps)))[0]

        return jax.vmap(lane)(keys, xs)

    result, init, one = together(keys, xs), jax.jit(model.init), jax.jit(step)
    for lane in range(lanes):
        params, own = init(keys[lane]), jax.random.split(keys[lane], steps)
        for index in range(steps):
            params, _ = one(params, (xs[lane, index], own[index]))
        jax.tree.map(
            lambda a, b, lane=lane: np.testing.assert_allclose(a[lane], b, rtol=1e-4, atol=1e-5), result, params
        )


@helpers.needs_devices(2)
@pytest.mark.parametrize("build", [lambda: _normed("nnx"), lambda: models.char_lstm(vocab_size=5, embed=2, hidden=3)])
def test_adapters_under_shard_map(build):
    model = build()
    x = jnp.stack([X, X + 1]) if model.stateful else jnp.arange(16).reshape(2, 2, 4) % 5
    mesh = jax.make_mesh((2,), ("clients",), axis_types=(jax.sharding.AxisType.Auto,))
    params = jax.jit(model.init)(jax.random.key(0))

    def outputs(params, x):
        made = model.apply(params, x[0], key=jax.random.key(1), train=True)
        return (made[0] if model.stateful else made)[None]

    spread = jax.shard_map(
        lambda p, x: outputs(jax.lax.pcast(p, "clients", to="varying"), x),
        mesh=mesh, in_specs=(jax.P(), jax.P("clients")), out_specs=jax.P("clients"),
    )  # fmt: skip
    expected = jax.jit(lambda p, x: jnp.concatenate([outputs(p, x[:1]), outputs(p, x[1:])]))(params, x)
    np.testing.assert_allclose(jax.jit(spread)(params, x), expected, rtol=1e-5, atol=1e-6)


def test_linen_equals_the_module_itself():
    module = LinenNormed()
    model = models.from_linen(module, jax.ShapeDtypeStruct((1, 3), jnp.float32))
    init, train = _jitted(model, train=True)
    params = init(jax.random.key(0))
    assert set(params.state) == {"batch_stats"}
    assert model.input_shape == (3,)

    @jax.jit
    def direct(params):
        variables = {"params": params.params, **params.state}
        rngs = {"dropout": jax.random.fold_in(jax.random.key(1), 0)}
        trained = module.apply(variables, X, train=True, rngs=rngs, mutable=["batch_stats"])
        return trained, module.apply(variables, X, train=False)

    (outputs, updates), evaluated = direct(params)
    jax.tree.map(np.testing.assert_allclose, train(params, X, key=jax.random.key(1)), (outputs, dict(updates)))
    np.testing.assert_allclose(jax.jit(model.apply)(params, X)[0], evaluated, rtol=1e-6)
    stateless = models.from_linen(nn.Dense(2), X)
    assert set(stateless.init(jax.random.key(0))) == {"kernel", "bias"}


def test_equinox_works_through_plain_functions():
    eqx = pytest.importorskip("equinox")

    def ctor(key):
        return eqx.nn.MLP(3, 2, 4, 1, key=key)

    _, static = eqx.partition(ctor(jax.random.key(0)), eqx.is_inexact_array)
    model = models.from_functions(
        lambda key: eqx.filter(ctor(key), eqx.is_inexact_array),
        lambda params, x: jax.vmap(eqx.combine(params, static))(x),
    )

    @jax.jit
    def run(key):
        params = model.init(key)
        return (
            params,
            model.apply(params, X),
            jax.vmap(ctor(key))(X),
            jax.grad(lambda p: model.apply(p, X).sum())(params),
        )

    params, got, want, grad = run(jax.random.key(5))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert jax.tree.structure(grad) == jax.tree.structure(params)


def test_functions_get_the_keywords_that_they_name():
    def apply(params, x, *, train, **rest):
        assert set(rest) == {"key", "mask"}
        return x + params if train else x

    model = models.from_functions(lambda key: 1.0, apply, name="mine", hparams={"a": 1})
    assert float(model.apply(2.0, 1.0, train=True)) == 3.0
    assert float(model.apply(2.0, 1.0)) == 1.0
    assert (model.name, model.hparams) == ("mine", {"a": 1})
    plain = models.from_functions(lambda key: 1.0, lambda params, x: params * x)
    assert float(plain.apply(2.0, 3.0, key=jax.random.key(0), train=True, mask=None)) == 6.0


def test_functions_with_state():
    def apply(params, state, x, train, mask):
        mean = jnp.sum(jnp.where(mask[:, None], x, 0.0)) / jnp.sum(mask, dtype=jnp.float32)
        return x * params, {"mean": mean} if train else state

    model = models.from_functions(lambda key: (jnp.float32(2.0), {"mean": jnp.float32(0)}), apply, stateful=True)
    params = model.init(jax.random.key(0))
    assert isinstance(params, Variables)
    x = jnp.array([[1.0], [3.0], [jnp.nan]])
    outputs, state = jax.jit(functools.partial(model.apply, train=True))(params, x, mask=jnp.array([True, True, False]))
    assert float(state["mean"]) == 2.0
    np.testing.assert_array_equal(outputs[:2, 0], [2.0, 6.0])


def _stateful(apply):
    return models.from_functions(lambda key: (jnp.ones(3), jnp.zeros(())), apply, stateful=True, name="mine")


def _wrong_rows():
    class Folded(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(1, rngs=rngs)

        def __call__(self, x):
            return self.norm(x.reshape(-1, 1))

    model = models.from_nnx(Folded)
    return model.apply(model.init(jax.random.key(0)), X, train=True, mask=jnp.ones(4, bool))


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (lambda: models.from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0))), TypeError, r"`ctor` is a Linear with its parame"),
        (lambda: models.from_nnx(3), TypeError, r"`ctor` is 3; expected a function. Write `lambda rngs:"),
        (lambda: models.from_nnx(lambda rngs: nn.Dense(2)), TypeError, r"`ctor` made a Dense; .*`from_linen`"),
        (lambda: models.from_linen(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), X), TypeError, r"is a Linear; .*`from_nnx`"),
        (lambda: models.from_functions(1, lambda p, x: x), TypeError, r"`init` is 1; expected a function"),
        (
            lambda: models.from_nnx(lambda rngs: Dense(rngs=rngs)).apply({"layers": {}}, X),
            ValueError,
            r"`Dense` has a parameter at \['layers'\]\['0'\]\['bias'\] that the given params lack; .*`model.init`",
        ),
        (
            lambda: models.from_nnx(lambda rngs: Dense(rngs=rngs), name="mine").apply({}, X, train=True),
            ValueError,
            r"`mine` draws random numbers in training \(dropout\) but was given no key",
        ),
        (lambda: models.from_nnx(Normed).apply({}, X), TypeError, r"`Normed` has state, .*Variables.*; got a dict"),
        (lambda: models.from_nnx(Normed, input_shape=(3,)).apply({}, X[0]), ValueError, r"one example; give a batch"),
        (
            lambda: models.from_linen(nn.Dense(2), X).apply({}, X[:, :2]),
            ValueError,
            r"`Dense` was built for examples of shape \[3\], but x has shape \[4, 2\]",
        ),
        (
            lambda: _stateful(lambda p, s, x: x).apply(Variables(1, jnp.zeros(())), X),
            TypeError,
            r"`apply` of `mine` returned a \w+; a model with state returns the pair \(outputs, new_state\)",
        ),
        (
            lambda: _stateful(lambda p, s, x: (x, jnp.zeros(2))).apply(Variables(1, jnp.zeros(())), X),
            ValueError,
            r"the state that `mine` returned has float32\[2\] at the root, where the state it was given",
        ),
        (_wrong_rows, ValueError, r"BatchNorm got an input of shape \[12, 1\] where the batch has 4 rows"),
        (lambda: with_state({}, 1), TypeError, r"the loss gave a state .*params are a dict without a place"),
    ],
)  # fmt: skip
def test_errors(act, error, text):
    with pytest.raises(error, match=text):
        act()


def test_module_gets_mask_and_train_where_it_asks():
    class Pooled(nnx.Module):
        def __init__(self, rngs):
            self.scale = nnx.Param(jnp.ones(()))

        def __call__(self, x, mask=None, train=True):
            return x * self.scale[...] * (2.0 if train else 1.0) + (0.0 if mask is None else jnp.sum(mask))

    model = models.from_nnx(Pooled)
    params = model.init(jax.random.key(0))
    np.testing.assert_allclose(jax.jit(model.apply)(params, X), X)
    with jax.numpy_dtype_promotion("standard"):
        train = jax.jit(functools.partial(model.apply, train=True))
        np.testing.assert_allclose(train(params, X, mask=jnp.ones(4, bool)), 2 * np.asarray(X) + 4, rtol=1e-6)


def test_shared_weights_stay_one():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.encode = nnx.Linear(3, 3, rngs=rngs)
            self.decode = self.encode

        def __call__(self, x):
            return self.decode(self.encode(x))

    model = models.from_nnx(Tied)
    params = jax.jit(model.init)(jax.random.key(0))
    assert models.num_params(params) == 12

    @jax.jit
    def both(params):
        weight, bias = (next(iter(params.values()))[name] for name in ("kernel", "bias"))
        return model.apply(params, X), (X @ weight + bias[None]) @ weight + bias[None]

    np.testing.assert_allclose(*both(params), rtol=1e-5)
