"""FedExP: federated averaging with a server step that grows as far as the clients' disagreement allows.

    client k:   delta_k = w - w_k after local SGD, and its squared norm
    server:     eta = max(1, mean of ||delta_k||^2 / (2 (||mean delta||^2 + eps)))
                w = w - eta mean of delta_k

Deltas that agree have a mean as long as they are themselves, and eta is 1: federated averaging. Deltas that point apart
leave a short mean, and the server extrapolates. The last iterate swings then, so the paper evaluates the mean of the
last two.

Source: Jhunjhunwala, Wang, Joshi (2023), "FedExP: Speeding Up Federated Averaging via Extrapolation",
https://arxiv.org/abs/2301.09604, algorithm 1.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.length import local_length


class ServerState(NamedTuple):
    """The server's model, the one before, and how far the last step went.

    Attributes:
      params: the model that clients start from.
      previous: the model of the round before; empty unless the last two are averaged.
      server_lr: float32 scalar, the last round's eta.
    """

    params: Any
    previous: Any
    server_lr: Any


def fed_exp(
    loss_fn: Callable[..., Any],
    *,
    client_optimizer: optax.GradientTransformation,
    eps: Any = 1e-3,
    max_norm: float | None = None,
    average_last_two: bool = False,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Federated averaging with the extrapolating server step of FedExP.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      client_optimizer: optax optimizer of the local steps; its state is fresh in every round.
      eps: keeps eta bounded where deltas cancel; above 0. The authors' experiments have 1e-3, and 0.1 for EMNIST; in
        their code it is multiplied by the number of participants, in the paper's formula not.
      max_norm: the longest delta that counts in full: squared norms saturate at its square. Needed before `quantize`,
        which takes its range from it, and to be set to the norm that deltas are clipped to, where they are: then the
        squared norm is that of the clipped delta.
      average_last_two: evaluate and export the mean of the last two models, as the paper does (`rounds.params(state)`);
        clients start from the last one either way, which stays `state.params`.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. A client sends its delta and, as a scalar beside it, the squared norm. Clients weigh as many as
      they have examples, in both means; `fl.mean` gives the paper's equal weights. There is no server optimizer: the
      server's step is the method. Its info is that of `fed_avg`, and eta is in the server's state.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Source: Jhunjhunwala et al. (2023), https://arxiv.org/abs/2301.09604, algorithm 1.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_exp(loss, client_optimizer=optax.sgd(0.1), eps=1e-3).name
      'fed_exp'
    """
    average_last_two = fl.checks.flag(average_last_two=average_last_two)
    eps = fl.checks.positive(eps=eps)
    if max_norm is not None:
        max_norm = float(fl.checks.positive(max_norm=fl.checks.concrete(max_norm=max_norm)))
        if max_norm**2 > fl.checks.LARGEST_FLOAT:
            raise ValueError(f"`max_norm` is {max_norm!r}; expected a norm whose square a float32 holds, below 1.8e19.")
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    train = fl.local_sgd(loss_fn, client_optimizer=client_optimizer, lower=lower, **local)
    server_optimizer = optax.sgd(1.0)
    bounds = {} if max_norm is None else {"squared_norm": max_norm**2}

    def client_update(shared: Any, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        result = train(shared, data)
        squared = _squared_norm(fl.trainable(result.delta))
        # A norm that is not finite must stay so: the client is left out, as its delta is.
        squared = jnp.where(squared > bounds["squared_norm"], bounds["squared_norm"], squared) if bounds else squared
        info = {**result.metrics, "local_steps": result.num_steps}
        return fl.ClientOutput(result.delta, result.num_examples, {"squared_norm": squared}, client_state, info)

    def server_update(state: ServerState, aggregate: fl.Aggregate, key: jax.Array) -> ServerState:
        del key
        mean = fl.trainable(aggregate.value)
        smallest = _squared_norm(mean) + jnp.asarray(eps, jnp.float32)
        rate = jnp.maximum(1.0, aggregate.scalars["squared_norm"] / (2.0 * smallest))
        delta = fl.with_trainable(aggregate.value, jax.tree.map(lambda d: rate.astype(d.dtype) * d, mean))
        params, _ = fl.apply_delta(server_optimizer, state.params, delta, server_optimizer.init(mean))
        new = ServerState(params, state.params if average_last_two else (), rate)
        return jax.tree.map(lambda a, b: jnp.where(aggregate.num_clients > 0, a, b), new, state)

    def last_two(state: ServerState) -> Any:
        half = lambda a, b: (a + b) * jnp.asarray(0.5, a.dtype)  # noqa: E731
        mean = jax.tree.map(half, fl.trainable(state.params), fl.trainable(state.previous))
        return fl.with_trainable(state.params, mean)

    return fl.Algorithm(
        lambda params: ServerState(params, params if average_last_two else (), jnp.float32(1.0)),
        client_update,
        server_update,
        params=last_two if average_last_two else lambda state: state.params,
        broadcast=lambda state: state.params,
        scalar_bounds=bounds,
        name="fed_exp",
        hparams={
            "eps": eps,
            "max_norm": max_norm,
            "average_last_two": average_last_two,
            **local,
        },
    )


def _squared_norm(tree: Any) -> jax.Array:
    # Not the square of a norm, which has no derivative at zero.
    return sum((jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)), jnp.float32(0.0))
