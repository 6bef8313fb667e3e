"""Lowered scans agree with the scans as they are written, and take the gradients of their matrices after the loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from helpers import some_often
from jax import lax

import fedjaxlite as fl
from fedjaxlite.training.fingerprint import fingerprint

T, B, E, H = 5, 2, 3, 4
TOLERANCE = 1e-5
lower = functools.partial(fl.lower, enable=True)
on_gpu = functools.partial(fl.lower, enable=True, platform="gpu")  # keeps less in the loop


def normal(seed, shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 0.5, dtype)


def weights(**shapes):
    return {name: normal(seed, shape) for seed, (name, shape) in enumerate(sorted(shapes.items()))}


LSTM = weights(kernel=(E, 4 * H), recurrent=(H, 4 * H), bias=(4 * H,))
SIMPLE = weights(kernel=(E, H), recurrent=(H, H + 1), back=(H + 1, H))
XS = normal(9, (T, B, E))
ZEROS = jnp.zeros((B, H))


def gates(z, memory):
    i, f, g, o = jnp.split(z, 4, axis=-1)
    memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(memory), memory


def lstm_step(w, carry, x, checkpointed=False):
    def step(carry, x):
        z = x @ w["kernel"] + carry[0] @ w["recurrent"] + w["bias"][None]
        new = gates(z, carry[1])
        return new, new[0]

    return (jax.checkpoint(step) if checkpointed else step)(carry, x)


def lstm(w, xs, checkpointed=False, **options):
    step = functools.partial(lstm_step, w, checkpointed=checkpointed)
    return lax.scan(step, (ZEROS, ZEROS), xs, **options)


def gates_apart(w, xs):
    """Every gate by a product of its own, as `nnx.LSTMCell` writes it."""
    split = {name: jnp.split(w[name], 4, axis=-1) for name in ("kernel", "recurrent", "bias")}

    def step(carry, x):
        z = [
            x @ k + (carry[0] @ r + b[None])
            for k, r, b in zip(split["kernel"], split["recurrent"], split["bias"], strict=True)
        ]
        new = gates(jnp.concatenate(z, axis=-1), carry[1])
        return new, new[0]

    return lax.scan(step, (ZEROS, ZEROS), xs)


def masked(w, xs):
    lengths = jnp.arange(B) + 2

    def step(carry, inputs):
        x, now = inputs
        new = lstm_step(w, carry, x)[0]
        keep = (now < lengths)[:, None]
        carry = jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, carry)
        return carry, carry[0]

    return lax.scan(step, (ZEROS, ZEROS), (xs, jnp.arange(T)))


def narrow(w, xs):
    def step(h, x):
        x, kernel, recurrent = (a.astype(jnp.bfloat16) for a in (x, w["kernel"], w["recurrent"]))
        z = lax.dot_general(x, kernel, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)
        z = z + lax.dot_general(
            h.astype(jnp.bfloat16), recurrent, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
        h, _ = gates(z, h)
        return h, h

    return lax.scan(step, ZEROS, xs)


def with_keys(w, xs):
    def step(carry, x):
        h, key, count = carry
        key, used = jax.random.split(key)
        drop = jax.random.bernoulli(used, 0.7, h.shape)
        h, _ = gates(x @ w["kernel"] + jnp.where(drop, h, 0.0) @ w["recurrent"] + w["bias"][None], h)
        return (h, key, count + 1), (h, count)

    (h, _, count), out = lax.scan(step, (ZEROS, jax.random.key(0), jnp.int32(3)), xs)
    return h, count, out


def without_xs(w, xs):
    h = jnp.tanh(xs[0] @ w["kernel"])

    def step(h, _):
        return jnp.tanh(h @ w["recurrent"]) @ w["back"], None

    return lax.scan(step, h, None, length=T)[0]


def other_sides(w, xs):
    """Matrices on the left, transposed, summed over their last axis, and with an axis of their own for each row."""
    several = jnp.stack([w["back"].T @ w["recurrent"].T, w["recurrent"] @ w["back"]])

    def step(h, x):
        left = (w["recurrent"].T @ h.T).T
        back = jnp.einsum("bk,nk->bn", left, w["back"].T)
        heads = jnp.einsum("bh,bhk->bk", back, several)
        h = jnp.tanh(heads + x @ w["kernel"] + (h @ w["kernel"].T) @ w["kernel"])
        return h, h

    return lax.scan(step, ZEROS, xs)


def used_in_other_ways_too(w, xs):
    """Matrices and biases that are also multiplied, added twice, or handed out; a carry that only gathers."""

    def step(carry, x):
        h, total = carry
        z = h @ w["recurrent"]
        z = z + w["recurrent"][0][None] + w["recurrent"][0][None]
        h = jnp.tanh(z * w["recurrent"][1][None]) @ w["back"] + w["kernel"][0][None]
        h = h * w["kernel"][1][None] + x @ w["kernel"]
        return (h, total + w["kernel"]), (h, w["back"])

    return lax.scan(step, (ZEROS, w["kernel"]), xs)


def numbers(w, xs):
    """Numbers and rows that are added to products, the same in all steps and of each step."""
    half, each = w["kernel"][0, 0], xs.mean((1, 2))

    def step(h, inputs):
        x, number = inputs
        h = jnp.tanh(lax.add(lax.add(h @ w["recurrent"], half), number) @ w["back"] + x[:1] @ w["kernel"])
        return h, h

    return lax.scan(step, ZEROS, (xs, each))


@jax.custom_vjp
def squashed(x):
    return jnp.tanh(x)


squashed.defvjp(lambda x: (jnp.tanh(x), x), lambda x, ct: (ct * (1 - jnp.tanh(x) ** 2),))


def own_derivatives(w, xs):
    def step(h, x):
        h = squashed(jax.nn.relu(x @ w["kernel"]) + jax.nn.silu(h @ w["recurrent"]) @ w["back"])
        return h, h

    return lax.scan(step, ZEROS, xs)


def nested(w, xs):
    def outer(h, x):
        def inner(h, _):
            return jnp.tanh(h @ w["recurrent"]) @ w["back"], None

        h = lax.scan(inner, jnp.tanh(h @ (w["recurrent"] @ w["back"]) + x @ w["kernel"]), None, length=3)[0]
        return h, h

    return lax.scan(outer, ZEROS, xs)


def loop_inside(w, xs):
    def step(h, x):
        h = lax.fori_loop(0, 2, lambda _, v: jnp.tanh(v), h @ w["recurrent"])
        return lax.cond(x.sum() > 0, jnp.sin, jnp.cos, h @ w["back"]), h

    return lax.scan(step, ZEROS, xs)


SCANS = {
    "lstm": (lstm, LSTM),
    "reverse": (functools.partial(lstm, reverse=True), LSTM),
    "unrolled": (functools.partial(lstm, unroll=2), LSTM),
    "checkpointed inside": (functools.partial(lstm, checkpointed=True), LSTM),
    "checkpointed around": (jax.checkpoint(lstm), LSTM),
    "jitted": (jax.jit(lstm), LSTM),
    "gates apart": (gates_apart, LSTM),
    "masked": (masked, LSTM),
    "keys and counts": (with_keys, LSTM),
    "narrow": (narrow, LSTM),
    "without xs": (without_xs, SIMPLE),
    "other sides": (other_sides, SIMPLE),
    "used in other ways too": (used_in_other_ways_too, SIMPLE),
    "numbers": (numbers, SIMPLE),
    "own derivatives": (own_derivatives, SIMPLE),
    "nested": (nested, SIMPLE),
    "loops inside": (loop_inside, SIMPLE),
}


def scalar(fn):
    """Of the float results of a function, one number that depends on each of them."""

    def total(*args):
        leaves = [leaf for leaf in jax.tree.leaves(fn(*args)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        weigh = [jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape) for leaf in leaves]
        return sum(jnp.sum(a * leaf.astype(jnp.float32)) for a, leaf in zip(weigh, leaves, strict=True))

    return total


def close(got, want, tolerance=TOLERANCE):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(initial=1.0))


def scans(jaxpr):
    """All scans of a program, at any depth."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            yield eqn
        for value in eqn.params.values():
            for body in value if isinstance(value, tuple | list) else (value,):
                body = getattr(body, "jaxpr", body)
                if hasattr(body, "eqns"):
                    yield from scans(body)


def carried(jaxpr):
    """The shapes that scans of a program carry from step to step."""
    return [
        out.aval.shape
        for eqn in scans(jaxpr)
        for out, inner in zip(eqn.outvars, eqn.params["jaxpr"].jaxpr.outvars, strict=True)
        if out.aval.shape == inner.aval.shape
    ]


def gradient_program(fn, *args):
    return jax.make_jaxpr(jax.grad(scalar(fn)))(*args).jaxpr


def all_agree(run, fn, *args, tolerance=TOLERANCE):
    """What `run` makes of a function and of its lowered forms is the same; in one program, since compiling takes time."""
    plain, *lowered = jax.jit(lambda *args: [run(f, *args) for f in (fn, lower(fn), on_gpu(fn))])(*args)
    for got in lowered:
        close(got, plain, tolerance)


@pytest.mark.parametrize("name", some_often(SCANS, 3))
def test_values_and_gradients_agree(name):
    fn, w = SCANS[name]
    tolerance = 1e-2 if name == "narrow" else TOLERANCE  # a bfloat16 has 8 bits, and sums have another order
    all_agree(lambda fn, *args: (fn(*args), jax.grad(scalar(fn), (0, 1))(*args)), fn, w, XS, tolerance=tolerance)


# Where the matrices are parts of the weights, a scan in a scan carries them, or they are also used in other ways.
_OTHER_MATRICES = ("gates apart", "nested", "used in other ways too")


@pytest.mark.parametrize("name", [name for name in SCANS if name not in _OTHER_MATRICES])
def test_no_matrix_is_carried_through_the_backward_loop(name):
    fn, w = SCANS[name]
    matrices = {leaf.shape for leaf in jax.tree.leaves(w) if leaf.ndim == 2}
    assert matrices & set(carried(gradient_program(fn, w, XS)))  # so the test can fail
    for form in (lower, on_gpu):
        assert not matrices & set(carried(gradient_program(form(fn), w, XS)))


@pytest.mark.parametrize("form", [lower, on_gpu])
def test_the_loops_hold_one_product_each_for_all_gates(form):
    """Of the inputs none; of the hidden state one forward and, with the transposed matrix as it lies, one backward."""
    forward, backward = scans(gradient_program(form(gates_apart), LSTM, XS))
    for eqn in (forward, backward):
        (product,) = (e for e in eqn.params["jaxpr"].jaxpr.eqns if e.primitive.name == "dot_general")
        assert product.params["dimension_numbers"][0] == ((1,), (0,))
    assert sum(e.primitive.name == "dot_general" for e in gradient_program(form(gates_apart), LSTM, XS).eqns) >= 8


def test_an_accelerator_keeps_fewer_arrays_in_the_loop():
    forward = [next(scans(gradient_program(form(lstm), LSTM, XS))) for form in (lower, on_gpu)]
    kept = [sum(v.aval.size for v in eqn.outvars[2:]) for eqn in forward]
    assert kept[1] < 0.7 * kept[0]
    assert len(forward[1].outvars) < len(forward[0].outvars)


TRANSFORMS = {
    "forward mode": lambda fn, w, xs: jax.jvp(scalar(fn), (w, xs), jax.tree.map(jnp.cos, (w, xs))),
    "forward over reverse": lambda fn, w, xs: jax.jvp(jax.grad(scalar(fn)), (w, xs), jax.tree.map(jnp.cos, (w, xs))),
    "reverse over reverse": lambda fn, w, xs: jax.grad(lambda *a: scalar(jax.grad(scalar(fn)))(*a), (0, 1))(w, xs),
    "models of their own": lambda fn, w, xs: jax.vmap(jax.grad(scalar(fn), (0, 1)))(
        jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), w), jnp.stack([xs, -xs])
    ),
    "one model for all": lambda fn, w, xs: jax.vmap(jax.grad(scalar(fn), (0, 1)), (None, 0))(w, jnp.stack([xs, -xs])),
    "inputs alone": lambda fn, w, xs: jax.grad(scalar(fn), 1)(w, xs),
    "recomputed": lambda fn, w, xs: jax.grad(scalar(jax.checkpoint(fn)))(w, xs),
    "in a scan": lambda fn, w, xs: lax.scan(lambda c, _: (jax.grad(scalar(fn))(c, xs), None), w, None, length=2)[0],
    "linearized": lambda fn, w, xs: jax.linearize(scalar(fn), w, xs)[1](*jax.tree.map(jnp.cos, (w, xs))),
}


@pytest.mark.parametrize("transform", some_often(TRANSFORMS, 3))
def test_transformations_agree(transform):
    all_agree(TRANSFORMS[transform], lstm, LSTM, XS)


@pytest.mark.parametrize("name", some_often(["keys and counts", "used in other ways too", "checkpointed inside"], 3))
def test_second_derivatives_and_lanes_agree(name):
    fn, w = SCANS[name]

    def both(fn, *args):
        return TRANSFORMS["forward over reverse"](fn, *args), TRANSFORMS["models of their own"](fn, *args)

    all_agree(both, fn, w, XS)


def test_one_weight_alone_is_differentiated_as_cheaply():
    """Without a change of the matrix there is nothing to add to its product, and no array of it for all steps."""

    def of_bias(bias):
        return scalar(lower(lstm))({**LSTM, "bias": bias}, XS)

    close(*jax.jit(lambda w: (jax.grad(of_bias)(w["bias"]), jax.grad(scalar(lstm))(w, XS)["bias"]))(LSTM))
    inputs = jax.make_jaxpr(jax.grad(lambda xs: scalar(lower(lstm))(LSTM, xs)))(XS)
    assert not any(v.aval.shape in ((E, 4 * H), (4 * H, E)) for e in inputs.eqns[-3:] for v in e.outvars)


def unchanged(fn, *args):
    """Whether lowering leaves a function's scans as they are."""
    program = str(jax.make_jaxpr(lower(fn))(*args))
    return "custom_jvp_call" not in program and program.count("scan[") == str(jax.make_jaxpr(fn)(*args)).count("scan[")


def test_what_is_not_worth_it_stays():
    wide = jnp.ones((2 * H * 3, H))

    def recurrent(h, matrix, length=T, effect=False):
        def step(h, _):
            if effect:
                jax.debug.print("{}", h[0, 0])
            return jnp.tanh(h @ matrix), None

        return lax.scan(step, h, None, length=length)[0]

    square = jnp.ones((H, H))
    assert not unchanged(recurrent, wide[:H], square)
    assert unchanged(recurrent, wide[: H + 1], square)  # the factor and the product have 2 (H + 1) H entries
    assert unchanged(functools.partial(recurrent, length=1), wide[:1], square)
    assert unchanged(functools.partial(recurrent, effect=True), wide[:1], square)
    assert unchanged(lambda xs: lax.scan(lambda h, x: (jnp.tanh(h + x), h), ZEROS, xs), jnp.ones((T, B, H)))
    assert unchanged(lambda ws: lax.scan(lambda h, w: (jnp.tanh(h @ w), None), ZEROS, ws), jnp.ones((T, H, H)))


def gradient_of_a_batch(**options):
    def loss(w, batch, key):
        return jnp.sin(lstm(w, jnp.swapaxes(batch["x"], 0, 1))[1]).sum((0, 2))

    batch = {"x": jnp.swapaxes(XS, 0, 1)}
    return jax.make_jaxpr(fl.value_and_grad(loss, **options))(LSTM, batch, jnp.ones(B, bool), None)


def test_the_switch():
    assert fl.lower(lstm, enable=False) is lstm
    off = fl.lower(lstm, enable=fl.lowering.Rewrites(convolutions=True, pools=True, scans=False))
    assert "custom_jvp_call" not in str(jax.make_jaxpr(off)(LSTM, XS))
    for platform in ("cpu", "gpu", "tpu"):
        assert fl.lowering.should_lower(platform, 1).scans
        assert fl.lowering.should_lower(platform, 8).scans
        assert "custom_jvp_call" in str(jax.make_jaxpr(fl.lower(lstm, platform=platform))(LSTM, XS))
    for flag, found in ((False, True), ("auto", False)):
        program = gradient_of_a_batch(lower=flag)
        assert (LSTM["recurrent"].shape in carried(program.jaxpr)) is found


def test_a_forward_pass_costs_what_it_did():
    """One scan, which hands out what it is asked for and carries what it carried."""
    (eqn,) = scans(jax.make_jaxpr(lower(lstm))(LSTM, XS).jaxpr)
    assert [v.aval.shape for v in eqn.outvars] == [(B, H), (B, H), (T, B, H)]


def test_remat_keeps_the_carries_alone():
    """`remat=True` checkpoints the body, whose values are computed again in the backward loop."""

    def kept(remat):
        program = gradient_of_a_batch(remat=remat)
        assert not {LSTM["recurrent"].shape} & set(carried(program.jaxpr))
        return sum(v.aval.size for v in next(scans(program.jaxpr)).outvars)

    assert kept(True) < 0.6 * kept(False)


def of_nnx(cell):
    return fl.models.from_nnx(lambda rngs: nnx.RNN(cell(E, H, rngs=rngs), rngs=rngs), input_shape=(T, E))


MODELS = {
    "nnx.LSTMCell": lambda: of_nnx(nnx.LSTMCell),
    "nnx.OptimizedLSTMCell": lambda: of_nnx(nnx.OptimizedLSTMCell),
    "nnx.GRUCell": lambda: of_nnx(nnx.GRUCell),
    "linen.OptimizedLSTMCell": lambda: fl.models.from_linen(
        linen.RNN(linen.OptimizedLSTMCell(H)), jnp.swapaxes(XS, 0, 1)
    ),
}


@pytest.mark.parametrize("name", some_often(MODELS, 4))
def test_recurrent_layers_of_flax_agree(name):
    model = MODELS[name]()
    params = jax.jit(model.init)(jax.random.key(0))
    x = jnp.swapaxes(XS, 0, 1)
    all_agree(lambda fn, *args: jax.grad(scalar(fn))(*args), model.apply, params, x)
    matrices = {leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 2}
    assert matrices & set(carried(gradient_program(model.apply, params, x)))
    assert not matrices & set(carried(gradient_program(lower(model.apply), params, x)))


def test_the_program_is_the_same_each_time_and_for_any_number_of_lanes():
    def program(lanes):
        traced = jax.make_jaxpr(jax.grad(scalar(fl.lower(gates_apart, lanes=lanes))))(LSTM, XS)
        return fingerprint([traced]).digest

    assert len({program(lanes) for lanes in (1, 1, 1, 4, None)}) == 1
