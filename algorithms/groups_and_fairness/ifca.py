"""Clustered federated learning: k models, each client trains the one that fits its data best (IFCA, HypCluster).

    client i:   j_i = the j with the smallest F_i(w_j)
                w_i = w_{j_i}, trained locally;  delta_i = w_{j_i} - w_i,  sent in place j_i, zeros in the others
    server:     model averaging:     w_j = w_j - sum of delta_i / number of i, over the clients with j_i = j
                gradient averaging:  w_j = w_j - sum of delta_i over the clients with j_i = j / number of all clients

For gradient averaging delta_i is the gradient itself, and the server's rate is that of the method. HypCluster is model
averaging in which clients weigh as many as they have examples. Leaves that all clusters share (a common representation)
are averaged over all clients.

Sources:
  Ghosh, Chung, Yin, Ramchandran (2020), "An Efficient Framework for Clustered Federated Learning",
  https://arxiv.org/abs/2006.04088, algorithm 1 (IFCA, options I and II), and its shared weights.
  Mansour, Mohri, Ro, Suresh (2020), "Three Approaches for Personalization with Applications to Federated Learning",
  https://arxiv.org/abs/2002.10619, user clustering (HypCluster).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.client_loss import client_loss
from fedjaxlite.algorithms.pieces.leaves import Predicate, joined, split
from fedjaxlite.algorithms.pieces.length import local_length


class IfcaState(NamedTuple):
    """The server's state.

    Attributes:
      params: the models, stacked: `[k, ...]` on every leaf. Leaves that the clusters share have k equal rows.
      optimizer_state: the server optimizer's, for the models side by side.
    """

    params: Any
    optimizer_state: Any


def ifca_init(key: jax.Array, init: Callable[[jax.Array], Any], num_clusters: int) -> Any:
    """K models from k keys, stacked as `ifca` and `hyp_cluster` want them.

    Args:
      key: a random key.
      init: `init(key) -> params`, such as `model.init`.
      num_clusters: k.

    Returns:
      pytree with `[k, ...]` on every leaf.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Example:
      >>> ifca_init(jax.random.key(0), lambda key: {"w": jax.random.normal(key, (3,))}, 2)["w"].shape
      (2, 3)
    """
    fl.checks.is_key(key=key)
    fl.checks.is_function_of("key", init=init)
    num_clusters = fl.checks.positive_int(num_clusters=num_clusters)
    # One after the other: an `init` need not be a function that `vmap` can take.
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(init(k) for k in jax.random.split(key, num_clusters)))


def ifca(
    loss_fn: Callable[..., Any],
    *,
    num_clusters: int,
    client_optimizer: optax.GradientTransformation | None = None,
    server_optimizer: optax.GradientTransformation | None = None,
    averaging: Literal["model", "gradient"] = "model",
    shared: Predicate | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """IFCA: clients choose the cluster by their loss, and train its model.

    Args:
      loss_fn: `(params, batch, key) -> [B]` of one model, or `([B], LossAux)`.
      num_clusters: k, at least 1.
      client_optimizer: optax optimizer of the local steps, for model averaging.
      server_optimizer: optax optimizer that gets the stacked mean delta (for gradient averaging, the gradient) for a
        gradient; zero for a cluster that nobody chose. None is SGD with rate 1; gradient averaging needs one, such as
        `optax.sgd(gamma)`.
      averaging: "model" (option II of the paper) or "gradient" (option I: one full-batch gradient a client).
      shared: `shared(path, leaf) -> bool` says which leaves of the stacked params are one for all clusters; `path` is a
        tuple of key names. Their rows should start equal: the server begins with their mean.
      batch_size: B; None is the full batch. These and `epochs`, `steps` and `shuffle` are for model averaging.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm` whose params are k stacked models: start it from `ifca_init(...)`. Its own number of the cluster
      is a client's state, and `client_params` gives that model (cluster 0 before a client took part). The update has
      one part per cluster, each with a weight of its own, 1 or 0; under `fl.mean()`, which ignores weights, every part
      is divided by the number of all clients. Its info is that of local training, "cluster" and "start_loss", the
      smallest of the k losses. A client downloads all k models, and evaluates them.

    Raises:
      TypeError, ValueError: for arguments out of range; when rounds are built, for params that are not stacked.

    Source: Ghosh et al. (2020), https://arxiv.org/abs/2006.04088, algorithm 1.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> ifca(loss, num_clusters=2, client_optimizer=optax.sgd(0.1), epochs=5).name
      'ifca'
    """
    averaging = fl.checks.one_of(("model", "gradient"), averaging=averaging)
    if averaging == "gradient":
        if client_optimizer is not None or epochs is not None or steps is not None:
            raise ValueError(
                "`client_optimizer`, `epochs` and `steps` are for averaging='model'; gradient averaging takes one "
                "gradient a client. Leave them out, or use averaging='model'."
            )
        if server_optimizer is None:
            raise ValueError("averaging='gradient' needs a `server_optimizer`, such as optax.sgd(0.1): its rate.")
        client_optimizer, batch_size = optax.sgd(1.0), None
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    weigh = lambda data: (data.num_examples > 0).astype(jnp.int32)  # noqa: E731
    algorithm = _clustered(
        loss_fn, num_clusters, client_optimizer, server_optimizer, averaging == "model", shared, weigh, lower, local
    )
    return algorithm._replace(name="ifca", hparams={"averaging": averaging, **algorithm.hparams})


def hyp_cluster(
    loss_fn: Callable[..., Any],
    *,
    num_clusters: int,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    shared: Predicate | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """HypCluster: clients choose the hypothesis by their loss and train it; they weigh by their examples.

    Args:
      loss_fn: `(params, batch, key) -> [B]` of one model, or `([B], LossAux)`.
      num_clusters: the number of hypotheses, at least 1.
      client_optimizer: optax optimizer of the local steps; its state is fresh in every round.
      server_optimizer: as in `ifca`.
      shared: as in `ifca`.
      batch_size: B; None is the full batch.
      epochs: passes over a client's data; 1 if neither is given.
      steps: a fixed number of local steps instead of epochs.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm` like that of `ifca` with model averaging, but for the weights.

    Raises:
      TypeError, ValueError: for arguments out of range; when rounds are built, for params that are not stacked.

    Source: Mansour et al. (2020), https://arxiv.org/abs/2002.10619.

    Example:
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2 / 2
      >>> hyp_cluster(loss, num_clusters=3, client_optimizer=optax.sgd(0.1), epochs=5).hparams["num_clusters"]
      3
    """
    local = local_length(batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle)
    weigh = lambda data: data.num_examples  # noqa: E731
    algorithm = _clustered(loss_fn, num_clusters, client_optimizer, server_optimizer, True, shared, weigh, lower, local)
    return algorithm._replace(name="hyp_cluster")


def _clustered(
    loss_fn: Callable[..., Any],
    num_clusters: int,
    client_optimizer: Any,
    server_optimizer: Any,
    each_apart: bool,
    shared: Predicate | None,
    weigh: Callable[[fl.ClientData], jax.Array],
    lower: bool | Literal["auto"],
    local: dict[str, Any],
) -> fl.Algorithm:
    """The method behind both; `each_apart` says whether a cluster's mean is over its own clients."""
    num_clusters = fl.checks.positive_int(num_clusters=num_clusters)
    if shared is not None:
        fl.checks.is_function_of("path", "leaf", shared=shared)
    local = {**local, "epochs": 1 if local["epochs"] is None and local["steps"] is None else local["epochs"]}
    train = fl.local_sgd(loss_fn, client_optimizer=client_optimizer, lower=lower, **local)
    evaluate = client_loss(loss_fn, lower=lower)
    server = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    fl.check_optimizer(server_optimizer=server)
    clusters = range(num_clusters)
    in_common = (lambda path, leaf: False) if shared is None else shared

    def init(params: Any) -> IfcaState:
        _check_stacked(params, num_clusters)
        mean = lambda leaf: jnp.broadcast_to(leaf.mean(0, keepdims=True), leaf.shape)  # noqa: E731
        common, own = split(jax.tree.map(jnp.asarray, params), in_common)
        params = joined(own, jax.tree.map(mean, common))
        return IfcaState(params, server.init(fl.trainable(params)))

    def client_update(models: Any, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del client_state, key  # local training takes its keys from the client's view
        losses = jax.vmap(lambda params: evaluate(params, data))(models)
        cluster = jnp.argmin(losses).astype(jnp.int32)
        result = train(jax.tree.map(lambda leaf: leaf[cluster], models), data)
        common, own = split(result.delta, in_common)
        chosen = [(cluster == j).astype(jnp.int32) for j in clusters]
        parts = tuple(jax.tree.map(lambda d, c=c: d * c.astype(d.dtype), own) for c in chosen)
        weight = jnp.asarray(weigh(data), jnp.int32)
        update: dict[str, Any] = {"clusters": parts}
        weights = {"clusters": tuple(weight * c for c in chosen) if each_apart else weight}
        if shared is not None:
            update["common"], weights["common"] = common, weight
        info = {**result.metrics, "local_steps": result.num_steps, "cluster": cluster, "start_loss": losses[cluster]}
        return fl.ClientOutput(update, weights, client_state=cluster, info=info)

    def server_update(state: IfcaState, aggregate: fl.Aggregate, key: jax.Array) -> IfcaState:
        del key
        delta = jax.tree.map(lambda *leaves: jnp.stack(leaves), *aggregate.value["clusters"])
        if shared is not None:
            repeat = lambda leaf: jnp.broadcast_to(leaf[None], (num_clusters, *leaf.shape))  # noqa: E731
            delta = joined(delta, jax.tree.map(repeat, aggregate.value["common"]))
        return IfcaState(*fl.apply_delta(server, state.params, delta, state.optimizer_state))

    return fl.Algorithm(
        init,
        client_update,
        server_update,
        init_client=lambda params: jnp.int32(0),
        client_params=lambda models, cluster: jax.tree.map(lambda leaf: leaf[cluster], models),
        hparams={"num_clusters": num_clusters, **local},
    )


def _check_stacked(params: Any, num_clusters: int) -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        shape = list(jnp.shape(leaf))
        if shape[:1] != [num_clusters]:
            raise ValueError(
                f"the params have shape {shape} at {fl.checks.path_str(path)}; expected [{num_clusters}, ...], one "
                "model for each cluster. Make them by ifca_init(key, model.init, num_clusters)."
            )
