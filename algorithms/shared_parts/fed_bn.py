"""FedBN: federated averaging of everything but the normalization layers.

    client k:   (w_k, v_k) = (w, v_k), trained together for E epochs of SGD on its own examples
                delta_k = w - w_k; scales, offsets and running statistics v_k of its normalization layers stay
    server:     w = server_optimizer(w, sum_k n_k delta_k / sum_k n_k)

Clients whose features are distributed differently (other scanners, cameras, microphones) then normalize each by their
own statistics.

Source: Li, Jiang, Zhang, Kamp, Dou (2021), "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization", https://arxiv.org/abs/2102.07623, algorithm 1 (supplement).
"""

from collections.abc import Callable
from typing import Any, Literal

import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg
from fedjaxlite.algorithms.pieces.leaves import Predicate, check_predicates, describe, keep_personal, norm_layers
from fedjaxlite.algorithms.pieces.length import local_length


def fed_bn(
    loss_fn: Callable[..., Any],
    *,
    norm: Predicate = norm_layers,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Federated averaging in which each client keeps its own normalization layers.

    Personal are the leaves that `norm` chooses, and all of the state of `fl.Variables` (everything below "state"):
    running means and variances, and any counter beside them, whatever their names. The state of a layer that is no
    normalization stays at the client too. A model without state (GroupNorm, LayerNorm) has personal scales and offsets
    alone.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      norm: `norm(path, leaf) -> bool` chooses the parameters of normalization layers; `norm_layers` goes by their
        names.
      client_optimizer: optax optimizer of the local steps; its state is fresh in every round.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      batch_size: B; None is the full batch, for models whose statistics are not those of a batch.
      epochs: E, passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. `client_params` is the shared model with the client's own layers and statistics; `params` has
      those of the start, so evaluate with `fl.evaluate_clients(..., rounds=run)`. Info is FedAvg's.

    Raises:
      TypeError, ValueError: for arguments out of range; when rounds are built, if there is nothing to keep.

    Source: Li et al. (2021), https://arxiv.org/abs/2102.07623, algorithm 1.

    Example:
      >>> loss = lambda params, batch, key: (params["w"] + params["norm"]["bias"] - batch["x"]) ** 2 / 2
      >>> fed_bn(loss, client_optimizer=optax.sgd(0.1)).hparams["norm"]
      'norm_layers'
    """
    check_predicates(norm=norm)

    def kept(path: tuple[Any, ...], leaf: Any) -> bool:
        return path[:1] == ("state",) or norm(path, leaf)

    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)

    def make(loss: Callable[..., Any]) -> fl.Algorithm:
        return fed_avg(loss, client_optimizer=client_optimizer, server_optimizer=server_optimizer, lower=lower, **local)

    algorithm = keep_personal(make, loss_fn, kept, "norm")
    return algorithm._replace(name="fed_bn", hparams={**algorithm.hparams, "norm": describe(norm)})
