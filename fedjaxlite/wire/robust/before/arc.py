"""Adaptive robust clipping: the longest messages become as long as the next."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.distances.pairwise import norms_of, num_bad, power_of_two
from fedjaxlite.wire.rows import Rows
from fedjaxlite.wire.stacking import restack

PyTree = Any


def arc(*, f: Any) -> Aggregator:
    """Clips the k = floor(2 (f / n) (n - f)) longest messages to the norm of the next one, the (k + 1)-th longest.

    A bound that is the same in all rounds is `fl.clip_by_global_norm`, a codec of the clients' side.

    Args:
      f: how many clients may be bad, an int of at least 0 or a tracer; 2f + 1 clients have to report.

    Returns:
      an Aggregator that stands before a rule, for as many clients. Memory: 2 K messages.

    Raises:
      TypeError, ValueError: if `f` is no int of at least 0; when built, for fewer clients than 2f + 1.

    Guarantees:
      No message is longer than the longest honest one. In front of a (f, kappa)-robust rule it makes a
      (f, kappa + 2 f / (n - 2f))-robust one. f = 0 changes nothing. It follows scales, rotations and any order of
      clients, not shifts.

    Source: Allouah, Guerraoui, Gupta, Jellouli, Rizk and Stephan (2025), Adaptive Gradient Clipping for Robust
    Federated Learning, https://arxiv.org/abs/2405.14432. The floor is taken of the exact fraction.

    Example:
      >>> import fedjaxlite as fl
      >>> fl.robust.apply([fl.robust.arc(f=1), fl.robust.mean()], jnp.float32([[1], [2], [60]])).tolist()
      [1.6666666269302368]
    """
    f = num_bad(f)

    def clip(state: PyTree, rows: Rows, key: Any) -> tuple[Rows, PyTree]:
        del key
        num = rows.present.sum()
        many = jnp.where(num >= 2 * f + 1, 2 * f * (num - f) // jnp.maximum(num, 1), 0)
        norms, units = norms_of(rows)
        rank = _longest_first(norms, units, rows.present)
        bound = jnp.argmax((rank == many) & rows.present)  # whose norm bounds those before it
        inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1.0), 0.0)
        factor = jnp.minimum(norms[bound] * inverse * power_of_two(units[bound] - units), 1.0)
        factor = jnp.where((rank < many) & rows.present, factor, 1.0)
        return rows._replace(values=jax.tree.map(lambda v: v * factor[:, None], rows.values)), state

    return restack(clip, name="arc", hparams={"f": f}, minimum=2 * f + 1)


def _longest_first(norms: jax.Array, units: jax.Array, present: jax.Array) -> jax.Array:
    """Ranks of `norms` times powers of two, as exponents and then fractions; the absent behind all."""
    fraction, exponent = jnp.frexp(norms)
    size = jnp.where(norms > 0, exponent.astype(jnp.int32) + units, -10_000)
    size = jnp.where(present, -size, 20_000)
    places = jnp.arange(len(present), dtype=jnp.int32)
    order = jax.lax.sort((size, -fraction, places), num_keys=2, is_stable=True)[2]
    return jnp.argsort(order).astype(jnp.int32)
