import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

import fedjaxlite as fl
from fedjaxlite import partition
from fedjaxlite.datasets import federate
from fedjaxlite.partition import draws

Y = np.arange(600) % 10

MAKERS = {
    "iid": lambda n, seed: partition.iid(n, seed=seed),
    "dirichlet 1e-6": lambda n, seed: partition.dirichlet(n, alpha=1e-6, seed=seed),
    "dirichlet 0.3": lambda n, seed: partition.dirichlet(n, alpha=0.3, seed=seed),
    "dirichlet 1e6": lambda n, seed: partition.dirichlet(n, alpha=1e6, seed=seed),
    "fixed size 1e-6": lambda n, seed: partition.dirichlet_fixed_size(n, alpha=1e-6, seed=seed),
    "fixed size 0.3": lambda n, seed: partition.dirichlet_fixed_size(n, alpha=0.3, seed=seed),
    "fixed size 1e6": lambda n, seed: partition.dirichlet_fixed_size(n, alpha=1e6, seed=seed),
    "label_shards": lambda n, seed: partition.label_shards(n, shards_per_client=1, seed=seed),
    "quantity dirichlet": lambda n, seed: partition.quantity(n, alpha=1e-6, seed=seed),
    "quantity lognormal": lambda n, seed: partition.quantity(n, distribution="lognormal", sigma=5.0, seed=seed),
    "quantity power_law": lambda n, seed: partition.quantity(n, distribution="power_law", exponent=40.0, seed=seed),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), num_clients=st.integers(1, 20), seed=st.integers(0, 9)
)
def test_every_example_has_one_owner_and_no_client_is_empty(make, labels, num_clients, seed):
    assume(num_clients <= len(labels))
    owner = make(num_clients, seed)({"y": np.array(labels)})
    assert owner.shape == (len(labels),)
    assert owner.dtype == np.int32
    assert sorted(set(owner.tolist())) == list(range(num_clients))


@pytest.mark.parametrize("make", [*MAKERS.values(), lambda n, seed: partition.k_classes(n, k=2, seed=seed)])
def test_the_seed_decides_the_split(make):
    first, again, other = make(12, 3)({"y": Y}), make(12, 3)({"y": Y}), make(12, 4)({"y": Y})
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_more_clients_than_examples_is_an_error_that_says_so(make):
    with pytest.raises(ValueError, match=r"num_clients=601.*but there are 600 examples; ask for fewer clients"):
        make(601, 0)({"y": Y})


def test_min_size_is_kept_and_more_than_there_is_refused():
    for make in (partition.dirichlet, partition.quantity):
        owner = make(20, alpha=1e-6, min_size=7, seed=1)({"y": Y})
        assert np.bincount(owner).min() >= 7
        with pytest.raises(ValueError, match="num_clients=20 with at least 31 examples each, but there are 600"):
            make(20, alpha=1.0, min_size=31)({"y": Y})
        with pytest.raises(ValueError, match="`min_size` is -1; expected an int of at least 0"):
            make(20, alpha=1.0, min_size=-1)


def test_min_size_zero_allows_empty_clients():
    split = partition.dirichlet(20, alpha=1e-6, min_size=0)
    assert len(set(split({"y": Y}).tolist())) <= 10
    population = federate({"y": Y}, split)
    assert population.num_clients == 20
    assert (population.num_examples == 0).sum() >= 10


# --- what each one promises -------------------------------------------------------------------------------------------


def test_iid_is_equal_to_within_one_and_follows_sizes():
    assert sorted(set(np.bincount(partition.iid(7)({"y": Y})).tolist())) == [85, 86]
    assert np.bincount(partition.iid(3, sizes=[1, 99, 500])({"y": Y})).tolist() == [1, 99, 500]
    assert federate({"y": Y[:3]}, partition.iid(2, sizes=[0, 3])).num_examples.tolist() == [0, 3]
    with pytest.raises(ValueError, match="`sizes` sums to 4, but there are 600 examples"):
        partition.iid(2, sizes=[1, 3])({"y": Y})
    with pytest.raises(ValueError, match=r"`sizes` is int64\[3\]; expected 2 ints of at least 0"):
        partition.iid(2, sizes=[1, 2, 3])


def test_iid_does_not_follow_the_stored_order():
    # False alarm 1e-4: the sum of a random half of 0..599 is normal with standard deviation sqrt(300 * 300 * 601 / 12).
    rows = np.flatnonzero(partition.iid(2, seed=0)({"y": Y}) == 0)
    assert abs(rows.sum() - 300 * 299.5) < stats.norm.isf(0.5e-4) * np.sqrt(300 * 300 * 601 / 12)


def label_distance(split, labels=Y):
    return fl.heterogeneity(federate({"y": labels}, split)).total_variation_weighted


def test_smaller_alpha_is_more_skewed():
    for make in (partition.dirichlet, partition.dirichlet_fixed_size):
        distances = [label_distance(make(10, alpha=alpha, seed=0)) for alpha in (1e-6, 0.1, 1.0, 10.0, 1e6)]
        assert distances == sorted(distances, reverse=True)
        assert distances[0] > 0.5
        assert distances[-1] < 0.2


def test_dirichlet_at_its_ends():
    near_iid = np.zeros((10, 10), int)
    np.add.at(near_iid, (partition.dirichlet(10, alpha=1e6)({"y": Y}), Y), 1)
    assert abs(near_iid - 6).max() <= 1
    owner = partition.dirichlet(10, alpha=1e-6, min_size=0)({"y": Y})
    assert all(len(set(owner[c == Y].tolist())) == 1 for c in range(10))


def test_dirichlet_draws_have_the_right_distribution():
    # Each share of Dirichlet(a, ..., a) over k is Beta(a, (k - 1) a). Four tests at 1e-4 each.
    rng = np.random.default_rng(0)
    for alpha in (0.05, 0.3, 1.0, 20.0):
        shares = np.array([draws.dirichlet(rng, alpha, 5) for _ in range(3000)])
        assert np.isclose(shares.sum(axis=1), 1).all()
        # the smallest shares underflow to 0 in any representation; a floor on both sides compares the rest
        floor = 1e-12
        observed = np.maximum(shares[:, 0], floor)
        expected = np.maximum(stats.beta(alpha, 4 * alpha).rvs(3000, random_state=1), floor)
        assert stats.ks_2samp(observed, expected).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [1e-300, 1e-6, 1e6, 1e300])
def test_dirichlet_draws_are_finite_at_any_concentration(alpha):
    shares = draws.dirichlet(np.random.default_rng(0), alpha, 50)
    assert np.isfinite(shares).all()
    assert np.isclose(shares.sum(), 1)
    assert shares.max() > 0.99 if alpha < 1 else np.allclose(shares, 1 / 50, rtol=0.01)


def test_filling_up_moves_no_more_than_is_missing():
    owner = np.array([0] * 50 + [1] * 30 + [2] * 2)
    filled = draws.fill_up(owner, 5, 6, np.random.default_rng(0))
    assert (filled != owner).sum() == 4 + 6 + 6
    assert np.bincount(filled).tolist() == [34, 30, 6, 6, 6]
    np.testing.assert_array_equal(draws.fill_up(owner, 3, 2, np.random.default_rng(0)), owner)


def test_rounded_keeps_proportions_and_the_sum():
    assert draws.rounded(np.array([0.5, 0.25, 0.25]), 10).tolist() == [5, 3, 2]
    assert draws.rounded(np.array([3.0, 1.0]), 0).tolist() == [0, 0]


def test_fixed_sizes_are_as_asked_and_the_rest_is_left_out():
    owner = partition.dirichlet_fixed_size(7, alpha=0.1, examples_per_client=50)({"y": Y})
    assert np.bincount(owner[owner >= 0]).tolist() == [50] * 7
    assert (owner == -1).sum() == 600 - 350
    population = federate({"y": Y}, partition.dirichlet_fixed_size(7, alpha=0.1, examples_per_client=50))
    assert population.num_examples.tolist() == [50] * 7
    with pytest.raises(ValueError, match="num_clients=7 with at least 100 examples each, but there are 600"):
        partition.dirichlet_fixed_size(7, alpha=0.1, examples_per_client=100)({"y": Y})


def test_fixed_sizes_when_classes_run_out():
    labels = np.array([0] * 99 + [1])
    for alpha in (1e-6, 1.0, 1e6):
        owner = partition.dirichlet_fixed_size(10, alpha=alpha)({"y": labels})
        assert np.bincount(owner).tolist() == [10] * 10


def test_label_shards_reproduces_the_pathological_split():
    owner = partition.label_shards(100, shards_per_client=2)({"y": np.repeat(np.arange(10), 60)})
    classes = [set((np.flatnonzero(owner == i) // 60).tolist()) for i in range(100)]
    assert np.bincount(owner).tolist() == [6] * 100
    assert max(len(c) for c in classes) == 2
    # 200 shards, 20 a class: the second shard has the first one's class with probability 19 / 199
    assert 70 < sum(len(c) == 2 for c in classes) < 100


def test_label_shards_does_not_depend_on_the_stored_order_of_classes():
    shuffled = np.random.default_rng(0).permutation(Y)
    owner = partition.label_shards(30, shards_per_client=2)({"y": shuffled})
    assert max(len(set(shuffled[owner == i].tolist())) for i in range(30)) <= 4
    with pytest.raises(ValueError, match="num_clients=301 with at least 2 examples each"):
        partition.label_shards(301)({"y": Y})


@given(st.integers(1, 10), st.integers(1, 30), st.integers(0, 5))
def test_k_classes_gives_exactly_k_and_uses_every_class(k, num_clients, seed):
    assume(num_clients * k >= 10)
    owner = partition.k_classes(num_clients, k=k, seed=seed)({"y": Y})
    assert (owner >= 0).all()
    held = [set(Y[owner == i].tolist()) for i in range(num_clients)]
    assert {len(h) for h in held} == {k}
    shared = [sum(c in h for h in held) for c in range(10)]
    assert max(shared) - min(shared) <= 1


def test_k_classes_errors():
    with pytest.raises(ValueError, match="`k` is 11, but feature 'y' has 10 classes"):
        partition.k_classes(10, k=11)({"y": Y})
    with pytest.raises(ValueError, match="num_clients=3 with k=2 use at most 6 of the 10 classes"):
        partition.k_classes(3, k=2)({"y": Y})
    with pytest.raises(ValueError, match="num_clients=601, but there are 600 examples"):
        partition.k_classes(601, k=1)({"y": Y})
    with pytest.raises(ValueError, match="class 1 has 2 examples for the 5 clients that share it"):
        partition.k_classes(5, k=2)({"y": np.array([0] * 50 + [1] * 2)})


def test_quantity_shapes():
    sizes = np.bincount(partition.quantity(5, distribution="power_law", exponent=1.0)({"y": np.zeros(142, int)}))
    assert sorted(sizes.tolist()) == [13, 16, 21, 31, 61]
    assert np.bincount(partition.quantity(5, distribution="power_law", exponent=0.0)({"y": Y})).tolist() == [120] * 5
    assert np.bincount(partition.quantity(5, distribution="lognormal", sigma=0.0)({"y": Y})).tolist() == [120] * 5
    assert np.bincount(partition.quantity(5, alpha=1e6)({"y": Y})).tolist() == pytest.approx([120] * 5, abs=2)
    assert np.bincount(partition.quantity(5, alpha=1e-6)({"y": Y})).max() == 596


def test_quantity_keeps_the_label_mix():
    # Clients draw without regard to labels. False alarm 1e-4.
    owner = partition.quantity(3, distribution="power_law", seed=0)({"y": Y})
    table = np.zeros((3, 10))
    np.add.at(table, (owner, Y), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_by_key_names_the_clients():
    arrays = {"x": np.arange(4.0), "site": np.array(["s2", "s1", "s2", "s3"])}
    population = federate(arrays, partition.by_key("site"))
    assert population.names.tolist() == ["s1", "s2", "s3"]
    assert population.client(1)["x"].tolist() == [0, 2]
    assert list(population.features) == ["x"]
    kept = federate({"x": np.arange(3.0), "site": np.array([9, 4, 9])}, partition.by_key("site", keep=True))
    assert kept.client(1)["site"].tolist() == [9, 9]
    with pytest.raises(ValueError, match=r"groups by feature 'hospital', but the features are \['site', 'x'\]"):
        federate(arrays, partition.by_key("hospital"))
    with pytest.raises(TypeError, match="feature 'x' has dtype float64; expected ints or strings"):
        federate(arrays, partition.by_key("x"))
    with pytest.raises(ValueError, match="no feature is left"):
        federate({"site": [1, 2]}, partition.by_key("site"))


# --- arguments --------------------------------------------------------------------------------------------------------

WRONG = {
    "num_clients": (lambda: partition.iid(0), ValueError, "`num_clients` is 0; expected an int of at least 1"),
    "float": (lambda: partition.dirichlet(2.5, alpha=1), TypeError, "`num_clients` is 2.5"),
    "alpha": (lambda: partition.dirichlet(2, alpha=0), ValueError, "`alpha` is 0; expected a finite number above 0"),
    "alpha inf": (lambda: partition.dirichlet_fixed_size(2, alpha=np.inf), ValueError, "`alpha` is inf"),
    "seed": (lambda: partition.iid(2, seed=-1), ValueError, "`seed` is -1; expected an int of at least 0"),
    "seed None": (lambda: partition.iid(2, seed=None), TypeError, "`seed` is None; expected an int"),
    "distribution": (
        lambda: partition.quantity(2, distribution="zipf"),
        ValueError,
        "`distribution` is 'zipf'; expected one of 'dirichlet', 'lognormal', 'power_law'",
    ),
    "other's": (
        lambda: partition.quantity(2, distribution="lognormal", alpha=0.5),
        ValueError,
        "`alpha` is 0.5, but distribution 'lognormal' has only `sigma`",
    ),
    "sigma": (lambda: partition.quantity(2, distribution="lognormal", sigma=-1.0), ValueError, "`sigma` is -1.0"),
    "sigma inf": (lambda: partition.quantity(2, distribution="lognormal", sigma=np.inf), ValueError, "finite number"),
    "key": (lambda: partition.by_key(3), TypeError, "`key` is 3; expected the name of a feature"),
    "base": (
        lambda: partition.feature_noise("iid", std=1.0),
        TypeError,
        "`base` is 'iid'; expected a partition such as",
    ),
    "std": (lambda: partition.feature_noise(partition.iid(2), std=-1.0), ValueError, "`std` is -1.0"),
    "std inf": (lambda: partition.feature_noise(partition.iid(2), std=np.inf), ValueError, "`std` is inf"),
    "angles": (lambda: partition.feature_rotation(partition.iid(2), angles=()), ValueError, r"`angles` is \(\)"),
    "no label": (
        lambda: partition.dirichlet(2, alpha=1)({"x": Y}),
        ValueError,
        r"feature 'y', but .* \['x'\]; pass label=",
    ),
    "sequences": (
        lambda: partition.label_shards(2)({"y": np.zeros((4, 3), int)}),
        ValueError,
        r"feature 'y' of shape \[4, 3\]; expected labels \[n\]",
    ),
    "float labels": (
        lambda: partition.k_classes(2, k=1)({"y": np.zeros(4)}),
        TypeError,
        "'y' of dtype float64; expected cla",
    ),
    "lengths": (lambda: partition.iid(2)({"x": [1], "y": [1, 2]}), ValueError, "'y' has 2 rows, but feature 'x' has 1"),
    "no partition": (
        lambda: federate({"y": Y}, "iid"),
        TypeError,
        "`partition` is 'iid'; expected one of fl.partition",
    ),
    "owners": (lambda: federate({"y": Y}, lambda f: [0, 1]), ValueError, r"gave int64\[2\] for 600 examples"),
    "owner -2": (lambda: federate({"y": Y}, lambda f: Y - 2), ValueError, "gave owners from -2 to 7"),
    "all out": (lambda: federate({"y": Y}, lambda f: 0 * Y - 1), ValueError, "left out every example"),
    "gap": (lambda: federate({"y": [1, 2]}, lambda f: [0, 2]), ValueError, r"client 1 \(1\) has no examples"),
}


@pytest.mark.parametrize(("call", "kind", "text"), WRONG.values(), ids=WRONG)
def test_bad_arguments_say_what_was_given_and_expected(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_a_partition_says_what_made_it():
    split = partition.dirichlet(5, alpha=0.3, seed=2)
    assert repr(split) == "dirichlet(num_clients=5, alpha=0.3, min_size=1, label='y', seed=2)"
    noisy = partition.feature_noise(split, std=0.5)
    assert noisy.params["base"] == repr(split)
    assert noisy.num_clients == 5


def test_any_function_is_a_partition():
    population = federate({"y": Y}, lambda features: features["y"] // 5)
    assert population.num_examples.tolist() == [300, 300]
    assert population.names.tolist() == [0, 1]


def test_string_labels_and_other_names_are_fine():
    owner = partition.dirichlet(3, alpha=0.5, label="kind")({"kind": np.array(["a", "b", "c"] * 10)})
    assert set(owner.tolist()) == {0, 1, 2}


# --- feature skew -----------------------------------------------------------------------------------------------------


def test_feature_noise_grows_from_client_to_client():
    # Variance std^2 (i + 1) / N; chi-square intervals on 20000 values, false alarm 1e-4 in all.
    arrays = {"x": np.zeros((400, 200), np.float32), "y": np.arange(400)}
    population = federate(arrays, partition.feature_noise(partition.iid(4), std=2.0, seed=3))
    low, high = stats.chi2(20_000).ppf([1.25e-5, 1 - 1.25e-5]) / 20_000
    for i in range(4):
        measured = np.mean(population.client(i)["x"].astype(np.float64) ** 2)
        assert low < measured / (4.0 * (i + 1) / 4) < high
    assert population.features["x"].dtype == np.float32
    assert sorted(population.features["y"].tolist()) == list(range(400))


def test_feature_noise_is_seeded_and_leaves_owners_alone():
    arrays = {"x": np.zeros((40, 3))}
    base = partition.iid(4, seed=1)
    make = lambda seed: partition.feature_noise(base, std=1.0, seed=seed)  # noqa: E731
    assert federate(arrays, make(0)).fingerprint() == federate(arrays, make(0)).fingerprint()
    assert federate(arrays, make(0)).fingerprint() != federate(arrays, make(1)).fingerprint()
    assert (
        federate(arrays, partition.feature_noise(base, std=0.0)).fingerprint() == federate(arrays, base).fingerprint()
    )
    np.testing.assert_array_equal(make(0)(arrays), base(arrays))
    noise = federate(arrays, make(0))
    assert not np.allclose(noise.client(0)["x"] * 2, noise.client(3)["x"])


def test_feature_noise_and_rotation_errors():
    with pytest.raises(TypeError, match="feature 'x' of dtype int32; expected floats: convert it first"):
        federate({"x": np.zeros((4, 2), int)}, partition.feature_noise(partition.iid(2), std=1.0))
    with pytest.raises(ValueError, match=r"`feature_noise` changes feature 'x', but the features are \['y'\]"):
        federate({"y": Y}, partition.feature_noise(partition.iid(2), std=1.0))
    rotation = partition.feature_rotation(partition.iid(2), angles=(90,))
    with pytest.raises(ValueError, match=r"turns feature 'x' of shape \[2, 5\]; expected images"):
        federate({"x": np.zeros((4, 5))}, rotation)
    with pytest.raises(ValueError, match="a turn by 90 degrees changes images of 2 x 3; expected square images"):
        federate({"x": np.zeros((4, 2, 3))}, rotation)


def test_feature_rotation_turns_each_clients_images():
    images = np.arange(6 * 9.0).reshape(6, 3, 3, 1)
    base = partition.iid(6, seed=2)
    turned = federate({"x": images}, partition.feature_rotation(base))
    plain = federate({"x": images}, base)
    for i in range(6):
        expected = np.rot90(plain.client(i)["x"], i % 4, axes=(1, 2))
        np.testing.assert_array_equal(turned.client(i)["x"], expected)


def test_feature_rotation_by_other_angles():
    image = np.zeros((1, 21, 21))
    image[0, 10, 15:19] = 1.0  # a bar to the right of the center ...
    base = partition.iid(1)
    up = federate({"x": image}, partition.feature_rotation(base, angles=(45.0,))).client(0)["x"][0]
    rows, columns = np.mgrid[:21, :21]
    # ... has its center of mass up and to the right after 45 degrees, as far away as before
    assert (up * (10 - rows)).sum() / up.sum() == pytest.approx(6.5 * np.sqrt(0.5), abs=0.3)
    assert (up * (columns - 10)).sum() / up.sum() == pytest.approx(6.5 * np.sqrt(0.5), abs=0.3)
    tiny = federate({"x": image}, partition.feature_rotation(base, angles=(90.0 + 1e-9,))).client(0)["x"]
    quarter = federate({"x": image}, partition.feature_rotation(base, angles=(90,))).client(0)["x"]
    np.testing.assert_allclose(tiny, quarter, atol=1e-6)


def test_feature_skews_nest():
    base = partition.feature_rotation(partition.iid(2), angles=(180,))
    population = federate({"x": np.arange(8.0).reshape(2, 2, 2)}, partition.feature_noise(base, std=0.0))
    assert sorted(population.features["x"][:, 0, 0].tolist()) == [3, 7]


def test_check_finite_reaches_transformed_features():
    split = partition.feature_noise(partition.iid(2), std=1.0)
    arrays = {"x": np.array([np.nan, 1.0])}
    assert np.isnan(federate(arrays, split, check_finite=False).features["x"]).sum() == 1
    with pytest.raises(ValueError, match="holds nan"):
        federate(arrays, split)


def test_a_transform_must_keep_the_rows():
    bad = partition.iid(2)._replace(transform=lambda features, client, count: {"y": features["y"][:1]})
    with pytest.raises(ValueError, match="the transform made 1 examples of client 0's 300; expected as many"):
        federate({"y": Y}, bad)


# --- splits of a population -------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    test_fraction=st.floats(0.01, 0.99),
    by=st.sampled_from(["random", "time"]),
    seed=st.integers(0, 3),
)
def test_train_test_split_never_leaks(sizes, test_fraction, by, seed):
    owner = np.repeat(np.arange(len(sizes)), sizes)
    population = fl.Population.from_arrays({"row": np.arange(len(owner))}, owner + 100)
    train, test = partition.train_test_split(population, test_fraction=test_fraction, by=by, seed=seed)
    assert train.names.tolist() == test.names.tolist() == population.names.tolist()
    for i, size in enumerate(sizes):
        mine, held = train.client(i)["row"].tolist(), test.client(i)["row"].tolist()
        assert sorted(mine + held) == population.client(i)["row"].tolist()
        assert mine == sorted(mine)
        assert held == sorted(held)
        assert len(mine) >= 1
        assert len(held) >= 1 or size == 1
        if size >= 2:
            assert len(held) == min(max(int(size * test_fraction + 0.5), 1), size - 1)
        if by == "time" and held:
            assert mine[-1] < held[0]


def test_train_test_split_is_seeded_and_uniform():
    population = fl.Population.from_arrays({"row": np.arange(2000)}, np.arange(2000) % 4)
    split = lambda seed: partition.train_test_split(population, seed=seed)[1].fingerprint()  # noqa: E731
    assert split(0) == split(0) != split(1)
    # False alarm 1e-4: rows in the test part are a uniform sample.
    rows = partition.train_test_split(population, test_fraction=0.5)[1].features["row"]
    assert stats.kstest(rows / 2000, "uniform").pvalue > 1e-4


def test_train_test_split_errors():
    population = fl.Population.from_arrays({"y": [1, 2]}, [0, 0])
    for bad in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"`test_fraction` is {bad}"):
            partition.train_test_split(population, test_fraction=bad)
    with pytest.raises(ValueError, match="`by` is 'date'; expected one of 'random', 'stratified', 'time'"):
        partition.train_test_split(population, by="date")


@given(st.integers(2, 30), st.floats(0.01, 0.99), st.integers(0, 3))
def test_holdout_clients_share_no_client(num_clients, fraction, seed):
    population = fl.Population.from_arrays({"row": np.arange(num_clients)}, np.arange(num_clients))
    train, unseen = partition.holdout_clients(population, fraction=fraction, seed=seed)
    assert sorted(train.names.tolist() + unseen.names.tolist()) == list(range(num_clients))
    assert unseen.num_clients == min(max(int(num_clients * fraction + 0.5), 1), num_clients - 1)


def test_holdout_clients_errors():
    with pytest.raises(ValueError, match="the population has 1 client; expected at least 2"):
        partition.holdout_clients(fl.Population.from_arrays({"y": [1]}, [0]), fraction=0.5)
    with pytest.raises(ValueError, match="`fraction` is 0"):
        partition.holdout_clients(fl.Population.from_arrays({"y": [1, 2]}, [0, 1]), fraction=0)
