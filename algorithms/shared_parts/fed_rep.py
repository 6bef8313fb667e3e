"""FedRep: a shared representation, and a head of each client's own that is fitted to it first.

    client k:   h_k, trained for E_h epochs with w fixed                       the head, on the representation received
                w_k = w, trained for E epochs with h_k fixed                   the body, under the new head
                delta_k = w - w_k; the head h_k stays
    server:     w = server_optimizer(w, sum_k n_k delta_k / sum_k n_k)

FedPer trains both at once. All clients start from the same head, that of the model that the run starts with.

Source: Collins, Hassani, Mokhtari, Shakkottai (2021), "Exploiting Shared Representations for Personalized Federated
Learning", https://arxiv.org/abs/2102.07078, algorithm 1. There the server weighs clients alike: `fl.mean()`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg
from fedjaxlite.algorithms.pieces.leaves import Predicate, check_predicates, keep_personal, train_part
from fedjaxlite.algorithms.pieces.length import local_length


def fed_rep(
    loss_fn: Callable[..., Any],
    *,
    head: Predicate,
    client_optimizer: optax.GradientTransformation,
    head_optimizer: optax.GradientTransformation | None = None,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    head_epochs: int | None = None,
    head_steps: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Federated averaging of a representation, under heads that are each trained on it before it moves.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      head: `head(path, leaf) -> bool` chooses the leaves of the head, such as `by_name("head")` or
        `last_layer(model)`; of `fl.Variables`, a path begins with "params" or "state".
      client_optimizer: optax optimizer of the steps on the body; its state is fresh in every round.
      head_optimizer: optax optimizer of the steps on the head, fresh too; None is `client_optimizer`.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      batch_size: B, of both phases; None is the full batch.
      head_epochs: E_h, passes over a client's data for the head; 1 if neither is given. The paper takes 10 and more.
      head_steps: a fixed number of steps of the head instead.
      epochs: E, passes for the body; 1 if neither is given.
      steps: a fixed number of steps of the body instead.
      shuffle: draw a new order every epoch, others in each phase; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. `client_params` is the current body under the client's own head; `params` has the head of the
      start. Info is FedAvg's of the body, and "head_loss", the loss's metrics so prefixed, and "head_steps". State
      that is not trained (BatchNorm's) moves in both phases and is averaged, where `head` does not choose it.

    Raises:
      TypeError, ValueError: for arguments out of range, or both epochs and steps of one phase; when rounds are built,
        if no leaf is of the head, or all are.

    Source: Collins et al. (2021), https://arxiv.org/abs/2102.07078, algorithm 1.

    Example:
      >>> from fedjaxlite.algorithms.pieces.leaves import by_name
      >>> loss = lambda params, batch, key: (params["base"] + params["head"] - batch["x"]) ** 2 / 2
      >>> fed_rep(loss, head=by_name("head"), head_epochs=10, client_optimizer=optax.sgd(0.1)).name
      'fed_rep'
    """
    check_predicates(head=head)
    if head_epochs is not None and head_steps is not None:
        raise ValueError(
            f"`head_epochs` is {head_epochs!r} and `head_steps` is {head_steps!r}; expected at most one of them: "
            "epochs for passes over the client's data, steps for a fixed number of batches."
        )
    head_epochs, head_steps = fl.checks.trip_count(head_epochs=head_epochs, head_steps=head_steps)
    head_epochs = 1 if head_epochs is None and head_steps is None else head_epochs
    fl.check_optimizer(client_optimizer=client_optimizer)
    head_optimizer = client_optimizer if head_optimizer is None else head_optimizer
    fl.check_optimizer(head_optimizer=head_optimizer)

    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)

    def make(loss: Callable[..., Any]) -> fl.Algorithm:
        base = fed_avg(loss, client_optimizer=client_optimizer, server_optimizer=server_optimizer, lower=lower, **local)
        options: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "lower": lower}
        lengths = {"epochs": base.hparams["epochs"], "steps": base.hparams["steps"]}
        train_body = train_part(
            loss, lambda path, leaf: not head(path, leaf), client_optimizer=client_optimizer, **lengths, **options
        )
        train_head = train_part(
            loss, head, client_optimizer=head_optimizer, epochs=head_epochs, steps=head_steps, **options
        )

        def client_update(shared: Any, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
            del key  # local training takes its keys from the client's view
            # Orders and draws of its own, apart from those of the body.
            first = train_head(shared, replace(data, key=jax.random.fold_in(data.key, 3)))
            second = train_body(first.params, data)
            info = {f"head_{name}": value for name, value in first.metrics.items()}
            return fl.ClientOutput(
                jax.tree.map(jnp.subtract, shared, second.params),
                data.num_examples,
                client_state=own,
                info={**second.metrics, "local_steps": second.num_steps, **info, "head_steps": first.num_steps},
            )

        hparams = {**base.hparams, "head_epochs": head_epochs, "head_steps": head_steps}
        return base._replace(client_update=client_update, hparams=hparams)

    return keep_personal(make, loss_fn, head, "head")._replace(name="fed_rep")
