"""Likeness of reconstructions, against closed forms and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjaxlite.privacy import attacks

correlation, cosine = jax.jit(attacks.correlation), jax.jit(attacks.cosine)
RNG = np.random.default_rng(0)


def test_psnr_is_ten_log_of_peak_over_error() -> None:
    x, y = RNG.random((2, 8, 8, 1)).astype(np.float32)
    expected = 10 * np.log10(4.0 / np.mean((x.astype(np.float64) - y) ** 2))
    assert float(attacks.psnr(x, y, peak=2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(attacks.psnr(x, x)) == np.inf


def test_correlation_and_cosine_are_numpys() -> None:
    x, y = RNG.normal(size=(2, 30))
    assert float(correlation(x, y)) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)
    assert float(correlation(-3 * x + 5, x)) == pytest.approx(-1.0, abs=1e-6)
    assert float(correlation(np.ones(4), x[:4])) == 0.0
    tree = lambda v: {"a": v[:10].reshape(2, 5), "b": v[10:]}  # noqa: E731
    expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    assert float(cosine(tree(x), tree(y))) == pytest.approx(expected, abs=1e-6)
    # squares of either would leave float32
    assert float(cosine(tree(x * 1e-30), tree(y * 1e30))) == pytest.approx(expected, abs=1e-6)
    assert float(cosine(tree(x), tree(0 * y))) == 0.0


def test_a_cosine_has_its_gradient() -> None:
    """Of cos(a, b) in a: (b / |b| - cos * a / |a|) / |a|; and none of it is NaN at zero."""
    a, b = np.float32([3, 4, 0]), np.float32([1, 0, 1])
    expected = (b / np.sqrt(2) - (3 / 5 / np.sqrt(2)) * a / 5) / 5
    gradient = jax.jit(jax.grad(cosine))
    np.testing.assert_allclose(gradient(jnp.asarray(a), jnp.asarray(b)), expected, atol=1e-6)
    assert np.isfinite(gradient(jnp.zeros(3), jnp.asarray(b))).all()


@pytest.mark.parametrize("by", ["error", "correlation"])
def test_matching_finds_the_permutation(by) -> None:
    """With two spare candidates, one of them broken."""
    originals = RNG.random((5, 4, 4))
    order = RNG.permutation(5)
    candidates = np.concatenate([np.full((1, 4, 4), np.nan), 0.9 * originals[order], RNG.random((1, 4, 4))])
    found = attacks.match(candidates, originals, by=by)
    np.testing.assert_array_equal(found.rows, 1 + np.argsort(order))
    np.testing.assert_allclose(found.correlation, 1.0, atol=1e-5)
    np.testing.assert_allclose(found.psnr, -10 * np.log10(0.01 * (originals**2).mean((1, 2))), rtol=1e-4)


def test_matching_takes_the_best_total_and_not_the_nearest_first() -> None:
    candidates, originals = np.array([[0.0], [0.4]]), np.array([[0.1], [-1.0]])
    assert attacks.match(candidates, originals).rows.tolist() == [1, 0]


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"`x` has shape \[2\] and `reference` \[3\]; expected the same"):
        attacks.psnr(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="`peak` is 0; expected a finite number above 0"):
        attacks.psnr(np.ones(2), np.ones(2), peak=0)
    with pytest.raises(ValueError, match="at least as many reconstructions as originals"):
        attacks.match(np.ones((1, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="`by` is 'eye'; expected one of 'error', 'correlation'"):
        attacks.match(np.ones((2, 3)), np.ones((2, 3)), by="eye")
    with pytest.raises(ValueError, match=r"`a` has no leaf at \['w'\]; expected the structure of `b`"):
        attacks.cosine({}, {"w": jnp.ones(2)})
