"""Conditional rounding: the paper's bound, unbiasedness, and a bound that holds whatever comes in."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjaxlite.privacy.distributed.rounding import attempts, conditional_round, fits, rounded_norm_bound

HALF = math.exp(-0.5)


@pytest.mark.parametrize(
    ("norm", "beta", "dim", "bound"),
    [(10, HALF, 250, 13.431519), (10, 0.0, 250, 25.811388), (100, HALF, 2**20, 522.260471)],
)
def test_the_bound_of_the_paper(norm: float, beta: float, dim: int, bound: float) -> None:
    """Kairouz, Liu, Steinke (2021), theorem 1, evaluated."""
    assert rounded_norm_bound(norm, dim, beta) == pytest.approx(bound, abs=1e-6)


def test_the_bound_grows_little_on_a_fine_grid() -> None:
    """The stretch at d = 2^21 for clip norms of 10^3, 10^4 and 10^5 steps."""
    stretch = [rounded_norm_bound(c, 2**21) / c for c in (1e3, 1e4, 1e5)]
    assert stretch == pytest.approx([1.235, 1.00267, 1.00003], abs=1e-3)
    assert [attempts(b) for b in (0.0, HALF, 0.999)] == [1, 56, 1000]


def rounded(vector: Any, bound: float, seeds: int, *, largest: int = 100, max_attempts: int = 56) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), seeds)
    each = lambda key: conditional_round(  # noqa: E731
        jnp.asarray(vector, jnp.float32), largest=largest, bound=bound, key=key, max_attempts=max_attempts
    )
    return np.asarray(jax.jit(jax.vmap(each))(keys))


def test_one_attempt_is_unbiased() -> None:
    """Five standard deviations of each of 8 means: a false alarm once in 10^5 seeds."""
    vector = np.float32([0.25, -0.25, 3.5, -7.9, 0.0, 2.0, 1e-3, 40.125])
    found = rounded(vector, bound=1e6, seeds=4000)
    assert found.dtype == np.int32
    assert set((found - np.floor(vector)).ravel().tolist()) <= {0.0, 1.0}
    share = vector - np.floor(vector)
    assert (np.abs(found.mean(0) - vector) <= 5 * np.sqrt(share * (1 - share) / 4000) + 1e-9).all()


def test_the_result_obeys_the_bound_and_attempts_rarely_fail() -> None:
    """A fail needs the entries cut towards zero: here to zeros. At most beta of single attempts; 5 standard deviations."""
    vector = np.full(100, 0.5)  # the hardest: every entry adds 1/4 to the expected square
    bound = rounded_norm_bound(5.0, 100, HALF)
    once = rounded(vector, bound, 2000, max_attempts=1)
    assert (np.linalg.norm(once, axis=1) <= bound).all()
    assert (once.sum(1) == 0).mean() <= HALF + 5 * 0.5 / math.sqrt(2000)
    many = rounded(vector, bound, 500)
    assert (np.linalg.norm(many, axis=1) <= bound).all()
    assert (many.sum(1) > 0).all()


@pytest.mark.parametrize(
    ("vector", "want"),
    [
        (np.full(64, 0.75), np.zeros(64)),  # no rounding fits: cut towards zero
        (np.full(64, 2.75), np.zeros(64)),  # too long in the first place
        ([math.nan, 3.0, math.inf, -math.inf], [0, 3, 3, -3]),
        ([-2.5, 1.0], None),
    ],
)
def test_whatever_comes_in_the_bound_holds(vector: Any, want: Any) -> None:
    found = rounded(vector, bound=6.0, seeds=20, largest=3, max_attempts=4)
    assert (np.linalg.norm(found, axis=1) <= 6.0).all()
    assert np.abs(found).max() <= 3
    if want is not None:
        assert (found == np.asarray(want)).all()


def test_norms_are_judged_on_the_safe_side() -> None:
    """Equal entries are the worst case of float sums; 2^18 + 1 of them are not a power of two either."""
    norm = 3.0 * math.sqrt(2**18 + 1)
    judged = jax.jit(lambda vector: (fits(vector, norm), fits(vector, norm * (1 + 1e-4))))
    assert [bool(one) for one in judged(jnp.full((2**18 + 1,), 3.0))] == [False, True]
    assert bool(fits(jnp.zeros(3), 0.0))


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`beta` is 1.0; expected a number in \[0, 1\). It is the chance"):
        rounded_norm_bound(1.0, 4, 1.0)
    with pytest.raises(ValueError, match="`norm` is -1"):
        rounded_norm_bound(-1, 4)
    with pytest.raises(TypeError, match=r"`dim` is 2.5; expected an int"):
        rounded_norm_bound(1.0, 2.5)  # pyright: ignore[reportArgumentType]
