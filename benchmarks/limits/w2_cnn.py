"""The loss of the MNIST CNN of McMahan et al. (2017), in raw JAX: 5x5 convolutions, ReLU, 2x2 max-pooling."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Params(NamedTuple):
    """Lists of (kernel, bias): the convolutions', HWIO, and the dense layers'."""

    convs: list[tuple[Any, Any]]
    dense: list[tuple[Any, Any]]


def plain_loss(params: Params, batch: dict[str, Any], key: Any) -> jax.Array:
    """Mean cross entropy with XLA's convolutions and window reductions."""
    del key
    x = batch["x"]
    for kernel, bias in params.convs:
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        x = jax.nn.relu(x + bias[None, None, None])
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    logits = _dense(params.dense, x)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][:, None], axis=1))


def fast_loss(params: Params, batch: dict[str, Any], key: Any) -> jax.Array:
    """The same with patches and matrix products, pooling by a reshape, and ReLU on the pooled quarter of the pixels."""
    del key
    x = batch["x"]
    for kernel, bias in params.convs:
        x = _convolve(x, kernel)
        size, height, width, channels = x.shape
        x = x.reshape(size, height // 2, 2, width // 2, 2, channels).max((2, 4))
        x = jax.nn.relu(x + bias[None, None, None])
    logits = _dense(params.dense, x)
    hit = jnp.arange(logits.shape[1], dtype=jnp.int32)[None] == batch["y"][:, None]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.where(hit, logits, 0.0).sum(1))


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    kh, kw, inputs, outputs = kernel.shape
    size, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    rows = jnp.concatenate([x[:, i : i + height] for i in range(kh)], -1)
    patches = jnp.concatenate([rows[:, :, j : j + width] for j in range(kw)], -1)
    matrix = kernel.transpose(1, 0, 2, 3).reshape(kw * kh * inputs, outputs)
    return (patches.reshape(-1, kw * kh * inputs) @ matrix).reshape(size, height, width, outputs)


def _dense(layers: list[tuple[Any, Any]], x: jax.Array) -> jax.Array:
    x = x.reshape(x.shape[0], -1)
    for kernel, bias in layers[:-1]:
        x = jax.nn.relu(x @ kernel + bias[None])
    return x @ layers[-1][0] + layers[-1][1][None]
