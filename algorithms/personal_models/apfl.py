"""APFL: each client predicts with a mixture of the shared model and one of its own.

    client k:   w_k = w;  in every local step, on one batch,
                    m_k = alpha_k v_k + (1 - alpha_k) w_k
                    w_k = w_k - eta grad f_k(w_k)
                    v_k = v_k - eta alpha_k grad f_k(m_k)           the gradient of f_k(m_k) with respect to v_k
                and, where alpha adapts, in the first step of a round
                    alpha_k = clip(alpha_k - eta_alpha <v_k - w_k, grad f_k(m_k)>, 0, 1)
                delta_k = w - w_k
    server:     w = server_optimizer(w, sum_k n_k delta_k / sum_k n_k)

All right hand sides hold the values before the step. The personal model is alpha_k v_k + (1 - alpha_k) w.

Sources:
  Deng, Kamani, Mahdavi (2020), "Adaptive Personalized Federated Learning", https://arxiv.org/abs/2003.13461,
  algorithm 1 (local descent APFL), and the gradient rule for alpha, which the paper applies once a round.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg
from fedjaxlite.algorithms.pieces.length import local_length
from fedjaxlite.algorithms.pieces.local_steps import Gradient, Length, local_steps


class ClientState(NamedTuple):
    """What a client keeps.

    Attributes:
      local: its own part v_k of the mixture, a pytree like the shared model.
      alpha: float32 scalar in [0, 1], its share of the mixture.
      joined: bool scalar, whether it ever trained; before that its model is the shared one of the moment.
    """

    local: Any
    alpha: jax.Array
    joined: jax.Array


class _Carry(NamedTuple):
    params: Any
    local: Any
    alpha: jax.Array
    optimizer_states: Any
    sums: dict[str, jax.Array]
    weight: jax.Array
    steps: jax.Array


def apfl(
    loss_fn: Callable[..., Any],
    *,
    alpha: Any,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    personal_optimizer: optax.GradientTransformation | None = None,
    alpha_rate: Any = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Adaptive personalized federated learning: a mixture of models, with a fixed or an adaptive share.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      alpha: the share of a client's own model, in [0, 1]; where it adapts, its start at every client. 0 is FedAvg.
      client_optimizer: optax optimizer of the local steps on the shared model.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      personal_optimizer: optax optimizer of the client's own model, fresh in every round; None is `client_optimizer`.
      alpha_rate: step size of the adaptive rule, once a round (the paper takes the local rate); None keeps alpha.
      batch_size: B; None is the full batch.
      epochs: E, passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`, whose `client_params` mixes the client's own model with the current shared one. The own model
      starts from the shared model of the client's first round; a client that never trained has the current shared
      model. Info is "loss" (of the shared model), "personal_loss" (of the mixture), the loss's metrics for both,
      "alpha" (after the round), and "local_steps". State that is not trained (BatchNorm's) is not mixed: the
      mixture has its own.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> apfl(loss, alpha=0.5, alpha_rate=0.1, client_optimizer=optax.sgd(0.1), epochs=5).name
      'apfl'
    """
    alpha = fl.checks.nonnegative(alpha=alpha)
    if not fl.checks.is_traced(alpha) and alpha > 1:
        raise ValueError(f"`alpha` is {alpha!r}; expected a number in [0, 1].")
    if alpha_rate is not None:
        alpha_rate = fl.checks.positive(alpha_rate=alpha_rate, remedy="Leave it out to keep alpha as it is.")
    length = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    base = fed_avg(loss_fn, client_optimizer=client_optimizer, server_optimizer=server_optimizer, lower=lower, **length)
    length = Length(batch_size, base.hparams["epochs"], base.hparams["steps"], shuffle)
    own_optimizer = client_optimizer if personal_optimizer is None else personal_optimizer
    fl.check_optimizer(personal_optimizer=own_optimizer)

    def step(carry: _Carry, gradient: Gradient) -> _Carry:
        first, second = carry.optimizer_states
        shared_loss, grads = gradient(carry.params)
        mixed_loss, mixed_grads = gradient(_mixture(carry.local, carry.params, carry.alpha))
        params, first = _descend(client_optimizer, carry.params, grads, first, shared_loss.state)
        own_grads = jax.tree.map(lambda g: carry.alpha.astype(g.dtype) * g, mixed_grads)
        local, second = _descend(own_optimizer, carry.local, own_grads, second, mixed_loss.state)
        share = carry.alpha
        if alpha_rate is not None:
            slope = _inner_product(carry.local, carry.params, mixed_grads)
            adapted = jnp.clip(share - jnp.asarray(alpha_rate, jnp.float32) * slope, 0.0, 1.0)
            share = jnp.where(carry.steps == 0, adapted, share)
        means = _means(shared_loss, mixed_loss)
        sums = jax.tree.map(lambda total, mean: total + mean * shared_loss.weight, carry.sums, means)
        return _Carry(params, local, share, (first, second), sums, carry.weight + shared_loss.weight, carry.steps + 1)

    def start(shared: Any, own: ClientState, shapes: fl.BatchLoss) -> _Carry:
        local = jax.tree.map(lambda v, w: jnp.where(own.joined, v, w), own.local, shared)
        states = (client_optimizer.init(fl.trainable(shared)), own_optimizer.init(fl.trainable(shared)))
        zeros = {name: jnp.float32(0.0) for name in _means(shapes, shapes)}
        return _Carry(shared, local, own.alpha, states, zeros, jnp.float32(0.0), jnp.int32(0))

    def client_update(shared: Any, own: ClientState, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local steps take their keys from the client's view
        gradient = fl.value_and_grad(loss_fn, lower=lower, lanes=data.wave.num_lanes, platform=data.wave.platform)
        carry = local_steps(data, gradient, shared, lambda shapes: start(shared, own, shapes), step, length)
        delta = jax.tree.map(jnp.subtract, shared, carry.params)
        state = ClientState(carry.local, carry.alpha, own.joined | (data.num_examples > 0))
        seen = jnp.where(carry.weight > 0, carry.weight, 1.0)
        info = {name: total / seen for name, total in carry.sums.items()}
        info = {**info, "alpha": carry.alpha, "local_steps": carry.steps}
        return fl.ClientOutput(delta, data.num_examples, client_state=state, info=info)

    def client_params(shared: Any, own: ClientState) -> Any:
        mixed = _mixture(own.local, shared, own.alpha)
        return jax.tree.map(lambda m, w: jnp.where(own.joined, m, w), mixed, shared)

    return base._replace(
        client_update=client_update,
        init_client=lambda params: ClientState(params, jnp.asarray(alpha, jnp.float32), jnp.bool_(False)),
        client_params=client_params,
        name="apfl",
        hparams={**base.hparams, "alpha": alpha, "alpha_rate": alpha_rate},
    )


def _mixture(local: Any, shared: Any, alpha: jax.Array) -> Any:
    """The trainable part mixed; what is not trained is that of `local`."""
    mix = lambda v, w: w + alpha.astype(v.dtype) * (v - w)  # noqa: E731
    return fl.with_trainable(local, jax.tree.map(mix, fl.trainable(local), fl.trainable(shared)))


def _descend(optimizer: Any, params: Any, grads: Any, optimizer_state: Any, state: Any) -> tuple[Any, Any]:
    updates, optimizer_state = optimizer.update(grads, optimizer_state, fl.trainable(params))
    params = fl.with_trainable(params, optax.apply_updates(fl.trainable(params), updates))
    return fl.with_state(params, state), optimizer_state


def _inner_product(local: Any, shared: Any, grads: Any) -> jax.Array:
    """<v - w, gradient>, summed in float32."""
    wide = lambda leaf: leaf.astype(jnp.float32)  # noqa: E731
    products = jax.tree.map(
        lambda v, w, g: jnp.sum((wide(v) - wide(w)) * wide(g)), fl.trainable(local), fl.trainable(shared), grads
    )
    return jax.tree.reduce(jnp.add, products, jnp.float32(0.0))


def _means(shared: fl.BatchLoss, mixed: fl.BatchLoss) -> dict[str, Any]:
    plain = {"loss": shared.loss, **shared.metrics}
    return {**plain, "personal_loss": mixed.loss, **{f"personal_{name}": v for name, v in mixed.metrics.items()}}
