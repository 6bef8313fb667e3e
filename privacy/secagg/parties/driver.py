"""A whole round in memory: clients and server as function calls, with clients that leave where they are told to."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from fedjaxlite.privacy.secagg import arguments, keys
from fedjaxlite.privacy.secagg.errors import SERVER, RoundAborted, SecureAggregationError
from fedjaxlite.privacy.secagg.keys import Primitives, Random
from fedjaxlite.privacy.secagg.masking import Words
from fedjaxlite.privacy.secagg.messages import Abort, Deliveries, Message, Roster, Survivors, UnmaskRequest
from fedjaxlite.privacy.secagg.parameters import Parameters
from fedjaxlite.privacy.secagg.parties import client, server
from fedjaxlite.privacy.secagg.parties.client_state import ClientState, Identity
from fedjaxlite.privacy.secagg.parties.server_state import RoundResult

ClientStage = Literal["advertise", "share", "mask", "confirm", "reveal"]
# What may happen to a message on its way: (message, to whom) -> what arrives, nothing or several.
Network = Callable[[Message, int], Iterable[Message]]


class Played(NamedTuple):
    """A round that was played to its end.

    Attributes:
      result: the server's.
      refused: {client: why it left the round of its own accord}.
    """

    result: RoundResult
    refused: Mapping[int, SecureAggregationError]


def stages(parameters: Parameters) -> tuple[ClientStage, ...]:
    """The stages in which clients send something, in order."""
    return ("advertise", "share", "mask", *(("confirm",) if parameters.server == "lying" else ()), "reveal")


def identities(
    ids: Iterable[int], *, primitives: Primitives | None = None, random: Random = os.urandom
) -> dict[int, Identity]:
    """A fresh identity for every client, all known to each other: a stand-in for a public-key infrastructure.

    Example:
      >>> sorted(identities([0, 1])[0].known)
      [0, 1]
    """
    primitives = _primitives(primitives)
    arguments.function_of("num_bytes", random=random)
    private = {u: arguments.random_bytes(random, keys.KEY_BYTES) for u in arguments.clients(ids, "ids")}
    known = {u: primitives.identity(key) for u, key in private.items()}
    return {u: Identity(key, known) for u, key in private.items()}


def answer(
    state: ClientState, told: Message, vector: Words, *, primitives: Primitives, random: Random = os.urandom
) -> tuple[ClientState, Message]:
    """The step of a client that a message of the server asks for.

    Raises:
      RoundAborted: the server left the round.
      SecureAggregationError: the client refuses.
    """
    match told:
        case Roster():
            return client.share(state, told, primitives=primitives, random=random)
        case Deliveries():
            return client.mask(state, told, vector, primitives=primitives)
        case Survivors():
            return client.confirm(state, told, primitives=primitives)
        case Abort():
            raise RoundAborted(f"the server left the round: {told.reason}", offender=told.offender)
        case UnmaskRequest():
            return client.unmask(state, told, primitives=primitives)
        case _:
            raise RoundAborted(f"the server sent a {type(told).__name__}.", offender=SERVER)


def run_in_memory(
    vectors: Mapping[int, Words],
    parameters: Parameters,
    *,
    leaves: Mapping[int, ClientStage] | None = None,
    round_number: int = 0,
    known: Mapping[int, Identity] | None = None,
    primitives: Primitives | None = None,
    random: Random = os.urandom,
    network: Network | None = None,
) -> Played:
    """Plays a round with all clients in this process.

    Args:
      vectors: {client: uint32 `[length]`}.
      parameters: what everybody agreed on.
      leaves: {client: the first stage in which it sends nothing}; others stay to the end.
      round_number: the round's number.
      known: {client: who it is}, where the server may lie; made afresh when left out.
      primitives: the cryptography; `keys.real()` when left out.
      random: where secrets come from.
      network: what happens to messages on their way, for tests; nothing when left out.

    Returns:
      The result, and who refused to go on.

    Raises:
      TooFew, BadShares: the round cannot be opened.

    Guarantees:
      The total is the sum of `vectors` over `result.survivors`, mod 2^32, exactly.

    Example:
      >>> import numpy as np
      >>> from fedjaxlite.privacy.secagg import parameters
      >>> p = parameters(num_clients=5, length=2, min_survivors=2)
      >>> vectors = {u: np.full(2, 10**u, np.uint32) for u in range(5)}
      >>> played = run_in_memory(vectors, p, leaves={0: "mask", 4: "reveal"})
      >>> played.result.survivors, played.result.total.tolist()
      ((1, 2, 3, 4), [11110, 11110])
    """
    primitives = _primitives(primitives)
    arguments.one_instance(Parameters, "what secagg.parameters(...) returns", parameters=parameters)
    round_number = arguments.in_range(0, 2**64 - 1, round_number=round_number)
    _check(vectors, leaves, known, random, network)
    if parameters.server == "lying" and known is None:
        known = identities(vectors, primitives=primitives, random=random)
    public = {u: primitives.identity(who.private) for u, who in known.items()} if known else None
    carry = _network(network)
    state = server.start(parameters, round_number=round_number, cohort=tuple(vectors), known=public)
    clients: dict[int, ClientState] = {}
    told: Mapping[int, Message | None] = dict.fromkeys(vectors)
    refused: dict[int, SecureAggregationError] = {}
    gone: set[int] = set()
    for stage in stages(parameters):
        for u in sorted(told):
            if (leaves or {}).get(u) == stage:
                gone.add(u)
                continue
            try:
                message = told[u]
                if message is None:
                    who = known.get(u) if known else None
                    clients[u], reply = client.advertise(
                        parameters, round_number=round_number, me=u, identity=who, primitives=primitives, random=random
                    )
                else:
                    clients[u], reply = answer(clients[u], message, vectors[u], primitives=primitives, random=random)
            except SecureAggregationError as error:
                refused[u] = error
                gone.add(u)
            else:
                # One at a time, so that memory does not grow with the clients.
                state = server.receive_all(state, carry(reply, SERVER), primitives=primitives)
        state, outgoing = server.close(state, primitives=primitives)
        told = {u: message for u, m in outgoing.items() if u not in gone for message in carry(m, u)}
    return Played(_result(state.result), refused)


def _result(result: RoundResult | None) -> RoundResult:
    if result is None:
        raise RoundAborted("the round ended without a result.")
    return result


def _network(network: Network | None) -> Network:
    if network is None:
        return lambda message, to: (message,)

    def carried(message: Message, to: int) -> Iterable[Message]:
        given = network(message, to)
        messages = list(given) if isinstance(given, Iterable) else [given]
        if not all(isinstance(one, Message) for one in messages):
            raise TypeError(f"`network` gave {arguments.shown(given)}; expected messages, those that arrive.")
        return messages

    return carried


def _primitives(primitives: Any) -> Primitives:
    if primitives is None:
        return keys.real()
    arguments.one_instance(Primitives, "a secagg.Primitives, or None for real cryptography", primitives=primitives)
    return primitives


def _check(vectors: Any, leaves: Any, known: Any, random: Any, network: Any) -> None:
    arguments.some(vectors, "vectors")
    for u, vector in vectors.items():
        if not isinstance(vector, np.ndarray) or vector.dtype != np.uint32:
            raise TypeError(f"`vectors[{u}]` is {arguments.shown(vector)}; expected uint32 [length].")
    if leaves is not None:
        arguments.by_client(leaves, "leaves")
    if known is not None:
        arguments.by_client(known, "known")
        arguments.one_instance(Identity, "a secagg.Identity", **{f"known[{u}]": who for u, who in known.items()})
    arguments.function_of("num_bytes", random=random)
    arguments.random_bytes(random, keys.KEY_BYTES)
    if network is not None:
        arguments.function_of("message", "to", network=network)
