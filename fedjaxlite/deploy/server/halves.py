"""A server's round as pure functions: it begins, messages are read and added one by one, and the server steps.

    begin -> Open          what clients download, and their keys
    read(message) -> part  of one message as it arrived: what is summed, or refused
    add(total, part)       in any order; a rule that is no sum keeps a row for each client
    close -> state         decodes the total, and steps

They are those of the simulation (`execution.halves`), so a run that is deployed is the run that was simulated.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.deploy.program.leaves import leaves_of, of_words, unflattened
from fedjaxlite.deploy.program.template import Template, download, of_codecs
from fedjaxlite.execution.bytes_sent import broadcast
from fedjaxlite.execution.halves import server_half
from fedjaxlite.execution.halves.client_half import ClientState, all_finite
from fedjaxlite.execution.ledger import Ledger
from fedjaxlite.execution.one_round import run_keys, segment
from fedjaxlite.execution.round_state import RoundState
from fedjaxlite.sampling import Cohort, cohort
from fedjaxlite.wire.aggregator import ClientInfo, Message, Stacked

PyTree = Any


class Open(NamedTuple):
    """A round that has begun.

    Attributes:
      download: what every client downloads, a list of arrays.
      client_key: uint32 `[2]`, folded with a client's number it is that client's key: `key_of`.
    """

    download: list[Any]
    client_key: Any


class Halves(NamedTuple):
    """The server's half of a template's rounds, compiled once each.

    Attributes:
      begin: `begin(state) -> Open`.
      read: `read(state, leaves, client) -> (part, fine)`, of one message's plain arrays; `fine` is a bool: whether all
        is finite, no weight negative, and none above the chain's `weight_cap`. What is not fine must not be added.
      nothing: `nothing() -> total`, before the first message.
      add: `add(total, part, row) -> total`; `row` is the client's place in the round, below K.
      of_sum: `of_sum(words) -> total`, of the vector that a secure sum opened.
      close: `close(state, total, ids, present) -> (state, told)`; int32 `[K]` and bool `[K]` say whose messages are in
        the total. `told` is a dict of float scalars that the codecs tell, and "left_out", bool `[K]`.
    """

    begin: Callable[[RoundState], Open]
    read: Callable[[RoundState, Sequence[Any], int], tuple[PyTree, Any]]
    nothing: Callable[[], PyTree]
    add: Callable[[PyTree, PyTree, int], PyTree]
    of_sum: Callable[[Any], PyTree]
    close: Callable[[RoundState, PyTree, Any, Any], tuple[RoundState, dict[str, Any]]]


def halves_of(template: Template) -> Halves:
    """The server's half of these rounds."""
    capacity = template.program.sampler.capacity

    @jax.jit
    def begin(state: RoundState) -> Open:
        begun = _begun(template, state, _everyone(capacity))
        shared = broadcast(template.program.algorithm, state.server_state)
        key = jax.random.key_data(begun.client_key)
        return Open(download(template, shared, begun.aggregator_state), key)

    @jax.jit
    def read(state: RoundState, leaves: Sequence[Any], client: Any) -> tuple[PyTree, Any]:
        begun = _begun(template, state, _everyone(capacity))
        message = unflattened(template.message, list(leaves))
        known = ClientInfo(client, jnp.float32(1), None, jnp.bool_(True), jnp.int32(0), None)
        part = template.codecs.read(begun.aggregator_state, message, known)
        fine = all_finite((message, part))
        for weight in jax.tree.leaves(part.weight):
            fine = fine & jnp.all(weight >= 0)
            if template.wire.weight_cap is not None:
                fine = fine & jnp.all(weight <= jnp.asarray(template.wire.weight_cap, weight.dtype))
        return part, fine

    def nothing() -> PyTree:
        part = template.message if template.masked else _part_of(template)
        if template.fold == "sum":
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), part)
        return jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), part)

    @jax.jit
    def add(total: PyTree, part: PyTree, row: Any) -> PyTree:
        if template.fold == "sum":
            return jax.tree.map(jnp.add, total, part)
        return jax.tree.map(lambda rows, one: rows.at[row].set(one), total, part)

    return Halves(
        begin=begin,
        read=lambda state, leaves, client: read(state, list(leaves), jnp.int32(client)),
        nothing=nothing,
        add=lambda total, part, row: add(total, part, jnp.int32(row)),
        of_sum=lambda words: of_words(template.message, np.asarray(words, np.uint32)),
        close=jax.jit(partial(_close, template)),
    )


def first_state(
    template: Template, params: PyTree, *, key: Any, noise_key: Any = None, cohort_key: Any = None
) -> RoundState:
    """The server's state before round 0: that of `rounds.init`, without what clients keep, since they keep it."""
    program = template.program
    keys = run_keys(program, template.found, key, noise_key, cohort_key)
    params = jax.tree.map(jnp.asarray, params)
    server_state = jax.tree.map(jnp.asarray, program.algorithm.init(params))
    ledger = Ledger((segment(program, template.found, 0),))
    return RoundState(jnp.int32(0), server_state, template.found.aggregator_state, keys, ClientState((), ()), ledger)


def first_client_state(template: Template, params: PyTree) -> list[np.ndarray]:
    """What every client keeps before its first round, as plain arrays."""
    params, update = jax.tree.map(jnp.asarray, params), template.found.output.update
    state = ClientState(template.program.algorithm.init_client(params), template.codecs.init_client(update))
    return [np.asarray(leaf) for leaf in leaves_of(state)]


def key_of(opened: Open, client: int) -> tuple[int, int]:
    """The words of a client's key in this round: as simulated, a function of the run's key, round and client."""
    first, second = np.asarray(_folded(jnp.asarray(opened.client_key), jnp.uint32(client))).tolist()
    return first, second


@jax.jit
def _folded(key: Any, client: Any) -> Any:
    return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), client))


def _close(
    template: Template, state: RoundState, total: PyTree, ids: Any, present: Any
) -> tuple[RoundState, dict[str, Any]]:
    algorithm, codecs = template.program.algorithm, template.codecs
    # Who is in the sum is known now: what works on all messages begins with them, under the same key.
    begun = _begun(template, state, cohort(jnp.asarray(ids), jnp.asarray(present)))
    if template.fold != "sum":
        total = Stacked(_zeroed(total, present), present)
    bare = state._replace(aggregator_state=of_codecs(state.aggregator_state, codecs))
    aggregate, kept = server_half.decoded(codecs, bare, begun, total)
    aggregate = server_half.counted(aggregate, codecs, present.sum(dtype=jnp.int32))
    server_state = server_half.stepped(algorithm, state, aggregate)
    masks = tuple(state.aggregator_state[len(codecs.parts) :])
    new = state._replace(round=state.round + 1, server_state=server_state, aggregator_state=(*kept, *masks))
    told: dict[str, Any] = dict(codecs.metrics(kept))
    if aggregate.left_out is not None:
        told["left_out"] = aggregate.left_out
    return new, told


def _begun(template: Template, state: RoundState, who: Cohort) -> server_half.Begun:
    codecs = of_codecs(state.aggregator_state, template.codecs)
    return server_half.begun(template.codecs, state._replace(aggregator_state=codecs), who)


def _part_of(template: Template) -> Message:
    """Shapes of what is read of one message."""
    known = ClientInfo(jnp.int32(0), jnp.float32(1), None, jnp.bool_(True), jnp.int32(0), None)
    return jax.eval_shape(lambda s, m: template.codecs.read(s, m, known), template.opened, template.message)


def _zeroed(total: PyTree, present: Any) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.where(present.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, 0), total)


def _everyone(capacity: int) -> Cohort:
    return cohort(jnp.arange(capacity, dtype=jnp.int32), jnp.ones((capacity,), bool))
