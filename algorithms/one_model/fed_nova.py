"""FedNova: normalized averaging, so that clients that take more local steps do not pull the model to their own optima.

    client i:   tau_i local steps of rate eta; its delta is eta times a sum of its gradients with coefficients a_i
                d_i = delta_i / |a_i|
    server:     w = w - tau_eff sum_i p_i d_i,      tau_eff = sum_i p_i |a_i|,      p_i = n_i / sum_k n_k

|a_i| is the sum of a_i's entries: by how many times eta the local solver would move along a gradient that stays one,

    plain SGD                       |a_i| = tau_i
    momentum rho                    |a_i| = (tau_i - rho (1 - rho^tau_i) / (1 - rho)) / (1 - rho)
    proximal term, alpha = eta mu   |a_i| = (1 - (1 - alpha)^tau_i) / alpha

It is counted beside the local steps by the recursion that they follow, m = rho m + 1 - alpha a, a = a + m, which gives
all of these and both options at once. Where all |a_i| are equal this is FedAvg.

Source: Wang, Liu, Liang, Joshi, Poor (2020), "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
Optimization", https://arxiv.org/abs/2007.07481, section 5 (FedNova) and 4.1 (a_i of each solver).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.length import local_length
from fedjaxlite.algorithms.pieces.proximal import proximal_pull


class FedNovaState(NamedTuple):
    """The server's state.

    Attributes:
      params: the model.
      optimizer_state: the server optimizer's.
    """

    params: Any
    optimizer_state: Any


class LocalSolver(NamedTuple):
    """The client optimizer's state.

    Attributes:
      momentum: pytree like the trainable parameters, or () without momentum.
      sum: float32 scalar, |a_i| so far.
      last: float32 scalar, by how much it grew in the last step.
    """

    momentum: Any
    sum: jax.Array
    last: jax.Array


def fed_nova(
    loss_fn: Callable[..., Any],
    *,
    client_lr: Any,
    rho: Any = 0.0,
    mu: Any = 0.0,
    tau_eff: Literal["norm", "steps"] = "norm",
    server_optimizer: optax.GradientTransformation | None = None,
    max_steps: int = 10_000,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """FedNova, for local SGD that is plain, has momentum, a proximal term, or both.

    The local solver is fixed to these, since its coefficients have to be known.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      client_lr: eta, a number above 0 or a tracer.
      rho: momentum of the local steps, in [0, 1).
      mu: weight of the proximal term of FedProx, at least 0 and at most 1 / `client_lr`.
      tau_eff: the effective steps: "norm" is the mean of |a_i|, with which equal clients give FedAvg (FedProx with mu);
        "steps" is the mean of tau_i, which makes up for how the proximal term slows clients down.
      server_optimizer: optax optimizer that gets tau_eff times the mean direction for a gradient; None is SGD with
        rate 1, one with momentum is the paper's server momentum.
      max_steps: the most local steps of any client, where `steps` does not tell; only bounds the scalar "tau", which is
        cut to what that many steps give, and is what a quantizer's levels of it are fractions of.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm` with the scalar "tau", a client's part in tau_eff, so that the server needs no more than sums. A
      client weighs as many as it has examples; its info is "loss", the loss's own metrics, "local_steps" and "norm". A
      straggler is normalized by the steps that it took. Statistics that are not trained (BatchNorm) are averaged as
      they are.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Source: Wang et al. (2020), https://arxiv.org/abs/2007.07481.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_nova(loss, client_lr=0.1, rho=0.5, steps=20).scalar_bounds["tau"]
      40.0
    """
    client_lr, rho, mu = _numbers(client_lr, rho, mu)
    tau_eff = fl.checks.one_of(("norm", "steps"), tau_eff=tau_eff)
    max_steps = fl.checks.positive_int("It is the most local steps of any client.", max_steps=max_steps)
    server = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    fl.check_optimizer(server_optimizer=server)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    train = fl.local_sgd(loss_fn, client_optimizer=_solver(client_lr, rho, mu), lower=lower, **local)
    pulled = fl.checks.is_traced(mu) or mu != 0
    most = float(local["steps"] if isinstance(local["steps"], int) else max_steps)
    bound = most if tau_eff == "steps" else most / (1.0 - rho)

    def init(params: Any) -> FedNovaState:
        return FedNovaState(params, server.init(fl.trainable(params)))

    def client_update(shared: Any, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key
        result = train(shared, data, proximal_pull(mu, shared) if pulled else None)
        norm = result.optimizer_state.sum
        share = jnp.where(result.num_steps > 0, 1.0 / jnp.where(result.num_steps > 0, norm, 1.0), 0.0)
        direction = jax.tree.map(lambda d: d * share.astype(d.dtype), fl.trainable(result.delta))
        info = {**result.metrics, "local_steps": result.num_steps, "norm": norm}
        tau = norm if tau_eff == "norm" else result.num_steps.astype(jnp.float32)
        update = fl.with_trainable(result.delta, direction)
        return fl.ClientOutput(update, result.num_examples, {"tau": jnp.minimum(tau, bound)}, client_state, info)

    def server_update(state: FedNovaState, aggregate: fl.Aggregate, key: jax.Array) -> FedNovaState:
        del key
        effective = aggregate.scalars["tau"]
        step = jax.tree.map(lambda d: effective.astype(d.dtype) * d, fl.trainable(aggregate.value))
        delta = fl.with_trainable(aggregate.value, step)
        return FedNovaState(*fl.apply_delta(server, state.params, delta, state.optimizer_state))

    return fl.Algorithm(
        init,
        client_update,
        server_update,
        scalar_bounds={"tau": bound},
        name="fed_nova",
        hparams={"client_lr": client_lr, "rho": rho, "mu": mu, "tau_eff": tau_eff, "max_steps": max_steps, **local},
    )


def _numbers(client_lr: Any, rho: Any, mu: Any) -> tuple[Any, Any, Any]:
    client_lr = fl.checks.positive(client_lr=client_lr)
    rho = fl.checks.fraction(rho=rho)
    mu = fl.checks.number(mu=fl.checks.nonnegative(mu=mu))
    if not fl.checks.is_traced((client_lr, mu)) and float(client_lr) * float(mu) > 1:
        raise ValueError(
            f"`client_lr` is {client_lr!r} and `mu` is {mu!r}; expected a product of at most 1, since a step along the "
            "proximal term alone would go past the server's model. Lower one of them."
        )
    return client_lr, rho, mu


def _solver(client_lr: Any, rho: Any, mu: Any) -> optax.GradientTransformation:
    """SGD with momentum that also counts |a_i|."""
    heavy = fl.checks.is_traced(rho) or rho != 0

    def init(params: Any) -> LocalSolver:
        return LocalSolver(jax.tree.map(jnp.zeros_like, params) if heavy else (), jnp.float32(0.0), jnp.float32(0.0))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, LocalSolver]:
        del params
        decayed = lambda m, g: jnp.asarray(rho, g.dtype) * m + g  # noqa: E731
        moved = jax.tree.map(decayed, state.momentum, updates) if heavy else updates
        last = rho * state.last + 1.0 - client_lr * mu * state.sum
        updates = jax.tree.map(lambda m: -jnp.asarray(client_lr, m.dtype) * m, moved)
        return updates, LocalSolver(moved if heavy else (), state.sum + last, last)

    return optax.GradientTransformation(init, update)
