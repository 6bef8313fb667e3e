"""Neurotoxin: bad updates keep off the coordinates that honest clients move most, and so last longer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.attacks.data.poison import checked, recorded
from fedjaxlite.attacks.who import is_bad, nobody
from fedjaxlite.protocol.algorithm import Aggregate, Algorithm, ClientOutput
from fedjaxlite.variables import Variables, trainable

PyTree = Any


class NeurotoxinState(NamedTuple):
    """The server's state, and what bad clients know of its last step.

    Attributes:
      inner: the algorithm's own.
      free: bool, like the trainable parameters: False where the model's last change was largest.
    """

    inner: Any
    free: PyTree


class NeurotoxinShared(NamedTuple):
    """What clients get.

    Attributes:
      inner: the algorithm's own broadcast.
      free: as in NeurotoxinState; no download.
    """

    inner: Any
    free: PyTree


def neurotoxin(algorithm: Algorithm, bad: Any, *, top: Any = 0.1) -> Algorithm:
    """Bad clients send nothing on the coordinates that the model's last change moved most.

    Honest clients will hardly touch the others, so that a backdoor there outlives the attack. Around `backdoor` and its
    like. The server remembers its model's last change that was not zero; before there is one nothing is left out. No
    download is counted for it: a client knows it from two models that it was sent.

    Args:
      algorithm: any Algorithm whose update holds parts like the model, as its delta is, or SCAFFOLD's control variates;
        each of them is projected. Statistics that are not trained are left alone.
      bad: who is bad: a Bad, ids of clients, or a bool array `[N]`.
      top: the share of coordinates to keep off, of all leaves together; a number in [0, 1) or a tracer.

    Returns:
      an Algorithm with a server state of its own, whose model `params` gives; where nobody is bad, `algorithm` itself.
      It costs the server one sort of the model's coordinates a round.

    Raises:
      TypeError, ValueError: for what is no Algorithm, no clients, a share outside [0, 1). When a run begins: for an
        update without a part like the model.

    Guarantees:
      A bad client's update is zero on ceil(top * d) of d coordinates, ties decided by their order; honest ones are what
      they are. The paper projects every local gradient; this projects their sum, so that any algorithm can be
      attacked: the same for one local step of SGD.

    Source: Zhang, Panda, Song, Yang, Mahoney, Mittal, Gonzalez, Ramchandran (2022), "Neurotoxin: Durable Backdoors in
    Federated Learning", https://arxiv.org/abs/2206.10341, algorithm 1.

    Example:
      >>> import optax
      >>> from fedjaxlite import algorithms
      >>> loss = lambda params, batch, key: (params - batch["y"]) ** 2
      >>> honest = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> neurotoxin(honest, [0, 3], top=0.05).name
      'neurotoxin(fed_avg)'
    """
    who = checked(algorithm, bad)
    top = checks.fraction("It is the share of coordinates that bad updates keep off.", top=top)
    if nobody(who):
        return algorithm
    shared_of = algorithm.broadcast or algorithm.params

    def init(params: PyTree) -> NeurotoxinState:
        inner = algorithm.init(params)
        model = trainable(algorithm.params(inner))
        return NeurotoxinState(inner, jax.tree.map(lambda leaf: jnp.ones(jnp.shape(leaf), bool), model))

    def server_update(state: NeurotoxinState, aggregate: Aggregate, key: Any) -> NeurotoxinState:
        inner = algorithm.server_update(state.inner, aggregate, key)
        models = (trainable(algorithm.params(each)) for each in (inner, state.inner))
        change = jax.tree.map(lambda new, old: jnp.abs(new - old).astype(jnp.float32), *models)
        moved = jnp.stack([jnp.any(leaf > 0) for leaf in jax.tree.leaves(change)]).any()
        free = jax.tree.map(lambda new, old: jnp.where(moved, new, old), free_of(change, top), state.free)
        return NeurotoxinState(inner, free)

    def client_update(shared: NeurotoxinShared, client_state: PyTree, data: Any, key: Any) -> ClientOutput:
        output = algorithm.client_update(shared.inner, client_state, data, key)
        guilty = is_bad(who, data.id, data.key)
        kept = jax.tree.map(lambda leaf: leaf | ~guilty, shared.free)
        return output._replace(update=_projected(output.update, kept))

    return algorithm._replace(
        init=init,
        client_update=client_update,
        server_update=server_update,
        params=lambda state: algorithm.params(state.inner),
        broadcast=lambda state: NeurotoxinShared(shared_of(state.inner), state.free),
        client_params=lambda shared, own: algorithm.client_params(shared.inner, own),
        resident=lambda shared: (algorithm.resident(shared.inner), shared.free),
        download=_download(algorithm),
        name=f"neurotoxin({algorithm.name})",
        hparams=recorded(algorithm, "neurotoxin", who, {"top": top}),
    )


def free_of(change: PyTree, top: Any) -> PyTree:
    """Where a change is not among its largest, as a tree of bools: False at ceil(top * d) of d coordinates.

    Example:
      >>> free_of(jnp.float32([3, 1, 2, 0]), 0.5).tolist()
      [False, True, False, True]
    """
    leaves, structure = jax.tree.flatten(change)
    flat = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
    # 1e-4 of slack: a float32 product such as 0.2 * 5 must not round up to one more.
    count = jnp.ceil(jnp.float32(flat.size) * top - 1e-4).astype(jnp.int32)
    order = jnp.argsort(-flat, stable=True)
    free = jnp.zeros(flat.shape, bool).at[order].set(jnp.arange(flat.size, dtype=jnp.int32) >= count)
    ends, found = 0, []
    for leaf in leaves:
        found.append(free[ends : ends + leaf.size].reshape(leaf.shape))
        ends += leaf.size
    return structure.unflatten(found)


def _projected(update: PyTree, kept: PyTree) -> PyTree:
    """An update with zeros where a coordinate is not kept, in each of its parts that is like the model."""
    shapes = lambda tree: [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]  # noqa: E731
    like = lambda part: jax.tree.structure(part) == jax.tree.structure(kept) and shapes(part) == shapes(kept)  # noqa: E731
    parts, structure = jax.tree.flatten(update, is_leaf=lambda part: isinstance(part, Variables) or like(part))
    project = lambda part: jax.tree.map(lambda leaf, k: jnp.where(k, leaf, jnp.zeros_like(leaf)), part, kept)  # noqa: E731
    found, some = [], False
    for part in parts:
        inner = trainable(part)
        some |= like(inner)
        done = project(inner) if like(inner) else inner
        found.append(part._replace(params=done) if isinstance(part, Variables) else done)
    if not some:
        raise TypeError(
            "no part of the update has the model's structure and shapes, so `neurotoxin` has nothing to project; "
            "expected an algorithm that sends a delta of its model."
        )
    return structure.unflatten(found)


def _download(algorithm: Algorithm) -> Any:
    inner = algorithm.download
    return None if inner is None else lambda shared, own: inner(shared.inner, own)
