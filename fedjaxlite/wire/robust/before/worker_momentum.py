"""Worker momentum: every client sends a moving average of its own updates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, ClientInfo, Message, Wire
from fedjaxlite.wire.clips import needs_floats

PyTree = Any


class Momentum(NamedTuple):
    """What a client keeps.

    Attributes:
      average: pytree of float32 like the update; of the updates that it sent so far.
      begun: float32 scalar, 1 once there is one.
    """

    average: PyTree
    begun: jax.Array


def worker_momentum(beta: Any) -> Aggregator:
    """Every client sends an average of its own updates over rounds: beta times the last average, and the rest new.

    Honest clients then differ less from each other than their updates do, which leaves less room for attacks that hide
    in the variance: what rules such as `centered_clipping` are proved with. It is done at the client, before anything
    is sent, and keeps its state across rounds, which a momentum of the local optimizer does not.

    Args:
      beta: in [0, 1), or a tracer; 0 sends the update. A client's first average is its update.

    Returns:
      an Aggregator, a value codec behind a mean; it stands before or behind a clip, and needs no rule. A client that is
      not in a round keeps its average. Memory: one model for each client of the population.

    Raises:
      TypeError, ValueError: for a beta out of range; when built, for integers, and behind a mask or noise.

    Guarantees:
      The averages are weighted means of updates, so that bounds of a clip before it still hold. A bad client's past is
      in its average too.

    Source: Karimireddy, He, Jaggi (2021), "Learning from History for Byzantine Robust Optimization",
    https://arxiv.org/abs/2012.10333, equation 7, with local training in place of a gradient.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.chain(fl.mean(), worker_momentum(0.9), fl.robust.centered_clipping(1.0)).name
      'chain(mean, worker_momentum, centered_clipping)'
    """
    beta = checks.fraction("It is the share of what a client sent before.", beta=beta)

    def init(wire: Wire) -> tuple[Any, Wire]:
        needs_floats("worker_momentum", wire)
        if wire.noised:
            raise ValueError(
                "`worker_momentum` stands behind a mechanism of privacy, whose noise is made for what clients send in "
                "one round, and an average holds earlier ones, of other clip norms perhaps. Put `worker_momentum` "
                "before it."
            )
        return (), wire

    def encode(state: Any, own: Momentum, message: Message, client: ClientInfo) -> tuple[Message, Momentum]:
        del state, client
        kept = jnp.where(own.begun > 0, jnp.asarray(beta, jnp.float32), 0.0)
        mix = lambda old, new: kept * old + (1.0 - kept) * new.astype(jnp.float32)  # noqa: E731
        average = jax.tree.map(mix, own.average, message.value)
        sent = jax.tree.map(lambda mean, new: mean.astype(new.dtype), average, message.value)
        return message._replace(value=sent), Momentum(average, jnp.float32(1))

    def init_client(template: PyTree) -> Momentum:
        return Momentum(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), template), jnp.float32(0))

    return Aggregator(init=init, encode=encode, init_client=init_client, name="worker_momentum", hparams={"beta": beta})
