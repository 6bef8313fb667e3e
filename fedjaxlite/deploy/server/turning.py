"""A round's beginning and end: who is drawn, when it is over, what becomes of it, and what is recorded."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedjaxlite.deploy.device.artifact import pack
from fedjaxlite.deploy.server import tables
from fedjaxlite.deploy.server.moving import counted_in, payload_of
from fedjaxlite.deploy.server.state import (
    Checkpoint,
    Drop,
    Effects,
    Evaluation,
    Keep,
    OpenRound,
    Record,
    ServerHalf,
    ServerState,
    Step,
    opened,
)
from fedjaxlite.execution.halves.client_half import all_finite

LOG = logging.getLogger("fedjaxlite.deploy")
AT_HAND = "round.json"
"""Where the round at hand is written down: who was drawn, for which attempt."""


def begun_if_ready(server: ServerHalf, state: ServerState, now: float) -> Step:
    """Begins the round at hand, where enough eligible clients have checked in."""
    if len(state.presence) < server.numbers.min_waiting:
        return state, ()
    state = those_present(server, state, now)
    if len(state.presence) < server.numbers.min_waiting:
        return state, ()
    selected = draw(state, tables.numbers(state.presence), server.numbers.selected)
    examples = {client: tables.get(state.presence, client).num_examples for client in selected}
    state = opened_for(server, state, selected, examples, now)
    return state, (at_hand(state),)


def those_present(server: ServerHalf, state: ServerState, now: float) -> ServerState:
    """The state without those whose last check-in is too long ago."""
    table = state.presence
    for client in [u for u in tables.numbers(table) if now - tables.get(table, u).seen > server.settings.presence]:
        table = tables.lacking(table, client)
    return state._replace(presence=table)


def draw(state: ServerState, among: Iterable[int], number: int) -> tuple[int, ...]:
    """A uniform draw without replacement: those whose hashes, under the round's key, come first.

    It depends on the run's sampling key, the round, the attempt and the set, in whichever order it is given.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.rounds.keys.sample, state.number), state.attempt)
    words = np.asarray(jax.random.key_data(key)).astype("<u4").tobytes()
    return tuple(sorted(among, key=lambda u: hashlib.sha256(words + u.to_bytes(8)).digest())[:number])


def opened_for(
    server: ServerHalf, state: ServerState, selected: Sequence[int], examples: Mapping[int, int], now: float
) -> ServerState:
    """The state with a round that has begun, for these clients."""
    begun = server.halves.begin(state.rounds)
    at_hand = OpenRound(
        now,
        now + server.settings.deadline,
        tuple(selected),
        dict(examples),
        payload_of(pack(begun.download)),
        np.asarray(begun.client_key),
        server.halves.nothing(),
    )
    return state._replace(phase="open", open=at_hand)


def at_hand(state: ServerState) -> Keep:
    """The round at hand, as it is written down; of nobody before it has begun."""
    drawn = {} if state.open is None else {u: state.open.examples[u] for u in state.open.selected}
    told = {"round": state.number, "attempt": state.attempt, "selected": list(drawn), "examples": list(drawn.values())}
    return Keep(AT_HAND, json.dumps(told).encode())


def closed_if_over(server: ServerHalf, state: ServerState, now: float) -> Step:
    """Closes a round in the clear where it is over: K are in, or nobody is left, or its time is up."""
    at_hand = opened(state)
    full = len(at_hand.taken) >= server.numbers.capacity
    if not (full or not at_hand.num_pending or now >= at_hand.deadline):
        return state, ()
    if not full and len(at_hand.taken) < server.numbers.min_reports:
        return abandoned(state)
    return closed(server, state, at_hand.taken, at_hand.total, now)


def abandoned(state: ServerState) -> Step:
    """The round begins again as the next attempt: nothing of this one counts."""
    gone = Drop(f"uploads/{state.number}-{state.attempt}"), Drop(f"parts/{state.number}-{state.attempt}")
    state = _all_away(state)._replace(phase="waiting", attempt=state.attempt + 1, open=None)
    return state, (at_hand(state), *gone)


def closed(server: ServerHalf, state: ServerState, taken: Mapping[int, str], total: Any, now: float) -> Step:
    """The server's step: the round is over, with the updates of `taken` in the sum.

    Args:
      server: the server.
      state: with the open round.
      taken: {client: sha256}, in the order of rows.
      total: of their messages.
      now: seconds.

    Returns:
      The state after it, or that of the next attempt where the model would not be finite; and effects in an order in
      which a crash between any two of them loses nothing: the record, which is cut off again where no checkpoint
      follows, then the checkpoint, and then what is not needed any more.
    """
    capacity = server.numbers.capacity
    ids, present = np.zeros(capacity, np.int32), np.arange(capacity) < len(taken)
    ids[: len(taken)] = list(taken)
    rounds, told = server.halves.close(state.rounds, total, ids, present)
    if not all_finite(rounds.server_state):  # numbers that are finite each, and in a sum or a step no longer
        LOG.warning(
            "round %d, attempt %d: with the updates of clients %s the model is not finite; it begins again",
            state.number,
            state.attempt,
            ", ".join(map(str, taken)),
        )
        state, effects = abandoned(state)
        return state, (*effects, Drop("sums"))
    record = _record(server, state, taken, told, ids, now)
    state = counted_in(_all_away(state), taken)._replace(rounds=rounds, number=state.number + 1, attempt=0, open=None)
    last = state.number >= server.num_rounds
    state = state._replace(phase="finished" if last else "waiting")
    every = server.settings.evaluate_every
    kept: Effects = (Record(record),)
    if every is not None and (last or state.number % every == 0):
        state, kept = evaluation_of(server, state._replace(record=record), now), ()
    return state, (*kept, Checkpoint(state), Drop("uploads"), Drop("parts"), Drop("sums"))


def evaluation_of(server: ServerHalf, state: ServerState, now: float) -> ServerState:
    """The state in which the model of the rounds so far is to be evaluated on clients."""
    model = payload_of(pack(server.halves.begin(state.rounds).download))
    return state._replace(phase="evaluating", evaluation=Evaluation(now + server.settings.deadline, model))


def _record(
    server: ServerHalf, state: ServerState, taken: Mapping[int, str], told: dict[str, Any], ids: Any, now: float
) -> dict[str, Any]:
    at_hand = opened(state)
    record: dict[str, Any] = {
        "round": state.number + 1,
        "attempt": state.attempt,
        "selected": len(at_hand.selected),
        "reported": len(taken) + at_hand.nonfinite,
        "nonfinite": at_hand.nonfinite,
        "failed": len(at_hand.out) - at_hand.nonfinite,
        "late": len(at_hand.selected) - len(taken) - len(at_hand.out),
        "examples": sum(at_hand.examples.get(client, 0) for client in taken),
        "bytes_up": server.traffic.up * (len(taken) + at_hand.nonfinite),
        "bytes_down": server.traffic.down * len(at_hand.told),
        "seconds": now - at_hand.began,
        "clients": [int(client) for client in taken],
    }
    left_out = told.get("left_out")
    if left_out is not None and np.any(left_out):
        record["left_out_clients"] = [int(client) for client in ids[np.asarray(left_out)]]
    if server.template.draws_noise:
        # What no guarantee covers: who took part is what the noise hides.
        record["simulation_only"] = [name for name in record if name not in ("round", "attempt")]
    for name, value in told.items():
        if name != "left_out":
            record[f"aggregator_{name}" if name in record else name] = float(value)
    return record


def _all_away(state: ServerState) -> ServerState:
    """Those who had a task check in again before they get another: a device that has left is not drawn."""
    table = state.presence
    for client in opened(state).selected:
        table = tables.lacking(table, client)
    return state._replace(presence=table)
