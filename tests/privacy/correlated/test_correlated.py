"""Codecs of correlated noise: what they clip, what noise the model carries, what they refuse, and rounds with them."""

import math
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import testing
from fedjaxlite.privacy.correlated import toeplitz, tree
from fedjaxlite.privacy.correlated.codecs import banded_gaussian, tree_gaussian

SHAPES = {"b": jax.ShapeDtypeStruct((), jnp.float32), "w": jax.ShapeDtypeStruct((4000,), jnp.float32)}
SCALAR = jax.ShapeDtypeStruct((), jnp.float32)
CYCLIC = fl.sampling.cyclic(10, 4).accounting


def wire(value: Any = SHAPES, participation: Any = CYCLIC, **facts: Any) -> fl.Wire:
    """A wire behind `fl.mean(over=10)`, in a run that draws 10 of 100 clients."""
    known = {"scalars": {}, "scalar_bounds": {}, "weight_cap": 1, "denominator": 10.0, "headed": True, **facts}
    return fl.Wire(value, SCALAR, capacity=10, num_clients=100, participation=participation, **known)


def codecs(**options: Any) -> list[fl.Aggregator]:
    common = {"clip_norm": 2.0, "noise_multiplier": 1.5, "num_rounds": 6, **options}
    return [
        tree_gaussian(**common),
        tree_gaussian(**common, estimator="naive", restart_every=4),
        banded_gaussian(**common, bands=4),
    ]


def not_every_day(given: fl.Aggregator) -> Any:
    """Naive sums of a tree go through the code that the better ones do."""
    return pytest.param(given, marks=pytest.mark.slow) if given.hparams.get("estimator") == "naive" else given


def decoded(codec: fl.Aggregator, total: fl.Message, rounds: int, *, seed: int = 0, facts: Any = None) -> tuple:
    """What the codec makes of the same total in round after round: stacked messages and the states after each."""
    state, _ = codec.init(wire(total.value, **(facts or {})))
    keys = jax.random.split(jax.random.key(seed), rounds)

    def one(state: Any, key: Any) -> Any:
        out, state = codec.decode(state, total, key)
        return state, (out, state)

    return jax.jit(lambda: jax.lax.scan(one, state, keys)[1])()


def zeros(shapes: Any = SHAPES, scalars: Any = ()) -> fl.Message:
    value = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return fl.Message(value, jnp.float32(10), {name: jnp.float32(0) for name in scalars})


@pytest.mark.parametrize("codec", codecs(), ids=lambda codec: codec.name)
def test_guarantee_one_client_changes_a_sum_by_at_most_the_clip_norm(codec) -> None:
    state, end = codec.init(wire({"w": jax.ShapeDtypeStruct((500,), jnp.float32)}))
    assert (end.bounds.l2, end.noised) == (2.0, True)
    info = fl.ClientInfo(jnp.int32(0), jnp.float32(1), jax.random.key(0), jnp.bool_(True))
    encode = jax.jit(lambda message: codec.encode(state, (), message, info)[0])
    for scale in (1e-3, 1.0, 1e6, np.inf):
        sent = {"w": jnp.asarray(np.random.default_rng(0).normal(size=500) * scale, jnp.float32)}
        out = encode(fl.Message(sent, jnp.float32(1), {}))
        assert np.linalg.norm(np.asarray(out.value["w"], np.float64)) <= 2.0
        if scale == 1e-3:
            np.testing.assert_array_equal(out.value["w"], sent["w"])


def expected_variances(codec: fl.Aggregator) -> np.ndarray:
    own = codec.hparams
    if "bands" in own:
        c = toeplitz.optimal_coefficients(own["num_rounds"], own["bands"])
        return toeplitz.cumulative_variances(c, own["num_rounds"], normalized=True)
    return tree.cumulative_variances(own["num_rounds"], restart_every=own["restart_every"], estimator=own["estimator"])


@pytest.mark.parametrize("codec", codecs(), ids=lambda codec: f"{codec.name}-{codec.hparams.get('estimator')}")
def test_guarantee_the_model_carries_the_stated_noise(codec) -> None:
    """Beside a scalar of bound 0.5: z C sqrt(2) for the update and z B sqrt(2) for the scalar.

    A sample variance of 4000 entries is within 5 / sqrt(2000) = .112 of 1, but for 6e-7 of the time a round; that the
    scalar, one draw a round, is within 5 standard deviations is as likely.
    """
    facts = {"scalars": {"s": SCALAR}, "scalar_bounds": {"s": 0.5}}
    messages, states = decoded(codec, zeros(scalars=("s",)), 6, facts=facts)
    carried = np.cumsum(np.asarray(messages.value["w"], np.float64), axis=0)
    expected = expected_variances(codec) * (1.5 * 2.0) ** 2 * 2
    np.testing.assert_allclose(np.square(carried).mean(axis=1) / expected, 1.0, atol=5 / math.sqrt(2000))
    scalar = np.cumsum(np.asarray(messages.scalars["s"], np.float64))
    assert np.all(np.abs(scalar) < 5 * np.sqrt(expected) * 0.5 / 2.0)
    assert len(np.unique(messages.scalars["s"])) == 6
    assert states.round.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "codec",
    [not_every_day(codec) for codec in codecs()],
    ids=lambda codec: f"{codec.name}-{codec.hparams.get('estimator')}",
)
def test_guarantee_rounds_past_the_last_release_nothing(codec) -> None:
    total = zeros()._replace(value=jax.tree.map(lambda leaf: jnp.ones(leaf.shape), SHAPES))
    messages, states = decoded(codec, total, 8)
    per_round = [np.abs(np.asarray(messages.value["w"][r])).max() for r in range(8)]
    assert min(per_round[:6]) > 0
    assert per_round[6:] == [0, 0]
    assert [int(codec.metrics(jax.tree.map(lambda x, r=r: x[r], states))["rounds_left"]) for r in (0, 5, 7)] == [
        5,
        0,
        0,
    ]


def test_accountants_are_told_the_strategy() -> None:
    one_tree, trees, banded = (codec.init(wire())[1].mechanisms[0] for codec in codecs())
    assert [m.kind for m in (one_tree, trees, banded)] == ["tree", "tree", "banded"]
    assert all(m.releases[0].std == 3.0 and m.releases[0].sensitivity is None for m in (one_tree, trees, banded))
    assert one_tree.options["squared_sensitivity"](2, 4, 6) == tree.squared_sensitivity(2, 4, 6)
    assert trees.options["squared_sensitivity"](2, 4, 6) == tree.squared_sensitivity(2, 4, 6, restart_every=4)
    assert banded.options["squared_sensitivity"](2, 4, 6) == pytest.approx(2.0)
    assert banded.options["squared_sensitivity"](1, 4, 3) < 1
    for mechanism in (one_tree, banded):
        with pytest.raises(ValueError, match=r"made for num_rounds=6 and is asked about 9 rounds, of which the last 3"):
            mechanism.options["squared_sensitivity"](1, 4, 9)


def test_scalars_are_clipped_and_their_releases_stated() -> None:
    codec = tree_gaussian(clip_norm=2.0, noise_multiplier=1.5, num_rounds=6)
    state, end = codec.init(wire(scalars={"s": SCALAR}, scalar_bounds={"s": 0.5}))
    info = fl.ClientInfo(jnp.int32(0), jnp.float32(1), jax.random.key(0), jnp.bool_(True))
    sent = zeros()._replace(scalars={"s": jnp.float32(-7)})
    encode = jax.jit(lambda message: codec.encode(state, (), message, info)[0])
    assert float(encode(sent).scalars["s"]) == -0.5
    value, scalar = end.mechanisms[0].releases
    assert (value.std, scalar.std) == pytest.approx((3 * math.sqrt(2), 0.75 * math.sqrt(2)))
    assert (value.sensitivity, scalar.sensitivity) == (None, 0.5)


def test_no_noise_and_no_clip_is_no_privacy() -> None:
    total = zeros()._replace(value={"b": jnp.float32(3), "w": jnp.arange(4000, dtype=jnp.float32)})
    for codec in codecs(clip_norm=math.inf, noise_multiplier=0.0):
        messages, _ = decoded(codec, total, 2)
        for r in range(2):
            jax.tree.map(
                lambda got, want, r=r: np.testing.assert_array_equal(got[r], want), messages.value, total.value
            )
        assert codec.init(wire())[1].mechanisms[0].releases[0].std == 0
    # A traced zero draws noise of width zero.
    zero = jax.jit(lambda z: decoded_once(codecs(noise_multiplier=z)[0], total))(0.0)
    jax.tree.map(np.testing.assert_array_equal, zero.value, total.value)


def decoded_once(codec: fl.Aggregator, total: fl.Message) -> fl.Message:
    return codec.decode(codec.init(wire())[0], total, jax.random.key(0))[0]


def test_noise_and_clip_norms_may_be_vmapped() -> None:
    def one(z: Any, key: Any) -> Any:
        codec = banded_gaussian(clip_norm=1.0, noise_multiplier=z, num_rounds=6, bands=4)
        return codec.decode(codec.init(wire())[0], zeros(), key)[0].value["w"]

    keys = jax.random.split(jax.random.key(0), 3)
    got = jax.jit(jax.vmap(one))(jnp.float32([1.0, 2.0, 4.0]), keys)
    alone = jax.jit(one)
    for z, key, row in zip([1.0, 2.0, 4.0], keys, got, strict=True):
        np.testing.assert_allclose(row, alone(z, key), rtol=1e-6)


def build(make: Any, **facts: Any) -> None:
    make().init(wire(**facts))


TREE = {"clip_norm": 1.0, "noise_multiplier": 1.0, "num_rounds": 8}
BANDED = {**TREE, "bands": 4}


@pytest.mark.parametrize(
    ("make", "facts", "message"),
    [
        (lambda: tree_gaussian(**{**TREE, "clip_norm": 0.0}), {}, "`clip_norm` is 0; expected a number above 0"),
        (lambda: tree_gaussian(**{**TREE, "noise_multiplier": -1.0}), {}, "`noise_multiplier` is -1.0; expected"),
        (lambda: tree_gaussian(**{**TREE, "num_rounds": 0}), {}, "`num_rounds` is 0; expected an int of at least 1"),
        (lambda: tree_gaussian(**TREE, restart_every=9), {}, "`restart_every` is 9 for num_rounds=8; expected at most"),
        (lambda: tree_gaussian(**TREE, restart_every=0), {}, "`restart_every` is 0; expected an int of at least 1"),
        (
            lambda: tree_gaussian(**TREE, estimator="full"),
            {},
            "`estimator` is 'full'; expected one of 'honaker', 'naive'",
        ),
        (lambda: banded_gaussian(**{**BANDED, "bands": 9}), {}, "`bands` is 9 for num_rounds=8; expected at most one"),
        (
            lambda: banded_gaussian(**BANDED),
            {"participation": fl.sampling.uniform(10).accounting},
            r"`banded_gaussian\(bands=4\)` needs two rounds of one client to be at least 4 rounds apart, and "
            r"'without_replacement' promises 1. Draw the cohorts with fl.sampling.cyclic\(10, 4\) \(this needs 40 "
            r"clients\), or use at most 1 bands",
        ),
        (lambda: banded_gaussian(**BANDED), {"participation": None}, "nothing is known of the sampler"),
        (
            lambda: banded_gaussian(**BANDED),
            {"denominator": None},
            "`banded_gaussian` needs a mean over a fixed number",
        ),
        (
            lambda: tree_gaussian(**TREE),
            {"weight_cap": None, "scaled": True},
            "`tree_gaussian` needs clients that weigh 1",
        ),
        (lambda: tree_gaussian(**TREE), {"noised": True}, "`tree_gaussian` is the second mechanism of this chain"),
        (lambda: tree_gaussian(**TREE), {"group": "mod32"}, "Put `tree_gaussian` before `quantize`"),
        (lambda: tree_gaussian(**TREE), {"scalars": {"s": SCALAR}}, "`tree_gaussian` needs a bound on the scalar 's'"),
    ],
)
def test_refusals(make, facts, message) -> None:
    with pytest.raises(ValueError, match=message):
        build(make, **facts)


def test_a_single_band_goes_with_any_sampler() -> None:
    banded_gaussian(**{**BANDED, "bands": 1}).init(wire(participation=fl.sampling.uniform(10).accounting))


@pytest.mark.parametrize(
    "codec",
    [not_every_day(codec) for codec in codecs()],
    ids=lambda codec: f"{codec.name}-{codec.hparams.get('estimator')}",
)
def test_codecs_keep_the_laws_of_a_chain(codec) -> None:
    """Behind a quantizer too: what encode and decode return, and that a sum does not depend on its order."""
    sampled = codec._replace(init=lambda w: codec.init(w._replace(participation=CYCLIC)))
    template = {"b": jnp.float32(0), "w": jnp.zeros(5)}
    testing.check_aggregator(fl.chain(fl.mean(over=6), sampled, fl.quantize(bits=12)), template, laws=[])


def run(codec: fl.Aggregator) -> tuple[fl.Rounds, fl.Population, Any]:
    population = helpers.one_value_each([1.0] * 12)
    rounds = fl.rounds(
        helpers.sender(lambda data: {"w": jnp.full((3,), helpers.first_value(data))}),
        sampler=fl.sampling.cyclic(3, 4),
        aggregator=fl.chain(fl.mean(over=3), codec),
        execution=helpers.ONE,
    )
    return (
        rounds,
        population,
        rounds.init({"w": jnp.zeros(3)}, population, key=jax.random.key(0), noise_key=jax.random.key(1)),
    )


def test_rounds_in_one_dispatch_are_rounds_one_by_one_and_resume_exactly() -> None:
    codec = tree_gaussian(clip_norm=1.0, noise_multiplier=0.5, num_rounds=5, restart_every=3)
    assert fl.chain(fl.mean(over=3), codec).num_rounds == 5
    # Without that number nobody is stopped, as where a caller's jit hides the round.
    rounds, population, first = run(codec._replace(num_rounds=None))
    state, seen, left = first, [], []
    for _ in range(6):
        # What a checkpoint gives back goes on bit for bit.
        state, info = rounds.step(testing.through_numpy(state), population)
        seen.append(np.asarray(state.server_state["w"]))
        left.append(int(info.aggregator["tree_gaussian_rounds_left"]))
    assert left == [4, 3, 2, 1, 0, 0]
    assert np.all(seen[5] == 0)
    assert len({row.tobytes() for row in seen}) == 6
    together, infos = rounds.steps(first, population, 5)
    np.testing.assert_allclose(together.server_state["w"], seen[4], rtol=1e-6)
    again, _ = rounds.step(together, population)
    assert np.all(np.asarray(again.server_state["w"]) == 0)


def test_a_sampler_without_separation_is_refused_when_rounds_are_built() -> None:
    population = helpers.one_value_each([1.0] * 12)
    rounds = fl.rounds(
        helpers.sender(lambda data: {"w": helpers.first_value(data)}),
        sampler=fl.sampling.uniform(3),
        aggregator=fl.chain(fl.mean(over=3), banded_gaussian(**BANDED)),
    )
    with pytest.raises(ValueError, match=r"Draw the cohorts with fl.sampling.cyclic\(3, 4\)"):
        rounds.init({"w": jnp.float32(0)}, population, key=jax.random.key(0))
