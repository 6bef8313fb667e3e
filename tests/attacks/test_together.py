"""Bad clients who see all honest messages: exact values, NumPy in float64, closed forms against bisection, real rounds."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import helpers
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.stats import norm

import fedjaxlite as fl
from fedjaxlite import attacks
from fedjaxlite.attacks.together.alie import largest_z
from fedjaxlite.wire.aggregator import Stacked

X = jnp.float32([[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0]])
"""Three honest messages, and a row for what the bad client sends."""
K, BAD = 9, [2, 7]


def last_row() -> fl.Aggregator:
    """A rule that shows what the last client sent."""
    return fl.rule(lambda state, rows, key: (jax.tree.map(lambda v: v[-1], rows.values), state), name="last")


TOGETHER: dict[str, Callable[[Any], fl.Aggregator]] = {
    "alie": attacks.alie,
    "alie/z": partial(attacks.alie, z=-0.7),
    "ipm": partial(attacks.ipm, scale=0.5),
    "min_max/std": attacks.min_max,
    "min_max/unit": partial(attacks.min_max, direction="unit"),
    "min_max/sign": partial(attacks.min_max, direction="sign"),
    "min_sum/std": attacks.min_sum,
    "min_sum/unit": partial(attacks.min_sum, direction="unit"),
    "mimic": attacks.mimic,
    "mimic/client": partial(attacks.mimic, client=4),
    "optimal_alie": lambda bad: attacks.optimal_alie(bad, median(), evaluations=8),
    "optimal_ipm": lambda bad: attacks.optimal_ipm(bad, median(), evaluations=8),
}


def median() -> fl.Aggregator:
    def middle(values: Any, weights: jax.Array, present: jax.Array) -> Any:
        del weights
        return jax.tree.map(lambda v: jnp.nanmedian(jnp.where(present[:, None], v, jnp.nan), axis=0), values)

    return fl.stack(middle, name="nan_median")


@lru_cache(maxsize=32)
def compiled(name: str) -> Callable[..., Any]:
    """`call(values, present, bad) -> all that is sent`; bad is a mask of clients."""

    @jax.jit
    def call(values: Any, present: jax.Array, mask: jax.Array) -> Any:
        show = fl.rule(lambda s, rows, key: (jax.tree.map(lambda v: v.ravel(), rows.values), s), name="show")
        show = show._replace(decode=lambda state, total, key: (fl.Message(total.values, jnp.float32(1), {}), state.own))
        return fl.robust.apply([TOGETHER[name](attacks.pool(mask)), show], values, present=present)

    return call


def all_sent(name: str, values: Any, present: Any = None, bad: Any = BAD) -> Any:
    mask = np.isin(np.arange(K), bad)
    return np.asarray(compiled(name)(values, jnp.ones(K, bool) if present is None else present, mask))


def test_values_of_other_libraries() -> None:
    """ByzFL's tests of ALIE, Inner Product Manipulation, Sign Flipping and Mimic."""
    expected = {
        (8.5, 9.5, 10.5): attacks.alie([3], z=1.5),
        (-8, -10, -12): attacks.ipm([3], scale=2.0),
        (-4, -5, -6): attacks.ipm([3]),
        (1, 2, 3): attacks.mimic([3], client=0),
    }
    got = jax.jit(lambda x: [fl.robust.apply([codec, last_row()], x) for codec in expected.values()])(X)
    for value, message in zip(expected, got, strict=True):
        np.testing.assert_allclose(message, value, rtol=1e-6)


@pytest.mark.parametrize(
    ("n", "f", "z"), [(25, 5, 0.2533471), (50, 12, 0.3360381), (51, 12, 0.3612016), (10, 2, 0.0), (15, 5, 0.5244005)]
)
def test_the_z_of_the_paper(n: int, f: int, z: float) -> None:
    assert float(jax.jit(largest_z)(n, f)) == pytest.approx(z, abs=2e-7)
    s = n // 2 + 1 - f
    assert z == pytest.approx(norm.ppf((n - f - s) / (n - f)), abs=1e-6)


def test_the_z_of_a_round_counts_who_is_there() -> None:
    rng = np.random.default_rng(0)
    values, present = rng.normal(size=(K, 5)).astype(np.float32), np.arange(K) != 0
    honest = values[[i for i in range(1, K) if i not in BAD]].astype(np.float64)
    z = norm.ppf((6 - (8 // 2 + 1 - 2)) / 6)  # n = 8, f = 2: s = 3
    expected = honest.mean(0) + z * honest.std(0, ddof=1)
    np.testing.assert_allclose(all_sent("alie", values, present)[2], expected, rtol=1e-5, atol=1e-6)


def test_deviations_of_a_large_cohort_are_those_of_a_small_one() -> None:
    values = np.random.default_rng(9).normal(size=(140, 3)).astype(np.float32)
    got = jax.jit(lambda v: fl.robust.apply([attacks.alie([139], z=1.0), last_row()], v))(values)
    honest = values[:-1].astype(np.float64)
    np.testing.assert_allclose(got, honest.mean(0) + honest.std(0, ddof=1), rtol=1e-5)


def perturbation(honest: np.ndarray, direction: str) -> np.ndarray:
    mean = honest.mean(0)
    return {"std": -honest.std(0, ddof=1), "unit": -mean / np.linalg.norm(mean), "sign": -np.sign(mean)}[direction]


def bisected(allowed: Callable[[float], bool]) -> float:
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low


messages = st.integers(0, 2**31 - 1).map(
    lambda seed: (np.random.default_rng(seed).normal(size=(K, 5)) * 10 ** (seed % 7 - 3)).astype(np.float32)
)


@hypothesis.given(messages, st.sampled_from(["std", "unit", "sign"]))
def test_min_max_is_as_far_as_bisection_gets(values: np.ndarray, direction: str) -> None:
    honest = np.delete(values, BAD, 0).astype(np.float64)
    p, mean = perturbation(honest, direction), honest.mean(0)
    widest = max(((a - b) ** 2).sum() for a in honest for b in honest)
    gamma = bisected(lambda g: bool(((mean + g * p - honest) ** 2).sum(1).max() <= widest))
    got = all_sent(f"min_max/{direction}", values)
    np.testing.assert_allclose(got[BAD[0]], mean + gamma * p, rtol=1e-4, atol=1e-5 * np.abs(honest).max())
    np.testing.assert_array_equal(np.delete(got, BAD, 0), np.delete(values, BAD, 0))


@hypothesis.given(messages, st.sampled_from(["std", "unit"]))
def test_min_sum_is_as_far_as_bisection_gets(values: np.ndarray, direction: str) -> None:
    honest = np.delete(values, BAD, 0).astype(np.float64)
    p, mean = perturbation(honest, direction), honest.mean(0)
    most = max(((a - honest) ** 2).sum() for a in honest)
    gamma = bisected(lambda g: bool(((mean + g * p - honest) ** 2).sum() <= most))
    got = all_sent(f"min_sum/{direction}", values)
    np.testing.assert_allclose(got[BAD[0]], mean + gamma * p, rtol=1e-4, atol=1e-5 * np.abs(honest).max())


@pytest.mark.parametrize("name", TOGETHER)
def test_only_bad_clients_who_are_there_send_otherwise_and_all_the_same(name: str) -> None:
    values = np.random.default_rng(1).normal(size=(K, 5)).astype(np.float32)
    present = np.arange(K) != 7
    got = all_sent(name, values, present)
    np.testing.assert_array_equal(got[7], np.zeros(5))  # a row that is not there
    honest = [i for i in range(K) if i not in BAD]
    np.testing.assert_array_equal(got[honest], values[honest])
    assert np.abs(got[2] - values[2]).max() > 1e-3
    both = all_sent(name, values)
    np.testing.assert_array_equal(both[2], both[7])


@pytest.mark.parametrize("name", TOGETHER)
def test_what_bad_clients_would_have_sent_honestly_and_who_is_absent_does_not_matter(name: str) -> None:
    rng = np.random.default_rng(2)
    values, present = rng.normal(size=(K, 5)).astype(np.float32), np.arange(K) != 5
    other = np.array(values)
    other[[2, 5, 7]] = 1e3 * rng.normal(size=(3, 5))
    np.testing.assert_array_equal(all_sent(name, values, present)[2], all_sent(name, other, present)[2])


@pytest.mark.parametrize("name", TOGETHER)
def test_nothing_changes_without_bad_clients_or_without_honest_ones(name: str) -> None:
    values = np.random.default_rng(3).normal(size=(K, 5)).astype(np.float32)
    np.testing.assert_array_equal(all_sent(name, values, bad=[]), values)
    np.testing.assert_array_equal(all_sent(name, values, bad=range(K)), values)


@pytest.mark.parametrize("name", [name for name in TOGETHER if name != "mimic/client"])
def test_the_order_of_honest_messages_does_not_matter(name: str) -> None:
    values = np.random.default_rng(4).normal(size=(K, 5)).astype(np.float32)
    order = np.array([8, 6, 2, 0, 1, 3, 4, 7, 5])  # bad ones stay where they are
    got, permuted = all_sent(name, values)[2], all_sent(name, values[order])[2]
    np.testing.assert_allclose(permuted, got, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", TOGETHER)
def test_messages_near_the_largest_floats_are_answered_by_finite_ones(name: str) -> None:
    for size in (1e20, 1e37, 1e-30):
        values = (size * np.random.default_rng(5).normal(size=(K, 5))).astype(np.float32)
        got = all_sent(name, values)
        assert np.isfinite(got).all()
        small = all_sent(name, np.random.default_rng(5).normal(size=(K, 5)).astype(np.float32))
        if size < 1e37:
            np.testing.assert_allclose(got[2] / np.float32(size), small[2], rtol=1e-3, atol=1e-5)


def test_how_many_are_bad_can_be_an_axis_of_one_program() -> None:
    values = jnp.asarray(np.random.default_rng(6).normal(size=(K, 5)), jnp.float32)

    def one(f: jax.Array) -> Any:
        bad = attacks.pool(jnp.arange(K, dtype=jnp.int32) >= K - f)
        return fl.robust.apply([attacks.alie(bad), last_row()], values)

    together = jax.jit(jax.vmap(one))(jnp.arange(1, 4, dtype=jnp.int32))
    for f, got in zip(range(1, 4), together, strict=True):
        np.testing.assert_allclose(got, all_sent("alie", values, bad=range(K - f, K))[-1], rtol=1e-5, atol=1e-6)


def test_mimic_learns_where_honest_clients_differ_most_and_stays_with_one_of_them() -> None:
    """Over rounds of four honest clients, two of whom are far out to one side each along the first entry."""
    rng = np.random.default_rng(7)
    centers = np.array([[9.0, 0], [-3, 0], [-3, 1], [-3, -1], [0, 0]])
    codec = attacks.mimic([4], warm_up=3)
    row = fl.chain(fl.mean(), codec, last_row())
    state, _ = row.init(fl.wire_of(jnp.zeros(2), capacity=5))
    there, ones = jnp.ones(5, bool), jnp.ones(5)
    cohort = fl.Cohort(jnp.arange(5, dtype=jnp.int32), there, there, ones, ones, jnp.int32(0))

    @jax.jit
    def one_round(state: Any, values: jax.Array, key: Any) -> Any:
        total = Stacked(fl.Message(values, ones, {}), there)
        aggregate, state = row.decode(row.begin(state, cohort, key), total, key)
        return aggregate.value, state

    copied = []
    for number in range(5):
        values = (centers + 0.1 * rng.normal(size=(5, 2))).astype(np.float32)
        if number == 4:
            values[0] = [0.0, 0.0]  # no longer the farthest, but the one they have settled on
        message, state = one_round(state, values, jax.random.key(number))
        copied.append(int(np.argmin(np.abs(values[:4] - np.asarray(message)).sum(1))))
    assert copied == [0, 0, 0, 0, 0]
    learned = state[1]
    assert int(learned.client) == 0
    assert int(learned.rounds) == 5
    assert abs(float(learned.direction[0])) > 0.99


def clip(norm_at_most: float) -> fl.Aggregator:
    """Messages scaled down to a norm, before a rule."""

    def fn(state: Any, rows: Any, key: Any) -> Any:
        size = jnp.sqrt(jnp.square(rows.values).sum(1, keepdims=True))
        return rows._replace(values=rows.values * jnp.minimum(1.0, norm_at_most / size)), state

    return fl.restack(fn, name="clip")


def nearest(num: int) -> fl.Aggregator:
    """Each message becomes the mean of the `num` that are nearest to it."""

    def fn(state: Any, rows: Any, key: Any) -> Any:
        v = rows.values
        order = jnp.argsort(jnp.square(v[:, None] - v[None]).sum(-1), axis=1)[:, :num]
        return rows._replace(values=v[order].mean(1)), state

    return fl.restack(fn, name="nearest")


def middle_two() -> fl.Aggregator:
    """The trimmed mean of four that leaves out the smallest and the largest."""
    return fl.stack(lambda v, w, p: jnp.sort(v, axis=0)[1:3].mean(0), name="middle_two")


@pytest.mark.parametrize(
    ("make", "theirs"),
    [
        (attacks.optimal_ipm, [-2.74878, -3.43597, -4.12317]),
        (attacks.optimal_alie, [12.91985, 13.91985, 14.91985]),
    ],
)
def test_the_line_search_is_at_least_as_bad_as_that_of_byzfl(make: Any, theirs: list[float]) -> None:
    """For a trimmed mean behind clipping behind nearest-neighbor mixing of three honest and one bad client."""
    tail = [nearest(3), clip(2.0), middle_two()]

    @jax.jit
    def moved() -> Any:
        ours = fl.robust.apply([make([3], tail), last_row()], X)
        values = [fl.robust.apply(tail, X.at[3].set(message)) for message in (ours, jnp.float32(theirs))]
        return [jnp.linalg.norm(value - X[:3].mean(0)) for value in values]

    ours, byzfl = moved()
    assert float(ours) >= float(byzfl) - 1e-5


@pytest.mark.parametrize("make", [attacks.optimal_alie, attacks.optimal_ipm])
def test_the_line_search_finds_what_a_fine_grid_finds(make: Any) -> None:
    values = jnp.asarray(np.random.default_rng(8).normal(size=(K, 5)) + 1.0, jnp.float32).at[-2:].set(0.0)
    honest = np.asarray(values[:-2], np.float64)
    mean, std = honest.mean(0), honest.std(0, ddof=1)

    @jax.jit
    @jax.vmap
    def moved(factor: jax.Array) -> jax.Array:
        bad = mean + factor * std if make is attacks.optimal_alie else -factor * mean
        value = fl.robust.apply(median(), values.at[-2:].set(bad.astype(jnp.float32)))
        return jnp.linalg.norm(value - mean.astype(jnp.float32))

    grid = moved(jnp.asarray(np.geomspace(1 / 16, 128, 2000), jnp.float32))
    ours = jax.jit(lambda v: fl.robust.apply([make([K - 2, K - 1], median()), median()], v))(values)
    assert float(jnp.linalg.norm(ours - mean.astype(np.float32))) >= float(grid.max()) - 1e-3


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def problem(name: str) -> tuple[fl.Algorithm, fl.Population, Any]:
    people = helpers.regression((5, 9, 3, 12, 8, 4))
    if name == "fed_avg":
        return helpers.fed_avg(), people, helpers.linear_params()
    algorithm = fl.algorithms.scaffold(helpers.linear_loss, num_clients=6, client_lr=0.02, batch_size=4)
    return algorithm, people, helpers.linear_params()


@pytest.mark.whole
@helpers.needs_devices(4)
def test_rows_that_are_shared_out_over_devices_are_attacked_as_on_one() -> None:
    """Attacks by different clients one after the other, each of which sees those before it as honest."""
    people = helpers.one_value_each([3, -1, 4, 1, -5, 9, 2, 6])
    line = jnp.arange(1, 8, dtype=jnp.float32)
    algorithm = helpers.sender(lambda data: {"seven": jnp.sin(helpers.first_value(data) * line), "one": line[1]})
    rule = fl.robust.trimmed_mean(f=2)
    attackers = (attacks.min_max([0]), attacks.min_sum([1]), attacks.mimic([2], warm_up=1), attacks.ipm([3], 0.3))
    search = attacks.optimal_alie([4, 5], rule, evaluations=6)
    chain = fl.chain(fl.mean(), *attackers, search, attacks.judged(rule, [0, 1, 2, 3, 4, 5]))
    params = {"seven": jnp.zeros(7), "one": jnp.zeros(())}
    told = []
    for devices in (1, 4):
        execution = fl.Execution(devices=devices, lanes=2)
        _, state, info = helpers.one_run(algorithm, people, params, aggregator=chain, execution=execution, num_rounds=2)
        told.append(jax.device_get((state.server_state, state.aggregator_state, info.aggregator)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *told)


@pytest.mark.parametrize("name", [pytest.param("fed_avg", marks=pytest.mark.slow), "scaffold"])
def test_in_a_round_a_mean_is_moved_by_exactly_what_was_sent(name: str) -> None:
    """IPM by one of six: the mean of five honest deltas times (5 - 1) / 6, in both parts of SCAFFOLD's update."""
    algorithm, people, params = problem(name)
    tail = fl.robust.mean()
    _, attacked, info = helpers.one_run(
        algorithm, people, params, aggregator=fl.chain(fl.mean(), attacks.ipm([2]), attacks.judged(tail, [2]))
    )
    only = fl.sampling.replay([[0, 1, 3, 4, 5]])
    _, honest, _ = helpers.one_run(algorithm, people, params, sampler=only, aggregator=fl.mean())
    shares = {"params": 4 / 6, "control": 4 / 5}  # the server counts six clients' variates, not five
    for part in ["params", "control"][: 2 if name == "scaffold" else 1]:
        got, alone = (flat(getattr(state.server_state, part)) for state in (attacked, honest))
        np.testing.assert_allclose(got, shares[part] * alone, rtol=1e-4, atol=1e-6)
    assert float(info.aggregator["judged_distance"]) > 0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: attacks.alie("some"), "`bad` is 'some'; expected the ids of bad clients"),
        (lambda: attacks.alie([1], z=float("nan")), "`z` is nan"),
        (lambda: attacks.ipm([1, 1]), "`bad` holds a client twice"),
        (lambda: attacks.ipm([1], scale="2"), "`scale` is '2'"),
        (
            lambda: attacks.min_max([1], direction="mean"),
            "`direction` is 'mean'; expected one of 'std', 'unit', 'sign'",
        ),
        (lambda: attacks.min_sum([-1]), "`bad` holds -1"),
        (lambda: attacks.mimic([1], warm_up=0), "`warm_up` is 0"),
        (lambda: attacks.mimic([1], client=-2), "`client` is -2"),
        (lambda: attacks.optimal_alie([1], fl.mean()), "`rule` is mean; expected a rule that sees every message apart"),
        (lambda: attacks.optimal_ipm([1], [attacks.alie([1])]), "`rule` is alie; expected a rule"),
        (lambda: attacks.optimal_ipm([1], "median"), "`rule` is 'median'; expected a rule of fl.robust"),
        (lambda: attacks.optimal_ipm([1], fl.robust.mean(), evaluations=1), "`evaluations` is 1"),
    ],
)
def test_errors_say_what_was_given(make: Callable[[], Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        make()
    assert text in str(raised.value)
