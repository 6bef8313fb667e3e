"""What is proved about rules: the formulas, messages that come as near as any can, and a search that finds none beyond."""

import inspect
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite import robust

NUM = 11
"""Messages, as in the tables of the field."""

RULES: dict[str, Callable[[Any], fl.Aggregator]] = {
    "median": lambda f: robust.median(),
    "trimmed_mean": lambda f: robust.trimmed_mean(f=f),
    "meamed": lambda f: robust.meamed(f=f),
}


@lru_cache(maxsize=1)
def ratios() -> Any:
    """`(x [P, n, d], f) -> {rule: [P]}`: squared distance to the mean of the first n - f, by their variance."""

    def one(x: jax.Array, f: jax.Array) -> dict[str, jax.Array]:
        honest = (jnp.arange(NUM) < NUM - f).astype(jnp.float32)
        mean = jnp.einsum("k,kd->d", honest, x, precision="highest") / honest.sum()
        variance = (honest[:, None] * jnp.square(x - mean[None])).sum() / honest.sum()
        far = {name: jnp.square(robust.apply(make(f), x) - mean).sum() for name, make in RULES.items()}
        return {name: square / variance for name, square in far.items()}

    return jax.jit(jax.vmap(one, (0, None)))


def placements(f: int, num: int = 200, entries: int = 3) -> np.ndarray:
    """Honest messages of many shapes, and f bad ones far away, among them, or on the edge."""
    rng = np.random.default_rng(f)
    honest = rng.standard_t(2, (num, NUM - f, entries)) * rng.exponential(1, (num, 1, entries))
    two_points = rng.random((num, NUM - f, entries)) < rng.random((num, 1, 1))
    honest = np.where(rng.random((num, 1, 1)) < 0.5, honest, two_points)
    spread = honest.std(1, keepdims=True) + 1e-3
    far = rng.choice([-30.0, -2.0, -1.0, 0.0, 1.0, 2.0, 30.0], (num, 1, entries))
    edge = np.where(rng.random((num, 1, entries)) < 0.5, honest.min(1, keepdims=True), honest.max(1, keepdims=True))
    bad = np.where(rng.random((num, 1, 1)) < 0.5, honest.mean(1, keepdims=True) + far * spread, edge)
    return np.concatenate([honest, np.repeat(bad, f, axis=1)], axis=1).astype(np.float32)


@pytest.mark.parametrize("f", [1, 3, 5])
def test_no_placement_of_bad_messages_goes_beyond_the_bound(f: int) -> None:
    found = ratios()(placements(f), jnp.int32(f))
    for name, ratio in found.items():
        bound = robust.kappa_bound(name, n=NUM, f=f)
        assert bound is not None
        worst = float(jnp.nanmax(ratio))
        assert 0.02 * bound < worst <= bound * (1 + 1e-4), (name, worst, bound)


@pytest.mark.parametrize(("f", "least"), [(1, 1 / 9), (3, 0.6), (5, 5.0)])
def test_what_no_rule_can_avoid_is_attained(f: int, least: float) -> None:
    # f honest messages at 1 are cut off with f bad ones at 0, among the others at 0: nobody can tell which are bad.
    x = np.zeros((1, NUM, 1), np.float32)
    x[0, :f] = 1.0
    found = ratios()(x, jnp.int32(f))
    assert robust.least_kappa(n=NUM, f=f) == pytest.approx(least)
    for name in ("median", "trimmed_mean"):
        np.testing.assert_allclose(found[name], least, rtol=1e-5, err_msg=name)


def test_bounds_are_those_of_the_papers() -> None:
    n, f = 11, 3
    r = f / (n - 2 * f)
    expected = {
        "trimmed_mean": 6 * r * (1 + r),
        "median": 4 * (1 + r) ** 2,
        "geometric_median": 4 * (1 + r) ** 2,
        "krum": (6 - 4 / 7) * 8 / 4,
        "multi_krum": (6 - 4 / 7) * 8 / 4,
        "mda": 9.0,
        "meamed": 9.0,
        "mean": math.inf,
        "robust_mean": math.inf,
        "bulyan": None,
        "rlr": None,
    }
    assert {name: robust.kappa_bound(name, n=n, f=f) for name in expected} == pytest.approx(expected)
    nnm = robust.kappa_bound(["nnm", "trimmed_mean"], n=n, f=f)
    assert nnm == pytest.approx(8 * f / (n - f) * (6 * r * (1 + r) + 1))
    assert robust.kappa_bound(["arc", "nnm", "trimmed_mean"], n=n, f=f) == pytest.approx(nnm + 2 * r)
    assert robust.kappa_bound(["bucketing", "median"], n=n, f=f) is None
    many = robust.kappa_bound("meamed", n=1000, f=300)
    assert many == pytest.approx(4 * 3 / 7 * (1 + 4 * (1 + 0.75) ** 2))


def test_every_rule_has_an_answer() -> None:
    makers = [getattr(robust, name) for name in robust.__all__]
    for make in makers:
        if inspect.isfunction(make) and make.__annotations__.get("return") is fl.Aggregator:
            name = make.__name__
            row = [name, "median"] if make.__module__.split(".")[-2] == "before" or name == "norm_filter" else name
            assert robust.kappa_bound(row, n=11, f=1) != 0, name


def test_without_bad_clients_the_bound_of_a_mean_is_zero() -> None:
    for name in ("mean", "trimmed_mean", "meamed", "mda", ["nnm", "median"], ["arc", "trimmed_mean"]):
        assert robust.kappa_bound(name, n=5, f=0) == 0


def test_a_rule_knows_its_f() -> None:
    assert robust.kappa_bound(robust.trimmed_mean(f=1), n=11) == pytest.approx(20 / 27)
    assert robust.kappa_bound(robust.median(), n=11, f=1) == robust.kappa_bound("median", n=11, f=1)
    assert robust.kappa_bound(robust.median(weighted=True), n=11, f=1) is None


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (("nothing", {"n": 5, "f": 1}), ValueError, "`rule` is 'nothing'; expected one of fl.robust at the end: arc, "),
        ((["median", "nnm"], {"n": 5, "f": 1}), ValueError, "`rule` is 'nnm'"),
        ((["mda", "median"], {"n": 5, "f": 1}), ValueError, "`rule` has 'mda' before its end"),
        (("median", {"n": 5}), TypeError, "`f` is None; expected how many"),
        (("median", {"n": 4, "f": 2}), ValueError, "`n` is 4; expected more than 2f = 4"),
        (("krum", {"n": 4, "f": 1}), ValueError, r"`n` is 4; expected at least 2f \+ 3 = 5"),
        ((robust.trimmed_mean(f=2), {"n": 9, "f": 1}), ValueError, "`f` is 1, and `trimmed_mean` was made with f=2"),
        (([], {"n": 5, "f": 1}), TypeError, "expected a rule's name, a rule, or what stands before"),
        ((3, {"n": 5, "f": 1}), TypeError, "`rule` is 3"),
    ],
)
def test_errors(given: tuple[Any, dict[str, int]], error: type[Exception], text: str) -> None:
    rule, numbers = given
    with pytest.raises(error, match=text):
        robust.kappa_bound(rule, **numbers)
