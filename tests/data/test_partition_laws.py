"""Which law a partition follows, beside procedures of the same purpose in Flower Datasets.

Those are written here in numpy, from their published descriptions. Seeds are fixed; a false alarm has the probability
that a test states.
"""

import numpy as np
import pytest
from scipy import stats

from fedjaxlite import partition

SEEDS = 200
LABELS = np.random.default_rng(7).permutation(np.repeat(np.arange(10), [30, 40, 50, 60, 60, 60, 60, 70, 80, 90]))
CLIENTS = 8


def table(owner, num_clients=CLIENTS):
    """`[N, C]` how many of each class a client has."""
    counts = np.zeros((num_clients, 10), int)
    np.add.at(counts, (owner[owner >= 0], LABELS[owner >= 0]), 1)
    return counts


def cut_by_class(seed, alpha, *, balancing=False):
    """Each class cut at the floors of a cumulated Dirichlet draw; with `balancing`, clients above the mean get none."""
    rng, counts = np.random.default_rng(seed), np.zeros((CLIENTS, 10), int)
    for c in range(10):
        shares = rng.dirichlet(np.full(CLIENTS, alpha))
        if balancing:
            shares = np.where(counts.sum(1) > len(LABELS) / CLIENTS, 0.0, shares)
            shares = shares / shares.sum()
        of_class = (c == LABELS).sum()
        ends = np.append(np.floor(np.cumsum(shares)[:-1] * of_class), of_class)
        counts[:, c] = np.diff(ends, prepend=0)
    return counts


def one_at_a_time(seed, alpha, sizes):
    """A client that is not full is drawn, then a class of its mix; a class that has run out leaves everybody's mix."""
    rng = np.random.default_rng(seed)
    mixes, left = rng.dirichlet(np.full(10, alpha), len(sizes)), np.bincount(LABELS, minlength=10)
    counts, room = np.zeros((len(sizes), 10), int), np.array(sizes)
    while room.sum():
        client = rng.choice(np.flatnonzero(room))
        chances = np.where(left > 0, mixes[client], 0.0)
        chances = chances if chances.sum() > 0 else (left > 0).astype(float)
        c = rng.choice(10, p=chances / chances.sum())
        counts[client, c] += 1
        room[client] -= 1
        left[c] -= 1
    return counts


# One number a seed, so that seeds are independent draws.
STATISTICS = {
    "largest client": lambda counts: counts.sum(1).max(),
    "first client": lambda counts: counts[0].sum(),
    "classes held": lambda counts: (counts > 0).sum() / len(counts),
    "evenness within clients": lambda counts: ((counts / np.maximum(counts.sum(1, keepdims=True), 1)) ** 2).sum(),
    "largest part of a class": lambda counts: (counts / counts.sum(0)).max(0).mean(),
}


def pvalues(ours, theirs):
    """Of two-sample Kolmogorov-Smirnov tests, one for each statistic."""
    return {
        name: stats.ks_2samp([of(t) for t in ours], [of(t) for t in theirs], method="asymp").pvalue
        for name, of in STATISTICS.items()
    }


@pytest.mark.parametrize("alpha", [0.1, 0.5, 5.0])
def test_dirichlet_has_the_law_of_cutting_every_class_by_a_dirichlet_draw(alpha):
    # Flower's DirichletPartitioner(self_balancing=False, min_partition_size=0). Fifteen tests at 1e-4 each.
    ours = [table(partition.dirichlet(CLIENTS, alpha=alpha, min_size=0, seed=s)({"y": LABELS})) for s in range(SEEDS)]
    found = pvalues(ours, [cut_by_class(seed, alpha) for seed in range(SEEDS)])
    assert min(found.values()) > 1e-4, found


def test_dirichlet_has_another_law_than_the_balanced_one():
    # Flower's self_balancing=True keeps clients above the mean size from growing.
    ours = [table(partition.dirichlet(CLIENTS, alpha=0.5, min_size=0, seed=s)({"y": LABELS})) for s in range(SEEDS)]
    theirs = [cut_by_class(seed, 0.5, balancing=True) for seed in range(SEEDS)]
    assert pvalues(ours, theirs)["largest client"] < 1e-9
    largest = [np.mean([t.sum(1).max() for t in tables]) for tables in (ours, theirs)]
    assert largest[0] > 1.1 * largest[1]


def test_dirichlet_fills_up_where_a_redraw_would_condition():
    # A client below min_size takes from the largest here, so that the draw of everybody else is what it was.
    free = table(partition.dirichlet(CLIENTS, alpha=0.1, min_size=0, seed=3)({"y": LABELS})).sum(1)
    filled = table(partition.dirichlet(CLIENTS, alpha=0.1, min_size=30, seed=3)({"y": LABELS})).sum(1)
    short = free < 30
    assert short.any()
    assert (filled[short] == 30).all()
    assert (filled[~short] == free[~short]).sum() >= (~short).sum() - short.sum()


def test_fixed_sizes_serve_whole_clients_where_another_law_draws_one_example_at_a_time():
    # Flower's InnerDirichletPartitioner. Who is served first here takes its whole mix, where all clients together would
    # have exhausted its classes: clients hold fewer classes. With as many examples as are asked for, 3.0 against 4.6.
    split = lambda seed: partition.dirichlet_fixed_size(CLIENTS, alpha=0.05, seed=seed)({"y": LABELS})  # noqa: E731
    ours = [table(split(seed)) for seed in range(40)]
    theirs = [one_at_a_time(seed, 0.05, [75] * CLIENTS) for seed in range(40)]
    for counts in (*ours, *theirs):
        assert (counts.sum(1) == 75).all()
        assert (counts.sum(0) == np.bincount(LABELS)).all()
    held = [np.mean([STATISTICS["classes held"](t) for t in tables]) for tables in (ours, theirs)]
    assert held[0] < 0.8 * held[1]
    assert pvalues(ours, theirs)["classes held"] < 1e-9


def test_k_classes_spreads_the_classes_where_independent_choices_leave_some_out():
    # Flower's PathologicalPartitioner, class_assignment_mode="random". That 10 of 10 classes are used by 8 independent
    # choices of 2 has probability 0.09; that it happens in half of 200 seeds, none worth naming.
    rng = np.random.default_rng(0)
    independent = [
        np.bincount(np.concatenate([rng.choice(10, 2, replace=False) for _ in range(CLIENTS)]), minlength=10)
        for _ in range(SEEDS)
    ]
    assert np.mean([(shared == 0).any() for shared in independent]) > 0.5
    for seed in range(20):
        owner = partition.k_classes(CLIENTS, k=2, seed=seed)({"y": LABELS})
        shared = (table(owner) > 0).sum(0)
        assert shared.min() >= 1
        assert shared.max() - shared.min() <= 1
        assert (owner >= 0).all()


def test_label_shards_gives_everything_away_where_shards_of_one_size_leave_a_rest():
    # Flower's ShardPartitioner(num_shards_per_node=2): shards of floor(600 / 14) examples in the stored order of a class.
    size = len(LABELS) // 14
    owner = partition.label_shards(7, shards_per_client=2)({"y": LABELS})
    assert 14 * size < len(LABELS)
    assert (owner >= 0).all()
    assert set(np.bincount(owner).tolist()) <= {2 * size, 2 * size + 1, 2 * size + 2}
    of_class = owner[LABELS == 9]
    assert (np.diff(of_class) != 0).sum() > 10, "a client's part of a class lies scattered over its stored order"
