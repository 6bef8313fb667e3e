"""Comparing two pytrees, with a message that says what differs, where and by how much."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.checks import path_str

PyTree = Any


class Tolerance(NamedTuple):
    """How far two floats may be apart; ints and bools are always compared exactly.

    Attributes:
      rtol: relative to the largest entry of the expected leaf.
      atol: absolute.
    """

    rtol: float = 1e-5
    atol: float = 1e-5


EXACT = Tolerance(0.0, 0.0)
"""Bit for bit, but that NaN equals NaN."""


def host(tree: PyTree) -> PyTree:
    """The pytree in numpy arrays, random keys as their data."""
    return jax.tree.map(_host_leaf, tree)


def _host_leaf(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def assert_close(got: PyTree, want: PyTree, *, what: str, tolerance: Tolerance = EXACT) -> None:
    """Raises if two pytrees differ by more than a tolerance.

    Args:
      got: pytree of arrays.
      want: pytree of arrays, what `got` should be.
      what: which law, under which circumstances; the message begins with it.
      tolerance: see `Tolerance`.

    Raises:
      AssertionError: naming the leaf and entry with the largest difference, that difference and the tolerance.

    Example:
      >>> assert_close({"w": np.float32([1, 2])}, {"w": np.float32([1, 2])}, what="law 0")
      >>> try:
      ...     assert_close({"w": np.float32([1, 2])}, {"w": np.float32([1, 3])}, what="law 0: here")
      ... except AssertionError as error:
      ...     print(error)
      law 0: here: ['w'] differs at [1]: got 2.0, expected 3.0. The largest difference is 1; bit equality is the law.
    """
    if jax.tree.structure(got) != jax.tree.structure(want):
        raise AssertionError(
            f"{what}: the tree structure differs: got {jax.tree.structure(got)}, expected {jax.tree.structure(want)}."
        )
    worst: tuple[float, str] | None = None
    got_leaves, want_leaves = jax.tree_util.tree_flatten_with_path(host(got))[0], jax.tree.leaves(host(want))
    for (path, a), b in zip(got_leaves, want_leaves, strict=True):
        found = _difference(path_str(path), a, b, what, tolerance)
        if found is not None and (worst is None or found[0] > worst[0]):
            worst = found
    if worst is not None:
        raise AssertionError(worst[1])


def _difference(path: str, got: np.ndarray, want: np.ndarray, what: str, t: Tolerance) -> tuple[float, str] | None:
    """How many times the tolerance a leaf is off, and the message; None within it."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return np.inf, f"{what}: {path} is {got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}."
    if got.size == 0:
        return None
    floats = np.issubdtype(got.dtype, np.inexact) or got.dtype.kind == "V"  # "V": bfloat16 and its relatives
    a, b = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    apart = np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
    finite = np.abs(b[np.isfinite(b)])
    scale = float(finite.max()) if finite.size else 0.0
    allowed = t.atol + t.rtol * scale if floats else 0.0
    if float(apart.max()) <= allowed:
        return None
    place = tuple(int(i) for i in np.unravel_index(int(apart.argmax()), got.shape))
    law = f"the tolerance {allowed:.3g} ({t.atol:g} + {t.rtol:g} x the largest entry)" if allowed else ""
    law = f", {law}." if law else "; bit equality is the law."
    at = f" at {list(place)}" if place else ""
    return float(apart.max()) / max(allowed, 1e-30), (
        f"{what}: {path} differs{at}: got {got[place]}, expected {want[place]}. "
        f"The largest difference is {apart.max():.3g}{law}"
    )
