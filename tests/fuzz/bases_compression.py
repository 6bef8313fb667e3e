"""Valid calls of the codecs of compression, and of messages as bytes."""

from typing import Any

import jax
import jax.numpy as jnp
from bases_engine import ALGORITHM, KEY, init_rounds, use_chain
from calls import Base

import fedjaxlite as fl
from fedjaxlite import compression


def behind_clip(codec: Any) -> None:
    """Puts a codec that needs a bound into rounds."""
    init_rounds(aggregator=fl.chain(fl.mean(over=6), fl.clip_by_global_norm(1.0), codec))


def on_a_matrix(codec: Any) -> None:
    """Builds a codec for matrices."""
    fl.chain(fl.mean(), codec).init(fl.wire_of(jnp.zeros((4, 4)), capacity=2))


def downlink(algorithm: Any, codec: Any, feedback: Any = "ef21p") -> Any:
    """With its codecs by name, for calls by keyword."""
    return compression.downlink(algorithm, codec, feedback=feedback)


CHAIN = fl.chain(fl.mean(), fl.clip_by_value(1.0), fl.quantize(bits=4))
STATE, WIRE = CHAIN.init(fl.wire_of(jnp.zeros(4), capacity=2))
CLIENT = fl.ClientInfo(id=0, weight=1.0, key=KEY, alive=True)
MESSAGE, _ = CHAIN.encode(STATE, CHAIN.init_client(jnp.zeros(4)), fl.Message(jnp.ones(4), 1, {}), CLIENT)

CODECS = {
    "count_sketch": Base(compression.count_sketch, {"columns": 2}, use=use_chain),
    "drive": Base(compression.drive, {}, use=use_chain),
    "eden": Base(compression.eden, {"bits": 2}, use=use_chain),
    "error_feedback": Base(
        compression.error_feedback,
        {"*": (compression.top_k(fraction=0.5),), "kind": "ef21_sgdm", "momentum": 0.5},
        use=use_chain,
        words={"*": ("error_feedback",), "kind": ("momentum",)},
    ),
    "k_level": Base(compression.k_level, {"levels": 4}, use=use_chain),
    "narrow": Base(compression.narrow, {"dtype": "bfloat16"}, use=use_chain),
    "natural": Base(compression.natural, {}, use=use_chain),
    "nf4": Base(compression.nf4, {"block": 2}, use=use_chain),
    "noisy_sign": Base(compression.noisy_sign, {"std": 1.0}, use=use_chain),
    "power_sgd": Base(compression.power_sgd, {"rank": 1}, use=on_a_matrix),
    "qsgd": Base(compression.qsgd, {"levels": 4}, use=use_chain),
    "quic_fl": Base(compression.quic_fl, {"bits": 2}, use=behind_clip),
    "rand_k": Base(compression.rand_k, {"fraction": 0.5}, use=use_chain),
    "rotated_k_level": Base(compression.rotated_k_level, {"levels": 4}, use=use_chain),
    "sign": Base(compression.sign, {}, use=use_chain),
    "sign_vote": Base(compression.sign_vote, {}, use=use_chain),
    "tern_grad": Base(compression.tern_grad, {}, use=use_chain),
    "thc": Base(compression.thc, {"bits": 4}, use=behind_clip),
    "top_k": Base(compression.top_k, {"fraction": 0.5}, use=use_chain),
    "downlink": Base(
        downlink,
        {"algorithm": ALGORITHM, "codec": compression.natural()},
        use=init_rounds,
        words={"codec": ("downlink",)},
        costly=True,
    ),
}
ROTATIONS = {
    "padded_size": Base(compression.padded_size, {"entries": 5}, sound=lambda n: n >= 1),
    "rotated_size": Base(compression.rotated_size, {"entries": 5}, sound=lambda n: n >= 1),
}

COMPRESSION: dict[str, Base] = {f"compression.{name}": base for name, base in {**CODECS, **ROTATIONS}.items()}
COMPRESSION |= {
    "measure_entropy": Base(fl.measure_entropy, {}, use=use_chain),
    "message_to_bytes": Base(fl.message_to_bytes, {"message": MESSAGE}),
    "message_from_bytes": Base(
        fl.message_from_bytes,
        {"wire": WIRE, "data": fl.message_to_bytes(MESSAGE)},
        use=lambda message: jax.block_until_ready(message.value),
    ),
}
