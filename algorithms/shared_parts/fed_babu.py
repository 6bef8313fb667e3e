"""FedBABU: only the body is trained and averaged; the head stays as it was drawn, until a client tunes it.

    client k:   w_k = w, trained for E epochs of SGD with the head h fixed;  delta_k = w - w_k
    server:     w = server_optimizer(w, sum_k n_k delta_k / sum_k n_k)
    evaluation: client k tunes the head on its own examples, or the body, or both, starting from (w, h)

A head that is the same for all and never moves keeps the clients' bodies from drifting apart.

Source: Oh, Kim, Yun (2022), "FedBABU: Toward Enhanced Representation for Federated Image Classification",
https://arxiv.org/abs/2106.06042, algorithm 1 and section 5 (what is tuned).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import fed_avg
from fedjaxlite.algorithms.pieces.leaves import Predicate, check_divides, check_predicates, describe, train_part


class ClientState(NamedTuple):
    """What a client keeps where it tunes.

    Attributes:
      inner: what the federated part keeps: nothing.
      tuned: its whole model, as it was tuned in the last round that it took part in.
      joined: bool scalar, whether it ever tuned; before that its model is the shared one of the moment.
    """

    inner: Any
    tuned: Any
    joined: jax.Array


def fed_babu(
    loss_fn: Callable[..., Any],
    *,
    head: Predicate,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    tune: Literal["head", "body", "full"] = "head",
    tune_optimizer: optax.GradientTransformation | None = None,
    tune_epochs: int | None = None,
    tune_steps: int | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Federated averaging of the body under a fixed head, which clients tune for themselves.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      head: `head(path, leaf) -> bool` chooses the leaves of the head, such as `by_name("head")` or
        `last_layer(model)`; of `fl.Variables`, a path begins with "params". State is never of the head.
      client_optimizer: optax optimizer of the local steps on the body; its state is fresh in every round.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      tune: what a client tunes: the head, the body, or the full model.
      tune_optimizer: optax optimizer of the tuning, fresh in every round; None is `client_optimizer`.
      tune_epochs: passes over a client's data for tuning; or
      tune_steps: a number of steps. With neither, clients keep nothing and nobody tunes in a round.
      batch_size: B; None is the full batch.
      epochs: E, passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. The head is with the clients from the start and crosses no wire. With `tune_epochs` or
      `tune_steps` every client of a round also tunes the model that it received, and `client_params` is the last one
      that it tuned; compose the rounds with them and run one with all clients, after training without. Without, it is
      the shared model, and `fl.evaluate_personalized` tunes all of it. Tuning never changes what is sent. Info is
      FedAvg's, and where clients tune "tuned_loss", the loss's metrics so prefixed, and "tuned_steps".

    Raises:
      TypeError, ValueError: for arguments out of range; when rounds are built, if no leaf is of the head, or all are.

    Source: Oh et al. (2022), https://arxiv.org/abs/2106.06042, algorithm 1.

    Example:
      >>> from fedjaxlite.algorithms.pieces.leaves import by_name
      >>> loss = lambda params, batch, key: (params["base"] + params["head"] - batch["x"]) ** 2 / 2
      >>> fed_babu(loss, head=by_name("head"), client_optimizer=optax.sgd(0.1)).name
      'fed_babu'
    """
    check_predicates(head=head)
    tune = fl.checks.one_of(("head", "body", "full"), tune=tune)
    if tune_epochs is not None and tune_steps is not None:
        raise ValueError(
            f"`tune_epochs` is {tune_epochs!r} and `tune_steps` is {tune_steps!r}; expected at most one of them. Leave "
            "out both to tune at evaluation alone."
        )
    tune_epochs, tune_steps = fl.checks.trip_count(tune_epochs=tune_epochs, tune_steps=tune_steps)
    fl.check_optimizer(client_optimizer=client_optimizer)
    tune_optimizer = client_optimizer if tune_optimizer is None else tune_optimizer
    fl.check_optimizer(tune_optimizer=tune_optimizer)
    options: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "lower": lower}

    def make(loss: Callable[..., Any]) -> fl.Algorithm:
        return fed_avg(
            loss,
            client_optimizer=client_optimizer,
            server_optimizer=server_optimizer,
            epochs=epochs,
            steps=steps,
            **options,
        )

    fixed = lambda path, leaf: path[:1] != ("state",) and head(path, leaf)  # noqa: E731
    base = fl.partition_params(make, loss_fn, frozen=fixed)

    def init(params: Any) -> Any:
        check_divides(params, fixed, "head")
        return base.init(params)

    algorithm = base._replace(init=init, name="fed_babu", hparams={**base.hparams, "head": describe(head)})
    if tune_epochs is None and tune_steps is None:
        return algorithm
    chosen = {"head": head, "body": lambda path, leaf: not head(path, leaf), "full": lambda path, leaf: True}[tune]
    tuner = train_part(
        loss_fn,
        chosen,
        client_optimizer=tune_optimizer,
        epochs=tune_epochs,
        steps=tune_steps,
        **options,
    )
    hparams = {**algorithm.hparams, "tune": tune, "tune_epochs": tune_epochs, "tune_steps": tune_steps}
    return _tuned(algorithm._replace(hparams=hparams), tuner)


def _tuned(algorithm: fl.Algorithm, tuner: Callable[[Any, fl.ClientData], fl.LocalResult]) -> fl.Algorithm:
    """The algorithm, whose clients also tune the model that they receive and keep it."""

    def init_client(params: Any) -> ClientState:
        return ClientState(algorithm.init_client(params), params, jnp.bool_(False))

    def client_params(shared: Any, own: ClientState) -> Any:
        plain = algorithm.client_params(shared, own.inner)
        return jax.tree.map(lambda v, w: jnp.where(own.joined, v, w), own.tuned, plain)

    def client_update(shared: Any, own: ClientState, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        output = algorithm.client_update(shared, own.inner, data, key)
        start = algorithm.client_params(shared, output.client_state)
        # Orders and draws of its own, apart from those of the training.
        result = tuner(start, replace(data, key=jax.random.fold_in(data.key, 3)))
        info = {f"tuned_{name}": value for name, value in result.metrics.items()}
        return output._replace(
            client_state=ClientState(output.client_state, result.params, own.joined | (data.num_examples > 0)),
            info={**output.info, **info, "tuned_steps": result.num_steps},
        )

    return algorithm._replace(init_client=init_client, client_params=client_params, client_update=client_update)
