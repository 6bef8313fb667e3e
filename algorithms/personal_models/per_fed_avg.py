"""Per-FedAvg: a shared model from which one gradient step on a client's own data leads to a good model for it.

    client k:   w_k = w;  tau times, on three batches D, D', D'' of its own,
                    u = w_k - alpha grad f_k(w_k; D)
                    g = grad f_k(u; D')
                    w_k = w_k - beta (g - alpha hessian f_k(w_k; D'') g)
                delta_k = w - w_k
    server:     w = server_optimizer(w, sum_k n_k delta_k / sum_k n_k)

This descends on F_k(w) = f_k(w - alpha grad f_k(w)), the loss after adaptation. The product with the Hessian is left
out ("fo", first order), taken as a difference of gradients,
(grad f_k(w + delta g; D'') - grad f_k(w - delta g; D'')) / (2 delta) ("hf", Hessian-free), or exact ("exact").

Sources:
  Fallah, Mokhtari, Ozdaglar (2020), "Personalized Federated Learning: A Meta-Learning Approach",
  https://arxiv.org/abs/2002.07948, algorithm 1 and its two approximations, Per-FedAvg (FO) and Per-FedAvg (HF).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg
from fedjaxlite.algorithms.personal_models.fine_tuning import fine_tuned
from fedjaxlite.algorithms.pieces.length import local_length
from fedjaxlite.algorithms.pieces.local_steps import Gradient, Length, local_steps

Gradients = tuple[Gradient, ...]
VARIANTS = ("fo", "hf", "exact")


class _Carry(NamedTuple):
    params: Any
    optimizer_state: Any
    sums: dict[str, jax.Array]
    weight: jax.Array
    steps: jax.Array


def per_fed_avg(
    loss_fn: Callable[..., Any],
    *,
    alpha: Any,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    variant: Literal["fo", "hf", "exact"] = "hf",
    delta: Any = 1e-3,
    keep: bool = False,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Personalized federated averaging by meta-learning, in the style of MAML.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      alpha: rate of the adaptation step, above 0.
      client_optimizer: optax optimizer of the local steps; `optax.sgd(beta)` is the paper's.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      variant: "fo", "hf" or "exact": what stands for the product with the Hessian. "hf" takes two gradients more a
        step than "fo", "exact" one forward derivative of a gradient.
      delta: half the distance of the two gradients of "hf", in units of g; too small and rounding takes over.
      keep: each client keeps the model that it gets from the received one by one step of rate alpha on one batch.
      batch_size: size of each of D, D' and D''; None is the full batch, the same for all three.
      epochs: local steps as passes over a client's data; 1 if neither is given. D, D' and D'' each make the passes,
        in orders of their own.
      steps: tau, a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order, which makes the three batches one.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. Its `params` is the start of adaptation. Adapting takes a client's data, so `client_params` is
      the shared model too, unless `keep`: then it is the client's last adapted model. Use
      `fl.evaluate_personalized(..., client_optimizer=optax.sgd(alpha))` for the model of every client as it would be
      now. Info is "loss" (after adaptation, on D'), the loss's metrics there, and "local_steps". Clients weigh by
      their examples; `fl.mean()` weighs them alike, as the paper does.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> per_fed_avg(loss, alpha=0.01, client_optimizer=optax.sgd(0.001), variant="fo", steps=4).name
      'per_fed_avg'
    """
    keep = fl.checks.flag(keep=keep)
    alpha, delta = fl.checks.positive(alpha=alpha, delta=delta)
    variant = fl.checks.one_of(VARIANTS, variant=variant)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    base = fed_avg(loss_fn, client_optimizer=client_optimizer, server_optimizer=server_optimizer, lower=lower, **local)
    length = Length(batch_size, base.hparams["epochs"], base.hparams["steps"], shuffle)
    meta_gradient = _meta_gradient(variant, alpha, delta)

    def step(carry: _Carry, *gradients: Gradient) -> _Carry:
        reduced, grads = meta_gradient(carry.params, gradients)
        updates, state = client_optimizer.update(grads, carry.optimizer_state, fl.trainable(carry.params))
        params = fl.with_trainable(carry.params, optax.apply_updates(fl.trainable(carry.params), updates))
        means = {"loss": reduced.loss, **reduced.metrics}
        sums = jax.tree.map(lambda total, mean: total + mean * reduced.weight, carry.sums, means)
        params = fl.with_state(params, reduced.state)
        return _Carry(params, state, sums, carry.weight + reduced.weight, carry.steps + 1)

    def start(shared: Any, shapes: fl.BatchLoss) -> _Carry:
        zeros = {"loss": jnp.float32(0.0), **{name: jnp.float32(0.0) for name in shapes.metrics}}
        return _Carry(shared, client_optimizer.init(fl.trainable(shared)), zeros, jnp.float32(0.0), jnp.int32(0))

    def client_update(shared: Any, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local steps take their keys from the client's view
        gradient = fl.value_and_grad(loss_fn, lower=lower, lanes=data.wave.num_lanes, platform=data.wave.platform)
        carry = local_steps(data, gradient, shared, lambda shapes: start(shared, shapes), step, length, batches=3)
        seen = jnp.where(carry.weight > 0, carry.weight, 1.0)
        info = {name: total / seen for name, total in carry.sums.items()}
        return fl.ClientOutput(
            jax.tree.map(jnp.subtract, shared, carry.params),
            data.num_examples,
            client_state=client_state,
            info={**info, "local_steps": carry.steps},
        )

    algorithm = base._replace(
        client_update=client_update,
        name="per_fed_avg",
        hparams={**base.hparams, "alpha": alpha, "variant": variant, "delta": delta, "keep": keep},
    )
    if not keep:
        return algorithm
    adapted = fine_tuned(
        algorithm,
        loss_fn,
        client_optimizer=optax.sgd(alpha),
        batch_size=batch_size,
        steps=1,
        shuffle=shuffle,
        lower=lower,
    )
    return adapted._replace(name=algorithm.name, hparams=algorithm.hparams)


def _meta_gradient(variant: str, alpha: Any, delta: Any) -> Callable[[Any, Gradients], tuple[fl.BatchLoss, Any]]:
    """`(params, gradients on D, D', D'') -> (loss after adaptation, gradient)`, by the variant's approximation."""

    def shifted(params: Any, scale: Any, direction: Any) -> Any:
        move = lambda w, d: w + jnp.asarray(scale, w.dtype) * d  # noqa: E731
        return fl.with_trainable(params, jax.tree.map(move, fl.trainable(params), direction))

    def difference(params: Any, gradient: Gradient, direction: Any) -> Any:
        _, ahead = gradient(shifted(params, delta, direction))
        _, behind = gradient(shifted(params, -delta, direction))
        return jax.tree.map(lambda a, b: (a - b) / jnp.asarray(2 * delta, a.dtype), ahead, behind)

    def product(params: Any, gradient: Gradient, direction: Any) -> Any:
        of_part = lambda part: gradient(fl.with_trainable(params, part))[1]  # noqa: E731
        return jax.jvp(of_part, (fl.trainable(params),), (direction,))[1]

    def meta_gradient(params: Any, gradients: Gradients) -> tuple[fl.BatchLoss, Any]:
        inner, outer, curvature = gradients
        _, grads = inner(params)
        reduced, grads = outer(shifted(params, -alpha, grads))
        if variant == "fo":
            return reduced, grads
        bent = (difference if variant == "hf" else product)(params, curvature, grads)
        return reduced, jax.tree.map(lambda g, h: g - jnp.asarray(alpha, g.dtype) * h, grads, bent)

    return meta_gradient
