"""What leaves a client: its output, guarded against NaN, as a message of the codecs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.protocol.algorithm import ClientOutput
from fedjaxlite.wire.aggregator import Aggregator, ClientInfo, Message

PyTree = Any


class ClientState(NamedTuple):
    """What each client keeps between its rounds; as a bank, with a leading axis of clients on every leaf.

    Attributes:
      algorithm: the algorithm's own (SCAFFOLD's control variates, Ditto's personal model).
      codec: the aggregator's (error feedback).
    """

    algorithm: PyTree
    codec: PyTree


class Encoded(NamedTuple):
    """One client's work as it leaves the client.

    Attributes:
      message: as it is sent.
      state: a ClientState, what the client keeps if its message counts.
      finite: bool scalar, whether everything was; else the message is that of zeros with weight 0.
      client: what the codecs were told of the client.
    """

    message: Message
    state: ClientState
    finite: Any
    client: ClientInfo


def encoded(
    output: ClientOutput, aggregator: Aggregator, aggregator_state: Any, codec_state: Any, client: ClientInfo
) -> Encoded:
    """A client's output as a message.

    A client whose update is not finite has its message and weight zeroed *before* encoding, so that it still adds the
    noise and masks that the protocol counts on.

    Args:
      output: what `client_update` returned.
      aggregator: a chain.
      aggregator_state: its state in a round that has begun.
      codec_state: what the codecs keep at this client.
      client: what codecs may know of it.
    """
    message = Message(output.update, output.weight, dict(output.scalars))
    finite = all_finite((message, output.client_state))
    message = jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), message)
    client = client._replace(weight=jnp.where(finite, client.weight, 0.0))
    message, codec_state = aggregator.encode(aggregator_state, codec_state, message, client)
    return Encoded(message, ClientState(output.client_state, codec_state), finite, client)


def all_finite(tree: PyTree) -> jax.Array:
    """A bool scalar: whether every float in a pytree is finite."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    finite = jnp.bool_(True)
    for leaf in floats:
        finite = finite & jnp.all(jnp.isfinite(leaf))
    return finite
