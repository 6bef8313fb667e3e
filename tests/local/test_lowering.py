"""Lowered functions agree with what XLA does with the convolutions and pools as they are written."""

import functools

import helpers
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import some_often
from jax import lax

import fedjaxlite as fl
from fedjaxlite.lowering import Rewrites, should_lower

pytestmark = pytest.mark.usefixtures("full_precision")  # two ways to the same number

NHWC = ("NHWC", "HWIO", "NHWC")
TOLERANCE = 1e-5
lower = functools.partial(fl.lower, enable=True)
conv = functools.partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=NHWC)


def max_pool(x, size=2):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, 2, 2, 1), "VALID")


def normal(seed, shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def count(fn, *args, primitive="conv_general_dilated"):
    """How often a primitive stands in the program of `fn`, at any depth."""
    return str(jax.make_jaxpr(fn)(*args)).count(primitive)


def close(got, want, tolerance=TOLERANCE):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = np.abs(b[np.isfinite(b)]).max(initial=1.0)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def values_and_gradients(fn, *args):
    """The value, and the gradient of its product with fixed numbers."""
    out, pull = jax.vjp(fn, *args)
    cotangent = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape).astype(out.dtype)
    return out, pull(cotangent)


def both(run, fn, *args):
    """What `run` makes of the lowered function, and of the function: in one program, since compiling takes time."""
    return jax.jit(lambda *args: (run(lower(fn), *args), run(fn, *args)))(*args)


def agree(fn, *args, tolerance=TOLERANCE):
    """Nothing of what is replaced is left, and values and gradients are the same."""
    program = str(jax.make_jaxpr(lower(fn))(*args))
    assert "conv_general_dilated" not in program
    assert "reduce_window" not in program
    close(*both(values_and_gradients, fn, *args), tolerance)


LAYOUTS = {
    1: [("NHC", "HIO", "NHC"), ("NCH", "OIH", "NCH")],
    2: [NHWC, ("NCHW", "OIHW", "NCHW"), ("HWNC", "OHWI", "NHWC")],
}


@st.composite
def windows(draw, rank, base_dilations=(1,)):
    """A size, stride, dilation and padding of windows on `rank` axes, and lengths on which at least one window fits."""
    entry = lambda low, high: [draw(st.integers(low, high)) for _ in range(rank)]  # noqa: E731
    sizes, strides, dilation, lengths = entry(1, 4), entry(1, 4), entry(1, 2), entry(1, 10)
    reach = [(k - 1) * d + 1 for k, d in zip(sizes, dilation, strict=True)]
    low = entry(0, 2)
    high = [max(draw(st.integers(-1, 2)), r - n - p) for r, n, p in zip(reach, lengths, low, strict=True)]
    base = [draw(st.sampled_from(base_dilations)) for _ in range(rank)]
    return sizes, strides, dilation, lengths, list(zip(low, high, strict=True)), base


@st.composite
def convolutions(draw):
    rank, groups, channels, outputs = draw(st.integers(1, 2)), *(draw(st.integers(1, 3)) for _ in range(3))
    sizes, strides, dilation, lengths, padding, base = draw(windows(rank, base_dilations=(1, 1, 2)))
    layout = draw(st.sampled_from(LAYOUTS[rank]))
    shapes = {**dict(zip("HW", lengths, strict=False)), "N": draw(st.integers(1, 3)), "C": groups * channels}
    kernel = {**dict(zip("HW", sizes, strict=False)), "I": channels, "O": groups * outputs}
    fn = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        lhs_dilation=base,
        rhs_dilation=dilation,
        dimension_numbers=layout,
        feature_group_count=groups,
    )
    seed = draw(st.integers(0, 99))
    return fn, normal(seed, [shapes[c] for c in layout[0]]), normal(seed + 100, [kernel[c] for c in layout[1]])


@hypothesis.settings(max_examples=12)
@hypothesis.given(convolutions())
def test_convolutions_agree_over_shapes_strides_padding_dilation_groups_and_layouts(case):
    agree(*case)


CASES = {
    "a kernel of one entry": ((2, 5, 5, 3), (1, 1, 3, 4), {}),
    "a batch of one": ((1, 6, 6, 2), (3, 3, 2, 4), {"padding": "SAME"}),
    "a kernel as large as the image": ((2, 5, 5, 3), (5, 5, 3, 4), {}),
    "patches side by side": ((2, 9, 8, 3), (4, 4, 3, 5), {"window_strides": (4, 4)}),
    "depthwise": ((2, 6, 6, 5), (3, 3, 1, 10), {"padding": "SAME", "feature_group_count": 5}),
    "transposed": ((2, 4, 4, 3), (3, 3, 3, 4), {"padding": [(1, 2), (2, 1)], "lhs_dilation": (2, 3)}),
}


@pytest.mark.parametrize("name", some_often(CASES, 2))
def test_convolutions_of_special_shapes_agree(name):
    lhs, rhs, options = CASES[name]
    agree(functools.partial(conv, **{"padding": "VALID", **options}), normal(0, lhs), normal(1, rhs))


def test_three_spatial_axes_agree():
    cubes = functools.partial(lax.conv_general_dilated, window_strides=(1, 2, 1), padding="SAME")
    agree(cubes, normal(0, (2, 3, 4, 5, 4)), normal(1, (5, 3, 2, 3, 2)))


@st.composite
def pools(draw):
    sizes, strides, dilation, lengths, padding, _ = draw(windows(2))
    if draw(st.booleans()):
        strides, dilation = sizes, [1, 1]
        padding = [(low, max(0, k - n - low)) for k, n, (low, _) in zip(sizes, lengths, padding, strict=True)]
    padding = [(low, max(0, high)) for low, high in padding]
    shape = (draw(st.integers(1, 3)), *lengths, draw(st.integers(1, 3)))
    around = lambda entries, one: (one, *entries, one)  # noqa: E731
    return shape, {
        "window_dimensions": around(sizes, 1),
        "window_strides": around(strides, 1),
        "window_dilation": around(dilation, 1),
        "padding": around(padding, (0, 0)),
    }


@hypothesis.settings(max_examples=12)
@hypothesis.given(pools(), st.integers(0, 99))
def test_max_pools_agree_with_ties_too(pool, seed):
    shape, options = pool
    options["window_dilation"] = (1, 1, 1, 1)  # XLA's own gradient has none
    x = jnp.asarray(np.random.default_rng(seed).integers(0, 3, shape), jnp.float32)
    agree(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, **options), x, tolerance=1e-6)


@hypothesis.settings(max_examples=6)
@hypothesis.given(pools(), st.integers(0, 99))
def test_sum_pools_agree(pool, seed):
    shape, options = pool
    agree(lambda x: lax.reduce_window(x, 0.0, lax.add, **options), normal(seed, shape))


@pytest.mark.parametrize("size", [2, 3])
def test_a_max_pool_after_relu_sends_the_gradient_to_the_first_of_equal_entries(size):
    x = jnp.zeros((1, 4, 4, 1))
    pool = functools.partial(max_pool, size=size)
    gradient, want = jax.device_get(both(lambda fn, x: jax.grad(lambda x: fn(x).sum())(x), pool, x))
    np.testing.assert_array_equal(gradient, want)
    assert gradient[0, 0, 0, 0] == 1.0
    assert gradient.sum() == jax.eval_shape(pool, x).size


@pytest.mark.parametrize("size", [2, 3])
def test_max_pools_pass_nan_and_infinity_on(size):
    x = normal(0, (1, 6, 6, 1)).at[0, 1, 1, 0].set(jnp.nan).at[0, 4:, 4:, 0].set(-jnp.inf)
    pool = functools.partial(max_pool, size=size)
    np.testing.assert_array_equal(*both(lambda fn, x: fn(x), pool, x))


@pytest.mark.parametrize("dtype", some_often([jnp.bfloat16, jnp.float16], 2))
def test_half_precision_agrees_and_accumulates_in_float32(dtype):
    x, kernel = normal(0, (1, 8, 8, 64), dtype), normal(1, (5, 5, 64, 4), dtype)

    def net(x, kernel):
        return lax.reduce_window(conv(x, kernel), np.zeros((), dtype), lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    epsilon = float(jnp.finfo(dtype).eps)
    agree(net, x, kernel, tolerance=4 * epsilon)
    # One rounding of the result, not one of each of the 1600 sums.

    @jax.jit
    def once(x, kernel):
        return lower(conv)(x, kernel).astype(jnp.float32), conv(x.astype(jnp.float32), kernel.astype(jnp.float32))

    got, want = jax.device_get(once(x, kernel))
    assert np.abs(got - want).max() / np.abs(want).max() <= epsilon


def test_the_preferred_element_type_and_the_precision_are_kept():
    x, kernel = normal(0, (1, 4, 4, 2), jnp.bfloat16), normal(1, (3, 3, 2, 4), jnp.bfloat16)
    wide = functools.partial(conv, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    close(*both(lambda fn, *args: fn(*args), wide, x, kernel))
    assert count(lower(wide), x, kernel, primitive="precision=(Precision.HIGHEST, Precision.HIGHEST)") == 1


def cnn(params, x):
    x = max_pool(jax.nn.relu(conv(x, params["conv"]) + params["bias"].reshape(1, 1, 1, -1)))
    return x.reshape(x.shape[0], -1) @ params["dense"]


def loss(params, x):
    return jnp.sum(jnp.sin(cnn(params, x)))


PARAMS = {"conv": 0.3 * normal(0, (3, 3, 2, 4)), "bias": 0.3 * normal(1, (4,)), "dense": 0.3 * normal(2, (36, 3))}
X = normal(3, (2, 6, 6, 2))


def steps(loss):
    """Three steps of gradient descent in a scan."""

    def run(params, x):
        def step(params, x):
            value, grads = jax.value_and_grad(loss)(params, x)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads), value

        return lax.scan(step, params, jnp.stack([x, 2.0 * x, -x]))

    return run


TRANSFORMED = {
    "grad": jax.value_and_grad,
    "jvp": lambda f: lambda params, x: jax.jvp(f, (params, x), (params, jnp.cos(x))),
    "Hessian times vector": lambda f: (
        lambda params, x: jax.jvp(lambda x: jax.grad(f, argnums=1)(params, x), (x,), (jnp.cos(x),))
    ),
    "scan": steps,
    "vmap of scan": lambda f: (
        lambda params, x: jax.vmap(steps(f))(
            jax.tree.map(lambda p: jnp.stack([p, 2.0 * p]), params), jnp.stack([x, -x])
        )
    ),
    "remat": lambda f: jax.value_and_grad(jax.checkpoint(f)),
}


@pytest.mark.parametrize("name", some_often(TRANSFORMED, 2))
def test_lowering_comes_before_any_transformation(name):
    transform = TRANSFORMED[name]
    close(*both(lambda fn, *args: transform(fn)(*args), loss, PARAMS, X), 2e-5)
    assert count(transform(lower(loss)), PARAMS, X) == 0


def in_scan(params, x):
    return lax.scan(lambda total, x: (total + loss(params, x), None), 0.0 * x[0, 0, 0, 0], jnp.stack([x, -x]))[0]


def in_cond(params, x):
    return lax.cond(x[0, 0, 0, 0] > 0.0, loss, lambda params, x: 2.0 * jnp.sum(x), params, x)


def in_while(params, x):
    def cond(carry):
        return (carry[0] < 3) & (loss(params, x) < 1e9)

    return lax.while_loop(cond, lambda carry: (carry[0] + 1, carry[1] + loss(params, x)), (0, 0.0))[1]


def in_jit(params, x):
    return jax.jit(lambda p, x: jax.jit(loss)(p, x) + 1.0)(params, x)


def in_remat(params, x):
    return jax.checkpoint(loss, policy=jax.checkpoint_policies.dots_saveable)(params, x)


BODIES = {"scan": in_scan, "cond": in_cond, "while": in_while, "jit": in_jit, "remat": in_remat}


@pytest.mark.parametrize("name", some_often(BODIES, 2))
def test_bodies_are_lowered_and_stay_what_they_are(name):
    fn = BODIES[name]
    assert count(fn, PARAMS, X) > 0
    program = str(jax.make_jaxpr(lower(fn))(PARAMS, X))
    assert "conv_general_dilated" not in program
    assert name in program
    transform = TRANSFORMED["jvp" if name == "while" else "grad"]
    close(*both(lambda fn, *args: transform(fn)(*args), fn, PARAMS, X), 2e-5)


def test_functions_with_their_own_derivative_are_left_untouched():
    by_vjp = jax.custom_vjp(lambda x, kernel: conv(x, kernel))
    by_vjp.defvjp(lambda x, k: (conv(x, k), (x, k)), lambda saved, g: (7.0 * saved[0], 3.0 * saved[1]))
    by_jvp = jax.custom_jvp(lambda x, kernel: conv(x, kernel))
    by_jvp.defjvp(lambda primals, tangents: (conv(*primals), 5.0 * tangents[0]))

    def fn(x, kernel):
        return jnp.sum(conv(x, kernel)) + jnp.sum(by_vjp(x, kernel)) + jnp.sum(by_jvp(x, kernel))

    x, kernel = normal(0, (1, 4, 4, 2)), normal(1, (3, 3, 2, 2))
    assert count(fn, x, kernel) == 3
    assert count(lower(fn), x, kernel) == 2
    close(*both(lambda fn, *args: jax.value_and_grad(fn, (0, 1))(*args), fn, x, kernel))
    forward = lambda x, kernel: conv(x, kernel) + by_jvp(x, kernel)  # noqa: E731
    close(*both(lambda fn, *args: jax.jvp(fn, args, args), forward, x, kernel))


@helpers.needs_devices(4)
def test_lowering_works_inside_shard_map_with_its_checks():
    mesh = jax.make_mesh((4,), ("clients",), axis_types=(jax.sharding.AxisType.Auto,))
    x = normal(0, (4, *X.shape))

    def mapped(loss):
        def body(params, x):
            params = jax.tree.map(lambda p: lax.pcast(p, "clients", to="varying"), params)
            return jax.tree.map(lambda g: g[None], jax.value_and_grad(loss)(params, x[0]))

        return jax.jit(jax.shard_map(body, mesh=mesh, in_specs=(jax.P(), jax.P("clients")), out_specs=jax.P("clients")))

    close(mapped(lower(in_scan))(PARAMS, x), mapped(in_scan)(PARAMS, x), 2e-5)


def test_a_flax_model_agrees():
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.depthwise = nnx.Conv(4, 8, (3, 3), strides=2, feature_group_count=4, rngs=rngs)
            self.linear = nnx.Linear(32, 3, rngs=rngs)

        def __call__(self, x):
            x = nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (3, 3), strides=(2, 2), padding="SAME")
            with jax.numpy_dtype_promotion("standard"):  # Flax divides by an integer
                x = nnx.avg_pool(self.depthwise(x), (2, 2), padding="SAME")
            return self.linear(x.reshape(x.shape[0], -1))

    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)

    def model_loss(params, rest, x):
        rest = jax.tree.map(lambda leaf: leaf, rest)  # containers of this trace, which BatchNorm may write to
        return jnp.sum(nnx.merge(graph, params, rest)(x) ** 2)

    x = normal(0, (2, 8, 8, 1))
    close(*both(lambda fn, *args: jax.value_and_grad(fn)(*args), model_loss, params, rest, x), 2e-5)
    assert count(lower(model_loss), params, rest, x) == 0


def test_arguments_and_results_are_pytrees():
    def fn(params, batch, *, scale=None):
        out = cnn(params, batch["x"])
        return {"out": (out if scale is None else out * scale), "key": batch["key"], "none": None}, ()

    batch = {"x": X, "key": jax.random.key(0), "mask": None}
    got, want = both(lambda fn, *args: fn(*args, scale=jnp.float32(2.0)), fn, PARAMS, batch)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    close(got[0]["out"], want[0]["out"])
    assert got[0]["key"] == want[0]["key"]


def test_effects_pass(capfd):
    def fn(params, x):
        out = loss(params, x)
        jax.debug.print("loss is {}", out)
        return out

    jax.block_until_ready(lower(fn)(PARAMS, X))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("loss is") == 1


def test_what_is_not_covered_stays():
    integers = jnp.ones((1, 4, 4, 1), jnp.int32)
    pool = lambda x: lax.reduce_window(x, np.int32(0), lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")  # noqa: E731
    assert count(lower(pool), integers, primitive="reduce_window_sum") == 1
    long = functools.partial(lax.conv_general_dilated, window_strides=(1,), padding="SAME")
    assert count(lower(long), normal(0, (1, 1, 200)), normal(1, (1, 1, 65))) == 1
    assert count(lower(long), normal(0, (1, 1, 200)), normal(1, (1, 1, 64))) == 0
    empty = normal(0, (0, 1, 8))
    close(*both(lambda fn, *args: fn(*args), long, empty, normal(1, (1, 1, 3))))


def test_the_switch():
    assert fl.lower(loss, enable=False) is loss
    assert lower(loss).__name__ == "loss"
    assert count(fl.lower(loss, platform="cpu"), PARAMS, X) == 0
    assert count(fl.lower(loss, platform="gpu", lanes=1), PARAMS, X) == 1
    on_gpu = fl.lower(loss, platform="gpu", lanes=8)
    assert count(on_gpu, PARAMS, X) == 0
    assert count(on_gpu, PARAMS, X, primitive="reduce_window_max") == 1
    assert should_lower("tpu", 4) == Rewrites(convolutions=True, pools=False, scans=True)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="`fn` is 3; expected a function"):
        fl.lower(3)
    with pytest.raises(ValueError, match="`enable` is 'yes'; expected one of 'auto', True, False"):
        fl.lower(loss, enable="yes")
