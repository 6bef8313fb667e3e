"""Which labels an update was computed on, read off the last layer's gradient.

Under cross entropy the gradient of the last bias is `mean(p - onehot(y))`: only the label's own entry can be negative.
"""

from typing import Any

import jax
import jax.numpy as jnp

import fedjaxlite as fl


def idlg_label(kernel: Any) -> jax.Array:
    """The label of the one example behind a gradient: the class whose weights it would raise.

    Args:
      kernel: floats `[d, C]`, the gradient (or FedSGD update, server minus client) of the last layer's kernel; or
        `[C]`, that of its bias.

    Returns:
      int32 scalar, the class with the least column sum.

    Raises:
      ValueError: for another rank.

    Guarantees:
      Right for one example, cross entropy with softmax and features that are not negative and not all zero (behind a
      ReLU or a sigmoid; a bias is such a feature): column c is `(p_c - [c = y]) h`, and only the label's is negative.
      With signed features the kernel alone does not tell; the bias still does.

    Source: Zhao, Mopuri, Bilen (2020), https://arxiv.org/abs/2001.02610, equation 4.

    Example:
      >>> features, probabilities = jnp.array([0.5, 2.0]), jnp.array([0.2, 0.7, 0.1])
      >>> gradient = features[:, None] * (probabilities - jnp.array([0.0, 0.0, 1.0]))[None, :]
      >>> int(idlg_label(gradient))
      2
    """
    leaf = jnp.asarray(fl.checks.real_array(narrow=True, kernel=kernel, shape="[d, C], or [C]"))
    if leaf.ndim not in (1, 2) or not leaf.size:
        raise ValueError(
            f"`kernel` has shape {list(leaf.shape)}; expected [d, C], the last layer's kernel, or [C], its bias."
        )
    return jnp.argmin(leaf if leaf.ndim == 1 else jnp.sum(leaf, axis=0)).astype(jnp.int32)


def label_counts(bias: Any, *, batch_size: int, probabilities: Any = None) -> jax.Array:
    """How often each label stood in a batch, from the gradient of the last bias.

    `n_c = B (mean p_c - db_c)`, rounded so that the counts add up to B. The model's mean output on the batch is not
    known to the attacker, who puts in the mean over other data, or 1/C for a model that knows nothing yet.

    Args:
      bias: floats `[C]`, the gradient of the mean cross entropy with respect to the last layer's bias (a FedSGD update
        over its learning rate).
      batch_size: B.
      probabilities: floats `[C]`, the attacker's guess of the model's mean output; None is 1/C each.

    Returns:
      int32 `[C]`, at least 0 and summing to B.

    Raises:
      ValueError, TypeError: for a batch size below 1, or shapes that do not fit.

    Guarantees:
      Exact where `probabilities` is within `1 / (4 B C)` of the truth in every class.

    Source: after Wainakh et al. (2022), https://arxiv.org/abs/2105.09369, whose weights are estimated from the kernel.

    Example:
      >>> probabilities = jnp.array([0.3, 0.3, 0.4])
      >>> label_counts(probabilities - jnp.array([0.5, 0.0, 0.5]), batch_size=4, probabilities=probabilities).tolist()
      [2, 0, 2]
    """
    batch_size = fl.checks.positive_int(batch_size=batch_size)
    leaf = jnp.asarray(fl.checks.real_array(narrow=True, bias=bias, shape="[C]"))
    if leaf.ndim != 1 or not leaf.size:
        raise ValueError(f"`bias` has shape {list(leaf.shape)}; expected [C], the gradient of the last layer's bias.")
    guess = (
        jnp.full(leaf.shape, 1.0 / leaf.shape[0])
        if probabilities is None
        else jnp.asarray(fl.checks.real_array(narrow=True, probabilities=probabilities, shape="[C]"))
    )
    if guess.shape != leaf.shape:
        raise ValueError(f"`probabilities` has shape {list(guess.shape)}; expected {list(leaf.shape)}, one per class.")
    shares = jnp.maximum(guess.astype(jnp.float32) - leaf.astype(jnp.float32), 0.0)
    shares = jnp.where(jnp.sum(shares) > 0, shares, jnp.ones_like(shares))
    return _largest_remainder(shares * (batch_size / jnp.sum(shares)), batch_size)


def _largest_remainder(expected: jax.Array, total: int) -> jax.Array:
    """Whole numbers nearest to `expected` that add up to `total`, as `expected` does to rounding."""
    # A hair above: 2 - 1e-7 is 2, and not 1 with the largest remainder.
    floor = jnp.floor(expected + 1e-4)
    missing = total - jnp.sum(floor).astype(jnp.int32)
    rank = jnp.argsort(jnp.argsort(-(expected - floor)))
    return floor.astype(jnp.int32) + (rank < missing).astype(jnp.int32)
