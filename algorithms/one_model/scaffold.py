"""SCAFFOLD: control variates that cancel the drift of clients towards their own optima.

    client i:   y = x, then K local steps          y = y - eta_l (g_i(y) - c_i + c)
                option I                           c_i' = g_i(x), the gradient at the server's model
                option II                          c_i' = c_i - c + (x - y) / (K eta_l)
                sends                              x - y  and  c_i' - c_i
    server:     x = x - eta_g mean_S(x - y)
                c = c + |S| / N mean_S(c_i' - c_i)

K is the number of steps that client i really took in this round. So c stays the mean of all N clients' c_i, whoever
takes part, and the model rests where the mean of the clients' gradients is zero, for any K; FedAvg does not.

Source: Karimireddy, Kale, Mohri, Reddi, Stich, Suresh (2020), "SCAFFOLD: Stochastic Controlled Averaging for Federated
Learning", https://arxiv.org/abs/1910.06378, algorithm 1.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.length import local_length
from fedjaxlite.algorithms.pieces.schedules import checked_rate


class ScaffoldState(NamedTuple):
    """The server's state.

    Attributes:
      params: x, the model.
      control: c, pytree like the trainable parameters.
      optimizer_state: of the server's SGD, which counts rounds for a schedule.
    """

    params: Any
    control: Any
    optimizer_state: Any


class ScaffoldShared(NamedTuple):
    """What a client downloads: twice the model's size.

    Attributes:
      params: x.
      control: c.
    """

    params: Any
    control: Any


class ScaffoldUpdate(NamedTuple):
    """What a client sends, and the form of its weights; both parts pass the aggregator.

    Attributes:
      delta: x - y, pytree like the parameters.
      control: c_i' - c_i, pytree like the trainable ones, always of weight 1.
    """

    delta: Any
    control: Any


def scaffold(
    loss_fn: Callable[..., Any],
    *,
    num_clients: int,
    client_lr: Any,
    server_lr: Any = 1.0,
    option: Literal[1, 2] = 2,
    num_examples: int | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """SCAFFOLD with option I or II. Every client keeps its control variate between its rounds.

    The local steps are plain SGD, since option II reads the mean gradient off the distance travelled.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      num_clients: N, the clients of the whole population: `train.num_clients`.
      client_lr: eta_l, a number above 0 or a tracer.
      server_lr: eta_g, a number above 0 or an optax schedule of rounds.
      option: 2 costs nothing more. 1 takes the exact gradient at the server's model, one more pass over the client's
        data, and suits few local steps: over many, networks failed to learn with it where they learned with 2
        (docs/algorithms.md has figures).
      num_examples: None is the paper's objective, the plain mean of the clients' losses. The examples of the whole
        population, `int(train.num_examples.sum())`, make it the mean over all examples, as in FedAvg: deltas then
        weigh by examples, and a control variate counts in c for its client's share of them.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: K, a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`; the info is "loss", the loss's own metrics, and "local_steps". `num_clients` is held against
      the population when a run begins. |S| is the number of clients in the sum; under `fl.mean(over=M)`, or a sampler
      that scales weights, the aggregate is not the mean over S, and c follows the mean of the c_i only roughly. A
      client without examples changes nothing.

    Raises:
      TypeError, ValueError: for arguments out of range; for option 1 with a loss that is declared `cross_example`.

    Source: Karimireddy et al. (2020), https://arxiv.org/abs/1910.06378, algorithm 1.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> scaffold(loss, num_clients=100, client_lr=0.1, epochs=5).hparams["option"]
      2
    """
    num_clients = fl.checks.positive_int(
        "It is the number of clients of the whole population.", num_clients=num_clients
    )
    if num_examples is not None:
        remedy = "It is the number of examples of the whole population."
        num_examples = fl.checks.positive_int(remedy, num_examples=num_examples)
    client_lr, server_lr = fl.checks.positive(client_lr=client_lr), checked_rate(server_lr=server_lr)
    option = fl.checks.one_of((1, 2), option=option)
    _refuse_chunked_statistics(loss_fn, option)
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    train = fl.local_sgd(loss_fn, client_optimizer=optax.sgd(client_lr), lower=lower, **local)
    server = optax.sgd(server_lr)

    def init(params: Any) -> ScaffoldState:
        return ScaffoldState(params, _zeros(params), server.init(fl.trainable(params)))

    def client_update(shared: ScaffoldShared, own: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key
        correct = lambda g, p: jax.tree.map(lambda a, ci, c: a - ci + c, g, own, shared.control)  # noqa: E731
        result = train(shared.params, data, correct)
        if option == 1:
            gradient = fl.value_and_grad(loss_fn, lower=lower, lanes=data.wave.num_lanes, platform=data.wave.platform)
            new = fl.full_gradient(gradient, shared.params, data)[1]
        else:
            share = 1.0 / (jnp.maximum(result.num_steps, 1).astype(jnp.float32) * client_lr)
            # The choice keeps XLA from joining product and sum in some programs and not in others: bits would differ.
            read = lambda ci, c, d: ci - c + jnp.where(d == d, d * share.astype(d.dtype), d)  # noqa: E731
            new = jax.tree.map(read, own, shared.control, fl.trainable(result.delta))
        new = jax.tree.map(lambda a, b: jnp.where(result.num_steps > 0, a, b), new, own)
        portion = _portion(data, num_clients, num_examples)
        change = jax.tree.map(lambda a, b: (a - b) * portion.astype(a.dtype), new, own)
        weight = jnp.minimum(result.num_examples, 1) if num_examples is None else result.num_examples
        info = {**result.metrics, "local_steps": result.num_steps}
        update = ScaffoldUpdate(result.delta, change)
        return fl.ClientOutput(update, ScaffoldUpdate(weight, jnp.int32(1)), client_state=new, info=info)

    def server_update(state: ScaffoldState, aggregate: fl.Aggregate, key: jax.Array) -> ScaffoldState:
        del key
        mean: ScaffoldUpdate = aggregate.value
        params, optimizer_state = fl.apply_delta(server, state.params, mean.delta, state.optimizer_state)
        present = aggregate.num_clients.astype(jnp.float32) / num_clients
        move = lambda c, d: (c.astype(d.dtype) + present.astype(d.dtype) * d).astype(c.dtype)  # noqa: E731
        return ScaffoldState(params, jax.tree.map(move, state.control, mean.control), optimizer_state)

    return fl.Algorithm(
        init,
        client_update,
        server_update,
        broadcast=lambda state: ScaffoldShared(state.params, state.control),
        init_client=_zeros,
        client_params=lambda shared, own: shared.params,
        name="scaffold",
        hparams={
            "num_clients": num_clients,
            "client_lr": client_lr,
            "server_lr": server_lr,
            "option": option,
            "num_examples": num_examples,
            **local,
        },
    )


def _refuse_chunked_statistics(loss_fn: Any, option: int) -> None:
    if option == 1 and getattr(loss_fn, "cross_example", False):
        raise ValueError(
            "`option` is 1 and the loss is declared cross_example: the gradient over all examples is accumulated over "
            "chunks, which would compute batch statistics per chunk. Use option=2."
        )


def _zeros(params: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, fl.trainable(params))


def _portion(data: fl.ClientData, num_clients: int, num_examples: int | None) -> jax.Array:
    """What a change of this client's variate counts for in c, relative to the mean client."""
    if num_examples is None:
        return jnp.float32(1.0)
    return data.num_examples.astype(jnp.float32) * (num_clients / num_examples)
