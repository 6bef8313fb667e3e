"""What a client of a secure sum knows, and when it may take which step."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from fedjaxlite.privacy.secagg.errors import SERVER, AskedTwice, TooFew, WrongRound, WrongStage, party
from fedjaxlite.privacy.secagg.keys import KeyPair
from fedjaxlite.privacy.secagg.parameters import Parameters

Stage = Literal["advertised", "shared", "masked", "confirmed", "revealed"]
_STAGES = ("advertised", "shared", "masked", "confirmed", "revealed")


class Identity(NamedTuple):
    """Who a client is to the others, where the server may lie: the hook for a public-key infrastructure.

    Attributes:
      private: the client's Ed25519 private key, 32 bytes.
      known: {id: Ed25519 public key} of everybody who may be in a round; how it got here is out of this module's scope.
    """

    private: bytes
    known: Mapping[int, bytes]

    def __repr__(self) -> str:
        return f"Identity(private=..., known={len(self.known)} clients)"


class ClientState(NamedTuple):
    """What a client knows between two steps of a round; secret.

    Attributes:
      parameters: what was agreed on.
      round: the round's number.
      me: the client's id.
      stage: the last step that it took.
      channel: its keys for sealed boxes.
      mask: its keys for pair masks.
      identity: who it is, where the server may lie.
      seed: the ring's seed.
      ids: everybody present.
      neighbors: {id: (channel key, mask key)}.
      secret: the secret of its own mask.
      own: its own shares (of the secret, of the private mask key).
      held: {neighbor: shares (of its secret, of its private mask key)} of those who got this far.
      survivors: who survived, once confirmed.
    """

    parameters: Parameters
    round: int
    me: int
    stage: Stage
    channel: KeyPair
    mask: KeyPair
    identity: Identity | None = None
    seed: bytes = b""
    ids: tuple[int, ...] = ()
    neighbors: Mapping[int, tuple[bytes, bytes]] = {}
    secret: bytes = b""
    own: tuple[int, int] = (0, 0)
    held: Mapping[int, tuple[int, int]] = {}
    survivors: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"ClientState(me={self.me}, round={self.round}, stage={self.stage!r}, ...)"


def in_turn(state: ClientState, stage: Stage, message: Any, kind: type[Any]) -> None:
    """Refuses a message of another kind, sender, round or stage."""
    if not isinstance(message, kind) or message.sender != SERVER:
        raise WrongStage(
            f"{party(state.me)} got a {type(message).__name__}; expected a {kind.__name__} by the server.",
            offender=SERVER,
        )
    if message.round != state.round:
        raise WrongRound(f"a {kind.__name__} of round {message.round} in round {state.round}.", offender=SERVER)
    if _STAGES.index(state.stage) > _STAGES.index(stage):
        raise AskedTwice(f"{party(state.me)} has answered a {kind.__name__} of round {state.round}.", offender=SERVER)
    if state.stage != stage:
        raise WrongStage(
            f"a {kind.__name__} came before its turn, with {party(state.me)} {state.stage}.", offender=SERVER
        )


def enough(state: ClientState, present: int, what: str) -> None:
    """Refuses to go on with fewer of a client's holders than the threshold."""
    if present < state.parameters.threshold:
        raise TooFew(
            f"{present} of the neighborhood of {party(state.me)} {what}, itself among them; expected at least "
            f"{state.parameters.threshold}."
        )
