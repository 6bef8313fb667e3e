"""Federated reconstruction: clients rebuild their local parameters in every round, and keep nothing in between.

The parameters are global ones g, which the server has, and local ones l (a user's embedding), which nobody sends:

    client k:   l_k = l_0, after k_r steps on l alone, g fixed, on the support examples          reconstruction
                g_k = g,   after k_u steps on g alone, l_k fixed, on the query examples          update
                delta_k = g - g_k
    server:     g = server_optimizer(g, sum_k n_k delta_k / sum_k n_k),  n_k the client's query examples

So the clients need no state, clients that were never seen before get a model as good as any, and only g crosses the
wire. Without a split, all examples serve for both.

Source: Singhal, Sidahmed, Garrett, Wu, Rush, Prakash (2021), "Federated Reconstruction: Partially Local Federated
Learning", https://arxiv.org/abs/2102.03448, algorithm 1.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.pieces.leaves import Predicate, joined, split


class FedReconState(NamedTuple):
    """The server's state.

    Attributes:
      params: the whole model; its local leaves are the values from which reconstruction starts.
      optimizer_state: the server optimizer's, for the global leaves.
    """

    params: Any
    optimizer_state: Any


def fed_recon(
    loss_fn: Callable[..., Any],
    *,
    local: Predicate,
    client_optimizer: optax.GradientTransformation,
    recon_optimizer: optax.GradientTransformation | None = None,
    server_optimizer: optax.GradientTransformation | None = None,
    support: float | None = None,
    recon_epochs: int | None = None,
    recon_steps: int | None = None,
    batch_size: int | None = 10,
    epochs: int | None = None,
    steps: int | None = None,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> fl.Algorithm:
    """FedRecon, with local leaves of one's choice.

    Args:
      loss_fn: `(params, batch, key) -> [B]` of the whole model, or `([B], LossAux)`.
      local: `local(path, leaf) -> bool` says which trainable leaves are local; `path` is a tuple of key names.
      client_optimizer: optax optimizer of the k_u steps on the global leaves.
      recon_optimizer: optax optimizer of the k_r steps on the local leaves; None is `client_optimizer`.
      server_optimizer: optax optimizer that gets the mean delta for a gradient; None is SGD with rate 1.
      support: the share of a client's examples, in (0, 1) and rounded up, that the local leaves are rebuilt from: the
        first ones in the stored order. The others are the query examples. None uses all for both.
      recon_epochs: passes over the support examples; 1 if neither is given.
      recon_steps: k_r, steps of reconstruction.
      batch_size: B; None is the full batch.
      epochs: passes over the query examples; 1 if neither is given.
      steps: k_u, steps of the update.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      an `fl.Algorithm` without client state. A client weighs as many as it has query examples, so one with a single
      example and a split counts 0. Its info is that of the update, "local_steps" both phases together. A client's own
      model is rebuilt from its data by `reconstruct`; `client_params` is the model before that.

    Raises:
      TypeError, ValueError: for arguments out of range; when rounds are built, if no leaf is local, or all are.

    Source: Singhal et al. (2021), https://arxiv.org/abs/2102.03448, algorithm 1.

    Example:
      >>> loss = lambda params, batch, key: (params["g"] + params["l"] - batch["x"]) ** 2 / 2
      >>> is_local = lambda path, leaf: path[0] == "l"
      >>> fed_recon(loss, local=is_local, client_optimizer=optax.sgd(0.1), support=0.5).name
      'fed_recon'
    """
    shared_options: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle}
    epochs = 1 if epochs is None and steps is None else epochs
    fl.local_sgd(loss_fn, client_optimizer=client_optimizer, epochs=epochs, steps=steps, lower=lower, **shared_options)
    server = optax.sgd(1.0) if server_optimizer is None else server_optimizer
    fl.check_optimizer(server_optimizer=server)
    rebuild = reconstruct(
        loss_fn,
        local=local,
        recon_optimizer=client_optimizer if recon_optimizer is None else recon_optimizer,
        support=support,
        recon_epochs=recon_epochs,
        recon_steps=recon_steps,
        lower=lower,
        **shared_options,
    )

    def init(params: Any) -> FedReconState:
        own, common = split(fl.trainable(params), local)
        _check_both(own, common)
        return FedReconState(params, server.init(common))

    def client_update(shared: Any, client_state: Any, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local training takes its keys from the client's view
        rebuilt = rebuild(shared, data)
        own, common = split(fl.trainable(rebuilt.params), local)
        # The local leaves reach the loss by closure: fixed, and outside of what the optimizer carries.
        train = fl.local_sgd(
            lambda part, batch, key: loss_fn(_joined(own, part), batch, key),
            client_optimizer=client_optimizer,
            epochs=epochs,
            steps=steps,
            lower=lower,
            **shared_options,
        )
        result = train(fl.with_trainable(shared, common), _query(data, support))
        info = {**result.metrics, "local_steps": rebuilt.num_steps + result.num_steps}
        return fl.ClientOutput(result.delta, result.num_examples, client_state=client_state, info=info)

    def server_update(state: FedReconState, aggregate: fl.Aggregate, key: jax.Array) -> FedReconState:
        del key
        own, common = split(fl.trainable(state.params), local)
        before = fl.with_trainable(state.params, common)
        after, optimizer_state = fl.apply_delta(server, before, aggregate.value, state.optimizer_state)
        return FedReconState(_joined(own, after), optimizer_state)

    return fl.Algorithm(
        init,
        client_update,
        server_update,
        resident=lambda params: split(fl.trainable(params), local)[0],
        name="fed_recon",
        hparams={
            "support": support,
            "recon_epochs": recon_epochs,
            "recon_steps": recon_steps,
            "epochs": epochs,
            "steps": steps,
            **shared_options,
        },
    )


def reconstruct(
    loss_fn: Callable[..., Any],
    *,
    local: Predicate,
    recon_optimizer: optax.GradientTransformation,
    support: float | None = None,
    recon_epochs: int | None = None,
    recon_steps: int | None = None,
    batch_size: int | None = 10,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
) -> Callable[[Any, fl.ClientData], fl.LocalResult]:
    """The first half of FedRecon: local leaves from scratch, for training as for serving and evaluation.

    Args:
      loss_fn: `(params, batch, key) -> [B]` of the whole model, or `([B], LossAux)`.
      local: `local(path, leaf) -> bool` says which trainable leaves are local.
      recon_optimizer: optax optimizer of the steps.
      support: the share of the client's examples, in (0, 1), to rebuild from: the first ones; None is all of them.
      recon_epochs: passes over them; 1 if neither is given.
      recon_steps: number of steps.
      batch_size: B; None is the full batch.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.

    Returns:
      `rebuild(params, data) -> fl.LocalResult`, whose params are the whole model: global leaves and state (BatchNorm)
      as given, local leaves trained from those in `params`. Its delta has the local leaves alone. For use in the
      client function of `fl.federated_sum`.

    Raises:
      TypeError, ValueError: for arguments out of range.

    Source: Singhal et al. (2021), https://arxiv.org/abs/2102.03448, algorithm 1, ReconstructionUpdate.

    Example:
      >>> loss = lambda params, batch, key: (params["g"] + params["l"] - batch["x"]) ** 2 / 2
      >>> rebuild = reconstruct(loss, local=lambda path, leaf: path[0] == "l", recon_optimizer=optax.sgd(0.1))
    """
    fl.checks.is_function_of("path", "leaf", local=local)
    fl.check_optimizer(recon_optimizer=recon_optimizer)
    recon_epochs, recon_steps = fl.checks.trip_count(recon_epochs=recon_epochs, recon_steps=recon_steps)
    if support is not None:
        support = fl.checks.probability(support=fl.checks.concrete(support=support))
        if support == 1:
            raise ValueError("`support` is 1; expected a number in (0, 1), or None to use all examples for both.")
    options: dict[str, Any] = {
        "client_optimizer": recon_optimizer,
        "batch_size": batch_size,
        "epochs": 1 if recon_epochs is None and recon_steps is None else recon_epochs,
        "steps": recon_steps,
        "shuffle": shuffle,
        "lower": lower,
    }
    fl.local_sgd(loss_fn, **options)  # refuses now what it refuses

    def rebuild(params: Any, data: fl.ClientData) -> fl.LocalResult:
        own, common = split(fl.trainable(params), local)
        fixed = fl.with_trainable(params, common)
        train = fl.local_sgd(lambda part, batch, key: loss_fn(_joined(fixed, part), batch, key), **options)
        # Orders and draws of its own, apart from those of the update that follows.
        view = replace(_support(data, support), key=jax.random.fold_in(data.key, 3))
        result = train(fl.with_trainable(params, own), view)
        return result._replace(params=_joined(result.params, fixed))  # the state as it was given

    return rebuild


def _joined(other: Any, part: Any) -> Any:
    """The trainable leaves of both, with whatever else `part` has."""
    return fl.with_trainable(part, joined(fl.trainable(other), fl.trainable(part)))


def _check_both(own: Any, common: Any) -> None:
    for kind, leaves, other in (("local", own, "global"), ("global", common, "local")):
        if not jax.tree.leaves(leaves):
            paths = [fl.checks.path_str(path) for path, _ in jax.tree_util.tree_flatten_with_path((own, common))[0]]
            raise ValueError(
                f"`local` makes every leaf {other} and none {kind}, of {', '.join(p[3:] for p in paths)}; expected "
                "some of both. It gets a leaf's path, a tuple of key names such as ('users', 'embedding')."
            )


def _size(num_examples: jax.Array, support: float) -> jax.Array:
    return jnp.ceil(jnp.float32(support) * num_examples.astype(jnp.float32)).astype(jnp.int32)


def _support(data: fl.ClientData, support: float | None) -> fl.ClientData:
    """The view of a client's support examples."""
    if support is None:
        return data
    wave = data.wave._replace(num_examples=_size(data.wave.num_examples, support))
    return replace(data, num_examples=_size(data.num_examples, support), wave=wave)


def _query(data: fl.ClientData, support: float | None) -> fl.ClientData:
    """The view of a client's query examples."""
    if support is None:
        return data
    size = _size(data.num_examples, support)
    wave = data.wave._replace(num_examples=data.wave.num_examples - _size(data.wave.num_examples, support))
    return replace(data, offset=data.offset + size, num_examples=data.num_examples - size, wave=wave)
