"""The loss of the character LSTM of McMahan et al. (2017), in raw JAX."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Params(NamedTuple):
    """`embedding [V, E]`; per layer `(kernel [., 4H], recurrent [H, 4H], bias [4H])`, gates i, f, g, o; the logits'."""

    embedding: Any
    layers: list[tuple[Any, Any, Any]]
    logits: tuple[Any, Any]


def plain_loss(params: Params, batch: dict[str, Any], key: Any) -> jax.Array:
    """Mean cross entropy over tokens, with an LSTM cell in a scan over time."""
    return jnp.mean(plain_losses(params, batch, key))


def plain_losses(params: Params, batch: dict[str, Any], key: Any) -> jax.Array:
    """The same of each sequence, `[B]`."""
    del key
    values = params.embedding[batch["x"].T]
    for kernel, recurrent, bias in params.layers:

        def cell(carry: tuple[Any, Any], x: Any, weights: tuple[Any, ...] = (kernel, recurrent, bias)) -> Any:
            hidden, memory = carry
            z = x @ weights[0] + hidden @ weights[1] + weights[2][None]
            i, f, g, o = jnp.split(z, 4, axis=-1)
            memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = jax.nn.sigmoid(o) * jnp.tanh(memory)
            return (hidden, memory), hidden

        zeros = jnp.zeros((values.shape[1], recurrent.shape[0]), values.dtype)
        values = jax.lax.scan(cell, (zeros, zeros), values)[1]
    logits = values @ params.logits[0] + params.logits[1][None, None]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"].T[..., None], axis=-1)[..., 0], axis=0)


def fast_loss(params: Params, batch: dict[str, Any], key: Any) -> jax.Array:
    """The same with all products that need no recurrence taken for the whole sequence, gradients included."""
    del key
    values = jax.nn.one_hot(batch["x"].T, params.embedding.shape[0], dtype=params.embedding.dtype) @ params.embedding
    for kernel, recurrent, bias in params.layers:
        values = _layer(values @ kernel + bias[None, None], recurrent)
    logits = values @ params.logits[0] + params.logits[1][None, None]
    hit = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None, None] == batch["y"].T[..., None]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - jnp.where(hit, logits, 0.0).sum(-1))


@jax.custom_vjp
def _layer(projected: jax.Array, recurrent: jax.Array) -> jax.Array:
    """Hidden states `[T, B, H]` of projected inputs `[T, B, 4H]`."""
    return _forward(projected, recurrent)[0]


def _forward(projected: jax.Array, recurrent: jax.Array) -> tuple[jax.Array, Any]:
    def cell(carry: tuple[Any, Any], z: Any) -> Any:
        hidden, memory = carry
        i, f, g, o = jnp.split(z + hidden @ recurrent, 4, axis=-1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        new = f * memory + i * g
        hidden = o * jnp.tanh(new)
        return (hidden, new), (hidden, memory, new, i, f, g, o)

    zeros = jnp.zeros((projected.shape[1], recurrent.shape[0]), projected.dtype)
    hidden, *saved = jax.lax.scan(cell, (zeros, zeros), projected)[1]
    return hidden, (hidden, tuple(saved), recurrent)


def _backward(kept: Any, d_hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
    hidden, saved, recurrent = kept
    transposed = recurrent.T

    def cell(carry: tuple[Any, Any], now: Any) -> Any:
        d_next, d_memory = carry
        d_out, memory, new, i, f, g, o = now
        d_out = d_out + d_next
        squashed = jnp.tanh(new)
        d_memory = d_memory + d_out * o * (1 - squashed * squashed)
        dz = jnp.concatenate(
            [
                d_memory * g * i * (1 - i),
                d_memory * memory * f * (1 - f),
                d_memory * i * (1 - g * g),
                d_out * squashed * o * (1 - o),
            ],
            axis=-1,
        )
        return (dz @ transposed, d_memory * f), dz

    zeros = jnp.zeros_like(hidden[0])
    dz = jax.lax.scan(cell, (zeros, zeros), (d_hidden, *saved), reverse=True)[1]
    before, after = hidden[:-1].reshape(-1, hidden.shape[-1]), dz[1:].reshape(-1, dz.shape[-1])
    return dz, before.T @ after


_layer.defvjp(_forward, _backward)
