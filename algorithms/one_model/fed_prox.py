"""FedProx: federated averaging whose clients are pulled back to the model they started from.

    client k:   w_k = w, then local steps on  F_k(w_k) + mu / 2 |w_k - w|^2
                delta_k = w - w_k
    server:     w = server_optimizer(w, sum_k n_k delta_k / sum_k n_k)

A client that did only part of its steps sends what it has, an inexact solution of the same subproblem. With mu = 0 this
is FedAvg. In the adaptive form mu follows the loss: up when the loss rises, down when it has fallen for some rounds.

Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith (2020), "Federated Optimization in Heterogeneous Networks",
https://arxiv.org/abs/1812.06127, algorithm 2; figure 3 and section 5.3.2 for the adaptive mu.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.one_model.fed_avg import ServerState, fed_avg
from fedjaxlite.algorithms.pieces.length import local_length
from fedjaxlite.algorithms.pieces.proximal import proximal_pull

_ROWS = 256  # examples at a time where only a loss is computed


class AdaptiveState(NamedTuple):
    """The server's state in `fed_prox_adaptive`.

    Attributes:
      params: the model.
      optimizer_state: the server optimizer's.
      mu: float32 scalar, of the next round.
      loss: float32 scalar, the clients' loss in the last round; infinite before the first.
      falls: int32 scalar, how many rounds in a row the loss has fallen, since mu was last lowered.
    """

    params: Any
    optimizer_state: Any
    mu: jax.Array
    loss: jax.Array
    falls: jax.Array


class AdaptiveShared(NamedTuple):
    """What a client of `fed_prox_adaptive` downloads.

    Attributes:
      params: the model.
      mu: float32 scalar.
    """

    params: Any
    mu: jax.Array


def fed_prox(
    loss_fn: Callable[..., Any],
    *,
    mu: Any,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """FedProx, with any client and server optimizer.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      mu: weight of the proximal term, at least 0; a tracer is taken too. The paper tunes it in 0.001 to 1.
      client_optimizer: optax optimizer of the local steps, which is given the gradient of the whole subproblem.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`. Clients weigh as many as they have examples; the paper's own scheme, which samples them by
      size and takes the plain mean, is `fl.sampling.weighted` with `fl.mean()`. The info's "loss" is without the
      proximal term.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Source: Li et al. (2020), https://arxiv.org/abs/1812.06127, algorithm 2.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_prox(loss, mu=0.1, client_optimizer=optax.sgd(0.1)).hparams["mu"]
      0.1
    """
    mu = fl.checks.number(mu=fl.checks.nonnegative(mu=mu))
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    base = fed_avg(loss_fn, client_optimizer=client_optimizer, server_optimizer=server_optimizer, lower=lower, **local)
    train = fl.local_sgd(loss_fn, client_optimizer=client_optimizer, lower=lower, **local)

    def client_update(shared: Any, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key
        result = train(shared, data, proximal_pull(mu, shared))
        info = {**result.metrics, "local_steps": result.num_steps}
        return fl.ClientOutput(result.delta, result.num_examples, client_state=client_state, info=info)

    return base._replace(client_update=client_update, name="fed_prox", hparams={"mu": mu, **base.hparams})


def fed_prox_adaptive(
    loss_fn: Callable[..., Any],
    *,
    mu: Any = 0.0,
    mu_step: Any = 0.1,
    patience: int = 5,
    max_loss: float = 100.0,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """FedProx whose mu follows the loss, after the paper's heuristic.

    Every client also computes the loss of the model that it was sent on all of its examples, one forward pass, and
    sends it beside its update. mu rises by `mu_step` when the mean of these is above the last round's, and falls by
    it, not below 0, each time that they have fallen `patience` rounds in a row.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      mu: the first weight of the proximal term, at least 0: in the paper 0 for heterogeneous data, 1 for alike ones.
      mu_step: how much mu rises or falls, above 0.
      patience: rounds of falling loss before mu falls.
      max_loss: bound of the loss that a client sends; larger ones are cut to it.
      client_optimizer: optax optimizer of the local steps.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm` with the scalar "loss"; its state holds the current `mu`. The loss is the mean over the round's
      clients, weighted as the update is: where few take part it moves with who they are, which the paper's loss over
      everybody does not. A round without clients changes nothing.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Source: Li et al. (2020), https://arxiv.org/abs/1812.06127, figure 3 and section 5.3.2.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> algorithm = fed_prox_adaptive(loss, mu=1.0, client_optimizer=optax.sgd(0.1))
      >>> float(algorithm.init(jnp.float32(0.0)).mu)
      1.0
    """
    mu = fl.checks.number(mu=fl.checks.nonnegative(mu=mu))
    mu_step, max_loss = fl.checks.positive(mu_step=mu_step, max_loss=max_loss)
    patience = fl.checks.positive_int(patience=patience)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    base = fed_prox(
        loss_fn, mu=mu, client_optimizer=client_optimizer, server_optimizer=server_optimizer, lower=lower, **local
    )
    train = fl.local_sgd(loss_fn, client_optimizer=client_optimizer, lower=lower, **local)

    def init(params: Any) -> AdaptiveState:
        first: ServerState = base.init(params)
        return AdaptiveState(
            first.params, first.optimizer_state, jnp.asarray(mu, jnp.float32), jnp.float32(jnp.inf), jnp.int32(0)
        )

    def client_update(
        shared: AdaptiveShared, client_state: Any, data: fl.ClientData, key: jax.Array
    ) -> fl.ClientOutput:
        del key
        lowered = fl.lower(loss_fn, enable=lower, lanes=data.wave.num_lanes, platform=data.wave.platform)
        loss = jnp.clip(_mean_loss(lowered, shared.params, data), -max_loss, max_loss)
        result = train(shared.params, data, proximal_pull(shared.mu, shared.params))
        info = {**result.metrics, "local_steps": result.num_steps, "start_loss": loss}
        return fl.ClientOutput(result.delta, result.num_examples, {"loss": loss}, client_state, info)

    def server_update(state: AdaptiveState, aggregate: fl.Aggregate, key: jax.Array) -> AdaptiveState:
        stepped: ServerState = base.server_update(ServerState(state.params, state.optimizer_state), aggregate, key)
        loss, anyone = aggregate.scalars["loss"].astype(jnp.float32), aggregate.weight > 0
        falls = jnp.where((loss < state.loss) & jnp.isfinite(state.loss), state.falls + 1, 0)
        down = falls >= patience
        moved = jnp.where(loss > state.loss, mu_step, 0.0) - jnp.where(down, mu_step, 0.0)
        new = AdaptiveState(
            stepped.params, stepped.optimizer_state, jnp.maximum(state.mu + moved, 0.0), loss, jnp.where(down, 0, falls)
        )
        unchanged = new._replace(mu=state.mu, loss=state.loss, falls=state.falls)
        return jax.tree.map(lambda a, b: jnp.where(anyone, a, b), new, unchanged)

    return base._replace(
        init=init,
        client_update=client_update,
        server_update=server_update,
        broadcast=lambda state: AdaptiveShared(state.params, state.mu),
        client_params=lambda shared, client_state: shared.params,
        scalar_bounds={"loss": max_loss},
        name="fed_prox_adaptive",
        hparams={**base.hparams, "mu_step": mu_step, "patience": patience, "max_loss": max_loss},
    )


def _mean_loss(loss_fn: Callable[..., Any], params: Any, data: fl.ClientData) -> jax.Array:
    """The loss over all of a client's examples; 0 without any."""
    rows = min(_ROWS, data.wave.max_size)

    def add(totals: tuple[jax.Array, jax.Array], batch: Any, mask: Any, key: Any) -> tuple[jax.Array, jax.Array]:
        reduced = fl.batch_loss(loss_fn, params, batch, mask, key)
        return totals[0] + reduced.loss * reduced.weight, totals[1] + reduced.weight

    # A straggler has time for this pass: it trains less, but its loss is that of all of its examples.
    plan = data.with_work(1.0).batches(batch_size=rows, epochs=1, shuffle=False, stream=1)
    total, weight = plan.scan(add, (jnp.float32(0.0), jnp.float32(0.0)))
    return total / jnp.where(weight > 0, weight, 1.0)
