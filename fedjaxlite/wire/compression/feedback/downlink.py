"""The model on its way down, compressed: a transformation of any algorithm.

    "ef21p"   message_t = C(w_t - h_{t-1})    h_t = h_{t-1} + message_t              differences to what clients hold
    "ef14"    message_t = C(w_t + e_{t-1})    h_t = message_t,  e_t = w_t + e_{t-1} - h_t   a whole model each round
    "none"    message_t = C(w_t)              h_t = message_t                        likewise

w is what the algorithm broadcasts, h what clients train from. A client that was not there for some rounds downloads the
messages that it missed, or the whole model where that is less; the ledger counts what each one did.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.protocol.algorithm import Aggregate, Algorithm, ClientOutput
from fedjaxlite.wire import row
from fedjaxlite.wire.aggregator import Aggregator, Bounds, ClientInfo, Message
from fedjaxlite.wire.compression.feedback import inside
from fedjaxlite.wire.head import wire_of
from fedjaxlite.wire.packing.forms import num_bytes

PyTree = Any
FEEDBACK = ("ef21p", "ef14", "none")


class DownlinkState(NamedTuple):
    """The server's state.

    Attributes:
      inner: the algorithm's own.
      held: what clients hold: the float leaves of the broadcast, float32.
      error: like `held`, what messages left out so far; `()` unless feedback is "ef14".
      message: the last message, as it is sent.
      codecs: the states of the codecs.
      round: int32 scalar, messages since the first model.
    """

    inner: Any
    held: PyTree
    error: PyTree
    message: Any
    codecs: Any
    round: Any


class Download(NamedTuple):
    """What is broadcast.

    Attributes:
      model: what the algorithm's clients get, with what they hold in place of its float leaves.
      message: what crosses the wire.
      round: int32 scalar.
    """

    model: PyTree
    message: Any
    round: Any


class Follower(NamedTuple):
    """What a client keeps.

    Attributes:
      inner: the algorithm's own.
      last: int32 scalar, the round whose model it has; -1 before its first.
    """

    inner: PyTree
    last: Any


def downlink(algorithm: Algorithm, *codecs: Aggregator, feedback: str = "ef21p") -> Algorithm:
    """Compresses what the server sends to clients, with a memory of what was left out.

    Args:
      algorithm: any Algorithm. Its broadcast's float leaves are compressed, but for those that are `resident` already;
        other leaves are sent as they are.
      *codecs: what compresses, in a row, such as `fl.compression.eden(bits=4)`. They keep nothing at clients.
      feedback: "ef21p" sends differences to what clients hold; "ef14" and "none" send a whole model each round, to
        clients that need not have been there before.

    Returns:
      an Algorithm: the same server and the same clients, which train from what they hold. `params` stays the server's
      exact model.

    Raises:
      TypeError, ValueError: for an algorithm or codecs that are none, codecs that work on sums or keep a state, and an
        unknown feedback. When a run begins: for what the codecs refuse of the broadcast's shapes.

    Guarantees:
      With a codec that loses nothing the run is that of the algorithm alone, up to rounding of sums and differences.
      Under "ef21p" `PassInfo.clients["bytes_down"]` is, for each client, the smaller of the messages that it missed and
      of the whole model; a client that dropped out did not keep what it got. `rounds.traffic` gives one message.

    Source: Gruntkowska, Tyurin, Richtarik (2022), "EF21-P and Friends", https://arxiv.org/abs/2209.15218, algorithm 1.
    Tang et al. (2019), "DoubleSqueeze", https://arxiv.org/abs/1905.05957, for a memory at the server.

    Example:
      >>> import fedjaxlite as fl, optax
      >>> from fedjaxlite import algorithms
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> one = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> downlink(one, fl.clip_by_value(1.0), fl.quantize(bits=8)).name
      'fed_avg+downlink(clip_by_value, quantize)'
    """
    checks.one_instance(Algorithm, "an Algorithm, such as algorithms.fed_avg(...)", algorithm=algorithm)
    inner = inside.checked("downlink", codecs)
    feedback = checks.one_of(FEEDBACK, feedback=feedback)
    shared_of = algorithm.broadcast or algorithm.params
    client = ClientInfo(jnp.int32(0), jnp.float32(1), None, jnp.bool_(True))

    def send(state: DownlinkState, goal: PyTree, key: Any) -> DownlinkState:
        states = row.begin_all(inner, state.codecs, None, jax.random.fold_in(key, 0))
        states, _ = row.prepare_all(inner, states, Bounds())
        target = _target(feedback, state, goal)
        about = client._replace(key=jax.random.fold_in(key, 1))
        message = row.encode_all(inner, states, Message(target, jnp.float32(1), {}), about)
        read = row.read_all(inner, states, message, client).value
        held = jax.tree.map(jnp.add, state.held, read) if feedback == "ef21p" else read
        error = jax.tree.map(jnp.subtract, target, read) if feedback == "ef14" else ()
        return state._replace(held=held, error=error, message=(message.value, message.aside))

    def init(params: PyTree) -> DownlinkState:
        server = algorithm.init(params)
        goal = _compressed_of(algorithm, shared_of(server))
        states, _ = row.init_all(inner, wire_of(goal, capacity=1)._replace(weight_cap=1))
        zeros = jax.tree.map(jnp.zeros_like, goal)
        first = DownlinkState(server, goal, zeros if feedback == "ef14" else (), (), states, jnp.int32(0))
        # Under differences everyone's first download is the exact model, and the first message says nothing.
        return send(first, goal, jax.random.key(0))._replace(codecs=states)

    def server_update(state: DownlinkState, aggregate: Aggregate, key: Any) -> DownlinkState:
        server = algorithm.server_update(state.inner, aggregate, key)
        goal = _compressed_of(algorithm, shared_of(server))
        return send(state._replace(inner=server, round=state.round + 1), goal, jax.random.fold_in(key, 1))

    def broadcast(state: DownlinkState) -> Download:
        return Download(_with(algorithm, shared_of(state.inner), state.held), state.message, state.round)

    def client_update(shared: Download, own: Follower, data: Any, key: Any) -> ClientOutput:
        output = algorithm.client_update(shared.model, own.inner, data, key)
        return output._replace(client_state=Follower(output.client_state, shared.round))

    def resident(shared: Download) -> PyTree:
        # The numbers that codecs did not take are sent as they are, whatever of the model is held already.
        kept = [leaf for leaf, taken in _leaves(algorithm, shared.model) if taken]
        return kept, algorithm.resident(shared.model)

    def download(shared: Download, own: Follower) -> jax.Array:
        whole = num_bytes([leaf for leaf, taken in _leaves(algorithm, shared.model) if taken])
        one = num_bytes(shared.message)
        missed = jnp.maximum(shared.round - own.last, 0).astype(jnp.float32)
        behind = jnp.where(own.last < 0, jnp.float32(whole), jnp.minimum(missed * one, jnp.float32(whole)))
        few = jnp.minimum(missed, jnp.float32(-(-whole // max(one, 1)))).astype(jnp.uint32) * jnp.uint32(one)
        exact = jnp.where(behind < whole, few, jnp.uint32(whole))
        return exact - jnp.uint32(one)  # `Traffic.down` counts one message already

    return algorithm._replace(
        init=init,
        client_update=client_update,
        server_update=server_update,
        params=lambda state: algorithm.params(state.inner),
        broadcast=broadcast,
        init_client=lambda params: Follower(algorithm.init_client(params), jnp.int32(-1)),
        client_params=lambda shared, own: algorithm.client_params(shared.model, own.inner),
        resident=resident,
        download=download if feedback == "ef21p" else None,
        name=f"{algorithm.name}+downlink({', '.join(codec.name for codec in inner)})",
        hparams={**algorithm.hparams, "downlink": {codec.name: codec.hparams for codec in inner}, "feedback": feedback},
    )


def _target(feedback: str, state: DownlinkState, goal: PyTree) -> PyTree:
    if feedback == "ef21p":
        return jax.tree.map(jnp.subtract, goal, state.held)
    return jax.tree.map(jnp.add, goal, state.error) if feedback == "ef14" else goal


def _leaves(algorithm: Algorithm, shared: PyTree) -> list[tuple[Any, bool]]:
    """The leaves of a broadcast, and whether codecs take them: floats that clients do not have already."""
    leaves = jax.tree.leaves(shared)
    # What is resident is picked from the broadcast, so its leaves are the same objects.
    there = {id(leaf) for leaf in jax.tree.leaves(algorithm.resident(shared))}
    return [(leaf, id(leaf) not in there and jnp.issubdtype(leaf.dtype, jnp.floating)) for leaf in leaves]


def _compressed_of(algorithm: Algorithm, shared: PyTree) -> list[jax.Array]:
    shared = jax.tree.map(jnp.asarray, shared)
    return [leaf.astype(jnp.float32) for leaf, taken in _leaves(algorithm, shared) if taken]


def _with(algorithm: Algorithm, shared: PyTree, held: list[jax.Array]) -> PyTree:
    shared = jax.tree.map(jnp.asarray, shared)
    structure, waiting = jax.tree.structure(shared), iter(held)
    leaves = _leaves(algorithm, shared)
    return structure.unflatten([next(waiting).astype(leaf.dtype) if taken else leaf for leaf, taken in leaves])
