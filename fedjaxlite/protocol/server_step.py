"""What a server does with a mean delta: one step of any optax optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjaxlite import checks
from fedjaxlite.variables import Variables, trainable, with_trainable

PyTree = Any


def apply_delta(
    server_optimizer: optax.GradientTransformation, params: PyTree, delta: PyTree, optimizer_state: Any
) -> tuple[PyTree, Any]:
    """One server step along a mean delta (server minus client), which optax takes for a gradient.

    Args:
      server_optimizer: an optax optimizer.
      params: the server's model.
      delta: pytree like `params`, the mean of the clients' deltas.
      optimizer_state: the optimizer's state for `trainable(params)`.

    Returns:
      `(params, optimizer_state)`. Of `Variables`, only the trainable part goes through the optimizer; the state (the
      statistics of BatchNorm) becomes the clients' mean.

    Raises:
      ValueError: for a delta that does not fit the parameters, naming the leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> optimizer = optax.sgd(0.5)
      >>> params, _ = apply_delta(optimizer, jnp.float32(3.0), jnp.float32(2.0), optimizer.init(jnp.float32(3.0)))
      >>> float(params)
      2.0
    """
    checks.is_optimizer(server_optimizer=server_optimizer)
    checks.numeric_leaves("params", params)
    checks.float_leaves("params", trainable(params), remedy="What no optimizer moves goes into `fl.Variables.state`.")
    checks.numeric_leaves("delta", delta)
    checks.same_structure(
        delta,
        params,
        what="the mean update",
        than="the parameters",
        remedy="Return one delta for each parameter from `client_update`.",
        any_dtype=True,
    )
    params = jax.tree.map(jnp.asarray, params)
    delta = jax.tree.map(lambda d, p: jnp.asarray(d).astype(p.dtype), delta, params)
    try:
        updates, optimizer_state = server_optimizer.update(trainable(delta), optimizer_state, trainable(params))
    except (TypeError, ValueError, AttributeError):
        checks.same_structure(
            optimizer_state,
            jax.eval_shape(server_optimizer.init, trainable(params)),
            what="`optimizer_state`",
            than="`server_optimizer.init(trainable(params))`",
            remedy="Start with that one, and pass on what each step returns.",
            any_dtype=True,
        )
        raise
    stepped = with_trainable(params, optax.apply_updates(trainable(params), updates))
    if isinstance(params, Variables):
        stepped = stepped._replace(state=jax.tree.map(lambda s, d: s - d, params.state, delta.state))
    return stepped, optimizer_state
