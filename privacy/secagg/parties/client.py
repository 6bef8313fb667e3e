"""A client of a secure sum: every step a pure function (state, message) -> (state, message).

A step refuses, with a typed error that names whom it blames, whatever would open more than the sum. The caller keeps
the newest state only: an old one would let a step be taken twice.

Source: Bonawitz et al. (2017), "Practical secure aggregation", https://eprint.iacr.org/2017/281, figure 4; Bell et al.
(2020), https://eprint.iacr.org/2020/704, for the ring.
"""

import os

import numpy as np

from fedjaxlite.privacy.secagg import graph, keys, masking, messages, shamir
from fedjaxlite.privacy.secagg.errors import SERVER, TooFew, WrongNames, WrongStage, party
from fedjaxlite.privacy.secagg.keys import Primitives, Random
from fedjaxlite.privacy.secagg.messages import (
    Advertise,
    Confirm,
    Deliveries,
    MaskedInput,
    Reveal,
    Roster,
    Shares,
    Survivors,
    UnmaskRequest,
)
from fedjaxlite.privacy.secagg.parameters import Parameters
from fedjaxlite.privacy.secagg.parties import client_checks, transcript
from fedjaxlite.privacy.secagg.parties.client_state import ClientState, Identity, Stage, enough, in_turn


def advertise(
    parameters: Parameters,
    *,
    round_number: int,
    me: int,
    identity: Identity | None = None,
    primitives: Primitives | None = None,
    random: Random = os.urandom,
) -> tuple[ClientState, Advertise]:
    """Step 0: fresh keys for this round.

    Args:
      parameters: what was agreed on.
      round_number: the round's number, below 2^64, never used before under the same identities.
      me: the client's id, below 2^32 - 2.
      identity: needed where the server may lie.
      primitives: the cryptography; `keys.real()` when left out.
      random: where secrets come from: the operating system.

    Returns:
      The state, and the message to the server.

    Raises:
      ValueError: a lying server without an identity.
    """
    primitives = primitives or keys.real()
    if parameters.server == "lying" and identity is None:
        raise ValueError(
            "`identity` is missing; expected an `Identity`, since keys are signed where the server may lie."
        )
    channel, mask = keys.generate(primitives, random), keys.generate(primitives, random)
    signature = b""
    if parameters.server == "lying" and identity is not None:
        words = transcript.advertisement(parameters, round_number, me, channel.public, mask.public)
        signature = primitives.sign(identity.private, words)
    state = ClientState(parameters, round_number, me, "advertised", channel, mask, identity)
    return state, Advertise(round_number, me, channel.public, mask.public, signature)


def share(
    state: ClientState, roster: Roster, *, primitives: Primitives | None = None, random: Random = os.urandom
) -> tuple[ClientState, Shares]:
    """Step 1: shares of the secret of the own mask and of the private mask key, one for every neighbor.

    Args:
      state: after `advertise`.
      roster: who is present, with keys.
      primitives: the cryptography; `keys.real()` when left out.
      random: where secrets come from.

    Returns:
      The state, and the message to the server.

    Raises:
      SecureAggregationError: the own keys are missing or changed, two keys are alike, the ring is not the one that the
        seed gives, too few neighbors, or (lying server) a signature or the seed does not fit.
    """
    primitives = primitives or keys.real()
    in_turn(state, "advertised", roster, Roster)
    rows, near = client_checks.roster_rows(state, roster, primitives)
    secret = random(keys.KEY_BYTES)
    holders = sorted((*near, state.me))
    places = range(1, len(holders) + 1)
    draw = keys.below(random)
    threshold = state.parameters.threshold
    of_secret = shamir.share(int.from_bytes(secret), threshold, places, randbelow=draw)
    of_key = shamir.share(int.from_bytes(state.mask.private), threshold, places, randbelow=draw)
    parts = dict(zip(holders, zip(of_secret, of_key, strict=True), strict=True))
    sealed = []
    for v in near:
        key, header = client_checks.box(state, primitives, rows[v][0], sender=state.me, receiver=v)
        plain = messages.SHARES.pack(
            state.round, state.me, v, *(part.to_bytes(shamir.SHARE_BYTES) for part in parts[v])
        )
        sealed.append((v, keys.seal(primitives, key, plain, header, random)))
    state = state._replace(
        stage="shared",
        seed=roster.seed,
        ids=roster.ids,
        neighbors={v: rows[v] for v in near},
        secret=secret,
        own=parts[state.me],
    )
    return state, Shares(state.round, state.me, keys.commitment(state.round, state.me, secret), tuple(sealed))


def mask(
    state: ClientState, deliveries: Deliveries, vector: masking.Words, *, primitives: Primitives | None = None
) -> tuple[ClientState, MaskedInput]:
    """Step 2: the vector under the own mask and a mask for each neighbor whose shares arrived.

    Args:
      state: after `share`.
      deliveries: sealed shares from the neighbors that got this far.
      vector: uint32 `[length]`. All scalars ride in it: weight, clip bit, counts.
      primitives: the cryptography; `keys.real()` when left out.

    Returns:
      The state, and the message to the server: one vector and nothing else.

    Raises:
      TypeError, ValueError: the vector has another dtype or shape.
      SecureAggregationError: shares from no neighbor, shares that do not open, or fewer than the threshold.
    """
    primitives = primitives or keys.real()
    in_turn(state, "shared", deliveries, Deliveries)
    vector = np.asarray(vector)
    if vector.dtype != np.uint32:
        raise TypeError(f"`vector` has dtype {vector.dtype}; expected uint32: signed numbers by `.view(np.uint32)`.")
    if vector.shape != (state.parameters.length,):
        raise ValueError(f"`vector` has shape {vector.shape}; expected ({state.parameters.length},).")
    enough(state, len(deliveries.sealed) + 1, "got as far as sharing")
    held, seeds = {}, {}
    for v, box in deliveries.sealed:
        if v not in state.neighbors:
            raise WrongNames(f"shares of {party(v)}, no neighbor of {party(state.me)}.", offender=SERVER)
        held[v] = client_checks.unseal_shares(state, primitives, v, box)
        seeds[v] = keys.pair_seed(
            primitives, state.mask.private, state.neighbors[v][1], round_number=state.round, me=state.me, other=v
        )
    own = keys.self_seed(primitives, state.secret, round_number=state.round, owner=state.me)
    sent = masking.masked(vector, own, seeds, me=state.me, round_number=state.round, prg=primitives.prg)
    return state._replace(stage="masked", held=held), MaskedInput(state.round, state.me, sent)


def confirm(
    state: ClientState, survivors: Survivors, *, primitives: Primitives | None = None
) -> tuple[ClientState, Confirm]:
    """Step 3, where the server may lie: a signature on who survived, which a client gives once.

    Raises:
      SecureAggregationError: the client itself is missing, somebody is named who was never there, too few are left, or
        they fall into groups that share no masks.
    """
    primitives = primitives or keys.real()
    if state.identity is None or state.parameters.server != "lying":
        raise WrongStage("there is nothing to confirm to a server that is trusted not to lie.", offender=SERVER)
    in_turn(state, "masked", survivors, Survivors)
    left = frozenset(survivors.ids)
    if state.me not in left or not left <= set(state.ids) or not (left & set(state.neighbors)) <= set(state.held):
        raise WrongNames(
            f"the survivors leave out {party(state.me)}, or name clients that did not get this far.", offender=SERVER
        )
    enough(state, len(left & set(state.neighbors)) + 1, "survived")
    if len(left) < state.parameters.min_survivors:
        raise TooFew(_small(state, len(left)), offender=SERVER)
    if not graph.connected(graph.ring(state.ids, state.parameters.neighbors, state.seed), left):
        raise TooFew("the survivors fall into groups that share no masks with each other.", offender=SERVER)
    words = transcript.survivors(state.parameters, state.round, state.seed, state.ids, survivors.ids)
    signature = primitives.sign(state.identity.private, words)
    return state._replace(stage="confirmed", survivors=left), Confirm(state.round, state.me, signature)


def unmask(
    state: ClientState, request: UnmaskRequest, *, primitives: Primitives | None = None
) -> tuple[ClientState, Reveal]:
    """Step 4: for each neighbor a share of one of its two secrets, never of both, and once a round.

    Args:
      state: after `mask`, or after `confirm` where the server may lie.
      request: which neighbors survived and which dropped out.
      primitives: the cryptography; `keys.real()` when left out.

    Returns:
      The state, and the message to the server: shares of the own-mask secrets of survivors (itself among them), and of
      the mask keys of dropouts.

    Raises:
      SecureAggregationError: asked before; a name in both sets, unknown or missing; too few survivors; or (lying
        server) sets that were not confirmed by enough clients.

    Guarantees:
      For no client does the same state answer with shares of both secrets.
    """
    primitives = primitives or keys.real()
    before: Stage = "confirmed" if state.parameters.server == "lying" else "masked"
    in_turn(state, before, request, UnmaskRequest)
    alive, dropped = set(request.alive), set(request.dropped)
    both = alive & dropped
    if both:
        raise WrongNames(f"both secrets of {party(min(both))} are asked for.", offender=SERVER)
    if alive | dropped != set(state.held):
        odd = min((alive | dropped) ^ set(state.held))
        raise WrongNames(
            f"{party(odd)} is {'missing in' if odd in state.held else 'unknown to'} what is asked; expected the "
            f"{len(state.held)} neighbors whose shares arrived.",
            offender=SERVER,
        )
    enough(state, len(alive) + 1, "survived")
    # Where everyone is a neighbor, a client sees how many the sum is of.
    if len(state.neighbors) == len(state.ids) - 1 and len(alive) + 1 < state.parameters.min_survivors:
        raise TooFew(_small(state, len(alive) + 1), offender=SERVER)
    if state.parameters.server == "lying":
        client_checks.confirmed(state, request, primitives)
    self_shares = sorted([(v, state.held[v][0]) for v in alive] + [(state.me, state.own[0])])
    key_shares = sorted((v, state.held[v][1]) for v in dropped)
    return state._replace(stage="revealed"), Reveal(state.round, state.me, tuple(self_shares), tuple(key_shares))


def _small(state: ClientState, survivors: int) -> str:
    return f"{survivors} survivors; expected at least {state.parameters.min_survivors} before a sum is opened."
