"""Reptile: the shared model moves a part of the way towards the mean of the clients' trained models.

    client k:   w_k = w, trained for E epochs or a number of steps of any optimizer
                delta_k = w - w_k
    server:     w = w - epsilon (1/K) sum_k delta_k

Every client counts alike, as every task does in the paper. With epsilon = 1 this is FedAvg under `fl.mean()`; FedAvg
proper weighs clients by their examples. So FedAvg learns a start for fine-tuning just as Reptile does, which is why a
few local steps afterwards help (Jiang et al.): see `fl.evaluate_personalized` and `fine_tuned`.

Sources:
  Nichol, Achiam, Schulman (2018), "On First-Order Meta-Learning Algorithms", https://arxiv.org/abs/1803.02999,
  algorithm 2 (several tasks an iteration).
  Jiang, Konečný, Rush, Kannan (2019), "Improving Federated Learning Personalization via Model Agnostic Meta Learning",
  https://arxiv.org/abs/1909.12488, section 3 (the relation to FedAvg).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg
from fedjaxlite.algorithms.pieces.length import local_length
from fedjaxlite.algorithms.pieces.schedules import checked_rate


def reptile(
    loss_fn: Callable[..., Any],
    *,
    epsilon: Any,
    client_optimizer: optax.GradientTransformation,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Reptile on clients as tasks: local training, and an outer step of size epsilon along the mean delta.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      epsilon: outer step size above 0; or an optax schedule of it by rounds (the paper lets it fall to 0 linearly).
      client_optimizer: optax optimizer of the local steps; its state is fresh in every round.
      batch_size: B; None is the full batch.
      epochs: E, passes over a client's data; 1 if neither is given.
      steps: k, a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. Clients weigh 1 each, 0 without examples. `client_params` is the shared model: clients adapt
      it when they need it, and keep nothing.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> reptile(loss, epsilon=0.5, client_optimizer=optax.sgd(0.1), steps=5).name
      'reptile'
    """
    epsilon = checked_rate(epsilon=epsilon)
    outer_optimizer = optax.sgd(epsilon)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    base = fed_avg(loss_fn, client_optimizer=client_optimizer, server_optimizer=outer_optimizer, lower=lower, **local)

    def client_update(shared: Any, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        output = base.client_update(shared, client_state, data, key)
        return output._replace(weight=(data.num_examples > 0).astype(jnp.int32))

    hparams = {**base.hparams, "epsilon": epsilon}
    return base._replace(client_update=client_update, name="reptile", hparams=hparams)
