"""Federated averaging, and federated SGD as its special case.

    client k:   w_k = w, trained for E epochs of SGD on its own n_k examples in batches of B
                delta_k = w - w_k
    server:     w = server_optimizer(w, sum_k n_k delta_k / sum_k n_k)

With plain SGD of rate 1 on the server this is the paper's FedAvg. Any other optax optimizer treats the mean delta as a
gradient: momentum gives FedAvgM, Adam gives FedAdam.

Sources:
  McMahan, Moore, Ramage, Hampson, Agüera y Arcas (2017), "Communication-Efficient Learning of Deep Networks from
  Decentralized Data", https://arxiv.org/abs/1602.05629, algorithm 1.
  Reddi et al. (2021), "Adaptive Federated Optimization", https://arxiv.org/abs/2003.00295, algorithm 1 (FedOpt).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.length import local_length


class ServerState(NamedTuple):
    """The server's model and its optimizer's state.

    Attributes:
      params: the model.
      optimizer_state: the server optimizer's.
    """

    params: Any
    optimizer_state: Any


def fed_avg(
    loss_fn: Callable[..., Any],
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
    compute_dtype: Any = None,
    remat: bool | Callable[..., Any] = False,
    micro_batch_size: int | None = None,
) -> fl.Algorithm:
    """Federated averaging with any client and server optimizer.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      client_optimizer: optax optimizer of the local steps; its state is fresh in every round.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1, which makes
        the mean of the clients' models the new model.
      batch_size: B; None is the full batch (the paper's B = infinity).
      epochs: E, passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.
      compute_dtype: such as `jnp.bfloat16`, the dtype of activations; the model keeps its own. This and the two that
        follow are for models that fill a device's memory; see `fedjaxlite.value_and_grad`.
      remat: whether activations are computed again instead of kept; or a policy of `jax.checkpoint_policies`.
      micro_batch_size: rows of a batch at a time; the step is still that of the whole batch.

    Returns:
      an `fl.Algorithm`. A client weighs as many as it has examples; its info is "loss", the loss's own metrics, and
      "local_steps". Statistics that are not trained (BatchNorm) are averaged and not given to the server optimizer.

    Raises:
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=10, epochs=5).name
      'fed_avg'
    """
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    train = fl.local_sgd(
        loss_fn,
        client_optimizer=client_optimizer,
        lower=lower,
        compute_dtype=compute_dtype,
        remat=remat,
        micro_batch_size=micro_batch_size,
        **local,
    )
    hparams = dict(local)
    if compute_dtype is not None:  # the two others leave the numbers as they are
        hparams["compute_dtype"] = str(jnp.dtype(compute_dtype))
    return fed_avg_of(train, server_optimizer=server_optimizer)._replace(name="fed_avg", hparams=hparams)


def fed_avg_of(
    local: Callable[..., fl.LocalResult], *, server_optimizer: optax.GradientTransformation | None = None
) -> fl.Algorithm:
    """Federated averaging around any local training, such as one that protects single examples.

    Args:
      local: `local(params, data) -> fl.LocalResult`, as `fl.local_sgd` or `privacy.dp_sgd` make it.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.

    Returns:
      an `fl.Algorithm`. A client weighs as many as its result has examples. What the training states of noise that it
      adds, `local.mechanisms`, is the algorithm's statement too, which `privacy.epsilon` and its kin read.

    Raises:
      TypeError: if `local` is no function, or `server_optimizer` no optimizer.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> local = fl.local_sgd(loss, client_optimizer=optax.sgd(0.1), batch_size=10, epochs=5)
      >>> fed_avg_of(local).name
      'fed_avg_of'
    """
    fl.checks.is_function_of(
        "params", "data", local=local, remedy="fl.local_sgd(loss, client_optimizer=...) makes one."
    )
    server_optimizer = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    fl.check_optimizer(server_optimizer=server_optimizer)

    def init(params: Any) -> ServerState:
        return ServerState(params, server_optimizer.init(fl.trainable(params)))

    def client_update(shared: Any, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        result = local(shared, data)
        fl.checks.one_instance(fl.LocalResult, "an fl.LocalResult", **{"local(params, data)": result})
        info = {**result.metrics, "local_steps": result.num_steps}
        return fl.ClientOutput(result.delta, result.num_examples, client_state=client_state, info=info)

    def server_update(state: ServerState, aggregate: fl.Aggregate, key: jax.Array) -> ServerState:
        del key
        params, optimizer_state = fl.apply_delta(server_optimizer, state.params, aggregate.value, state.optimizer_state)
        return ServerState(params, optimizer_state)

    stated = tuple(getattr(local, "mechanisms", ()))
    return fl.Algorithm(init, client_update, server_update, name="fed_avg_of", mechanisms=stated)


def fed_sgd(
    loss_fn: Callable[..., Any],
    *,
    server_optimizer: optax.GradientTransformation,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """Federated SGD: one full-batch gradient per client and round, the server steps along their weighted mean.

    FedAvg with B = infinity, E = 1 and a local rate of 1, so that a client's delta is its gradient.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      server_optimizer: optax optimizer, such as `optax.sgd(0.1)`: the rate of the method is the server's.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`.

    Source: McMahan et al. (2017), https://arxiv.org/abs/1602.05629, section 2.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> fed_sgd(loss, server_optimizer=optax.sgd(0.1)).name
      'fed_sgd'
    """
    algorithm = fed_avg(
        loss_fn,
        client_optimizer=optax.sgd(1.0),
        server_optimizer=server_optimizer,
        batch_size=None,
        epochs=1,
        lower=lower,
    )
    return algorithm._replace(name="fed_sgd", hparams={})
