"""FedPer: federated averaging of a base, beneath layers that stay at each client.

    client k:   (w_k, v_k) = (w, v_k), trained together for E epochs of SGD on its own examples
                delta_k = w - w_k; the personal layers v_k stay
    server:     w = server_optimizer(w, sum_k n_k delta_k / sum_k n_k)

All clients start from the same personal layers, those of the model that the run starts with.

Source: Arivazhagan, Aggarwal, Singh, Choudhary (2019), "Federated Learning with Personalization Layers",
https://arxiv.org/abs/1912.00818, algorithms 1 and 2.
"""

from collections.abc import Callable
from typing import Any, Literal

import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg
from fedjaxlite.algorithms.pieces.leaves import Predicate, keep_personal
from fedjaxlite.algorithms.pieces.length import local_length


def fed_per(
    loss_fn: Callable[..., Any],
    *,
    personal: Predicate,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Federated averaging with personal layers, trained together with the shared ones.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      personal: `personal(path, leaf) -> bool` chooses the leaves that stay at the client, such as `by_name("head")` or
        `last_layer(model)`; of `fl.Variables`, a path begins with "params" or "state".
      client_optimizer: optax optimizer of the local steps; its state is fresh in every round.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      batch_size: B; None is the full batch.
      epochs: E, passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. `client_params` is the current base under the client's own layers; `params` has the personal
      layers of the start, which no client may have any more. Info is FedAvg's.

    Raises:
      TypeError, ValueError: for arguments out of range; when rounds are built, if no leaf is personal, or all are.

    Source: Arivazhagan et al. (2019), https://arxiv.org/abs/1912.00818, algorithms 1 and 2.

    Example:
      >>> from fedjaxlite.algorithms.pieces.leaves import by_name
      >>> loss = lambda params, batch, key: (params["base"] + params["head"] - batch["x"]) ** 2 / 2
      >>> fed_per(loss, personal=by_name("head"), client_optimizer=optax.sgd(0.1)).hparams["personal"]
      "by_name('head')"
    """
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)

    def make(loss: Callable[..., Any]) -> fl.Algorithm:
        return fed_avg(loss, client_optimizer=client_optimizer, server_optimizer=server_optimizer, lower=lower, **local)

    return keep_personal(make, loss_fn, personal, "personal")._replace(name="fed_per")
