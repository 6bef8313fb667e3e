"""Local steps that take several gradients each: at several models, or on several batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl

Gradient = Callable[[Any], tuple[fl.BatchLoss, Any]]
"""`gradient(params) -> (BatchLoss, gradient)` on one batch, at a model of the caller's choice."""


class Length(NamedTuple):
    """How long a client trains, as `fl.local_sgd` takes it."""

    batch_size: int | None
    epochs: int | None
    steps: int | None
    shuffle: bool


def local_steps(
    data: fl.ClientData,
    gradient: Callable[..., tuple[fl.BatchLoss, Any]],
    params: Any,
    start: Callable[[fl.BatchLoss], Any],
    step: Callable[..., Any],
    length: Length,
    *,
    batches: int = 1,
) -> Any:
    """The loop of methods whose step is more than one gradient and one update, which `fl.local_sgd` takes.

    Args:
      data: the client's view.
      gradient: of `fl.value_and_grad`.
      params: a model of the shapes that gradients are taken at.
      start: `start(shapes) -> carry`, the first carry from the shapes of a BatchLoss; it has a field `steps`, which
        counts.
      step: `step(carry, *gradients) -> carry`, with a Gradient for each batch.
      length: of the loop; without a batch size every gradient is that of all of the client's data.
      batches: how many a step draws, each from a stream of its own.

    Returns:
      the last carry.
    """
    if length.batch_size is None:
        whole = lambda at: fl.full_gradient(gradient, at, data)  # noqa: E731
        count = length.steps if length.epochs is None else length.epochs
        first = start(jax.eval_shape(whole, params)[0])
        return fl.repeat(data, count, lambda _, carry: step(carry, *(whole,) * batches), first)
    plans = [data.batches(**length._asdict(), stream=stream) for stream in range(batches)]

    def on(batch: Any, mask: Any, key: jax.Array) -> Gradient:
        return lambda at: gradient(at, batch, mask, key)

    def on_batches(carry: Any, batch: Any, mask: Any, key: jax.Array) -> Any:
        keys = jax.random.split(key, batches) if batches > 1 else [key]
        others = [on(*plan.batch(carry.steps), own) for plan, own in zip(plans[1:], keys[1:], strict=True)]
        return step(carry, on(batch, mask, keys[0]), *others)

    shapes = jax.eval_shape(lambda: gradient(params, *plans[0].batch(jnp.int32(0)), data.key))[0]
    return plans[0].scan(on_batches, start(shapes))
