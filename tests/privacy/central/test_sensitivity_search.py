"""A search for two neighboring cohorts whose sums differ by more than the chain's bounds claim, over every chain.

One client is added to three. Everybody's update has entries of any magnitude, in leaves of several shapes and widths of
floats. What the server decodes without noise is compared in float64, without any tolerance. The search must find
nothing in the library's chains, and something as soon as one of three bugs is put in.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from channels import Channel, as_channel, norm, open_channel, open_wire, received, sent

import fedjaxlite as fl
from fedjaxlite.privacy.central.adaptive_clip import adaptive_gaussian
from fedjaxlite.privacy.central.gaussian import gaussian
from fedjaxlite.privacy.central.laplace import laplace

TEMPLATE = {
    "matrix": jnp.zeros((5, 9)),
    "narrow": [jnp.zeros((7,), jnp.bfloat16), jnp.zeros((2, 1), jnp.float16)],
    "none": jnp.zeros((0, 3)),
    "single": jnp.zeros(()),
}
NUM_ENTRIES = 45 + 7 + 2 + 1
BOUNDS = {"steps": 8.0}
OTHERS = 3
MAGNITUDES = [0.0, 1e-42, 1e-30, 1e-7, 1e-3, 0.02, 0.1, 1.0, 30.0, 1e4, 1e19, 3e38]
FEW = 10
KINDS = ["normal", "signs", "spike"]
LAYERS = {"matrix": 0.5, "narrow": [2.0, 0.1], "none": 1e-3, "single": 1e-3}


def clip_only() -> fl.Aggregator:
    """The mechanism's clip without any noise to come."""
    return gaussian(clip_norm=0.7, noise_multiplier=0.0)


CHAINS: dict[str, tuple[fl.Aggregator, ...]] = {
    "clip": (fl.clip_by_value(0.05), clip_only()),
    "gaussian": (gaussian(clip_norm=1.3, noise_multiplier=0.0),),
    "per_layer": (gaussian(clip_norm=LAYERS, noise_multiplier=0.0),),
    "adaptive": (adaptive_gaussian(noise_multiplier=0.0, initial_clip_norm=0.3),),
    "adaptive_behind_clip": (fl.clip_by_value(0.01), adaptive_gaussian(noise_multiplier=0.0, initial_clip_norm=0.3)),
    "laplace": (laplace(clip_norm=0.9, noise_multiplier=0.0),),
}
QUANTIZERS: dict[str, tuple[fl.Aggregator, ...]] = {
    "floats": (),
    "stochastic": (fl.quantize(bits=6),),
    "nearest": (fl.quantize(bits=12, rounding="nearest"),),
}


class Difference(NamedTuple):
    """How much the added client changed what is decoded, over what the wire says, in the norm of the mechanism."""

    value: float
    scalar: float
    bit: float


def differ(channel: Channel, *, order: int = 2) -> Callable[[np.ndarray, np.ndarray], Difference]:
    """A function of the cohort's entries `[1 + OTHERS, entries]` and scalars, compiled once."""
    sizes = [leaf.size for leaf in jax.tree.leaves(TEMPLATE)]

    @jax.jit
    def sums(entries: Any, scalars: Any) -> Any:
        leaves = jnp.split(entries, np.cumsum(sizes)[:-1], axis=1)
        updates = jax.tree.unflatten(
            jax.tree.structure(TEMPLATE),
            [
                part.reshape(1 + OTHERS, *leaf.shape).astype(leaf.dtype)
                for part, leaf in zip(leaves, jax.tree.leaves(TEMPLATE), strict=True)
            ],
        )
        # What a narrow float cannot hold is infinite there, and the engine leaves such a client out before it encodes.
        updates = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x)), updates)

        def decoded(weights: Any) -> Any:
            aggregate, state = received(channel, sent(channel, updates, {"steps": scalars}, weights=weights))
            fraction = sum((getattr(s, "unclipped_fraction", jnp.float32(0)) for s in state), jnp.float32(0))
            return aggregate.value, aggregate.scalars["steps"], fraction

        with_and_without = jnp.float32([[1] * (1 + OTHERS), [0] + [1] * OTHERS])
        return jax.vmap(decoded)(with_and_without)

    bound = float((channel.wire.bounds.l1 if order == 1 else channel.wire.bounds.l2) or np.inf)

    def difference(entries: np.ndarray, scalars: np.ndarray) -> Difference:
        with np.errstate(invalid="ignore"):
            apart = jax.tree.map(lambda x: np.float64(x[0]) - np.float64(x[1]), jax.device_get(sums(entries, scalars)))
        # Sums that a client can make infinite are as far apart as can be.
        value, scalar, bit = jax.tree.map(lambda x: np.where(np.isfinite(x), x, 1e100), apart)
        return Difference(norm(value, order) / bound, abs(float(scalar)) / BOUNDS["steps"], abs(float(bit)) / 0.5)

    return difference


def largest_difference(channel: Channel, *, order: int = 2, examples: int = 80) -> Difference:
    """The largest that hypothesis finds; it is guided towards large ones, by a fixed seed."""
    difference, found = differ(channel, order=order), Difference(0.0, 0.0, 0.0)
    magnitudes = st.sampled_from(MAGNITUDES)
    client = st.tuples(magnitudes, magnitudes, st.integers(0, 2**16), st.sampled_from(KINDS))
    any_scalar = st.floats(width=32, allow_nan=True) | st.sampled_from([8.0, -8.0, 8.5])

    def look(entries: np.ndarray, scalars: Any) -> Difference:
        nonlocal found
        new = difference(entries, np.float32(scalars))
        found = Difference(*map(max, zip(found, new, strict=True)))
        return new

    @hypothesis.settings(max_examples=examples, database=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(
        st.lists(client, min_size=1 + OTHERS, max_size=1 + OTHERS), st.lists(any_scalar, min_size=4, max_size=4)
    )
    def search(clients: Any, scalars: Any) -> None:
        new = look(np.stack([draw(*one) for one in clients]), scalars)
        hypothesis.target(min(new.value, 10.0))

    for magnitude in MAGNITUDES:  # each magnitude once for sure, of one client among silent ones
        for kind in KINDS:
            silent = np.zeros((OTHERS, NUM_ENTRIES), np.float32)
            look(np.concatenate([draw(magnitude, magnitude, 0, kind)[None], silent]), [magnitude, 0, 0, 0])
    search()
    return found


def draw(body: float, tail: float, seed: int, kind: str) -> np.ndarray:
    """A client's entries: most of one magnitude, a few of another."""
    rng = np.random.default_rng(seed)
    numbers = {
        "normal": rng.normal(size=NUM_ENTRIES),
        "signs": rng.choice([-1.0, 1.0], size=NUM_ENTRIES),
        "spike": np.arange(NUM_ENTRIES) == rng.integers(NUM_ENTRIES),
    }[kind]
    scale = np.where(rng.random(NUM_ENTRIES) < 0.1, tail, body)
    return np.clip(numbers * scale, -3e38, 3e38).astype(np.float32)


def searched(*codecs: fl.Aggregator, order: int = 2, examples: int = 80) -> Difference:
    channel = open_channel(*codecs, template=TEMPLATE, scalar_bounds=BOUNDS)
    return largest_difference(channel, order=order, examples=examples)


EVERY_DAY = {
    ("clip", "floats"),
    ("gaussian", "stochastic"),
    ("per_layer", "floats"),
    ("adaptive", "floats"),
    ("adaptive_behind_clip", "nearest"),
    ("laplace", "floats"),
}
"""Every chain once, and every quantizer."""


@pytest.mark.parametrize(
    ("chain", "quantizer"),
    [
        pytest.param(*pair, marks=() if pair in EVERY_DAY else pytest.mark.slow)
        for pair in itertools.product(CHAINS, QUANTIZERS)
    ],
)
def test_no_two_neighboring_cohorts_are_further_apart_than_claimed(chain: str, quantizer: str) -> None:
    order = 1 if chain == "laplace" else 2
    found = searched(*CHAINS[chain], *QUANTIZERS[quantizer], order=order)
    assert 0 < found.value <= 1
    # Exactly: scalars and bits of 1/2 are float32, and so is their quantization up to the rounding of one division.
    assert found.scalar <= 1 + 1e-6
    assert found.bit <= 1 + 1e-6
    if quantizer == "floats":
        assert found.value > 0.999 or "clip" in chain, "the search comes close to what is claimed"
        assert found.scalar > 0.999


def test_the_bounds_do_not_depend_on_the_noise() -> None:
    """The chains above are built without noise; with noise they claim the same."""
    for make in (
        lambda z: gaussian(clip_norm=LAYERS, noise_multiplier=z),
        lambda z: laplace(clip_norm=0.9, noise_multiplier=z),
        lambda z: adaptive_gaussian(noise_multiplier=z, bit_noise_std=9.0),
    ):
        bounds = [
            open_channel(make(z), *QUANTIZERS["stochastic"], template=TEMPLATE, scalar_bounds=BOUNDS).wire.bounds
            for z in (0.0, 1.0)
        ]
        assert bounds[0] == bounds[1]


class TestBugsThatMustBeFound:
    """By the cohorts that are looked at for sure, and few more."""

    def test_the_clip_is_removed(self) -> None:
        honest = gaussian(clip_norm=1.3, noise_multiplier=0.0)
        assert searched(honest._replace(encode=fl.Aggregator().encode), examples=FEW).value > 1

    def test_one_part_of_the_update_is_not_clipped(self) -> None:
        honest = gaussian(clip_norm=1.3, noise_multiplier=0.0)

        def encode(state: Any, own: Any, message: fl.Message, client: fl.ClientInfo) -> Any:
            cut, own = honest.encode(state, own, message, client)
            return cut._replace(value={**cut.value, "single": message.value["single"]}), own

        assert searched(honest._replace(encode=encode), examples=FEW).value > 1

    def test_weights_are_multiplied_in(self) -> None:
        """A mean that says that everybody weighs 1, and lets the algorithm's weights through."""
        head = fl.mean(over=1.0)

        def encode(state: Any, own: Any, message: fl.Message, client: fl.ClientInfo) -> Any:
            return message._replace(weight=jnp.float32(1.5) * client.weight), own

        chain = fl.chain(head._replace(encode=encode), gaussian(clip_norm=1.3, noise_multiplier=0.0))
        found = largest_difference(as_channel(chain, open_wire(TEMPLATE, scalar_bounds=BOUNDS)), examples=FEW)
        assert found.value > 1
        assert found.scalar > 1

    def test_the_norm_is_taken_in_bfloat16(self) -> None:
        honest = gaussian(clip_norm=1.3, noise_multiplier=0.0)

        def encode(state: Any, own: Any, message: fl.Message, client: fl.ClientInfo) -> Any:
            wide = jax.tree.map(lambda x: x.astype(jnp.float32), message.value)
            length = fl.global_norm(jax.tree.map(lambda x: x.astype(jnp.bfloat16), wide)).astype(jnp.bfloat16)
            factor = jnp.minimum(1.0, 1.3 / jnp.maximum(length.astype(jnp.float32), 1e-30))
            return message._replace(value=jax.tree.map(lambda x: x * factor, wide)), own

        assert searched(honest._replace(encode=encode), examples=FEW).value > 1

    def test_the_norm_is_cut_without_room_for_rounding(self) -> None:
        """The plain clip of the engine, for compression, which promises its norm up to rounding only."""
        honest = gaussian(clip_norm=1.3, noise_multiplier=0.0)
        assert searched(honest._replace(encode=fl.clip_by_global_norm(1.3).encode), examples=FEW).value > 1

    def test_scalars_are_not_clipped(self) -> None:
        honest = gaussian(clip_norm=1.3, noise_multiplier=0.0)

        def encode(state: Any, own: Any, message: fl.Message, client: fl.ClientInfo) -> Any:
            cut, own = honest.encode(state, own, message, client)
            return cut._replace(scalars={"steps": jnp.nan_to_num(message.scalars["steps"])}), own

        assert searched(honest._replace(encode=encode), examples=FEW).scalar > 1

    def test_rounding_is_not_counted(self) -> None:
        channel = open_channel(*CHAINS["gaussian"], fl.quantize(bits=6), template=TEMPLATE, scalar_bounds=BOUNDS)
        as_if_exact = channel.wire._replace(bounds=channel.wire.bounds._replace(l2=1.3))
        assert largest_difference(channel._replace(wire=as_if_exact), examples=FEW).value > 1
