"""Local fine-tuning: any algorithm, whose clients each keep the model they got tuned to their own data.

    client k:   takes part in the algorithm as it is
                v_k = the model received, trained for E' epochs on its own examples, and kept

The baseline that personalization has to beat: with `fed_avg` inside it is FedAvg followed by fine-tuning. The shared
model is the inner algorithm's, number by number.

Sources:
  Jiang, Konečný, Rush, Kannan (2019), "Improving Federated Learning Personalization via Model Agnostic Meta Learning",
  https://arxiv.org/abs/1909.12488.
  Yu, Bagdasaryan, Shmatikov (2020), "Salvaging Federated Learning by Local Adaptation",
  https://arxiv.org/abs/2002.04758, section 3 (fine-tuning).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.length import local_length


class ClientState(NamedTuple):
    """What a client keeps.

    Attributes:
      inner: what the inner algorithm keeps.
      personal: its fine-tuned model.
      joined: bool scalar, whether it ever trained; before that its model is the inner algorithm's.
    """

    inner: Any
    personal: Any
    joined: jax.Array


def fine_tuned(
    algorithm: fl.Algorithm,
    loss_fn: Callable[..., Any],
    *,
    client_optimizer: optax.GradientTransformation,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """An algorithm whose clients also fine-tune the model of the round, and keep the result.

    Args:
      algorithm: what is trained, such as `fed_avg(...)`; fine-tuning starts from its `client_params`.
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)`.
      client_optimizer: optax optimizer of the fine-tuning; its state is fresh in every round.
      batch_size: B of the fine-tuning; None is the full batch.
      epochs: E', passes over a client's data; 1 if neither is given.
      steps: a fixed number of steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm`, whose `client_params` is the model tuned in the last round that the client took part in; for
      a client that never trained, what the inner algorithm gives (FedAvg: the current shared model). A last round
      with all clients tunes everyone to nearly the final model; `fl.evaluate_personalized` tunes to exactly that,
      and keeps nothing. Info is the inner algorithm's, and "personal_loss", the loss's metrics so prefixed, and
      "personal_steps".

    Raises:
      TypeError: if `algorithm` is no Algorithm.
      TypeError, ValueError: for arguments out of range, or both `epochs` and `steps`; when the rounds are built, for
        an inner algorithm whose `client_params` is not a model.

    Example:
      >>> from fedjaxlite import algorithms
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> shared = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> fine_tuned(shared, loss, client_optimizer=optax.sgd(0.01), epochs=3).name
      'fine_tuned(fed_avg)'
    """
    if not isinstance(algorithm, fl.Algorithm):
        raise TypeError(f"`algorithm` is {algorithm!r}; expected an Algorithm, such as algorithms.fed_avg(...).")
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    tune = fl.local_sgd(loss_fn, client_optimizer=client_optimizer, lower=lower, **local)

    def init_client(params: Any) -> ClientState:
        return ClientState(algorithm.init_client(params), params, jnp.bool_(False))

    def client_params(shared: Any, own: ClientState) -> Any:
        plain = algorithm.client_params(shared, own.inner)
        return jax.tree.map(lambda v, w: jnp.where(own.joined, v, w), own.personal, plain)

    def client_update(shared: Any, own: ClientState, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        output = algorithm.client_update(shared, own.inner, data, key)
        start = algorithm.client_params(shared, output.client_state)
        _check_model(start, own.personal, algorithm.name)
        result = tune(start, data)
        info = {f"personal_{name}": value for name, value in result.metrics.items()}
        return output._replace(
            client_state=ClientState(output.client_state, result.params, own.joined | (data.num_examples > 0)),
            info={**output.info, **info, "personal_steps": result.num_steps},
        )

    hparams = {
        **algorithm.hparams,
        **{f"fine_tuning_{name}": local[name] for name in ("batch_size", "epochs", "steps")},
    }
    return algorithm._replace(
        client_update=client_update,
        init_client=init_client,
        client_params=client_params,
        name=f"fine_tuned({algorithm.name})",
        hparams=hparams,
    )


def _check_model(start: Any, params: Any, name: str) -> None:
    if jax.tree.structure(start) != jax.tree.structure(params):
        raise ValueError(
            f"`client_params` of `{name}` gives {jax.tree.structure(start)}; fine-tuning expected a model, "
            f"{jax.tree.structure(params)}. Give the algorithm a `client_params` that returns the model out of what "
            "it broadcasts."
        )
