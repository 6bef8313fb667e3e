"""What bad clients send instead of their update: the wrapper that attacks of single clients are made with."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.attacks.who import Bad, is_bad, nobody, told
from fedjaxlite.protocol.algorithm import Algorithm, ClientOutput

PyTree = Any
_ATTACK = 0xA77AC
"""Folded into a client's key for what an attack draws."""


def instead(
    algorithm: Algorithm,
    bad: Bad,
    send: Callable[[PyTree, Any], PyTree],
    *,
    name: str,
    hparams: Mapping[str, Any],
) -> Algorithm:
    """The algorithm with other updates from bad clients; itself where nobody is bad.

    Args:
      algorithm: an Algorithm.
      bad: who is bad.
      send: `send(update, key) -> update`, what a bad client sends in place of what it has computed.
      name: of the attack.
      hparams: of the attack.
    """
    checks.one_instance(Algorithm, "an Algorithm, such as algorithms.fed_avg(...)", algorithm=algorithm)
    if nobody(bad):
        return algorithm

    def client_update(shared: PyTree, client_state: PyTree, data: Any, key: Any) -> ClientOutput:
        output = algorithm.client_update(shared, client_state, data, key)
        hit = is_bad(bad, data.id, data.key)
        update = jax.tree.map(jnp.asarray, output.update)
        sent = send(update, jax.random.fold_in(data.key, _ATTACK))
        return output._replace(update=jax.tree.map(lambda s, u: jnp.where(hit, s.astype(u.dtype), u), sent, update))

    own = {name: {"bad": told(bad), **hparams}}
    return algorithm._replace(
        client_update=client_update, name=f"{name}({algorithm.name})", hparams={**algorithm.hparams, **own}
    )


def noise_like(update: PyTree, stddev: Any, key: Any) -> PyTree:
    """Independent Gaussians of a standard deviation, float32, with the shapes of a pytree."""
    leaves, structure = jax.tree.flatten(update)
    std = jnp.asarray(stddev, jnp.float32)
    drawn = [std * jax.random.normal(jax.random.fold_in(key, i), u.shape, jnp.float32) for i, u in enumerate(leaves)]
    return structure.unflatten(drawn)
