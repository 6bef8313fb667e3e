"""The Laplace mechanism: L1 clipping, the scale of its noise, what rounding adds, and what it refuses."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from channels import norm, open_channel, received, sent

import fedjaxlite as fl
from fedjaxlite.privacy.central.laplace import laplace

PAIR = {"a": jnp.zeros((2,)), "b": jnp.zeros((2,))}


def epsilon_of_a_round(wire: fl.Wire) -> float:
    """Sensitivity over scale, summed over what is released; a Laplace variable of scale 1 has deviation sqrt(2)."""
    return sum(
        math.sqrt(2) * (wire.bounds.l1 if release.sensitivity is None else release.sensitivity) / release.std
        for release in wire.mechanisms[0].releases
    )


def test_guarantee_1_one_client_changes_the_sum_by_at_most_the_clip_norm_in_l1() -> None:
    channel = open_channel(laplace(clip_norm=2.0, noise_multiplier=0), template=PAIR)
    updates = {"a": jnp.float32([[30.0, -40.0]]), "b": jnp.float32([[0.0, 10.0]])}
    total = received(channel, sent(channel, updates))[0].value
    np.testing.assert_allclose(np.concatenate([total["a"], total["b"]]), [0.75, -1, 0, 0.25], rtol=2e-5)
    assert norm(total, 1) <= 2.0
    assert channel.wire.bounds == fl.Bounds(l2=2.0, linf=2.0, l1=2.0)


def test_guarantee_2_a_round_costs_one_over_the_noise_multiplier() -> None:
    for bounds in ({}, {"steps": 64.0, "loss": 0.5}):
        channel = open_channel(laplace(clip_norm=0.3, noise_multiplier=4.0), template=PAIR, scalar_bounds=bounds)
        assert epsilon_of_a_round(channel.wire) == pytest.approx(1 / 4)
        assert channel.wire.mechanisms[0].options == {"norm": "l1"}
        assert channel.wire.noised


def test_parts_with_clip_norms_of_their_own_add_up() -> None:
    channel = open_channel(laplace(clip_norm={"a": 3.0, "b": 4.0}, noise_multiplier=1.0), template=PAIR)
    assert channel.wire.bounds == fl.Bounds(l2=7.0, linf=4.0, l1=7.0)


def test_rounding_after_it_adds_a_step_for_every_entry() -> None:
    for rounding, steps in (("stochastic", 4), ("nearest", 2)):
        codecs = (laplace(clip_norm=1.0, noise_multiplier=1.0), fl.quantize(bits=8, rounding=rounding))
        assert open_channel(*codecs, template=PAIR).wire.bounds.l1 == pytest.approx(1 + steps / 127)


def test_zero_noise_and_infinite_clip_are_no_privacy_bit_for_bit() -> None:
    updates = jax.tree.map(jnp.asarray, {"a": np.float32([[1e9, -0.0]]), "b": np.float32([[-3.0, 0.1]])})
    through = lambda channel: received(channel, sent(channel, updates))[0].value  # noqa: E731
    plain, silent = (
        open_channel(*codecs, template=PAIR) for codecs in ((), (laplace(clip_norm=np.inf, noise_multiplier=0),))
    )
    for got, want in zip(jax.tree.leaves(through(silent)), jax.tree.leaves(through(plain)), strict=True):
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


def test_clip_norm_and_noise_multiplier_can_be_batched() -> None:
    updates = {"a": jnp.float32([[3.0, 4.0]]), "b": jnp.float32([[0.0, 0.0]])}

    def through(c: Any, z: Any) -> Any:
        channel = open_channel(laplace(clip_norm=c, noise_multiplier=z), template=PAIR)
        return received(channel, sent(channel, updates))[0].value["a"]

    norms, multipliers = np.float32([1.0, 10.0]), np.float32([0.0, 2.0])
    both = jax.jit(jax.vmap(through))(norms, multipliers)
    for i, (c, z) in enumerate(zip(norms, multipliers, strict=True)):
        np.testing.assert_allclose(both[i], through(float(c), float(z)), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"clip_norm": 0.0}, "`clip_norm` is 0; expected a number above 0"),
        ({"clip_norm": np.inf}, "noise without a clip protects nobody"),
        ({"noise_multiplier": -1}, "`noise_multiplier` is -1; expected a number of at least 0"),
    ],
)
def test_wrong_arguments(arguments: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        laplace(**{"clip_norm": 1.0, "noise_multiplier": 1.0, **arguments})


def test_chains_that_would_not_protect() -> None:
    codec = laplace(clip_norm=1.0, noise_multiplier=1.0)
    with pytest.raises(ValueError, match="`laplace` is the second mechanism of this chain, after laplace"):
        open_channel(codec, codec, template=PAIR)
    with pytest.raises(ValueError, match="Put `laplace` before `quantize`"):
        open_channel(fl.clip_by_value(1.0), fl.quantize(bits=8), codec, template=PAIR)
    with pytest.raises(ValueError, match="`laplace` needs a mean over a fixed number of clients"):
        fl.chain(fl.weighted_mean(), codec).init(fl.Wire(PAIR, jnp.int32(0), {}, {}, capacity=2))


@pytest.mark.whole
def test_the_laws_of_codecs() -> None:
    codecs = (laplace(clip_norm=0.5, noise_multiplier=0.1), fl.quantize(bits=12))
    fl.testing.check_aggregator(fl.chain(fl.mean(over=8), *codecs), PAIR, laws=[])
