"""The pull of a proximal term, as a correction of gradients for `fl.local_sgd`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import fedjaxlite as fl


def proximal_pull(mu: Any, anchor: Any) -> Callable[[Any, Any], Any]:
    """What a step adds to its gradient: that of mu / 2 |w - anchor|^2.

    Args:
      mu: at least 0; a number or a tracer.
      anchor: a model; its trainable part counts.

    Returns:
      `correct(grads, params) -> grads`.

    Example:
      >>> float(proximal_pull(0.5, jnp.float32(1.0))(jnp.float32(2.0), jnp.float32(3.0)))
      3.0
    """
    to = fl.trainable(anchor)

    def correct(grads: Any, params: Any) -> Any:
        pull = lambda g, p, a: g + jnp.asarray(mu, g.dtype) * (p - a)  # noqa: E731
        return jax.tree.map(pull, grads, fl.trainable(params), to)

    return correct
