"""The Gaussian mechanism: what it clips, what it adds, what it refuses, and that it is nothing without noise and clip."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from channels import norm, nothing, open_channel, open_wire, received, sent

import fedjaxlite as fl
from fedjaxlite.privacy.central.clipping import SHRINK, clip
from fedjaxlite.privacy.central.gaussian import gaussian
from fedjaxlite.privacy.mechanisms import Mechanism

PAIR = {"a": jnp.zeros((2,)), "b": jnp.zeros((2,))}
cut_to_one = jax.jit(lambda value: clip(value, 1.0))


def one(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def effective_noise_multiplier(wire: fl.Wire) -> float:
    """From the facts on the wire alone, as an accountant computes it."""
    ratios = [
        (wire.bounds.l2 if release.sensitivity is None else release.sensitivity) / release.std
        for release in wire.mechanisms[0].releases
    ]
    return 1 / math.sqrt(sum(ratio**2 for ratio in ratios))


class TestClip:
    def test_a_long_update_is_cut_to_the_clip_norm_and_a_short_one_is_kept_bit_for_bit(self) -> None:
        long, short = jnp.float32([3.0, 4.0]), jnp.float32([0.3, -0.4])
        np.testing.assert_allclose(cut_to_one(long).value, np.float32([0.6, 0.8]) * SHRINK, rtol=1e-6)
        assert (cut_to_one(short).value == short).all()
        assert [bool(cut_to_one(x).fits) for x in (long, short)] == [False, True]

    def test_each_part_of_a_tree_of_clip_norms_is_cut_by_itself(self) -> None:
        value = {"a": jnp.float32([3.0, 4.0]), "b": {"c": jnp.float32([0.6]), "d": jnp.float32([0.8])}}
        cut = clip(value, {"a": 5.0 / SHRINK, "b": 0.5})
        assert cut.value["a"].tolist() == [3.0, 4.0]
        np.testing.assert_allclose([cut.value["b"]["c"][0], cut.value["b"]["d"][0]], [0.3, 0.4], rtol=2e-5)
        assert {name: bool(fits) for name, fits in cut.fits.items()} == {"a": True, "b": False}

    def test_the_l1_norm(self) -> None:
        np.testing.assert_allclose(clip(jnp.float32([3.0, -1.0]), 2.0, order=1).value, [1.5, -0.5], rtol=2e-5)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_narrow_floats_are_widened_before_they_are_cut(self, dtype: Any) -> None:
        """Rounded to 8 bits again, a cut update would be longer than its clip norm by up to 2^-8."""
        value = jnp.asarray(np.random.default_rng(0).normal(size=1000), dtype)
        cut = cut_to_one(value).value
        assert cut.dtype == jnp.float32
        assert 1 - 2**-15 < norm(cut) <= 1
        assert clip(value, np.inf).value.dtype == jnp.float32

    @pytest.mark.parametrize("order", [1, 2])
    def test_guarantee_the_norm_in_exact_arithmetic_is_at_most_the_clip_norm(self, order: int) -> None:
        """Sizes around the blocks of the sum, entries from 1e-30 to 1e38, rows of equal numbers that round one way."""
        rng = np.random.default_rng(1)
        cut = jax.jit(lambda x, c: clip(x, c, order=order).value)
        for size in (1, 31, 32, 33, 1025, 40_000, 300_000):
            for draw in (
                rng.normal(size=size),
                np.full(size, 1 / 3),
                10.0 ** rng.uniform(-30, 38, size=size),
                np.where(np.arange(size) == 0, 1.0, 1e-4),
            ):
                draw = draw.astype(np.float32)
                for clip_norm in (0.125, 3.0):
                    given, got = (norm(x, order) for x in (draw, cut(draw, np.float32(clip_norm))))
                    assert min(given, clip_norm) * (1 - 2**-14) <= got <= clip_norm

    def test_guarantee_nothing_that_is_not_finite_passes(self) -> None:
        for bad in (np.nan, np.inf, -np.inf):
            cut = cut_to_one({"a": jnp.float32([1.0, bad]), "b": jnp.float32([5.0])})
            assert (cut.value["a"].tolist(), cut.value["b"].tolist(), bool(cut.fits)) == ([0, 0], [0], False)
        assert cut_to_one(jnp.zeros((3,))).value.tolist() == [0, 0, 0]

    def test_a_clip_has_derivatives_where_blocks_are_zero(self) -> None:
        value = jnp.zeros((64,)).at[3].set(5.0)
        tangent = jax.jit(jax.jacfwd(lambda c: clip(value, c).value))(jnp.float32(1.0))
        np.testing.assert_allclose(tangent, np.eye(64)[3], atol=2e-5)
        gradient = jax.jit(jax.grad(lambda v: clip(v, 1.0).value.sum()))(value)
        assert np.isfinite(gradient).all()


class TestNoise:
    def test_guarantee_1_one_client_changes_the_sum_by_at_most_the_clip_norm(self) -> None:
        channel = open_channel(gaussian(clip_norm=2.0, noise_multiplier=0.0), template=PAIR)
        total = received(channel, sent(channel, one({"a": [30.0, 0.0], "b": [0.0, 40.0]})))[0].value
        np.testing.assert_allclose(np.concatenate([total["a"], total["b"]]), [1.2, 0, 0, 1.6], rtol=2e-5)
        assert norm(total) <= 2.0
        assert channel.wire.bounds == fl.Bounds(l2=2.0, linf=2.0)

    def test_per_layer_clip_norms_bound_the_whole(self) -> None:
        channel = open_channel(gaussian(clip_norm={"a": 3.0, "b": 4.0}, noise_multiplier=2.0), template=PAIR)
        assert channel.wire.bounds == fl.Bounds(l2=5.0, linf=4.0)
        assert [release.std for release in channel.wire.mechanisms[0].releases] == [10.0]
        silent = open_channel(gaussian(clip_norm={"a": 3.0, "b": 4.0}, noise_multiplier=0), template=PAIR)
        total = received(silent, sent(silent, one({"a": [9.0, 0.0], "b": [9.0, 0.0]})))[0].value
        np.testing.assert_allclose([total["a"][0], total["b"][0]], [3.0, 4.0], rtol=2e-5)

    def test_guarantee_2_the_noise_is_that_of_one_gaussian_mechanism(self) -> None:
        """With scalars too: joint noise, of which the facts on the wire give back the noise multiplier."""
        for bounds in ({}, {"steps": 64.0}, {"steps": 64.0, "loss": 0.5, "square": 1e-3}):
            channel = open_channel(
                gaussian(clip_norm=0.3, noise_multiplier=1.7), template=PAIR, over=20, scalar_bounds=bounds
            )
            assert effective_noise_multiplier(channel.wire) == pytest.approx(1.7, rel=1e-12)
            joint = math.sqrt(1 + len(bounds))
            stds = [release.std for release in channel.wire.mechanisms[0].releases]
            assert stds == pytest.approx([1.7 * joint * x for x in (0.3, *(bounds[n] for n in sorted(bounds)))])
            assert channel.wire.noised

    def test_noise_is_on_the_sum_and_the_mean_divides_it(self) -> None:
        draw = lambda over: received(  # noqa: E731
            channel := open_channel(gaussian(clip_norm=1.0, noise_multiplier=1.0), template=PAIR, over=over),
            nothing(channel),
        )[0]
        np.testing.assert_allclose(draw(1.0).value["a"], 4 * draw(4.0).value["a"], rtol=1e-6)

    def test_scalars_are_cut_to_their_bounds(self) -> None:
        bounds = {"s": 2.0, "t": 1.0}
        channel = open_channel(gaussian(clip_norm=1.0, noise_multiplier=0), template=PAIR, scalar_bounds=bounds)
        for given, want in ((5.0, 2.0), (-np.inf, -2.0), (np.nan, 0.0), (0.25, 0.25)):
            scalars = one({"s": np.float32(given), "t": np.float32(0.5)})
            got = received(channel, sent(channel, one({"a": [0.0, 0.0], "b": [0.0, 0.0]}), scalars))[0]
            assert {name: float(value) for name, value in got.scalars.items()} == {"s": want, "t": 0.5}

    def test_quantization_after_it_costs_noise_multiplier(self) -> None:
        """The step is 1 / 127 and the vector has 4 entries, so it can be 2 / 127 longer."""
        codecs = (gaussian(clip_norm=1.0, noise_multiplier=1.0), fl.quantize(bits=8))
        channel = open_channel(*codecs, template=PAIR)
        assert channel.wire.bounds.l2 == pytest.approx(1 + 2 / 127)
        assert effective_noise_multiplier(channel.wire) == pytest.approx(1 / (1 + 2 / 127))

    def test_an_entry_bounded_before_stays_so(self) -> None:
        codecs = (fl.clip_by_value(0.25), gaussian(clip_norm=1.0, noise_multiplier=1.0))
        assert open_channel(*codecs, template=PAIR).wire.bounds == fl.Bounds(l2=1.0, linf=0.25)

    def test_narrow_updates_cross_the_wire_in_float32(self) -> None:
        template = {"a": jnp.zeros((2,), jnp.bfloat16)}
        channel = open_channel(gaussian(clip_norm=1.0, noise_multiplier=1.0), template=template)
        assert channel.wire.value["a"].dtype == jnp.float32
        assert sent(channel, one(template)).value["a"].dtype == jnp.float32

    def test_the_noise_of_a_larger_cohort_is_marked(self) -> None:
        codec = gaussian(clip_norm=2.0, noise_multiplier=3.0, noise_cohort_size=1000)
        mechanism = open_channel(codec, template=PAIR, over=10).wire.mechanisms[0]
        assert mechanism.extrapolated
        assert mechanism.options == {"noise_cohort_size": 1000, "noise_scale": 0.01}
        assert mechanism.releases[0].std == pytest.approx(3.0 * 2.0 / 100)
        plain = open_channel(gaussian(clip_norm=2.0, noise_multiplier=3.0), template=PAIR, over=10)
        assert not plain.wire.mechanisms[0].extrapolated
        large = open_channel(codec, template=PAIR, over=10)
        small = received(large, nothing(large))[0].value["a"]
        np.testing.assert_allclose(received(plain, nothing(plain))[0].value["a"], 100 * small, rtol=1e-5)


class TestNoNoise:
    def test_zero_noise_and_infinite_clip_are_no_privacy_bit_for_bit(self) -> None:
        """Negative zeros too, which 0 times noise added to them would turn positive."""
        rng = np.random.default_rng(2)
        updates = {"a": rng.normal(size=(3, 2)).astype(np.float32), "b": np.full((3, 2), -0.0, np.float32)}
        plain = open_channel(template=PAIR, over=3)
        silent = open_channel(gaussian(clip_norm=np.inf, noise_multiplier=0), template=PAIR, over=3)
        as_bits = lambda channel: [  # noqa: E731
            np.asarray(leaf).tobytes()
            for leaf in jax.tree.leaves(received(channel, sent(channel, jax.tree.map(jnp.asarray, updates)))[0].value)
        ]
        assert as_bits(plain) == as_bits(silent)
        assert silent.wire.bounds == fl.Bounds()

    def test_no_noise_is_a_mechanism_without_noise(self) -> None:
        wire = open_channel(gaussian(clip_norm=1.0, noise_multiplier=0), template=PAIR).wire
        assert [release.std for release in wire.mechanisms[0].releases] == [0.0]

    def test_traced_zero_noise_leaves_the_sum_bit_for_bit(self) -> None:
        total = fl.Message({"a": jnp.float32([-0.0, 1e-30]), "b": jnp.float32([1.0, -2.0])}, jnp.float32(3), {})

        @jax.jit
        def through(z: Any) -> Any:
            channel = open_channel(gaussian(clip_norm=1.0, noise_multiplier=z), template=PAIR)
            return received(channel, total)[0].value

        for name, leaf in through(jnp.float32(0)).items():
            assert np.asarray(leaf).tobytes() == np.asarray(total.value[name]).tobytes()
        assert np.isnan(through(jnp.float32(np.nan))["a"]).all(), "a noise that is not a number must show"

    def test_clip_norm_and_noise_multiplier_can_be_batched(self) -> None:
        """Tracers give what numbers give, side by side: no clip and no noise, either, and both."""
        updates = {"a": jnp.float32([[3.0, 4.0]]), "b": jnp.float32([[0.0, 0.0]])}

        def through(c: Any, z: Any) -> Any:
            channel = open_channel(gaussian(clip_norm=c, noise_multiplier=z), template=PAIR)
            return received(channel, sent(channel, updates))[0].value["a"]

        norms, multipliers = np.float32([np.inf, 1.0, 1.0, 10.0]), np.float32([0.0, 0.0, 0.5, 2.0])
        both = jax.jit(jax.vmap(through))(norms, multipliers)
        for i, (c, z) in enumerate(zip(norms, multipliers, strict=True)):
            np.testing.assert_allclose(both[i], through(float(c), float(z)), rtol=1e-5)


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "error", "text"),
        [
            ({"clip_norm": 0.0}, ValueError, "`clip_norm` is 0; expected a number above 0.*erase every update"),
            ({"clip_norm": -1.0}, ValueError, "`clip_norm` is -1.0; expected a number of at least 0"),
            ({"clip_norm": {"a": 1.0, "b": 0.0}}, ValueError, r"`clip_norm\['b'\]` is 0"),
            ({"clip_norm": None}, TypeError, "`clip_norm` is None; expected a number above 0, or one for each part"),
            ({"clip_norm": "1"}, TypeError, "`clip_norm` is '1'; expected a number of at least 0"),
            (
                {"clip_norm": np.inf},
                ValueError,
                "`clip_norm` is infinite with noise_multiplier=1.0: noise without a clip",
            ),
            ({"noise_multiplier": -0.5}, ValueError, "`noise_multiplier` is -0.5; expected a number of at least 0"),
            ({"noise_multiplier": np.inf}, ValueError, "`noise_multiplier` is inf; expected a finite number"),
            ({"noise_multiplier": np.nan}, ValueError, "`noise_multiplier` is nan"),
            ({"noise_multiplier": None}, TypeError, "`noise_multiplier` is None"),
            ({"noise_cohort_size": 0}, ValueError, "`noise_cohort_size` is 0; expected a finite number above 0"),
        ],
    )
    def test_wrong_arguments(self, arguments: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            gaussian(**{"clip_norm": 1.0, "noise_multiplier": 1.0, **arguments})

    @pytest.mark.parametrize(
        ("head", "facts", "text"),
        [
            (fl.mean(), {}, r"`gaussian` needs a mean over a fixed number of clients.*Put fl.mean\(over=...\)"),
            (fl.weighted_mean(weight_cap=1), {}, r"divides by the clients' own weights.*Put fl.mean\(over=...\)"),
            (
                fl.mean(),
                {"participation": fl.sampling.Accounting("poisson", rate=0.1), "num_clients": 120},
                r"Put fl.mean\(over=12\) at the head",
            ),
            (fl.mean(over=8), {"scaled": True}, "weights of any size from a sampler that scales them"),
        ],
    )
    def test_a_mean_that_noise_cannot_be_scaled_to(self, head: Any, facts: Any, text: str) -> None:
        with pytest.raises(ValueError, match=text):
            fl.chain(head, gaussian(clip_norm=1.0, noise_multiplier=1.0)).init(open_wire(PAIR, **facts))

    def test_weights_by_part(self) -> None:
        codec = gaussian(clip_norm=1.0, noise_multiplier=1.0)
        weight = {"a": jax.ShapeDtypeStruct((), jnp.float32), "b": jax.ShapeDtypeStruct((), jnp.float32)}
        with pytest.raises(ValueError, match="needs one weight per client, and this chain has a tree of them"):
            codec.init(open_wire(PAIR, denominator=8)._replace(weight=weight, weight_cap=1))

    def test_weights_above_one(self) -> None:
        with pytest.raises(ValueError, match="needs clients that weigh 1, and this chain has weights up to 5"):
            gaussian(clip_norm=1.0, noise_multiplier=1.0).init(open_wire(PAIR, denominator=8, weight_cap=5))

    @pytest.mark.parametrize(
        ("codecs", "text"),
        [
            (
                (fl.clip_by_value(1.0), fl.quantize(bits=8), gaussian(clip_norm=1.0, noise_multiplier=1.0)),
                r"uint8\[2\] at \['a'\]; an update is clipped before it is quantized. Put `gaussian` before",
            ),
            (
                (gaussian(clip_norm=1.0, noise_multiplier=1.0), gaussian(clip_norm=1.0, noise_multiplier=1.0)),
                "`gaussian` is the second mechanism of this chain, after gaussian; expected one.*Leave one",
            ),
            (
                (gaussian(clip_norm={"a": 1.0}, noise_multiplier=1.0),),
                r"`clip_norm` of `gaussian` has numbers at \['a'\], which is no tree prefix.*with leaves at \['a'\], \['b'\]",
            ),
            (
                (gaussian(clip_norm=1.0, noise_multiplier=1.0, noise_cohort_size=4),),
                "`noise_cohort_size` is 4 where the mean is over 8 clients; expected a cohort at least as large",
            ),
            (
                (gaussian(clip_norm=1.0, noise_multiplier=1.0), fl.stack(lambda v, w, p: v)),
                "`gaussian` adds its noise to a sum of updates, and this chain ends with a rule that is no sum",
            ),
        ],
    )
    def test_chains_that_would_not_protect(self, codecs: Any, text: str) -> None:
        with pytest.raises(ValueError, match=text):
            open_channel(*codecs, template=PAIR, over=8)

    def test_behind_a_mask(self) -> None:
        with pytest.raises(ValueError, match="`gaussian` stands behind a mask"):
            gaussian(clip_norm=1.0, noise_multiplier=1.0).init(open_wire(PAIR, masked=True))

    def test_scalars_without_a_bound(self) -> None:
        codec = gaussian(clip_norm=1.0, noise_multiplier=1.0)
        with pytest.raises(ValueError, match=r"needs a bound on the scalar 'loss'.*Algorithm.scalar_bounds"):
            open_channel(codec, template=PAIR, undeclared=("loss",))
        with pytest.raises(ValueError, match=r"`scalar_bounds\['loss'\]` is inf; expected a finite number above 0"):
            open_channel(codec, template=PAIR, scalar_bounds={"loss": np.inf})

    def test_an_unknown_mechanism_before_it(self) -> None:
        codec = gaussian(clip_norm=1.0, noise_multiplier=1.0)
        for mechanisms, named in ((), "another one"), ((Mechanism("skellam", (), ""),), "skellam"):
            with pytest.raises(ValueError, match=f"second mechanism of this chain, after {named}"):
                codec.init(open_wire(PAIR, noised=True, mechanisms=mechanisms))


def test_the_laws_of_codecs() -> None:
    codecs = [gaussian(clip_norm=0.5, noise_multiplier=0.1), fl.quantize(bits=12)]
    fl.testing.check_aggregator(fl.chain(fl.mean(over=8), *codecs), PAIR, laws=[])


@pytest.mark.slow
def test_the_laws_of_codecs_with_a_clip_norm_for_each_layer() -> None:
    codec = gaussian(clip_norm={"a": 0.5, "b": 1.0}, noise_multiplier=0.1)
    fl.testing.check_aggregator(fl.chain(fl.mean(over=8), codec), PAIR, laws=[])
