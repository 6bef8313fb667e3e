"""pFedMe: personal models solve a problem of their own around the local one, which follows them; Moreau envelopes.

    client k:   w_k = w;  R times, on a fresh batch D,
                    theta_k ~ argmin_theta f_k(theta; D) + lam/2 |theta - w_k|^2      K steps of an optimizer
                    w_k = w_k - eta lam (w_k - theta_k)
                delta_k = w - w_k
    server:     w = (1 - beta) w + beta sum_k n_k w_k / sum_k n_k

lam (w - theta(w)) is the gradient of the Moreau envelope F_k(w) = min_theta f_k(theta) + lam/2 |theta - w|^2, so the
shared model descends on the mean of the envelopes. The personal model of client k is its last theta_k.

Sources:
  Dinh, Tran, Nguyen (2020), "Personalized Federated Learning with Moreau Envelopes", https://arxiv.org/abs/2006.08848,
  algorithm 1. There all clients compute and a subset reports; here the subset is all that computes.
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
      personal: its own model theta_k, a pytree like the shared one.
      joined: bool scalar, whether it ever trained; before that its model is the shared one of the moment.
    """

    personal: Any
    joined: jax.Array


class _Carry(NamedTuple):
    params: Any
    personal: Any
    sums: dict[str, jax.Array]
    weight: jax.Array
    steps: jax.Array


def p_fed_me(
    loss_fn: Callable[..., Any],
    *,
    lam: Any,
    eta: Any,
    inner_steps: int,
    personal_optimizer: optax.GradientTransformation,
    beta: Any = 1.0,
    accuracy: Any = 0.0,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """pFedMe: a shared model and personal ones, coupled by Moreau envelopes.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      lam: lambda, above 0: how firmly a personal model is held to the local one. The paper uses 15 and more.
      eta: local rate, above 0, of the steps `eta lam (w - theta)`; eta lam = 1 moves the local model onto the personal.
      inner_steps: K, the most steps that a personal model takes on each batch.
      personal_optimizer: optax optimizer of these steps (the paper's personal learning rate); fresh for every batch.
      beta: how far the server goes towards the clients' mean; 1 takes the mean, the paper also uses 2.
      accuracy: nu; a personal model stops where the squared norm of its problem's gradient is at most this. 0 takes
        all K steps, unless the gradient vanishes.
      batch_size: size of D; None is the full batch.
      epochs: local steps as passes over a client's data; 1 if neither is given.
      steps: R, a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`; `params` is the shared model, `client_params` the client's theta_k. In every round theta_k
      starts from the received model and goes on from batch to batch. A client that never trained has the current
      shared model. Clients weigh by their examples; `fl.mean()` weighs them alike, as the paper's text does. Info is
      "loss" (of the personal model on each batch, before it is fitted to it), the loss's metrics, and "local_steps"
      (R). State that is not trained (BatchNorm's) is the personal model's on both sides.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> p_fed_me(loss, lam=15.0, eta=0.01, inner_steps=5, personal_optimizer=optax.sgd(0.05), steps=20).name
      'p_fed_me'
    """
    lam, eta, beta = fl.checks.positive(lam=lam, eta=eta, beta=beta)
    accuracy = fl.checks.nonnegative(accuracy=accuracy)
    inner_steps = fl.checks.positive_int(inner_steps=inner_steps)
    fl.check_optimizer(personal_optimizer=personal_optimizer)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    base = fed_avg(loss_fn, client_optimizer=personal_optimizer, server_optimizer=optax.sgd(beta), lower=lower, **local)
    length = Length(batch_size, base.hparams["epochs"], base.hparams["steps"], shuffle)
    solve = _solver(personal_optimizer, lam, accuracy, inner_steps)

    def step(carry: _Carry, gradient: Gradient) -> _Carry:
        personal, seen = solve(carry.personal, fl.trainable(carry.params), gradient)
        follow = lambda w, theta: w - jnp.asarray(eta, w.dtype) * jnp.asarray(lam, w.dtype) * (w - theta)  # noqa: E731
        moved = jax.tree.map(follow, fl.trainable(carry.params), fl.trainable(personal))
        means = {"loss": seen.loss, **seen.metrics}
        sums = jax.tree.map(lambda total, mean: total + mean * seen.weight, carry.sums, means)
        # State that is not trained follows the personal model: the local one is never evaluated.
        params = fl.with_trainable(personal, moved)
        return _Carry(params, personal, sums, carry.weight + seen.weight, carry.steps + 1)

    def client_update(shared: Any, own: ClientState, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local steps take their keys from the client's view
        gradient = fl.value_and_grad(loss_fn, lower=lower, lanes=data.wave.num_lanes, platform=data.wave.platform)
        carry = local_steps(data, gradient, shared, lambda shapes: _start(shared, shapes), step, length)
        seen = jnp.where(carry.weight > 0, carry.weight, 1.0)
        info = {name: total / seen for name, total in carry.sums.items()}
        return fl.ClientOutput(
            jax.tree.map(jnp.subtract, shared, carry.params),
            data.num_examples,
            client_state=ClientState(carry.personal, own.joined | (data.num_examples > 0)),
            info={**info, "local_steps": carry.steps},
        )

    own_hparams = {"lam": lam, "eta": eta, "inner_steps": inner_steps, "beta": beta, "accuracy": accuracy}
    return base._replace(
        client_update=client_update,
        init_client=lambda params: ClientState(params, jnp.bool_(False)),
        client_params=_personal,
        name="p_fed_me",
        hparams={**base.hparams, **own_hparams},
    )


def _start(params: Any, shapes: fl.BatchLoss) -> _Carry:
    zeros = {"loss": jnp.float32(0.0), **{name: jnp.float32(0.0) for name in shapes.metrics}}
    return _Carry(params, params, zeros, jnp.float32(0.0), jnp.int32(0))


def _personal(shared: Any, own: ClientState) -> Any:
    return jax.tree.map(lambda theta, w: jnp.where(own.joined, theta, w), own.personal, shared)


def _solver(
    optimizer: optax.GradientTransformation, lam: Any, accuracy: Any, inner_steps: int
) -> Callable[[Any, Any, Gradient], tuple[Any, fl.BatchLoss]]:
    """`solve(theta, anchor, gradient)`: K steps on f(theta) + lam/2 |theta - anchor|^2, and the loss before them."""

    def solve(theta: Any, anchor: Any, gradient: Gradient) -> tuple[Any, fl.BatchLoss]:
        def one(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], fl.BatchLoss]:
            theta, optimizer_state = carry
            reduced, grads = gradient(theta)
            pull = lambda g, t, w: g + jnp.asarray(lam, t.dtype) * (t - w)  # noqa: E731
            grads = jax.tree.map(pull, grads, fl.trainable(theta), anchor)
            updates, new_state = optimizer.update(grads, optimizer_state, fl.trainable(theta))
            stepped = fl.with_trainable(theta, optax.apply_updates(fl.trainable(theta), updates))
            new = (fl.with_state(stepped, reduced.state), new_state)
            # `at most` and not `more than`: a NaN goes on, so that the engine sees and counts it.
            done = jnp.square(fl.global_norm(grads)) <= jnp.asarray(accuracy, jnp.float32)
            return jax.tree.map(lambda a, b: jnp.where(done, b, a), new, carry), reduced._replace(state=None)

        (theta, _), seen = jax.lax.scan(one, (theta, optimizer.init(anchor)), None, length=inner_steps)
        return theta, jax.tree.map(lambda leaf: leaf[0], seen)

    return solve
