"""Losses: `loss_fn(params, batch, key)` gives one loss per example, `[B]`, alone or with a `LossAux`.

`batch` is a dict of arrays `[B, ...]`: "x", "y", and the reserved "mask" `[B]`, True for real examples. `key=None`
means evaluation: no dropout, and running statistics instead of the batch's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.models.types import Model

PyTree = Any


class LossAux(NamedTuple):
    """What a loss can give beside the losses.

    Attributes:
      state: the model's new state (BatchNorm statistics), of the structure of `Variables.state`, or None.
      metrics: dict of float32 `[B]`, values per example such as "accuracy"; they are averaged like the losses.
      example_weight: float32 `[B]`, what each example counts for in the mean (number of tokens), or None for one each.
    """

    state: PyTree | None = None
    metrics: Mapping[str, jax.Array] = {}
    example_weight: jax.Array | None = None


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss function that says what it is. Plain functions of the same signature serve as well.

    Attributes:
      fn: `fn(params, batch, key) -> [B]` or `([B], LossAux)`.
      cross_example: whether the loss of a row depends on other rows (BatchNorm). Such a loss has no per-example
        gradients, and is refused where privacy is promised to single examples.
      model: the Model inside, where there is one.
      name: for records and messages.
    """

    fn: Callable[[PyTree, Mapping[str, jax.Array], Any], Any]
    cross_example: bool = False
    model: Model | None = None
    name: str = "loss"

    def __call__(self, params: PyTree, batch: Mapping[str, jax.Array], key: Any = None) -> Any:
        """`[B]`, or `([B], LossAux)`; in evaluation mode for `key=None`."""
        return self.fn(params, batch, key)


def declare(
    fn: Callable[..., Any], *, cross_example: bool = False, model: Model | None = None, name: str | None = None
) -> Loss:
    """A plain loss function with the facts that its code does not show.

    Args:
      fn: `fn(params, batch, key) -> [B]` or `([B], LossAux)`.
      cross_example: whether the loss of a row depends on other rows of the batch.
      model: the Model inside, for records.
      name: for records; the function's name by default.

    Returns:
      a Loss that calls `fn`.

    Raises:
      TypeError: if `fn` is no function.

    Example:
      >>> contrastive = declare(lambda params, batch, key: batch["x"] @ params, cross_example=True, name="contrastive")
      >>> contrastive.cross_example
      True
    """
    checks.is_callable(fn=fn)
    return Loss(fn, cross_example, model, getattr(fn, "__name__", type(fn).__name__) if name is None else name)


def cross_entropy(model: Model, *, label_smoothing: float = 0.0) -> Loss:
    """Cross entropy of a class per example.

    Args:
      model: outputs logits `[B, C]`; `batch["y"]` holds ints `[B]` in [0, C).
      label_smoothing: the share of probability spread evenly over all classes, in [0, 1).

    Returns:
      a Loss with metric "accuracy" (1 where the largest logit is the label's), computed in float32.

    Raises:
      ValueError: for a `label_smoothing` outside [0, 1), or when called, for shapes that do not fit.
      TypeError: when called, for labels that are not ints.

    Guarantees: a label outside [0, C) gives a loss and a gradient of NaN, so that it is noticed, unless its row is
    masked.

    Example:
      >>> from fedjaxlite import models
      >>> model = models.logistic(num_classes=10)
      >>> loss_fn = cross_entropy(model)
      >>> batch = {"x": jnp.zeros((2, 8, 8, 1)), "y": jnp.array([3, 7])}
      >>> losses, aux = loss_fn(model.init(jax.random.key(0)), batch, jax.random.key(1))
      >>> print(losses)
      [2.3025851 2.3025851]
    """
    checks.fraction(label_smoothing=label_smoothing)

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        logits, state = _outputs(model, params, batch, key)
        labels = _labels(logits, batch["y"], f"cross_entropy of `{model.name}`", "[B, C]", "[B]")
        losses = _categorical(logits, labels, label_smoothing, _row_is_padding(batch, labels))
        return losses, LossAux(state, {"accuracy": _correct(logits, labels)})

    return Loss(fn, model.cross_example, model, "cross_entropy")


def sequence_cross_entropy(model: Model, *, ignored_ids: tuple[int, ...] = (0,), token_weighting: bool = True) -> Loss:
    """Cross entropy of a token per time step: per example, the mean over its real tokens.

    Args:
      model: outputs logits `[B, T, C]`; `batch["y"]` holds ints `[B, T]`.
      ignored_ids: targets that are no real tokens (padding, perhaps out-of-vocabulary); neither the loss nor the
        accuracy counts them. They may lie outside [0, C). `()` counts every position.
      token_weighting: whether an example weighs as many as its real tokens, so that the mean over a batch is the mean
        over tokens; else every example that has a real token weighs the same.

    Returns:
      a Loss with metric "accuracy" over real tokens and, with `token_weighting`, `LossAux.example_weight`. An example
      without a real token has loss 0 and weight 0 either way.

    Raises:
      TypeError: for `ignored_ids` that are no ints, or when called, for labels that are not ints.
      ValueError: when called, for shapes that do not fit.

    Guarantees: a real target outside [0, C) gives a loss and a gradient of NaN, unless its row is masked.

    Example:
      >>> from fedjaxlite import models
      >>> model = models.char_lstm(vocab_size=5, embed=2, hidden=3, layers=1)
      >>> batch = {"x": jnp.array([[1, 2, 3]]), "y": jnp.array([[2, 3, 0]])}
      >>> losses, aux = sequence_cross_entropy(model)(model.init(jax.random.key(0)), batch, None)
      >>> print(losses.shape, aux.example_weight)
      (1,) [2.]
    """
    for index, token in enumerate(ignored_ids):
        if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
            raise TypeError(f"`ignored_ids[{index}]` is {token!r}; expected an int, the id of a token not to score.")

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        logits, state = _outputs(model, params, batch, key)
        labels = _labels(logits, batch["y"], f"sequence_cross_entropy of `{model.name}`", "[B, T, C]", "[B, T]")
        ignored = jnp.zeros(labels.shape, bool)
        for token in ignored_ids:
            ignored |= labels == token
        count = jnp.sum(~ignored, axis=1).astype(jnp.float32)

        def mean(values: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(ignored, 0.0, values), axis=1) / jnp.maximum(count, 1.0)

        losses = mean(_categorical(logits, labels, 0.0, ignored | _row_is_padding(batch, labels)))
        weight = count if token_weighting else (count > 0).astype(jnp.float32)
        return losses, LossAux(state, {"accuracy": mean(_correct(logits, labels))}, weight)

    return Loss(fn, model.cross_example, model, "sequence_cross_entropy")


def binary_cross_entropy(model: Model) -> Loss:
    """Logistic loss of yes-or-no labels, one or several per example.

    Args:
      model: outputs logits `[B]`, `[B, 1]` or `[B, M]`; `batch["y"]` holds `[B]` or `[B, M]` bools, ints or floats in
        [0, 1].

    Returns:
      a Loss, the mean over an example's M labels, with metric "accuracy" (the share of labels on the right side).

    Raises:
      ValueError: when called, for shapes that do not fit.

    Example:
      >>> from fedjaxlite import models
      >>> model = models.logistic(num_classes=1, input_shape=(4,))
      >>> batch = {"x": jnp.ones((2, 4)), "y": jnp.array([0, 1])}
      >>> print(binary_cross_entropy(model)(model.init(jax.random.key(0)), batch, None)[0])
      [0.6931472 0.6931472]
    """

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        outputs, state = _outputs(model, params, batch, key)
        logits, targets = _aligned(outputs, batch["y"], f"binary_cross_entropy of `{model.name}`")
        losses = -targets * jax.nn.log_sigmoid(logits) - (1.0 - targets) * jax.nn.log_sigmoid(-logits)
        right = ((logits > 0) == (targets > 0.5)).astype(jnp.float32)
        return _row_mean(losses), LossAux(state, {"accuracy": _row_mean(right)})

    return Loss(fn, model.cross_example, model, "binary_cross_entropy")


def squared_error(model: Model) -> Loss:
    """Mean squared error per example.

    Args:
      model: outputs `[B, ...]`; `batch["y"]` holds numbers of the same shape. Outputs `[B, 1]` fit targets `[B]`.

    Returns:
      a Loss, the mean of squared differences over an example's entries, with metric "absolute_error".

    Raises:
      ValueError: when called, for shapes that do not fit.

    Example:
      >>> from fedjaxlite import models
      >>> model = models.from_functions(lambda key: jnp.zeros(3), lambda params, x: x @ params)
      >>> batch = {"x": jnp.ones((2, 3)), "y": jnp.array([1.0, 2.0])}
      >>> print(squared_error(model)(model.init(jax.random.key(0)), batch, None)[0])
      [1. 4.]
    """

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        outputs, state = _outputs(model, params, batch, key)
        outputs, targets = _aligned(outputs, batch["y"], f"squared_error of `{model.name}`")
        error = outputs - targets
        return _row_mean(error * error), LossAux(state, {"absolute_error": _row_mean(jnp.abs(error))})

    return Loss(fn, model.cross_example, model, "squared_error")


def _outputs(model: Model, params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[Any, PyTree | None]:
    """The model's outputs, and its new state in training."""
    for name in ("x", "y"):
        if name not in batch:
            raise ValueError(
                f"the batch has no `{name}`, only {sorted(batch)}; the library's losses read the features `x` and `y`. "
                "Rename the feature, or write the loss as a function of (params, batch, key)."
            )
    train = key is not None
    made = model.apply(params, batch["x"], key=key, train=train, mask=batch.get("mask"))
    outputs, state = made if model.stateful else (made, None)
    return outputs, state if train else None


def _categorical(logits: jax.Array, labels: jax.Array, smoothing: Any, quiet: jax.Array) -> jax.Array:
    """Cross entropies `[...]` of logits `[..., C]`; NaN for labels outside [0, C) except where `quiet`."""
    logits = logits.astype(jnp.float32)
    classes = logits.shape[-1]
    # A comparison instead of a gather: the gradient of a gather is a scatter, which is slow under vmap.
    hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == labels[..., None]
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    losses = normalizer - jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)
    if checks.is_traced(smoothing) or smoothing:
        losses = (1.0 - smoothing) * losses + smoothing * (normalizer - jnp.mean(logits, axis=-1))
    wrong = ((labels < 0) | (labels >= classes)) & ~quiet
    return losses * jnp.where(wrong, jnp.nan, 1.0)


def _correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


def _row_is_padding(batch: Mapping[str, jax.Array], labels: jax.Array) -> jax.Array:
    """Bool of the shape of `labels`, True in padding rows."""
    if "mask" not in batch:
        return jnp.zeros(labels.shape, bool)
    padding = ~jnp.asarray(batch["mask"], bool)
    return jnp.broadcast_to(padding.reshape(-1, *(1,) * (labels.ndim - 1)), labels.shape)


def _labels(logits: Any, labels: Any, what: str, logits_shape: str, labels_shape: str) -> jax.Array:
    """The labels as int32, refused where they do not fit the logits."""
    if logits.ndim != logits_shape.count(",") + 1 or tuple(logits.shape[:-1]) != tuple(labels.shape):
        raise ValueError(
            f"{what} got logits of shape {list(logits.shape)} and labels of shape {list(labels.shape)}; expected "
            f"{logits_shape} and {labels_shape}. Labels are class indices: drop a trailing axis of 1 with "
            "`y[..., 0]`, turn one-hot rows into indices with `y.argmax(-1)`."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{what} got labels of dtype {labels.dtype}; expected ints. Convert with `y.astype('int32')`.")
    return jnp.asarray(labels, jnp.int32)


def _aligned(outputs: jax.Array, targets: jax.Array, what: str) -> tuple[jax.Array, jax.Array]:
    """Outputs and targets as float32 of one shape."""
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs[..., 0]
    if outputs.shape != targets.shape:
        raise ValueError(
            f"{what} got outputs of shape {list(outputs.shape)} and targets of shape {list(targets.shape)}; expected "
            "the same shape, [B, ...]. Reshape `y`, or build the model with as many outputs as there are targets."
        )
    return outputs.astype(jnp.float32), targets.astype(jnp.float32)


def _row_mean(values: jax.Array) -> jax.Array:
    return jnp.mean(values.reshape(values.shape[0], -1), axis=1)
