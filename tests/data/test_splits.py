"""Splits of clients' own examples by label and by group, of clients by size, and folds: laws of each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite import partition


@st.composite
def populations(draw):
    """Clients with rows, labels and groups."""
    sizes = draw(st.lists(st.integers(1, 14), min_size=1, max_size=6))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    n, labels, groups = len(owner), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    features = {"row": np.arange(n), "y": rng.integers(labels, size=n) * 5 - 3, "group": rng.integers(groups, size=n)}
    return fl.Population.from_arrays(features, owner + 100)


def mine(population, client, feature="row"):
    return population.client(client)[feature].tolist()


@given(populations(), st.floats(0.01, 0.99), st.integers(0, 3))
def test_a_stratified_split_keeps_each_clients_share_of_each_label(population, fraction, seed):
    train, test = partition.train_test_split(population, test_fraction=fraction, by="stratified", seed=seed)
    plain = partition.train_test_split(population, test_fraction=fraction, seed=seed)[1]
    assert test.num_examples.tolist() == plain.num_examples.tolist()
    for i in range(population.num_clients):
        assert sorted(mine(train, i) + mine(test, i)) == mine(population, i)
        assert mine(test, i) == sorted(mine(test, i))
        every, held = (np.array(mine(p, i, "y")) for p in (population, test))
        for label in set(every.tolist()):
            share = len(held) * (every == label).mean()
            assert np.floor(share - 1e-9) <= (held == label).sum() <= np.ceil(share + 1e-9)


def test_what_is_left_over_goes_to_the_largest_remainder():
    # shares of two test examples of ten: 1, 0.6 and 0.4
    population = fl.Population.from_arrays({"y": [0] * 5 + [1] * 3 + [2] * 2}, [0] * 10)
    test = partition.train_test_split(population, test_fraction=0.2, by="stratified")[1]
    assert test.features["y"].tolist() == [0, 1]


def test_ties_of_a_stratified_split_go_to_the_frequent_label_and_then_to_chance():
    # shares of two test examples: 1.5, 0.5: equal remainders, so the frequent label has both
    y = np.tile([0, 0, 0, 1], 50)
    population = fl.Population.from_arrays({"y": y}, np.repeat(np.arange(50), 4))
    test = partition.train_test_split(population, test_fraction=0.5, by="stratified")[1]
    assert test.features["y"].sum() == 0
    # equal in every respect: a fair coin for each client; false alarm below 1e-6
    y = np.tile([0, 1], 400)
    population = fl.Population.from_arrays({"y": y}, np.repeat(np.arange(400), 2))
    test = partition.train_test_split(population, test_fraction=0.5, by="stratified")[1]
    assert abs(int(test.features["y"].sum()) - 200) < 50


@settings(max_examples=100)
@given(populations(), st.floats(0.01, 0.99), st.sampled_from(["random", "stratified"]), st.integers(0, 3))
def test_a_grouped_split_cuts_no_group_and_comes_near(population, fraction, by, seed):
    train, test = partition.train_test_split(population, test_fraction=fraction, by=by, group="group", seed=seed)
    wanted = partition.train_test_split(population, test_fraction=fraction)[1].num_examples
    for i in range(population.num_clients):
        assert sorted(mine(train, i) + mine(test, i)) == mine(population, i)
        left, right = (set(mine(p, i, "group")) for p in (train, test))
        assert not left & right
        sizes = np.unique(mine(population, i, "group"), return_counts=True)[1]
        assert left
        assert bool(right) == (len(sizes) > 1)
        if by == "random" and len(left) > 1 and len(right) > 1:
            assert abs(len(mine(test, i)) - wanted[i]) <= max(sizes) / 2


def test_of_two_groups_one_is_held_out_however_large():
    population = fl.Population.from_arrays({"group": [1, 1, 1, 2, 2, 2]}, [0] * 6)
    for fraction in (0.01, 0.99):
        train, test = partition.train_test_split(population, test_fraction=fraction, group="group")
        assert (train.num_examples.tolist(), test.num_examples.tolist()) == ([3], [3])


def test_groups_by_chance_are_every_group_alike():
    # 300 clients with 5 groups of 4: one is held out, each as often; false alarm below 1e-6 (chi-square of 4)
    groups = np.tile(np.repeat(np.arange(5), 4), 300)
    population = fl.Population.from_arrays({"group": groups}, np.repeat(np.arange(300), 20))
    test = partition.train_test_split(population, test_fraction=0.2, group="group")[1]
    assert test.num_examples.tolist() == [4] * 300
    counts = np.bincount(test.features["group"]) / 4
    assert ((counts - 60) ** 2 / 60).sum() < 35


def test_groups_and_labels_together_come_as_near_as_groups_allow():
    # pairs of groups with the mirrored mix: a fifth of each label is there to be had
    rng = np.random.default_rng(0)
    y, group, owner = [], [], []
    for client in range(40):
        for g in range(10):
            ones = int(rng.integers(0, 5))
            y += [1] * ones + [0] * (4 - ones)
            group += [g] * 4
            owner += [client] * 4
    population = fl.Population.from_arrays({"y": y, "group": group}, owner)

    def off(by):
        test = partition.train_test_split(population, by=by, group="group")[1]
        return np.mean([abs(test.client(i)["y"].sum() - population.client(i)["y"].sum() / 5) for i in range(40)])

    assert off("stratified") < 0.5 < off("random")


def test_by_time_the_last_groups_are_held_out():
    population = fl.Population.from_arrays({"g": [3, 3, 1, 1, 1, 2, 2, 9], "row": np.arange(8)}, [0] * 7 + [1])
    train, test = partition.train_test_split(population, test_fraction=0.3, by="time", group="g")
    assert mine(train, 0) == [0, 1, 2, 3, 4]
    assert mine(test, 0) == [5, 6]
    assert (mine(train, 1), mine(test, 1)) == ([7], [])
    train, test = partition.train_test_split(population, test_fraction=0.6, by="time", group="g")
    assert mine(test, 0) == [2, 3, 4, 5, 6]
    # a long group that is not taken ends it: nothing before it is held out
    long = fl.Population.from_arrays({"g": [0, 1, 1, 1, 1, 1, 1, 2], "row": np.arange(8)}, [0] * 8)
    assert mine(partition.train_test_split(long, test_fraction=0.3, by="time", group="g")[1], 0) == [7]
    mixed = fl.Population.from_arrays({"g": [1, 2, 1]}, ["b", "b", "b"])
    with pytest.raises(
        ValueError, match=r"of client 0 \('b'\) the groups of 'g' lie in one another; expected each gro"
    ):
        partition.train_test_split(mixed, by="time", group="g")


def test_splits_follow_the_seed_and_nothing_else():
    rng = np.random.default_rng(0)
    population = fl.Population.from_arrays(
        {"y": rng.integers(3, size=300), "g": rng.integers(30, size=300)}, rng.integers(5, size=300)
    )
    for options in ({"by": "stratified"}, {"group": "g"}, {"by": "stratified", "group": "g"}):
        made = [partition.train_test_split(population, **options, seed=seed)[1].fingerprint() for seed in (0, 0, 1)]
        assert made[0] == made[1] != made[2]
        kfold = [[t.fingerprint() for _, t in partition.folds(population, 3, **options, seed=s)] for s in (0, 0, 1)]
        assert kfold[0] == kfold[1] != kfold[2]


@given(populations(), st.integers(2, 5), st.sampled_from(["random", "stratified"]), st.sampled_from([None, "group"]))
def test_folds_test_every_example_once(population, k, by, group):
    made = partition.folds(population, k, by=by, group=group)
    assert len(made) == k
    tested = np.concatenate([test.features["row"] for _, test in made])
    assert sorted(tested.tolist()) == population.features["row"].tolist()
    for train, test in made:
        assert train.names.tolist() == test.names.tolist() == population.names.tolist()
        for i in range(population.num_clients):
            assert sorted(mine(train, i) + mine(test, i)) == mine(population, i)
            if group:
                assert not set(mine(train, i, "group")) & set(mine(test, i, "group"))
    if group is None:
        for i in range(population.num_clients):
            sizes = [len(mine(test, i)) for _, test in made]
            assert max(sizes) - min(sizes) <= 1
            for label in set(mine(population, i, "y")) if by == "stratified" else ():
                counts = [mine(test, i, "y").count(label) for _, test in made]
                assert max(counts) - min(counts) <= 1


def test_folds_of_groups_are_level():
    # 12 groups of 1 to 12 examples into 3: the largest first, each to the emptiest, which comes within 2 of 26
    groups = np.repeat(np.arange(12), np.arange(1, 13))
    population = fl.Population.from_arrays({"group": groups}, np.zeros(78, int))
    sizes = [int(test.num_examples[0]) for _, test in partition.folds(population, 3, group="group")]
    assert sum(sizes) == 78
    assert max(sizes) - min(sizes) <= 2


@given(st.integers(2, 12), st.integers(2, 5), st.integers(0, 5))
def test_folds_of_clients_set_each_aside_once(num_clients, k, seed):
    population = fl.Population.from_arrays({"y": np.arange(num_clients)}, np.arange(num_clients))
    if num_clients < k:
        with pytest.raises(
            ValueError, match=rf"`k` is {k}, and the population has {num_clients} clients; expected at mo"
        ):
            partition.folds(population, k, by="clients", seed=seed)
        return
    made = partition.folds(population, k, by="clients", seed=seed)
    assert sorted(np.concatenate([test.names for _, test in made]).tolist()) == list(range(num_clients))
    for train, test in made:
        assert not set(train.names.tolist()) & set(test.names.tolist())
        assert num_clients // k <= test.num_clients <= -(-num_clients // k)


@given(st.integers(2, 30), st.floats(0.01, 0.99), st.sampled_from(["size", "label"]), st.integers(0, 3))
def test_clients_that_are_set_aside_are_one_of_each_run(num_clients, fraction, stratify, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.permutation(num_clients) + 1
    owner = np.repeat(np.arange(num_clients), sizes)
    y = (np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) < np.repeat(sizes // 2, sizes)).astype(
        np.float32
    )
    population = fl.Population.from_arrays({"y": y + owner.astype(np.float32)}, owner)
    train, unseen = partition.holdout_clients(population, fraction=fraction, stratify=stratify, seed=seed)
    plain = partition.holdout_clients(population, fraction=fraction, seed=seed)[1]
    assert unseen.num_clients == plain.num_clients
    assert sorted(train.names.tolist() + unseen.names.tolist()) == list(range(num_clients))
    if stratify == "size":  # sizes are 1 to N: their runs are
        rank = np.sort(unseen.num_examples - 1)
    else:
        means = np.array([population.client(i)["y"].mean() for i in range(num_clients)])
        rank = np.sort(np.argsort(np.argsort(means, kind="stable"))[unseen.names])
    starts = np.arange(unseen.num_clients + 1) * num_clients // unseen.num_clients
    assert (starts[:-1] <= rank).all()
    assert (rank < starts[1:]).all()


def test_clients_by_label_are_in_a_row_by_their_most_frequent_one():
    y = np.repeat([[0, 0, 1], [1, 1, 0], [2, 2, 2], [0, 0, 0]], 5, axis=0)  # five clients of each mix
    population = fl.Population.from_arrays({"y": y.reshape(-1)}, np.repeat(np.arange(20), 3))
    for seed in range(5):
        unseen = partition.holdout_clients(population, fraction=0.2, stratify="label", seed=seed)[1]
        assert sorted((unseen.names // 5).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (
            lambda p: partition.train_test_split(p, by="label"),
            ValueError,
            r"`by` is 'label'; expected one of 'random', 's",
        ),
        (
            lambda p: partition.train_test_split(p, by="stratified", label="z"),
            ValueError,
            r"`label` is 'z', which is no fe",
        ),
        (
            lambda p: partition.train_test_split(p, by="stratified", label="x"),
            TypeError,
            r"`label` is 'x', which is float32",
        ),
        (
            lambda p: partition.train_test_split(p, group="xx"),
            TypeError,
            r"`group` is 'xx', which is int32\[2\]; expected w",
        ),
        (lambda p: partition.train_test_split(p, group=3), TypeError, r"`group` is 3; expected a str"),
        (lambda p: partition.folds(p, 1), ValueError, r"`k` is 1; expected at least 2 folds"),
        (
            lambda p: partition.folds(p, 2, by="clients", group="y"),
            ValueError,
            r"`group` is 'y', and by='clients' cuts no",
        ),
        (
            lambda p: partition.folds(p, 2, by="time"),
            ValueError,
            r"`by` is 'time'; expected one of 'random', 'stratified'",
        ),
        (lambda p: partition.folds({"y": 1}, 2), TypeError, r"`population` is .*; expected a Population"),
        (
            lambda p: partition.holdout_clients(p, fraction=0.5, stratify="y"),
            ValueError,
            r"`stratify` is 'y'; expected one",
        ),
        (
            lambda p: partition.holdout_clients(p, fraction=0.5, stratify="label", label="xx"),
            TypeError,
            r"`label` is 'xx', which is int32\[2\]; expected whole numbers \[n\], one an example",
        ),
    ],
)
def test_splits_say_what_does_not_fit(call, kind, text):
    features = {"x": np.zeros(4), "y": [0, 1, 0, 1], "xx": np.zeros((4, 2), int)}
    with pytest.raises(kind, match=text):
        call(fl.Population.from_arrays(features, ["a", "a", "b", "b"]))


def test_a_million_examples_of_a_hundred_thousand_clients_are_split_in_seconds():
    rng = np.random.default_rng(0)
    n = 1_000_000
    features = {"y": rng.integers(10, size=n).astype(np.int8), "group": rng.integers(4, size=n).astype(np.int8)}
    offsets = np.arange(0, n + 1, 10, dtype=np.int32)
    population = fl.Population(features, offsets, 10)
    test = partition.train_test_split(population, by="stratified")[1]
    assert test.num_examples.tolist() == [2] * 100_000
    grouped = partition.train_test_split(population, group="group")[1]
    assert 0.15 < grouped.num_examples.sum() / n < 0.35


def windows(seed=0, clients=6, recordings=12, length=20):
    """Windows of recordings: what a person does shows a little, and the day of a recording much more."""
    rng = np.random.default_rng(seed)
    doing = rng.normal(size=(3, 8))
    client, recording = (a.reshape(-1) for a in np.mgrid[:clients, :recordings])
    y = rng.integers(3, size=len(client))
    day = rng.normal(size=(len(client), 8))
    x = np.repeat(doing[y] + day, length, axis=0) + 0.3 * rng.normal(size=(len(client) * length, 8))
    features = {"x": x, "y": np.repeat(y, length), "recording": np.repeat(recording, length)}
    return fl.Population.from_arrays(features, np.repeat(client, length))


def nearest_neighbor(train, test):
    """The accuracy of each test example's nearest training example at its client."""
    right = []
    for i in range(train.num_clients):
        known, asked = train.client(i), test.client(i)
        distance = ((asked["x"][:, None] - known["x"][None]) ** 2).sum(axis=-1)
        right += (known["y"][distance.argmin(axis=1)] == asked["y"]).tolist()
    return float(np.mean(right))


def test_windows_at_random_promise_what_new_recordings_do_not_keep():
    population = windows()
    at_random = nearest_neighbor(*partition.train_test_split(population, by="stratified"))
    apart = nearest_neighbor(*partition.train_test_split(population, by="stratified", group="recording"))
    assert at_random > 0.95
    assert apart < 0.85
