"""Canaries: clients whose updates are known directions, in a run by a coin flip each.

    client i, a canary:  update = b_i * scale * c_i          b_i in {0, 1} by a fair coin, c_i a random unit vector
    server, each round:  score_i += <c_i, aggregate>         what anybody who sees the server's sums could compute

An update of zero is what an absent client adds to a sum with a fixed denominator, so b_i tells whether client i took
part: the neighbors of add-or-remove.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl

PyTree = Any


class AuditState(NamedTuple):
    """The server's state of an audited run.

    Attributes:
      server: the algorithm's own.
      included: bool `[m]`, the coin of every canary.
      scores: float32 `[m]`, the sum over rounds of each direction's product with what the server decoded.
    """

    server: Any
    included: Any
    scores: Any


def with_canaries(
    algorithm: fl.Algorithm, *, num_canaries: int, first_client: int, scale: Any, key: jax.Array
) -> fl.Algorithm:
    """An algorithm whose clients from `first_client` on are canaries.

    Args:
      algorithm: any algorithm; its other clients train as ever, and a canary's weight is what it would be.
      num_canaries: m. One for an audit by many runs; many for an audit by one.
      first_client: the canaries are the clients `first_client` to `first_client + m - 1`. They need data like everyone,
        of which only the number counts (as a weight, where the chain takes weights).
      scale: the norm of a canary's update; above the clip norm it comes out at the clip norm, unless clipping is
        broken.
      key: of the coins and directions. May be traced, so that runs can be vmapped over it.

    Returns:
      an `fl.Algorithm` with an AuditState; `params` is the algorithm's model. Scores are for the auditor only.

    Raises:
      TypeError, ValueError: for arguments out of range; when built, for an update that is not one pytree of floats.

    Source: Jagielski, Ullman, Oprea (2020), https://arxiv.org/abs/2006.07709; Andrew et al. (2023), one-shot empirical
    privacy estimation for federated learning, https://arxiv.org/abs/2302.03098 (random directions as client canaries);
    Steinke, Nasr, Jagielski (2023), https://arxiv.org/abs/2305.08846 (many canaries in one run).

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp, optax
      >>> from fedjaxlite import algorithms
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> plain = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1), batch_size=1)
      >>> audited = with_canaries(plain, num_canaries=4, first_client=10, scale=9.0, key=jax.random.key(0))
      >>> audited.init(jnp.zeros(3)).scores.shape
      (4,)
    """
    num_canaries = fl.checks.positive_int(num_canaries=num_canaries)
    first_client = fl.checks.nonnegative_int(first_client=first_client)
    fl.checks.one_instance(fl.Algorithm, "an Algorithm, such as algorithms.fed_avg(...)", algorithm=algorithm)
    fl.checks.is_key(key=key)
    scale = fl.checks.positive(
        scale=scale, remedy="It is the norm of a canary's update; make it larger than the clip norm."
    )
    coins, directions = jax.random.split(key)
    own_broadcast = algorithm.broadcast or algorithm.params

    def init(params: PyTree) -> AuditState:
        included = jax.random.bernoulli(coins, 0.5, (num_canaries,))
        return AuditState(algorithm.init(params), included, jnp.zeros((num_canaries,), jnp.float32))

    def client_update(shared: Any, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        own, included = shared
        output = algorithm.client_update(own, client_state, data, key)
        number = data.id - first_client
        canary = (number >= 0) & (number < num_canaries)
        number = jnp.clip(number, 0, num_canaries - 1)
        direction = _direction(jax.random.fold_in(directions, number), output.update)
        length = jnp.where(included[number], jnp.asarray(scale, jnp.float32), 0.0)
        pick = lambda d, u: jnp.where(canary, (length * d).astype(u.dtype), u)  # noqa: E731
        return output._replace(update=jax.tree.map(pick, direction, output.update))

    def server_update(state: AuditState, aggregate: fl.Aggregate, key: jax.Array) -> AuditState:
        def score(number: jax.Array) -> jax.Array:
            direction = _direction(jax.random.fold_in(directions, number), aggregate.value)
            product = lambda d, v: jnp.vdot(d, v.astype(jnp.float32), precision="highest")  # noqa: E731
            return jnp.sum(jnp.stack(jax.tree.leaves(jax.tree.map(product, direction, aggregate.value))))

        scores = jax.lax.map(score, jnp.arange(num_canaries), batch_size=min(num_canaries, 16))
        return AuditState(algorithm.server_update(state.server, aggregate, key), state.included, state.scores + scores)

    return algorithm._replace(
        init=init,
        client_update=client_update,
        server_update=server_update,
        params=lambda state: algorithm.params(state.server),
        broadcast=lambda state: (own_broadcast(state.server), state.included),
        client_params=lambda shared, client_state: algorithm.client_params(shared[0], client_state),
        resident=lambda shared: (algorithm.resident(shared[0]), shared[1]),
        name=f"{algorithm.name} with canaries",
    )


def _direction(key: jax.Array, like: PyTree) -> PyTree:
    """A random unit vector with the shapes of a pytree, float32."""
    leaves, treedef = jax.tree.flatten(like)
    drawn = [jax.random.normal(jax.random.fold_in(key, i), leaf.shape, jnp.float32) for i, leaf in enumerate(leaves)]
    norm = fl.global_norm(drawn)
    return jax.tree.unflatten(treedef, [leaf / norm for leaf in drawn])
