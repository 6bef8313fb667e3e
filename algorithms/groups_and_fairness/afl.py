"""Agnostic federated learning: the best model for the worst mixture of groups, by descent and ascent at once.

    min over w, max over lambda in the simplex of   sum_g lambda_g F_g(w)

F_g is the mean of the losses of group g's clients; every client can be a group of its own. With p_g, the share of all
clients that are in group g,

    client k of group g:   delta_k = lambda_g / p_g (w - w_k),  w_k trained from w
                           v_k     = F_k(w) / p_g at place g, zeros elsewhere
    server:                w      = server_optimizer(w, mean of delta_k)
                           lambda = projection of  lambda + lambda_lr mean of v_k  onto the simplex

With everyone present the means are sum_g lambda_g (mean delta of g) and the vector of the F_g. Where clients take part
at random, each with the same chance, they are unbiased estimates of these: a group that nobody speaks for in a round
adds nothing then, and more than its share in others. So small groups make noisy steps: use larger cohorts, or smaller
rates.

Sources:
  Mohri, Sivek, Suresh (2019), "Agnostic Federated Learning", https://arxiv.org/abs/1902.00146
  (Stochastic-AFL).
  Deng, Kamani, Mahdavi (2020), "Distributionally Robust Federated Averaging", https://arxiv.org/abs/2102.12660 (several
  local steps; losses of a uniformly drawn cohort, weighted to be unbiased).
  Duchi, Shalev-Shwartz, Singer, Chandra (2008), "Efficient Projections onto the l1-Ball for Learning in High
  Dimensions", ICML, figure 1 (the projection).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.client_loss import client_loss
from fedjaxlite.algorithms.pieces.length import local_length


class AflState(NamedTuple):
    """The server's state.

    Attributes:
      params: the model.
      optimizer_state: the server optimizer's.
      mixture: float32 `[G]`, lambda: non-negative, with sum 1.
    """

    params: Any
    optimizer_state: Any
    mixture: jax.Array


class _Shared(NamedTuple):
    params: Any
    mixture: jax.Array


def project_to_simplex(values: Any) -> jax.Array:
    """The point of the probability simplex that is nearest to a vector.

    Args:
      values: float `[G]`.

    Returns:
      float `[G]`, non-negative, with sum 1 up to rounding: max(values - theta, 0) with the theta that makes it so.

    Source: Duchi et al. (2008), figure 1.

    Example:
      >>> project_to_simplex(jnp.float32([0.5, 1.0, -1.0])).tolist()
      [0.25, 0.75, 0.0]
    """
    values = jnp.asarray(fl.checks.real_array(narrow=True, values=values, shape="[G]", ndim=1))
    if values.ndim != 1 or not values.shape[0]:
        raise ValueError(f"`values` has shape {list(values.shape)}; expected float [G], at least one.")
    values = values if jnp.issubdtype(values.dtype, jnp.floating) else values.astype(jnp.float32)
    ordered = jnp.sort(values)[::-1]
    count = jnp.arange(1, values.shape[0] + 1, dtype=values.dtype)
    thetas = (jnp.cumsum(ordered) - 1) / count
    last = jnp.sum((ordered > thetas).astype(jnp.int32)) - 1
    return jnp.maximum(values - thetas[jnp.maximum(last, 0)], 0)


def afl(
    loss_fn: Callable[..., Any],
    *,
    lambda_lr: Any,
    groups: Any,
    shares: Any = None,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Agnostic federated learning; with several local steps, distributionally robust federated averaging.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      lambda_lr: the rate of the ascent, above 0; a number or a tracer.
      groups: int `[N]`, the group of each client, from 0 to G - 1; `np.arange(N)` makes everyone a group. Or a function
        `groups(data) -> int32 scalar` of a client's view, together with `shares`.
      shares: float `[G]`, each group's share of the clients that may be drawn; counted from `groups` where that is an
        array.
      client_optimizer: optax optimizer of the local steps; its state is fresh in every round.
      server_optimizer: optax optimizer that gets the mixed delta for a gradient; None is SGD with rate 1.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. lambda starts at 1 / G and is broadcast with the model. The update has the parts "delta" and
      "losses" (v_k, `[G]`); a clip norm counts both. Every client weighs 1, one without examples 0. Its info is "loss"
      (of local training), the loss's own metrics, "start_loss" (F_k) and "local_steps". Statistics that are not trained
      (BatchNorm) are averaged evenly. The paper's guarantee is for the mean of all rounds' models; `params` is the last
      one.

    Raises:
      TypeError, ValueError: for arguments out of range, groups that are empty, or both `epochs` and `steps`.

    Source: Mohri et al. (2019), https://arxiv.org/abs/1902.00146.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> afl(loss, lambda_lr=0.1, groups=[0, 0, 1], client_optimizer=optax.sgd(0.1)).name
      'afl'
    """
    lambda_lr = fl.checks.positive(lambda_lr=lambda_lr)
    group_of, shares = _groups(groups, shares)
    server_optimizer = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    fl.check_optimizer(server_optimizer=server_optimizer)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    train = fl.local_sgd(loss_fn, client_optimizer=client_optimizer, lower=lower, **local)
    evaluate = client_loss(loss_fn, lower=lower)
    num_groups = len(shares)

    def init(params: Any) -> AflState:
        mixture = jnp.full((num_groups,), 1.0 / num_groups, jnp.float32)
        return AflState(params, server_optimizer.init(fl.trainable(params)), mixture)

    def client_update(shared: _Shared, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        group = group_of(data)
        share = jnp.asarray(shares)[group]
        start_loss = evaluate(shared.params, data)
        result = train(shared.params, data)
        pull = shared.mixture[group] / share
        step = jax.tree.map(lambda d: d * pull.astype(d.dtype), fl.trainable(result.delta))
        losses = jnp.zeros((num_groups,), jnp.float32).at[group].set(start_loss / share)
        update = {"delta": fl.with_trainable(result.delta, step), "losses": losses}
        info = {**result.metrics, "start_loss": start_loss, "local_steps": result.num_steps}
        weight = (data.num_examples > 0).astype(jnp.int32)
        return fl.ClientOutput(update, weight, client_state=client_state, info=info)

    def server_update(state: AflState, aggregate: fl.Aggregate, key: jax.Array) -> AflState:
        del key
        params, optimizer_state = fl.apply_delta(
            server_optimizer, state.params, aggregate.value["delta"], state.optimizer_state
        )
        ascent = jnp.asarray(lambda_lr, jnp.float32) * aggregate.value["losses"]
        return AflState(params, optimizer_state, project_to_simplex(state.mixture + ascent))

    return fl.Algorithm(
        init,
        client_update,
        server_update,
        broadcast=lambda state: _Shared(state.params, state.mixture),
        client_params=lambda shared, client_state: shared.params,
        name="afl",
        hparams={"lambda_lr": lambda_lr, "num_groups": num_groups, **local},
    )


def _groups(groups: Any, shares: Any) -> tuple[Callable[[fl.ClientData], jax.Array], np.ndarray]:
    """A function from a client's view to its group, and the groups' shares."""
    if callable(groups):
        if shares is None:
            raise ValueError(
                "`groups` is a function and `shares` is None; expected each group's share of the clients, which cannot "
                "be counted from a function. Give `shares`, or an array of groups."
            )
        fl.checks.is_function_of("data", groups=groups)
        shares = fl.checks.real_array(narrow=True, shares=fl.checks.concrete(shares=shares), shape="[G]").astype(
            np.float32
        )
        if shares.ndim != 1 or not (shares > 0).all() or abs(float(shares.sum()) - 1) > 1e-3:
            raise ValueError(f"`shares` is {shares}; expected [G] numbers above 0 with sum 1.")
        return lambda data: jnp.asarray(groups(data), jnp.int32), shares
    table = fl.checks.as_array("groups", groups, "int [N], the group of each client, or a function of a client's data")
    if table.ndim != 1 or table.dtype.kind not in "iu" or not table.size:
        raise TypeError(
            f"`groups` is {table.dtype}{list(table.shape)}; expected int [N], the group of each client, or a function "
            "of a client's data."
        )
    if shares is not None:
        raise ValueError("`shares` is given, and is counted from `groups` where that is an array. Leave it out.")
    counts = np.bincount(table) if table.min() >= 0 and table.max() < table.size else np.zeros(1)
    if not counts.all():
        raise ValueError(
            f"`groups` has groups {np.unique(table).tolist()}; expected 0 to G - 1, each with at least one client. "
            "Number them by np.unique(groups, return_inverse=True)[1]."
        )
    on_device = table.astype(np.int32)
    return lambda data: jnp.asarray(on_device)[data.id], (counts / table.size).astype(np.float32)
