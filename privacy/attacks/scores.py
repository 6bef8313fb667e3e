"""How well an attack did: likeness of reconstructions to originals, and curves of guesses about membership."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fedjaxlite as fl

PyTree = Any


def psnr(x: Any, reference: Any, *, peak: float = 1.0) -> jax.Array:
    """The peak signal-to-noise ratio, `10 log10(peak^2 / mean squared error)`.

    Above 20 dB a picture is plainly recognizable; two unrelated pictures have about 5 to 10 dB.

    Args:
      x: floats of any shape, the reconstruction.
      reference: the original, of the same shape.
      peak: the range of the values, 1 for pixels in [0, 1].

    Returns:
      float32 scalar, in dB; infinite where both are equal.

    Raises:
      ValueError: for shapes that differ, or a `peak` that is not above 0.

    Example:
      >>> round(float(psnr(np.full((4, 4), 0.1), np.zeros((4, 4)))), 4)
      20.0
    """
    peak = fl.checks.positive(peak=peak)
    x, reference = _pair(x, reference)
    error = jnp.mean(jnp.square(x - reference))
    return 10.0 * (2.0 * jnp.log10(jnp.float32(peak)) - jnp.log10(error))


def correlation(x: Any, reference: Any) -> jax.Array:
    """Pearson's correlation of the entries; blind to the scale and the offset of either.

    Args:
      x: floats of any shape.
      reference: of the same shape.

    Returns:
      float32 scalar in [-1, 1]; 0 where either is constant.

    Raises:
      ValueError: for shapes that differ.

    Guarantees:
      Of unrelated values with d independent entries its mean is 0 and its standard deviation about `1 / sqrt(d)`.

    Example:
      >>> round(float(correlation(np.array([1.0, 2.0, 3.0]), np.array([20.0, 40.0, 60.0]))), 4)
      1.0
    """
    x, reference = _pair(x, reference)
    return cosine(x - jnp.mean(x), reference - jnp.mean(reference))


def cosine(a: PyTree, b: PyTree) -> jax.Array:
    """The cosine between two pytrees as vectors.

    Args:
      a: pytree of floats.
      b: pytree of the same structure and shapes.

    Returns:
      float32 scalar in [-1, 1]; 0 where either is all zeros. Scales do not matter, however large or small.

    Raises:
      ValueError: for structures or shapes that differ.

    Example:
      >>> float(cosine({"w": jnp.array([3.0, 0.0])}, {"w": jnp.array([1e30, 0.0])}))
      1.0
    """
    fl.checks.numeric_leaves("a", a)
    fl.checks.numeric_leaves("b", b)
    fl.checks.same_structure(
        a, b, what="`a`", than="`b`", remedy="A cosine needs two trees of one structure.", any_dtype=True
    )
    a, b = _unit(a), _unit(b)
    return jax.tree.reduce(jnp.add, jax.tree.map(lambda u, v: jnp.sum(u * v), a, b), jnp.float32(0.0))


def _unit(tree: PyTree) -> PyTree:
    """The tree over its norm, without a square that overflows and with a gradient everywhere but at 0."""
    tree = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.float32), tree)
    largest = jax.tree.reduce(lambda m, leaf: jnp.maximum(m, jnp.max(jnp.abs(leaf))), tree, jnp.float32(0.0))
    scale = jax.lax.stop_gradient(jnp.where(largest > 0, largest, 1.0))
    tree = jax.tree.map(lambda leaf: leaf / scale, tree)
    squared = sum((jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(tree)), jnp.float32(0.0))
    norm = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
    return jax.tree.map(lambda leaf: leaf / norm, tree)


def numbers(name: str, value: Any, shape: str) -> np.ndarray:
    """float64, from concrete real numbers; refuses everything else, by the argument's name."""
    return fl.checks.real_array(shape=shape, **{name: fl.checks.concrete(**{name: value})}).astype(np.float64)


def _pair(x: Any, reference: Any) -> tuple[jax.Array, jax.Array]:
    x, reference = (jnp.asarray(value) for value in fl.checks.real_array(narrow=True, x=x, reference=reference))
    if x.shape != reference.shape:
        raise ValueError(
            f"`x` has shape {list(x.shape)} and `reference` {list(reference.shape)}; expected the same. "
            "A batch of reconstructions goes through `match` or `jax.vmap`."
        )
    return x.astype(jnp.float32), reference.astype(jnp.float32)


class Matching(NamedTuple):
    """Which reconstruction goes with which original.

    Attributes:
      rows: int64 `[n]`, for each original the row of its reconstruction; distinct.
      psnr: float32 `[n]`, in dB.
      correlation: float32 `[n]`.
    """

    rows: np.ndarray
    psnr: np.ndarray
    correlation: np.ndarray


def match(
    reconstructions: Any, originals: Any, *, by: Literal["error", "correlation"] = "error", peak: float = 1.0
) -> Matching:
    """Pairs reconstructions with originals so that the total over pairs is best: the order in a batch is not in a sum.

    The pairing looks at the originals, so that even noise is paired with what it happens to be nearest to. Compare
    with the same candidates paired with pictures that were not in the batch.

    Args:
      reconstructions: floats `[R, ...]`; rows that are not finite are taken last.
      originals: floats `[n, ...]`, n <= R.
      by: "error", the least sum of squared errors, or "correlation", the largest sum of correlations.
      peak: the range of the values, for the PSNR.

    Returns:
      a Matching, its values those of the pairs.

    Raises:
      ValueError: for shapes that do not fit, fewer reconstructions than originals, or another `by`.

    Example:
      >>> originals = np.eye(3)
      >>> match(originals[[2, 0, 1]], originals).rows.tolist()
      [1, 2, 0]
    """
    from scipy.optimize import linear_sum_assignment

    by = fl.checks.one_of(("error", "correlation"), by=by)
    peak = fl.checks.positive(peak=fl.checks.concrete(peak=peak))
    found = numbers("reconstructions", reconstructions, "[R, ...]")
    wanted = numbers("originals", originals, "[n, ...]")
    if (
        found.ndim < 1
        or wanted.ndim < 1
        or not len(wanted)
        or found.shape[1:] != wanted.shape[1:]
        or len(found) < len(wanted)
    ):
        raise ValueError(
            f"`reconstructions` has shape {list(found.shape)} and `originals` {list(wanted.shape)}; expected rows of "
            "one shape, and at least as many reconstructions as originals."
        )
    with np.errstate(over="ignore"):
        found, wanted = found.astype(np.float32), wanted.astype(np.float32)
    rows, columns = wanted.reshape(len(wanted), -1), found.reshape(len(found), -1)
    finite = np.asarray(np.isfinite(columns).all(axis=1))
    columns = np.where(finite[:, None], columns, np.float32(0))
    likeness = _correlations(rows, columns) if by == "correlation" else -_squared_errors(rows, columns)
    likeness[:, ~finite] = likeness.min(initial=0.0) - 1e6
    index = linear_sum_assignment(-likeness)[1]
    pairs = np.arange(len(rows)), index
    with np.errstate(divide="ignore"):
        ratio = 10 * np.log10(peak**2 / _squared_errors(rows, columns)[pairs])
    return Matching(index, ratio.astype(np.float32), _correlations(rows, columns)[pairs].astype(np.float32))


def _squared_errors(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float64 `[n, R]`, means over entries."""
    return np.stack([np.mean((columns - row) ** 2, axis=1, dtype=np.float64) for row in rows])


def _correlations(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float64 `[n, R]`; 0 where either is constant."""

    def unit(values: np.ndarray) -> np.ndarray:
        centered = values.astype(np.float64) - values.mean(axis=1, keepdims=True, dtype=np.float64)
        norm = np.linalg.norm(centered, axis=1, keepdims=True)
        return centered / np.where(norm > 0, norm, 1.0)

    return unit(rows) @ unit(columns).T
