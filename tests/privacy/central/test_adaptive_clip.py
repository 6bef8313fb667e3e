"""Adaptive clipping: it finds the quantile from anywhere, moves the right way, and keeps its share of the guarantee."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from channels import Channel, norm, open_channel, received, sent
from scipy import stats

import fedjaxlite as fl
from fedjaxlite.privacy.central.adaptive_clip import BIT, adaptive_gaussian, update_noise_multiplier

VECTOR = jnp.zeros((2,))
NUM_CLIENTS = 100
NORMS = stats.lognorm(s=0.5).ppf((np.arange(NUM_CLIENTS) + 0.5) / NUM_CLIENTS).astype(np.float32)
"""Norms of a cohort, with median 1."""


class Trace(NamedTuple):
    clip_norm: Any
    unclipped_fraction: Any


def rounds_of(channel: Channel, norms: Any, num_rounds: int, seed: Any = 0) -> Trace:
    """The mechanism's metrics over rounds with a cohort of these norms."""
    updates = jnp.outer(jnp.asarray(norms), jnp.float32([0.6, 0.8]))

    def body(state: Any, key: Any) -> tuple[Any, Trace]:
        _, new = received(channel, sent(channel, updates, state=state), key, state=state)
        told = channel.chain.metrics(new)
        return new, Trace(told["adaptive_gaussian_clip_norm"], told["adaptive_gaussian_unclipped_fraction"])

    return jax.lax.scan(body, channel.state, jax.random.split(jax.random.key(seed), num_rounds))[1]


class TestTheQuantile:
    STARTS = np.float32([0.1, 0.9, 1.1, 5.0])

    @pytest.mark.parametrize("quantile", [0.5, 0.8])
    def test_without_noise_it_is_found_from_any_start(self, quantile: float) -> None:
        """From 0.1, 0.9, 1.1 and 5 times it, to within the gap between two clients."""
        target = stats.lognorm(s=0.5).ppf(quantile)

        def run(start: Any) -> Trace:
            codec = adaptive_gaussian(noise_multiplier=0.0, initial_clip_norm=start, target_quantile=quantile)
            return rounds_of(open_channel(codec, template=VECTOR, over=NUM_CLIENTS), NORMS, 200)

        last = np.asarray(jax.jit(jax.vmap(run))(self.STARTS * target).clip_norm)[:, -1]
        np.testing.assert_allclose(last, target, rtol=0.03)

    def test_with_noise_it_is_found_from_any_start(self) -> None:
        """At noise multiplier 1. Near the median log C is an autoregression of coefficient 1 - 0.2 x 0.8 whose noise
        has deviation 0.2 / 20, so log C has 0.0184: all four last values within 6 deviations, by chance wrong once in
        10^8 runs."""

        def run(start: Any) -> Trace:
            codec = adaptive_gaussian(noise_multiplier=1.0, initial_clip_norm=start)
            return rounds_of(open_channel(codec, template=VECTOR, over=NUM_CLIENTS), NORMS, 200)

        trace = jax.jit(jax.vmap(run))(self.STARTS)
        assert np.abs(np.log(np.asarray(trace.clip_norm)[:, -1])).max() < 6 * 0.0184
        late = np.log(np.asarray(trace.clip_norm)[:, 100:])
        assert 0.005 < late.std() < 0.05, "the clip bits are not noised"

    def test_the_first_steps_go_the_right_way(self) -> None:
        """Above all norms b = 1 and C falls; below all it rises. With the opposite sign it would run away."""
        for start, bit in ((100.0, 1.0), (0.001, 0.0)):
            codec = adaptive_gaussian(noise_multiplier=0.0, initial_clip_norm=start)
            trace = rounds_of(open_channel(codec, template=VECTOR, over=NUM_CLIENTS), NORMS, 2)
            assert float(trace.unclipped_fraction[0]) == bit
            ratio = float(trace.clip_norm[1] / trace.clip_norm[0])
            assert ratio == pytest.approx(math.exp(-0.2 * (bit - 0.5)), rel=1e-5)

    def test_it_stops_where_float32_does(self) -> None:
        codec = adaptive_gaussian(noise_multiplier=1.0, initial_clip_norm=1.0, clip_learning_rate=50.0)
        channel = open_channel(codec, template=VECTOR, over=NUM_CLIENTS)
        clip_norm = rounds_of(channel, np.zeros(NUM_CLIENTS, np.float32), 8).clip_norm
        assert float(clip_norm[-1]) == np.float32(1e-12)


class TestTheGuarantee:
    @pytest.mark.parametrize(
        ("z", "cohort", "want"), [(1.0, 100, 1.0050378), (0.5, 100, 0.5006262), (1.5, 50, 1.5724273)]
    )
    def test_guarantee_2_the_noise_is_split_as_in_the_paper(self, z: float, cohort: int, want: float) -> None:
        """z_delta from theorem 1 of Andrew et al. (2021) with sigma_b = m / 20."""
        assert update_noise_multiplier(z, cohort / 20) == pytest.approx(want, abs=5e-8)
        codec = adaptive_gaussian(noise_multiplier=z, initial_clip_norm=0.2)
        value, bit = open_channel(codec, template=VECTOR, over=cohort).wire.mechanisms[0].releases
        assert (value.std, bit.std, bit.sensitivity) == (pytest.approx(0.2 * want, abs=1e-8), cohort / 20, 0.5)

    def test_guarantee_2_the_whole_has_the_noise_multiplier(self) -> None:
        bounds = {"steps": 64.0, "loss": 0.5}
        codec = adaptive_gaussian(noise_multiplier=1.3, initial_clip_norm=0.2, bit_noise_std=2.0)
        wire = open_channel(codec, template=VECTOR, over=30, scalar_bounds=bounds).wire
        ratios = [(r.sensitivity or wire.bounds.l2) / r.std for r in wire.mechanisms[0].releases]
        assert len(ratios) == 4
        assert 1 / math.sqrt(sum(ratio**2 for ratio in ratios)) == pytest.approx(1.3, rel=1e-12)

    def test_guarantee_2_holds_wherever_the_clip_norm_goes(self) -> None:
        """Bounds of codecs before it are not taken over: they would not move with C, and noise is scaled to C."""
        codecs = (fl.clip_by_value(0.01), fl.clip_by_global_norm(0.05), adaptive_gaussian(noise_multiplier=1.0))
        channel = open_channel(*codecs, fl.quantize(bits=8), template=VECTOR, over=NUM_CLIENTS)
        stretch = 1 + math.sqrt(2) / 127
        assert channel.wire.bounds.l2 == pytest.approx(0.1 * stretch)
        for clip_norm in (1e-4, 1.0, 50.0):
            moved = tuple(
                s._replace(clip_norm=jnp.float32(clip_norm)) if hasattr(s, "clip_norm") else s for s in channel.state
            )
            bounds = channel.chain.prepare(moved, fl.Bounds())[1]
            np.testing.assert_allclose(bounds.l2, clip_norm * stretch, rtol=1e-6)

    def test_guarantee_1_bits_are_half_apart_and_travel_beside_the_update(self) -> None:
        codec = adaptive_gaussian(noise_multiplier=0.0, initial_clip_norm=1.0)
        channel = open_channel(codec, template=VECTOR, over=4, scalar_bounds={"loss": 2.0})
        assert channel.wire.scalar_bounds == {"loss": 2.0, BIT: 0.5}
        updates, scalars = jnp.float32([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]), {"loss": jnp.float32([9.0, 1.0, 0.5])}
        each = [
            sent(channel, *jax.tree.map(lambda x, i=i: x[i : i + 1], (updates, scalars))).scalars[BIT] for i in range(3)
        ]
        assert [float(bit) for bit in each] == [-0.5, 0.5, 0.5]
        aggregate, _ = received(channel, sent(channel, updates, scalars))
        assert {name: float(s) for name, s in aggregate.scalars.items()} == {"loss": 3.5 / 4}
        np.testing.assert_allclose(aggregate.value, np.float32([0.9, 1.2]) / 4, rtol=2e-5)

    def test_a_client_without_weight_has_no_bit(self) -> None:
        """One whose update was not finite: it is counted as absent, and not as unclipped."""
        channel = open_channel(adaptive_gaussian(noise_multiplier=0.0), template=VECTOR, over=2)
        total = sent(channel, jnp.zeros((2, 2)), weights=jnp.float32([1.0, 0.0]))
        assert float(total.scalars[BIT]) == 0.5

    def test_guarantee_1_the_norm_is_that_of_the_rounds_clip_norm(self) -> None:
        """Clip first and move C then: what is sent under this round's C is not longer than it."""
        channel = open_channel(
            adaptive_gaussian(noise_multiplier=0.0, initial_clip_norm=0.7), template=VECTOR, over=NUM_CLIENTS
        )
        state = channel.state
        for _ in range(3):
            aggregate, new = received(channel, sent(channel, jnp.float32([[6.0, 8.0]]), state=state), state=state)
            this, later = (float(channel.chain.metrics(s)["adaptive_gaussian_clip_norm"]) for s in (new, state))
            assert this * (1 - 2**-14) < norm(aggregate.value) * NUM_CLIENTS <= this * (1 + 2**-22)
            state = new
        assert this > later, "a clipped client raises C"

    def test_a_quantizer_follows_the_clip_norm(self) -> None:
        codec = adaptive_gaussian(noise_multiplier=0.0, initial_clip_norm=0.5, clip_learning_rate=2.0)
        channel = open_channel(codec, fl.quantize(bits=16), template=VECTOR, over=1)
        state, updates = channel.state, jnp.float32([[30.0, 40.0]])
        for clip_norm in (0.5, 0.5 * math.e, 0.5 * math.e**2):
            aggregate, state = received(channel, sent(channel, updates, state=state), state=state)
            np.testing.assert_allclose(aggregate.value, [0.6 * clip_norm, 0.8 * clip_norm], rtol=1e-3)


class TestNoNoise:
    def test_no_noise_is_a_mechanism_without_noise(self) -> None:
        wire = open_channel(adaptive_gaussian(noise_multiplier=0), template=VECTOR, over=2).wire
        assert [release.std for release in wire.mechanisms[0].releases] == [0.0, 0.0]

    def test_the_noise_multiplier_can_be_batched(self) -> None:
        def through(z: Any) -> Any:
            channel = open_channel(adaptive_gaussian(noise_multiplier=z), template=VECTOR, over=NUM_CLIENTS)
            aggregate, state = received(channel, sent(channel, jnp.float32([[3.0, 4.0]])))
            return aggregate.value, state[1].clip_norm

        multipliers = np.float32([0.0, 0.5, 2.0])
        values, norms = jax.jit(jax.vmap(through))(multipliers)
        for i, z in enumerate(multipliers):
            value, clip_norm = through(float(z))
            np.testing.assert_allclose(values[i], value, rtol=1e-4)
            np.testing.assert_allclose(norms[i], clip_norm, rtol=1e-5)

    def test_a_traced_noise_multiplier_that_leaves_nothing_shows(self) -> None:
        channel = open_channel(
            adaptive_gaussian(noise_multiplier=0.5, bit_noise_std=10.0), template=VECTOR, over=NUM_CLIENTS
        )
        assert channel.wire.noised
        assert np.isnan(jax.jit(lambda z: update_noise_multiplier(z, 1.0))(jnp.float32(3.0)))


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"noise_multiplier": -1.0}, "`noise_multiplier` is -1.0; expected a number of at least 0"),
            ({"initial_clip_norm": 0.0}, "`initial_clip_norm` is 0.0; expected a finite number above 0"),
            ({"initial_clip_norm": np.inf}, "`initial_clip_norm` is inf; expected a finite number above 0"),
            ({"target_quantile": 0.0}, r"`target_quantile` is 0.0; expected a number in \(0, 1\]"),
            ({"clip_learning_rate": 0}, "`clip_learning_rate` is 0; expected a finite number above 0"),
            ({"bit_noise_std": 0.0}, "`bit_noise_std` is 0.0; expected.*None is for a twentieth of the cohort"),
        ],
    )
    def test_wrong_arguments(self, arguments: Any, text: str) -> None:
        with pytest.raises(ValueError, match=text):
            adaptive_gaussian(**{"noise_multiplier": 1.0, **arguments})

    def test_bits_that_take_the_whole_guarantee(self) -> None:
        text = (
            "`noise_multiplier` is 1, and noise of standard deviation 0.5 on the clip bits alone allows no more than 1; "
            "expected less. Raise `bit_noise_std` above 0.5, or make cohorts larger"
        )
        with pytest.raises(ValueError, match=text):
            open_channel(adaptive_gaussian(noise_multiplier=1.0), template=VECTOR, over=10)
        open_channel(adaptive_gaussian(noise_multiplier=0.99), template=VECTOR, over=10)

    def test_a_scalar_of_the_same_name(self) -> None:
        with pytest.raises(ValueError, match=f"the algorithm has a scalar '{BIT}'.*Rename it"):
            open_channel(adaptive_gaussian(noise_multiplier=0.1), template=VECTOR, over=10, scalar_bounds={BIT: 1.0})

    def test_chains_that_would_not_protect(self) -> None:
        codec = adaptive_gaussian(noise_multiplier=0.1)
        with pytest.raises(ValueError, match="`adaptive_gaussian` is the second mechanism of this chain"):
            open_channel(codec, codec, template=VECTOR, over=10)
        with pytest.raises(ValueError, match="Put `adaptive_gaussian` before `quantize`"):
            open_channel(fl.clip_by_value(1.0), fl.quantize(bits=8), codec, template=VECTOR, over=10)


def test_the_laws_of_codecs() -> None:
    codecs = (adaptive_gaussian(noise_multiplier=0.3), fl.quantize(bits=12))
    fl.testing.check_aggregator(fl.chain(fl.mean(over=8), *codecs), {"a": VECTOR}, laws=[])
