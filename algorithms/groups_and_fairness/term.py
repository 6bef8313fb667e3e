"""Tilted federated averaging (TERM): clients weigh by the exponential of their loss.

The objective is  1/t log( sum_k p_k exp(t F_k(w)) ),  p_k = n_k / n:  the mean loss for t = 0, towards the largest loss
for t > 0 (fairness) and the smallest for t < 0 (robustness). Its gradient weighs clients by p_k exp(t F_k).

    client k:   s_k      = exp(t (F_k(w) - R))
                delta_k  = s_k (w - w_k),  w_k trained from w
    server:     m = sum_k p_k s_k
                w = server_optimizer(w, sum_k p_k delta_k / m)
                R = R + 1/t log(m)

R is broadcast: the tilted loss of the last round, so that the exponents stay near zero. It cancels in the step, where
the clients' own s_k are the denominator, so that an old R costs no accuracy. Under partial participation the weights
are exact among the clients of a round, and the step an estimate of all clients' with a bias that falls with the cohort.

Source: Li, Beirami, Sanjabi, Smith (2021), "Tilted Empirical Risk Minimization", https://arxiv.org/abs/2007.01162:
the tilted gradient, tilting of groups (here the groups are the clients), and the stochastic solver, which estimates R
as it goes.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.client_loss import client_loss
from fedjaxlite.algorithms.pieces.length import local_length

_LARGEST_EXPONENT = 60.0  # float32 holds sums of what this gives, and its inverse


class TermState(NamedTuple):
    """The server's state.

    Attributes:
      params: the model.
      optimizer_state: the server optimizer's.
      tilted_loss: float32 scalar, R; zero before the first round.
    """

    params: Any
    optimizer_state: Any
    tilted_loss: jax.Array


class _Shared(NamedTuple):
    params: Any
    tilted_loss: jax.Array


def term(
    loss_fn: Callable[..., Any],
    *,
    t: Any,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Tilted empirical risk minimization over clients, with any number of local steps.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      t: the tilt, a finite number or a tracer; 0 is federated averaging.
      client_optimizer: optax optimizer of the local steps; its state is fresh in every round.
      server_optimizer: optax optimizer that gets the tilted mean delta for a gradient; None is SGD with rate 1.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. The update has the parts "delta" and "normalizer" (s_k); a clip norm shortens both alike. A
      client weighs as many as it has examples (`fl.mean()` gives the objective with p_k = 1 / K). Exponents beyond 60
      in size are cut: in the first rounds, while R finds the scale of the losses, clients there count alike. Its info
      is "loss" (of local training), the loss's own metrics, "start_loss" (F_k) and "local_steps". Statistics that are
      not trained (BatchNorm) are averaged without tilt.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Source: Li et al. (2021), https://arxiv.org/abs/2007.01162.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> term(loss, t=2.0, client_optimizer=optax.sgd(0.1)).name
      'term'
    """
    t = fl.checks.number("Above 0 is for fairness, below 0 for robustness.", t=t)
    server_optimizer = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    fl.check_optimizer(server_optimizer=server_optimizer)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    train = fl.local_sgd(loss_fn, client_optimizer=client_optimizer, lower=lower, **local)
    evaluate = client_loss(loss_fn, lower=lower)

    def init(params: Any) -> TermState:
        return TermState(params, server_optimizer.init(fl.trainable(params)), jnp.float32(0.0))

    def client_update(shared: _Shared, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        start_loss = evaluate(shared.params, data)
        result = train(shared.params, data)
        exponent = jnp.asarray(t, jnp.float32) * (start_loss - shared.tilted_loss)
        tilt = jnp.exp(jnp.clip(exponent, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
        tilt = jnp.where(data.num_examples > 0, tilt, 0.0)
        step = jax.tree.map(lambda d: d * tilt.astype(d.dtype), fl.trainable(result.delta))
        update = {"delta": fl.with_trainable(result.delta, step), "normalizer": tilt}
        info = {**result.metrics, "start_loss": start_loss, "local_steps": result.num_steps}
        return fl.ClientOutput(update, result.num_examples, client_state=client_state, info=info)

    def server_update(state: TermState, aggregate: fl.Aggregate, key: jax.Array) -> TermState:
        del key
        mean, total = aggregate.value["delta"], aggregate.value["normalizer"]
        total = jnp.where(total > 0, total, 1.0)
        step = jax.tree.map(lambda d: d / total.astype(d.dtype), fl.trainable(mean))
        delta = fl.with_trainable(mean, step)
        params, optimizer_state = fl.apply_delta(server_optimizer, state.params, delta, state.optimizer_state)
        tilt = jnp.asarray(t, jnp.float32)
        moved = jnp.log(total) / jnp.where(tilt == 0, 1.0, tilt)
        return TermState(params, optimizer_state, state.tilted_loss + moved)

    return fl.Algorithm(
        init,
        client_update,
        server_update,
        broadcast=lambda state: _Shared(state.params, state.tilted_loss),
        client_params=lambda shared, client_state: shared.params,
        name="term",
        hparams={"t": t, **local},
    )
