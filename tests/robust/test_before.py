"""What is done to all messages before a rule: mixing, buckets, clipping."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjaxlite as fl
from fedjaxlite import robust
from fedjaxlite.wire.aggregator import Message, Stacked
from fedjaxlite.wire.rows import Rows, Shares

K, SIZE = 11, 6
THREE = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)


def rows_after(codec: Any, values: Any, present: Any = None, weights: Any = None, key: Any = None) -> Rows:
    here = jnp.ones(len(values), jnp.bool_) if present is None else jnp.asarray(present)
    weights = jnp.ones(len(values)) if weights is None else weights
    stacked = Stacked(Message(jnp.where(here[:, None], values, 0), weights, {}), here)
    return codec.decode((), stacked, jax.random.key(0) if key is None else key)[0]._replace(shares=())


@jax.jit
def after_nnm(values: jax.Array, f: jax.Array, present: jax.Array) -> Any:
    return rows_after(robust.nnm(f=f), values, present)


@jax.jit
def after_arc(values: jax.Array, f: jax.Array, present: jax.Array) -> Any:
    return rows_after(robust.arc(f=f), values, present)


@jax.jit
def after_buckets(values: jax.Array, present: jax.Array, weights: jax.Array, key: jax.Array) -> Any:
    return rows_after(robust.bucketing(size=3), values, present, weights, key)


def normals(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(K, SIZE)).astype(np.float32).astype(np.float64)


def called(function: Any, values: np.ndarray, f: int, present: np.ndarray | None = None) -> np.ndarray:
    here = np.ones(len(values), bool) if present is None else present
    return np.asarray(function(jnp.asarray(values, jnp.float32), jnp.int32(f), jnp.asarray(here)).values)


def clipped(x: np.ndarray, f: int) -> np.ndarray:
    norms = np.linalg.norm(x, axis=1)
    many = 2 * f * (len(x) - f) // len(x)
    longest = np.argsort(-norms, kind="stable")
    out = x.copy()
    for i in longest[:many]:
        out[i] = x[i] * min(1.0, norms[longest[many]] / norms[i])
    return out


def mixed(x: np.ndarray, f: int) -> np.ndarray:
    square = np.square(x[:, None] - x[None]).sum(-1)
    return np.stack([x[np.argsort(row, kind="stable")[: len(x) - f]].mean(0) for row in square])


def test_values_of_peers() -> None:
    near = {"rtol": 1e-6}
    two = [[2.5, 3.5, 4.5], [2.5, 3.5, 4.5], [5.5, 6.5, 7.5]]
    np.testing.assert_allclose(called(after_nnm, THREE, 1), two, **near)
    arc = [[1, 2, 3], [4, 5, 6], [4.41004009, 5.04004582, 5.67005155]]
    np.testing.assert_allclose(called(after_arc, THREE, 1), arc, **near)
    clip, client = fl.clip_by_global_norm(2.0), fl.ClientInfo(id=0, weight=1.0, key=jax.random.key(0), alive=True)
    static = jax.jit(jax.vmap(lambda row: clip.encode((), (), Message(row, 1.0, {}), client)[0].value))(THREE)
    expected = [
        [0.53452248, 1.06904497, 1.60356745],
        [0.91168461, 1.13960576, 1.36752692],
        [1.00514142, 1.14873305, 1.29232469],
    ]
    np.testing.assert_allclose(static, expected, **near)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
@pytest.mark.parametrize(("function", "loops"), [(after_nnm, mixed), (after_arc, clipped)], ids=["nnm", "arc"])
def test_equals_plain_loops(function: Any, loops: Any, seed: int, data: st.DataObject) -> None:
    f = data.draw(st.integers(0, (K - 1) // 2))
    num = data.draw(st.integers(2 * f + 1, K))
    present = np.zeros(K, bool)
    present[data.draw(st.permutations(range(K)))[:num]] = True
    x = normals(seed) * np.random.default_rng(seed).choice([0.1, 1, 10], size=(K, 1))
    x = x.astype(np.float32).astype(np.float64)
    found = called(function, x, f, present)
    np.testing.assert_allclose(found[present], loops(x[present], f), rtol=1e-5, atol=1e-5)
    assert not np.any(found[~present])


def test_without_bad_clients() -> None:
    x = normals(0)
    np.testing.assert_allclose(called(after_nnm, x, 0), np.broadcast_to(x.mean(0), x.shape), atol=1e-6)
    np.testing.assert_array_equal(called(after_arc, x, 0), x.astype(np.float32))


@pytest.mark.parametrize("function", [after_nnm, after_arc], ids=["nnm", "arc"])
def test_too_few_clients_go_through_unchanged(function: Any) -> None:
    x, present = normals(1), np.arange(K) < 4
    np.testing.assert_array_equal(called(function, x, 2, present), (x * present[:, None]).astype(np.float32))


@pytest.mark.parametrize("function", [after_nnm, after_arc], ids=["nnm", "arc"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), f=st.integers(1, 5))
def test_follows_order_scales_rotations_and_shifts(function: Any, seed: int, f: int) -> None:
    rng, x = np.random.default_rng(seed), normals(seed)
    rows, order = called(function, x, f), rng.permutation(K)
    rotation, shift = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0], 50 * rng.normal(size=SIZE)
    near = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(called(function, x[order], f), rows[order], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(called(function, x * -3.5, f), rows * -3.5, **near)
    np.testing.assert_allclose(called(function, x @ rotation, f), rows @ rotation, **near)
    if function is after_nnm:
        np.testing.assert_allclose(called(function, x + shift, f), rows + shift, **near)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), f=st.integers(1, 5))
def test_arc_leaves_nobody_longer_than_the_longest_honest(seed: int, f: int) -> None:
    x, bad = normals(seed), np.random.default_rng(seed).choice(K, f, replace=False)
    x[bad] *= 10.0 ** np.random.default_rng(seed).integers(-3, 6)
    honest = np.linalg.norm(np.delete(x, bad, axis=0), axis=1).max()
    assert np.linalg.norm(called(after_arc, x, f), axis=1).max() <= honest * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e19, 1e37])
def test_arc_of_messages_of_any_size(scale: float) -> None:
    x = normals(2) * scale
    np.testing.assert_allclose(called(after_arc, x, 3) / scale, clipped(normals(2), 3), rtol=1e-5, atol=1e-7)
    x = normals(3)
    x[[2, 7]] = scale if scale > 1 else 0
    expected = clipped(np.where(np.isin(np.arange(K), [2, 7])[:, None], x[2] if scale > 1 else 0, normals(3)), 3)
    np.testing.assert_allclose(called(after_arc, x, 3), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("huge", [1e10, 1e20, 3e38])
def test_nnm_keeps_far_messages_out_of_honest_rows(huge: float) -> None:
    x = normals(4)
    x[[0, 5, 6]] = np.array([[huge], [-huge], [huge]])
    rows = called(after_nnm, x, 3)
    honest = np.delete(np.arange(K), [0, 5, 6])
    assert np.all(np.isfinite(rows))
    np.testing.assert_allclose(rows[honest], np.broadcast_to(x[honest].mean(0), (8, SIZE)), atol=1e-6)


def seen(x: np.ndarray, here: np.ndarray, weights: np.ndarray, key: int = 0) -> Any:
    return after_buckets(
        jnp.asarray(x, jnp.float32), jnp.asarray(here), jnp.asarray(weights, jnp.float32), jax.random.key(key)
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(1, K))
def test_buckets_are_a_random_partition(seed: int, num: int) -> None:
    rng = np.random.default_rng(seed)
    here = np.isin(np.arange(K), rng.permutation(K)[:num])
    weights = rng.integers(1, 5, K)
    rows = seen(np.eye(K, SIZE + 5), here, weights, seed % 1000)  # whose rows say who is in which bucket
    buckets = math.ceil(num / 3)
    assert rows.values.shape == (4, SIZE + 5)
    assert rows.present.tolist() == [i < buckets for i in range(4)]
    assert rows.ids.tolist() == [-1] * 4
    members = np.asarray(rows.values) > 0
    assert sorted(members.sum(1)[:buckets].tolist()) == sorted([3] * (num // 3) + [num % 3] * (num % 3 > 0))
    np.testing.assert_array_equal(members.sum(0)[:K], here)
    np.testing.assert_allclose(np.asarray(rows.weights)[:, None] * rows.values, members * weights, rtol=1e-6)


def test_buckets_keep_the_weighted_mean() -> None:
    x, weights = normals(5), np.arange(1, K + 1)
    rows = seen(x, np.arange(K) != 4, weights)
    counted = np.where(np.arange(K) == 4, 0, weights)
    np.testing.assert_allclose(
        np.asarray(rows.weights) @ np.asarray(rows.values) / rows.weights.sum(), counted @ x / counted.sum(), rtol=1e-5
    )


def test_every_pair_meets_as_often_as_chance_has_it() -> None:
    keys = jax.random.split(jax.random.key(7), 2000)
    x, ones, here = jnp.eye(6), jnp.ones(6), jnp.ones(6, jnp.bool_)
    together = jax.jit(jax.vmap(lambda key: rows_after(robust.bucketing(size=2), x, here, ones, key).values))(keys)
    meet = np.einsum("nbi,nbj->ij", np.asarray(together) > 0, np.asarray(together) > 0, dtype=float) / 2000
    # A pair meets with chance 1/5: off by 0.04, 4.5 standard deviations, for one in 10,000 seeds.
    np.testing.assert_allclose(meet[~np.eye(6, dtype=bool)], 0.2, atol=0.04)


def test_buckets_of_one_are_the_messages() -> None:
    rows = jax.jit(lambda x: rows_after(robust.bucketing(size=1), x))(jnp.asarray(normals(6), jnp.float32))
    np.testing.assert_array_equal(np.sort(rows.values, axis=0), np.sort(normals(6).astype(np.float32), axis=0))


def test_a_rule_behind_buckets_sees_so_many_rows() -> None:
    def value(x: jax.Array, present: Any, size: int) -> jax.Array:
        chain = [robust.bucketing(size=size), robust.krum(f=1, neighbors="byzfl")]
        return robust.apply(chain, x, present=present)

    x, run = jnp.asarray(normals(7), jnp.float32), jax.jit(value, static_argnums=2)
    assert np.any(run(x, np.arange(K) < K, 4))
    assert not np.any(run(x, np.arange(K) < 8, 4))  # two buckets of clients who report: the round changes nothing
    with pytest.raises(ValueError, match="`krum` needs at least 3 clients in a round, and there are at most 2"):
        run(x, np.arange(K) < K, 6)


def test_fewer_rows_are_refused_behind_what_is_read_message_by_message() -> None:
    front = fl.chain(fl.mean(), fl.compression.qsgd(levels=4), robust.bucketing(size=2), robust.krum(f=0))
    template = jnp.zeros(8)
    assert front.init(fl.wire_of(template, capacity=6))[1].capacity == 6  # of clients still
    with pytest.raises(ValueError, match="`krum` needs at least 3 clients in a round, and there are at most 2"):
        front.init(fl.wire_of(template, capacity=4))


@pytest.mark.parametrize("make", [lambda f: robust.nnm(f=f), lambda f: robust.arc(f=f)], ids=["nnm", "arc"])
def test_messages_shared_out_over_devices(make: Callable[[Any], Any]) -> None:
    x = normals(8)

    def on_device(part: jax.Array) -> jax.Array:
        shares = Shares(add=lambda tree: jax.lax.psum(tree, "devices"), mine=lambda t: t, whole=lambda t: t)
        ones = jnp.ones(K)
        rows = Rows([part], ones, ones > 0, jnp.arange(K), shares, Message((), jnp.float32(1), {}))
        return make(3).decode((), rows, jax.random.key(0))[0].values[0]

    apart = jnp.asarray(np.stack([x[:, :3], x[:, 3:]]), jnp.float32)
    rows = np.concatenate(jax.jit(jax.vmap(on_device, axis_name="devices"))(apart), axis=1)
    np.testing.assert_allclose(rows, (mixed if make(0).name == "nnm" else clipped)(x, 3), rtol=1e-5, atol=1e-6)


def test_kappa_of_a_rule_behind_clipping() -> None:
    f, rng = 3, np.random.default_rng(9)
    chain = [robust.arc(f=f), robust.krum(f=f, neighbors="byzfl")]
    many = rng.normal(size=(300, K, SIZE))
    many[:, :f] *= rng.choice([0, 1, 3, 30], size=(300, 1, 1))
    many[:, :f] += rng.normal(size=(300, 1, SIZE)) * rng.choice([0, 1, 3, 30], size=(300, 1, 1))
    found = jax.jit(jax.vmap(lambda v: robust.apply(chain, v)))(jnp.asarray(many, jnp.float32))
    honest, mean = many[:, f:], many[:, f:].mean(1)
    variance = np.square(honest - mean[:, None]).sum(-1).mean(1)
    ratio = np.square(np.asarray(found) - mean).sum(-1) / variance
    assert ratio.max() <= 6 * (1 + f / (K - 2 * f)) + 2 * f / (K - 2 * f)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: robust.nnm(f=-1), "`f` is -1; expected an int of at least 0"),
        (lambda: robust.arc(f="one"), "`f` is 'one'; expected an int of at least 0"),
        (lambda: robust.bucketing(size=0), "`size` is 0; expected an int of at least 1"),
        (lambda: robust.apply([robust.nnm(f=2), robust.mean()], THREE), "`nnm` needs at least 5 clients"),
        (lambda: robust.apply([robust.arc(f=2), robust.mean()], THREE), "`arc` needs at least 5 clients"),
        (lambda: robust.apply([robust.nnm(f=1)], THREE), "ends with nnm, which hands all messages on"),
        (lambda: jax.jit(lambda s: robust.bucketing(size=s).name and s)(2), "`size` is .*expected an int"),
    ],
)
def test_errors(make: Callable[[], Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        make()
