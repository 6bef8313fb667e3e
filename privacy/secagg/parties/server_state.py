"""What the server of a secure sum knows, and which messages it takes: one at a time, each checked before it counts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from fedjaxlite.privacy.secagg import keys, shamir
from fedjaxlite.privacy.secagg.errors import (
    BadKey,
    BadShares,
    Duplicate,
    Malformed,
    SecureAggregationError,
    UnknownClient,
    WrongNames,
    WrongRound,
    WrongStage,
    party,
)
from fedjaxlite.privacy.secagg.keys import Primitives
from fedjaxlite.privacy.secagg.masking import Words
from fedjaxlite.privacy.secagg.messages import Advertise, Confirm, MaskedInput, Message, Reveal, Shares
from fedjaxlite.privacy.secagg.parameters import Parameters
from fedjaxlite.privacy.secagg.parties import transcript

Stage = Literal["advertise", "share", "mask", "confirm", "reveal", "done"]
_EXPECTED: dict[Stage, type[Any]] = {
    "advertise": Advertise,
    "share": Shares,
    "mask": MaskedInput,
    "confirm": Confirm,
    "reveal": Reveal,
}
# Refusals that are remembered; a flood of bad messages must not fill the memory.
MAX_REFUSALS = 256


class RoundResult(NamedTuple):
    """The outcome of a round.

    Attributes:
      total: uint32 `[length]`, the sum of the survivors' vectors mod 2^32; signed numbers by `.view(np.int32)`.
      survivors: ids of the clients that are in the sum, ascending.
      dropped: ids of the clients that shared secrets and sent no vector.
      wrong_shares: (owner, holder) of shares that were wrong and could be told apart.
      refusals: what was refused on the way, the first of them where there were too many.
    """

    total: Words
    survivors: tuple[int, ...]
    dropped: tuple[int, ...]
    wrong_shares: tuple[tuple[int, int], ...]
    refusals: tuple[SecureAggregationError, ...]


class ServerState(NamedTuple):
    """What the server knows between two messages.

    Attributes:
      parameters: what was agreed on.
      round: the round's number.
      stage: whose turn it is: what the clients are to send next.
      cohort: ids of those who may take part.
      known: {id: Ed25519 public key}, where the server may lie and keys are signed.
      adverts: {id: its keys}.
      seed: the ring's seed.
      graph: {id: its neighbors}.
      commitments: {id: the commitment to the secret of its own mask}.
      boxes: {id: {neighbor: sealed shares}}.
      sharing: who is to send a masked vector: everyone else holds no mask.
      total: uint32 `[length]`, the sum of the masked vectors so far.
      survivors: whose masked vector is in the total.
      confirms: {id: its signature on who survived}.
      reveals: {id: its shares}.
      refusals: what was refused so far.
      result: the outcome, once done.
    """

    parameters: Parameters
    round: int
    stage: Stage
    cohort: frozenset[int]
    known: Mapping[int, bytes]
    total: Words
    adverts: Mapping[int, Advertise] = {}
    seed: bytes = b""
    graph: Mapping[int, tuple[int, ...]] = {}
    commitments: Mapping[int, bytes] = {}
    boxes: Mapping[int, Mapping[int, bytes]] = {}
    sharing: frozenset[int] = frozenset()
    survivors: frozenset[int] = frozenset()
    confirms: Mapping[int, bytes] = {}
    reveals: Mapping[int, Reveal] = {}
    refusals: tuple[SecureAggregationError, ...] = ()
    result: RoundResult | None = None


def start(
    parameters: Parameters, *, round_number: int, cohort: Sequence[int], known: Mapping[int, bytes] | None = None
) -> ServerState:
    """The server before a round.

    Args:
      parameters: what was agreed on.
      round_number: the round's number, below 2^64.
      cohort: ids of those who may take part.
      known: {id: Ed25519 public key}, needed where the server may lie; clients check signatures for themselves.

    Returns:
      The state, which waits for keys.

    Raises:
      ValueError: ids that are not distinct, or more than the parameters allow; no identities where keys are signed.
    """
    if len(set(cohort)) != len(cohort) or not 0 < len(cohort) <= parameters.num_clients:
        raise ValueError(
            f"`cohort` has {len(cohort)} ids, {len(set(cohort))} of them distinct; expected 1 to "
            f"{parameters.num_clients} distinct ones."
        )
    if parameters.server == "lying" and known is None:
        raise ValueError("`known` is missing; expected {id: Ed25519 public key}, since keys are signed.")
    total = np.zeros(parameters.length, np.uint32)
    return ServerState(parameters, round_number, "advertise", frozenset(cohort), dict(known or {}), total)


def waiting(state: ServerState) -> frozenset[int]:
    """Who has still to send the message of this stage."""
    match state.stage:
        case "advertise":
            return state.cohort - state.adverts.keys()
        case "share":
            return frozenset(state.adverts) - state.commitments.keys()
        case "mask":
            return state.sharing - state.survivors
        case "confirm":
            return state.survivors - state.confirms.keys()
        case "reveal":
            return answering(state) - state.reveals.keys()
        case "done":
            return frozenset()


def answering(state: ServerState) -> frozenset[int]:
    """The survivors that were still there when shares were asked for."""
    return frozenset(state.confirms) if state.parameters.server == "lying" else state.survivors


def receive(state: ServerState, message: Message, *, primitives: Primitives | None = None) -> ServerState:
    """Takes one message of the stage.

    Args:
      state: the server's.
      message: from a client; who sent it is taken as its `sender`, which a transport has to have checked.
      primitives: the cryptography; `keys.real()` when left out.

    Returns:
      The state with the message in it. A vector is added to the total at once, so memory does not grow with clients.

    Raises:
      SecureAggregationError: the message is not counted; the error names its sender.
    """
    sender, kind = message.sender, _EXPECTED.get(state.stage)
    if message.round != state.round:
        raise WrongRound(f"{party(sender)} sent a message of round {message.round} in {state.round}.", offender=sender)
    if sender not in state.cohort:
        raise UnknownClient(f"{party(sender)} is not in the round.", offender=sender)
    if kind is None or not isinstance(message, kind):
        raise WrongStage(
            f"{party(sender)} sent a {type(message).__name__} at the stage {state.stage!r}.", offender=sender
        )
    if sender not in waiting(state):
        if _has_sent(state, sender):
            raise Duplicate(f"{party(sender)} sent a second {kind.__name__}.", offender=sender)
        raise UnknownClient(f"{party(sender)} left the round before the stage {state.stage!r}.", offender=sender)
    return _take(state, message, primitives or keys.real())


def refuse(state: ServerState, error: SecureAggregationError) -> ServerState:
    """Remembers a refusal, up to `MAX_REFUSALS` of them."""
    return state if len(state.refusals) >= MAX_REFUSALS else state._replace(refusals=(*state.refusals, error))


def receive_all(
    state: ServerState, messages: Iterable[Message], *, primitives: Primitives | None = None
) -> ServerState:
    """Takes the messages of a stage; those that are refused are remembered and do not count."""
    for message in messages:
        try:
            state = receive(state, message, primitives=primitives)
        except SecureAggregationError as error:
            state = refuse(state, error)
    return state


def _has_sent(state: ServerState, sender: int) -> bool:
    match state.stage:
        case "advertise":
            return sender in state.adverts
        case "share":
            return sender in state.commitments
        case "mask":
            return sender in state.survivors
        case "confirm":
            return sender in state.confirms
        case _:
            return sender in state.reveals


def _take(state: ServerState, message: Message, primitives: Primitives) -> ServerState:
    sender = message.sender
    match message:
        case Advertise():
            _check_keys(state, message, primitives)
            return state._replace(adverts={**state.adverts, sender: message})
        case Shares():
            if tuple(name for name, _ in message.sealed) != state.graph[sender]:
                raise WrongNames(f"{party(sender)} shared secrets with others than its neighbors.", offender=sender)
            return state._replace(
                commitments={**state.commitments, sender: message.commitment},
                boxes={**state.boxes, sender: dict(message.sealed)},
            )
        case MaskedInput():
            if message.vector.dtype != np.uint32 or message.vector.shape != state.total.shape:
                raise Malformed(f"{party(sender)} sent a vector of another kind.", offender=sender)
            return state._replace(total=state.total + message.vector, survivors=state.survivors | {sender})
        case Confirm():
            words = survivor_words(state)
            keys.verify(primitives, state.known.get(sender), words, message.signature, signer=sender)
            return state._replace(confirms={**state.confirms, sender: message.signature})
        case Reveal():
            _check_reveal(state, message)
            return state._replace(reveals={**state.reveals, sender: message})
        case _:
            raise WrongStage(f"{party(sender)} sent a {type(message).__name__}.", offender=sender)


def survivor_words(state: ServerState) -> bytes:
    """What clients sign when they confirm who survived."""
    ids, left = sorted(state.adverts), sorted(state.survivors)
    return transcript.survivors(state.parameters, state.round, state.seed, ids, left)


def _check_keys(state: ServerState, message: Advertise, primitives: Primitives) -> None:
    sender = message.sender
    seen = {key: name for name, other in state.adverts.items() for key in (other.channel, other.mask)}
    if message.channel == message.mask:
        raise Duplicate(f"{party(sender)} shows one key twice.", offender=sender)
    for key in (message.channel, message.mask):
        if key in seen:
            raise Duplicate(f"{party(sender)} shows a key that {party(seen[key])} showed before.", offender=sender)
        try:
            # Any private key tells: a point of low order gives nothing with all of them.
            primitives.agree(bytes(range(32)), key)
        except ValueError as error:
            raise BadKey(f"no exchange may be made with the key of {party(sender)}.", offender=sender) from error
    if state.parameters.server == "lying":
        words = transcript.advertisement(state.parameters, state.round, sender, message.channel, message.mask)
        keys.verify(primitives, state.known.get(sender), words, message.signature, signer=sender)


def _check_reveal(state: ServerState, message: Reveal) -> None:
    sender = message.sender
    near = set(state.graph[sender]) & state.sharing
    alive = tuple(sorted((near & state.survivors) | {sender}))
    dropped = tuple(sorted(near - state.survivors))
    if tuple(v for v, _ in message.self_shares) != alive or tuple(v for v, _ in message.key_shares) != dropped:
        raise WrongNames(f"{party(sender)} gave shares of other clients than were asked for.", offender=sender)
    if any(value >= shamir.PRIME for _, value in (*message.self_shares, *message.key_shares)):
        raise BadShares(f"{party(sender)} gave a share outside the field.", offender=sender)
