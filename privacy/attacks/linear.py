"""What went into a linear layer, read off its update in closed form.

Of one example the gradient of a layer `z = x W + b` is `dW = x (dL/dz)` and `db = dL/dz`: every column of dW is the
input itself, times a number that is in db. Nothing is optimized, and nothing but the layer's own update is needed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl


class Candidates(NamedTuple):
    """What each unit of a layer gives away.

    Attributes:
      inputs: `[U, d]`, one candidate for an input per unit; zeros where the unit is silent.
      strength: `[U]`, the size of the unit's bias update relative to the largest; 0 for a silent unit.
    """

    inputs: jax.Array
    strength: jax.Array


def invert_linear(kernel: Any, bias: Any) -> jax.Array:
    """The one input behind the update of a linear layer: the least-squares fit over all units.

    Args:
      kernel: floats `[d, U]`, the update (or gradient) of the kernel, inputs by units.
      bias: floats `[U]`, the update of the bias.

    Returns:
      `[d]`, the input: `sum_i dW_i db_i / sum_i db_i^2`. Zeros where no unit moved.

    Raises:
      TypeError, ValueError: for shapes that do not fit.

    Guarantees:
      Exact to rounding where every step was taken on the same input: one example, however many steps and whatever the
      learning rates, sign or clip norm, since `dW_i = x db_i` then holds for any sum of steps and any scale. (Weight
      decay and momentum that starts elsewhere break it.) Of several examples it is a weighted mean.

    Source: Phong, Aono, Hayashi, Wang, Moriai (2018), https://eprint.iacr.org/2017/715, section 3; Geiping et al.
      (2020), https://arxiv.org/abs/2003.14053, proposition 3.1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([0.2, 0.5, 0.9])
      >>> loss = lambda w, b: jnp.sum(jnp.tanh(x @ w + b) ** 2)
      >>> dw, db = jax.grad(loss, argnums=(0, 1))(jnp.ones((3, 4)), jnp.zeros(4))
      >>> bool(jnp.allclose(invert_linear(dw, db), x))
      True
    """
    kernel, bias = _layer(kernel, bias)
    # In units of the largest entry: the squares of tiny updates would vanish.
    unit = _largest(bias)
    bias = bias / unit
    mean = jnp.matmul(kernel, bias, precision="highest")
    return (mean / unit) / jnp.maximum(jnp.sum(bias * bias), jnp.finfo(bias.dtype).tiny)


def linear_candidates(kernel: Any, bias: Any) -> Candidates:
    """One candidate for an input from every unit of a linear layer, for updates of several examples.

    A unit that only one example of a batch activates (ReLU) gives that example exactly; the others give mixtures. Which
    is which is for the attacker to see; `match` pairs candidates with originals for an evaluation.

    Args:
      kernel: floats `[d, U]`, the update (or gradient) of the kernel.
      bias: floats `[U]`, the update of the bias.

    Returns:
      Candidates, `x_i = dW_i / db_i`.

    Raises:
      TypeError, ValueError: for shapes that do not fit.

    Source: Phong et al. (2018), https://eprint.iacr.org/2017/715; Boenisch et al. (2023),
      https://arxiv.org/abs/2112.02918, on how many examples of a batch a layer gives away by itself.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x = jnp.array([[0.1, 0.9], [0.8, 0.2]])
      >>> loss = lambda w, b: jnp.sum(jax.nn.relu(x @ w + b))
      >>> dw, db = jax.grad(loss, argnums=(0, 1))(jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.zeros(2))
      >>> linear_candidates(dw, db).inputs.round(3).tolist() == x[::-1].round(3).tolist()
      True
    """
    kernel, bias = _layer(kernel, bias)
    unit = _largest(bias)
    silent = bias == 0
    divisor = jnp.where(silent, 1.0, bias / unit)
    inputs = jnp.where(silent[:, None], 0.0, (kernel.T / unit) / divisor[:, None])
    return Candidates(inputs, jnp.abs(bias) / unit)


def _largest(bias: jax.Array) -> jax.Array:
    largest = jnp.max(jnp.abs(bias))
    return jnp.where(largest > 0, largest, 1.0)


def _layer(kernel: Any, bias: Any) -> tuple[jax.Array, jax.Array]:
    kernel, bias = (jnp.asarray(value) for value in fl.checks.real_array(narrow=True, kernel=kernel, bias=bias))
    if kernel.ndim != 2 or bias.ndim != 1 or kernel.shape[1] != bias.shape[0] or not bias.size:
        raise ValueError(
            f"`kernel` has shape {list(kernel.shape)} and `bias` {list(bias.shape)}; expected [inputs, units] and "
            "[units], the two leaves of one linear layer. A kernel kept as [units, inputs] is transposed first."
        )
    for name, leaf in (("kernel", kernel), ("bias", bias)):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"`{name}` has dtype {leaf.dtype}; expected floats. Integers of a quantized message are cast first."
            )
    return kernel.astype(jnp.float32), bias.astype(jnp.float32)
