"""An evaluation on clients: the model of the rounds so far, measured where the data are, averaged over examples."""

import json
import math

from fedjaxlite.deploy.device.protocol import Message, refused
from fedjaxlite.deploy.server.state import Answer, Evaluation, Keep, Record, ServerHalf, ServerState, Step

_LARGEST = 3.5e38
"""Beyond every float32, which a client's metrics are. Larger ones, of one client, would make a mean no number."""


def evaluated(server: ServerHalf, state: ServerState, client: int, message: Message) -> Answer:
    """The metrics of a client, once; they are in the clear."""
    head, at_hand = message.head, state.evaluation
    if at_hand is None or head["round"] != state.number or client not in at_hand.asked:
        return state, refused(f"an evaluation after {head['round']} rounds is not asked of this client."), ()
    found = (dict(head["metrics"]), head["num_examples"])
    if client in at_hand.found:
        if at_hand.found[client] == found:
            return state, Message("taken", {"round": state.number}), ()
        return state, refused("other metrics of this client are in the mean already."), ()
    names = sorted(server.metrics if server.metrics is not None else found[0])
    if sorted(found[0]) != names or not 1 <= found[1] <= server.template.capacity:
        return state, refused(f"metrics {sorted(found[0])[:8]} of {found[1]} examples; expected {names[:8]}."), ()
    if not all(abs(value) < _LARGEST for value in found[0].values()):
        return state, refused(f"a metric of {max(found[0].values(), key=abs):.3g}; expected numbers of float32."), ()
    keep = Keep(f"evaluations/{state.number}/{client}", json.dumps(found).encode())
    evaluation = at_hand._replace(found={**at_hand.found, client: found})
    return state._replace(evaluation=evaluation), Message("taken", {"round": state.number}), (keep,)


def declined(state: ServerState, client: int) -> Answer:
    """A client does not evaluate: the next one that checks in does it."""
    at_hand = state.evaluation
    if at_hand is None or client not in at_hand.asked | at_hand.out or client in at_hand.found:
        return state, refused("this client is not to evaluate."), ()
    at_hand = at_hand._replace(asked=at_hand.asked - {client}, out=at_hand.out | {client})
    return state._replace(evaluation=at_hand), Message("taken", {"round": state.number}), ()


def wanted(server: ServerHalf, at_hand: Evaluation, client: int) -> bool:
    """Whether a client that has checked in is to evaluate."""
    if client in at_hand.asked:
        return client not in at_hand.found
    return client not in at_hand.out and len(at_hand.asked) < server.numbers.evaluators


def ended_if_over(server: ServerHalf, state: ServerState, now: float) -> Step:
    """Ends an evaluation once enough have answered, or its time is up, and records the round with it."""
    at_hand = state.evaluation
    if at_hand is None or (len(at_hand.found) < server.numbers.evaluators and now < at_hand.deadline):
        return state, ()
    record = {**(state.record or {}), **means(at_hand), "evaluated": len(at_hand.found)}
    phase = "finished" if state.number >= server.num_rounds else "waiting"
    return state._replace(phase=phase, evaluation=None, record=None), (Record(record),)


def means(at_hand: Evaluation) -> dict[str, float]:
    """Of every metric the mean over all examples of those who answered, named as clients' own: `client_loss`.

    Example:
      >>> from fedjaxlite.deploy.server.moving import payload_of
      >>> found = {3: ({"loss": 1.0}, 1), 5: ({"loss": 2.0}, 3)}
      >>> means(Evaluation(0.0, payload_of(b""), frozenset(found), found))
      {'client_loss': 1.75}
    """
    # In the order of numbers, not of arrival: the sum is the same whoever was first.
    rows = [at_hand.found[client] for client in sorted(at_hand.found)]
    weight = sum(num for _, num in rows)
    names = sorted(set.intersection(*(set(metrics) for metrics, _ in rows))) if rows else []
    return {f"client_{name}": math.fsum(m[name] * num for m, num in rows) / weight for name in names}
