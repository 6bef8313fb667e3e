"""Distributed noise: what a client's integers may be, what the sum holds, and what is refused."""

import itertools
import math
from typing import Any, NamedTuple

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import fedjaxlite as fl
from fedjaxlite import privacy, testing
from fedjaxlite.privacy.distributed.codecs import discrete_gaussian, skellam
from fedjaxlite.privacy.distributed.discrete_grid import make_grid

MAKERS = {"skellam": skellam, "discrete_gaussian": discrete_gaussian}
UPDATE = {"w": jnp.zeros((5, 8)), "b": jnp.float32(0.0)}


class Server(NamedTuple):
    """A chain in one round, compiled once for one message and once for a cohort of them."""

    chain: fl.Aggregator
    state: Any
    wire: fl.Wire
    send: Any
    send_all: Any
    decode: Any

    def encode(self, update: Any, seed: Any, scalars: Any = None, weight: float = 1.0) -> fl.Message:
        return self.send(self.state, update, scalars or {}, jnp.int32(seed), jnp.float32(weight))

    def mean(self, updates: Any, scalars: Any = None) -> tuple[fl.Aggregate, dict[str, Any]]:
        """Of updates with a leading axis of clients."""
        size = jax.tree.leaves(updates)[0].shape[0]
        seeds = jnp.arange(size, dtype=jnp.int32)
        messages = self.send_all(self.state, updates, scalars or {}, seeds, jnp.ones((size,)))
        total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0, dtype=leaf.dtype), messages)
        aggregate, state = self.decode(self.state, total, jax.random.key(0))
        assert jax.tree.structure(state) == jax.tree.structure(self.state)
        return aggregate, {name.split("_")[-1]: value for name, value in self.chain.metrics(state).items()}


def server(codec: fl.Aggregator, template: Any = None, *, over: Any = 4, scalars: Any = None, **facts: Any) -> Server:
    shapes = jax.eval_shape(lambda: UPDATE if template is None else template)
    bounds = dict(scalars or {})
    structs = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in bounds}
    facts = {"capacity": 8, **facts}
    chain = fl.chain(fl.mean(over=over), codec)
    state, wire = chain.init(fl.Wire(shapes, jax.ShapeDtypeStruct((), jnp.int32), structs, bounds, **facts))

    def send(state: Any, update: Any, scalars: Any, seed: Any, weight: Any) -> fl.Message:
        key = jax.random.key(seed)
        info = fl.ClientInfo(jnp.int32(0), weight, key, jnp.bool_(True), noise=jax.random.fold_in(key, 1))
        sent, _ = chain.encode(state, chain.init_client(update), fl.Message(update, jnp.int32(3), scalars), info)
        return chain.read(state, sent, info)

    send_all = jax.jit(jax.vmap(send, in_axes=(None, 0, 0, 0, 0)))
    state = chain.begin(state, None, jax.random.key(77))
    return Server(chain, state, wire, jax.jit(send), send_all, jax.jit(chain.decode))


def signed(message: fl.Message) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).view(np.int32).ravel() for leaf in jax.tree.leaves(message.value)])


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("rotate", "kind"), helpers.some_often(itertools.product([True, False], MAKERS), 3))
def test_without_noise_the_mean_comes_back(rotate: bool, kind: str) -> None:
    codec = MAKERS[kind](clip_norm=100.0, noise_multiplier=0.0, bits=18, min_survivors=3, rotate=rotate)
    updates = {"w": normal(3, 5, 8), "b": normal(3, seed=1)}
    aggregate, told = server(codec).mean(updates)
    for name, leaf in updates.items():
        np.testing.assert_allclose(aggregate.value[name], leaf.sum(0) / 4, atol=2e-3)
        assert aggregate.value[name].dtype == jnp.float32
    assert (float(aggregate.weight), int(told["survivors"]), int(told["discarded"])) == (4.0, 3, 0)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_sum_holds_noise_of_the_stated_size_on_everything(kind: str) -> None:
    """The variance of 4096 entries within 5 standard deviations: a false alarm once in 10^6 seeds. By scalars too."""
    codec = MAKERS[kind](clip_norm=0.5, noise_multiplier=2.0, bits=16, min_survivors=4)
    one = server(codec, {"x": jnp.zeros((4090,))}, over=1, scalars={"s": 10.0})
    aggregate, _ = one.mean({"x": jnp.zeros((4, 4090))}, {"s": jnp.zeros((4,))})
    std = 2.0 * 0.5 * math.sqrt(2)
    assert abs(np.var(aggregate.value["x"]) / std**2 - 1) < 5 * math.sqrt(2 / 4090)
    assert stats.kstest(np.asarray(aggregate.value["x"]) / std, "norm").pvalue > 1e-4
    (mechanism,) = one.wire.mechanisms
    assert mechanism.releases[0].std == pytest.approx(std, rel=1e-4)
    draws = [
        one._replace(state=one.state).mean({"x": jnp.zeros((4, 4090))}, {"s": jnp.full((4,), s, jnp.float32)})[0]
        for s in (0.0, 10.0)
    ]
    assert float(draws[1].scalars["s"] - draws[0].scalars["s"]) == pytest.approx(40.0, abs=0.1)  # the same noise twice
    assert 0 < abs(float(draws[0].scalars["s"])) < 6 * 2.0 * 10.0 * math.sqrt(2)


ADVERSARIES = {
    "too long": jnp.full((41,), 1e30, jnp.float32),
    "one entry": jnp.zeros((41,)).at[3].set(-7.0),
    "just clipped": jnp.full((41,), 0.5 / math.sqrt(41), jnp.float32),
    "odd": normal(41),
    "nothing": jnp.zeros((41,)),
    "NaN": jnp.full((41,), jnp.nan, jnp.float32),
}


@pytest.mark.parametrize("rotate", [True, False])
def test_no_update_gets_beyond_the_bound_that_is_accounted_for(rotate: bool) -> None:
    """On a coarse grid, where rounding counts most; the accounted bound is that of integers before noise."""
    codec = skellam(clip_norm=0.5, noise_multiplier=0.0, bits=5, min_survivors=2, rotate=rotate)
    one = server(codec, {"x": jnp.zeros((41,))})
    (mechanism,) = one.wire.mechanisms
    longest = 0.0
    for update in ADVERSARIES.values():
        updates, seeds = jnp.broadcast_to(update, (40, 41)), jnp.arange(40, dtype=jnp.int32)
        value = one.send_all(one.state, {"x": updates}, {}, seeds, jnp.ones((40,))).value
        integers = np.concatenate(
            [np.asarray(leaf).view(np.int32).reshape(40, -1) for leaf in jax.tree.leaves(value)], 1
        )
        longest = max(longest, np.linalg.norm(integers, axis=1).max())
        assert np.abs(integers).max() <= mechanism.options["clip"] == 15
        assert (np.abs(integers).sum(1) <= mechanism.options["l1"]).all()
    assert 15 < longest <= mechanism.options["l2"]
    assert float(one.wire.bounds.l2) == pytest.approx(mechanism.options["l2"] * 0.5 / 15, rel=1e-4)


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_sent_fits_its_bits(kind: str) -> None:
    codec = MAKERS[kind](clip_norm=1.0, noise_multiplier=3.0, bits=9, min_survivors=2)
    one = server(codec, {"x": jnp.zeros((1000,))})
    found = signed(one.encode({"x": jnp.full((1000,), 100.0)}, 0))
    assert found.shape == (1024,)
    assert 30 < np.abs(found).max() <= 255
    assert (one.wire.group, one.wire.bits, one.wire.noised) == ("mod32", 9, True)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), one.wire.value)
    assert (shapes.entries, shapes.rest) == ({"x": ((1000,), jnp.uint32)}, ((24,), jnp.uint32))


def test_a_client_without_a_finite_update_adds_its_noise_and_weighs_one() -> None:
    codec = skellam(clip_norm=1.0, noise_multiplier=1.0, bits=12, min_survivors=1)
    message = server(codec).encode(UPDATE, 5, weight=0.0)  # what the engine makes of it
    assert np.abs(signed(message)).max() > 10
    assert (int(message.weight), message.weight.dtype) == (1, jnp.uint32)


def test_clients_and_rounds_have_noise_of_their_own() -> None:
    codec = skellam(clip_norm=1.0, noise_multiplier=1.0, bits=16, min_survivors=1, rotate=False)
    one = server(codec, {"x": jnp.zeros((2000,))})
    a, b = (signed(one.encode({"x": jnp.zeros((2000,))}, seed)) for seed in (1, 2))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(2000)  # a false alarm once in 10^6 seeds


def test_a_round_with_too_few_survivors_is_discarded() -> None:
    codec = discrete_gaussian(clip_norm=1.0, noise_multiplier=1.0, bits=12, min_survivors=3)
    one = server(codec, scalars={"s": 1.0})
    aggregate, told = one.mean({"w": normal(2, 5, 8), "b": normal(2)}, {"s": jnp.ones((2,))})
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves((aggregate.value, aggregate.scalars)))
    assert (int(told["survivors"]), int(told["discarded"])) == (2, 1)


def test_every_round_has_a_rotation_of_its_own() -> None:
    one = server(skellam(clip_norm=1.0, noise_multiplier=0.0, bits=16, min_survivors=1))
    update = {"w": jnp.ones((5, 8)) / 10, "b": jnp.float32(0.0)}
    again = one._replace(state=one.chain.begin(one.state, None, jax.random.key(78)))
    assert (np.abs(signed(one.encode(update, 0)) - signed(again.encode(update, 0))) > 100).any()


@pytest.mark.parametrize("kind", MAKERS)
def test_the_guarantee_is_that_of_the_rounded_integers(kind: str) -> None:
    """Close to the Gaussian mechanism's a / (2 z^2), and above it by what rounding adds."""
    codec = MAKERS[kind](clip_norm=1.0, noise_multiplier=1.5, bits=16, min_survivors=5)
    (mechanism,) = server(codec, {"x": jnp.zeros((1000,))}).wire.mechanisms
    gaussian = np.array([2.0, 16.0]) / (2 * 1.5**2)
    found = mechanism.options["rdp"](np.array([2, 16]))
    assert (found > gaussian).all()
    np.testing.assert_allclose(found, gaussian, rtol=2e-3)
    assert mechanism.kind == kind
    assert "At least 5 honest clients" in mechanism.trust
    assert mechanism.options["sampling_distance"] < 1e-17


def test_the_grid_is_the_finest_that_fits() -> None:
    for kind in MAKERS:
        for bits, z, n in ((8, 0.3, 4), (16, 1.0, 100), (20, 5.0, 2)):
            grid = make_grid(kind, z, bits=bits, min_survivors=n, dim=64, beta=0.5)
            levels = 2 ** (bits - 1) - 1
            assert grid.clip + grid.noise <= levels < grid.clip + 3 + 13 * math.sqrt((z * (grid.clip + 3)) ** 2 / n)
            assert grid.std == pytest.approx(z * grid.clip)


def test_a_traced_clip_norm() -> None:
    def mean(clip_norm: Any) -> Any:
        one = server(skellam(clip_norm=clip_norm, noise_multiplier=0.0, bits=16, min_survivors=1))
        total = one.encode({"w": jnp.ones((5, 8)), "b": jnp.float32(0.0)}, 0)
        return one.decode(one.state, total, jax.random.key(0))[0].value["w"]

    short, long = jax.jit(jax.vmap(mean))(jnp.float32([1.0, 100.0]))
    np.testing.assert_allclose(short, 1 / math.sqrt(40) / 4, rtol=1e-3)
    np.testing.assert_allclose(long, 1 / 4, rtol=2e-2)


def test_rounds_behind_nothing_else() -> None:
    """In rounds: the bytes, the metrics, and the same numbers as by hand where nothing is random."""
    people = helpers.one_value_each([1.0, -2.0, 4.0, 0.5])
    aggregator = fl.chain(fl.mean(over=4), skellam(clip_norm=8.0, noise_multiplier=0.0, bits=16, min_survivors=4))
    algorithm = helpers.sender(lambda data: {"x": jnp.stack([helpers.first_value(data)] * 3)})
    start = {"x": jnp.zeros((3,))}
    run, state, info = helpers.one_run(algorithm, people, start, aggregator=aggregator)
    np.testing.assert_allclose(run.params(state)["x"], np.full(3, 3.5 / 4), atol=1e-3)
    assert run.traffic(start, people).up == 4 * 4 + 4  # whole words, as a mask takes them
    assert {name: int(value) for name, value in info.aggregator.items()} == {
        "skellam_survivors": 4,
        "skellam_discarded": 0,
    }


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"clip_norm": 0.0}, ValueError, "`clip_norm` is 0.0; expected a finite number above 0"),
        ({"clip_norm": math.inf}, ValueError, "`clip_norm` is inf; expected a finite number above 0"),
        ({"noise_multiplier": -1.0}, ValueError, "`noise_multiplier` is -1.0; expected a number of at least 0"),
        ({"bits": 21}, ValueError, "`bits` is 21; expected 2 to 20"),
        ({"bits": 1}, ValueError, "`bits` is 1; expected 2 to 20"),
        ({"bits": 4}, ValueError, r"`bits=4` holds integers up to 7, which leaves no step for the clip norm"),
        ({"min_survivors": 0}, ValueError, "`min_survivors` is 0; expected an int of at least 1"),
        ({"min_survivors": 2.5}, TypeError, "`min_survivors` is 2.5; expected an int"),
        ({"beta": 1.0}, ValueError, r"`beta` is 1.0; expected a number in \[0, 1\)"),
        ({"rotate": "yes"}, TypeError, "`rotate` is 'yes'; expected True or False"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, error: type[Exception], text: str) -> None:
    good: dict[str, Any] = {"clip_norm": 1.0, "noise_multiplier": 1.0, "bits": 16, "min_survivors": 2}
    for maker in MAKERS.values():
        with pytest.raises(error, match=text):
            maker(**{**good, **arguments})


def test_a_traced_noise_multiplier_is_refused() -> None:
    make = lambda z: skellam(clip_norm=1.0, noise_multiplier=z, bits=16, min_survivors=1) and z  # noqa: E731
    with pytest.raises(TypeError, match="`noise_multiplier` is traced; expected a concrete number"):
        jax.eval_shape(make, 1.0)


GOOD = skellam(clip_norm=1.0, noise_multiplier=1.0, bits=16, min_survivors=2)


@pytest.mark.parametrize(
    ("chain", "facts", "text"),
    [
        ((fl.mean(), GOOD), {}, r"`skellam` needs a mean over a fixed number of clients"),
        ((fl.weighted_mean(), GOOD), {}, r"`skellam` needs a mean over a fixed number of clients"),
        ((fl.mean(over=4), GOOD), {"scaled": True}, "`skellam` needs clients that weigh 1"),
        (
            (fl.mean(over=4), fl.clip_by_global_norm(1.0), fl.quantize(bits=8), GOOD),
            {},
            r"`skellam` clips floats, and the update has uint8\[1\] at \['b'\]",
        ),
        ((fl.mean(over=4), GOOD, GOOD), {}, "`skellam` clips floats|second mechanism"),
        ((fl.mean(over=4), GOOD, fl.quantize(bits=8)), {}, "`quantize` needs float leaves"),
        ((fl.mean(over=4), GOOD), {"capacity": 1}, "`min_survivors` of `skellam` is 2, and the cohort has 1 slots"),
        (
            (fl.mean(over=4), GOOD),
            {"capacity": 70_000},
            r"`skellam\(bits=16\)` can overflow: capacity 70000 x .* more than 2\^31 - 1. Here at most 15 bits fit",
        ),
        (
            (fl.mean(over=4), GOOD),
            {"scalars": {"s": jax.ShapeDtypeStruct((), jnp.float32)}},
            "`skellam` needs a bound on the scalar 's'",
        ),
    ],
)
def test_chains_that_protect_nobody_are_refused(chain: Any, facts: Any, text: str) -> None:
    wire = fl.Wire(jax.eval_shape(lambda: UPDATE), jax.ShapeDtypeStruct((), jnp.int32), {}, {}, capacity=8)
    with pytest.raises(ValueError, match=text):
        fl.chain(*chain).init(wire._replace(**facts))


def test_the_largest_cohort_that_fits() -> None:
    wire = fl.Wire(jax.eval_shape(lambda: UPDATE), jax.ShapeDtypeStruct((), jnp.int32), {}, {}, capacity=1)
    grid = make_grid("skellam", 1.0, bits=16, min_survivors=2, dim=64, beta=math.exp(-0.5))
    most = (2**31 - 1) // (grid.clip + grid.noise)
    fl.chain(fl.mean(over=4), GOOD).init(wire._replace(capacity=most))
    with pytest.raises(ValueError, match="can overflow"):
        fl.chain(fl.mean(over=4), GOOD).init(wire._replace(capacity=most + 1))


def test_the_laws_of_codecs() -> None:
    testing.check_aggregator(fl.chain(fl.mean(over=8), GOOD), UPDATE, laws=[])


def test_epsilon_of_rounds() -> None:
    """Close to 4.7285, the Gaussian mechanism's by Renyi divergences; Skellam's are known for integer orders only."""
    pytest.importorskip("dp_accounting")
    people, start = helpers.one_value_each([1.0, -2.0, 4.0, 0.5]), {"x": jnp.zeros((3,))}
    algorithm = helpers.sender(lambda data: {"x": jnp.stack([helpers.first_value(data)] * 3)})
    run = fl.rounds(algorithm, sampler=fl.sampling.full(4), aggregator=fl.chain(fl.mean(over=4), GOOD))
    epsilon = privacy.epsilon(run, people, num_rounds=1, delta=1e-5, params=start)
    assert 4.7285 < epsilon < 4.76
