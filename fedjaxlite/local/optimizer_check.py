"""A check of optax optimizers, whose learning rates cannot be read: does a step go downhill?"""

from typing import Any

import jax.numpy as jnp

from fedjaxlite import checks

_PATIENCE = 64  # warm-ups and gradient accumulation stand still for a while


def check_optimizer(**named: Any) -> None:
    """Refuses what is no optax optimizer, and one that climbs or stands still: a rate below zero, or of zero.

    The optimizer is tried on one parameter with a gradient of one. Rates that are tracers are not checked.

    Args:
      **named: the optimizer, under the name of the argument that it came as.

    Raises:
      TypeError: for something else than an optax optimizer.
      ValueError: for steps uphill, or none within 64 updates.

    Example:
      >>> import optax
      >>> check_optimizer(client_optimizer=optax.sgd(-0.1))
      Traceback (most recent call last):
      ...
      ValueError: `client_optimizer` steps uphill: its learning rate is below 0. Give a rate above 0.
    """
    for name, optimizer in named.items():
        checks.is_optimizer(**{name: optimizer})
        step = _first_step(optimizer)
        if step is None:
            continue
        if step > 0:
            raise ValueError(f"`{name}` steps uphill: its learning rate is below 0. Give a rate above 0.")
        if step == 0:
            raise ValueError(
                f"`{name}` changed nothing in {_PATIENCE} steps: its learning rate is 0. Give a rate above 0."
            )
        if step != step:
            raise ValueError(f"`{name}` made a parameter NaN with a gradient of 1. Check its rates.")


def _first_step(optimizer: Any) -> float | None:
    """The first update that is not zero, for a gradient of one; None where it cannot be told."""
    params, grads = {"probe": jnp.ones((1,), jnp.float32)}, {"probe": jnp.ones((1,), jnp.float32)}
    try:
        state = optimizer.init(params)
        for _ in range(_PATIENCE):
            updates, state = optimizer.update(grads, state, params)
            if checks.is_traced(updates):
                return None
            step = float(updates["probe"][0])
            if step != 0:
                return step
    except Exception:  # an optimizer made for one model's tree, such as optax.masked with a fixed mask
        return None
    return 0.0
