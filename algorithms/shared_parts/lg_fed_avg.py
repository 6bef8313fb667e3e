"""LG-FedAvg: each client learns a representation of its own, and all share the layers on top of it.

    client k:   (l_k, g_k) = (l_k, g), trained together for E epochs of SGD on its own examples
                delta_k = g - g_k; the local layers l_k stay
    server:     g = server_optimizer(g, sum_k n_k delta_k / sum_k n_k)

FedPer upside down: the first layers are personal and the last are shared. The paper's experiments start from a model
that FedAvg has trained; give that model as the start.

Source: Liang, Liu, Liu, Allen, Auerbach, Brent, Salakhutdinov, Morency (2020), "Think Locally, Act Globally: Federated
Learning with Local and Global Representations", https://arxiv.org/abs/2001.01523, algorithm 1 (without the auxiliary
losses on the representations, which belong in `loss_fn`).
"""

from collections.abc import Callable
from typing import Any, Literal

import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg
from fedjaxlite.algorithms.pieces.leaves import Predicate, keep_personal
from fedjaxlite.algorithms.pieces.length import local_length


def lg_fed_avg(
    loss_fn: Callable[..., Any],
    *,
    local: Predicate,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Federated averaging of the last layers, over representations that stay at the clients.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      local: `local(path, leaf) -> bool` chooses the leaves of the representation; of `fl.Variables`, a path begins with
        "params" or "state". Where the head is easier to name: `lambda path, leaf: not head(path, leaf)`.
      client_optimizer: optax optimizer of the local steps; its state is fresh in every round.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      batch_size: B; None is the full batch.
      epochs: E, passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. `client_params` is the client's representation under the current shared layers; `params` has
      the representation of the start. Info is FedAvg's.

    Raises:
      TypeError, ValueError: for arguments out of range; when rounds are built, if no leaf is local, or all are.

    Source: Liang et al. (2020), https://arxiv.org/abs/2001.01523, algorithm 1.

    Example:
      >>> from fedjaxlite.algorithms.pieces.leaves import by_name
      >>> loss = lambda params, batch, key: (params["base"] + params["head"] - batch["x"]) ** 2 / 2
      >>> lg_fed_avg(loss, local=by_name("base"), client_optimizer=optax.sgd(0.1)).name
      'lg_fed_avg'
    """
    length = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)

    def make(loss: Callable[..., Any]) -> fl.Algorithm:
        return fed_avg(
            loss, client_optimizer=client_optimizer, server_optimizer=server_optimizer, lower=lower, **length
        )

    return keep_personal(make, loss_fn, local, "local")._replace(name="lg_fed_avg")
