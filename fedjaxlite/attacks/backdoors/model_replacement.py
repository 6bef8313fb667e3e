"""Model replacement: a bad client's update, scaled up until the average is its model."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.attacks.data.poison import checked, recorded
from fedjaxlite.attacks.who import is_bad, nobody
from fedjaxlite.protocol.algorithm import Algorithm, ClientOutput

PyTree = Any


def model_replacement(algorithm: Algorithm, bad: Any, *, boost: Any) -> Algorithm:
    """Bad clients send their update times a factor, so that averaging with the others does not dilute it.

    Around `backdoor` and its like: `model_replacement(backdoor(algorithm, bad, ...), bad, boost=10.0)`.

    Args:
      algorithm: any Algorithm; all that a client sends as its update is scaled, SCAFFOLD's control variates too.
      bad: who is bad: a Bad, ids of clients, or a bool array `[N]`.
      boost: a number above 0, or a tracer. For n clients in a round that count alike, one of them bad, and a server
        rate of eta it is n / eta in the paper; in general the whole weight of a round over the bad clients' own.

    Returns:
      an Algorithm; where nobody is bad, `algorithm` itself. Weights, scalars and states are as they were.

    Raises:
      TypeError, ValueError: for what is no Algorithm, no clients, or no number above 0.

    Guarantees:
      With n clients that count alike, a server rate of 1 and `boost` n the new model is the bad client's own, minus the
      mean of n - 1 honest updates times (n - 1) / n: near convergence, where these are small, it is replaced.

    Source: Bagdasaryan, Veit, Hua, Estrin, Shmatikov (2020), "How To Backdoor Federated Learning",
    https://arxiv.org/abs/1807.00459, section 4.2, equation 3.

    Example:
      >>> import optax
      >>> from fedjaxlite import algorithms
      >>> loss = lambda params, batch, key: (params - batch["y"]) ** 2
      >>> honest = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> model_replacement(honest, [0], boost=10.0).name
      'model_replacement(fed_avg)'
    """
    who = checked(algorithm, bad)
    boost = checks.positive(boost=boost)
    if nobody(who):
        return algorithm

    def client_update(shared: PyTree, client_state: PyTree, data: Any, key: Any) -> ClientOutput:
        output = algorithm.client_update(shared, client_state, data, key)
        factor = jnp.where(is_bad(who, data.id, data.key), jnp.asarray(boost, jnp.float32), jnp.float32(1))
        scale = lambda leaf: jnp.asarray(leaf) * factor.astype(jnp.asarray(leaf).dtype)  # noqa: E731
        return output._replace(update=jax.tree.map(scale, output.update))

    name = "model_replacement"
    hparams = recorded(algorithm, name, who, {"boost": boost})
    return algorithm._replace(client_update=client_update, name=f"{name}({algorithm.name})", hparams=hparams)
