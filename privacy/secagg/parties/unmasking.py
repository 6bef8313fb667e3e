"""The last step at the server: secrets from shares, checked against what was committed to, and masks taken off.

The sum of the masked vectors holds the own mask of every survivor, and the pair masks of survivors with dropouts; all
other pair masks have cancelled. For the first the secrets of survivors are put together, for the second the mask keys
of dropouts; of no client both.
"""

from collections.abc import Callable

from fedjaxlite.privacy.secagg import keys, masking, shamir
from fedjaxlite.privacy.secagg.errors import BadShares, TooFew, party
from fedjaxlite.privacy.secagg.keys import Primitives
from fedjaxlite.privacy.secagg.parties.server_state import RoundResult, ServerState


def check_holders(state: ServerState, present: frozenset[int]) -> None:
    """Refuses to go on where a secret that is needed has fewer holders present than the threshold.

    Args:
      state: the server's, with survivors known.
      present: who can still send shares.

    Raises:
      TooFew: names the client whose secret is lost.
    """
    for owner in sorted(state.survivors | _needed(state)):
        count = len(present.intersection(_holders(state, owner)))
        if count < state.parameters.threshold:
            what = "own mask" if owner in state.survivors else "mask key"
            raise TooFew(
                f"{count} holders are left of the secret of the {what} of {party(owner)}; expected at least "
                f"{state.parameters.threshold}."
            )


def open_sum(state: ServerState, primitives: Primitives | None = None) -> RoundResult:
    """The sum of the survivors' vectors, and who gave wrong shares.

    Args:
      state: with shares from enough holders, as `check_holders` says.
      primitives: the cryptography; `keys.real()` when left out.

    Returns:
      A `RoundResult`.

    Raises:
      BadShares: a secret cannot be told from the shares that came.
    """
    primitives = primitives or keys.real()
    total, wrong = state.total.copy(), []
    for owner in sorted(state.survivors):
        secret, liars = _secret(state, owner, _commits(state, owner), own=True)
        wrong += [(owner, liar) for liar in liars]
        seed = keys.self_seed(primitives, secret, round_number=state.round, owner=owner)
        masking.add_mask(total, seed, -1, round_number=state.round, purpose=masking.SELF, prg=primitives.prg)
    for owner in sorted(_needed(state)):
        private, liars = _secret(state, owner, _is_key(state, owner, primitives), own=False)
        wrong += [(owner, liar) for liar in liars]
        for other in sorted(state.survivors.intersection(state.graph[owner])):
            seed = keys.pair_seed(
                primitives, private, state.adverts[other].mask, round_number=state.round, me=owner, other=other
            )
            # The survivor added sign(other, owner) times the mask.
            masking.add_mask(
                total,
                seed,
                masking.sign(owner, other),
                round_number=state.round,
                purpose=masking.PAIR,
                prg=primitives.prg,
            )
    dropped = tuple(sorted(state.sharing - state.survivors))
    return RoundResult(total, tuple(sorted(state.survivors)), dropped, tuple(wrong), state.refusals)


def _needed(state: ServerState) -> frozenset[int]:
    """The dropouts that share masks with a survivor: their pair masks are still in the total."""
    gone = state.sharing - state.survivors
    return frozenset(u for u in gone if state.survivors.intersection(state.graph[u]))


def _holders(state: ServerState, owner: int) -> list[int]:
    """Who was dealt a share of a client's secrets, in the order of the places on its polynomials."""
    return sorted((*state.graph[owner], owner))


def _secret(
    state: ServerState, owner: int, accepts: Callable[[int], bool], *, own: bool
) -> tuple[bytes, tuple[int, ...]]:
    """A client's secret as 32 bytes, and the holders whose share of it was wrong."""
    holders = _holders(state, owner)
    shares: dict[int, int] = {}
    for place, holder in enumerate(holders, 1):
        reveal = state.reveals.get(holder)
        if reveal is not None:
            given = dict(reveal.self_shares if own else reveal.key_shares)
            if owner in given:
                shares[place] = given[owner]
    threshold = state.parameters.threshold
    try:
        found = shamir.recover(shares, threshold, accepts)
    except BadShares as error:
        names = [holders[place - 1] for place in shares]
        # Points that agree with each other and with no commitment were dealt so.
        blame = owner if len(shares) > threshold and _agree(shares, threshold) else None
        raise BadShares(
            f"the shares of a secret of {party(owner)} held by clients {names} do not give what it committed to: "
            f"{'it dealt other shares' if blame is not None else 'it, or more of them than can be told apart, lied'}.",
            offender=blame,
        ) from error
    return found.secret.to_bytes(keys.KEY_BYTES), tuple(holders[place - 1] for place in found.wrong)


def _agree(shares: dict[int, int], threshold: int) -> bool:
    try:
        shamir.reconstruct(shares, threshold)
    except BadShares:
        return False
    return True


def _commits(state: ServerState, owner: int) -> Callable[[int], bool]:
    committed = state.commitments[owner]
    return lambda secret: (
        secret < 1 << 256 and keys.commitment(state.round, owner, secret.to_bytes(keys.KEY_BYTES)) == committed
    )


def _is_key(state: ServerState, owner: int, primitives: Primitives) -> Callable[[int], bool]:
    public = state.adverts[owner].mask
    return lambda secret: secret < 1 << 256 and primitives.public(secret.to_bytes(keys.KEY_BYTES)) == public
