"""A masked round: a secure sum of the protocol in `fedjaxlite.privacy.secagg`, step by step as clients ask.

The first K of the selected that show keys are its cohort. Every attempt of a round is a sum of its own, with new keys;
its secrets are in no file, so a server that is killed in the middle begins the next attempt. The opened sum is written
down before it is used: from then on its clients are in.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjaxlite.deploy.device.protocol import Message, refused
from fedjaxlite.deploy.device.work.masked import number_of
from fedjaxlite.deploy.program.template import Template
from fedjaxlite.deploy.server import tables
from fedjaxlite.deploy.server.state import Answer, Counted, Keep, ServerHalf, ServerState, Step, opened
from fedjaxlite.deploy.server.turning import abandoned, closed
from fedjaxlite.privacy import secagg
from fedjaxlite.privacy.masking.mask_rules import default_min_survivors, default_neighbors
from fedjaxlite.privacy.secagg import messages
from fedjaxlite.privacy.secagg.errors import party


class Sum(NamedTuple):
    """A secure sum that goes on.

    Attributes:
      state: the protocol's server.
      outgoing: {client: message} that those who go on are told at this stage.
      said: {client: SHA-256 of what it said last}: said again, it is not a second message.
      deadline: of the stage; None for the round's own.
    """

    state: secagg.ServerState
    outgoing: Mapping[int, messages.Message]
    said: Mapping[int, bytes]
    deadline: float | None = None


def arguments_of(template: Template, *, server: str) -> dict[str, Any]:
    """The arguments of `secagg.parameters` for a template's masks: what a manifest says of the sum.

    Args:
      template: of rounds with masks.
      server: "semi-honest" or "lying".
    """
    mask = next(codec for codec in template.program.aggregator.parts if codec.role == "mask")
    capacity, told = template.program.sampler.capacity, mask.hparams
    most = min(capacity - 1, default_neighbors(capacity) if told["neighbors"] is None else told["neighbors"])
    fewest = told["min_survivors"]
    return {
        "length": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(template.message)),
        "num_clients": capacity,
        "neighbors": most,
        "threshold": told["threshold"],
        "colluders": told["colluders"],
        "min_survivors": default_min_survivors(capacity, most, told["colluders"]) if fewest is None else fewest,
        "server": server,
    }


def secure(server: ServerHalf, state: ServerState, client: int, message: Message, now: float) -> Answer:
    """A client's next step of the secure sum, or its question what that is."""
    where = (message.head["round"], message.head["attempt"])
    before = tables.get(state.counted, client)
    if before is not None and (before.round, before.attempt) == where:
        return state, Message("taken", {"round": where[0]}), ()
    at_hand = state.open
    if not server.template.masked:
        return state, refused("this run has no secure sums."), ()
    if at_hand is None or where != (state.number, state.attempt):
        return state, refused(f"round {where[0]} (attempt {where[1]}) is not at hand; check in again."), ()
    if client not in at_hand.told or client in at_hand.out:
        return state, refused("this client has no task in the round, or left it."), ()
    if message.body and not _said_before(at_hand.secure, client, message.body):
        state, refusal = _received(server, state, client, message.body)
        if refusal:
            return state, refused(refusal), ()
    state, effects = stepped_if_ready(server, state, now)
    if state.open is not None and where == (state.number, state.attempt):
        return state, _told(server, state, client), effects
    if tables.get(state.counted, client) == Counted(*where, ""):
        return state, Message("taken", {"round": where[0]}), effects
    return state, refused(f"round {where[0]} (attempt {where[1]}) ended without this client.", again=True), effects


def has_left(state: ServerState, client: int) -> bool:
    """Whether a client's place in the sum is used up: its secrets went with the process that showed its keys."""
    sum_ = opened(state).secure
    return sum_ is not None and (client in sum_.state.adverts or sum_.state.stage != "advertise")


def stepped_if_ready(server: ServerHalf, state: ServerState, now: float) -> Step:
    """Ends a stage of the sum, where all have answered who are still there, or its time is up."""
    while state.open is not None and _over(server, state, now):
        sum_ = state.open.secure
        if sum_ is None:
            return abandoned(state)
        try:
            secret, outgoing = secagg.server.close(sum_.state)
        except secagg.SecureAggregationError:
            return abandoned(state)
        if secret.result is not None:
            return _opened_sum(server, state, secret.result, now)
        deadline = now + server.settings.stage
        state = state._replace(open=state.open._replace(secure=Sum(secret, outgoing, sum_.said, deadline)))
    return state, ()


def sum_path(state: ServerState) -> str:
    """Where the sum lies that an attempt opened."""
    return f"sums/{state.number}-{state.attempt}"


def of_file(data: bytes) -> tuple[tuple[int, ...], Any]:
    """The survivors and the total, uint32, of such a file."""
    head, _, words = data.partition(b"\n")
    return tuple(json.loads(head)["survivors"]), np.frombuffer(words, "<u4").astype(np.uint32)


def close_with(server: ServerHalf, state: ServerState, survivors: Any, total: Any, now: float) -> Step:
    """Ends the round with the sum of these clients' vectors."""
    return closed(server, state, dict.fromkeys(survivors, ""), server.halves.of_sum(total), now)


def _opened_sum(server: ServerHalf, state: ServerState, result: secagg.RoundResult, now: float) -> Step:
    head = json.dumps({"survivors": list(result.survivors)}).encode()
    keep = Keep(sum_path(state), head + b"\n" + result.total.astype("<u4").tobytes())
    state, effects = close_with(server, state, result.survivors, result.total, now)
    return state, (keep, *effects)


def _over(server: ServerHalf, state: ServerState, now: float) -> bool:
    at_hand = opened(state)
    sum_ = at_hand.secure
    if sum_ is None or sum_.state.stage == "advertise":
        shown = sum_.state.adverts if sum_ is not None else {}
        everyone = set(at_hand.selected) - at_hand.out.keys() <= shown.keys()
        return len(shown) >= server.numbers.capacity or everyone or now >= at_hand.deadline
    return secagg.server.waiting(sum_.state) <= at_hand.out.keys() or now >= sum_.deadline


def _received(server: ServerHalf, state: ServerState, client: int, body: bytes) -> tuple[ServerState, str]:
    """The state with a client's message in the sum, or why it is not."""
    at_hand = opened(state)
    sum_ = at_hand.secure
    try:
        message = messages.decode_from(client, body, messages.limits(server.secure))
        if isinstance(message, messages.Abort):
            out = {**at_hand.out, client: f"it left the sum: {message.reason[:200]}"}
            return state._replace(open=at_hand._replace(out=out)), "this client left the sum."
        secret = _with_place(server, state, client)
        if secret is None:
            return state, f"the sum began without {party(client)}: it is late."
        secret = secagg.server.receive(secret, message)
    except secagg.SecureAggregationError as error:
        return state, f"{type(error).__name__}: {error}"
    outgoing, said, deadline = (sum_.outgoing, sum_.said, sum_.deadline) if sum_ is not None else ({}, {}, None)
    new = Sum(secret, outgoing, {**said, client: hashlib.sha256(body).digest()}, deadline)
    return state._replace(open=at_hand._replace(secure=new)), ""


def _with_place(server: ServerHalf, state: ServerState, client: int) -> secagg.ServerState | None:
    """The protocol's server with a client in its cohort; None where the cohort is closed without it."""
    sum_ = opened(state).secure
    if sum_ is None:
        return secagg.server.start(
            server.secure, round_number=number_of(state.number, state.attempt), cohort=(client,), known=server.known
        )
    if client in sum_.state.cohort:
        return sum_.state
    if sum_.state.stage != "advertise" or len(sum_.state.cohort) >= server.numbers.capacity:
        return None
    return sum_.state._replace(cohort=sum_.state.cohort | {client}, known=dict(server.known or {}))


def _told(server: ServerHalf, state: ServerState, client: int) -> Message:
    """What a client is told at this stage: its turn, once, or that it waits."""
    sum_ = opened(state).secure
    if sum_ is not None and client in sum_.outgoing and client in secagg.server.waiting(sum_.state):
        return Message("secure", {"stage": sum_.state.stage}, messages.encode(sum_.outgoing[client]))
    head = {"seconds": float(server.settings.poll), "reason": "the others have not answered", "settled": -1}
    return Message("wait", {**head, "counted": False})


def _said_before(sum_: Sum | None, client: int, body: bytes) -> bool:
    return sum_ is not None and sum_.said.get(client) == hashlib.sha256(body).digest()


def most_body(server: ServerHalf) -> int:
    """The most bytes of a client's message in a secure sum; 0 where there are none."""
    if server.secure is None:
        return 0
    limits = messages.limits(server.secure)
    return max(messages.longest(kind, limits) for kind in messages.FROM_CLIENT)
