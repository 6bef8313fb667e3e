"""The one place where losses are differentiated: gradients of a masked mean loss, and what saves memory in them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.local.mixed_precision import compute_in
from fedjaxlite.local.rematerialization import rematerialize
from fedjaxlite.losses import LossAux
from fedjaxlite.lowering import Rewrites, should_lower
from fedjaxlite.lowering import lower as lower_with
from fedjaxlite.platforms import platform_of
from fedjaxlite.variables import trainable, with_trainable

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
    size = _batch_size(batch, mask)
    losses, aux = _unpack(call_loss(loss_fn, params, batch, key), size)
    weight = mask.astype(jnp.float32)
    if aux.example_weight is not None:
        weight = weight * aux.example_weight.astype(jnp.float32)
    total = weight.sum()

    def mean(values: jax.Array) -> jax.Array:
        # `where` and not a product: a masked row may hold anything, NaN included.
        return (jnp.where(mask, values.astype(jnp.float32), 0.0) * weight).sum() / jnp.where(total > 0, total, 1.0)

    return BatchLoss(mean(losses), total, {name: mean(values) for name, values in aux.metrics.items()}, aux.state)


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


def value_and_grad(
    loss_fn: Callable[..., Any],
    *,
    lower: bool | Literal["auto"] = "auto",
    lanes: int | None = None,
    platform: str | None = None,
    compute_dtype: Any = None,
    remat: bool | Callable[..., Any] = False,
    micro_batch_size: int | None = None,
) -> Callable[..., tuple[BatchLoss, PyTree]]:
    """The gradient of a per-example loss, averaged over the real examples of a batch.

    The only place where the engine differentiates a loss, so lowering, narrow floats, rematerialization and forward
    mode have one place too.

    Args:
      loss_fn: `(params, batch, key) -> [B]` or `([B], LossAux)`.
      lower: whether convolutions, pools and scans are rewritten before differentiation (`fedjaxlite.lower`): "auto"
        where that is faster, True, or False.
      lanes: models side by side, for "auto": `data.wave.num_lanes`; None counts as several.
      platform: that of the devices it runs on, for "auto": `data.wave.platform`; by default
        that of the arguments, as for `fedjaxlite.lower`.
      compute_dtype: a floating dtype such as `jnp.bfloat16`: wider trainable leaves and float features (except "y")
        are cast to it for the loss, and so are wider operands of its matrix products, unless these ask for a
        `precision`. Gradients have the dtypes of the parameters, losses and metrics are summed in float32, the state
        of `Variables` keeps its dtypes. Other floats that reach the loss by closure, a frozen base under
        `partition_params` among them, are used as they are stored. None changes nothing.
      remat: True keeps fewer activations and computes them again in the backward pass; or a policy of
        `jax.checkpoint_policies` for one `jax.checkpoint` around the loss. Results are the same to rounding.
      micro_batch_size: m, rows at a time; the gradient of a batch is summed over its chunks of m rows, with the
        weights of their real examples, so that it is that of the whole batch to rounding. The last chunk is padded
        where m does not divide B. Each chunk has a random key of its own, so dropout draws other numbers than in the
        whole batch. None takes the batch as one.

    Returns:
      a function `(params, batch, mask, key) -> (BatchLoss, gradient)`; the gradient has the structure of the
      trainable part of the parameters and is zero for a batch of padding only. Forward-mode differentiation goes
      through it, also through models with `custom_vjp`, unless a rule's own forward pass calls its custom function.

    Raises:
      TypeError, ValueError: for arguments out of range; for `micro_batch_size` with a loss whose rows depend on each
        other, or, when traced, one that gives a state.

    Example:
      >>> square = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> batch = {"x": jnp.array([1.0, 3.0, 3.0])}
      >>> loss, grad = value_and_grad(square)(jnp.float32(0.0), batch, jnp.array([True, True, False]), None)
      >>> float(loss.loss), float(grad)
      (5.0, -4.0)
    """
    checks.is_function_of("params", "batch", "key", loss_fn=loss_fn)
    if lanes is not None:
        lanes = checks.positive_int(lanes=lanes)
    if platform is not None:
        platform = checks.text('Such as "cpu", as `jax.Device.platform` names it.', platform=platform)
    lower = checks.one_of((True, False, "auto"), lower=lower)
    if micro_batch_size is not None:
        _check_micro_batches(loss_fn, micro_batch_size)
    narrow = compute_in(loss_fn, compute_dtype)
    rematerialize(narrow, remat)  # refuses now what it refuses

    def whole(on: str, params: PyTree, batch: Mapping[str, Any], mask: Any, key: Any) -> tuple[BatchLoss, PyTree]:
        rewrites = should_lower(on, lanes) if lower == "auto" else Rewrites(*(lower,) * 3)
        prepared = _prepared(narrow, rewrites, on, remat)

        def mean_loss(part: PyTree) -> tuple[jax.Array, BatchLoss]:
            reduced = batch_loss(prepared, with_trainable(params, part), batch, mask, key)
            return reduced.loss, reduced

        checks.float_leaves("params", trainable(params), remedy="What is not trained goes into `fl.Variables.state`.")
        gradient, reduced = jax.grad(mean_loss, has_aux=True)(trainable(params))
        return reduced, gradient

    # As a jitted function it is traced once, where a caller asks for its shapes before it loops over it.
    @partial(jax.jit, static_argnums=0, inline=True)
    def traced(on: str, params: PyTree, batch: Mapping[str, Any], mask: Any, key: Any) -> tuple[BatchLoss, PyTree]:
        if micro_batch_size is None or micro_batch_size >= mask.shape[0]:
            return whole(on, params, batch, mask, key)
        return _in_chunks(partial(whole, on), micro_batch_size, params, batch, mask, key)

    def evaluate(params: PyTree, batch: Mapping[str, Any], mask: Any, key: Any) -> tuple[BatchLoss, PyTree]:
        checks.numeric_leaves("params", params)  # before jit, whose error would not name it
        return traced(platform or platform_of((params, batch)), params, batch, mask, key)

    return evaluate


def _prepared(
    loss_fn: Callable[..., Any], rewrites: Rewrites, on: str, remat: bool | Callable[..., Any]
) -> Callable[..., Any]:
    """A loss to differentiate: lowered, and with fewer values kept."""
    if remat is not True:
        return rematerialize(lower_with(loss_fn, enable=rewrites, platform=on), remat)
    # The bodies of scans are put under `jax.checkpoint` first: a lowered scan is not seen as one any more.
    cut = rematerialize(lower_with(loss_fn, enable=rewrites._replace(scans=False), platform=on), remat)
    return lower_with(cut, enable=Rewrites(convolutions=False, pools=False, scans=rewrites.scans), platform=on)


class Sums(NamedTuple):
    """Gradients of parts of a batch, summed with the weights of their real examples.

    Attributes:
      weight: float32 scalar.
      metrics: dict of float32 scalars, "loss" among them.
      gradient: pytree like the gradient; narrow floats are summed in float32.
    """

    weight: jax.Array
    metrics: Mapping[str, jax.Array]
    gradient: PyTree


def no_sums(template: tuple[BatchLoss, PyTree]) -> Sums:
    """The sums of nothing, for what `value_and_grad` gives; shapes and dtypes are enough."""
    reduced, gradient = template
    metrics = {"loss": jnp.float32(0.0), **{name: jnp.float32(0.0) for name in reduced.metrics}}
    wide = lambda dtype: dtype if dtype.itemsize >= 4 else jnp.float32  # noqa: E731
    zeros = lambda leaf: jnp.zeros(leaf.shape, wide(leaf.dtype))  # noqa: E731
    return Sums(jnp.float32(0.0), metrics, jax.tree.map(zeros, gradient))


def add_to(sums: Sums, reduced: BatchLoss, gradient: PyTree) -> Sums:
    """The sums with one more part of the batch."""

    def add(total: jax.Array, new: jax.Array) -> jax.Array:
        return total + new.astype(total.dtype) * reduced.weight.astype(total.dtype)

    metrics = jax.tree.map(add, dict(sums.metrics), {"loss": reduced.loss, **reduced.metrics})
    return Sums(sums.weight + reduced.weight, metrics, jax.tree.map(add, sums.gradient, gradient))


def mean_of(sums: Sums, template: tuple[BatchLoss, PyTree]) -> tuple[BatchLoss, PyTree]:
    """What `value_and_grad` gives for all parts together, without a state; zeros where nothing was real."""
    share = 1.0 / jnp.where(sums.weight > 0, sums.weight, 1.0)
    metrics = {name: value * share for name, value in sums.metrics.items()}
    gradient = jax.tree.map(
        lambda total, leaf: (total * share.astype(total.dtype)).astype(leaf.dtype), sums.gradient, template[1]
    )
    return BatchLoss(metrics.pop("loss"), sums.weight, metrics, None), gradient


def _check_micro_batches(loss_fn: Callable[..., Any], micro_batch_size: Any) -> None:
    micro_batch_size = checks.positive_int(micro_batch_size=micro_batch_size, remedy="None takes each batch as one.")
    if getattr(loss_fn, "cross_example", False):
        raise ValueError(
            f"`micro_batch_size` is {micro_batch_size} and the loss is declared cross_example: batch statistics would "
            "be those of chunks. Train without micro_batch_size, or with a model without them (GroupNorm)."
        )


def _in_chunks(
    gradient: Callable[..., tuple[BatchLoss, PyTree]],
    size: int,
    params: PyTree,
    batch: Mapping[str, Any],
    mask: jax.Array,
    key: Any,
) -> tuple[BatchLoss, PyTree]:
    """The gradient of a batch from chunks of `size` rows, fewer than the batch has."""
    rows = mask.shape[0]
    count = -(-rows // size)
    spare = count * size - rows

    def chunked(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        # Spare rows repeat the first ones, as padding does; they are masked.
        leaf = jnp.concatenate([leaf, leaf[:spare]]) if spare else leaf
        return leaf.reshape((count, size, *leaf.shape[1:]))

    masks = chunked(mask) & (jnp.arange(count * size) < rows).reshape((count, size))
    chunks = {name: chunked(leaf) for name, leaf in batch.items()}
    chunks = {**chunks, "mask": masks} if "mask" in batch else chunks

    def one(index: jax.Array, chunk: Any, chunk_mask: jax.Array) -> tuple[BatchLoss, PyTree]:
        return gradient(params, chunk, chunk_mask, None if key is None else jax.random.fold_in(key, index))

    def step(sums: Sums, item: Any) -> tuple[Sums, None]:
        return add_to(sums, *one(*item)), None

    items = (jnp.arange(count, dtype=jnp.int32), chunks, masks)
    template = jax.eval_shape(lambda: one(*jax.tree.map(lambda leaf: leaf[0], items)))
    if template[0].state is not None:
        raise ValueError(
            "`micro_batch_size` is given and the loss gives a state (`LossAux.state`): the states of chunks do not add "
            "up to that of their batch. Train without micro_batch_size."
        )
    return mean_of(jax.lax.scan(step, no_sums(template), items)[0], template)
