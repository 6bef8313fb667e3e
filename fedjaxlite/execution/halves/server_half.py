"""What the server does before clients train, and after their messages are summed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.keys import OF_NO_CLIENT
from fedjaxlite.protocol.algorithm import Aggregate, Algorithm
from fedjaxlite.sampling import Cohort
from fedjaxlite.wire.aggregator import Aggregator

PyTree = Any


class Begun(NamedTuple):
    """A round that has begun.

    Attributes:
      aggregator_state: the codecs' state in this round: what clients encode with, and what decodes their sum.
      client_key: folded with a client's id, it is that client's key of this round.
      client_noise: likewise, of noise that protects the client.
      server_noise: what the server's noise is drawn from.
    """

    aggregator_state: Any
    client_key: jax.Array
    client_noise: jax.Array
    server_noise: jax.Array


def begun(aggregator: Aggregator, state: RoundState, cohort: Cohort) -> Begun:
    """The round of a state, before anyone trains; `cohort` is seen by masks and by what works on all messages."""
    noise, client_key = (jax.random.fold_in(key, state.round) for key in (state.keys.noise, state.keys.client))
    server_noise, client_noise, to_begin = jax.random.split(noise, 3)
    public = jax.random.fold_in(client_key, OF_NO_CLIENT)
    opened = aggregator.begin(state.aggregator_state, cohort, to_begin, public)
    return Begun(opened, client_key, client_noise, server_noise)


def decoded(aggregator: Aggregator, state: RoundState, begun: Begun, total: Any) -> tuple[Aggregate, Any]:
    """What the server learns of a round's total, and the codecs' state after it.

    Raises:
      ValueError: a codec's state after the round is not of the structure that it began with.
    """
    aggregate, aggregator_state = aggregator.decode(begun.aggregator_state, total, begun.server_noise)
    checks.same_structure(
        aggregator_state,
        jax.eval_shape(lambda: state.aggregator_state),
        what=f"the state that the decode of {aggregator.name} returned",
        than="its `init(wire)`",
        remedy="What `begin` adds for one round has to be dropped again.",
    )
    return aggregate, aggregator_state


def counted(aggregate: Aggregate, aggregator: Aggregator, count: Any) -> Aggregate:
    """With how many are in the sum: `count`, less those that were left out; or a number that is public and fixed."""
    if aggregator.public_count is not None:
        return aggregate
    left_out = aggregate.left_out
    return aggregate._replace(num_clients=count if left_out is None else count - left_out.sum(dtype=jnp.int32))


def stepped(algorithm: Algorithm, state: RoundState, aggregate: Aggregate) -> PyTree:
    """The server's state after a round.

    Raises:
      ValueError: it is not of the structure that it began with.
    """
    key = jax.random.fold_in(state.keys.server, state.round)
    server_state = algorithm.server_update(state.server_state, aggregate, key)
    checks.same_structure(
        server_state,
        jax.eval_shape(lambda: state.server_state),
        what="the state that `server_update` returned",
        than="`init(params)`",
        remedy="The update of `client_update` must fit the parameters, and dtypes must not change.",
    )
    return server_state
