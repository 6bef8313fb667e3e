"""Who shares masks with whom: a ring in random order, each client with the k / 2 next to it on both sides.

The order comes from a public seed that is a hash of all keys of the round, so nobody can choose it before the keys are
out. The number of neighbors k and the threshold t come from exact hypergeometric tails and union bounds, in integers.

Source: Bell et al. (2020), "Secure single-server aggregation with (poly)logarithmic overhead",
https://eprint.iacr.org/2020/704, section 3.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from math import comb
from typing import NamedTuple

from fedjaxlite.privacy.secagg.parameters import Server

_LABEL = b"fedjaxlite/secagg/v1/graph"


class Degree(NamedTuple):
    """A number of neighbors that is enough, and what it rests on.

    Attributes:
      neighbors: k.
      threshold: t.
      colluders: c, the most colluders in a neighborhood, except with the probability that was asked for.
      cohort_colluders: the colluders of the whole round that this holds for.
    """

    neighbors: int
    threshold: int
    colluders: int
    cohort_colluders: int


def seed(round_number: int, keys: Iterable[tuple[int, bytes, bytes]]) -> bytes:
    """The public seed of a round's ring: a hash of every client's id and keys, so it is fixed by the keys alone.

    Args:
      round_number: the round's number.
      keys: (id, channel key, mask key) of every client, in any order.

    Returns:
      32 bytes.

    Guarantees:
      Unknown to everyone before the last honest client has shown its fresh keys. A server with colluders can still
      try many sets of their keys and keep the ring it likes best: tries by the power of two cost as many bits of
      `security_bits` in `derive`.

    Example:
      >>> keys = [(1, b"a" * 32, b"b" * 32), (0, b"c" * 32, b"d" * 32)]
      >>> seed(7, keys) == seed(7, keys[::-1]), seed(7, keys) == seed(8, keys)
      (True, False)
    """
    digest = hashlib.sha256(_LABEL + struct.pack(">Q", round_number))
    for name, channel, mask in sorted(keys):
        digest.update(struct.pack(">I", name) + channel + mask)
    return digest.digest()


def ring(ids: Sequence[int], neighbors: int, seed: bytes) -> dict[int, tuple[int, ...]]:
    """The neighbors of every client, in a random order that anyone can compute from the seed.

    Args:
      ids: distinct ids of the clients that are present.
      neighbors: k; where k reaches the number of the others, everyone is a neighbor of everyone.
      seed: what the order is drawn from.

    Returns:
      {id: ids of its neighbors, ascending}. The relation is symmetric.

    Example:
      >>> graph = ring(range(10), 4, b"seed")
      >>> all(u in graph[v] for u in graph for v in graph[u]), {len(names) for names in graph.values()}
      (True, {4})
      >>> ring([2, 5, 9], 2, b"seed")
      {2: (5, 9), 5: (2, 9), 9: (2, 5)}
    """
    n = len(ids)
    if neighbors >= n - 1:
        return {u: tuple(sorted(v for v in ids if v != u)) for u in ids}
    order = sorted(ids, key=lambda name: hashlib.sha256(_LABEL + seed + struct.pack(">I", name)).digest())
    reach = [step for step in range(-(neighbors // 2), neighbors // 2 + 1) if step]
    place = {u: at for at, u in enumerate(order)}
    return {u: tuple(sorted(order[(place[u] + step) % n] for step in reach)) for u in ids}


def connected(graph: Mapping[int, Sequence[int]], left: Iterable[int]) -> bool:
    """Whether the graph stays in one piece among the clients that are `left`.

    Example:
      >>> graph = ring(range(10), 2, b"seed")
      >>> connected(graph, range(10)), connected(graph, [0, *(v for v in range(10) if v not in graph[0] and v)])
      (True, False)
    """
    rest = set(left)
    if not rest:
        return True
    edge = [rest.pop()]
    while edge:
        near = rest.intersection(graph[edge.pop()])
        rest -= near
        edge.extend(near)
    return not rest


def derive(
    num_clients: int,
    *,
    corrupt: float,
    dropout: float,
    server: Server = "semi-honest",
    security_bits: int = 40,
    correctness_bits: int = 30,
) -> Degree:
    """The fewest neighbors, and a threshold, that keep a round private and let it finish.

    With C = floor(corrupt n) clients that collude and D = floor(dropout n) that drop out, each a random set, all of:

    - private: except with probability 2^-(security_bits + 1), no honest client has more than c colluders among its k
      neighbors; t > c, and 2 t > k + 1 + c where the server lies;
    - connected: except with the same probability, the ring without colluders and dropouts stays in one piece (it
      falls apart only if two separate stretches of k / 2 neighbors are all gone);
    - live: except with probability 2^-correctness_bits, t of the k neighbors and itself are left for every survivor,
      and t of the k neighbors for every dropout.

    Args:
      num_clients: n, who is present.
      corrupt: share of the clients that collude with the server, in [0, 1).
      dropout: share that drops out, in [0, 1).
      server: "semi-honest" or "lying".
      security_bits: how unlikely a leak is by the draw of the ring; more where a lying server tries many rings.
      correctness_bits: how unlikely it is that a round cannot be opened.

    Returns:
      A `Degree`. Its neighbors are num_clients - 1 where no smaller k is enough.

    Raises:
      ValueError: not even the full graph is enough, or a share is outside [0, 1).

    Source: Bell et al. (2020), https://eprint.iacr.org/2020/704, definition 3.1 and appendix; the stretches are counted
    in pairs.

    Example:
      >>> derive(1000, corrupt=0.1, dropout=0.1).neighbors < 60
      True
    """
    for name, value in (("corrupt", corrupt), ("dropout", dropout)):
        if not 0 <= value < 1:
            raise ValueError(f"`{name}` is {value!r}; expected a share in [0, 1).")
    # The nudge keeps 0.29 * 100 = 28.999... at 29.
    bad, gone = int(corrupt * num_clients + 1e-9), int(dropout * num_clients + 1e-9)
    for k in range(2, num_clients - 1, 2):
        if not _connected(num_clients, bad + gone, k, security_bits + 1):
            continue
        c = _colluders(num_clients, bad, k, security_bits + 1)
        t = (k + 1 + c) // 2 + 1 if server == "lying" else c + 1
        if t <= k + 1 and _live(num_clients, gone, k, t, correctness_bits):
            return Degree(k, t, c, bad)
    t = (num_clients + bad) // 2 + 1 if server == "lying" else bad + 1
    if num_clients - gone < t:
        raise ValueError(
            f"no graph of {num_clients} clients stands {bad} colluders and {gone} dropouts with a {server} server; "
            "expected fewer of them."
        )
    return Degree(num_clients - 1, t, bad, bad)


def _connected(n: int, removed: int, k: int, bits: int) -> bool:
    """Whether two stretches of k / 2 places are all gone with probability 2^-bits at most, whatever the places."""
    if removed < k:
        return True
    pairs = n * (n - k - 1)  # twice the number of pairs of stretches that do not touch
    return (pairs * comb(n - k, removed - k)) << bits <= 2 * comb(n, removed)


def _colluders(n: int, bad: int, k: int, bits: int) -> int:
    """The smallest c that more than c colluders near any honest client are as unlikely as asked."""
    allowed = comb(n - 1, k)
    above = 0
    for c in range(min(bad, k), -1, -1):
        # `above` counts the neighborhoods with more than c colluders.
        at_c = comb(bad, c) * comb(n - 1 - bad, k - c) if k - c <= n - 1 - bad else 0
        if ((above + at_c) * (n - bad)) << bits > allowed:
            return c
        above += at_c
    return 0


def _live(n: int, gone: int, k: int, t: int, bits: int) -> bool:
    """Whether every secret that is needed has t holders left, except with probability 2^-bits."""
    fails = (n - gone) * _below(n - 1, n - gone - 1, k, t - 1) + gone * _below(n - 1, n - gone, k, t)
    return fails << bits <= comb(n - 1, k)


def _below(total: int, marked: int, draws: int, limit: int) -> int:
    """How many of the sets of `draws` out of `total` have fewer than `limit` marked ones."""
    return sum(
        comb(marked, i) * comb(total - marked, draws - i)
        for i in range(max(0, draws - total + marked), min(limit, draws + 1))
    )
