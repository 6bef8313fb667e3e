"""The one place where losses are differentiated: gradients of a masked mean loss, and what saves memory in them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.local.batch_loss import BatchLoss, LossRows, as_rows, loss_rows, mean_loss, reduced
from fedjaxlite.local.mixed_precision import compute_in
from fedjaxlite.local.rematerialization import rematerialize
from fedjaxlite.lowering import Rewrites, should_lower
from fedjaxlite.lowering import lower as lower_with
from fedjaxlite.platforms import platform_of
from fedjaxlite.variables import trainable, with_trainable

PyTree = Any


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
    rows_of = rows_and_grad(
        loss_fn,
        lower=lower,
        lanes=lanes,
        platform=platform,
        compute_dtype=compute_dtype,
        remat=remat,
        micro_batch_size=micro_batch_size,
    )

    def evaluate(params: PyTree, batch: Mapping[str, Any], mask: Any, key: Any) -> tuple[BatchLoss, PyTree]:
        rows, gradient = rows_of(params, batch, mask, key)
        return reduced(rows), gradient

    return evaluate


def rows_and_grad(
    loss_fn: Callable[..., Any],
    *,
    lower: bool | Literal["auto"] = "auto",
    lanes: int | None = None,
    platform: str | None = None,
    compute_dtype: Any = None,
    remat: bool | Callable[..., Any] = False,
    micro_batch_size: int | None = None,
) -> Callable[..., tuple[LossRows, PyTree]]:
    """`value_and_grad` with the loss as rows, for loops that add them up and reduce them once, at their end."""
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

    def whole(on: str, params: PyTree, batch: Mapping[str, Any], mask: Any, key: Any) -> tuple[LossRows, PyTree]:
        rewrites = should_lower(on, lanes) if lower == "auto" else Rewrites(*(lower,) * 3)
        prepared = _prepared(narrow, rewrites, on, remat)

        def mean(part: PyTree) -> tuple[jax.Array, LossRows]:
            rows = loss_rows(prepared, with_trainable(params, part), batch, mask, key)
            return mean_loss(rows), rows

        checks.float_leaves("params", trainable(params), remedy="What is not trained goes into `fl.Variables.state`.")
        gradient, rows = jax.grad(mean, has_aux=True)(trainable(params))
        return rows, gradient

    def chunk(on: str, *args: Any) -> tuple[BatchLoss, PyTree]:
        rows, gradient = whole(on, *args)
        return reduced(rows), gradient

    # As a jitted function it is traced once, where a caller asks for its shapes before it loops over it.
    @partial(jax.jit, static_argnums=0, inline=True)
    def traced(on: str, params: PyTree, batch: Mapping[str, Any], mask: Any, key: Any) -> tuple[LossRows, PyTree]:
        if micro_batch_size is None or micro_batch_size >= mask.shape[0]:
            return whole(on, params, batch, mask, key)
        summed, gradient = _in_chunks(partial(chunk, on), micro_batch_size, params, batch, mask, key)
        return as_rows(summed), gradient

    def evaluate(params: PyTree, batch: Mapping[str, Any], mask: Any, key: Any) -> tuple[LossRows, PyTree]:
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
