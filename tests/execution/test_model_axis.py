"""One model over several devices: the numbers of one device, on meshes of lanes and model axes; and what is refused."""

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import collectives
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjaxlite as fl
from fedjaxlite import algorithms, privacy
from fedjaxlite.execution import layout as layouts
from fedjaxlite.rehearsal import rehearse
from fedjaxlite.rehearsal.targets import target_named
from fedjaxlite.sweeps import grid

pytestmark = helpers.needs_devices(4)

P = jax.P
SIZES = (3, 9, 1, 6, 2, 5, 4, 7)


def mesh_of(*sizes: int, names: tuple[str, ...] = ("clients", "model")) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.devices()[:4]).reshape(sizes), names)


@lru_cache(maxsize=1)
def people() -> fl.Population:
    """Sequences of tokens whose label is whether the first comes again; one client has none."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 8, size=(sum(SIZES), 6)).astype(np.int32)
    y = (x[:, :1] == x[:, 1:]).any(1).astype(np.int32)
    owner = np.repeat(np.arange(len(SIZES)), SIZES)
    return fl.Population.from_arrays({"x": x, "y": y}, client_ids=owner)


def mlp_params() -> dict[str, Any]:
    draw = lambda i, *shape: 0.3 * jax.random.normal(jax.random.key(i), shape)  # noqa: E731
    return {"in": {"w": draw(0, 48, 16), "b": draw(1, 16)}, "out": {"w": draw(2, 16, 2), "b": draw(3, 2)}}


def columns(x: jax.Array) -> jax.Array:
    """Tokens as numbers `[B, 48]`; no two columns are alike, or which entries are the largest would be up to rounding."""
    return jax.nn.one_hot(x, 8).reshape((x.shape[0], -1)) * jnp.linspace(1.0, 2.0, 48)[None]


def mlp_loss(params: Any, batch: Any, key: Any) -> jax.Array:
    hidden = jnp.tanh(columns(batch["x"]) @ params["in"]["w"] + params["in"]["b"][None])
    logits = hidden @ params["out"]["w"] + params["out"]["b"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


MLP = {"in": {"w": P(None, "model"), "b": P("model")}, "out": {"w": P("model"), "b": None}}


def attention_params() -> dict[str, Any]:
    draw = lambda i, *shape: 0.3 * jax.random.normal(jax.random.key(i), shape)  # noqa: E731
    block = {"qkv": draw(1, 3, 8, 4, 2), "o": draw(2, 4, 2, 8), "up": draw(3, 8, 16), "down": draw(4, 16, 8)}
    return {"tokens": draw(0, 8, 8), "blocks": [block], "scale": jnp.ones(8), "head": draw(5, 8, 2)}


def attention_loss(params: Any, batch: Any, key: Any) -> jax.Array:
    h = params["tokens"][batch["x"]]
    for block in params["blocks"]:
        normed = h * params["scale"][None, None] / jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-6)
        q, k, v = jnp.einsum("btd,sdhe->sbhte", normed, block["qkv"])
        weights = jax.nn.softmax(jnp.einsum("bhte,bhse->bhts", q, k), axis=-1)
        h = h + jnp.einsum("bhts,bhse,hed->btd", weights, v, block["o"])
        h = h + jax.nn.gelu(h @ block["up"]) @ block["down"]
    return optax.softmax_cross_entropy_with_integer_labels(h.mean(1) @ params["head"], batch["y"])


def by_name(path: tuple[Any, ...], leaf: Any) -> Any:
    """As users of large models say it: by the names of the layers."""
    specs = {
        "qkv": P(None, None, "model"),
        "o": P("model"),
        "up": P(None, "model"),
        "down": P("model"),
        "tokens": P("model"),
    }
    return specs.get(path[-1])


MODELS: dict[str, tuple[Any, Any, Any]] = {
    "mlp": (mlp_params, mlp_loss, MLP),
    "attention": (attention_params, attention_loss, by_name),
}


def fed_avg(loss: Any) -> fl.Algorithm:
    return algorithms.fed_avg(
        loss, client_optimizer=optax.sgd(0.3), server_optimizer=optax.sgd(1.0, momentum=0.9), batch_size=2, epochs=2
    )


def scaffold(loss: Any) -> fl.Algorithm:
    return algorithms.scaffold(loss, client_lr=0.3, batch_size=2, steps=3, num_clients=len(SIZES))


def two_loops(loss: Any) -> fl.Algorithm:
    """Clients that go through their data twice, in loops of their own: none can be taken apart at its loop."""
    base = fed_avg(loss)
    train = fl.local_sgd(loss, client_optimizer=optax.sgd(0.1), batch_size=2, epochs=1)

    def client_update(shared: Any, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        first = train(shared, data)
        second = train(jax.tree.map(jnp.subtract, shared, first.delta), data)
        both = jax.tree.map(jnp.add, first.delta, second.delta)
        return fl.ClientOutput(both, first.num_examples, info={"loss": second.metrics["loss"]})

    return base._replace(client_update=client_update)


CHAINS: dict[str, Callable[[], fl.Aggregator]] = {
    "mean": fl.weighted_mean,
    "dp": lambda: fl.chain(fl.mean(over=5), privacy.gaussian(clip_norm=0.3, noise_multiplier=1.0)),
    "clipped": lambda: fl.chain(fl.weighted_mean(), fl.clip_by_global_norm(0.3)),
    "masked": lambda: fl.chain(fl.mean(over=5), fl.clip_by_value(1.0), fl.quantize(bits=16), privacy.mask()),
    "secret": lambda: fl.chain(
        fl.mean(over=5), privacy.discrete_gaussian(clip_norm=1.0, noise_multiplier=1.0, bits=20, min_survivors=5)
    ),
    "top_k": lambda: fl.chain(fl.mean(), fl.compression.error_feedback(fl.compression.top_k(fraction=0.2))),
    "median": lambda: fl.chain(fl.mean(), fl.robust.nnm(f=1), fl.robust.median()),
    "stack": lambda: fl.chain(fl.mean(), fl.stack(lambda v, w, r: jax.tree.map(lambda x: x.sum(0), v), name="sum")),
}


def composed(model: str, algorithm: Any, chain: Callable[[], fl.Aggregator], execution: fl.Execution) -> fl.Rounds:
    return fl.rounds(
        algorithm(MODELS[model][1]), sampler=fl.sampling.uniform(5), aggregator=chain(), execution=execution
    )


def trained(run: fl.Rounds, model: str, num_rounds: int = 2) -> Any:
    key = jax.random.key(7)
    state, info = run.init(MODELS[model][0](), people(), key=key, noise_key=jax.random.key(8)), None
    for _ in range(num_rounds):
        state, info = run.step(state, people())
    return state, info


def same(state: Any, alone: Any, *, rtol: float = 2e-4, atol: float = 2e-5) -> None:
    n = len(SIZES)
    for path, expected in jax.tree_util.tree_flatten_with_path((alone.server_state, alone.clients))[0]:
        given = dict(jax.tree_util.tree_flatten_with_path((state.server_state, state.clients))[0])[path]
        given, expected = np.asarray(given), np.asarray(expected)
        if jax.tree_util.keystr(path).startswith("[1]"):
            given, expected = given[:n], expected[:n]
        np.testing.assert_allclose(given, expected, rtol=rtol, atol=atol, err_msg=str(path))


@lru_cache(maxsize=16)
def on_one_device(model: str, algorithm: Any, chain: str) -> Any:
    return trained(composed(model, algorithm, CHAINS[chain], helpers.ONE), model)


@lru_cache(maxsize=1)
def of_two_by_two() -> tuple[fl.Rounds, Any, Any]:
    """SCAFFOLD on 2 x 2: rounds, the state after two of them, and what the last one told."""
    run = composed("mlp", scaffold, fl.weighted_mean, on_mesh(2, 2, lanes=2))
    return run, *trained(run, "mlp")


def test_the_numbers_are_those_of_one_device() -> None:
    _, state, info = of_two_by_two()
    alone, told = on_one_device("mlp", scaffold, "mean")
    same(state, alone)
    np.testing.assert_array_equal(info.clients["id"], told.clients["id"])
    np.testing.assert_allclose(info.metrics["loss"], told.metrics["loss"], rtol=1e-4)


CASES = [
    ("mlp", fed_avg, "mean", (2, 2), 2),
    ("mlp", fed_avg, "dp", (2, 2), 1),
    ("mlp", fed_avg, "clipped", (2, 2), 1),
    ("mlp", fed_avg, "masked", (2, 2), 1),
    ("mlp", fed_avg, "secret", (2, 2), 1),
    ("mlp", fed_avg, "top_k", (2, 2), 1),
    ("mlp", fed_avg, "median", (2, 2), 1),
    ("mlp", fed_avg, "stack", (2, 2), 1),
    ("mlp", two_loops, "mean", (2, 2), 1),
    ("mlp", scaffold, "mean", (1, 4), 1),
    ("mlp", scaffold, "mean", (4, 1), 1),
    ("attention", fed_avg, "mean", (2, 2), 1),
    ("attention", fed_avg, "dp", (1, 4), 2),
]
"""Those of privacy and clips need norms over the whole model, the last three chains see all of a message at once, and
clients with two loops cannot be taken apart at one."""


@pytest.mark.slow
@pytest.mark.parametrize(("model", "algorithm", "chain", "sizes", "lanes"), CASES)
def test_so_they_are_for_every(model: str, algorithm: Any, chain: str, sizes: Any, lanes: int) -> None:
    execution = fl.Execution(lanes=lanes, mesh=mesh_of(*sizes), param_shardings=MODELS[model][2])
    state, info = trained(composed(model, algorithm, CHAINS[chain], execution), model)
    alone, told = on_one_device(model, algorithm, chain)
    whole = chain in ("masked", "secret", "median")  # a rounding may fall the other way, and a median be another one
    same(state, alone, **({"rtol": 2e-3, "atol": 1e-3} if whole else {}))
    np.testing.assert_allclose(info.metrics["loss"], told.metrics["loss"], rtol=1e-4)


def on_mesh(*sizes: int, **options: Any) -> fl.Execution:
    defaults: dict[str, Any] = {"lanes": 1, "mesh": mesh_of(*sizes), "param_shardings": MLP}
    return fl.Execution(**{**defaults, **options})


def spec_of(leaf: Any) -> tuple[Any, ...]:
    """The spec of an array on a mesh, None where an axis is whole, filled up to its rank."""
    spec = tuple(leaf.sharding.spec)
    return (*spec, *(None,) * (leaf.ndim - len(spec)))


def test_all_that_is_like_a_parameter_lies_as_it_does() -> None:
    _, state, info = of_two_by_two()
    for tree in (state.server_state.params, state.server_state.control):
        assert spec_of(tree["in"]["w"]) == (None, "model")
        assert spec_of(tree["out"]["w"]) == ("model", None)
    bank = state.clients.algorithm
    assert spec_of(bank["in"]["w"]) == ("clients", None, "model")
    assert spec_of(bank["in"]["b"]) == ("clients", "model")
    assert spec_of(bank["out"]["b"]) == ("clients", None)
    (piece, *_) = bank["in"]["w"].addressable_shards
    assert piece.data.shape == (len(SIZES) // 2, 48, 8)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(info))


def test_the_sum_over_clients_is_one_collective() -> None:
    run, state, _ = of_two_by_two()
    text = run.lower(state, layouts.place(people(), layouts.resolve(run.execution, 5))).compile().as_text()
    found = collectives.exchanges(str(text), {"clients": 2, "model": 2})
    assert all(each.axes in (("clients",), ("model",)) for each in found), found
    shared = [each for each in found if each.axes == ("clients",) and each.num_bytes > 256]
    assert [each.kind for each in shared] == ["all-reduce"], shared
    whole = 2 * 4 * sum(leaf.size for leaf in jax.tree.leaves(mlp_params()))  # deltas and control variates
    assert shared[0].num_bytes < 0.6 * whole, "each device sums its own piece of the model"
    assert not shared[0].in_loop
    assert any(each.axes == ("model",) and each.in_loop for each in found)


@pytest.mark.slow
def test_states_go_on_from_other_devices_and_by_other_ways() -> None:
    """From one device to the mesh, several rounds in one dispatch, and a cohort's data alone."""
    run, expected, _ = of_two_by_two()
    alone = composed("mlp", scaffold, fl.weighted_mean, helpers.ONE)
    first, _ = trained(alone, "mlp", 1)
    same(run.step(first, people())[0], expected)
    key = jax.random.key(7)
    begin = run.init(mlp_params(), people(), key=key, noise_key=jax.random.key(8))
    state, infos = run.steps(begin, people(), 2)
    same(state, expected)
    assert spec_of(state.clients.algorithm["in"]["w"]) == ("clients", None, "model")
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(infos))
    static = composed("mlp", scaffold, fl.weighted_mean, on_mesh(2, 2, max_steps=3))
    same(static.step(first, people())[0], expected)
    for number in range(2):
        cohort = run.sampler.sample(begin.keys.sample, number, people())
        begin, _ = run.step(begin, fl.prepare_cohort(people(), cohort, num_examples=45))
    same(begin, expected)


@pytest.mark.slow
def test_what_looks_at_a_sharded_model_gets_the_numbers_of_a_whole_one() -> None:
    apply = lambda params, x: (  # noqa: E731
        jnp.tanh(columns(x) @ params["in"]["w"] + params["in"]["b"][None]) @ params["out"]["w"]
        + params["out"]["b"][None]
    )
    model = fl.models.from_functions(lambda key: mlp_params(), apply)
    run, state, _ = of_two_by_two()
    sharded, whole = run.params(state), jax.tree.map(np.asarray, run.params(state))
    test = {name: np.asarray(array) for name, array in people().features.items()}
    evaluate, at_clients = fl.evaluate(model, test), fl.evaluate_clients(model, people(), execution=on_mesh(2, 2))
    alone = fl.evaluate_clients(model, people(), execution=helpers.ONE)
    for name, value in evaluate(sharded).items():
        np.testing.assert_allclose(value, evaluate(whole)[name], rtol=1e-5)
    for name, value in at_clients(sharded).metrics.items():
        np.testing.assert_allclose(value, alone(whole).metrics[name], rtol=1e-5)
    assert fl.plan(run, mlp_params(), people(), lanes_options=[1]).lanes == 1


def constrained(params: Any, batch: Any, key: Any) -> jax.Array:
    """A loss that says where its activations lie, as large models do."""
    hidden = jnp.tanh(columns(batch["x"]) @ params["in"]["w"] + params["in"]["b"][None])
    hidden = jax.lax.with_sharding_constraint(hidden, P(None, "model"))
    logits = hidden @ params["out"]["w"] + params["out"]["b"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


@pytest.mark.slow
def test_a_loss_may_say_where_its_activations_lie() -> None:
    run = fl.rounds(
        fed_avg(constrained), sampler=fl.sampling.uniform(5), aggregator=fl.weighted_mean(), execution=on_mesh(2, 2)
    )
    same(trained(run, "mlp")[0], on_one_device("mlp", fed_avg, "mean")[0])


@pytest.mark.slow
def test_any_number_of_model_axes_by_any_name() -> None:
    mesh = mesh_of(1, 2, 2, names=("clients", "rows", "columns"))
    specs = {"in": {"w": P("rows", "columns"), "b": P("columns")}, "out": {"w": P(("rows", "columns")), "b": None}}
    run = composed("mlp", fed_avg, fl.weighted_mean, fl.Execution(lanes=2, mesh=mesh, param_shardings=specs))
    with jax.set_mesh(mesh):
        state, _ = trained(run, "mlp")
    assert spec_of(state.params["out"]["w"]) == (("rows", "columns"), None)
    same(state, on_one_device("mlp", fed_avg, "mean")[0])


@pytest.mark.slow
def test_a_run_is_resumed_as_it_was_sharded(tmp_path: Path) -> None:
    run = of_two_by_two()[0]
    key = jax.random.key(7)
    begin = lambda: run.init(mlp_params(), people(), key=key)  # noqa: E731
    whole = fl.train(run, begin(), people(), num_rounds=4)
    fl.train(run, begin(), people(), num_rounds=2, out_dir=tmp_path, checkpoint_every=1)
    again = fl.train(run, begin(), people(), num_rounds=4, out_dir=tmp_path, resume=True)
    for now, then in zip(jax.tree.leaves(again.state), jax.tree.leaves(whole.state), strict=True):
        assert now.sharding == then.sharding
        if not jnp.issubdtype(now.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(now, then)
    assert "clients = 2" in (tmp_path / "config.toml").read_text()
    other = composed("mlp", scaffold, fl.weighted_mean, helpers.ONE)
    elsewhere = other.init(mlp_params(), people(), key=key)
    on_one = fl.train(other, elsewhere, people(), num_rounds=5, out_dir=tmp_path, resume=True)
    assert int(on_one.state.round) == 5
    same(on_one.state, run.step(whole.state, people())[0])


def test_lanes_count_what_each_device_holds() -> None:
    wide = {
        "in": {"w": np.zeros((48, 512), np.float32), "b": np.zeros(512)},
        "out": {"w": np.zeros((512, 2)), "b": 0.0},
    }
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.float32), wide)
    of = lambda execution: layouts.with_lanes(layouts.resolve(execution, 64), shapes, people(), 64)  # noqa: E731
    execution = on_mesh(1, 4, lanes=None)
    layout = of(execution)._replace(lanes=0)
    elsewhere = layout._replace(devices=tuple(_Chip() for _ in layout.devices))
    memory = 64 * 4 * (48 * 128 + 128 + 128 * 2 + 2) * 5
    assert layouts.with_lanes(elsewhere, shapes, people(), 64, memory=memory).lanes == 5


class _Chip:
    platform, process_index = "tpu", 0


class TestRefused:
    def test_in_sweeps_and_on_targets_that_are_too_small(self) -> None:
        run = composed("mlp", fed_avg, fl.weighted_mean, on_mesh(2, 2))
        with pytest.raises(
            ValueError, match=re.escape("rounds with `Execution(mesh=...)`, and each run of a sweep has")
        ):
            grid.made(lambda: run, {})
        target = target_named("v5e:1x1")
        with pytest.raises(
            ValueError, match=re.escape("`Execution(mesh=...)` has 4 devices, and v5e:1x1 has 1. Take a")
        ):
            rehearse._asked(run, target, ("a chip",))

    @pytest.mark.parametrize(
        ("change", "error", "text"),
        [
            ({"mesh": 4}, TypeError, "`mesh` is 4; expected a mesh of devices, such as jax.sharding.Mesh"),
            (
                {"mesh": lambda: mesh_of(4, names=("model",))},
                ValueError,
                "`mesh` has the axes 'model'; expected one named 'clients'",
            ),
            ({"devices": 2}, ValueError, "`devices` is 2, and `mesh` says which devices there are"),
            ({"mapping": "pmap"}, ValueError, "`mapping` is 'pmap', which has one axis of devices"),
            ({"jit": False}, ValueError, "`jit` is False, and over a `mesh`"),
            ({"mesh": None}, ValueError, "`param_shardings` is given, and there is no mesh with an axis for the model"),
            (
                {"mesh": lambda: mesh_of(4, names=("clients",))},
                ValueError,
                "there is no mesh with an axis for the model",
            ),
            ({"param_shardings": {"in": "model"}}, TypeError, r"`param_shardings`['in'] is 'model'; expected a jax.P"),
            ({"param_shardings": lambda path: None}, TypeError, r"expected a function of (path, leaf)"),
        ],
    )
    def test_when_composed(self, change: Any, error: Any, text: str) -> None:
        change = {name: value() if name == "mesh" and callable(value) else value for name, value in change.items()}
        with pytest.raises(error, match=re.escape(text)):
            composed("mlp", fed_avg, fl.weighted_mean, on_mesh(2, 2)._replace(**change))

    @pytest.mark.parametrize(
        ("given", "error", "text"),
        [
            (None, ValueError, "`mesh` has 'model' (2) beside 'clients', and `param_shardings` is None"),
            ({"in": MLP["in"]}, ValueError, "`param_shardings` says nothing of params['out']['b']"),
            ({**MLP, "uot": P()}, ValueError, "has an entry at ['uot'], where `params` has nothing"),
            (
                {**MLP, "out": P(None, None, "model")},
                ValueError,
                "gives params['out']['b'], which has the shape [2], P(None, None, 'model'): 3 entries for 1 axes",
            ),
            (
                {**MLP, "out": P("heads")},
                ValueError,
                "the mesh has no axis 'heads'. Expected axes of the model: 'model'",
            ),
            ({**MLP, "out": P("clients")}, ValueError, "over 'clients' clients are trained side by side, each with a"),
            ({**MLP, "in": {"w": P("model", "model"), "b": None}}, ValueError, "names an axis of the mesh twice"),
            ({**MLP, "in": P(P.UNCONSTRAINED)}, ValueError, "which leaves an axis open"),
            (
                lambda path, leaf: P("model") if path == ("in", "odd") else None,
                ValueError,
                "gives params['in']['odd'], which has the shape [3], P('model',): the 3 entries of axis 0 are no "
                "multiple of the 2 devices along model",
            ),
            (lambda path, leaf: 3, TypeError, "`param_shardings` gives params['in']['b'] 3; expected a jax.P"),
            (
                "another mesh",
                ValueError,
                "on a mesh of {'clients': 4, 'model': 1}, and `mesh` is one of {'clients': 2, 'model': 2}",
            ),
        ],
    )
    def test_when_begun(self, given: Any, error: Any, text: str) -> None:
        given = jax.NamedSharding(mesh_of(4, 1), P()) if given == "another mesh" else given
        run = composed("mlp", fed_avg, fl.weighted_mean, on_mesh(2, 2, param_shardings=given))
        params = mlp_params()
        if callable(given):
            params["in"]["odd"] = jnp.zeros(3)
        with pytest.raises(error, match=re.escape(text)):
            run.init(params, people(), key=jax.random.key(0))
