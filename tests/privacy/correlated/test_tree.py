"""Trees of partial sums: the noise that they leave, what one client can change, and the streams that draw it."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjaxlite.privacy.correlated import noise_streams, tree

LEVELS = 12  # more than any tree here has


def nodes(rounds: int, complete: bool, estimator: str) -> dict[tuple[int, int], np.ndarray]:
    """The nodes of one tree that are open after so many rounds, by last round and height, as rows over its rounds.

    Written from the definition, without the recursions of the library: a node of height h covers 2^h rounds from a
    multiple of 2^h on. Only left halves are ever summed up by the naive estimator, and a completed root.
    """
    root = (rounds - 1).bit_length()
    found = {}
    for height in range(LEVELS):
        for first in range(0, rounds, 2**height):
            last = first + 2**height - 1
            row = ((np.arange(rounds) >= first) & (np.arange(rounds) <= last)).astype(float)
            left_half = (first >> height) % 2 == 0
            if estimator == "naive" and not left_half:
                continue
            if last < rounds and not (complete and estimator == "naive" and last == rounds - 1 and height != root):
                found[last, height] = row
            elif last >= rounds and complete and height <= root and (estimator == "honaker" or height == root):
                found[rounds - 1, height] = row
    return found


def strategy(rounds: int, restart_every: int | None, estimator: str) -> np.ndarray:
    """All nodes of all trees, `[nodes, rounds]`."""
    every = restart_every or rounds
    blocks = []
    for start in range(0, rounds, every):
        size = min(every, rounds - start)
        complete = restart_every is not None and size == every
        rows = np.stack(list(nodes(size, complete, estimator).values()))
        blocks.append(np.pad(rows, ((0, 0), (start, rounds - start - size))))
    return np.concatenate(blocks)


def patterns(rounds: int, most: int, gap: int):
    """All sets of at most `most` rounds that are at least `gap` apart."""
    for count in range(1, most + 1):
        for pattern in itertools.combinations(range(rounds), count):
            if all(b - a >= gap for a, b in itertools.pairwise(pattern)):
                yield list(pattern)


def brute_force(matrix: np.ndarray, most: int, gap: int) -> float:
    """The largest squared norm of a sum of columns that one client may take part in."""
    return max(float(np.square(matrix[:, p].sum(axis=1)).sum()) for p in patterns(matrix.shape[1], most, gap))


def test_variances_of_the_naive_estimator_are_popcounts() -> None:
    variances = tree.cumulative_variances(2000, estimator="naive")
    assert variances.tolist() == [t.bit_count() for t in range(1, 2001)]
    # PRIVACY facts 3.3 (TensorFlow Federated's tests): rounds, standard deviation of a node, variance.
    for rounds, sigma, expected in [(5, 2.0, 8.0), (6, 0.5, 0.5), (7, 1.0, 3.0), (8, 1.0, 1.0)]:
        assert variances[rounds - 1] * sigma**2 == expected


def test_variances_of_the_efficient_estimator() -> None:
    variances = tree.cumulative_variances(64)
    # TensorFlow Federated's tests: 5/3 after three rounds, 4/7 after four.
    np.testing.assert_allclose(variances[[2, 3]], [5 / 3, 4 / 7], rtol=1e-15)
    np.testing.assert_allclose(variances[[0, 1, 7, 63]], [1, 2 / 3, 8 / 15, 64 / 127], rtol=1e-15)


@pytest.mark.parametrize("restart_every", [None, 3, 4, 7])
def test_the_efficient_estimator_is_the_best_linear_unbiased_one_of_its_nodes(restart_every) -> None:
    """Generalized least squares on the open nodes, by dense linear algebra, gives the same variances."""
    rounds, carried, expected = 15, 0.0, []
    every = restart_every or rounds
    for done in range(1, rounds + 1):
        within = (done - 1) % every + 1
        rows = np.stack(list(nodes(within, restart_every == within, "honaker").values()))
        inverse = np.linalg.inv(rows.T @ rows)
        expected.append(carried + inverse.sum())
        carried += inverse.sum() if within == every else 0.0
    np.testing.assert_allclose(tree.cumulative_variances(rounds, restart_every=restart_every), expected, rtol=1e-12)


def test_a_completed_tree_hands_on_the_noise_of_its_root() -> None:
    plain = tree.cumulative_variances(12, estimator="naive")
    restarted = tree.cumulative_variances(12, restart_every=6, estimator="naive")
    assert plain.tolist() == [1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2]
    assert restarted.tolist() == [1, 1, 2, 1, 2, 1, 2, 2, 3, 2, 3, 2]
    efficient = tree.cumulative_variances(12, restart_every=6)
    assert np.all(efficient <= restarted)
    assert efficient[5] < tree.cumulative_variances(6)[5]


def test_one_participation_costs_a_node_of_every_height() -> None:
    # REFERENCES 4: 1600 rounds without restarts, floor(log2 1600) + 1.
    assert tree.squared_sensitivity(1, 1, 1600) == 11
    for rounds in range(1, 130):
        assert tree.squared_sensitivity(1, 1, rounds) == rounds.bit_length()


@pytest.mark.parametrize("rounds", [1, 8, 11, 19, 200])
def test_everyone_in_every_round(rounds) -> None:
    # TensorFlow Privacy's closed form: a complete tree of height d holds 2^d (2^(d+1) - 1).
    expected = sum(2**d * (2 ** (d + 1) - 1) for d in range(rounds.bit_length()) if rounds >> d & 1)
    assert tree.squared_sensitivity(rounds, 1, rounds) == expected


@pytest.mark.parametrize("restart_every", [None, 1, 3, 4, 5, 6, 11])
@pytest.mark.parametrize("rounds", [1, 6, 11])
def test_sensitivity_is_the_largest_over_all_patterns(rounds, restart_every) -> None:
    efficient = strategy(rounds, restart_every, "honaker")
    naive = strategy(rounds, restart_every, "naive")
    for most, gap in itertools.product((1, 2, 4, 11), (1, 2, 3, 5, 8, 20)):
        claimed = tree.squared_sensitivity(most, gap, rounds, restart_every=restart_every)
        assert claimed == brute_force(efficient, most, gap), (most, gap)
        assert claimed >= brute_force(naive, most, gap), (most, gap)
        if most == 1:
            assert claimed == brute_force(naive, most, gap), gap


@pytest.mark.parametrize("restart_every", [None, 4, 6])
def test_sensitivity_in_blocks_of_rounds_is_never_too_small(monkeypatch, restart_every) -> None:
    """Blocks of 2 and 4 rounds instead of single ones; exact where the separation is made of whole blocks."""
    for rounds, most, gap in itertools.product((5, 11, 13), (1, 2, 3), (2, 3, 4, 5, 8)):
        plain = tree.squared_sensitivity(most, gap, rounds, restart_every=restart_every)
        with monkeypatch.context() as patch:
            patch.setattr(tree, "FINE", 1)
            coarse = tree.squared_sensitivity(most, gap, rounds, restart_every=restart_every)
        assert coarse >= plain
        if (gap in (2, 4, 8) and gap <= rounds) or gap >= rounds:
            assert coarse == plain, (rounds, most, gap)


def test_sensitivity_of_a_prefix_is_that_of_what_was_released_so_far() -> None:
    for restart_every in (None, 5):
        values = [tree.squared_sensitivity(3, 2, rounds, restart_every=restart_every) for rounds in range(1, 14)]
        assert values == sorted(values)


def zcdp_epsilon(rho: float, delta: float) -> float:
    """The conversion of Canonne, Kamath, Steinke (2020), https://arxiv.org/abs/2004.00010, on a fine grid of orders."""
    orders = 1 + np.geomspace(1e-2, 1e3, 200_001)
    bounds = rho * orders + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    return float(bounds.min())


def test_a_deployed_model_has_its_published_guarantee() -> None:
    """Spanish Gboard language model (2022): z=7, 2000 rounds, 6 participations: zCDP .81, epsilon 8.90 at 1e-10.

    Source: the notebook of Xu et al., "Federated Learning with Formal Differential Privacy Guarantees" (2022). It
    counts the rounds between two participations, 313; here the distance counts, 314.
    """
    squared = tree.squared_sensitivity(6, 314, 2000)
    rho = squared / (2 * 7.0**2)
    assert round(rho, 2) == 0.81
    assert zcdp_epsilon(rho, 1e-10) == pytest.approx(8.90, abs=0.005)


@pytest.mark.parametrize(("z", "expected"), [(2.33, 7.825), (4.03, 4.194), (6.83, 2.343)])
def test_epsilon_of_a_single_pass(z, expected) -> None:
    """REFERENCES 4: 1600 rounds, single participation, delta 1e-6."""
    rho = tree.squared_sensitivity(1, 1, 1600) / (2 * z**2)
    assert zcdp_epsilon(rho, 1e-6) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(("z", "expected", "below"), [(1.13, 18.709610, 19.74), (8.83, 1.773192, 2.04)])
def test_epsilon_agrees_with_the_accountant_of_single_epoch_trees(z, expected, below) -> None:
    """PRIVACY facts 3.7, rows 14 and 15: dp_accounting's SingleEpochTreeAggregationDpEvent, 1600 rounds, 1e-6."""
    rdp = pytest.importorskip("dp_accounting.rdp", reason="dp-accounting is not installed; pip install fedjaxlite[dp]")
    import dp_accounting

    def epsilon(event, relation) -> float:
        return rdp.RdpAccountant(neighboring_relation=relation).compose(event).get_epsilon(1e-6)

    relation = dp_accounting.NeighboringRelation
    multiplier = z / math.sqrt(tree.squared_sensitivity(1, 1, 1600))
    ours = epsilon(dp_accounting.GaussianDpEvent(multiplier), relation.ADD_OR_REMOVE_ONE)
    theirs = epsilon(dp_accounting.SingleEpochTreeAggregationDpEvent(z, 1600), relation.REPLACE_SPECIAL)
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert ours == pytest.approx(expected, abs=2e-6)
    assert ours < below


def run_stream(stream: noise_streams.NoiseStream, rounds: int, template, seed: int = 0):
    """The noises of all rounds, stacked, and the keys that the rounds got."""
    keys = jax.random.split(jax.random.key(seed), rounds)

    def one(state, given):
        noise, state = stream.next(state, *given, template)
        return state, noise

    numbered = (jnp.arange(rounds, dtype=jnp.int32), keys)
    return jax.jit(lambda: jax.lax.scan(one, stream.init(template), numbered)[1])(), keys


@pytest.mark.parametrize("restart_every", [None, 4, 6])
@pytest.mark.parametrize("estimator", ["naive", "honaker"])
def test_streamed_noise_is_the_factorization_times_white_noise(estimator, restart_every) -> None:
    """`B z` with B = A C^+ of every round's open nodes, and z drawn again from the keys."""
    rounds, template = 13, jax.ShapeDtypeStruct((7,), jnp.float32)
    every = restart_every or rounds
    if estimator == "naive":
        stream = noise_streams.naive_tree(restart_every=restart_every)
    else:
        stream = noise_streams.honaker_tree(num_rounds=rounds, restart_every=restart_every)
    noise, keys = run_stream(stream, rounds, template)
    cumulative, carried = np.cumsum(np.asarray(noise, np.float64), axis=0), np.zeros(7)
    for done in range(1, rounds + 1):
        within, start = (done - 1) % every + 1, (done - 1) // every * every
        open_nodes = nodes(within, restart_every == within, estimator)
        rows = np.stack(list(open_nodes.values()))
        if estimator == "naive":
            white = [jax.random.fold_in(keys[0], start + last + 1) for last, _ in open_nodes]
            # Sums of disjoint nodes alone: of the rows, the few largest that make up all rounds.
            weights = np.array([float(not any(_inside(row, other) for other in rows)) for row in rows])
        else:
            white = [jax.random.fold_in(keys[start + last], height) for last, height in open_nodes]
            weights = np.linalg.pinv(rows.T).sum(axis=1)
        np.testing.assert_allclose(weights @ rows, np.ones(within), atol=1e-9)  # unbiased
        drawn = np.stack([np.asarray(noise_streams.standard_normal(key, template)) for key in white])
        expected = carried + weights @ drawn
        np.testing.assert_allclose(cumulative[done - 1], expected, atol=2e-5)
        carried = expected if within == every else carried


def _inside(row: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.all(row <= other) and row.sum() < other.sum())


@pytest.mark.parametrize("estimator", ["naive", "honaker"])
def test_cumulative_noise_has_its_variance(estimator) -> None:
    """Over 40,000 entries a sample variance is within 4.5 / sqrt(20,000) of 1, but for 7e-6 of the time a round."""
    rounds, entries = 12, 20_000
    template = {"a": jax.ShapeDtypeStruct((entries,), jnp.float32), "b": jax.ShapeDtypeStruct((entries,), jnp.float32)}
    if estimator == "naive":
        stream = noise_streams.naive_tree(restart_every=5)
    else:
        stream = noise_streams.honaker_tree(num_rounds=rounds, restart_every=5)
    noise, _ = run_stream(stream, rounds, template, seed=1)
    a, b = (np.cumsum(np.asarray(noise[name], np.float64), axis=0) for name in "ab")
    expected = tree.cumulative_variances(rounds, restart_every=5, estimator=estimator)
    found = (np.square(a).mean(axis=1) + np.square(b).mean(axis=1)) / 2
    np.testing.assert_allclose(found / expected, 1.0, atol=4.5 / math.sqrt(entries))
    # Leaves of the same shape have noises of their own; a correlation is within 4.5 / sqrt(20,000) as often.
    correlations = (a * b).mean(axis=1) / expected
    assert np.abs(correlations).max() < 4.5 / math.sqrt(entries)


def test_the_naive_tree_keeps_a_key_and_the_efficient_one_logarithmically_many_models() -> None:
    template = jax.ShapeDtypeStruct((3,), jnp.bfloat16)
    assert jax.tree.leaves(noise_streams.naive_tree().init(template))[0].shape == ()
    for rounds, restart_every, levels in [(1, None, 1), (2000, None, 10), (2000, 50, 6), (2000, 64, 6), (5, 1, 1)]:
        stream = noise_streams.honaker_tree(num_rounds=rounds, restart_every=restart_every)
        state = jax.eval_shape(lambda stream=stream: stream.init(template))
        assert (state.shape, state.dtype) == ((levels, 3), jnp.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tree.squared_sensitivity(0, 1, 8), "`max_participations` is 0; expected an int of at least 1"),
        (lambda: tree.squared_sensitivity(1, 1, 0), "`num_rounds` is 0; expected an int of at least 1"),
        (lambda: tree.cumulative_variances(8, restart_every=0), "`restart_every` is 0; expected an int of at least 1"),
        (lambda: tree.cumulative_variances(8, estimator="full"), "`estimator` is 'full'; expected one of 'honaker'"),
    ],
)
def test_bad_arguments(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("restart_every", [None, 1])
def test_a_run_of_one_round_has_noise_of_one_node(restart_every) -> None:
    stream = noise_streams.honaker_tree(num_rounds=1, restart_every=restart_every)
    template = jnp.zeros(20_000)
    noise, _ = stream.next(stream.init(template), jnp.int32(0), jax.random.key(0), template)
    assert float(jnp.std(noise)) == pytest.approx(1.0, abs=0.03)
