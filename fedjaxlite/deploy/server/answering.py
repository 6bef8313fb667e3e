"""The server's state machine: what is answered to a client's message, and what time alone brings about.

Pure: (state, message, time) -> (state, reply, effects). The caller keeps the newest state, carries out the effects in
their order, and sends the reply only then: what a client is told is on the disk. Where an effect fails, the caller
keeps the old state and sends no reply; the client asks again.
"""

import zlib
from typing import Any

from fedjaxlite.deploy.device.protocol import Message, refused
from fedjaxlite.deploy.server import evaluating, masked, moving, tables
from fedjaxlite.deploy.server.halves import Open, key_of
from fedjaxlite.deploy.server.state import Answer, Effects, OpenRound, Payload, Presence, ServerHalf, ServerState, Step
from fedjaxlite.deploy.server.turning import at_hand as written_down
from fedjaxlite.deploy.server.turning import begun_if_ready, closed_if_over, draw, those_present


def answer(server: ServerHalf, state: ServerState, client: int, message: Message, now: float) -> Answer:
    """Answers one message of a client.

    Args:
      server: what `fl.deploy.Server` returned.
      state: the newest state.
      client: who asks, by its certificate.
      message: as `protocol.decode` gave it.
      now: seconds on a clock that does not go back.

    Returns:
      `(state, reply, effects)`.

    Guarantees:
      Every message has one reply, and the same message again the same, as long as the round goes on. No client is in a
      sum twice, nobody is in it whose update was not `taken`, and what is refused leaves what others are told as it is.
    """
    state, due = tick(server, state, now)
    if not 0 <= client < server.template.population.num_clients:
        return state, refused(f"client {client} is none of this run's."), due
    match message.kind:
        case "check_in":
            state, reply, effects = _check_in(server, state, client, message, now)
        case "get":
            state, reply, effects = moving.get(server, state, client, message)
        case "put":
            state, reply, effects = moving.put(server, state, client, message)
        case "secure":
            state, reply, effects = masked.secure(server, state, client, message, now)
        case "evaluated":
            state, reply, effects = evaluating.evaluated(server, state, client, message)
        case "failed":
            state, reply, effects = _failed(server, state, client, message, now)
        case _:
            return state, refused(f"nothing is answered to {message.kind!r} here."), due
    state, later = _turned(server, state, now)
    return state, reply, (*due, *effects, *later)


def tick(server: ServerHalf, state: ServerState, now: float) -> Step:
    """What time alone brings about: deadlines, and rounds that can begin or end.

    Args:
      server: what `fl.deploy.Server` returned.
      state: the newest state.
      now: seconds.

    Returns:
      `(state, effects)`.
    """
    return _turned(server, state, now)


def _turned(server: ServerHalf, state: ServerState, now: float) -> Step:
    """One turn of the wheel at the most: a round that ends here begins again only with those who then check in."""
    match state.phase:
        case "waiting":
            return begun_if_ready(server, state, now)
        case "open" if server.template.masked:
            return masked.stepped_if_ready(server, state, now)
        case "open":
            return closed_if_over(server, state, now)
        case "evaluating":
            return evaluating.ended_if_over(server, state, now)
        case _:
            return state, ()


def _check_in(server: ServerHalf, state: ServerState, client: int, message: Message, now: float) -> Answer:
    head = message.head
    told = {"settled": (settled := _settled(state, head)), "counted": settled >= 0 and _is_in(state, client, head)}
    if state.phase == "finished":
        return state, Message("finished", {"rounds": state.number, **told}), ()
    reason = _not_eligible(server, head)
    if reason:
        state = state._replace(presence=tables.lacking(state.presence, client))
    else:
        here = Presence(now, head["num_examples"])
        state = state._replace(presence=tables.having(state.presence, client, here))
    begun: Effects = ()
    if state.phase == "waiting":
        state, begun = begun_if_ready(server, state, now)
    at_hand, evaluation = state.open, state.evaluation
    if at_hand is not None and at_hand.awaits(client) and not (at_hand.secure and masked.has_left(state, client)):
        task = _task(server, state, client, at_hand.model, "train", at_hand.deadline - now)
        task.head.update(key=list(key_of(Open([], at_hand.key), client)), upload_bytes=server.upload_bytes, **told)
        at_hand = at_hand._replace(told=at_hand.told | {client})
        return state._replace(open=at_hand), task, begun
    if evaluation is not None and not reason and evaluating.wanted(server, evaluation, client):
        task = _task(server, state, client, evaluation.model, "evaluate", evaluation.deadline - now)
        task.head.update(key=[0, 0], upload_bytes=0, **told)
        evaluation = evaluation._replace(asked=evaluation.asked | {client})
        return state._replace(evaluation=evaluation), task, begun
    reason = reason or _why_wait(state, at_hand, client)
    seconds = server.settings.wait * _spread(client, state.number, now)
    return state, Message("wait", {"seconds": seconds, "reason": reason, **told}), begun


def _task(server: ServerHalf, state: ServerState, client: int, model: Payload, what: str, left: float) -> Message:
    head = {
        "round": state.number,
        "attempt": state.attempt,
        "what": what,
        "program": server.program.sha256,
        "program_bytes": server.program.size,
        "model": model.sha256,
        "model_bytes": model.size,
        "client": client,
        "masked": server.template.masked,
        "seconds": float(max(left, 0.0)),
    }
    return Message("task", head)


def _settled(state: ServerState, head: Any) -> int:
    """The round of a client's pending update where it is decided whether that is in a sum; -1 where it is not yet."""
    pending = head["pending"]
    at_hand = state.open is not None and (pending, head["attempt"]) == (state.number, state.attempt)
    return -1 if pending < 0 or at_hand else pending


def _is_in(state: ServerState, client: int, head: Any) -> bool:
    last = tables.get(state.counted, client)
    return last is not None and (last.round, last.attempt) == (head["pending"], head["attempt"])


def _not_eligible(server: ServerHalf, head: Any) -> str:
    lacking = [flag for flag in server.settings.eligible if not head[flag]]
    if lacking:
        return f"clients take part that are {', '.join(server.settings.eligible)}; this one is not {lacking[0]}"
    least, most = server.settings.min_examples, server.template.capacity
    if not least <= head["num_examples"] <= most:
        return f"clients take part that have {least} to {most} examples; this one has {head['num_examples']}"
    return ""


def _why_wait(state: ServerState, at_hand: OpenRound | None, client: int) -> str:
    if at_hand is None:
        return "a round begins once enough clients have checked in" if state.phase == "waiting" else "an evaluation"
    if client in at_hand.taken:
        return "the update is here; the round goes on"
    return f"it left the round: {at_hand.out[client]}" if client in at_hand.out else "others were drawn for the round"


def _spread(client: int, number: int, now: float) -> float:
    """0.5 to 1.5, so that clients that were told at once to wait do not come back at once."""
    return 0.5 + zlib.crc32(f"{client} {number} {now!r}".encode()) / 2**32


def _failed(server: ServerHalf, state: ServerState, client: int, message: Message, now: float) -> Answer:
    """A client that cannot do its task says so: its place goes to the next of those who wait."""
    head, at_hand = message.head, state.open
    if state.evaluation is not None and head["round"] == state.number:
        return evaluating.declined(state, client)
    here = at_hand is not None and (head["round"], head["attempt"]) == (state.number, state.attempt)
    if at_hand is None or not here or client not in at_hand.told:
        return state, refused("this client has no task in that round."), ()
    if client in at_hand.taken or client in at_hand.out:
        return state, Message("taken", {"round": state.number}), ()
    state = those_present(server, state._replace(presence=tables.lacking(state.presence, client)), now)
    among = set(tables.numbers(state.presence)) - set(at_hand.selected)
    closed = at_hand.secure is not None and at_hand.secure.state.stage != "advertise"
    next_ = () if closed else draw(state, among, 1)
    examples = {**at_hand.examples, **{u: tables.get(state.presence, u).num_examples for u in next_}}
    out = {**at_hand.out, client: head["reason"][:200] or "it failed"}
    at_hand = at_hand._replace(selected=(*at_hand.selected, *next_), examples=examples, out=out)
    state = state._replace(open=at_hand)
    return state, Message("taken", {"round": state.number}), (written_down(state),) if next_ else ()
