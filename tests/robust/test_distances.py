"""Rules by distances, against plain loops in float64, and their guarantees."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite import robust
from fedjaxlite.wire.rows import Rows, Shares
from fedjaxlite.wire.stacking import RuleState

K, SIZE = 11, 6
ALL = np.ones(K, bool)
MOST = 4
"""Bad clients that all of these rules but Krum of Blanchard's are defined for, of K."""


def squares(x: np.ndarray) -> np.ndarray:
    return np.square(x[:, None] - x[None]).sum(-1)


def scores(x: np.ndarray, others: int) -> np.ndarray:
    return np.array([np.sort(np.delete(row, i))[:others].sum() for i, row in enumerate(squares(x))])


def krum_of(x: np.ndarray, f: int, fewer: int, m: int = 1) -> np.ndarray:
    return x[np.argsort(scores(x, len(x) - f - fewer), kind="stable")[:m]].mean(0)


def bulyan_of(x: np.ndarray, f: int) -> np.ndarray:
    left, chosen = list(range(len(x))), []
    while len(chosen) < len(x) - 2 * f:
        near, all_ = scores(x[left], max(len(left) - f - 2, 0)), scores(x[left], len(left))
        best = left[min(range(len(left)), key=lambda i: (np.round(near[i], 9), all_[i]))]
        left.remove(best)
        chosen.append(best)
    values = x[sorted(chosen)]
    order = np.argsort(np.abs(values - np.median(values, axis=0)), axis=0, kind="stable")
    return np.take_along_axis(values, order[: len(x) - 4 * f], axis=0).mean(0)


def mda_of(x: np.ndarray, f: int) -> np.ndarray:
    square, sets = squares(x), list(itertools.combinations(range(len(x)), len(x) - f))
    parts = [square[np.ix_(kept, kept)] for kept in sets]
    best = min(range(len(sets)), key=lambda i: (parts[i].max(), parts[i].sum()))
    return x[list(sets[best])].mean(0)


def monna_of(x: np.ndarray, f: int) -> np.ndarray:
    return x[np.argsort(squares(x)[0], kind="stable")[: len(x) - f]].mean(0)


def nnm_of(x: np.ndarray, f: int) -> np.ndarray:
    return np.stack([x[np.argsort(row, kind="stable")[: len(x) - f]].mean(0) for row in squares(x)])


class Case(NamedTuple):
    """A rule for f, the same in loops, and how many clients it needs."""

    rule: Callable[[Any], Any]
    loops: Callable[[np.ndarray, int], np.ndarray]
    fewest: Callable[[int], int]


RULES = {
    "krum": Case(lambda f: robust.krum(f=f), lambda x, f: krum_of(x, f, 2), lambda f: 2 * f + 3),
    "krum/byzfl": Case(
        lambda f: robust.krum(f=f, neighbors="byzfl"), lambda x, f: krum_of(x, f, 1), lambda f: 2 * f + 1
    ),
    "multi_krum": Case(
        lambda f: robust.multi_krum(f=f), lambda x, f: krum_of(x, f, 2, len(x) - f), lambda f: 2 * f + 3
    ),
    "multi_krum/2": Case(
        lambda f: robust.multi_krum(f=f, m=2, neighbors="byzfl"),
        lambda x, f: krum_of(x, f, 1, 2),
        lambda f: max(2 * f + 1, 2 + f),
    ),
    "bulyan": Case(lambda f: robust.bulyan(f=f), bulyan_of, lambda f: 4 * f + 3),
    "mda": Case(lambda f: robust.mda(f=f), mda_of, lambda f: 2 * f + 1),
    "monna": Case(lambda f: robust.monna(f=f, pivot=0), monna_of, lambda f: 2 * f + 1),
    "nnm+krum": Case(
        lambda f: [robust.nnm(f=f), robust.krum(f=f, neighbors="byzfl")],
        lambda x, f: krum_of(nnm_of(x, f), f, 1),
        lambda f: 2 * f + 1,
    ),
}


@pytest.fixture(scope="module")
def compiled() -> Callable[[str], Callable[..., np.ndarray]]:
    """All rules for all f side by side, in one program."""

    def values_of(values: jax.Array, present: jax.Array) -> dict[str, jax.Array]:
        tree = {"w": values[:, :4].reshape(-1, 2, 2), "b": values[:, 4:]}

        def of_rule(name: str, f: jax.Array) -> jax.Array:
            value = robust.apply(RULES[name].rule(f), tree, present=present)
            return jnp.concatenate([value["w"].reshape(4), value["b"]])

        return {name: jax.vmap(lambda f, name=name: of_rule(name, f))(jnp.arange(MOST + 1)) for name in RULES}

    program = jax.jit(values_of)

    def run(name: str) -> Callable[..., np.ndarray]:
        return lambda x, f, present=ALL: np.asarray(program(jnp.float32(x), jnp.asarray(present))[name][f])

    return run


def normals(seed: int) -> np.ndarray:
    return np.float32(np.random.default_rng(seed).normal(size=(K, SIZE))).astype(np.float64)


def most_bad(name: str) -> int:
    return max(f for f in range(MOST + 1) if RULES[name].fewest(f) <= K)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_equals_plain_loops(compiled: Any, name: str, data: st.DataObject) -> None:
    x = normals(data.draw(st.integers(0, 2**32 - 1)))
    f = data.draw(st.integers(0, most_bad(name)))
    num = data.draw(st.integers(RULES[name].fewest(f), K))
    present = np.zeros(K, bool)
    present[[0, *data.draw(st.permutations(range(1, K)))[: num - 1]]] = True
    expected = RULES[name].loops(x[present], f)
    np.testing.assert_allclose(compiled(name)(x, f, present), expected, rtol=1e-5, atol=1e-6)


def test_the_two_conventions_differ() -> None:
    differ = [not np.allclose(krum_of(normals(seed), 3, 1), krum_of(normals(seed), 3, 2)) for seed in range(20)]
    assert any(differ)
    assert not all(differ)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_follows_order_shifts_scales_and_rotations(compiled: Any, name: str, seed: int, data: st.DataObject) -> None:
    f = data.draw(st.integers(1, most_bad(name)))
    rng, x = np.random.default_rng(seed), normals(seed)
    value = compiled(name)(x, f)
    others = rng.permutation(np.arange(1, K))  # the pivot keeps its place
    near = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(compiled(name)(x[[0, *others]], f), value, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(compiled(name)(x * -3.5, f), value * -3.5, **near)
    shift = rng.normal(size=SIZE) * 50
    np.testing.assert_allclose(compiled(name)(x + shift, f), value + shift, **near)
    if name == "bulyan":  # looks at one entry at a time
        return
    rotation = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    np.testing.assert_allclose(compiled(name)(x @ rotation, f), value @ rotation, **near)


@pytest.mark.parametrize("name", [name for name in RULES if "krum" not in name or name == "multi_krum"])
def test_without_bad_clients_it_is_the_mean(compiled: Any, name: str) -> None:
    present = np.arange(K) < 8
    np.testing.assert_allclose(compiled(name)(normals(3), 0, present), normals(3)[present].mean(0), atol=1e-6)


def test_a_number_is_the_same_as_a_traced_f(compiled: Any) -> None:
    names = ["mda", "bulyan"]
    x = normals(4)
    rules = [RULES[name].rule(most_bad(name)) for name in names]
    values = jax.jit(lambda v: [robust.apply(rule, v) for rule in rules])(jnp.float32(x))
    for name, value in zip(names, values, strict=True):
        np.testing.assert_allclose(value, compiled(name)(x, most_bad(name)), rtol=1e-6, atol=1e-6)


def worst_ratio(value: np.ndarray, x: np.ndarray, f: int, trusted: bool) -> float:
    """The largest squared distance to the mean of n - f messages, over their variance."""
    ratios = []
    for honest in itertools.combinations(range(len(x)), len(x) - f):
        if not trusted or 0 in honest:
            mean = x[list(honest)].mean(0)
            own = np.square(x[0] - mean).sum() if trusted else 0.0
            ratios.append(np.square(value - mean).sum() / (np.square(x[list(honest)] - mean).sum(1).mean() + own))
    return max(ratios)


def kappa(name: str, f: int) -> float:
    n = K
    krum = 6 * (1 + f / (n - 2 * f))
    blanchard = (6 - 4 / (n - f - 1)) * (n - f) / (n - 2 * f - 1)
    mixed = 8 * f / (n - f) * (krum + 1)
    bounds = {"mda": 8 * f * f / (n - f), "monna": 4 * f / (n - f), "nnm+krum": mixed}
    return bounds.get(name, blanchard if name in ("krum", "multi_krum") else krum)


@pytest.mark.parametrize("name", [name for name in RULES if name != "bulyan"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), f=st.integers(1, 3), flat=st.booleans())
def test_no_placement_exceeds_kappa(compiled: Any, name: str, seed: int, f: int, flat: bool) -> None:
    rng, x = np.random.default_rng(seed), normals(seed)
    x[:, 1 if flat else SIZE :] = 0
    bad = rng.choice(K, f, replace=False)
    x[bad] = x[bad] * rng.choice([0, 1, 3, 30]) + rng.normal(size=SIZE) * rng.choice([0, 1, 3, 30])
    x = np.float32(x).astype(np.float64)
    ratio = worst_ratio(compiled(name)(x, f).astype(np.float64), x, f, name == "monna")
    assert ratio <= kappa(name, f) * (1 + 1e-4)


@pytest.mark.parametrize("name", RULES)
def test_with_more_bad_clients_than_it_is_made_for_it_breaks(compiled: Any, name: str) -> None:
    x = normals(5)
    x[4:] = 1e6  # seven of eleven agree on something far away
    f = min(3, most_bad(name))
    broken = np.abs(compiled(name)(x, f)).max() > 1e4
    assert broken or name == "monna"  # the trusted client is honest; too many bad ones among its nearest are not
    x[2:] = 1e6
    assert np.abs(compiled(name)(x, f)).max() > 1e4


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("huge", [1e10, 1e20, 3e38])
def test_far_away_messages_are_never_chosen(compiled: Any, name: str, huge: float) -> None:
    for honest in (1.0, 1e18) if huge == 3e38 else (1.0,):
        x = normals(6) * honest
        f = min(3, most_bad(name))
        x[[2, 5, 9][:f]] = huge  # they agree
        value = compiled(name)(x, f)
        assert np.any(value)
        assert np.all(np.isfinite(value))
        assert np.abs(value).max() <= np.abs(normals(6)).max() * honest
        x[[2, 5, 9][:f]] = np.stack([np.full(SIZE, huge), np.where(np.arange(SIZE) % 2, -huge, 0), -x[2]])[:f]
        value = compiled(name)(x, f)
        assert np.all(np.isfinite(value))
        assert np.abs(value).max() <= np.abs(normals(6)).max() * honest


@pytest.mark.parametrize("name", ["monna", "nnm+krum"])
def test_messages_shared_out_over_devices(compiled: Any, name: str) -> None:
    x = normals(7) + 30
    made = RULES[name].rule(2)
    codecs = made if isinstance(made, list) else [made]

    def on_device(part: jax.Array) -> jax.Array:
        shares = Shares(add=lambda tree: jax.lax.psum(tree, "devices"), mine=lambda t: t, whole=lambda t: t)
        ones = jnp.ones(K)
        rows: Any = Rows([part], ones, ones > 0, jnp.arange(K), shares, fl.Message((), jnp.float32(1), {}))
        for codec in codecs:
            state = RuleState(jnp.int32(0), jnp.int32(0)) if codec.role == "stack" else ()
            state = state._replace(own=()) if codec.role == "stack" and codec.name != "monna" else state
            rows, _ = codec.decode(state, rows, jax.random.key(0))
        return rows.value[0]

    value = jax.jit(jax.vmap(on_device, axis_name="devices"))(jnp.float32(np.stack([x[:, :3], x[:, 3:]])))
    np.testing.assert_allclose(np.concatenate(value), compiled(name)(x, 2), rtol=1e-6)


def test_a_round_with_fewer_clients_than_needed_changes_nothing(compiled: Any) -> None:
    for name in RULES:
        fewest = RULES[name].fewest(2)
        assert not np.any(compiled(name)(normals(8), 2, np.arange(K) < fewest - 1))
        assert np.any(compiled(name)(normals(8), 2, np.arange(K) < fewest))
