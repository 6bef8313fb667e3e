"""How far a code can lengthen an update: bounds on the wire, from what holds for every vector and every draw."""

import math
from typing import Any

import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Bounds


def least(*bounds: Any) -> Any:
    """The least of several bounds, None being none.

    Example:
      >>> least(None, 2.0, 3.0), least(None)
      (2.0, None)
    """
    found = [bound for bound in bounds if bound is not None]
    if not found:
        return None
    if not checks.is_traced(found):
        return min(found)
    smallest = found[0]
    for bound in found[1:]:
        smallest = jnp.minimum(smallest, bound)
    return smallest


def times(bound: Any, factor: float) -> Any:
    """A bound times a number; None stays None."""
    return None if bound is None else bound * factor


def completed(bounds: Bounds, sizes: tuple[int, ...]) -> Bounds:
    """Bounds with what they say of each other: |v|_inf <= |v|_2 <= |v|_1 <= sqrt(d) |v|_2 <= d |v|_inf.

    Args:
      bounds: on a value.
      sizes: entries of its leaves.

    Returns:
      Bounds, none of them larger; all there if one was.

    Example:
      >>> completed(Bounds(linf=0.5), (3, 1))
      Bounds(l2=1.0, linf=0.5, l1=2.0)
    """
    entries = sum(sizes)
    root = math.sqrt(entries)
    l2 = least(bounds.l2, bounds.l1, times(bounds.linf, root))
    return Bounds(l2, least(bounds.linf, l2), least(bounds.l1, times(l2, root)))


def longer(bounds: Bounds, *, l2: float = 1.0, linf: float = 1.0, l1: float = 1.0) -> Bounds:
    """Bounds on a value that can be so many times as long, by each norm."""
    return Bounds(times(bounds.l2, l2), times(bounds.linf, linf), times(bounds.l1, l1))
