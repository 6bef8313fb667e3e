"""Ditto: federated averaging, and beside it a model of each client's own that is held near the shared one.

    client k:   w_k = w, trained as in FedAvg;  delta_k = w - w_k
                S steps of   v_k = v_k - eta (grad F_k(v_k) + lam (v_k - w))
    server:     w = server_optimizer(w, sum_k n_k delta_k / sum_k n_k)

The personal model v_k solves min_v F_k(v) + lam/2 |v - w|^2: lam = 0 is training alone, a large lam is the shared
model. The shared model never sees v_k, so it is FedAvg's, number by number.

Sources:
  Li, Hu, Beirami, Smith (2021), "Ditto: Fair and Robust Federated Learning Through Personalization",
  https://arxiv.org/abs/2012.04221, algorithm 1 (with FedAvg as its solver of the global objective).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg
from fedjaxlite.algorithms.pieces.length import local_length
from fedjaxlite.algorithms.pieces.proximal import proximal_pull


class ClientState(NamedTuple):
    """What a client keeps.

    Attributes:
      personal: its own model v_k, a pytree like the shared one.
      joined: bool scalar, whether it ever trained; before that its model is the shared one of the moment.
    """

    personal: Any
    joined: jax.Array


def ditto(
    loss_fn: Callable[..., Any],
    *,
    lam: Any,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    personal_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    personal_epochs: int | None = None,
    personal_steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Federated averaging with a personal model at each client, pulled towards the shared one.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      lam: lambda, at least 0: the strength of the pull, in the gradient `lam (v - w)`.
      client_optimizer: optax optimizer of the local steps on the shared model.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      personal_optimizer: optax optimizer of the personal model, fresh in every round; None is `client_optimizer`.
      batch_size: B, of both models; None is the full batch.
      epochs: E, passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      personal_epochs: passes for the personal model; if neither is given, it trains as long as the shared one.
      personal_steps: a fixed number of steps of the personal model instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order. Both models see the same batches.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`, whose `client_params` is the client's v_k. It starts from the shared model that the client
      receives in its first round; a client that never trained has the current shared model. Info is FedAvg's, and
      "personal_loss", the loss's metrics so prefixed, and "personal_steps".

    Raises:
      TypeError, ValueError: for arguments out of range, or both epochs and steps of one kind.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> ditto(loss, lam=0.1, client_optimizer=optax.sgd(0.1), epochs=5).name
      'ditto'
    """
    lam = fl.checks.number(lam=fl.checks.nonnegative(lam=lam))
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    base = fed_avg(loss_fn, client_optimizer=client_optimizer, server_optimizer=server_optimizer, lower=lower, **local)
    if personal_epochs is not None and personal_steps is not None:
        raise ValueError(
            f"`personal_epochs` is {personal_epochs!r} and `personal_steps` is {personal_steps!r}; expected at most "
            "one of them. Leave out both to train the personal model as long as the shared one."
        )
    personal_epochs, personal_steps = fl.checks.trip_count(
        personal_epochs=personal_epochs, personal_steps=personal_steps
    )
    if personal_epochs is None and personal_steps is None:
        personal_epochs, personal_steps = base.hparams["epochs"], base.hparams["steps"]
    personal_optimizer = client_optimizer if personal_optimizer is None else personal_optimizer
    fl.check_optimizer(personal_optimizer=personal_optimizer)
    train = fl.local_sgd(
        loss_fn,
        client_optimizer=personal_optimizer,
        batch_size=batch_size,
        epochs=personal_epochs,
        steps=personal_steps,
        shuffle=shuffle,
        lower=lower,
    )

    def init_client(params: Any) -> ClientState:
        return ClientState(params, jnp.bool_(False))

    def client_params(shared: Any, own: ClientState) -> Any:
        return jax.tree.map(lambda v, w: jnp.where(own.joined, v, w), own.personal, shared)

    def client_update(shared: Any, own: ClientState, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        output = base.client_update(shared, (), data, key)
        result = train(client_params(shared, own), data, proximal_pull(lam, shared))
        info = {f"personal_{name}": value for name, value in result.metrics.items()}
        return output._replace(
            client_state=ClientState(result.params, own.joined | (data.num_examples > 0)),
            info={**output.info, **info, "personal_steps": result.num_steps},
        )

    return base._replace(
        client_update=client_update,
        init_client=init_client,
        client_params=client_params,
        name="ditto",
        hparams={
            **base.hparams,
            "lam": lam,
            "personal_epochs": personal_epochs,
            "personal_steps": personal_steps,
        },
    )
