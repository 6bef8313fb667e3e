"""The recurrence of an LSTM layer, with a derivative that takes one product for the recurrent weights.

Differentiated step by step, a scan adds to the gradient of the recurrent matrix at every time step, and so reads and
writes that matrix T times. Here the derivative rule is stated for the whole sequence instead: what a change of the
matrix does to all pre-activations is one product before the loop, so that its transpose, the gradient, is one product
after it. Being a rule for tangents, it serves forward and reverse mode alike.

Shapes: T time steps, B examples, H hidden units; the four gates (input, forget, cell, output) are side by side in 4H.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class _Gates(NamedTuple):
    """What one step computes, each `[B, H]`, or `[T, B, H]` for all steps."""

    hidden: Any
    cell: Any
    input: Any
    forget: Any
    candidate: Any
    output: Any


def lstm(
    projected: jax.Array, recurrent: jax.Array, peepholes: jax.Array | None = None, *, hoisted_gradient: bool = True
) -> jax.Array:
    """Runs an LSTM layer over time from a zero state.

    Args:
      projected: `[T, B, 4H]`, the inputs' share of the pre-activations, biases included.
      recurrent: `[H, 4H]`, the recurrent weights.
      peepholes: `[3, H]`, weights from the cell to the input, forget and output gates (Gers and Schmidhuber, 2000),
        or None. The output gate sees the new cell, the others the old one.
      hoisted_gradient: whether the gradient of the recurrent weights is taken in one product after the loop. It
        changes speed and rounding only.

    Returns:
      `[T, B, H]`, the hidden states.

    Reference: Hochreiter and Schmidhuber (1997), https://doi.org/10.1162/neco.1997.9.8.1735

    Example:
      >>> import jax.numpy as jnp
      >>> lstm(jnp.zeros((5, 2, 12)), jnp.zeros((3, 12))).shape
      (5, 2, 3)
    """
    if hoisted_gradient:
        return _hoisted(projected, recurrent, peepholes)
    return _run(projected, recurrent, peepholes).hidden


def _run(projected: jax.Array, recurrent: jax.Array, peepholes: jax.Array | None) -> _Gates:
    zeros = jnp.zeros_like(projected[0, :, : recurrent.shape[0]])

    def step(carry: tuple[Any, Any], z: jax.Array) -> tuple[tuple[Any, Any], _Gates]:
        hidden, cell = carry
        zi, zf, zg, zo = jnp.split(z + hidden @ recurrent, 4, axis=-1)
        if peepholes is not None:
            zi, zf = zi + cell * peepholes[0][None], zf + cell * peepholes[1][None]
        i, f, g = jax.nn.sigmoid(zi), jax.nn.sigmoid(zf), jnp.tanh(zg)
        cell = f * cell + i * g
        o = jax.nn.sigmoid(zo if peepholes is None else zo + cell * peepholes[2][None])
        hidden = o * jnp.tanh(cell)
        return (hidden, cell), _Gates(hidden, cell, i, f, g, o)

    return jax.lax.scan(step, (zeros, zeros), projected)[1]


@jax.custom_jvp
def _hoisted(projected: jax.Array, recurrent: jax.Array, peepholes: jax.Array | None) -> jax.Array:
    return _run(projected, recurrent, peepholes).hidden


@_hoisted.defjvp
def _hoisted_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    projected, recurrent, peepholes = primals
    d_projected, d_recurrent, d_peepholes = tangents
    gates = _run(projected, recurrent, peepholes)
    dz = d_projected + _shifted(gates.hidden) @ d_recurrent
    if peepholes is not None:
        dz = dz + _through_peepholes(gates, d_peepholes)
    return gates.hidden, _tangent_scan(dz, gates, recurrent, peepholes)


def _through_peepholes(gates: _Gates, d_peepholes: jax.Array) -> jax.Array:
    before = _shifted(gates.cell)
    d_in, d_forget, d_out = (d_peepholes[k][None, None] for k in range(3))
    return jnp.concatenate([before * d_in, before * d_forget, jnp.zeros_like(before), gates.cell * d_out], axis=-1)


def _tangent_scan(dz: jax.Array, gates: _Gates, recurrent: jax.Array, peepholes: jax.Array | None) -> jax.Array:
    """The linearized recurrence: all that does not depend on tangents is computed for all steps before the loop."""
    i, f, g, o = gates.input, gates.forget, gates.candidate, gates.output
    tanh_cell = jnp.tanh(gates.cell)
    to_cell = jnp.concatenate([g * i * (1 - i), _shifted(gates.cell) * f * (1 - f), i * (1 - g * g)], axis=-1)
    gate_to_hidden, cell_to_hidden = tanh_cell * o * (1 - o), o * (1 - tanh_cell * tanh_cell)
    if peepholes is not None:
        cell_to_hidden = cell_to_hidden + gate_to_hidden * peepholes[2][None, None]
    size = recurrent.shape[0]
    # The backward loop runs the transpose of the product in `step`. That of `d_hidden @ recurrent` would contract the
    # last axis of the matrix in every time step, 1.4 times slower on a CPU; that of `transposed` is a plain product.
    transposed = recurrent.T

    def step(carry: tuple[Any, Any], inputs: tuple[Any, ...]) -> tuple[tuple[Any, Any], Any]:
        d_hidden, d_cell = carry
        dz, to_cell, forget, gate_to_hidden, cell_to_hidden = inputs
        dz = dz + jax.lax.dot_general(d_hidden, transposed, (((1,), (1,)), ((), ())))
        d_inner, d_out = dz[:, : 3 * size], dz[:, 3 * size :]
        if peepholes is not None:
            seen = [d_cell * peepholes[0][None], d_cell * peepholes[1][None], jnp.zeros_like(d_cell)]
            d_inner = d_inner + jnp.concatenate(seen, axis=-1)
        d_cell = forget * d_cell + sum(jnp.split(to_cell * d_inner, 3, axis=-1))
        d_hidden = gate_to_hidden * d_out + cell_to_hidden * d_cell
        return (d_hidden, d_cell), d_hidden

    zeros = jnp.zeros_like(dz[0, :, :size])
    return jax.lax.scan(step, (zeros, zeros), (dz, to_cell, f, gate_to_hidden, cell_to_hidden))[1]


def _shifted(values: jax.Array) -> jax.Array:
    """`[T, B, H]` a step later: what each step saw of the one before."""
    return jnp.concatenate([jnp.zeros_like(values[:1]), values[:-1]])
