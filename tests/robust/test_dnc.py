"""Rules that leave messages out: DnC and the filter of norms; and the products of messages that they look at."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjaxlite as fl
from fedjaxlite.wire.robust import products

K, D = 9, 6
two_out = jax.jit(partial(fl.robust.apply, fl.robust.dnc(f=2, coordinates=None)))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def applied(codecs: Any, rows: Any) -> Any:
    """A rule on plain arrays, as one program."""
    return jax.jit(partial(fl.robust.apply, codecs))(rows)


def by_numpy_dnc(rows: np.ndarray, out: int) -> np.ndarray:
    x = rows.astype(np.float64)
    x = x - x.mean(0)
    score = (x @ np.linalg.svd(x)[2][0]) ** 2
    return rows[np.sort(np.argsort(score, kind="stable")[: len(rows) - out])].mean(0)


@pytest.mark.parametrize("seed", range(5))
def test_dnc_is_its_algorithm(seed: int) -> None:
    rows = normal(100 + seed, K, D)
    np.testing.assert_allclose(two_out(rows), by_numpy_dnc(rows, 2), atol=1e-5)


def test_dnc_finds_a_planted_direction() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 400)).astype(np.float32)
    direction = rng.normal(size=400)
    rows[:4] = rows[4:].mean(0) + 20 * direction / np.linalg.norm(direction)
    np.testing.assert_allclose(applied(fl.robust.dnc(f=4, coordinates=None), rows), rows[4:].mean(0), atol=1e-5)
    keys = jax.random.split(jax.random.key(0), 5)

    @jax.jit
    @jax.vmap
    def draw(key: jax.Array) -> Any:
        parts = [fl.robust.dnc(f=6, coordinates=150, steps=steps) for steps in (1, 2)]
        return [fl.robust.apply(codec, rows, key=key) for codec in parts]

    once, twice = (np.asarray(found) for found in draw(keys))
    for found in (*once, *twice):
        # Nobody bad is in the mean, which is of some of the honest ones: far from where the bad ones pull.
        assert abs((found - rows[4:].mean(0)) @ direction) / np.linalg.norm(direction) < 1
    assert (np.abs(once - twice).max(1) > 1e-3).all()  # every step looks at other entries


def test_dnc_without_bad_clients_is_the_mean() -> None:
    rows = normal(27, K, D)
    np.testing.assert_allclose(applied(fl.robust.dnc(f=0), rows), rows.mean(0), atol=1e-6)


def test_dnc_takes_traced_f_and_c() -> None:
    rows = jnp.asarray(normal(29, K, 3))
    by_f = jax.jit(jax.vmap(lambda f: fl.robust.apply(fl.robust.dnc(f=f, coordinates=None), rows)))(jnp.arange(4))
    for f, one in enumerate(by_f):
        np.testing.assert_allclose(one, by_numpy_dnc(np.asarray(rows), f), atol=1e-5)
    half = jax.jit(lambda c: fl.robust.apply(fl.robust.dnc(f=4, c=c, coordinates=None), rows))(jnp.float32(0.75))
    np.testing.assert_allclose(half, by_numpy_dnc(np.asarray(rows), 3), atol=1e-5)


def test_norm_filter_leaves_out_and_counts() -> None:
    codec = fl.chain(fl.mean(), fl.robust.norm_filter(5.0), fl.robust.mean())
    state, _ = codec.init(fl.wire_of(jnp.zeros(2), capacity=4, weight=np.float32(1)))
    message = fl.Message(jnp.float32([[3, 4], [1, 0], [3, 4.01], [0, 1e30]]), jnp.ones(4), {})
    rows = fl.Stacked(message, jnp.ones(4, bool))
    decode = jax.jit(codec.decode)
    for round_number in (1, 2):
        found, state = decode(state, rows, jax.random.key(0))
        np.testing.assert_allclose(found.value, [2, 2])
        assert int(codec.metrics(state)["norm_filter_left_out"]) == 2 * round_number


def test_a_filter_that_leaves_nobody_skips_the_round() -> None:
    rows = np.array([[10, 0], [0, 20]], np.float32)
    many = jax.jit(jax.vmap(lambda m: fl.robust.apply([fl.robust.norm_filter(m), fl.robust.mean()], rows)))
    assert many(jnp.float32([1, 15, jnp.inf])).tolist() == [[0, 0], [10, 0], [5, 10]]
    by_count = jax.jit(
        lambda x, here: fl.robust.apply([fl.robust.norm_filter(15.0), fl.robust.dnc(f=0)], x, present=here)
    )
    assert by_count(rows, np.array([True, True])).tolist() == [10, 0]
    assert by_count(np.array([[10, 0], [0, 0]], np.float32), np.array([True, False])).tolist() == [10, 0]


def test_products_are_those_of_float64() -> None:
    rows = normal(31, 5, 90_000)  # more than one block
    center = normal(32, 90_000)
    whole = fl.wire.rows.on_one_device(jnp.zeros(90_000))
    mix = np.array([0.5, 0.25, 0, 0.125, 0.125], np.float32)

    @jax.jit
    def computed(rows: jax.Array, center: jax.Array) -> Any:
        given = products.products(rows, whole, center=center)
        far = products.distances(given), products.distances_to(given, jnp.asarray(mix))
        return given.sizes, products.norms(rows, whole, center), *far

    sizes, norms, between, to_point = computed(rows, center)
    exact = (rows - center).astype(np.float64)
    apart = np.linalg.norm(exact[:, None] - exact[None], axis=2)
    np.testing.assert_allclose(sizes, np.linalg.norm(exact, axis=1), rtol=1e-5)
    np.testing.assert_allclose(norms, sizes, rtol=1e-5)
    np.testing.assert_allclose(between, apart, rtol=1e-5)
    np.testing.assert_allclose(to_point, np.linalg.norm(exact - mix @ exact, axis=1), rtol=1e-5)
