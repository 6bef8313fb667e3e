"""FedDyn: each client's loss gets a linear and a quadratic term, so that local optima agree with the global one.

    client k:   w_k = argmin over v of  f_k(v) - <l_k, v> + alpha/2 ||v - w||^2     (local steps from w)
                delta_k = w - w_k
                l_k     = l_k + alpha delta_k          kept at the client; the gradient of f_k at w_k, if solved exactly
    server:     h = h + alpha / m  sum over participants of delta_k
                w = w - mean of delta_k - h / alpha

m counts all clients, absent ones included, so h is the mean of all clients' l_k. Where nothing moves any more, every
l_k is the client's gradient and their mean h is zero: the true optimum, whatever the number of local steps.

Source: Acar, Zhao, Matas, Mattina, Whatmough, Saligrama (2021), "Federated Learning Based on Dynamic Regularization",
https://arxiv.org/abs/2111.04263, algorithm 1.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.length import local_length


class ServerState(NamedTuple):
    """The server's model and the mean of all clients' linear terms.

    Attributes:
      params: the model that clients start from, the paper's theta.
      h: pytree like the trainable parameters.
    """

    params: Any
    h: Any


def fed_dyn(
    loss_fn: Callable[..., Any],
    *,
    alpha: Any,
    num_clients: int,
    client_optimizer: optax.GradientTransformation,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
    evaluate: Literal["server", "clients"] = "server",
) -> fl.Algorithm:
    """Federated learning with dynamic regularization.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      alpha: the paper's regularization, above 0; 0.1 and 0.01 are usual. A smaller one lets the server move further.
      num_clients: m, all clients of the population, not those of a round.
      client_optimizer: optax optimizer of the local steps; its state is fresh in every round.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.
      evaluate: which model is evaluated and exported (`rounds.params(state)`): "server", theta, which is also
        `state.params`, or "clients", the mean of the last participants' models, which theta leads by h / alpha.

    Returns:
      an `fl.Algorithm` with the l_k as client state. Every client weighs 1, as in the paper; h follows from the mean
      delta and the total weight, so one vector crosses the wire. Its info is that of `fed_avg`. There is no server
      optimizer: the server's step is part of the method. A round in which nobody reports changes nothing. Clipping
      and noise on the way change h but not the clients' l_k, and so move the fixed point; under `fl.mean(over=C)` h
      moves by the share of participants in C.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Source: Acar et al. (2021), https://arxiv.org/abs/2111.04263, algorithm 1.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_dyn(loss, alpha=0.1, num_clients=100, client_optimizer=optax.sgd(0.1)).name
      'fed_dyn'
    """
    alpha = fl.checks.positive(alpha=alpha)
    num_clients = fl.checks.positive_int(
        num_clients=num_clients, remedy="It is the number of clients in the population."
    )
    evaluate = fl.checks.one_of(("server", "clients"), evaluate=evaluate)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    train = fl.local_sgd(loss_fn, client_optimizer=client_optimizer, lower=lower, **local)
    server_optimizer = optax.sgd(1.0)

    def zeros(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, fl.trainable(params))

    def times(number: Any, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(number, jnp.float32).astype(leaf.dtype) * leaf, tree)

    def client_update(shared: Any, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        start = fl.trainable(shared)

        def correct(grads: Any, params: Any) -> Any:
            pull = times(alpha, jax.tree.map(jnp.subtract, fl.trainable(params), start))
            return jax.tree.map(lambda g, p, linear: g + p - linear, grads, pull, own)

        result = train(shared, data, correct)
        new = jax.tree.map(jnp.add, own, times(alpha, fl.trainable(result.delta)))
        info = {**result.metrics, "local_steps": result.num_steps}
        return fl.ClientOutput(result.delta, jnp.int32(1), client_state=new, info=info)

    def server_update(state: ServerState, aggregate: fl.Aggregate, key: jax.Array) -> ServerState:
        del key
        mean = fl.trainable(aggregate.value)
        share = jnp.asarray(alpha, jnp.float32) * aggregate.weight / num_clients
        h = jax.tree.map(lambda old, d: old + (share * d.astype(jnp.float32)).astype(old.dtype), state.h, mean)
        step = jax.tree.map(lambda d, lead: d + lead.astype(d.dtype), mean, times(1.0 / alpha, h))
        params, _ = fl.apply_delta(
            server_optimizer, state.params, fl.with_trainable(aggregate.value, step), server_optimizer.init(mean)
        )
        reported = aggregate.num_clients > 0
        return jax.tree.map(lambda new, old: jnp.where(reported, new, old), ServerState(params, h), state)

    def clients_model(state: ServerState) -> Any:
        lead = times(1.0 / alpha, state.h)
        return fl.with_trainable(state.params, jax.tree.map(jnp.add, fl.trainable(state.params), lead))

    return fl.Algorithm(
        lambda params: ServerState(params, zeros(params)),
        client_update,
        server_update,
        params=(lambda state: state.params) if evaluate == "server" else clients_model,
        broadcast=lambda state: state.params,
        init_client=zeros,
        name="fed_dyn",
        hparams={
            "alpha": alpha,
            "num_clients": num_clients,
            **local,
            "evaluate": evaluate,
        },
    )
