"""A model's mean loss over all of a client's examples: what fair and clustered methods weigh clients by."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

import fedjaxlite as fl


def client_loss(
    loss_fn: Callable[..., Any], *, batch_size: int | None = None, lower: bool | Literal["auto"] = "auto"
) -> Callable[[Any, fl.ClientData], jax.Array]:
    """The mean loss of a model on everything that a client has, whatever share of its local steps it gets done.

    Args:
      loss_fn: `(params, batch, key) -> [B]` or `([B], LossAux)`. It gets `key=None`: no dropout, running statistics.
      batch_size: rows at a time; None is 256. No effect on the result beyond rounding.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      `evaluate(params, data) -> float32 scalar`, weighted by `LossAux.example_weight` where the loss gives it; 0 for a
      client without examples. May be called under `vmap` over models.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Example:
      >>> import numpy as np
      >>> people = fl.Population.from_arrays({"x": np.float32([1, 3, 10])}, client_ids=[0, 0, 1])
      >>> evaluate = client_loss(lambda params, batch, key: (params - batch["x"]) ** 2)
      >>> send = lambda shared, data: fl.ClientOutput(evaluate(shared, data))
      >>> everyone = fl.sampling.full(2).sample(jax.random.key(0), 0, people)
      >>> call = fl.federated_sum(send, aggregator=fl.mean())
      >>> float(call(jnp.float32(0), people, everyone, key=jax.random.key(0))[0].value)  # 5 and 100
      52.5
    """
    fl.checks.is_function_of("params", "batch", "key", loss_fn=loss_fn)
    lower = fl.checks.one_of((True, False, "auto"), lower=lower)
    batch_size = 256 if batch_size is None else batch_size
    batch_size = int(fl.checks.positive_int(batch_size=batch_size))

    def evaluate(params: Any, data: fl.ClientData) -> jax.Array:
        lowered = fl.lower(loss_fn, enable=lower, lanes=data.wave.num_lanes, platform=data.wave.platform)
        size = min(batch_size, data.wave.max_size)
        plan = data.with_work(1.0).batches(batch_size=size, epochs=1, shuffle=False)

        def add(sums: Any, batch: Any, mask: Any, key: Any) -> Any:
            del key
            reduced = fl.batch_loss(lowered, params, batch, mask, None)
            return sums[0] + reduced.loss * reduced.weight, sums[1] + reduced.weight

        total, weight = plan.scan(add, (jnp.float32(0.0), jnp.float32(0.0)))
        return total / jnp.where(weight > 0, weight, 1.0)

    return evaluate
