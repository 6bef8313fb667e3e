"""Gradients and local training with narrow floats, rematerialization and micro-batches: the same numbers, cheaper."""

from functools import lru_cache
from typing import Any

import helpers
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms
from fedjaxlite.data.client_view import Wave
from fedjaxlite.local.mixed_precision import floating_dtype, narrowed
from fedjaxlite.local.rematerialization import rematerialize

PEOPLE = helpers.regression((4, 9, 1, 6))
START = {"w": jnp.float32([0.5, -1.0, 0.2]), "b": jnp.float32(0.1)}


def loss_fn(params: Any, batch: Any, key: Any) -> Any:
    """Squared error whose outputs meet the targets in float32; with a metric and weights of its own."""
    del key
    error = (batch["x"] @ params["w"] + params["b"]).astype(jnp.float32) - batch["y"]
    weight = batch.get("weight")
    return error**2, fl.LossAux(metrics={"absolute": jnp.abs(error)}, example_weight=weight)


def a_batch(rows: int, seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        "x": jnp.float32(rng.normal(size=(rows, 3))),
        "y": jnp.float32(rng.normal(size=rows)),
        "weight": jnp.float32(rng.integers(0, 4, size=rows)),
        "mask": jnp.ones(rows, bool),
    }


def fed_avg(loss: Any = loss_fn, rate: float = 0.05, **options: Any) -> fl.Algorithm:
    options = {"batch_size": 4, "epochs": 2, **options}
    return algorithms.fed_avg(loss, client_optimizer=optax.sgd(rate), **options)


def view(people: fl.Population, client: int) -> fl.ClientData:
    """One client alone in its wave, outside of any round."""
    offset, end = (jnp.int32(people.offsets[i]) for i in (client, client + 1))
    n, work = end - offset, jnp.float32(1)
    wave = Wave(jnp.int32([client]), n.reshape((1,)), work.reshape((1,)), people.max_size)
    features = {name: jnp.asarray(value) for name, value in people.features.items()}
    return fl.ClientData(features, offset, n, jnp.int32(client), work, jax.random.key(0), wave)


def trained(loss: Any, params: Any, data: fl.ClientData, rate: float = 0.05, **options: Any) -> fl.LocalResult:
    """Local training by SGD, compiled."""
    options = {"batch_size": 4, "epochs": 2, **options}
    train = fl.local_sgd(loss, client_optimizer=optax.sgd(rate), **options)
    return jax.jit(lambda params: train(params, data))(params)


class TestComputeDtype:
    def test_what_is_cast_and_what_is_not(self) -> None:
        seen: dict[str, Any] = {}

        def loss(params: fl.Variables, batch: Any, key: Any) -> Any:
            seen.update(jax.tree.map(lambda leaf: str(leaf.dtype), {**params.params, **params.state, **batch}))
            state = {"mean": batch["x"].mean(), "count": params.state["count"] + 1}
            return batch["x"] * params.params["w"] + params.params["small"].astype(jnp.bfloat16), fl.LossAux(state)

        params = fl.Variables(
            {"w": jnp.float32(3), "small": jnp.float16(1)}, {"mean": jnp.float32(0), "count": jnp.int32(0)}
        )
        mask = jnp.array([True, True, False])
        batch = {"x": jnp.float32([1, 2, 9]), "y": jnp.float32([0, 0, 0]), "id": jnp.arange(3), "mask": mask}
        reduced, gradient = fl.value_and_grad(loss, compute_dtype=jnp.bfloat16)(params, batch, mask, None)
        assert seen == {
            "w": "bfloat16", "small": "float16", "x": "bfloat16", "y": "float32", "id": "int32", "mask": "bool",
            "mean": "float32", "count": "int32",
        }  # fmt: skip
        assert {name: str(leaf.dtype) for name, leaf in gradient.items()} == {"w": "float32", "small": "float16"}
        assert (reduced.loss.dtype, reduced.state["mean"].dtype, reduced.state["count"].dtype) == (
            jnp.float32, jnp.float32, jnp.int32,
        )  # fmt: skip
        assert (float(gradient["w"]), float(reduced.loss), float(reduced.state["mean"])) == (1.5, 5.5, 4.0)

    def test_it_is_the_gradient_to_the_precision_of_the_dtype(self) -> None:
        batch = a_batch(16)
        want_loss, want = fl.value_and_grad(loss_fn)(START, batch, batch["mask"], None)
        for dtype, tolerance in ((jnp.bfloat16, 2e-2), (jnp.float16, 3e-3)):
            reduced, got = fl.value_and_grad(loss_fn, compute_dtype=dtype)(START, batch, batch["mask"], None)
            assert 0 < helpers.max_difference(got, want) < tolerance * float(jnp.abs(want["w"]).max())
            assert float(reduced.loss) == pytest.approx(float(want_loss.loss), rel=tolerance)
            assert float(reduced.metrics["absolute"]) == pytest.approx(
                float(want_loss.metrics["absolute"]), rel=tolerance
            )

    def test_losses_are_summed_in_float32(self) -> None:
        """In bfloat16 a sum of ones stops at 256."""
        loss = lambda params, batch, key: batch["x"] * params  # noqa: E731
        batch = {"x": jnp.ones(1000)}
        reduced, _ = fl.value_and_grad(loss, compute_dtype=jnp.bfloat16)(
            jnp.float32(1), batch, jnp.ones(1000, bool), None
        )
        assert (float(reduced.loss), float(reduced.weight)) == (1.0, 1000.0)

    def test_the_masters_take_steps_too_small_for_bfloat16(self) -> None:
        ones = view(helpers.one_value_each([1.0], [4]), 0)
        loss = lambda params, batch, key: params * batch["x"]  # noqa: E731
        result = trained(loss, jnp.float32(1), ones, rate=1e-4, epochs=3, compute_dtype=jnp.bfloat16)
        assert float(result.params) == pytest.approx(1 - 3e-4, abs=1e-7)
        assert result.metrics["loss"].dtype == jnp.float32

    def test_lanes_and_lowered_convolutions(self) -> None:
        def loss(params: Any, batch: Any, key: Any) -> jax.Array:
            x = jnp.concatenate([batch["x"]] * 4, axis=1).reshape((-1, 3, 4, 1))
            dims = ("NHWC", "HWIO", "NHWC")
            out = jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=dims)
            assert out.dtype == jnp.bfloat16
            return (out.astype(jnp.float32).mean((1, 2, 3)) - batch["y"]) ** 2

        params = {"kernel": 0.1 + jnp.arange(18.0).reshape((3, 3, 1, 2)) / 18}
        kinds = ((False, helpers.ONE), (True, fl.Execution(lanes=4, devices=1)))
        one, two = (
            helpers.one_run(fed_avg(loss, lower=lower, compute_dtype="bfloat16"), PEOPLE, params, execution=where)[1]
            for lower, where in kinds
        )
        moved = helpers.max_difference(one.params, params)
        assert moved > 0.05
        assert helpers.max_difference(one.params, two.params) < 0.02 * moved

    def test_a_frozen_base_may_be_stored_in_bfloat16(self) -> None:
        def loss(params: Any, batch: Any, key: Any) -> jax.Array:
            out = batch["x"] @ params["base"] + batch["x"] @ params["w"]
            assert out.dtype == jnp.bfloat16
            return (out.astype(jnp.float32) - batch["y"]) ** 2

        params = {"base": jnp.ones(3, jnp.bfloat16), "w": jnp.zeros(3)}
        algorithm = fl.partition_params(
            lambda loss: fed_avg(loss, compute_dtype=jnp.bfloat16), loss, frozen=lambda path, leaf: path[0] == "base"
        )
        run, state, _ = helpers.one_run(algorithm, PEOPLE, params, execution=fl.Execution(lanes=2, devices=1))
        assert jax.tree.map(lambda leaf: str(leaf.dtype), state.params) == {"base": "bfloat16", "w": "float32"}
        assert helpers.max_difference(state.params["base"].astype(jnp.float32), jnp.ones(3)) == 0
        assert helpers.max_difference(state.params["w"], params["w"]) > 0.05
        assert run.traffic(params, PEOPLE) == (3 * 4 + 4, 3 * 4)

    @pytest.mark.parametrize(
        ("dtype", "shown"), [(jnp.int32, "int32"), ("float7", "'float7'"), (bool, "bool"), (jnp.complex64, "complex64")]
    )
    def test_a_dtype_that_is_not_floating(self, dtype: Any, shown: str) -> None:
        message = rf"`compute_dtype` is {shown}; expected a floating dtype, such as jnp.bfloat16, or None to compute in"
        with pytest.raises(TypeError, match=message):
            fed_avg(compute_dtype=dtype)
        with pytest.raises(TypeError, match=r"`compute_dtype` is None; expected a floating dtype"):
            floating_dtype(compute_dtype=None)

    def test_keys_and_ints_are_not_narrowed(self) -> None:
        tree = {"key": jax.random.key(0), "id": jnp.arange(2), "x": jnp.ones(2)}
        assert str(jax.tree.map(lambda leaf: leaf.dtype, narrowed(tree, jnp.float16))) == str(
            {"id": jnp.dtype("int32"), "key": tree["key"].dtype, "x": jnp.dtype("float16")}
        )


def deep(params: Any, batch: Any, key: Any) -> Any:
    """Layers, a jitted part, a scan, a convolution's cousin, dropout and a metric."""
    x = batch["x"]
    for layer in params["layers"]:
        x = jnp.tanh(x @ layer) * jax.nn.sigmoid(x)
    x = jax.jit(lambda v: jnp.sin(v) + v)(x)
    x, sums = jax.lax.scan(lambda c, w: (jax.nn.relu(c * w) + c, c.sum(1)), x, params["scanned"])
    x = x if key is None else x * jax.random.bernoulli(key, 0.8, x.shape).astype(x.dtype)
    losses = (x.sum(1) - batch["y"]) ** 2 + sums.sum(0)
    return losses, fl.LossAux(metrics={"output": x.sum(1)})


def deep_params(layers: int = 6) -> Any:
    rng = np.random.default_rng(0)
    made = [jnp.float32(rng.normal(size=(3, 3)) / 2) for _ in range(layers)]
    return {"layers": made, "scanned": jnp.float32(rng.normal(size=(5, 1, 3)) / 2)}


@lru_cache
def deep_gradient(remat: Any) -> Any:
    """Of the deep loss, compiled once."""
    return jax.jit(fl.value_and_grad(deep, remat=remat))


@pytest.mark.usefixtures("full_precision")
class TestRemat:
    POLICIES = (True, jax.checkpoint_policies.nothing_saveable, jax.checkpoint_policies.dots_saveable)

    @pytest.mark.parametrize("remat", POLICIES)
    def test_values_and_gradients_are_the_same(self, remat: Any) -> None:
        params, batch, key = deep_params(), a_batch(5), jax.random.key(1)
        run = lambda remat: deep_gradient(remat)(params, batch, batch["mask"], key)  # noqa: E731
        (got, gradient), (want, expected) = run(remat), run(False)
        assert float(got.loss) == pytest.approx(float(want.loss), rel=1e-5)
        for part, size in expected.items():
            scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(size))
            assert scale > 1e-3
            assert helpers.max_difference(gradient[part], size) < 1e-4 * scale

    @pytest.mark.parametrize("mode", [pytest.param("forward", marks=pytest.mark.slow), "reverse"])
    def test_second_derivatives_and_lanes_go_through(self, mode: str) -> None:
        params, batch = deep_params(2), a_batch(4)
        lanes = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)

        def product(**options: Any) -> Any:
            def gradient(params: Any) -> Any:
                return fl.value_and_grad(deep, **options)(params, batch, batch["mask"], None)[1]

            def one(params: Any) -> Any:
                if mode == "forward":
                    return jax.jvp(gradient, (params,), (params,))[1]
                return jax.vjp(gradient, params)[1](params)[0]

            return jax.jit(jax.vmap(one))(lanes)

        want = product()
        scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))
        assert helpers.max_difference(product(remat=True, micro_batch_size=3), want) < 1e-4 * scale

    def test_layers_are_computed_again_in_the_backward_pass(self) -> None:
        params, batch = deep_params(), a_batch(4)
        count = lambda remat: str(  # noqa: E731
            jax.make_jaxpr(fl.value_and_grad(deep, remat=remat))(params, batch, batch["mask"], None)
        ).count(" = tanh")
        assert count(True) > count(False)

    def test_federated_averaging_with_all_three(self) -> None:
        options: dict[str, Any] = {"remat": True, "micro_batch_size": 2}
        plain, cheap = (
            helpers.one_run(fed_avg(**more), PEOPLE, START, execution=fl.Execution(lanes=2, devices=1))[1:]
            for more in ({}, options)
        )
        assert helpers.max_difference(plain[0].params, cheap[0].params) < 1e-6
        assert helpers.max_difference(plain[1].metrics, cheap[1].metrics) < 1e-5
        both = fed_avg(compute_dtype=jnp.bfloat16, **options)
        _, narrow, _ = helpers.one_run(both, PEOPLE, START)
        assert helpers.max_difference(plain[0].params, narrow.params) < 0.02
        assert both.hparams.keys() - fed_avg().hparams.keys() == {"compute_dtype"}

    def test_without_compilation(self) -> None:
        batch = a_batch(4)
        with jax.disable_jit():
            _, got = fl.value_and_grad(loss_fn, remat=True)(START, batch, batch["mask"], None)
        _, want = fl.value_and_grad(loss_fn)(START, batch, batch["mask"], None)
        assert helpers.max_difference(got, want) < 1e-6

    def test_a_loss_of_one_operation_and_one_that_returns_its_input(self) -> None:
        assert float(rematerialize(jnp.sin, True)(jnp.float32(1))) == pytest.approx(np.sin(1), rel=1e-6)
        same, two = rematerialize(lambda x: (x, 2.0), True)(jnp.float32(1))
        assert (float(same), float(two)) == (1.0, 2.0)

    @pytest.mark.parametrize("remat", ["full", 1, None])
    def test_what_is_no_policy(self, remat: Any) -> None:
        with pytest.raises(TypeError, match=r"`remat` is .*; expected True, False, or a policy of jax.checkpoint_pol"):
            fed_avg(remat=remat)


@pytest.mark.usefixtures("full_precision")
class TestMicroBatches:
    @hypothesis.settings(max_examples=25)
    @hypothesis.given(
        case=st.sampled_from([(5, 2, True), (6, 3, False), (5, 9, False), (6, 4, True), (5, 1, True)]),
        real=st.integers(0, 6),
        seed=st.integers(0, 100),
    )
    def test_chunks_add_up_to_their_batch(self, case: tuple[int, int, bool], real: int, seed: int) -> None:
        """Of rows, chunk sizes, and losses with weights of their own or without: each is a program."""
        self.adds_up(*case, real, seed)

    @pytest.mark.slow
    @hypothesis.settings(max_examples=100)
    @hypothesis.given(
        rows=st.sampled_from([5, 6]),
        size=st.sampled_from([1, 2, 3, 4, 9]),
        weighted=st.booleans(),
        real=st.integers(0, 6),
        seed=st.integers(0, 100),
    )
    def test_chunks_of_any_size_do(self, rows: int, size: int, weighted: bool, real: int, seed: int) -> None:
        self.adds_up(rows, size, weighted, real, seed)

    def adds_up(self, rows: int, size: int, weighted: bool, real: int, seed: int) -> None:
        batch = a_batch(rows, seed)
        batch["mask"] = jnp.arange(rows) < real
        if not weighted:
            del batch["weight"]
        want = jitted(None)(START, batch, batch["mask"], None)
        got = jitted(size)(START, batch, batch["mask"], None)
        scale = 1 + max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))
        assert helpers.max_difference(got, want) < 2e-6 * scale
        weight = batch["weight"] if weighted else jnp.ones(rows)
        assert float(got[0].weight) == float(jnp.where(batch["mask"], weight, 0.0).sum())

    def test_they_make_a_full_batch_too(self) -> None:
        data = view(PEOPLE, 1)
        plain, chunks = (trained(loss_fn, START, data, batch_size=None, micro_batch_size=m) for m in (None, 2))
        assert helpers.max_difference(plain.params, chunks.params) < 1e-6
        assert helpers.max_difference(plain.params, START) > 0.05
        assert helpers.max_difference(plain.metrics, chunks.metrics) < 1e-5

    def test_the_loss_sees_no_more_rows_than_asked(self) -> None:
        for batch_size in (7, None):
            seen: set[int] = set()

            def loss(params: Any, batch: Any, key: Any, seen: set[int] = seen) -> Any:
                seen.add(batch["x"].shape[0])
                assert batch["mask"].shape == batch["y"].shape == (3,)
                return loss_fn(params, batch, key)

            train = fl.local_sgd(
                loss, client_optimizer=optax.sgd(0.1), batch_size=batch_size, epochs=1, micro_batch_size=3
            )
            jax.eval_shape(lambda train=train: train(START, view(PEOPLE, 1)).params)
            assert seen == {3}

    def test_chunks_draw_different_numbers(self) -> None:
        def loss(params: Any, batch: Any, key: Any) -> Any:
            return params * batch["x"], fl.LossAux(metrics={"drawn": jax.random.uniform(key, batch["x"].shape)})

        mask = jnp.array([True, False, True, False])
        run = fl.value_and_grad(loss, micro_batch_size=2)
        first, second = (
            run(jnp.float32(1), {"x": jnp.ones(4)}, mask & half, jax.random.key(0))[0].metrics["drawn"]
            for half in (jnp.arange(4) < 2, jnp.arange(4) >= 2)
        )
        assert float(first) != float(second)

    def test_narrow_parameters_are_summed_in_float32(self) -> None:
        """1 + 1/128 summed 100 times in bfloat16 would be off by percents."""
        loss = lambda params, batch, key: params * batch["x"].astype(jnp.bfloat16)  # noqa: E731
        exact = 1 + 1 / 128
        data = view(helpers.one_value_each([exact], [100]), 0)
        options: dict[str, Any] = {"batch_size": None, "epochs": 1, "micro_batch_size": 1}
        assert float(trained(loss, jnp.bfloat16(0.0), data, rate=1.0, **options).params) == -exact
        batch, mask = {"x": jnp.full(100, exact)}, jnp.ones(100, bool)
        _, gradient = fl.value_and_grad(loss, micro_batch_size=1)(jnp.bfloat16(0.0), batch, mask, None)
        assert (float(gradient), gradient.dtype) == (exact, jnp.bfloat16)

    def test_a_loss_across_examples_is_refused(self) -> None:
        loss = fl.losses.declare(lambda p, batch, key: batch["x"] - batch["x"].mean(), cross_example=True)
        message = "`micro_batch_size` is 2 and the loss is declared cross_example: batch statistics would be those of"
        with pytest.raises(ValueError, match=message):
            fed_avg(loss, micro_batch_size=2)

    def test_a_loss_with_a_state_is_refused(self) -> None:
        def loss(params: fl.Variables, batch: Any, key: Any) -> Any:
            return params.params * batch["x"][:, 0], fl.LossAux(state=params.state + 1)

        start = fl.Variables(jnp.float32(1), jnp.float32(0))
        with pytest.raises(ValueError, match="`micro_batch_size` is given and the loss gives a state"):
            trained(loss, start, view(PEOPLE, 1), micro_batch_size=2)

    @pytest.mark.parametrize(("size", "error"), [(0, ValueError), (2.5, TypeError), (True, TypeError)])
    def test_a_size_that_is_none(self, size: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match=rf"`micro_batch_size` is {size}; expected an int of at least 1. None takes"):
            fed_avg(micro_batch_size=size)


_JITTED: dict[int | None, Any] = {}


def jitted(micro_batch_size: int | None) -> Any:
    if micro_batch_size not in _JITTED:
        _JITTED[micro_batch_size] = jax.jit(fl.value_and_grad(loss_fn, micro_batch_size=micro_batch_size))
    return _JITTED[micro_batch_size]
