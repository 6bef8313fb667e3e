"""Banded Toeplitz strategies: coefficients, error and sensitivity, against dense matrices and all patterns."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjaxlite.privacy.correlated import noise_streams, toeplitz


def dense(coefficients, rounds: int, normalized: bool = False) -> np.ndarray:
    """The strategy C, `[rounds, rounds]`."""
    matrix = np.zeros((rounds, rounds))
    for lag, c in enumerate(coefficients[:rounds]):
        matrix += c * np.eye(rounds, k=-lag)
    return matrix / np.linalg.norm(matrix, axis=0) if normalized else matrix


def largest_over_patterns(matrix: np.ndarray, most: int, gap: int, signs: bool = False) -> float:
    """The largest squared norm of a sum of columns that one client may take part in; with any signs if asked."""
    rounds, largest = matrix.shape[1], 0.0
    for count in range(1, most + 1):
        for pattern in itertools.combinations(range(rounds), count):
            if all(b - a >= gap for a, b in itertools.pairwise(pattern)):
                for sign in itertools.product((1, -1), repeat=count) if signs else [(1,) * count]:
                    largest = max(largest, float(np.square(matrix[:, pattern] @ np.array(sign, float)).sum()))
    return largest


def test_the_square_root_squares_to_the_prefix_sums() -> None:
    # PRIVACY facts 3.3: 1, 1/2, 3/8, 5/16, 35/128; inverse 1, -1/2, -1/8, -1/16, -5/128.
    c = toeplitz.square_root_coefficients(8)
    assert c[:5].tolist() == [1, 1 / 2, 3 / 8, 5 / 16, 35 / 128]
    np.testing.assert_allclose(dense(c, 8) @ dense(c, 8), np.tril(np.ones((8, 8))), atol=1e-14)
    inverse = toeplitz.inverse_coefficients(c, 8)
    np.testing.assert_allclose(inverse[:5], [1, -1 / 2, -1 / 8, -1 / 16, -5 / 128], rtol=1e-14)


def test_sensitivity_of_the_square_root() -> None:
    # PRIVACY facts 3.3: n=8, single participation.
    c = toeplitz.square_root_coefficients(8)
    assert toeplitz.squared_sensitivity(c, 8) == pytest.approx(1.718379, abs=5e-7)


@pytest.mark.parametrize("bands", [1, 2, 4, 9])
@pytest.mark.parametrize("normalized", [False, True])
def test_inverse_norms_and_variances_are_those_of_the_dense_matrix(bands, normalized) -> None:
    rounds, c = 9, toeplitz.square_root_coefficients(bands) * 1.3
    matrix = dense(c, rounds, normalized)
    np.testing.assert_allclose(toeplitz.column_norms(c, rounds), np.linalg.norm(dense(c, rounds), axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        toeplitz.inverse_coefficients(c, rounds), np.linalg.inv(dense(c, rounds))[:, 0], atol=1e-12
    )
    summed = np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(matrix)
    variances = toeplitz.cumulative_variances(c, rounds, normalized=normalized)
    np.testing.assert_allclose(variances, np.square(summed).sum(axis=1), rtol=1e-10)


@pytest.mark.parametrize("rounds", [1, 5, 9])
@pytest.mark.parametrize("bands", [1, 2, 3])
def test_sensitivity_with_orthogonal_columns_is_the_largest_over_all_patterns(rounds, bands) -> None:
    """With enough separation, for any coefficients and contributions of either sign."""
    c = np.array([0.9, -0.7, 1.1])[:bands]
    for most, gap in itertools.product((1, 2, 4), (bands, bands + 2)):
        claimed = toeplitz.squared_sensitivity(c, rounds, max_participations=most, min_separation=gap)
        found = largest_over_patterns(dense(c, rounds), most, gap, signs=True)
        assert claimed == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("rounds", [1, 4, 7, 9])
def test_sensitivity_of_a_prefix_of_normalized_columns(rounds) -> None:
    """Of nine rounds the first few are released: their rows of the scaled matrix."""
    c = np.array([0.9, 0.2, 0.7])
    for most, gap in itertools.product((1, 2, 3), (3, 4)):
        claimed = toeplitz.squared_sensitivity(c, rounds, max_participations=most, min_separation=gap, normalized_for=9)
        assert claimed == pytest.approx(largest_over_patterns(dense(c, 9, True)[:rounds], most, gap), rel=1e-12)
    assert claimed <= 3


def test_all_columns_count_the_same_once_they_are_normalized() -> None:
    c = toeplitz.optimal_coefficients(40, 8)
    for k in range(1, 6):
        claimed = toeplitz.squared_sensitivity(c, 40, max_participations=k, min_separation=8, normalized_for=40)
        assert claimed == pytest.approx(k, rel=1e-12)


@pytest.mark.parametrize("bands", [3, 10])
def test_sensitivity_with_overlapping_columns_is_the_largest_over_all_patterns(bands) -> None:
    """Nonnegative coefficients that do not increase; rounds of one client that meet in the bands."""
    rounds, c = 10, toeplitz.square_root_coefficients(bands)
    for most, gap in itertools.product((1, 2, 3, 10), (1, 2, 4)):
        claimed = toeplitz.squared_sensitivity(c, rounds, max_participations=most, min_separation=gap)
        assert claimed == pytest.approx(largest_over_patterns(dense(c, rounds), most, gap), rel=1e-12)


@pytest.mark.parametrize("error", ["mean", "max"])
@pytest.mark.parametrize(("rounds", "bands"), [(50, 2), (64, 8), (30, 30)])
def test_optimal_coefficients_are_a_minimum_below_the_square_root(rounds, bands, error) -> None:
    def loss(c: np.ndarray) -> float:
        variances = toeplitz.cumulative_variances(c, rounds)
        return float((variances.mean() if error == "mean" else variances[-1]) * (c @ c))

    c = toeplitz.optimal_coefficients(rounds, bands, error=error)
    assert np.linalg.norm(c) == pytest.approx(1.0, rel=1e-12)
    assert loss(c) <= loss(toeplitz.square_root_coefficients(bands)) * (1 + 1e-9)
    for i, step in itertools.product(range(min(bands, 3)), (-1e-2, 1e-2)):
        assert loss(c + step * np.eye(bands)[i]) > loss(c)


JAX_PRIVACY = {  # of jax-privacy 2.0.0, matrix_factorization.toeplitz, in float64 but for the sensitivities
    "mean error of optimize_banded_toeplitz": {(64, 8): 7.09676191688255, (128, 16): 8.251567183025738},
    "mean error of the square root": {(64, 8): 7.395300831513772, (128, 16): 8.679499740211433},
    "minsep_sensitivity_squared": {(1, 12): 82.898899, (3, 2): 4.775313, (2, 4): 14.569113, (4, 3): 7.111197},
    "per_query_error": [1.0, 1.25, 1.390625, 1.78125, 2.0803222656, 2.3225708008],
    "column_normalize_for_n": [
        *(1.7183792591, 2.1479740739, 2.3896211572, 2.5574316317, 2.6859115263, 2.7609207561),
        *(2.8047644304, 2.8227917689, 2.9977660839, 3.1179115967, 3.1730213477, 3.1201850378),
    ],
}


def mean_error(c: np.ndarray, rounds: int) -> float:
    return float(toeplitz.cumulative_variances(c, rounds).mean() * np.square(c).sum())


def test_values_of_jax_privacy() -> None:
    for (rounds, bands), value in JAX_PRIVACY["mean error of optimize_banded_toeplitz"].items():
        found = toeplitz.optimal_coefficients(rounds, bands)
        assert mean_error(found, rounds) == pytest.approx(value, rel=1e-8)
    for (rounds, bands), value in JAX_PRIVACY["mean error of the square root"].items():
        assert mean_error(toeplitz.square_root_coefficients(bands), rounds) == pytest.approx(value, rel=1e-12)
    c = toeplitz.square_root_coefficients(8)
    for (gap, most), value in JAX_PRIVACY["minsep_sensitivity_squared"].items():
        found = toeplitz.squared_sensitivity(c, 12, max_participations=most, min_separation=gap)
        assert found == pytest.approx(value, rel=1e-6)
    found = toeplitz.cumulative_variances(toeplitz.square_root_coefficients(3), 6)
    np.testing.assert_allclose(found, JAX_PRIVACY["per_query_error"], rtol=1e-9)
    found = toeplitz.cumulative_variances(c, 12, normalized=True)
    np.testing.assert_allclose(found, JAX_PRIVACY["column_normalize_for_n"], rtol=1e-9)


@pytest.mark.slow
@jax.numpy_dtype_promotion("standard")
@jax.numpy_rank_promotion("allow")
def test_agreement_with_jax_privacy() -> None:
    """The oracle itself, over more sizes than there are values above."""
    reason = "jax-privacy is not installed; pip install jax-privacy==2.0.0"
    oracle = pytest.importorskip("jax_privacy.matrix_factorization.toeplitz", reason=reason)
    for rounds, bands in [(20, 4), (50, 10), (100, 100)]:
        theirs = np.asarray(oracle.optimize_banded_toeplitz(n=rounds, bands=bands), np.float64)
        ours = toeplitz.optimal_coefficients(rounds, bands)
        assert mean_error(ours, rounds) <= mean_error(theirs, rounds) * (1 + 1e-5)
        np.testing.assert_allclose(
            toeplitz.inverse_coefficients(theirs, rounds), oracle.inverse_coef(theirs, rounds), atol=1e-5
        )
        for gap, most in itertools.product((1, 3, bands), (1, 2, rounds)):
            found = toeplitz.squared_sensitivity(ours, rounds, max_participations=most, min_separation=gap)
            known = oracle.minsep_sensitivity_squared(ours, min_sep=gap, max_participations=most, n=rounds)
            assert found == pytest.approx(float(known), rel=1e-5)
        noising = oracle.inverse_as_streaming_matrix(ours, column_normalize_for_n=rounds).materialize(rounds)
        np.testing.assert_allclose(np.linalg.inv(dense(ours, rounds, normalized=True)), noising, atol=1e-4)


def test_one_band_is_independent_noise() -> None:
    assert toeplitz.optimal_coefficients(10, 1).tolist() == [1.0]
    assert toeplitz.cumulative_variances([1.0], 10, normalized=True).tolist() == list(range(1, 11))


@pytest.mark.parametrize("bands", [1, 2, 5, 12])
def test_streamed_noise_is_the_inverse_strategy_times_white_noise(bands) -> None:
    rounds, template = 12, (jax.ShapeDtypeStruct((4,), jnp.bfloat16), jax.ShapeDtypeStruct((), jnp.float32))
    c = toeplitz.optimal_coefficients(rounds, bands)
    stream = noise_streams.banded_inverse(c, num_rounds=rounds)
    keys = jax.random.split(jax.random.key(0), rounds)

    def one(state, given):
        noise, state = stream.next(state, *given, template)
        return state, noise

    numbered = (jnp.arange(rounds, dtype=jnp.int32), keys)
    noise = jax.jit(lambda: jax.lax.scan(one, stream.init(template), numbered)[1])()
    inverse = np.linalg.inv(dense(c, rounds, normalized=True))
    for i, leaf in enumerate(noise):
        white = np.stack([np.asarray(noise_streams.standard_normal(key, template)[i]) for key in keys])
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, np.tensordot(inverse, white, axes=1), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: toeplitz.optimal_coefficients(4, 5), "`bands` is 5 for num_rounds=4; expected at most one band"),
        (lambda: toeplitz.optimal_coefficients(4, 0), "`bands` is 0; expected an int of at least 1"),
        (lambda: toeplitz.optimal_coefficients(4, 2, error="rms"), "`error` is 'rms'; expected one of 'mean', 'max'"),
        (lambda: toeplitz.inverse_coefficients([0.0, 1.0], 4), "expected a vector of finite numbers, the first of"),
        (
            lambda: toeplitz.squared_sensitivity([1.0, -0.5], 8, max_participations=2),
            "2 bands with a separation of 1 have a known sensitivity for plain nonnegative",
        ),
        (
            lambda: toeplitz.squared_sensitivity([1.0, 0.5], 8, max_participations=2, normalized_for=8),
            "Use a separation of at least the number of bands",
        ),
    ],
)
def test_bad_arguments(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
