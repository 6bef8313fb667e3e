"""Codes for every entry, by name, and what tests of them share: messages by hand, draws, and means of draws.

Statistical tests compare a mean of draws with its closed form at six standard deviations, taken from the closed form or
from the draws: each comparison fails a true codec with probability 2e-9, all of a test's together below 1e-6. Seeds are
fixed.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl
from fedjaxlite.wire.compression.entries.k_level import k_level
from fedjaxlite.wire.compression.entries.narrow import narrow
from fedjaxlite.wire.compression.entries.natural import natural
from fedjaxlite.wire.compression.entries.nf4 import nf4
from fedjaxlite.wire.compression.entries.qsgd import qsgd
from fedjaxlite.wire.compression.entries.signs import sign
from fedjaxlite.wire.compression.entries.tern_grad import tern_grad
from fedjaxlite.wire.compression.entries.votes import noisy_sign, sign_vote

Codecs = dict[str, Callable[[], fl.Aggregator]]

UNBIASED: Codecs = {
    "qsgd 1": lambda: qsgd(1),
    "qsgd 7": lambda: qsgd(7),
    "k_level 2": lambda: k_level(2),
    "k_level 5": lambda: k_level(5),
    "tern_grad": tern_grad,
    "natural": natural,
    "bfloat16": lambda: narrow("bfloat16"),
    "e4m3": lambda: narrow("float8_e4m3fn"),
    "e5m2": lambda: narrow("float8_e5m2"),
    "nf4": lambda: nf4(block=3),
}
BIASED: Codecs = {
    "sign": sign,
    "bfloat16 nearest": lambda: narrow("bfloat16", rounding="nearest"),
    "e4m3 nearest": lambda: narrow("float8_e4m3fn", rounding="nearest"),
    "e5m2 nearest": lambda: narrow("float8_e5m2", rounding="nearest"),
    "nf4 nearest": lambda: nf4(block=3, rounding="nearest"),
}
VOTES: Codecs = {
    "sign_vote": sign_vote,
    "noisy_sign": lambda: noisy_sign(2.0),
    "gaussian": lambda: noisy_sign(2.0, noise="gaussian"),
}
APART: Codecs = UNBIASED | BIASED
ALL: Codecs = APART | VOTES
TREE = {
    "a": jnp.float32([[0.5, -1.25, 0.0], [2.0, 1e-3, -0.7]]),
    "b": jnp.float32(-3.0),
    "c": jnp.linspace(-1, 1, 35),
    "d": jnp.zeros((0, 3)),
}


def info(key: Any) -> fl.ClientInfo:
    return fl.ClientInfo(jnp.int32(0), jnp.float32(1), key, jnp.bool_(True))


def sent(codec: fl.Aggregator, value: Any, key: Any, **facts: Any) -> tuple[Any, fl.Message]:
    state, _ = codec.init(fl.wire_of(value, capacity=4)._replace(**facts))
    return state, codec.encode(state, (), fl.Message(value, jnp.float32(1), {}), info(key))[0]


def arrived(codec: fl.Aggregator, value: Any, key: Any) -> Any:
    """What the server makes of one message."""
    state, message = sent(codec, value, key)
    message = codec.read(state, message, info(None))
    return codec.decode(state, message, None)[0].value


LANES = 600


@functools.cache
def lanes(name: str) -> Callable[[Any, Any], Any]:
    """One program that several tests call: what arrives of updates like TREE under so many keys."""
    return jax.jit(jax.vmap(lambda value, key: arrived(ALL[name](), value, key)))


def in_lanes(name: str, values: Any) -> tuple[Any, Any]:
    """What arrives of values with a leading axis, repeated to fill the lanes, and their keys."""
    keys = jax.random.split(jax.random.key(5), LANES)
    repeat = lambda leaf: jnp.resize(jnp.asarray(leaf, jnp.float32), (LANES, *np.shape(leaf)[1:]))  # noqa: E731
    return lanes(name)(jax.tree.map(repeat, values), keys), keys


def draws(codec: fl.Aggregator, vector: Any, number: int, seed: int = 0) -> np.ndarray:
    """`[number, d]`: one vector under so many keys, in float64."""
    keys = jax.random.split(jax.random.key(seed), number)
    many = jax.jit(jax.vmap(lambda key: arrived(codec, jnp.asarray(vector, jnp.float32), key)))(keys)
    return np.asarray(many, np.float64)


def agrees(samples: np.ndarray, expected: Any, slack: float = 1e-9) -> None:
    """That the mean over the first axis is the expected value, at six standard errors."""
    error = 6 * samples.std(0) / math.sqrt(len(samples))
    np.testing.assert_array_less(np.abs(samples.mean(0) - expected), error + slack)
