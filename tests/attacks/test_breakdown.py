"""Breakdown by search: so many bad clients move no rule beyond what is proved of it, and one more moves it anywhere."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite import attacks, robust

N, DIM = 11, 2
WITHOUT: dict[str, Any] = {"rule": robust.mean(), "n": 5, "f": 1}
ROUNDING = 1.01


class Case(NamedTuple):
    """A rule for f bad clients of N, as a list; `breaks` are those f that one more is too many for.

    (A median of 11 withstands 5 whatever it was made for; Krum, made for f, takes one message with many near it.)
    """

    make: Callable[[int], list[fl.Aggregator]]
    fs: tuple[int, ...] = (1, 3, 5)
    breaks: tuple[int, ...] = (1, 3, 5)


CASES = {
    "trimmed_mean": Case(lambda f: [robust.trimmed_mean(f=f)]),
    "median": Case(lambda f: [robust.median()], breaks=(5,)),
    "meamed": Case(lambda f: [robust.meamed(f=f)]),
    "geometric_median": Case(lambda f: [robust.geometric_median()], breaks=(5,)),
    "krum": Case(lambda f: [robust.krum(f=f)], fs=(1, 3), breaks=()),
    "krum/byzfl": Case(lambda f: [robust.krum(f=f, neighbors="byzfl")], fs=(1, 3), breaks=()),
    "multi_krum": Case(lambda f: [robust.multi_krum(f=f, m=N - f)], fs=(1, 3), breaks=(1, 3)),
    "mda": Case(lambda f: [robust.mda(f=f)]),
    "nnm, trimmed_mean": Case(lambda f: [robust.nnm(f=f), robust.trimmed_mean(f=f)]),
    "nnm, median": Case(lambda f: [robust.nnm(f=f), robust.median()]),
}
EVERY_DAY = ("trimmed_mean", "krum", "mda")
"""The other rules are compiled and searched in the slow tests."""
ALL = [(name, f) for name, case in CASES.items() for f in case.fs]


def bound(name: str, f: int) -> float:
    proved = robust.kappa_bound(CASES[name].make(f), n=N, f=f)
    assert proved is not None
    return proved


@lru_cache(maxsize=64)
def compiled(name: str, f: int) -> Callable[[np.ndarray], jax.Array]:
    return jax.jit(lambda x: robust.apply(CASES[name].make(f), x))


coordinate = st.one_of(st.integers(-2, 2), st.integers(-100, 100), st.sampled_from([-0.5, 0.25, 1e3, -1e3]))
placements = st.lists(st.tuples(*[coordinate] * DIM), min_size=N, max_size=N).map(lambda x: np.array(x, np.float32))


def _often(names: Any) -> list[Any]:
    return [name if name in EVERY_DAY else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", _often(CASES))
@hypothesis.settings(max_examples=50)
@hypothesis.given(x=placements, lying=st.permutations(range(N)))
def test_hypothesis_finds_no_messages_that_move_a_rule_beyond_its_bound(name: str, x: np.ndarray, lying: Any) -> None:
    """For every choice of who is honest: the proof is for any n - f messages."""
    f = 3
    value = np.asarray(compiled(name, f)(x), np.float64)
    honest = x[lying[f:]].astype(np.float64)
    mean = honest.mean(0)
    variance = ((honest - mean) ** 2).sum(1).mean()
    rounding = (1e-5 * np.abs(x).max()) ** 2
    assert ((value - mean) ** 2).sum() <= ROUNDING * bound(name, f) * variance + rounding


@pytest.mark.whole
def test_a_search_for_the_worst_stays_below_the_bound_and_with_one_more_bad_client_it_does_not() -> None:
    _search("trimmed_mean", 3, tries=16, steps=40)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "f"), ALL)
def test_searches_for_the_worst_stay_below_the_bounds_of_all_rules(name: str, f: int) -> None:
    _search(name, f, tries=64, steps=100)


def _search(name: str, f: int, **length: int) -> None:
    case = CASES[name]
    found = attacks.largest_kappa(case.make(f), n=N, f=f, **length)
    assert robust.least_kappa(n=N, f=f) * 0.99 <= float(found.kappa) <= ROUNDING * bound(name, f)
    _holds(case.make(f), found)
    if f in case.breaks:
        broken = attacks.largest_kappa(case.make(f), n=N, f=f + 1, **length)
        assert float(broken.kappa) > 1000 * bound(name, f)
        _holds(case.make(f), broken)


def _holds(rule: list[fl.Aggregator], found: attacks.Placement) -> None:
    """The ratio that was found, again and in float64."""
    honest = np.asarray(found.honest, np.float64)
    value = robust.apply(rule, jnp.concatenate([found.honest, found.bad]))
    mean = honest.mean(0)
    ratio = ((np.asarray(value) - mean) ** 2).sum() / ((honest - mean) ** 2).sum(1).mean()
    assert float(found.kappa) == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize("f", [1, 5])
def test_no_rule_is_better_than_a_trimmed_mean_where_honest_messages_stand_at_two_points(f: int) -> None:
    """The bound below which no rule gets, f / (n - 2f), is attained: f honest at one point, all others at another."""
    x = jnp.zeros((N, 1)).at[:f].set(1.0)
    value = float(robust.apply(robust.trimmed_mean(f=f), x)[0])
    mean = f / (N - f)
    assert (value - mean) ** 2 / (mean * (1 - mean)) == pytest.approx(f / (N - 2 * f), rel=1e-5)


@pytest.mark.slow
def test_of_a_rule_that_is_worth_nothing_the_search_finds_that() -> None:
    found = attacks.largest_kappa(robust.mean(), n=5, f=1, tries=8, steps=10)
    assert float(found.kappa) > 1e5
    assert found.honest.shape == (4, 2)
    assert found.bad.shape == (1, 2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"f": 4}, "`f` is 4 of n=5; expected at most 3"),
        ({"n": 0}, "`n` is 0"),
        ({"rule": fl.mean()}, "`rule` is mean; expected a rule"),
        ({"key": 3}, "`key` is 3; expected one random key"),
    ],
)
def test_errors_say_what_was_given(options: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        attacks.largest_kappa(**{**WITHOUT, **options})
    assert text in str(raised.value)
