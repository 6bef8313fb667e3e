"""A probe for losses whose rows depend on each other."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def check_cross_example(
    loss_fn: Callable[..., Any],
    params: PyTree,
    batch: Mapping[str, Any],
    *,
    key: Any = None,
    max_rows: int = 8,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> bool:
    """Finds out whether the loss of one row depends on other rows, and whether the loss function says so.

    Row after row is replaced by another row of the batch, and the losses of all the others are watched. Such a loss
    (BatchNorm in training, contrastive losses) has no per-example gradient and must be declared, by
    `fl.losses.declare(loss_fn, cross_example=True)`, before privacy is promised to single examples.

    Args:
      loss_fn: `(params, batch, key) -> [B]` or `([B], LossAux)`.
      params: the model.
      batch: dict of `[B, ...]`, B of at least 2, with rows that differ; "mask" may be left out.
      key: given to the loss; a fixed key if None, so that training mode is tested.
      max_rows: how many rows to replace, at most.
      rtol: a change below this, relative to the largest loss, is rounding.
      atol: the same, absolute.

    Returns:
      whether the rows depend on each other.

    Raises:
      AssertionError: if they do and the loss does not declare it, naming rows and the change.
      ValueError: for a batch of fewer than 2 rows, or of equal rows.

    Example:
      >>> centered = lambda params, batch, key: (batch["x"] - batch["x"].mean()) ** 2
      >>> from fedjaxlite import losses
      >>> check_cross_example(losses.declare(centered, cross_example=True), (), {"x": np.float32([1, 2, 4])})
      True
    """
    arrays = {name: np.asarray(value) for name, value in batch.items() if name != "mask"}
    size = next(iter(arrays.values())).shape[0] if arrays else 0
    if size < 2:
        raise ValueError(f"`batch` has {size} rows; expected at least 2, so that one can be replaced by another.")
    mask = jnp.ones((size,), bool)
    key = jax.random.key(0) if key is None else key

    @jax.jit
    def evaluate(rows: dict[str, jax.Array]) -> jax.Array:
        result = loss_fn(params, {**rows, "mask": mask}, key)
        return result[0] if isinstance(result, tuple) else result

    before = np.asarray(evaluate(arrays), np.float64)
    found, replaced = False, 0
    for j in range(size):
        other = _another_row(arrays, j)
        if other is None or replaced == max_rows:
            continue
        replaced += 1
        index = np.arange(size)
        index[j] = other
        after = np.asarray(evaluate({name: value[index] for name, value in arrays.items()}), np.float64)
        change = np.where(np.arange(size) == j, 0.0, np.abs(after - before))
        i, allowed = int(np.nanargmax(change)), atol + rtol * float(np.nanmax(np.abs(before)))
        if change[i] > allowed:
            found = True
            _refuse_undeclared(loss_fn, i, j, float(change[i]), allowed)
    if not replaced:
        raise ValueError("`batch` holds one row over and over; expected rows that differ.")
    return found


def _another_row(arrays: Mapping[str, np.ndarray], j: int) -> int | None:
    """The next row that differs from row j, or None."""
    size = next(iter(arrays.values())).shape[0]
    for step in range(1, size):
        i = (j + step) % size
        if any(not np.array_equal(value[i], value[j]) for value in arrays.values()):
            return i
    return None


def _refuse_undeclared(loss_fn: Any, i: int, j: int, change: float, allowed: float) -> None:
    if not getattr(loss_fn, "cross_example", False):
        name = getattr(loss_fn, "name", getattr(loss_fn, "__name__", type(loss_fn).__name__))
        raise AssertionError(
            f"cross-example law: the loss `{name}` of row {i} changes by {change:.3g} when row {j} is replaced "
            f"(tolerance {allowed:.3g}), but it is not declared cross_example. If that is meant "
            "(BatchNorm), declare it with "
            "fl.losses.declare(loss_fn, cross_example=True); else remove what mixes the rows."
        )
