"""Where a search for the worst placement begins: messages that proofs of robustness have to cope with."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Start = Callable[[jax.Array, int, int, int], jax.Array]


def scattered(key: jax.Array, honest: int, bad: int, dim: int) -> jax.Array:
    """Honest messages scattered about zero, bad ones anywhere from among them to far off."""
    near, far, reach = jax.random.split(key, 3)
    return jnp.concatenate([_normal(near, honest, dim), 10 ** _between(reach, -1, 2.5) * _normal(far, bad, dim)])


def two_points(key: jax.Array, honest: int, bad: int, dim: int) -> jax.Array:
    """Some honest messages at one point and the others at zero, all bad ones at either or in line with them."""
    toward, how_many, which, where, spread = jax.random.split(key, 5)
    step = _normal(toward, 1, dim)
    step = step / jnp.linalg.norm(step)
    there = (jnp.arange(honest) < jax.random.randint(how_many, (), 1, max(honest, 2))).astype(jnp.float32)
    place = jnp.stack([jnp.float32(0.0), jnp.float32(1.0), _between(where, -3, 4)])[jax.random.randint(which, (), 0, 3)]
    line = jnp.concatenate([there, jnp.broadcast_to(place, (bad,))])
    noise = jnp.where(jax.random.bernoulli(spread), 0.1, 0.0) * _normal(spread, honest + bad, dim)
    return line[:, None] * step + noise


def off_the_mean(key: jax.Array, honest: int, bad: int, dim: int) -> jax.Array:
    """Bad clients as in ALIE and IPM: off the honest mean by deviations, or by the mean, of any factor and sign."""
    near, shift, reach, side = jax.random.split(key, 4)
    x = _normal(near, honest, dim) + 3 * _between(shift, 0, 1) * _normal(shift, 1, dim)
    mean = x.mean(0)
    away = jnp.where(jax.random.bernoulli(side), x.std(0), -mean)
    factor = jnp.where(jax.random.bernoulli(reach), 1.0, -1.0) * 10 ** _between(reach, -1.2, 1.5)
    return jnp.concatenate([x, jnp.broadcast_to(mean + factor * away, (bad, dim))])


def copies(key: jax.Array, honest: int, bad: int, dim: int) -> jax.Array:
    """Bad clients that all copy one honest one."""
    x = _normal(key, honest, dim)
    return jnp.concatenate([x, jnp.broadcast_to(x[0], (bad, dim))])


STARTS: tuple[Start, ...] = (two_points, scattered, off_the_mean, copies)


def start(key: jax.Array, number: jax.Array, honest: int, bad: int, dim: int) -> jax.Array:
    """The first placement of a try, `[honest + bad, dim]`: the kinds take turns."""
    made = jnp.stack([kind(key, honest, bad, dim) for kind in STARTS])
    return made[number % len(STARTS)]


def _normal(key: jax.Array, num: int, dim: int) -> jax.Array:
    return jax.random.normal(key, (num, dim), jnp.float32)


def _between(key: jax.Array, low: float, high: float) -> jax.Array:
    return jax.random.uniform(key, (), jnp.float32, low, high)
