"""Rules that look for a center: exact values, plain NumPy beside them, bounds, symmetries, and states over rounds."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import fedjaxlite as fl

K, D = 9, 6
X = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
THREE_STEPS = [3.78788764, 4.78788764, 5.78788764]  # computed by hand in float64, from zero with a smoothing of 0.1


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rotation(seed: int, size: int = D) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0].astype(np.float32)


def as_tree(rows: Any) -> Any:
    return {"a": rows[..., :4].reshape(*rows.shape[:-1], 2, 2), "b": rows[..., 4:]}


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(tree["a"]).reshape(-1), np.asarray(tree["b"])])


@partial(jax.jit, static_argnames="rule")
def run(rule: Any, rows: jax.Array, weights: jax.Array, present: jax.Array) -> Any:
    return fl.robust.apply(rule.made, as_tree(rows), weights=weights if rule.weighted else None, present=present)


class Rule:
    """A hashable name for a rule, so that its program is compiled once."""

    def __init__(self, made: Any, weighted: bool) -> None:
        self.made, self.weighted = made, weighted

    def __call__(self, rows: Any, weights: Any = None, present: Any = None) -> np.ndarray:
        n = len(rows)
        weights = jnp.ones(n) if weights is None else jnp.asarray(weights, jnp.float32)
        present = jnp.ones(n, bool) if present is None else jnp.asarray(present)
        return flat(run(self, jnp.asarray(rows, jnp.float32), weights, present))


GM = Rule(fl.robust.geometric_median(), weighted=True)
CC = Rule(fl.robust.centered_clipping(1.0, steps=3), weighted=True)
DNC = Rule(fl.robust.dnc(f=2, coordinates=None), weighted=False)


def applied(codecs: Any, rows: Any) -> Any:
    """A rule on plain arrays, as one program."""
    return jax.jit(partial(fl.robust.apply, codecs))(rows)


def distances(rows: np.ndarray, weights: np.ndarray, z: np.ndarray) -> float:
    return float((weights * np.linalg.norm(rows.astype(np.float64) - z, axis=1)).sum())


def exact_median(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The geometric median by a general minimizer, in float64."""
    x = rows.astype(np.float64)
    smooth = lambda z: float((weights * np.sqrt(((x - z) ** 2).sum(1) + 1e-20)).sum())  # noqa: E731
    return minimize(smooth, np.median(x, axis=0), method="BFGS", options={"gtol": 1e-9}).x


def test_the_geometric_median_of_equally_spaced_points_is_the_middle_one() -> None:
    starts = ("inside", "mean", "zero")
    for found in jax.jit(lambda x: [fl.robust.apply(fl.robust.geometric_median(start=s), x) for s in starts])(X):
        np.testing.assert_allclose(found, X[1], atol=2e-5)


def test_three_smoothed_steps_from_zero_are_not_it() -> None:
    def rule(steps: int) -> fl.Aggregator:
        return fl.robust.geometric_median(tolerance=0.0, smoothing=0.1, max_steps=steps, start="zero")

    found = jax.jit(lambda x: [fl.robust.apply(rule(steps), x) for steps in (1, 2, 3)])(X)
    z = np.zeros(3)
    for one in found:
        share = 1 / np.maximum(0.1, np.linalg.norm(X - z, axis=1))
        z = (share[:, None] * X).sum(0) / share.sum()
        np.testing.assert_allclose(one, z, rtol=1e-6)
    np.testing.assert_allclose(z, THREE_STEPS, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_geometric_median_is_what_a_minimizer_finds(seed: int) -> None:
    rows, weights = normal(seed, K, D), np.random.default_rng(seed).uniform(0.2, 3, K)
    best = exact_median(rows, weights)
    found = GM(rows, weights)
    np.testing.assert_allclose(found, best, atol=1e-4)
    # The promise: the sum of distances is above the least by no more than tolerance * |z - z*| + smoothing.
    slack = (1e-5 * np.linalg.norm(found - best) + 1e-6) * weights.sum() + 1e-6 * distances(rows, weights, best)
    assert distances(rows, weights, found) <= distances(rows, weights, best) + slack


def test_a_result_that_counts_as_finished_is_not_pulled_away() -> None:
    rows = normal(3, K, D)
    z = GM(rows)
    away = rows.astype(np.float64) - z
    pull = np.linalg.norm((away / np.linalg.norm(away, axis=1, keepdims=True)).mean(0))
    assert pull < 2e-5  # the tolerance of 1e-5, and float32


def test_weights_are_copies() -> None:
    rows = normal(5, 4, D)
    copies = np.concatenate([rows, rows[:1], rows[:1], rows[3:]])
    padded = np.concatenate([rows, np.zeros((3, D), np.float32)])
    there = [True] * 4 + [False] * 3
    for rule in (GM, CC):
        np.testing.assert_allclose(rule(padded, [3, 1, 1, 2, 0, 0, 0], there), rule(copies), atol=1e-4)


@pytest.mark.parametrize("rule", [GM, CC, DNC], ids=["geometric_median", "centered_clipping", "dnc"])
def test_symmetries(rule: Rule) -> None:
    rows, shift, turn = normal(7, K, D), normal(8, D), rotation(9)
    rows[-2:] += 4
    plain = rule(rows)
    np.testing.assert_allclose(rule(rows[::-1]), plain, atol=1e-4)
    np.testing.assert_allclose(rule(rows @ turn), plain @ turn, atol=1e-4)
    if rule is not CC:  # whose center and clip norm do not move along
        np.testing.assert_allclose(rule(rows + shift), plain + shift, atol=1e-4)
        np.testing.assert_allclose(rule(3 * rows), 3 * plain, atol=3e-4)


@pytest.mark.parametrize("rule", [GM, CC, DNC], ids=["geometric_median", "centered_clipping", "dnc"])
def test_who_is_absent_does_not_count(rule: Rule) -> None:
    rows = 5 + normal(11, K, D)  # so that zeros are not like the others
    there = np.arange(K) % 4 != 1
    inside = rule(np.where(there[:, None], rows, 0), present=there)
    left = rows[there]
    compact = np.concatenate([left, np.zeros((K - len(left), D), np.float32)])
    np.testing.assert_allclose(inside, rule(compact, present=np.arange(K) < len(left)), atol=2e-5)
    assert np.linalg.norm(inside - rule(rows)) > 1e-3


@pytest.mark.parametrize("size", [1e5, 1e20, 3e38])
def test_huge_messages_lose(size: float) -> None:
    rows = normal(13, K, D)
    honest = rows[2:].mean(0)
    rows[:2] = size
    spread = np.linalg.norm(rows[2:] - honest, axis=1).mean()
    for rule in (GM, DNC):
        assert np.linalg.norm(rule(rows) - honest) < 2 * spread
    assert np.isfinite(CC(rows)).all()
    assert np.linalg.norm(CC(rows)) <= 3 * (1 + 1e-6)  # three steps from zero, by at most the clip norm of 1 each


def test_what_is_too_large_for_a_norm_is_left_out() -> None:
    """Its share of a mean by 1 / distance would be wrong, and so would its message at another norm."""
    rows = 100 * normal(14, K, 400)
    rows[0] = 3e38
    rules = [
        fl.robust.geometric_median(tolerance=1e-3),
        fl.robust.dnc(f=1),
        fl.robust.fl_trust(server=1),
        fl.robust.zeno_pp(server=1, epsilon=1e9),
    ]
    there = np.arange(K) > 0
    absent = np.where(there[:, None], rows, 0)
    run_all = lambda x, present: [fl.robust.apply(rule, x, present=present) for rule in rules]  # noqa: E731
    sent, missing = jax.jit(lambda x, y: (run_all(x, None), run_all(y, there)))(rows, absent)
    for one, other in zip(sent, missing, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
        assert 0 < np.abs(one).max() < 1000


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_messages_of_any_size_have_a_center(scale: float) -> None:
    rows = normal(15, K, D)
    rule = Rule(fl.robust.geometric_median(smoothing=0.0), weighted=True)
    np.testing.assert_allclose(rule(rows * np.float32(scale)) / scale, GM(rows), atol=1e-4)


def test_messages_far_from_zero_keep_their_differences() -> None:
    rows = normal(17, K, D)
    far = (1000 + rows / 64).astype(np.float32)
    exact = exact_median(far, np.ones(K))
    assert np.linalg.norm(GM(far) - exact) < 3e-4  # a spacing of float32 there is 6e-5
    kept = (far.astype(np.float64) - 1000).astype(np.float32)
    np.testing.assert_allclose(DNC(far) - 1000, DNC(kept), atol=2e-4)


def test_the_geometric_median_keeps_its_bound_in_random_placements() -> None:
    """|z - mean|^2 <= 4 (1 + r)^2 of the honest variance: Allouah et al. (2023), table 1."""
    n, tries = 11, 150
    rule = fl.robust.geometric_median(tolerance=1e-4, max_steps=400)
    of_all = jax.jit(jax.vmap(partial(fl.robust.apply, rule)))
    for f in (1, 3, 5):
        rng = np.random.default_rng(f)
        rows = rng.normal(size=(tries, n, 2)).astype(np.float32)
        size = rng.choice([0.5, 2, 10, 1000], size=(tries, 1, 1))
        rows[:, :f] = rows[:, :f] * rng.choice([0.01, 1], size=(tries, 1, 1)) + size * rng.normal(size=(tries, 1, 2))
        found = np.asarray(of_all(rows))
        mean = rows[:, f:].mean(1)
        variance = ((rows[:, f:] - mean[:, None]) ** 2).sum(2).mean(1)
        ratio = ((found - mean) ** 2).sum(1) / variance
        r = f / (n - 2 * f)
        assert ratio.max() <= 4 * (1 + r) ** 2
        assert ratio.max() > 0.02 * (1 + r) ** 2  # the bad ones did something


def test_one_bad_client_more_than_half_moves_the_geometric_median_anywhere() -> None:
    rows = normal(19, K, D)
    rows[:4] = 1e4
    assert np.linalg.norm(GM(rows)) < 10
    rows[:5] = 1e4
    assert np.linalg.norm(GM(rows)) > 1e4


def test_steps_that_do_not_suffice_are_counted() -> None:
    def told(max_steps: int) -> dict[str, int]:
        codec = fl.chain(fl.mean(), fl.robust.geometric_median(max_steps=max_steps))
        state, _ = codec.init(fl.wire_of(jnp.zeros(3), capacity=3, weight=np.float32(1)))
        rows = fl.Stacked(
            fl.Message(jnp.float32([[0, 0, 9], [0, 4, 0], [1, 0, 0]]), jnp.ones(3), {}), jnp.ones(3, bool)
        )
        _, state = jax.jit(codec.decode)(state, rows, jax.random.key(0))
        return {name: int(value) for name, value in codec.metrics(state).items()}

    assert told(200) == {"geometric_median_skipped": 0, "geometric_median_unfinished": 0}
    assert told(2) == {"geometric_median_skipped": 0, "geometric_median_unfinished": 1}


def test_centered_clipping_in_closed_form() -> None:
    rows = np.array([[3, 4], [0, 0.5], [0.1, 0]], np.float32)
    once, four = jax.jit(
        lambda x: [fl.robust.apply(fl.robust.centered_clipping(1.0, steps=steps), x) for steps in (1, 4)]
    )(rows)
    np.testing.assert_allclose(once, np.array([0.6 + 0.1, 0.8 + 0.5], np.float32) / 3, rtol=1e-6)
    v = np.zeros(2)
    for _ in range(4):
        away = rows - v
        v = v + (away * np.minimum(1, 1 / np.linalg.norm(away, axis=1))[:, None]).mean(0)
    np.testing.assert_allclose(four, v, rtol=1e-5)


def test_the_center_is_the_last_result_and_stays_where_too_few_report() -> None:
    chain = fl.chain(fl.mean(), fl.robust.centered_clipping(1.0))
    state, _ = chain.init(fl.wire_of(jnp.zeros(2), capacity=2, weight=np.float32(1)))
    decode = jax.jit(chain.decode)
    found = []
    for there in ([True, True], [False, False], [True, False]):
        rows = jnp.where(jnp.array(there)[:, None], jnp.float32([[8, 0], [0.5, 0]]), 0)
        message = fl.Message(rows, jnp.float32(there), {})
        value, state = decode(state, fl.Stacked(message, jnp.array(there)), jax.random.key(0))
        found.append(value.value.tolist())
    assert found == [[0.75, 0], [0, 0], [1.75, 0]]  # (1 + 0.5) / 2; nothing; and one step more towards 8
    assert int(chain.metrics(state)["centered_clipping_skipped"]) == 1


def test_worker_momentum_is_an_average_over_a_clients_rounds() -> None:
    chain = fl.chain(fl.mean(), fl.robust.worker_momentum(0.75), fl.robust.mean())
    state, _ = chain.init(fl.wire_of(jnp.zeros(2), capacity=2, weight=np.float32(1)))
    own, client = chain.init_client(jnp.zeros(2)), fl.ClientInfo(0, 1.0, jax.random.key(0), True)
    sent = []
    for update in ([4, 0], [0, 8], [0, 0]):
        message, own = chain.encode(state, own, fl.Message(jnp.float32(update), jnp.float32(1), {}), client)
        sent.append(message.value.tolist())
    assert sent == [[4, 0], [3, 2], [2.25, 1.5]]


def test_clipping_nothing_is_the_mean() -> None:
    rows, weights = normal(21, K, D), np.arange(1, K + 1)
    for clip_norm in (1e6, float("inf")):
        rule = Rule(fl.robust.centered_clipping(clip_norm, steps=2), weighted=True)
        np.testing.assert_allclose(rule(rows, weights), np.average(rows, axis=0, weights=weights), atol=1e-5)


def test_one_client_moves_centered_clipping_by_its_share_of_the_clip_norm() -> None:
    rule, rng = Rule(fl.robust.centered_clipping(0.25), weighted=True), np.random.default_rng(0)
    rows = normal(23, K, D)
    for size in (0.1, 10, 1e30):
        bad = rows.copy()
        bad[0] = size * rng.normal(size=D)
        assert np.linalg.norm(rule(bad) - rule(rows)) <= 2 * 0.25 / K * (1 + 1e-5)


def test_the_clip_norm_and_the_tolerance_may_be_traced_and_vmapped() -> None:
    rows = jnp.asarray(normal(25, K, 3))
    given = {"clip": (0.1, 1.0, 50.0), "tolerance": (1e-1, 1e-3, 1e-5)}
    rules = {
        "clip": fl.robust.centered_clipping,
        "tolerance": lambda t: fl.robust.geometric_median(tolerance=t),
    }

    @jax.jit
    def both(x: jax.Array) -> Any:
        apart = {name: jnp.stack([fl.robust.apply(rules[name](v), x) for v in given[name]]) for name in rules}
        traced = lambda name: jax.vmap(lambda v: fl.robust.apply(rules[name](v), x))(jnp.float32(given[name]))  # noqa: E731
        return apart, {name: traced(name) for name in rules}

    apart, traced = both(rows)
    for name in rules:
        np.testing.assert_allclose(traced[name], apart[name], atol=1e-5)
        assert np.abs(apart[name][0] - apart[name][2]).max() > 1e-4


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: fl.robust.geometric_median(tolerance=-1),
            ValueError,
            "`tolerance` is -1; expected a number of at least",
        ),
        (
            lambda: fl.robust.geometric_median(max_steps=0),
            ValueError,
            "`max_steps` is 0; expected an int of at least 1",
        ),
        (lambda: fl.robust.geometric_median(start="median"), ValueError, "expected one of 'inside', 'mean', 'zero'"),
        (lambda: fl.robust.centered_clipping(0), ValueError, "at 0 the center would never move"),
        (lambda: fl.robust.centered_clipping(1.0, steps=0), ValueError, "`steps` is 0"),
        (lambda: fl.robust.dnc(f=-1), ValueError, "`f` is -1; expected an int of at least 0"),
        (lambda: fl.robust.dnc(f=1, c=0), ValueError, "`c` is 0; expected a finite number above 0"),
        (lambda: fl.robust.norm_filter(0.0), ValueError, "at 0 every message would be left out"),
        (lambda: fl.robust.worker_momentum(1.0), ValueError, "`beta` is 1.0; expected a number in"),
    ],
)
def test_bad_arguments_are_refused(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_what_is_ignored_is_refused() -> None:
    with pytest.raises(ValueError, match="`dnc` needs at least 5 clients in a round"):
        fl.robust.apply(fl.robust.dnc(f=2), np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match="`dnc` needs at least 7 clients in a round"):
        fl.robust.apply(fl.robust.dnc(f=2, c=1.5, steps=2), np.zeros((6, 2), np.float32))
    with pytest.raises(ValueError, match="`dnc` .*every client .*as one"):
        fl.robust.apply(fl.robust.dnc(f=0), np.zeros((4, 2), np.float32), weights=np.ones(4))
