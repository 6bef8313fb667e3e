"""What moves between a server and its clients in pieces: the program and the model down, updates in the clear up."""

import hashlib
from collections.abc import Mapping
from typing import Any

from fedjaxlite.deploy.device import packing
from fedjaxlite.deploy.device.artifact import unpack
from fedjaxlite.deploy.device.protocol import CHUNK, BadMessage, Message, refused
from fedjaxlite.deploy.server import tables
from fedjaxlite.deploy.server.state import (
    Answer,
    Counted,
    Drop,
    Effects,
    Extend,
    Keep,
    OpenRound,
    Partial,
    Payload,
    ServerHalf,
    ServerState,
    opened,
)


def payload_of(data: bytes) -> Payload:
    """Bytes in pieces, packed once for all who fetch them."""
    try_it = packing.worth_packing(data)
    pieces = (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))
    return Payload(
        hashlib.sha256(data).hexdigest(), len(data), tuple(packing.pack(piece, try_it=try_it) for piece in pieces)
    )


def get(server: ServerHalf, state: ServerState, client: int, message: Message) -> Answer:
    """A piece of the program, for everybody, or of the model, for those who have its task."""
    sha256, offset = message.head["sha256"], message.head["offset"]
    found = server.program if sha256 == server.program.sha256 else None
    for at_hand, who in (
        (state.open, state.open.told if state.open else ()),
        (state.evaluation, state.evaluation.asked if state.evaluation else ()),
    ):
        if found is None and at_hand is not None and client in who and sha256 == at_hand.model.sha256:
            found = at_hand.model
    if found is None or not found.size:
        return (
            state,
            refused("that is neither this run's program nor the model of your task; check in again.", again=True),
            (),
        )
    if offset >= found.size or offset % CHUNK:
        return state, refused(f"pieces begin at multiples of {CHUNK} below {found.size}."), ()
    packed, piece = found.pieces[offset // CHUNK]
    return state, Message("chunk", {"offset": offset, "total": found.size, "packed": packed}, piece), ()


def put(server: ServerHalf, state: ServerState, client: int, message: Message) -> Answer:
    """A piece of an update: what it lacks, that it is in the sum, or why it will not be.

    Guarantees:
      An update is summed once, however often it arrives, and only where every byte is what its hash says. Nothing is
      taken in the clear in a masked run.
    """
    head, at_hand = message.head, state.open
    where, sha256 = (head["round"], head["attempt"]), head["sha256"]
    if server.template.masked:
        return state, refused("this is a masked run: no update is taken in the clear."), ()
    before = tables.get(state.counted, client)
    if before is not None and (before.round, before.attempt) == where:
        return state, _repeated(before.sha256, sha256, head["round"]), ()
    reason = _out_of_place(server, state, client, head)
    if reason or at_hand is None:
        return state, refused(reason), ()
    if client in at_hand.taken:
        return state, _repeated(at_hand.taken[client], sha256, head["round"]), ()
    return _piece(server, state, at_hand, client, message)


def fold(server: ServerHalf, state: ServerState, client: int, sha256: str, data: bytes) -> ServerState:
    """The state with a whole update of a client in the total, or with the client out of the round if it is no number.

    Args:
      server: the server.
      state: with an open round, in which the client is selected and neither taken nor out.
      client: whose update.
      sha256: of the bytes, which was looked at.
      data: of the length that the template says.
    """
    at_hand = opened(state)
    part, fine = server.halves.read(state.rounds, unpack(data, server.specs), client)
    if not bool(fine):
        out = {**at_hand.out, client: "an update that is not finite"}
        return state._replace(open=at_hand._replace(out=out, nonfinite=at_hand.nonfinite + 1))
    total = server.halves.add(at_hand.total, part, len(at_hand.taken))
    return state._replace(open=at_hand._replace(total=total, taken={**at_hand.taken, client: sha256}))


def upload_path(state: ServerState, client: int, sha256: str) -> str:
    """Where a whole update lies: names sort in the order of arrival."""
    return f"uploads/{state.number}-{state.attempt}/{len(opened(state).taken):06d}-{client}-{sha256}"


def partial_path(state: ServerState, client: int, sha256: str) -> str:
    """Where the pieces of an update lie that is not whole."""
    return f"parts/{state.number}-{state.attempt}/{client}-{sha256}"


def _piece(server: ServerHalf, state: ServerState, at_hand: OpenRound, client: int, message: Message) -> Answer:
    head = message.head
    sha256, offset, total = head["sha256"], head["offset"], head["total"]
    known = at_hand.partial.get(client, Partial(sha256, 0))
    effects: Effects = ()
    if known.sha256 != sha256:  # another update in place of the one that was begun
        effects = (Drop(partial_path(state, client, known.sha256)),)
        known = Partial(sha256, 0)
    if not message.body or offset != known.size:
        kept = at_hand._replace(partial={**at_hand.partial, client: known})
        return state._replace(open=kept), Message("have", {"offset": known.size}), effects
    try:
        piece = packing.unpack(message.body, head["packed"], most=min(CHUNK, total - offset))
    except BadMessage as error:
        return state, refused(str(error), again=True), ()
    path, size = partial_path(state, client, sha256), offset + len(piece)
    if size < total:
        kept = at_hand._replace(partial={**at_hand.partial, client: Partial(sha256, size)})
        return state._replace(open=kept), Message("have", {"offset": size}), (*effects, Extend(path, offset, piece))
    whole = server.read(path)[:offset] + piece if offset else piece
    if offset:
        effects = (*effects, Drop(path))
    rest = {other: partial for other, partial in at_hand.partial.items() if other != client}
    state = state._replace(open=at_hand._replace(partial=rest))
    if hashlib.sha256(whole).hexdigest() != sha256:
        return state, refused("the bytes are not those of their hash; send them again.", again=True), effects
    path, state = upload_path(state, client, sha256), fold(server, state, client, sha256, whole)
    if client in opened(state).out:
        return state, refused("the update holds what is no finite number; it is not in the sum."), effects
    return state, Message("taken", {"round": state.number}), (*effects, Keep(path, whole))


def _out_of_place(server: ServerHalf, state: ServerState, client: int, head: Mapping[str, Any]) -> str:
    """Why an update has no place; empty where it has one."""
    at_hand, expected = state.open, server.upload_bytes
    if at_hand is None or (head["round"], head["attempt"]) != (state.number, state.attempt):
        if (head["round"], head["attempt"]) > (state.number, state.attempt):
            return f"round {head['round']} (attempt {head['attempt']}) has not begun."
        return f"round {head['round']} (attempt {head['attempt']}) is closed, without this update: it is late."
    if client not in at_hand.told:
        return "this client has no task in the round."
    if client in at_hand.out:
        return f"this client left the round: {at_hand.out[client]}."
    if head["total"] != expected:
        return f"an update of {head['total']} bytes; expected {expected}, as the program says."
    return ""


def _repeated(before: str, now: str, number: int) -> Message:
    if before == now:
        return Message("taken", {"round": number})
    return refused("another update of this client is in the sum already.")


def counted_in(state: ServerState, clients: Mapping[int, str]) -> ServerState:
    """The state in which the updates of these clients, `{client: sha256}`, are known to be in the sum of the round."""
    table = state.counted
    for client, sha256 in clients.items():
        table = tables.having(table, client, Counted(state.number, state.attempt, sha256))
    return state._replace(counted=table)
