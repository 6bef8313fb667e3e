"""Noise on a sum: how large for the update and for the scalars beside it, and drawn once, with a key for every leaf."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fedjaxlite as fl

PyTree = Any


class Spread(NamedTuple):
    """How wide noise is, in the units of what it is added to.

    Attributes:
      value: of every entry of the update.
      scalars: by name.
    """

    value: Any
    scalars: Mapping[str, Any]


def product(noise_multiplier: Any, sensitivity: Any) -> Any:
    """Noise multiplier times sensitivity, where 0 times an infinite clip norm is no noise.

    Example:
      >>> product(0.0, float("inf"))
      0.0
    """
    if fl.checks.is_traced((noise_multiplier, sensitivity)):
        return jnp.where(noise_multiplier == 0, 0.0, noise_multiplier * sensitivity)
    return 0.0 if noise_multiplier == 0 else noise_multiplier * sensitivity


def spread(noise_multiplier: Any, clip_norm: Any, scalar_bounds: Mapping[str, Any], *, order: int = 2) -> Spread:
    """The noise of an update and p scalars that are released together under one noise multiplier.

    In units of its own bound each of the p + 1 quantities has a norm of at most 1, and all of them together one of at
    most sqrt(1 + p) in L2, 1 + p in L1: so much wider is the noise of each.

    Args:
      noise_multiplier: z, of the whole.
      clip_norm: C, the bound on the update.
      scalar_bounds: the bound on each scalar's absolute value.
      order: 2 for a sensitivity in L2, 1 in L1.

    Returns:
      a Spread: z times the joint norm times C, and times each scalar's bound.

    Example:
      >>> spread(1.0, 2.0, {"a": 1.0, "b": 10.0, "c": 0.5})
      Spread(value=4.0, scalars={'a': 2.0, 'b': 20.0, 'c': 1.0})
    """
    parts = 1 + len(scalar_bounds)
    joint = float(parts if order == 1 else parts**0.5)
    return Spread(
        product(noise_multiplier, clip_norm * joint),
        {name: product(noise_multiplier, bound * joint) for name, bound in scalar_bounds.items()},
    )


def add_noise(
    total: fl.Message, widths: Spread, key: Any, draw: Callable[..., jax.Array] = jax.random.normal
) -> fl.Message:
    """Adds noise to every entry of a sum and to its scalars.

    Args:
      total: sums over clients, in floats of at least 32 bits.
      widths: how wide; what is 0 leaves its part as it is, bit for bit.
      key: of this round and this codec. Leaf i of the value draws from `fold_in(key, i)`, the scalars follow by name.
      draw: `draw(key, shape, dtype)`, standard noise of width 1.

    Returns:
      the noised sums; the weight is not touched.
    """
    leaves, treedef = jax.tree.flatten(total.value)
    names = sorted(widths.scalars)
    entries = [(leaf, widths.value) for leaf in leaves] + [(total.scalars[n], widths.scalars[n]) for n in names]
    noised = []
    for i, (leaf, width) in enumerate(entries):
        width = jnp.asarray(width, leaf.dtype)
        noise = width * draw(jax.random.fold_in(key, i), leaf.shape, leaf.dtype)
        # Not `width > 0`: were the width not a number, the sum must not come out without noise.
        noised.append(jnp.where(width == 0, leaf, leaf + noise))
    value = jax.tree.unflatten(treedef, noised[: len(leaves)])
    return total._replace(
        value=value, scalars={**total.scalars, **dict(zip(names, noised[len(leaves) :], strict=True))}
    )
