"""What a client checks of what it is told: the roster, sealed shares, and who is said to have survived."""

from fedjaxlite.privacy.secagg import graph, keys, messages, shamir
from fedjaxlite.privacy.secagg.errors import (
    SERVER,
    BadCiphertext,
    BadKey,
    BadShares,
    Duplicate,
    TooFew,
    UnknownClient,
    WrongNames,
    party,
)
from fedjaxlite.privacy.secagg.keys import Primitives
from fedjaxlite.privacy.secagg.messages import Roster, UnmaskRequest
from fedjaxlite.privacy.secagg.parties import transcript
from fedjaxlite.privacy.secagg.parties.client_state import ClientState, enough


def roster_rows(
    state: ClientState, roster: Roster, primitives: Primitives
) -> tuple[dict[int, tuple[bytes, bytes]], tuple[int, ...]]:
    """The keys of the roster by id, and the client's neighbors, or a refusal."""
    p, me = state.parameters, state.me
    rows = {name: (channel, mask) for name, channel, mask, _ in roster.rows}
    if me not in roster.ids or len(roster.ids) > p.num_clients or len(set(roster.ids)) != len(roster.ids):
        raise WrongNames(f"the roster has {len(roster.ids)} names and has to hold {me}.", offender=SERVER)
    if rows.get(me) != (state.channel.public, state.mask.public):
        raise BadKey(f"the roster does not have the keys that {party(me)} advertised.", offender=SERVER)
    near = graph.ring(roster.ids, p.neighbors, roster.seed)[me]
    lying = p.server == "lying"
    expected = set(roster.ids) if lying else {me, *near}
    if set(rows) != expected:
        raise WrongNames(
            f"the roster has keys of {sorted(rows)}; expected those of {sorted(expected)}, by the ring of its seed.",
            offender=SERVER,
        )
    seen: dict[bytes, int] = {}
    for name, pair in rows.items():
        for key in pair:
            if key in seen:
                raise Duplicate(f"{party(name)} shows a key that {party(seen[key])} shows too.", offender=name)
            seen[key] = name
    enough(state, len(near) + 1, "is present")
    if lying:
        if roster.seed != transcript.seed_of(state.round, roster.rows):
            raise WrongNames("the seed of the ring is not the hash of the keys of the round.", offender=SERVER)
        for name, channel, mask_key, signature in roster.rows:
            words = transcript.advertisement(p, state.round, name, channel, mask_key)
            keys.verify(primitives, _known(state, name), words, signature, signer=name)
    return rows, near


def confirmed(state: ClientState, request: UnmaskRequest, primitives: Primitives) -> None:
    """Refuses sets that are not those of the survivors that enough clients have signed."""
    if set(request.alive) != state.survivors & set(state.neighbors):
        raise WrongNames("the survivors that are asked for are not those that were confirmed.", offender=SERVER)
    words = transcript.survivors(state.parameters, state.round, state.seed, state.ids, sorted(state.survivors))
    signers = dict(request.signatures)
    for name, signature in signers.items():
        if name not in state.survivors:
            raise UnknownClient(f"{party(name)} confirms who survived and is not among them.", offender=name)
        keys.verify(primitives, _known(state, name), words, signature, signer=name)
    quorum = state.parameters.quorum(len(state.ids))
    if len(signers) < quorum:
        raise TooFew(f"{len(signers)} clients confirm who survived; expected at least {quorum}.", offender=SERVER)


def _known(state: ClientState, name: int) -> bytes | None:
    return state.identity.known.get(name) if state.identity else None


def box(
    state: ClientState, primitives: Primitives, public: bytes, *, sender: int, receiver: int
) -> tuple[bytes, bytes]:
    """The key and the header of the sealed shares between the client and a neighbor."""
    key = keys.channel_key(
        primitives,
        state.channel.private,
        public,
        round_number=state.round,
        sender=sender,
        receiver=receiver,
        me=state.me,
    )
    return key, messages.box_header(state.parameters, state.round, sender, receiver)


def unseal_shares(state: ClientState, primitives: Primitives, sender: int, sealed: bytes) -> tuple[int, int]:
    """The two shares of a neighbor, or a refusal that names it."""
    key, header = box(state, primitives, state.neighbors[sender][0], sender=sender, receiver=state.me)
    plain = keys.unseal(primitives, key, sealed, header, sender=sender)
    if len(plain) != messages.SHARES.size:
        raise BadCiphertext(
            f"{party(sender)} sealed {len(plain)} bytes; expected {messages.SHARES.size}.", offender=sender
        )
    round_number, owner, holder, of_secret, of_key = messages.SHARES.unpack(plain)
    if (round_number, owner, holder) != (state.round, sender, state.me):
        raise BadCiphertext(
            f"{party(sender)} sealed shares of {party(owner)} for {party(holder)} in round {round_number}.",
            offender=sender,
        )
    shares = int.from_bytes(of_secret), int.from_bytes(of_key)
    if max(shares) >= shamir.PRIME:
        raise BadShares(f"{party(sender)} dealt a share outside the field.", offender=sender)
    return shares
