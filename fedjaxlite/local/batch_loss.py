"""What a loss gives on a batch: checked, masked, weighted, and reduced over the real examples."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.losses import LossAux

PyTree = Any


class BatchLoss(NamedTuple):
    """A batch's loss, reduced over its real examples.

    Attributes:
      loss: float32 scalar, the mean over real examples, weighted by `LossAux.example_weight` where the loss gives it.
      weight: float32 scalar, the sum of the real examples' weights (their number without `example_weight`).
      metrics: dict of float32 scalars, the mean of each of `LossAux.metrics` under the same weights.
      state: the model's new non-trainable state, or None.
    """

    loss: jax.Array
    weight: jax.Array
    metrics: Mapping[str, jax.Array]
    state: PyTree


def batch_loss(loss_fn: Callable[..., Any], params: PyTree, batch: Mapping[str, Any], mask: Any, key: Any) -> BatchLoss:
    """Evaluates a per-example loss on a padded batch and reduces it over the real examples.

    Args:
      loss_fn: `(params, batch, key) -> [B]` or `([B], LossAux)`.
      params: the model.
      batch: dict of `[B, ...]`.
      mask: bool `[B]`, True for real examples.
      key: a random key for the loss (dropout).

    Returns:
      a BatchLoss; all zeros for a batch of padding only.

    Raises:
      ValueError: if the loss is not one number per example; when traced, so before any training.
    """
    return reduced(loss_rows(loss_fn, params, batch, mask, key))


class LossRows(NamedTuple):
    """A batch's loss before it is reduced; zeros in rows that are not real.

    Attributes:
      losses: float32 `[B]`, each example's loss times its weight.
      weight: float32 `[B]`.
      metrics: dict of float32 `[B]`, each of `LossAux.metrics` times the weight.
      state: the model's new non-trainable state, or None.
    """

    losses: jax.Array
    weight: jax.Array
    metrics: Mapping[str, jax.Array]
    state: PyTree


def loss_rows(loss_fn: Callable[..., Any], params: PyTree, batch: Mapping[str, Any], mask: Any, key: Any) -> LossRows:
    """What `batch_loss` reduces; arguments and errors are the same."""
    size = _batch_size(batch, mask)
    losses, aux = _unpack(call_loss(loss_fn, params, batch, key), size)
    weight = mask.astype(jnp.float32)
    if aux.example_weight is not None:
        weight = weight * aux.example_weight.astype(jnp.float32)

    def weighted(values: jax.Array) -> jax.Array:
        # `where` and not a product: a masked row may hold anything, NaN included.
        return jnp.where(mask, values.astype(jnp.float32), 0.0) * weight

    metrics = {name: weighted(values) for name, values in aux.metrics.items()}
    return LossRows(weighted(losses), weight, metrics, aux.state)


def mean_loss(rows: LossRows) -> jax.Array:
    """float32 scalar, the weighted mean over the real examples; 0 without any."""
    return _mean(rows.losses, rows.weight.sum())


def reduced(rows: LossRows) -> BatchLoss:
    """The sums and means of a batch's rows."""
    total = rows.weight.sum()
    metrics = {name: _mean(values, total) for name, values in rows.metrics.items()}
    return BatchLoss(_mean(rows.losses, total), total, metrics, rows.state)


def as_rows(batch_loss: BatchLoss) -> LossRows:
    """A loss that was reduced already, as a single row."""
    row = lambda value: (value * batch_loss.weight)[None]  # noqa: E731
    metrics = {name: row(value) for name, value in batch_loss.metrics.items()}
    return LossRows(row(batch_loss.loss), batch_loss.weight[None], metrics, batch_loss.state)


def _mean(values: jax.Array, total: jax.Array) -> jax.Array:
    return values.sum() / jnp.where(total > 0, total, 1.0)


def call_loss(loss_fn: Callable[..., Any], params: PyTree, batch: Mapping[str, Any], key: Any) -> Any:
    """What a loss function returns; where it fails on what it was given, an error that says what that was.

    Args:
      loss_fn: `(params, batch, key) -> [B]` or `([B], LossAux)`.
      params: the model.
      batch: dict of `[B, ...]`.
      key: a random key, or None.

    Raises:
      ValueError: for a feature that the data do not have.
      TypeError: for other parameters, or another batch, than the function takes.
    """
    checks.is_function_of("params", "batch", "key", loss_fn=loss_fn)
    try:
        return loss_fn(params, batch, key)
    except KeyError as error:
        name = error.args[0] if error.args else None
        features = ", ".join(repr(feature) for feature in batch)
        raise ValueError(
            f"the loss function read {name!r}, which is no feature of the batch (it has {features}), nor in the "
            "parameters. Rename the feature, or correct the loss."
        ) from error
    except (TypeError, AttributeError, IndexError) as error:
        if _is_own(error):
            raise
        checks.numeric_leaves("params", params)
        given = {name: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for name, leaf in batch.items()}
        shapes = jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", params)
        raise TypeError(
            f"the loss function failed ({type(error).__name__}: {str(error).partition(chr(10))[0]}) on the parameters "
            f"{shapes} and the batch {given}. Give parameters and data that it takes, or correct it."
        ) from error


def _is_own(error: BaseException) -> bool:
    """Whether the library raised it, and has said what there is to say."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("fedjaxlite.")


def _batch_size(batch: Any, mask: Any) -> int:
    """B, of a mask `[B]` and features `[B, ...]`."""
    if not hasattr(mask, "dtype") or not jnp.issubdtype(mask.dtype, jnp.bool_) or len(mask.shape) != 1:
        raise TypeError(f"`mask` is {checks.shown(mask)}; expected bool [B], True for real examples.")
    if not isinstance(batch, Mapping):
        raise TypeError(f"`batch` is {checks.shown(batch)}; expected a dict from feature names to arrays [B, ...].")
    for name, leaf in batch.items():
        checks.numeric_leaves(f"batch[{name!r}]", leaf)
        if jnp.shape(leaf)[:1] != mask.shape:
            raise ValueError(
                f"`batch[{name!r}]` has shape {list(jnp.shape(leaf))}, and the mask {list(mask.shape)}; expected one "
                "row an example in both."
            )
    return mask.shape[0]


def _unpack(result: Any, batch_size: int) -> tuple[jax.Array, LossAux]:
    """What a loss function returned, in the long form; refuses everything that is not one value per example."""
    pair = isinstance(result, tuple) and len(result) == 2
    losses: Any = result[0] if pair else result
    aux: Any = result[1] if pair else LossAux()
    if not isinstance(aux, LossAux):
        raise TypeError(
            f"the loss function returned a {type(aux).__name__} beside the losses; expected a fedjaxlite.LossAux. "
            "Metrics go into LossAux(metrics={...}), a new model state into LossAux(state=...)."
        )
    values: dict[str, Any] = {"losses": losses, "LossAux.example_weight": aux.example_weight}
    values.update({f"LossAux.metrics[{name!r}]": value for name, value in aux.metrics.items()})
    for name, value in values.items():
        if value is None and name == "losses":
            raise TypeError(
                f"the loss function returned None; expected the losses [{batch_size}], one value per example. Write "
                "`return`."
            )
        if value is not None and not hasattr(value, "dtype"):
            raise TypeError(
                f"the loss function returned `{name}` {checks.shown(value)}; expected an array [{batch_size}], one "
                "value per example."
            )
        if value is not None and jnp.shape(value) != (batch_size,):
            raise ValueError(
                f"the loss function returned `{name}` of shape {list(jnp.shape(value))} for a batch of {batch_size}; "
                f"expected [{batch_size}], one value per example. Do not average over the batch: the library does it, "
                "with padding masked."
            )
    return losses, aux
