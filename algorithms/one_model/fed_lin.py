"""FedLin: local gradients corrected to the global one, and step sizes that make up for unequal numbers of steps.

    client k:   y = x;  tau_k times:  y = y - eta / tau_k (grad f_k(y) - grad f_k(x) + g)
    server:     x = mean of y,   g = mean of grad f_k(x) at the new x

A client that takes more steps takes shorter ones, so all go equally far. The fixed point is the true optimum: there g
is zero, and no client moves.

The paper's g at the new x takes an exchange of its own. With `exchanges=1` clients send their gradient at the x that
they got beside their delta, so g is one round old: x follows grad f at the x before, which with one local step is
stable for eta below 1 / L instead of 2 / L, and the first round only measures. With `exchanges=2` g is the paper's: a
round of the paper is two rounds here, one that measures and one that trains. The paper's sparsified gradients are not
here; they are a matter of what crosses the wire.

Source: Mitra, Jaafar, Pappas, Hassani (2021), "Linear Convergence in Federated Learning: Tackling Client Heterogeneity
and Sparse Gradients", https://arxiv.org/abs/2102.07053, algorithm 1.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.length import local_length


class ServerState(NamedTuple):
    """The server's model and the clients' mean gradient.

    Attributes:
      params: the model.
      gradient: pytree like the trainable parameters, the paper's g.
      measuring: bool scalar, whether the next round measures g; empty unless an update takes two exchanges.
      optimizer_state: the server optimizer's.
    """

    params: Any
    gradient: Any
    measuring: Any
    optimizer_state: Any


class _Shared(NamedTuple):
    params: Any
    gradient: Any
    measuring: Any


def fed_lin(
    loss_fn: Callable[..., Any],
    *,
    client_lr: Any,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
    exchanges: Literal[1, 2] = 1,
) -> fl.Algorithm:
    """FedLin: linear convergence to the optimum of clients that differ in data and in speed.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      client_lr: eta, how far a client goes in a round: its own rate is eta over the number of its steps. The method's
        mathematics fixes plain SGD on clients, so this is a rate and no optimizer.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1, the paper's.
      batch_size: B; None is the full batch, the paper's.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.
      exchanges: 1, with a mean gradient that is one round old; or 2, the paper's, where even rounds measure and odd
        rounds train.

    Returns:
      an `fl.Algorithm`. With one exchange the update is {"delta", "gradient"}, with two it is the gradient in one round
      and the delta in the next. Clients weigh as many as they have examples; `fl.mean` gives the paper's equal weights.
      The paper has all clients take part; with fewer, g is the mean over those of the round before. A round in which
      nobody reports changes nothing. Its info is that of `fed_avg`.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Source: Mitra et al. (2021), https://arxiv.org/abs/2102.07053, algorithm 1.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_lin(loss, client_lr=0.1, steps=5).name
      'fed_lin'
    """
    client_lr = fl.checks.positive(client_lr=client_lr)
    exchanges = fl.checks.one_of((1, 2), exchanges=exchanges)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    server = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    fl.check_optimizer(server_optimizer=server)
    # The rate is a client's own, so it goes into the gradient, where it may differ between clients.
    run = fl.local_sgd(loss_fn, client_optimizer=optax.sgd(1.0), lower=lower, **local)

    def num_steps(data: fl.ClientData) -> jax.Array:
        if batch_size is None:  # each pass over all of the data is one step
            count = local["steps"] if local["epochs"] is None else local["epochs"]
            return data.batches(batch_size=1, steps=count).num_steps
        return data.batches(**local).num_steps

    def own_gradient(shared: _Shared, data: fl.ClientData) -> tuple[fl.BatchLoss, Any]:
        gradient = fl.value_and_grad(loss_fn, lower=lower, lanes=data.wave.num_lanes, platform=data.wave.platform)
        chunk = batch_size if getattr(loss_fn, "cross_example", False) else None
        return fl.full_gradient(gradient, shared.params, data, chunk_size=chunk or 256)

    def train(shared: _Shared, data: fl.ClientData, own: Any) -> tuple[Any, dict[str, Any]]:
        rate = jnp.asarray(client_lr, jnp.float32) / jnp.maximum(num_steps(data), 1).astype(jnp.float32)

        def correct(grads: Any, params: Any) -> Any:
            del params
            toward = lambda g, a, mean: rate.astype(g.dtype) * (g - a + mean)  # noqa: E731
            return jax.tree.map(toward, grads, own, shared.gradient)

        result = run(shared.params, data, correct)
        return result.delta, {**result.metrics, "local_steps": result.num_steps}

    def client_update(shared: _Shared, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        reduced, own = own_gradient(shared, data)
        if exchanges == 2:
            nothing = jax.tree.map(jnp.zeros_like, shared.params)
            info = {"loss": reduced.loss, **reduced.metrics, "local_steps": jnp.int32(0)}
            measured = (fl.with_trainable(nothing, own), info)
            update, info = jax.lax.cond(shared.measuring, lambda: measured, lambda: train(shared, data, own))
        else:
            delta, info = train(shared, data, own)
            update = {"delta": delta, "gradient": own}
        return fl.ClientOutput(update, data.num_examples, client_state=client_state, info=info)

    def server_update(state: ServerState, aggregate: fl.Aggregate, key: jax.Array) -> ServerState:
        del key
        delta, sent = (
            (aggregate.value, fl.trainable(aggregate.value))
            if exchanges == 2
            else (aggregate.value["delta"], aggregate.value["gradient"])
        )
        gradient = jax.tree.map(lambda g, old: g.astype(old.dtype), sent, state.gradient)
        params, optimizer_state = fl.apply_delta(server, state.params, delta, state.optimizer_state)
        if exchanges == 2:
            trained = ServerState(params, state.gradient, jnp.bool_(True), optimizer_state)
            waiting = state._replace(gradient=gradient, measuring=jnp.bool_(False))
            new = _select(state.measuring, waiting, trained)
        else:
            new = ServerState(params, gradient, (), optimizer_state)
        return _select(aggregate.num_clients > 0, new, state)

    def init(params: Any) -> ServerState:
        part = fl.trainable(params)
        measuring = jnp.bool_(True) if exchanges == 2 else ()
        return ServerState(params, jax.tree.map(jnp.zeros_like, part), measuring, server.init(part))

    return fl.Algorithm(
        init,
        client_update,
        server_update,
        broadcast=lambda state: _Shared(state.params, state.gradient, state.measuring),
        client_params=lambda shared, client_state: shared.params,
        name="fed_lin",
        hparams={
            "client_lr": client_lr,
            **local,
            "exchanges": exchanges,
        },
        in_rounds=exchanges == 2,
    )


def _select(condition: Any, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
