"""Stacking: aggregation by functions that are not sums, such as a median."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Message, Stacked, Wire
from fedjaxlite.wire.clips import needs_floats

PyTree = Any


def stack(fn: Callable[[PyTree, jax.Array, jax.Array], PyTree], *, name: str = "stack") -> Aggregator:
    """Aggregates by a function of all messages at once, for order statistics that are not sums (median, Krum).

    It costs the memory of K messages on every device, sends no more than any other codec, and cannot stand behind a
    mask: a server that computes a median has seen every client's update.

    Args:
      fn: `fn(values, weights, present) -> value`; `values` is the update with a leading axis `[K]` in cohort order
        (zeros where no client is), `weights` float32 `[K]` as the mean at the head sets them, `present` bool `[K]`.
      name: for messages and records.

    Returns:
      an Aggregator that ends a chain; the mean at its head then sets weights and does not divide.

    Raises:
      TypeError: if `fn` cannot be called. ValueError: when built, behind a mask or integers, or for a tree of weights.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp
      >>> def median(values, weights, present):
      ...     nan = lambda v: jnp.where(present.reshape((-1,) + (1,) * (v.ndim - 1)), v, jnp.nan)
      ...     return jax.tree.map(lambda v: jnp.nanmedian(nan(v), axis=0), values)
      >>> fl.chain(fl.mean(), fl.stack(median)).name
      'chain(mean, stack)'
    """
    checks.is_function_of("values", "weights", "present", fn=fn)
    name = checks.text("It is for messages and records.", name=name)

    def init(wire: Wire) -> tuple[Any, Wire]:
        needs_floats(name, wire)
        if len(jax.tree.leaves(wire.weight)) != 1:
            raise ValueError(
                f"`{name}` needs one weight per client, and this algorithm gives a tree of them. Use fl.mean()."
            )
        if wire.denominator is not None:
            raise ValueError(
                f"`{name}` is not a sum, so mean(over={wire.denominator!r}) has nothing to divide. Use fl.mean()."
            )
        return (), wire._replace(fold="stack")

    def decode(state: Any, total: Stacked, key: Any) -> tuple[Message, Any]:
        del key
        message, present = total
        weights = jnp.where(present, message.weight, 0.0)
        value = fn(message.value, weights, present)
        checks.same_structure(
            jax.eval_shape(lambda: value),
            jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], message.value)),
            what=f"the value that `{name}` returned",
            than="one client's update",
            remedy="Reduce the leading axis [K] and nothing else.",
        )
        total_weight = weights.sum()
        scalars = {key: (weights * s).sum() for key, s in message.scalars.items()}
        # The mean at the head divides by this weight; what comes out is the function's own value.
        anyone = jnp.where(total_weight > 0, total_weight, 1.0)
        return Message(jax.tree.map(lambda v: v * anyone.astype(v.dtype), value), total_weight, scalars), state

    return Aggregator(init=init, decode=decode, role="stack", name=name)
