"""The server of a secure sum: it collects the messages of a stage, closes the stage, and says what to send next.

`step(state, messages) -> (state, messages)` is a stage as one pure function; `receive` and `close` are its two halves,
for a server that takes messages as they come.

Source: Bonawitz et al. (2017), "Practical secure aggregation", https://eprint.iacr.org/2017/281, figure 4; Bell et al.
(2020), https://eprint.iacr.org/2020/704, for the ring.
"""

from collections.abc import Iterable, Mapping

from fedjaxlite.privacy.secagg import graph
from fedjaxlite.privacy.secagg.errors import SERVER, TooFew
from fedjaxlite.privacy.secagg.keys import Primitives
from fedjaxlite.privacy.secagg.messages import Deliveries, Message, Roster, Survivors, UnmaskRequest
from fedjaxlite.privacy.secagg.parties import transcript, unmasking
from fedjaxlite.privacy.secagg.parties.server_state import ServerState, answering
from fedjaxlite.privacy.secagg.parties.server_state import receive as receive
from fedjaxlite.privacy.secagg.parties.server_state import receive_all as receive_all
from fedjaxlite.privacy.secagg.parties.server_state import refuse as refuse
from fedjaxlite.privacy.secagg.parties.server_state import start as start
from fedjaxlite.privacy.secagg.parties.server_state import waiting as waiting

Outgoing = Mapping[int, Message]


def step(
    state: ServerState, messages: Iterable[Message], *, primitives: Primitives | None = None
) -> tuple[ServerState, Outgoing]:
    """A stage of a round: takes what the clients sent, and gives what they get.

    Args:
      state: the server's.
      messages: of the clients, in any order; whoever is missing has dropped out.
      primitives: the cryptography; `keys.real()` when left out.

    Returns:
      The state of the next stage, and {id: message}. After the last stage the state holds the `result`.

    Raises:
      TooFew: fewer clients than the threshold are left near somebody, or fewer than may be summed.
      BadShares: a secret cannot be put together from the shares that came.

    Guarantees:
      Messages that are refused do not count, and are named in `state.refusals`. The sum is exact, mod 2^32, over all
      whose vector arrived in time, or there is none.

    Example:
      >>> import numpy as np
      >>> from fedjaxlite.privacy.secagg import client, parameters
      >>> p = parameters(num_clients=3, length=2, min_survivors=2)
      >>> state, told = start(p, round_number=0, cohort=(0, 1, 2)), {}
      >>> steps = [client.advertise(p, round_number=0, me=u) for u in range(3)]
      >>> state, told = step(state, [m for _, m in steps])
      >>> steps = [client.share(s, told[s.me]) for s, _ in steps]
      >>> state, told = step(state, [m for _, m in steps])
      >>> steps = [client.mask(s, told[s.me], np.full(2, s.me + 1, np.uint32)) for s, _ in steps]
      >>> state, told = step(state, [m for _, m in steps[:2]])  # client 2 is gone
      >>> steps = [client.unmask(s, told[s.me]) for s, _ in steps[:2]]
      >>> state, told = step(state, [m for _, m in steps])
      >>> state.result.survivors, state.result.total.tolist()
      ((0, 1), [3, 3])
    """
    return close(receive_all(state, messages, primitives=primitives), primitives=primitives)


def close(state: ServerState, *, primitives: Primitives | None = None) -> tuple[ServerState, Outgoing]:
    """Ends a stage with the messages that were taken: those who sent none have dropped out.

    Returns:
      The state of the next stage, and {id: message} for those who go on.

    Raises:
      TooFew, BadShares: see `step`.
    """
    match state.stage:
        case "advertise":
            return _rosters(state)
        case "share":
            return _deliveries(state)
        case "mask":
            return _survivors(state)
        case "confirm":
            return _requests(state)
        case "reveal":
            unmasking.check_holders(state, frozenset(state.reveals))
            result = unmasking.open_sum(state, primitives)
            return state._replace(stage="done", result=result, reveals={}, boxes={}), {}
        case "done":
            return state, {}


def _rosters(state: ServerState) -> tuple[ServerState, Outgoing]:
    p, ids = state.parameters, tuple(sorted(state.adverts))
    _enough(len(ids), max(p.threshold, p.min_survivors), "showed keys")
    rows = {u: (u, a.channel, a.mask, a.signature) for u, a in state.adverts.items()}
    seed = transcript.seed_of(state.round, rows.values())
    neighbors = graph.ring(ids, p.neighbors, seed)
    everyone = tuple(rows[u] for u in ids)
    outgoing: dict[int, Message] = {}
    for u in ids:
        near = everyone if p.server == "lying" else tuple(rows[v] for v in sorted((*neighbors[u], u)))
        outgoing[u] = Roster(state.round, SERVER, seed, ids, near)
    return state._replace(stage="share", seed=seed, graph=neighbors), outgoing


def _deliveries(state: ServerState) -> tuple[ServerState, Outgoing]:
    p, sharing = state.parameters, set(state.commitments)
    # Who has too few neighbors left would refuse to go on. As long as nobody was told whose shares arrived, nobody
    # holds a mask with it, and it can be left out at no cost.
    while lonely := {u for u in sharing if len(sharing.intersection(state.graph[u])) + 1 < p.threshold}:
        sharing -= lonely
    _enough(len(sharing), p.min_survivors, "shared their secrets")
    outgoing: dict[int, Message] = {}
    for u in sharing:
        near = [v for v in state.graph[u] if v in sharing]
        outgoing[u] = Deliveries(state.round, SERVER, tuple((v, state.boxes[v][u]) for v in near))
    return state._replace(stage="mask", sharing=frozenset(sharing), boxes={}), outgoing


def _survivors(state: ServerState) -> tuple[ServerState, Outgoing]:
    p = state.parameters
    _enough(len(state.survivors), p.min_survivors, "sent a vector")
    if not graph.connected(state.graph, state.survivors):
        raise TooFew("the survivors fall into groups that share no masks, so that each group's sum would be opened.")
    unmasking.check_holders(state, state.survivors)
    if p.server == "lying":
        told = Survivors(state.round, SERVER, tuple(sorted(state.survivors)))
        return state._replace(stage="confirm"), dict.fromkeys(state.survivors, told)
    return _requests(state)


def _requests(state: ServerState) -> tuple[ServerState, Outgoing]:
    p = state.parameters
    if p.server == "lying":
        _enough(len(state.confirms), p.quorum(len(state.adverts)), "confirmed who survived")
        unmasking.check_holders(state, frozenset(state.confirms))
    signatures = tuple(sorted(state.confirms.items()))
    outgoing: dict[int, Message] = {}
    for u in answering(state):
        near = [v for v in state.graph[u] if v in state.sharing]
        alive = tuple(v for v in near if v in state.survivors)
        dropped = tuple(v for v in near if v not in state.survivors)
        outgoing[u] = UnmaskRequest(state.round, SERVER, alive, dropped, signatures)
    return state._replace(stage="reveal"), outgoing


def _enough(present: int, needed: int, what: str) -> None:
    if present < needed:
        raise TooFew(f"{present} clients {what}; expected at least {needed}.")


def blamed(state: ServerState) -> dict[int, int]:
    """How often each client was refused: {id: refusals}, by the errors' offenders.

    Example:
      >>> from fedjaxlite.privacy.secagg import errors, parameters
      >>> state = start(parameters(num_clients=3, length=1, min_survivors=2), round_number=0, cohort=(0, 1, 2))
      >>> blamed(refuse(state, errors.WrongRound("client 2 is late.", offender=2)))
      {2: 1}
    """
    counts: dict[int, int] = {}
    for error in state.refusals:
        if error.offender is not None:
            counts[error.offender] = counts.get(error.offender, 0) + 1
    return counts
