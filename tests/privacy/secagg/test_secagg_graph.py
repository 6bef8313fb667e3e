"""The ring and its parameters: symmetric, drawn by the keys, and large enough by exact counts."""

import itertools
import math

import pytest
from scipy import stats

from fedjaxlite.privacy import secagg
from fedjaxlite.privacy.secagg import graph


@pytest.mark.parametrize(("n", "k"), [(5, 2), (9, 4), (10, 8), (50, 16)])
def test_the_ring_is_symmetric_and_regular(n, k):
    neighbors = graph.ring(range(100, 100 + n), k, b"seed")
    assert all(len(set(near)) == k and u not in near for u, near in neighbors.items())
    assert all(u in neighbors[v] for u, near in neighbors.items() for v in near)
    assert all(near == tuple(sorted(near)) for near in neighbors.values())


@pytest.mark.parametrize("k", [3, 4, 10])
def test_everyone_is_a_neighbor_where_there_are_no_more_than_k_others(k):
    assert graph.ring([1, 2, 3, 4], k, b"any") == {u: tuple(v for v in (1, 2, 3, 4) if v != u) for u in (1, 2, 3, 4)}


def test_every_ring_is_as_likely_as_any_other():
    # 5 on a ring: 12 rings. Chi-square over 3000 seeds, which are fixed: p below 1e-4 would be a false alarm once in 10^4.
    rings = {}
    for i in range(3000):
        seen = tuple(graph.ring(range(5), 2, i.to_bytes(4)).items())
        rings[seen] = rings.get(seen, 0) + 1
    assert len(rings) == 12
    assert stats.chisquare(list(rings.values())).pvalue > 1e-4


def test_the_ring_falls_apart_only_where_two_stretches_are_gone():
    for n, k in ((8, 2), (9, 4)):
        for removed in range(n - 1):
            gone = range(removed)
            neighbors = graph.ring(range(n), k, b"seed")
            order = _around(neighbors, k)
            for chosen in itertools.combinations(range(n), len(gone)):
                left = [order[i] for i in range(n) if i not in chosen]
                stretches = _stretches(n, chosen, k // 2)
                assert graph.connected(neighbors, left) == (stretches < 2), (chosen, k)


def _around(neighbors, k):
    """The ring's order, found from the relation: next to each other are those who share the most neighbors."""
    if k == 2:
        order = [0, neighbors[0][0]]
        while len(order) < len(neighbors):
            order += [v for v in neighbors[order[-1]] if v not in order][:1]
        return order
    for order in itertools.permutations(range(1, len(neighbors))):
        order = (0, *order)
        n = len(order)
        if all(order[(i + s) % n] in neighbors[order[i]] for i in range(n) for s in (1, 2)):
            return order
    raise AssertionError("no ring")


def _stretches(n, gone, least):
    """How many stretches of at least `least` places in a row are gone, with somebody left between them."""
    left = [i for i in range(n) if i not in gone]
    gaps = [(left[(j + 1) % len(left)] - left[j] - 1) % n for j in range(len(left))]
    return sum(gap >= least for gap in gaps)


def test_the_seed_is_a_hash_of_all_keys_of_the_round():
    keys = [(u, bytes([u]) * 32, bytes([u + 100]) * 32) for u in range(4)]
    first = graph.seed(1, keys)
    assert first == graph.seed(1, reversed(keys))
    assert (
        len(
            {first, graph.seed(2, keys), graph.seed(1, keys[:3]), graph.seed(1, [*keys[:3], (3, b"x" * 32, b"y" * 32)])}
        )
        == 4
    )


# (clients, colluders, dropouts, server, neighbors, threshold) of another implementation, for 40 bits of privacy and 20
# of liveness: google-parfait/federated-compute, fcp/secagg/server/graph_parameter_finder_test.cc. It draws a client's
# neighbors out of all n clients, itself among them, and gives a client no share of its own secrets; the counts here are
# exact, so they may be lower, never by much.
OTHERS = [
    (1000, 0.33, 0.33, "semi-honest", 286, 150),
    (100, 0.33, 0.33, "semi-honest", 68, 34),
    (100, 0.05, 0.33, "semi-honest", 28, 6),
    (1000, 0.05, 0.33, "semi-honest", 72, 24),
    (1000, 0.33, 0.05, "semi-honest", 78, 60),
    (100, 0.3, 0.3, "lying", 92, 62),
    (100, 0.05, 0.33, "lying", 72, 39),
    (1000, 0.05, 0.33, "lying", 398, 223),
    (1000, 0.33, 0.05, "lying", 132, 109),
]


@pytest.mark.parametrize(("n", "corrupt", "dropout", "server", "k", "t"), OTHERS)
def test_the_number_of_neighbors_is_that_of_another_implementation_or_a_little_less(n, corrupt, dropout, server, k, t):
    found = graph.derive(n, corrupt=corrupt, dropout=dropout, server=server, correctness_bits=20)
    assert k - max(2, 0.022 * k) <= found.neighbors <= k
    assert abs(found.threshold - t) <= max(1, 0.015 * t)


@pytest.mark.parametrize("server", ["semi-honest", "lying"])
@pytest.mark.parametrize(
    ("n", "corrupt", "dropout"), [(100, 0.1, 0.1), (300, 0.2, 0.1), (1000, 0.05, 0.05), (100, 0.0, 0.4)]
)
def test_the_derived_parameters_keep_their_promises_and_fewer_neighbors_do_not(n, corrupt, dropout, server):
    found = graph.derive(n, corrupt=corrupt, dropout=dropout, server=server)
    bad, gone = round(corrupt * n), round(dropout * n)

    def promises(k, c, t):
        """The probabilities of the three failures, by scipy."""
        exposed = (n - bad) * stats.hypergeom(n - 1, bad, k).sf(c)
        stranded = (n - gone) * stats.hypergeom(n - 1, n - gone - 1, k).cdf(t - 2)
        stranded += gone * stats.hypergeom(n - 1, n - gone, k).cdf(t - 1)
        apart = n * (n - k - 1) / 2 * stats.hypergeom(n, bad + gone, k).pmf(k)
        return exposed <= 2.0**-41 and apart <= 2.0**-41 and stranded <= 2.0**-30

    rule = lambda k, c: (k + 1 + c) // 2 + 1 if server == "lying" else c + 1  # noqa: E731
    k, c, t = found.neighbors, found.colluders, found.threshold
    assert t == rule(k, c)
    assert promises(k, c, t)
    assert not any(promises(k - 2, c, rule(k - 2, c)) for c in range(k))
    p = secagg.parameters(
        num_clients=n,
        length=1,
        neighbors=k,
        threshold=t,
        colluders=c,
        cohort_colluders=bad,
        server=server,
        min_survivors=bad + 2,
    )
    assert (p.neighbors, p.threshold) == (k, t)


def test_the_bound_on_a_ring_that_falls_apart_holds_for_every_set_of_removed_places():
    for n, k in ((9, 4), (10, 4), (11, 6)):
        for removed in range(k, n - 1):
            sets = list(itertools.combinations(range(n), removed))
            apart = sum(_stretches(n, gone, k // 2) >= 2 for gone in sets)
            bound = n * (n - k - 1) * math.comb(n - k, removed - k) / 2
            assert apart <= bound


def test_the_full_graph_is_taken_where_no_ring_is_enough_and_too_many_enemies_are_refused():
    assert graph.derive(5, corrupt=0.2, dropout=0.2, server="lying") == graph.Degree(4, 4, 1, 1)
    with pytest.raises(
        ValueError, match="no graph of 12 clients stands 4 colluders and 4 dropouts with a lying server"
    ):
        graph.derive(12, corrupt=0.34, dropout=0.34, server="lying")
    with pytest.raises(ValueError, match="`corrupt` is 1.0; expected a share in"):
        graph.derive(12, corrupt=1.0, dropout=0)


def test_a_share_of_clients_is_not_rounded_down_by_floating_point():
    assert graph.derive(100, corrupt=0.29, dropout=0).cohort_colluders == 29  # 0.29 * 100 is 28.999...


def test_more_security_takes_more_neighbors():
    ks = [graph.derive(1000, corrupt=0.2, dropout=0.1, security_bits=bits).neighbors for bits in (20, 40, 80)]
    assert ks == sorted(set(ks))
