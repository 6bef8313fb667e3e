"""Streaming DiLoCo: one fragment of the model is exchanged at a time, while the workers go on with theirs.

    worker k:   w_k, s_k are its own from the round before;  for t = 0 .. H/P - 1:
                    at t = tau:  w_k[q] = alpha w_k[q] + (1 - alpha) w[q]         q the fragment of the round before
                    w_k, s_k = inner_optimizer(w_k, s_k, grad f_k(w_k))
                delta_k = w[p] - w_k[p]                                            p = round mod P
    server:     w[p], v[p] = outer_optimizer(w[p], v[p], mean of delta_k)

A round is what lies between two exchanges, H/P local steps, so each fragment is exchanged once in P rounds, H steps. It
is mixed in tau steps late: so long may the exchange take without anybody waiting. Fragments here are P equal pieces of
the parameters in a row, so that a message is ceil(n/P) numbers in every round; the paper's are layers.
Each has a state of the outer optimizer, as in the paper; one that looks across parameters, such as a clip by the global
norm, sees a fragment. With P = 1, tau = 0 and alpha = 0 it is DiLoCo.

All messages of a server step are of one fragment, so this is a method of rounds: an asynchronous server, whose clients
start from older versions of the model, would add up pieces of different fragments. There take DiLoCo, or P = 1.

Sources:
  Douillard, Donchev, Rush, Kale, Charles, Garrett, Teston, Lacey, McIlroy, Shen, Ramé, Szlam, Ranzato, Barham (2025),
  "Streaming DiLoCo with overlapping communication: Towards a Distributed Free Lunch",
  https://arxiv.org/abs/2501.18512, algorithm 2 (without its 4-bit messages: those are a matter of the aggregator).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import fedjaxlite as fl
from fedjaxlite.algorithms.low_communication import fragments as cut
from fedjaxlite.algorithms.pieces.length import local_length
from fedjaxlite.algorithms.pieces.local_steps import Gradient, Length, local_steps


class ServerState(NamedTuple):
    """The server's model, and for each fragment a state of the outer optimizer.

    Attributes:
      params: the model.
      round: int32 scalar, how many exchanges there were.
      optimizer_state: the outer optimizer's, every leaf with a leading axis of fragments.
    """

    params: Any
    round: jax.Array
    optimizer_state: Any


class ClientState(NamedTuple):
    """What a worker keeps.

    Attributes:
      params: its own model.
      optimizer_state: the inner optimizer's.
      last: int32 scalar, the round that it was last there in; -1 before it ever was.
    """

    params: Any
    optimizer_state: Any
    last: jax.Array


class _Shared(NamedTuple):
    params: Any
    fragment: jax.Array
    round: jax.Array


class _Carry(NamedTuple):
    params: Any
    optimizer_state: Any
    sums: dict[str, jax.Array]
    weight: jax.Array
    steps: jax.Array


def streaming_di_lo_co(
    loss_fn: Callable[..., Any],
    *,
    inner_optimizer: optax.GradientTransformation,
    outer_optimizer: optax.GradientTransformation | None = None,
    fragments: int = 1,
    overlap: int = 0,
    mixing: Any = 0.0,
    batch_size: int | None = 10,
    steps: int = 30,
    shuffle: bool = True,
    lower: bool | Literal["auto"] = "auto",
    compute_dtype: Any = None,
    remat: bool | Callable[..., Any] = False,
) -> fl.Algorithm:
    """Streaming DiLoCo: workers exchange a fragment of the model at a time, and train on meanwhile.

    Args:
      loss_fn: `(params, batch, key) -> [B]`, one loss per example, or `([B], LossAux)` without a state.
      inner_optimizer: optax optimizer of the local steps, the paper's is AdamW; its state stays at the worker.
      outer_optimizer: optax optimizer that gets the mean delta of a fragment for a gradient, with a state for each
        fragment; None is `optax.sgd(0.7, momentum=0.9, nesterov=True)`.
      fragments: P, into how many pieces the parameters are cut.
      overlap: tau, local steps of the next round after which a fragment that was exchanged is mixed in; below `steps`.
      mixing: alpha in [0, 1), the weight of a worker's own parameters there; 0 replaces them.
      batch_size: B; None is the full batch.
      steps: H/P, local steps between two exchanges.
      shuffle: draw a new order every epoch; False keeps the stored order.
      lower: see `fedjaxlite.value_and_grad`.
      compute_dtype: such as `jnp.bfloat16`, the dtype of activations; the model and both optimizers keep theirs.
      remat: whether activations are computed again instead of kept; or a policy of `jax.checkpoint_policies`.

    Returns:
      an `fl.Algorithm`, whose update is a vector of ceil(n/P) numbers, the delta of the round's fragment. A worker
      keeps its own model and the inner optimizer's state. In its first round it starts from the server's model; after
      rounds that it was away it downloads the fragments that it missed, and mixes them in before its first step.
      Workers weigh as many as they have examples; `fl.mean` gives the paper's equal weights. The algorithm's model,
      that of `client_params` too, is the server's. Its info is that of `fed_avg`. With several fragments it is for
      synchronous rounds alone: messages from older versions of the model would be of other fragments.

    Raises:
      TypeError, ValueError: for arguments out of range; with a model, if that has state which is not trained, or fewer
        numbers than fragments.

    Source: Douillard et al. (2025), https://arxiv.org/abs/2501.18512, algorithm 2.

    Example:
      >>> loss = lambda params, batch, key: ((params - batch["x"]) ** 2).sum(-1) / 2
      >>> streaming_di_lo_co(loss, inner_optimizer=optax.adamw(1e-3), fragments=3, overlap=5, mixing=0.5).name
      'streaming_di_lo_co'
    """
    local = local_length(batch_size=batch_size, epochs=None, steps=fl.checks.positive_int(steps=steps), shuffle=shuffle)
    fragments = fl.checks.positive_int(fragments=fragments)
    overlap = fl.checks.nonnegative_int(overlap=overlap)
    mixing = fl.checks.fraction(mixing=mixing)
    if overlap >= local["steps"]:
        raise ValueError(
            f"`overlap` is {overlap} and `steps` is {local['steps']}; expected fewer, since a fragment has to be back "
            "before the next one is sent. Take more steps, or fewer fragments."
        )
    fl.check_optimizer(inner_optimizer=inner_optimizer)
    outer = optax.sgd(0.7, momentum=0.9, nesterov=True) if outer_optimizer is None else outer_optimizer
    fl.check_optimizer(outer_optimizer=outer)
    options: dict[str, Any] = {"lower": lower, "compute_dtype": compute_dtype, "remat": remat}
    fl.value_and_grad(loss_fn, **options)  # refuses now what it refuses

    def mix(own: Any, shared: _Shared, which: jax.Array) -> Any:
        """A worker's model with some fragments mixed in."""
        share = lambda w, v: v + jnp.asarray(mixing, v.dtype) * (w - v)  # noqa: E731
        return jax.tree.map(
            lambda here, w, v: jnp.where(here, share(w, v), w), cut.marked(which, own), own, shared.params
        )

    def client_update(shared: _Shared, kept: ClientState, data: fl.ClientData, key: jax.Array) -> fl.ClientOutput:
        del key  # local steps take their keys from the client's view
        gradient = fl.value_and_grad(loss_fn, lanes=data.wave.num_lanes, platform=data.wave.platform, **options)
        missed, late = cut.changed(shared.round, kept.last, fragments)
        params = jax.tree.map(lambda w, v: jnp.where(kept.last >= 0, w, v), kept.params, shared.params)
        params = mix(params, shared, missed)

        def start(shapes: fl.BatchLoss) -> _Carry:
            zeros = {name: jnp.float32(0.0) for name in _means(shapes)}
            return _Carry(params, kept.optimizer_state, zeros, jnp.float32(0.0), jnp.int32(0))

        def when(due: jax.Array, params: Any) -> Any:
            return mix(params, shared, late & due)

        def step(carry: _Carry, gradient: Gradient) -> _Carry:
            params = when(carry.steps == overlap, carry.params)
            loss, grads = gradient(params)
            updates, optimizer_state = inner_optimizer.update(grads, carry.optimizer_state, params)
            sums = jax.tree.map(lambda total, mean: total + mean * loss.weight, carry.sums, _means(loss))
            params = optax.apply_updates(params, updates)
            return _Carry(params, optimizer_state, sums, carry.weight + loss.weight, carry.steps + 1)

        carry = local_steps(data, gradient, params, start, step, Length(**local))
        own = when(carry.steps <= overlap, carry.params)  # of a straggler, whose steps end before
        delta = cut.piece(shared.params, shared.round, fragments) - cut.piece(own, shared.round, fragments)
        delta = jnp.where(data.num_examples > 0, delta, jnp.zeros_like(delta))
        seen = jnp.where(carry.weight > 0, carry.weight, 1.0)
        info = {**{name: total / seen for name, total in carry.sums.items()}, "local_steps": carry.steps}
        state = ClientState(own, carry.optimizer_state, shared.round)
        return fl.ClientOutput(delta, data.num_examples, client_state=state, info=info)

    def server_update(state: ServerState, aggregate: fl.Aggregate, key: jax.Array) -> ServerState:
        del key
        place = jax.lax.rem(state.round, jnp.int32(fragments))
        at = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, place, keepdims=False)  # noqa: E731
        put = lambda leaf, new: jax.lax.dynamic_update_index_in_dim(leaf, new, place, 0)  # noqa: E731
        rows = cut.rows(state.params, fragments)
        fragment, own = fl.apply_delta(outer, at(rows), aggregate.value, jax.tree.map(at, state.optimizer_state))
        optimizer_state = jax.tree.map(put, state.optimizer_state, own)
        return ServerState(cut.joined(put(rows, fragment), state.params), state.round + 1, optimizer_state)

    def init(params: Any) -> ServerState:
        cut.check(params, fragments)
        return ServerState(params, jnp.int32(0), jax.vmap(outer.init)(cut.rows(params, fragments)))

    return fl.Algorithm(
        init,
        client_update,
        server_update,
        broadcast=lambda s: _Shared(s.params, cut.piece(s.params, s.round - 1, fragments), s.round),
        init_client=lambda params: ClientState(params, inner_optimizer.init(params), jnp.int32(-1)),
        client_params=lambda shared, client_state: shared.params,
        resident=lambda shared: (shared.params, shared.round),  # a worker that was there has it, but for the fragment
        download=lambda shared, kept: cut.beside(shared.params, shared.round, kept.last, fragments),
        name="streaming_di_lo_co",
        hparams={**local, "fragments": fragments, "overlap": overlap, "mixing": mixing},
        in_rounds=fragments > 1,
    )


def _means(loss: fl.BatchLoss) -> dict[str, Any]:
    return {"loss": loss.loss, **loss.metrics}
