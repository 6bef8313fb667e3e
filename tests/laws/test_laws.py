"""The laws, held over layouts, cohorts and kinds of algorithm; and the checkers, held to find what breaks them."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import testing


def layout(lanes: int, devices: int, mapping: str = "shard_map", **more: Any) -> fl.Execution:
    return fl.Execution(lanes=lanes, devices=helpers.available(devices), mapping=mapping, **more)


# Every number of lanes (the reference has one), one and all devices, and with `stateful` both mappings; `-m slow` runs
# the whole product.
EVERYDAY = (layout(16, 1), layout(5, 4))


@lru_cache(maxsize=1)
def plain() -> testing.Case:
    """Stateless federated averaging, several local steps, sizes from 1 to 200."""
    return testing.case(
        helpers.fed_avg(), helpers.linear_params(), helpers.regression(), layouts=EVERYDAY, num_rounds=2
    )


@lru_cache(maxsize=1)
def stateful() -> testing.Case:
    """Clients that keep state, whose banks are owned by devices; 13 clients do not divide by 2."""
    population = helpers.regression((*helpers.RAGGED, 4))
    layouts = (layout(2, 2), layout(2, 2, "pmap"))
    return testing.case(helpers.local_momentum(), helpers.linear_params(), population, layouts=layouts)


@lru_cache(maxsize=1)
def two_weights() -> testing.Case:
    """SCAFFOLD: client state, an update of two parts with a weight each."""
    return testing.case(
        helpers.scaffold(), helpers.linear_params(), helpers.regression(), layouts=(layout(2, 2),), num_rounds=2
    )


@lru_cache(maxsize=1)
def integers() -> testing.Case:
    """Integer sums of clipped and quantized updates, beside a scalar."""
    chain = fl.chain(fl.weighted_mean(weight_cap=100), fl.clip_by_global_norm(0.5), fl.quantize(bits=16))
    return testing.case(
        helpers.normalized(),
        helpers.linear_params(),
        helpers.regression(),
        aggregator=chain,
        layouts=(layout(3, 2),),
        num_rounds=2,
        atol=2e-4,  # a few entries in ten thousand round to the next level
    )


HELD: list[tuple[Callable[[], testing.Case], tuple[str, ...]]] = [
    (plain, ("layout", "order", "padding", "nonfinite", "steps", "resume", "jit", "vmap", "derivatives")),
    (stateful, ("layout", "order", "padding", "nonfinite", "steps", "resume")),
    (integers, ("layout", "nonfinite", "resume")),
]


@pytest.mark.parametrize(("make", "law"), [(make, law) for make, laws in HELD for law in laws])
def test_law(make: Callable[[], testing.Case], law: str) -> None:
    testing.LAWS[law](make())


@pytest.mark.slow
@pytest.mark.parametrize("make", [plain, stateful, two_weights, integers])
def test_every_law_in_every_layout(make: Callable[[], testing.Case]) -> None:
    case = make()
    testing.check_algorithm(
        case.algorithm,
        case.params,
        case.population,
        aggregator=case.aggregator,
        layouts=testing.default_layouts(thorough=True),
        atol=case.tolerance.atol,
    )


def test_poisson_cohorts_of_any_size_give_the_same_numbers_in_every_layout() -> None:
    population = helpers.regression()
    case = testing.case(
        helpers.fed_avg(),
        helpers.linear_params(),
        population,
        sampler=fl.sampling.poisson(rate=0.15, capacity=12),
        layouts=(layout(3, 2),),
        num_rounds=8,
    )
    sizes = {int(info.num_selected) for info in case.play(testing.REFERENCE).infos}
    assert 0 in sizes  # a round without anyone is a round
    assert len(sizes) > 2
    testing.check_layout_invariance(case)
    testing.check_padding(case)


def test_a_round_without_clients_leaves_the_model_as_it_was() -> None:
    nobody = fl.sampling.replay([[-1, -1]])
    start = {"w": jnp.ones((3,)), "b": jnp.float32(2.0)}
    _, state, info = helpers.one_run(helpers.fed_avg(), helpers.regression(), start, sampler=nobody)
    assert helpers.max_difference(state.params, start) == 0
    assert (int(info.num_selected), int(info.num_reported), int(info.num_examples)) == (0, 0, 0)
    assert float(info.metrics["loss"]) == 0


def equal_clients() -> fl.Population:
    return helpers.regression((6,) * 8)


def plain_vmap_round(population: fl.Population, params: Any, rate: float, steps: int) -> Any:
    """A round of full-batch steps, without the engine: `vmap` over clients of one size."""
    batch = {name: jnp.asarray(v).reshape((8, 6, *v.shape[1:])) for name, v in population.features.items()}

    def client(batch: Any) -> Any:
        model = params
        for _ in range(steps):
            grads = jax.grad(lambda p: helpers.linear_loss(p, batch, None).mean())(model)
            model = jax.tree.map(lambda p, g: p - rate * g, model, grads)
        return model

    return jax.tree.map(lambda leaf: leaf.mean(0), jax.vmap(client)(batch))


@helpers.needs_devices(4)
@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_clients_on_other_devices_do_not_enter_local_gradients(mapping: str) -> None:
    """Inside shard_map, JAX sums the gradient of a replicated argument over devices unless it is cast to varying."""
    population = equal_clients()
    algorithm = helpers.fed_avg(0.05, batch_size=None, epochs=3)
    _, state, info = helpers.one_run(
        algorithm, population, helpers.linear_params(), execution=layout(1, 4, mapping), num_rounds=1
    )
    assert info.clients["local_steps"].tolist() == [3] * 8
    want = plain_vmap_round(population, helpers.linear_params(), 0.05, 3)
    assert helpers.max_difference(state.params, want) < 1e-6


@helpers.needs_devices(4)
def test_users_loops_and_gradients_run_on_several_devices() -> None:
    """A client update of one's own, with `jax.grad` and loops started from constants, inside the mapped round."""

    def client_update(shared: Any, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        batch, mask = data.batches(batch_size=6, epochs=1, shuffle=False).batch(jnp.int32(0))
        loss = lambda p: jnp.where(mask, helpers.linear_loss(p, batch, None), 0.0).mean()  # noqa: E731

        def step(carry: Any, _: Any) -> Any:
            params, total = carry
            return (jax.tree.map(lambda p, g: p - 0.05 * g, params, jax.grad(loss)(params)), total + 1.0), None

        zero = jax.tree.map(lambda p: jnp.zeros(p.shape), shared)
        (trained, _), _ = jax.lax.scan(step, (jax.tree.map(jnp.add, shared, zero), jnp.float32(0)), None, length=3)
        return fl.ClientOutput(jax.tree.map(jnp.subtract, shared, trained), data.num_examples)

    algorithm = helpers.fed_avg()._replace(client_update=client_update)
    _, state, _ = helpers.one_run(algorithm, equal_clients(), helpers.linear_params(), execution=layout(2, 4))
    want = plain_vmap_round(equal_clients(), helpers.linear_params(), 0.05, 3)
    assert helpers.max_difference(state.params, want) < 1e-6


@helpers.needs_devices(4)
def test_deterministic_sums_are_gathered_and_added_in_order() -> None:
    case = plain()
    execution = layout(5, 4, deterministic=True)
    run = case.rounds(execution)
    text = run.lower(case.start(run), case.population).as_text()
    assert "all_gather" in text
    assert "all_reduce" not in text
    got, want = case.play(execution), case.play(layout(5, 4))
    testing.assert_close(case.visible(got.state), case.visible(want.state), what="ordered", tolerance=case.tolerance)
    again = case.play(execution, case.population).state
    testing.assert_close(again, got.state, what="twice")


@pytest.mark.slow  # every operation compiles by itself
def test_a_round_runs_without_any_compilation() -> None:
    """For debugging inside a client: print, breakpoints and concrete values everywhere."""
    population, seen = helpers.regression((1, 3)), []

    def loss(params: Any, batch: Any, key: Any) -> jax.Array:
        seen.append(float(batch["x"].sum()) if not isinstance(batch["x"], jax.core.Tracer) else None)
        return helpers.linear_loss(params, batch, key)

    algorithm = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.02), batch_size=2, shuffle=False, lower=False)
    _, want, _ = helpers.one_run(algorithm, population, helpers.linear_params())
    assert not any(seen)
    with jax.disable_jit():
        _, got, _ = helpers.one_run(algorithm, population, helpers.linear_params())
    assert helpers.max_difference(got.params, want.params) < 1e-6
    assert any(seen)


def test_a_round_is_vmapped_over_client_rates_and_clip_norms() -> None:
    population, params = helpers.regression((3, 5, 2)), helpers.linear_params()

    def after(rate: Any, clip_norm: Any, server_rate: Any) -> Any:
        algorithm = helpers.fed_avg(rate, batch_size=2, server_optimizer=optax.sgd(server_rate))
        chain = fl.chain(fl.mean(), fl.clip_by_global_norm(clip_norm), fl.quantize(bits=16, rounding="nearest"))
        return helpers.one_run(algorithm, population, params, aggregator=chain)[1].params

    grid = (jnp.float32([0.01, 0.1]), jnp.float32([0.05, 10.0]), jnp.float32([1.0, 0.5]))
    together = jax.jit(jax.vmap(after))(*grid)
    one = jax.jit(after)
    for i in range(2):
        alone = one(*(values[i] for values in grid))
        assert helpers.max_difference(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone) < 1e-5
    assert helpers.max_difference(*(jax.tree.map(lambda leaf, i=i: leaf[i], together) for i in range(2))) > 0.01


@pytest.mark.usefixtures("full_precision")
def test_a_round_is_differentiated_with_respect_to_the_client_rate() -> None:
    population, params = helpers.regression((3, 5, 2)), helpers.linear_params()

    def loss_after(rate: Any, execution: fl.Execution = helpers.ONE) -> jax.Array:
        _, state, _ = helpers.one_run(helpers.fed_avg(rate, batch_size=2), population, params, execution=execution)
        return (jnp.asarray(state.params["w"]) ** 2).sum()

    rate, h = jnp.float32(0.05), 1e-2
    value, forward = jax.jit(lambda r: jax.jvp(loss_after, (r,), (jnp.float32(1),)))(rate)
    reverse = jax.jit(jax.grad(lambda r: loss_after(r, fl.Execution(lanes=2, devices=1, max_steps=8))))(rate)
    both = jax.jit(loss_after)
    numeric = (both(rate + h) - both(rate - h)) / (2 * h)
    assert float(value) > 0
    np.testing.assert_allclose(float(forward), float(reverse), rtol=1e-4)
    np.testing.assert_allclose(float(forward), float(numeric), rtol=1e-2)


def test_forward_mode_goes_through_a_model_with_a_custom_reverse_rule() -> None:
    @jax.custom_vjp
    def double(x: jax.Array) -> jax.Array:
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))
    custom = lambda p, batch, key: (double(p["w"][0]) - batch["y"]) ** 2  # noqa: E731
    plainly = lambda p, batch, key: (2 * p["w"][0] - batch["y"]) ** 2  # noqa: E731
    population = helpers.regression((3, 2))

    def derivative(loss: Any) -> float:
        train = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=None)
        after = lambda w: helpers.one_run(train, population, {"w": w})[1].params["w"][0]  # noqa: E731
        return float(jax.jit(lambda w: jax.jvp(after, (w,), (w,))[1])(jnp.ones((1,))))

    assert derivative(custom) == pytest.approx(derivative(plainly), rel=1e-6)
    assert abs(derivative(plainly)) > 0.1


def test_reverse_mode_reads_no_absent_clients_data() -> None:
    """A masked NaN is harmless forwards and not backwards: empty lanes and spare slots must read real rows."""
    population = helpers.regression((3, 5, 2, 4))
    bad = testing.poisoned(population, [0, 3])
    sampler = fl.sampling.replay([[1, 2, -1]])
    execution = fl.Execution(lanes=2, devices=1, max_steps=8)

    def loss_after(params: Any, data: fl.Population) -> jax.Array:
        return (
            helpers.one_run(helpers.fed_avg(), data, params, sampler=sampler, execution=execution)[1].params["w"]
        ).sum()

    gradient = jax.jit(jax.grad(loss_after))
    want, got = gradient(helpers.linear_params(), population), gradient(helpers.linear_params(), bad)
    assert helpers.max_difference(got, want) == 0
