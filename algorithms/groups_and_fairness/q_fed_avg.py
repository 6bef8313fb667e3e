"""q-FedAvg and q-FedSGD: clients with higher losses weigh more, for losses that are more alike.

The objective is  sum_k p_k F_k(w)^(q + 1) / (q + 1);  q = 0 is the mean loss, q -> infinity the worst client's.

    client k:   w_k      = w, after local SGD of rate 1 / L
                d_k      = w - w_k                                              the paper's Delta w_k is L d_k
                delta_k  = F_k(w)^q d_k
                h_k      = F_k(w)^q + q L F_k(w)^(q - 1) ||d_k||^2
    server:     w = w - sum_k delta_k / sum_k h_k

These are the paper's Delta_k and h_k, both divided by L, which leaves their ratio as it is. h_k / F_k^q bounds how fast
the gradient of F_k^(q+1) / (q+1) changes, where L bounds it for F_k: a rate that was tuned for FedAvg serves every q.

Source: Li, Sanjabi, Beirami, Smith (2020), "Fair Resource Allocation in Federated Learning",
https://arxiv.org/abs/1905.10497, algorithms 1 (q-FedSGD) and 2 (q-FedAvg).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.client_loss import client_loss
from fedjaxlite.algorithms.pieces.length import local_length

# A client whose loss is zero keeps a finite weight F^(q - 1); of the size that the authors' program adds.
_SMALLEST_LOSS = 1e-10


class QFedAvgState(NamedTuple):
    """The server's state.

    Attributes:
      params: the model.
    """

    params: Any


def q_fed_avg(
    loss_fn: Callable[..., Any],
    *,
    q: Any,
    client_lr: Any,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """q-FedAvg: federated averaging in which a client's pull grows with its loss to the power q.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`. Losses are at least 0.
      q: at least 0, how much fairness; 0 is federated averaging with equal weights. A number or a tracer.
      client_lr: the rate of local SGD, 1 / L; the client's optimizer is plain SGD, since the server's step size follows
        from L. A number above 0 or a tracer.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. The update has the parts "delta" and "normalizer" (h_k), so that their ratio needs no more than
      sums; a clip norm shortens both alike, which bounds a client's say and not its direction. Every client weighs 1
      and one without examples 0: the paper's p_k are the chances with which clients are drawn. Its info is "loss" (of
      local training), the loss's own metrics, "start_loss" (F_k) and "local_steps". Statistics that are not trained
      (BatchNorm) are averaged evenly.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Source: Li et al. (2020), https://arxiv.org/abs/1905.10497, algorithm 2.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> q_fed_avg(loss, q=1.0, client_lr=0.1).name
      'q_fed_avg'
    """
    q = fl.checks.number(q=fl.checks.nonnegative(q=q))
    client_lr = fl.checks.positive(client_lr=client_lr)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    train = fl.local_sgd(loss_fn, client_optimizer=optax.sgd(client_lr), lower=lower, **local)
    evaluate = client_loss(loss_fn, lower=lower)
    server_optimizer = optax.sgd(1.0)

    def client_update(shared: Any, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        start_loss = evaluate(shared, data)
        result = train(shared, data)
        fair_q = jnp.asarray(q, jnp.float32)
        floored = jnp.maximum(start_loss, 0.0) + _SMALLEST_LOSS
        pull = floored**fair_q
        step = fl.trainable(result.delta)
        curvature = fair_q * floored ** (fair_q - 1) * fl.global_norm(step) ** 2 / jnp.asarray(client_lr, jnp.float32)
        present = (data.num_examples > 0).astype(jnp.int32)
        update = {
            "delta": fl.with_trainable(result.delta, jax.tree.map(lambda d: d * pull.astype(d.dtype), step)),
            "normalizer": jnp.where(present > 0, pull + curvature, 0.0),
        }
        info = {**result.metrics, "start_loss": start_loss, "local_steps": result.num_steps}
        return fl.ClientOutput(update, present, client_state=client_state, info=info)

    def server_update(state: QFedAvgState, aggregate: fl.Aggregate, key: jax.Array) -> QFedAvgState:
        del key
        mean, normalizer = aggregate.value["delta"], aggregate.value["normalizer"]
        share = 1.0 / jnp.where(normalizer > 0, normalizer, 1.0)
        step = jax.tree.map(lambda d: d * share.astype(d.dtype), fl.trainable(mean))
        delta = fl.with_trainable(mean, step)
        stateless = server_optimizer.init(fl.trainable(state.params))
        return QFedAvgState(fl.apply_delta(server_optimizer, state.params, delta, stateless)[0])

    return fl.Algorithm(
        QFedAvgState,
        client_update,
        server_update,
        name="q_fed_avg",
        hparams={"q": q, "client_lr": client_lr, **local},
    )


def q_fed_sgd(
    loss_fn: Callable[..., Any], *, q: Any, server_lr: Any, lower: bool | Literal["auto"] = "auto"
) -> fl.Algorithm:
    """q-FedSGD: one full-batch gradient per client and round, weighed by the client's loss to the power q.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`. Losses are at least 0.
      q: at least 0, how much fairness; 0 is federated SGD with equal weights. A number or a tracer.
      server_lr: 1 / L, the rate with which federated SGD (q = 0) would go. A number above 0 or a tracer.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`: `q_fed_avg` with one local step on the full batch, so that d_k is a gradient over L.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Source: Li et al. (2020), https://arxiv.org/abs/1905.10497, algorithm 1.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> q_fed_sgd(loss, q=1.0, server_lr=0.1).hparams
      {'q': 1.0, 'server_lr': 0.1}
    """
    server_lr = fl.checks.positive(server_lr=server_lr)
    algorithm = q_fed_avg(loss_fn, q=q, client_lr=server_lr, batch_size=None, epochs=1, lower=lower)
    return algorithm._replace(name="q_fed_sgd", hparams={"q": q, "server_lr": server_lr})
