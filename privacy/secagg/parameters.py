"""The parameters of a secure sum, and the rules that they have to keep: checked when built, never a warning.

N is the number of holders of a client's secrets: its neighbors and itself. c of them may collude with the server.
"""

import hashlib
from typing import Literal, NamedTuple

from fedjaxlite.privacy.secagg import arguments

Server = Literal["semi-honest", "lying"]
MAX_CLIENTS = 1 << 20
MAX_LENGTH = 1 << 30


class Parameters(NamedTuple):
    """What clients and server agree on before a round; build it with `parameters`.

    Attributes:
      num_clients: the most clients that a round may have.
      length: words of 32 bits in every client's vector.
      neighbors: k, how many others each client shares masks with: even, or num_clients - 1 for everyone.
      threshold: t, how many of the N = k + 1 holders of a secret are needed to open it.
      colluders: c, the most holders of one client's secrets that collude with the server.
      cohort_colluders: the most clients of the whole round that collude with the server.
      min_survivors: the fewest clients whose sum may be opened.
      server: "semi-honest" follows the protocol and keeps what it sees; "lying" may also lie about who dropped out:
        keys are signed, and clients confirm to each other who survived.
    """

    num_clients: int
    length: int
    neighbors: int
    threshold: int
    colluders: int
    cohort_colluders: int
    min_survivors: int
    server: Server

    def holders(self, num_present: int) -> int:
        """How many hold a share of a client's secrets in a round of `num_present` clients, itself among them."""
        return min(self.neighbors + 1, num_present)

    def digest(self) -> bytes:
        """What signatures and sealed shares are bound to, so that nobody works with other parameters."""
        return hashlib.sha256(repr(tuple(self)).encode()).digest()

    def quorum(self, num_present: int) -> int:
        """How many signatures confirm who survived, so that no other answer can be confirmed too."""
        return max(self.threshold, (num_present + self.cohort_colluders) // 2 + 1)


def parameters(
    *,
    num_clients: int,
    length: int,
    neighbors: int | None = None,
    threshold: int | None = None,
    colluders: int = 0,
    cohort_colluders: int | None = None,
    min_survivors: int | None = None,
    server: Server = "semi-honest",
) -> Parameters:
    """Parameters of a secure sum that keep the rules.

    Args:
      num_clients: the most clients in a round.
      length: words of 32 bits in every client's vector.
      neighbors: k, even and below num_clients - 1 for the ring of Bell et al.; None is everyone (Bonawitz et al.).
        `graph.derive` finds k and the threshold from shares of colluders and dropouts.
      threshold: t; None takes the smallest that is more than half of the holders and keeps the rules.
      colluders: c, in one client's neighborhood.
      cohort_colluders: in the whole round; None is `colluders` where everyone is a neighbor, and else the same share
        of the round as `colluders` is of a neighborhood, rounded up.
      min_survivors: the fewest clients whose sum may be opened; None is max(threshold, 8), and two more than
        the colluders of the round at least.
      server: "semi-honest" or "lying".

    Returns:
      `Parameters`.

    Raises:
      TypeError: a number is not an int.
      ValueError: a rule is broken: t <= c; 2 t <= N + c with a lying server; more than N holders needed; k odd; fewer
        than two honest clients in the smallest sum; more survivors needed than there are clients.

    Guarantees:
      With t > c the colluders alone never hold enough shares of an honest client's secrets. With 2 t > N + c not even
      a server that lies about who dropped out gets both secrets of a client, since honest holders answer once: N - c
      of them give one share, c colluders two, and both secrets need 2 t.

    Source: Bonawitz et al. (2017), "Practical secure aggregation", https://eprint.iacr.org/2017/281, theorems 6.3 and
    6.5; Bell et al. (2020), "Secure single-server aggregation with (poly)logarithmic overhead",
    https://eprint.iacr.org/2020/704.

    Example:
      >>> p = parameters(num_clients=20, length=1000, colluders=2, server="lying")
      >>> p.neighbors, p.threshold, p.min_survivors, p.quorum(20)
      (19, 12, 12, 12)
    """
    num_clients = arguments.in_range(2, MAX_CLIENTS, num_clients=num_clients)
    length = arguments.in_range(1, MAX_LENGTH, length=length)
    if not isinstance(server, str) or server not in ("semi-honest", "lying"):
        raise ValueError(f"`server` is {arguments.shown(server)}; expected 'semi-honest' or 'lying'.")
    k = _neighbors(neighbors, num_clients)
    holders = k + 1
    colluders = arguments.in_range(0, holders - 1, colluders=colluders)
    t = _threshold(threshold, holders, colluders, server)
    everywhere = _cohort_colluders(cohort_colluders, colluders, holders, num_clients)
    smallest = arguments.plain_int(min_survivors=max(t, 8, everywhere + 2) if min_survivors is None else min_survivors)
    if smallest - everywhere < 2:
        raise ValueError(
            f"`min_survivors` is {smallest} with {everywhere} colluders in the round: a sum of fewer than two honest "
            f"clients is somebody's input. Expected at least {everywhere + 2}."
        )
    if smallest > num_clients:
        raise ValueError(
            f"`min_survivors` is {smallest}, more than the {num_clients} clients of a round (left out, it is "
            "max(threshold, 8) or more); lower it, knowing that a sum of few hides little, or take more clients."
        )
    return Parameters(num_clients, length, k, t, colluders, everywhere, smallest, server)


def _neighbors(neighbors: int | None, num_clients: int) -> int:
    everyone = num_clients - 1
    if neighbors is None:
        return everyone
    neighbors = arguments.plain_int(neighbors=neighbors)
    if neighbors == everyone:
        return everyone
    if not 2 <= neighbors < everyone or neighbors % 2:
        raise ValueError(
            f"`neighbors` is {neighbors} for {num_clients} clients; expected an even number in [2, {everyone}), half "
            "of them on each side of the ring, or None for everyone."
        )
    return neighbors


def _threshold(threshold: int | None, holders: int, colluders: int, server: Server) -> int:
    lying = server == "lying"
    needed = (holders + colluders) // 2 + 1 if lying else colluders + 1
    if threshold is None:
        threshold = max(needed, holders // 2 + 1)
    threshold = arguments.in_range(1, holders, threshold=threshold)
    if threshold < needed:
        rule = f"2 t > N + c = {holders + colluders}" if lying else f"t > c = {colluders}"
        why = "a lying server could get both secrets of a client" if lying else "colluders alone could open secrets"
        raise ValueError(
            f"`threshold` is {threshold} with {holders} holders and {colluders} colluders: {why}. "
            f"Expected {rule}, so at least {needed}."
        )
    return threshold


def _cohort_colluders(given: int | None, colluders: int, holders: int, num_clients: int) -> int:
    if given is None:
        return -(-colluders * num_clients // holders)
    return arguments.in_range(colluders, num_clients, cohort_colluders=given)
