"""Whole rounds: for every pattern of who leaves when, the exact sum of those who are left, or a refusal where it has to be."""

import itertools
import math

import numpy as np
import pytest
import secagg_stand_ins

from fedjaxlite.privacy import secagg
from fedjaxlite.privacy.secagg import errors, graph, masking, messages
from fedjaxlite.privacy.secagg.parties import driver

FAST = secagg_stand_ins.OPEN._replace(prg=secagg_stand_ins.short_prg)


def survivors_or_none(neighbors, p, leaves, stages):
    """What has to come out, worked out from the rules alone: who is in the sum, or None where a round has to be refused.

    `neighbors` is {id: ids} of those who showed keys.
    """
    alive = {s: {u for u in neighbors if u not in leaves or stages.index(leaves[u]) > stages.index(s)} for s in stages}
    if len(neighbors) < max(p.threshold, p.min_survivors):
        return None
    sharing = alive["share"]
    while any(len(sharing & set(neighbors[u])) + 1 < p.threshold for u in sharing):
        sharing = {u for u in sharing if len(sharing & set(neighbors[u])) + 1 >= p.threshold}
    left = sharing & alive["mask"]
    if len(left) < p.min_survivors or not graph.connected(neighbors, left):
        return None
    holders = {u: {*neighbors[u], u} for u in neighbors}
    answering = left & alive["reveal"]
    if p.server == "lying" and len(left & alive["confirm"]) < p.quorum(len(neighbors)):
        return None
    needed = left | {u for u in sharing - left if left & set(neighbors[u])}
    if any(len(holders[u] & answering) < p.threshold for u in needed):
        return None
    return tuple(sorted(left))


def plays_as_it_should(p, vectors, leaves, primitives, known=None) -> bool:
    """Plays a round and holds it to the rules; whether it gave a sum."""
    rosters = {}

    def look(message, to):
        if isinstance(message, messages.Roster):
            rosters[to] = message
        return (message,)

    stages = driver.stages(p)
    try:
        played = secagg.run_in_memory(
            vectors, p, leaves=leaves, primitives=primitives, network=look, known=known, random=RANDOM
        )
    except errors.TooFew:
        played = None
    present = sorted(u for u in vectors if leaves.get(u) != stages[0])
    roster = next(iter(rosters.values()), None)
    neighbors = graph.ring(present, p.neighbors, roster.seed if roster else b"")
    expected = survivors_or_none(neighbors, p, leaves, stages)
    if expected is None:
        assert played is None, leaves
        return False
    assert played is not None, leaves
    assert played.result.survivors == expected, leaves
    np.testing.assert_array_equal(played.result.total, secagg_stand_ins.total(vectors, expected))
    assert not played.refused
    assert not played.result.refusals
    return True


RANDOM = secagg_stand_ins.source(3)


@pytest.mark.parametrize(
    ("n", "neighbors", "threshold", "server"),
    [
        (3, None, 2, "semi-honest"),
        (4, None, 2, "semi-honest"),
        (4, None, 3, "lying"),
        (4, 2, 2, "semi-honest"),
        pytest.param(5, None, 3, "semi-honest", marks=pytest.mark.slow),
        pytest.param(5, 2, 2, "semi-honest", marks=pytest.mark.slow),
        pytest.param(5, 2, 3, "semi-honest", marks=pytest.mark.slow),
    ],
)
def test_every_pattern_of_dropouts_gives_the_exact_sum_or_a_refusal(n, neighbors, threshold, server):
    p = secagg.parameters(
        num_clients=n, length=2, neighbors=neighbors, threshold=threshold, min_survivors=2, server=server
    )
    vectors = secagg_stand_ins.vectors(range(n), 2)
    known = secagg.identities(vectors, primitives=FAST, random=RANDOM)
    choices = (None, *driver.stages(p))
    opened = 0
    for pattern in itertools.product(choices, repeat=n):
        leaves = {u: stage for u, stage in enumerate(pattern) if stage}
        opened += plays_as_it_should(p, vectors, leaves, FAST, known)
    assert 0 < opened < len(choices) ** n


def counts(total: int, parts: int):
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in counts(total - first, parts - 1):
            yield (first, *rest)


@pytest.mark.slow
def test_every_count_of_dropouts_at_every_stage_with_real_keys():
    p = secagg.parameters(num_clients=8, length=5, threshold=3, min_survivors=2)
    vectors = secagg_stand_ins.vectors(range(8), 5)
    stages = driver.stages(p)
    patterns = list(counts(8, len(stages) + 1))
    assert len(patterns) == 495
    draws = np.random.default_rng(4)
    opened = 0
    for pattern in patterns:
        order = draws.permutation(8).tolist()
        leaves = {}
        for stage, count in zip(stages, pattern[1:], strict=True):
            leaves |= {order.pop(): stage for _ in range(count)}
        opened += plays_as_it_should(p, vectors, leaves, None)
    # Those with three or more that stay to the end: five are free to stay or to leave at one of four stages.
    assert opened == math.comb(5 + 4, 4) == 126


@pytest.mark.parametrize("server", ["semi-honest", "lying"])
@pytest.mark.parametrize("neighbors", [None, 4])
def test_real_keys_and_dropouts_at_every_stage(server, neighbors):
    p = secagg.parameters(num_clients=9, length=33, neighbors=neighbors, min_survivors=3, server=server)
    vectors = secagg_stand_ins.vectors([3, 5, 8, 13, 21, 34, 55, 89, 2**32 - 3], 33)
    leaves = {3: "advertise", 21: "share"} if neighbors is None else {}
    leaves |= {89: "mask", 5: "reveal"}
    played = secagg.run_in_memory(vectors, p, leaves=leaves, round_number=2**64 - 1)
    expected = sorted(set(vectors) - {u for u, stage in leaves.items() if stage != "reveal"})
    assert played.result.survivors == tuple(expected)
    assert played.result.dropped == (89,)
    np.testing.assert_array_equal(played.result.total, secagg_stand_ins.total(vectors, expected))


def test_signed_numbers_come_back_signed():
    p = secagg.parameters(num_clients=3, length=3, min_survivors=3)
    numbers = {u: np.array([-5 - u, 0, 2**20 + u], np.int32) for u in range(3)}
    result = secagg.run_in_memory({u: x.view(np.uint32) for u, x in numbers.items()}, p).result
    assert result.total.view(np.int32).tolist() == [-18, 0, 3 * 2**20 + 3]


def test_the_same_words_of_the_mask_generator_are_used_whatever_the_length():
    key = masking.stream_key(b"k" * 32, 5, masking.PAIR)
    whole = masking.chacha20_words(key, 0, 100)
    for offset, n in ((0, 1), (1, 15), (15, 2), (16, 16), (31, 69), (99, 1), (50, 0)):
        np.testing.assert_array_equal(masking.chacha20_words(key, offset, n), whole[offset : offset + n])


@pytest.mark.parametrize("server", ["semi-honest", "lying"])
@pytest.mark.parametrize("neighbors", [None, 2, 4])
@pytest.mark.parametrize("leaves", [{}, {4: "mask"}])
def test_the_bytes_on_the_wire_are_those_of_the_formula(server, neighbors, leaves):
    p = secagg.parameters(
        num_clients=7,
        length=11,
        neighbors=neighbors,
        threshold=2 if neighbors == 2 else None,
        min_survivors=2,
        server=server,
    )
    up, down, number = dict.fromkeys(range(7), 0), dict.fromkeys(range(7), 0), 0

    def count(message, to):
        nonlocal number
        number += 1
        size = len(messages.encode(message))
        if to == errors.SERVER:
            up[message.sender] += size
        else:
            down[to] += size
        return (message,)

    vectors = secagg_stand_ins.vectors(range(7), 11)
    secagg.run_in_memory(vectors, p, primitives=FAST._replace(prg=secagg_stand_ins.prg), network=count, leaves=leaves)
    formula = secagg.traffic(p, 7)
    stay = [u for u in range(7) if u not in leaves]
    if leaves:
        assert all(up[u] <= formula.up and down[u] <= formula.down for u in range(7))
        return
    assert {up[u] for u in stay} == {formula.up}
    assert {down[u] for u in stay} == {formula.down}
    assert number == 7 * (9 if server == "lying" else 7)
    assert formula.vector == 4 * 11


def test_a_survivor_graph_in_two_pieces_is_refused():
    # 0 .. 7 on a ring of two neighbors each; with two opposite ones gone, two arcs of three share no mask.
    p = secagg.parameters(num_clients=8, length=1, neighbors=2, threshold=2, min_survivors=2)
    vectors = secagg_stand_ins.vectors(range(8), 1)
    rosters = []

    def two_opposite_leave(message, to):
        if isinstance(message, messages.Roster):
            rosters.append(message)
        if isinstance(message, messages.MaskedInput):
            near = graph.ring(range(8), 2, rosters[0].seed)
            around = [0, near[0][0]]
            while len(around) < 8:
                around += [v for v in near[around[-1]] if v not in around][:1]
            if message.sender in (around[0], around[4]):
                return ()
        return (message,)

    with pytest.raises(errors.TooFew, match="fall into groups that share no masks"):
        secagg.run_in_memory(vectors, p, primitives=FAST, network=two_opposite_leave)


def test_fewer_than_the_smallest_sum_are_refused():
    p = secagg.parameters(num_clients=6, length=1, threshold=2, min_survivors=5)
    vectors = secagg_stand_ins.vectors(range(6), 1)
    assert secagg.run_in_memory(vectors, p, leaves={0: "mask"}, primitives=FAST).result.survivors == (1, 2, 3, 4, 5)
    with pytest.raises(errors.TooFew, match="4 clients sent a vector; expected at least 5"):
        secagg.run_in_memory(vectors, p, leaves={0: "mask", 1: "mask"}, primitives=FAST)


def test_a_secret_with_too_few_holders_closes_the_round_before_any_share_is_asked_for():
    asked = []

    def network(message, to):
        asked.extend([message] * isinstance(message, messages.UnmaskRequest))
        return (message,)

    p = secagg.parameters(num_clients=6, length=1, threshold=4, min_survivors=2)
    vectors = secagg_stand_ins.vectors(range(6), 1)
    leaves = dict.fromkeys((1, 3, 5), "mask")
    with pytest.raises(
        errors.TooFew, match="3 holders are left of the secret of the own mask of client 0; expected at least 4"
    ):
        secagg.run_in_memory(vectors, p, leaves=leaves, primitives=FAST, network=network)
    assert not asked
    # On a ring of two neighbors, a dropout has no third holder.
    p = secagg.parameters(num_clients=6, length=1, neighbors=2, threshold=3, min_survivors=2)
    with pytest.raises(errors.TooFew, match="2 holders are left of the secret of the .* expected at least 3"):
        secagg.run_in_memory(vectors, p, leaves={3: "mask"}, primitives=FAST, network=network)
    assert not asked
