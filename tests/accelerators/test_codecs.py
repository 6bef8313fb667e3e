"""Kernels that `encode` of a codec starts on an H100: what an update costs beside the memory that it is read from.

Codes of single entries take three for a leaf at most: two that find a norm or a range, since a long sum is one of parts
first, and one that rounds, draws and packs. Without a scale it is one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import fedjaxlite as fl
from fedjaxlite.benchmarks.wire.codecs import CODECS
from fedjaxlite.rehearsal import hlo, loops, programs
from fedjaxlite.rehearsal.absent import devices_of
from fedjaxlite.rehearsal.targets import target_named

LIMIT = 3
"""Of a code of single entries, for each leaf."""
SHAPES = {"one": ((166_337, 10),), "four": ((784, 200), (200,), (513, 3136), (62,))}
KERNELS = {
    "bfloat16": (1, 5),
    "float8_e4m3fn": (3, 11),
    "float8_e5m2": (3, 11),
    "nf4": (2, 10),
    "natural": (2, 9),
    "quantize:8": (2, 6),
    "qsgd:16": (3, 11),
    "qsgd:1": (3, 10),
    "k_level:16": (3, 10),
    "tern_grad": (3, 10),
    "sign": (3, 10),
    "sign_vote": (1, 4),
    "noisy_sign": (1, 4),
    "drive": (41, 41),
    "eden:4": (41, 41),
    "rotated_k_level:16": (59, 55),
    "thc:4": (35, 35),
    "quic_fl:4": (53, 53),
    "rand_k:0.01": (1, 1),
    "top_k:0.01": (36, 37),
    "error_feedback(top_k:0.01)": (51, 57),
    "count_sketch:1 %": (9, 9),
    "power_sgd:4": (8, 17),
}
"""By codec: of an update of one leaf, and of one of four; the most there may be. Those of the others say what is, and no
limit is set for them: rotations are two times six passes over the vector, and top-k sorts."""

SELDOM = ("float8_e5m2", "qsgd:1", "noisy_sign")
"""Whose program is that of another: `float8_e4m3fn`, `qsgd:16`, `sign_vote`."""


def test_every_codec_is_counted() -> None:
    assert set(KERNELS) == set(CODECS)
    for name, codec in CODECS.items():
        if codec.elementwise:
            assert KERNELS[name][0] <= LIMIT, name
            assert KERNELS[name][1] <= LIMIT * len(SHAPES["four"]), name


@pytest.mark.accelerators
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.covering if one.elementwise and name not in SELDOM else ())
        for name, one in CODECS.items()
    ],
)
def test_kernels_of_encode(name: str, record_property: Any) -> None:
    one, four = (_kernels(name, SHAPES[leaves]) for leaves in SHAPES)
    record_property(
        "kernels",
        f"{name}: encode starts {one} kernels for one leaf, {four} for four, on an H100 "
        f"(at most {KERNELS[name][0]} and {KERNELS[name][1]})",
    )
    assert one <= KERNELS[name][0]
    assert four <= KERNELS[name][1]


def _kernels(name: str, shapes: tuple[tuple[int, ...], ...]) -> int:
    update = [jnp.zeros(shape) for shape in shapes]
    codecs = CODECS[name].make()
    states, _ = fl.chain(fl.mean(), *codecs).init(fl.wire_of(update, capacity=2, num_clients=2, weight=1))
    codec, state = codecs[-1], states[-1]

    def encode(state: Any, own: Any, update: Any, key: jax.Array, number: jax.Array) -> Any:
        client = fl.ClientInfo(number, jnp.float32(1), key, jnp.bool_(True))
        message, own = codec.encode(state, own, fl.Message(update, jnp.float32(1), {}), client)
        return message.value, message.aside, own

    (device,) = devices_of(target_named("h100"))
    there = jax.sharding.SingleDeviceSharding(device)
    args = (state, codec.init_client(update), update, jax.random.key(0), jnp.int32(0))
    placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there), args)
    text = hlo.read(programs.compiled_for(jax.jit(encode).lower(*placed), "gpu").as_text())
    return len(loops.kernels(text.computations[text.entry]))
