"""The loss of the CIFAR-10 CNN of pfl-research (Granqvist et al., 2024), in raw JAX.

Two 3x3 convolutions without padding, ReLU, one 2x2 max-pooling, dropout, a dense layer with ReLU, dropout, logits.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Params(NamedTuple):
    """Lists of (kernel, bias): the convolutions', HWIO, and the dense layers'."""

    convs: list[tuple[Any, Any]]
    dense: list[tuple[Any, Any]]


def plain_loss(rates: tuple[float, float]) -> Callable[..., jax.Array]:
    """Mean cross entropy with XLA's convolutions and window reduction; `rates` are those of the dropouts."""

    def loss(params: Params, batch: dict[str, Any], key: Any) -> jax.Array:
        x = batch["x"]
        for kernel, bias in params.convs:
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
            x = jax.nn.relu(x + bias[None, None, None])
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        logits = _head(params.dense, x, rates, jax.random.split(key), _dropped)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][:, None], axis=1))

    return loss


def fast_loss(rates: tuple[float, float]) -> Callable[..., jax.Array]:
    """The same with patches and matrix products, pooling by a reshape, and 8 random bits a unit for dropout."""

    def loss(params: Params, batch: dict[str, Any], key: Any) -> jax.Array:
        x = batch["x"]
        for kernel, bias in params.convs[:-1]:
            x = jax.nn.relu(_convolve(x, kernel) + bias[None, None, None])
        kernel, bias = params.convs[-1]
        x = _convolve(x, kernel)
        size, height, width, channels = x.shape
        x = x[:, : height // 2 * 2, : width // 2 * 2]
        x = x.reshape(size, height // 2, 2, width // 2, 2, channels).max((2, 4))
        x = jax.nn.relu(x + bias[None, None, None])
        logits = _head(params.dense, x, rates, jax.random.split(key), _dropped_by_bytes)
        hit = jnp.arange(logits.shape[1], dtype=jnp.int32)[None] == batch["y"][:, None]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.where(hit, logits, 0.0).sum(1))

    return loss


def _head(layers: Any, x: jax.Array, rates: tuple[float, float], keys: Any, dropped: Callable[..., Any]) -> jax.Array:
    x = dropped(x.reshape(x.shape[0], -1), rates[0], keys[0])
    for kernel, bias in layers[:-1]:
        x = jax.nn.relu(x @ kernel + bias[None])
    return dropped(x, rates[1], keys[1]) @ layers[-1][0] + layers[-1][1][None]


def _dropped(x: jax.Array, rate: float, key: Any) -> jax.Array:
    if rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)


def _dropped_by_bytes(x: jax.Array, rate: float, key: Any) -> jax.Array:
    if rate == 0:
        return x
    kept = jax.random.bits(key, x.shape, jnp.uint8) >= jnp.uint8(round(rate * 256))
    return jnp.where(kept, x * (1 / (1 - rate)), 0.0)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    kh, kw, inputs, outputs = kernel.shape
    size, height, width = x.shape[0], x.shape[1] - kh + 1, x.shape[2] - kw + 1
    rows = jnp.concatenate([x[:, i : i + height] for i in range(kh)], -1)
    patches = jnp.concatenate([rows[:, :, j : j + width] for j in range(kw)], -1)
    matrix = kernel.transpose(1, 0, 2, 3).reshape(kw * kh * inputs, outputs)
    return (patches.reshape(-1, kw * kh * inputs) @ matrix).reshape(size, height, width, outputs)
