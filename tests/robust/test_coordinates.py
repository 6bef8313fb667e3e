"""Rules that look at one entry at a time: exact values, plain loops in float64, equivariances, and what breaks them."""

import importlib
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis.extra import numpy as arrays

import fedjaxlite as fl
from fedjaxlite import robust

CLIENTS, ENTRIES = 7, 4
SHAPE = (CLIENTS, ENTRIES)
NEAR = {"rtol": 1e-5, "atol": 1e-5}

MADE: dict[str, Callable[[Any], fl.Aggregator]] = {
    "mean": lambda f: robust.mean(),
    "median": lambda f: robust.median(),
    "trimmed_mean": lambda f: robust.trimmed_mean(f=f),
    "meamed": lambda f: robust.meamed(f=f),
}
WEIGHTED: dict[str, Callable[[Any], fl.Aggregator]] = {
    "median": lambda f: robust.median(weighted=True),
    "trimmed_mean": lambda f: robust.trimmed_mean(f=f, weighted=True),
    "rlr": lambda f: robust.rlr(threshold=3),
}


@jax.jit
def by_rule(x: jax.Array, present: jax.Array, f: jax.Array) -> dict[str, jax.Array]:
    """What each makes of unweighted messages."""
    return {name: robust.apply(make(f), x, present=present) for name, make in MADE.items()}


@jax.jit
def by_weight(x: jax.Array, present: jax.Array, weights: jax.Array, f: jax.Array) -> dict[str, jax.Array]:
    """What each makes of weighted messages."""
    return {name: robust.apply(make(f), x, present=present, weights=weights) for name, make in WEIGHTED.items()}


def plain(x: np.ndarray, f: int) -> dict[str, np.ndarray]:
    """The same of those who are there, in float64."""
    x = x.astype(np.float64)
    middle = np.median(x, axis=0)
    nearest = []
    for column, center in zip(x.T, middle, strict=True):
        order = np.argsort(np.abs(column - center), kind="stable")
        nearest.append(column[order[: len(x) - f]].mean())
    trimmed = scipy.stats.trim_mean(x, (f + 0.5) / len(x), axis=0)
    return {"mean": x.mean(0), "median": middle, "trimmed_mean": trimmed, "meamed": np.array(nearest)}


def plain_weighted(x: np.ndarray, weights: np.ndarray, f: int) -> dict[str, np.ndarray]:
    """Weighted medians and trimmed means of whole weights: of as many copies of each message."""
    copies = np.repeat(x.astype(np.float64), weights, axis=0)
    total, cut = len(copies), f * weights.sum() / len(x)
    trimmed = []
    for column in np.sort(copies, axis=0).T:
        place = np.arange(total)
        share = np.clip(np.minimum(place + 1, total - cut) - np.maximum(place, cut), 0, 1)
        trimmed.append((share * column).sum() / share.sum())
    mean = copies.mean(0)
    votes = np.abs(np.sign(x).sum(0))
    return {
        "median": np.median(copies, axis=0),
        "trimmed_mean": np.array(trimmed),
        "rlr": np.where(votes < 3, -mean, mean),
    }


values = st.one_of(
    arrays.arrays(np.float32, SHAPE, elements=st.integers(-3, 3).map(float)),  # ties
    arrays.arrays(np.float32, SHAPE, elements=st.floats(-100, 100, width=32)),
)


@st.composite
def rounds(draw: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Messages, who is there, and how many of these may be bad."""
    present = draw(arrays.arrays(np.bool_, CLIENTS).filter(lambda there: there.any()))
    return draw(values), present, draw(st.integers(0, (int(present.sum()) - 1) // 2))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (robust.mean(), (4, 5, 6)),
        (robust.median(), (4, 5, 6)),
        (robust.median(weighted=True), (4, 5, 6)),
        (robust.trimmed_mean(f=1), (4, 5, 6)),
        (robust.trimmed_mean(f=1, weighted=True), (4, 5, 6)),
        (robust.meamed(f=1), (2.5, 3.5, 4.5)),
        (robust.rlr(threshold=2), (4, 5, 6)),
    ],
    ids=lambda part: getattr(part, "name", ""),
)
def test_the_values_of_the_field(rule: fl.Aggregator, expected: tuple[float, ...]) -> None:
    x = jnp.float32([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert jax.jit(lambda x: robust.apply(rule, x))(x).tolist() == list(expected)


@hypothesis.given(rounds())
def test_rules_are_plain_loops_over_those_who_are_there(given: tuple[np.ndarray, np.ndarray, int]) -> None:
    x, present, f = given
    found, expected = by_rule(x, present, jnp.int32(f)), plain(x[present], f)
    for name in expected:
        # Two values equally far from the median but for rounding: either is one of the nearest.
        if name != "meamed" or _clear(x[present], f):
            np.testing.assert_allclose(found[name], expected[name], **NEAR, err_msg=name)


def _clear(x: np.ndarray, f: int) -> bool:
    """Whether float32 tells the distances to the median apart as float64 does."""
    middle = np.median(x, axis=0)
    exact = np.abs(x.astype(np.float64) - np.median(x.astype(np.float64), axis=0))
    short = np.abs(x * np.float32(0.5) - middle.astype(np.float32) * np.float32(0.5))
    return all(
        (np.argsort(a, kind="stable") == np.argsort(b, kind="stable")).all()
        for a, b in zip(exact.T, short.T, strict=True)
    )


@hypothesis.given(rounds(), arrays.arrays(np.int32, CLIENTS, elements=st.integers(1, 6)))
def test_weights_are_copies(given: tuple[np.ndarray, np.ndarray, int], weights: np.ndarray) -> None:
    x, present, f = given
    found = by_weight(x, present, weights.astype(np.float32), jnp.int32(f))
    expected = plain_weighted(x[present], weights[present], f)
    if present.sum() < 3:  # fewer than rlr's threshold: the round changes nothing
        expected["rlr"] = np.zeros(ENTRIES)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], **NEAR, err_msg=name)


@hypothesis.given(rounds(), st.sampled_from([0.1, 1.0, 7.0, 1e-3]))
def test_equal_weights_change_nothing(given: tuple[np.ndarray, np.ndarray, int], weight: float) -> None:
    x, present, f = given
    found = by_weight(x, present, np.full(CLIENTS, weight, np.float32), jnp.int32(f))
    expected = by_rule(x, present, jnp.int32(f))
    for name in ("median", "trimmed_mean"):
        np.testing.assert_allclose(found[name], expected[name], **NEAR, err_msg=name)


@hypothesis.given(values, arrays.arrays(np.bool_, CLIENTS).filter(lambda there: there.any()))
def test_without_bad_clients_two_are_the_mean(x: np.ndarray, present: np.ndarray) -> None:
    found = by_rule(x, present, jnp.int32(0))
    for name in ("trimmed_mean", "meamed"):
        np.testing.assert_allclose(found[name], found["mean"], **NEAR, err_msg=name)


@hypothesis.given(
    rounds(), st.permutations(range(CLIENTS)), st.sampled_from([-2.0, -1.0, 0.5, 4.0]), st.integers(-8, 8)
)
def test_order_does_not_matter_and_scales_signs_and_shifts_are_followed(
    given: tuple[np.ndarray, np.ndarray, int], order: list[int], scale: float, shift: int
) -> None:
    x, present, f = given
    x = np.round(x * 64) / 64  # so that scaled and shifted numbers are exact
    found = by_rule(x, present, jnp.int32(f))
    moved = by_rule(np.float32(scale) * x + np.float32(shift), present, jnp.int32(f))
    for name in MADE:
        np.testing.assert_allclose(moved[name], scale * found[name] + shift, rtol=1e-4, atol=1e-4, err_msg=name)
    shuffled = by_rule(x[order], present[order], jnp.int32(f))
    for name in ("median", "trimmed_mean"):
        np.testing.assert_allclose(shuffled[name], found[name], **NEAR, err_msg=name)


def test_every_f_at_once_is_one_by_one() -> None:
    x = jax.random.normal(jax.random.key(0), SHAPE)
    everyone = jnp.ones(CLIENTS, bool)
    names = ("trimmed_mean", "meamed")
    of_two = lambda f: {name: robust.apply(MADE[name](f), x, present=everyone) for name in names}  # noqa: E731
    together = jax.jit(jax.vmap(of_two))(jnp.arange(4, dtype=jnp.int32))
    alone = jax.jit(lambda x: {name: [robust.apply(MADE[name](f), x) for f in range(4)] for name in names})(x)
    for name in names:
        np.testing.assert_allclose(together[name], alone[name], **NEAR, err_msg=name)


@hypothesis.given(values, st.integers(1, 3), st.sampled_from([-3e38, -50.0, 0.0, 1.5, 1e20, 3e38]))
def test_f_bad_ones_leave_every_entry_between_honest_values(x: np.ndarray, f: int, bad: float) -> None:
    x = x.copy()
    x[-f:] = bad
    low, high = x[:-f].min(0), x[:-f].max(0)
    found = by_rule(x, np.ones(CLIENTS, bool), jnp.int32(f))
    for name, room in (("median", 0), ("trimmed_mean", 0), ("meamed", 1)):
        slack = room * (high - low) + 1e-4
        assert (found[name] >= low - slack).all(), name
        assert (found[name] <= high + slack).all(), name


@pytest.mark.parametrize(("name", "f"), [("trimmed_mean", 1), ("trimmed_mean", 2), ("meamed", 2), ("median", 3)])
def test_one_more_moves_it_anywhere(name: str, f: int) -> None:
    x = np.zeros(SHAPE, np.float32)
    x[: f + 1] = 1e6
    assert (by_rule(x, np.ones(CLIENTS, bool), jnp.int32(f))[name] > 1e4).all()
    x[f] = 0.0
    assert (by_rule(x, np.ones(CLIENTS, bool), jnp.int32(f))[name] == 0).all()


def test_huge_messages_lose() -> None:
    everyone, f = np.ones(CLIENTS, bool), jnp.int32(2)
    for huge in (3e38, np.inf):
        x = np.broadcast_to(np.float32([1, 2, 3, 4, 5, huge, -huge])[:, None], SHAPE)
        found = by_rule(x, everyone, f)
        for name in ("median", "trimmed_mean", "meamed"):
            np.testing.assert_allclose(found[name], 3, rtol=1e-6, err_msg=name)
        found = by_weight(x, everyone, np.ones(CLIENTS, np.float32), f)
        for name in ("median", "trimmed_mean"):
            np.testing.assert_allclose(found[name], 3, rtol=1e-6, err_msg=name)


def _few(*values: float) -> tuple[np.ndarray, np.ndarray]:
    """So many clients of those that `by_rule` and `by_weight` are compiled for, and who is there."""
    there = np.arange(CLIENTS) < len(values)
    return np.broadcast_to(np.resize(np.float32(values), CLIENTS)[:, None], SHAPE), there


def test_a_bad_client_of_most_weight_is_the_weighted_median_and_not_the_median() -> None:
    x, there = _few(0, 1, 100)
    weights = np.float32([1, 1, 3, 9, 9, 9, 9])
    assert (by_weight(x, there, weights, jnp.int32(1))["median"] == 100).all()
    assert (by_rule(x, there, jnp.int32(1))["median"] == 1).all()


def test_who_weighs_nothing_does_not_count() -> None:
    x, there = _few(5, 1, 9, 7)
    weights = np.float32([1, 0, 1, 1, 9, 9, 9])
    assert (by_weight(x, there, weights, jnp.int32(1))["median"] == 7).all()
    for leaf in by_weight(x, there, 0 * weights, jnp.int32(1)).values():
        assert np.isfinite(leaf).all()


def test_too_few_votes_turn_an_entry() -> None:
    x = np.zeros(SHAPE, np.float32)
    x[:3, :3] = [[1, 1, 0], [2, -1, 0], [3, 9, 6]]
    there = np.arange(CLIENTS) < 3
    found = by_weight(x, there, np.ones(CLIENTS, np.float32), jnp.int32(1))["rlr"]
    np.testing.assert_allclose(found, [2, -3, -2, 0], rtol=1e-6)
    found = by_weight(x, there, np.float32([1, 1, 2, 9, 9, 9, 9]), jnp.int32(1))["rlr"]
    np.testing.assert_allclose(found, [2.25, -4.5, -3, 0], rtol=1e-6)
    np.testing.assert_allclose(robust.apply(robust.rlr(threshold=1), x[:3]), [2, 3, 2, 0], rtol=1e-6)


def test_many_rows_step_by_step_are_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = jax.random.normal(jax.random.key(2), SHAPE)
    there = jnp.arange(CLIENTS) != 3
    expected = by_rule(x, there, jnp.int32(2))["meamed"]
    monkeypatch.setattr(importlib.import_module("fedjaxlite.wire.robust.coordinates.meamed"), "_ROWS", 4)
    found = jax.jit(lambda x: robust.apply(robust.meamed(f=2), x, present=there))(x)
    np.testing.assert_allclose(found, expected, **NEAR)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "meamed"])
def test_a_rule_keeps_nothing_besides_the_messages(name: str) -> None:
    # Compilers take a network apart into hundreds of loops as soon as something in it changes its shape.
    entries = 5_000
    many = jax.jit(jax.vmap(lambda x, present, f: robust.apply(MADE[name](f), x, present=present), (0, None, 0)))
    given = jnp.zeros((3, 15, entries)), jnp.ones(15, bool), jnp.arange(3, dtype=jnp.int32)
    held = many.lower(*given).compile().memory_analysis()
    assert held.temp_size_in_bytes < 3 * 15 * entries * 4 * 1.1


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: robust.median(weighted=1), TypeError, "`weighted` is 1; expected True or False"),
        (lambda: robust.trimmed_mean(f=-1), ValueError, "`f` is -1; expected an int of at least 0"),
        (lambda: robust.trimmed_mean(f=1.5), TypeError, "`f` is 1.5"),
        (lambda: robust.meamed(f="a"), TypeError, "`f` is 'a'"),
        (lambda: robust.rlr(threshold=0), ValueError, "`threshold` is 0; expected a finite number above 0"),
        (lambda: robust.apply(robust.trimmed_mean(f=2), jnp.zeros((4, 1))), ValueError, "needs at least 5 clients"),
        (lambda: robust.apply(robust.meamed(f=2), jnp.zeros((4, 1))), ValueError, "`meamed` needs at least 5 clients"),
        (lambda: robust.apply(robust.rlr(threshold=4.5), jnp.zeros((4, 1))), ValueError, "needs at least 5 clients"),
        (
            lambda: robust.apply(robust.median(), jnp.zeros((4, 1)), weights=jnp.ones(4)),
            ValueError,
            "`median` counts every client as one",
        ),
        (
            lambda: robust.apply(robust.meamed(f=1), jnp.zeros((4, 1)), weights=jnp.ones(4)),
            ValueError,
            "`meamed` counts every client as one",
        ),
    ],
)
def test_errors(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()
