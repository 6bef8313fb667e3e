"""The attacker's model of a client: `update_fn(params, x, y)`, what it would have sent had its data been x and y.

A function of one's own serves as well: attacks ask only that it can be differentiated in x twice over (so loops are
`lax.scan`), and that it returns what the target is. Whatever is public belongs into it: the clip norm, the batch size,
the order of batches where it is fixed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import fedjaxlite as fl

PyTree = Any
UpdateFn = Callable[[PyTree, Any, Any], PyTree]


def gradient_update(loss_fn: Callable[..., Any], *, clip_norm: Any = None) -> UpdateFn:
    """What a client of FedSGD sends: the gradient of its mean loss.

    Args:
      loss_fn: `(params, batch, key) -> [B]` or `([B], LossAux)`; called with `batch = {"x", "y", "mask"}`, key None.
      clip_norm: the L2 norm that updates are clipped to, or None.

    Returns:
      `update_fn(params, x, y) -> pytree` like the trainable part of the parameters. A learning rate only scales it.

    Raises:
      TypeError, ValueError: if `loss_fn` is no function, or `clip_norm` not above 0.

    Source: McMahan et al. (2017), https://arxiv.org/abs/1602.05629, FedSGD.

    Example:
      >>> square = lambda params, batch, key: (batch["x"] * params - batch["y"]) ** 2
      >>> float(gradient_update(square)(jnp.float32(1.0), jnp.array([2.0]), jnp.array([1.0])))
      4.0
    """
    return _clipped(_mean_gradient(loss_fn), clip_norm)


def local_update(
    loss_fn: Callable[..., Any], *, learning_rate: Any, epochs: int, batch_size: int, clip_norm: Any = None
) -> UpdateFn:
    """What a client of FedAvg sends: the way it went in some epochs of plain SGD, in the stored order.

    Args:
      loss_fn: as for `gradient_update`.
      learning_rate: of the local steps.
      epochs: E, passes over the client's examples.
      batch_size: B; must divide the number of examples.
      clip_norm: the L2 norm that updates are clipped to, or None.

    Returns:
      `update_fn(params, x, y) -> pytree`, where training started minus where it ended.

    Raises:
      TypeError, ValueError: for arguments out of range; when called, for a number of examples that `batch_size` does
        not divide.

    Guarantees:
      Equals the delta of `fl.local_sgd(..., shuffle=False)` with `optax.sgd(learning_rate)` to rounding.

    Source: Geiping et al. (2020), https://arxiv.org/abs/2003.14053, section 6: federated averaging.

    Example:
      >>> square = lambda params, batch, key: 0.5 * (params - batch["x"]) ** 2
      >>> update_fn = local_update(square, learning_rate=0.5, epochs=2, batch_size=1)
      >>> float(update_fn(jnp.float32(0.0), jnp.array([4.0]), jnp.array([0])))
      -3.0
    """
    learning_rate = fl.checks.positive(learning_rate=learning_rate)
    epochs, batch_size = fl.checks.positive_int(epochs=epochs, batch_size=batch_size)
    gradient = _mean_gradient(loss_fn)

    def update(params: PyTree, x: Any, y: Any) -> PyTree:
        count = x.shape[0]
        if count % batch_size:
            raise ValueError(
                f"`x` has {count} rows, which `batch_size`, {batch_size}, does not divide; expected whole batches. "
                "Give a divisor, or a function of your own as `update_fn`."
            )
        start = fl.trainable(params)
        rate = jnp.asarray(learning_rate, jnp.float32)
        batches = jax.tree.map(lambda leaf: leaf.reshape(-1, batch_size, *leaf.shape[1:]), (x, y))

        def step(part: PyTree, batch: Any) -> tuple[PyTree, None]:
            grads = gradient(fl.with_trainable(params, part), *batch)
            return jax.tree.map(lambda p, g: p - rate.astype(p.dtype) * g, part, grads), None

        epoch = lambda part, _: (jax.lax.scan(step, part, batches)[0], None)  # noqa: E731
        end = jax.lax.scan(epoch, start, None, length=epochs)[0]
        return jax.tree.map(jnp.subtract, start, end)

    return _clipped(update, clip_norm)


def soft_cross_entropy(model: Any) -> fl.losses.Loss:
    """Cross entropy against probabilities, so that an attacker who does not know a label can search for it.

    Args:
      model: a Model that outputs logits `[B, C]` and has no state.

    Returns:
      a Loss; `batch["y"]` holds floats `[B, C]` that sum to 1, or ints `[B]`, for which it equals
      `fl.losses.cross_entropy`.

    Raises:
      ValueError: for a model with state.

    Source: Zhu, Liu, Han (2019), https://arxiv.org/abs/1906.08935, section 3.2: dummy labels.

    Example:
      >>> from fedjaxlite import models
      >>> loss_fn = soft_cross_entropy(models.logistic(num_classes=2, input_shape=(3,)))
      >>> batch = {"x": jnp.ones((1, 3)), "y": jnp.array([[0.5, 0.5]])}
      >>> print(loss_fn({"dense_0": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}, batch, None))
      [0.6931472]
    """
    fl.checks.one_instance(fl.models.Model, "a Model, such as fl.models.logistic()", model=model)
    if model.stateful:
        raise ValueError(f"`model` is `{model.name}`, which has a state; expected a model without (no BatchNorm).")

    def fn(params: PyTree, batch: Mapping[str, Any], key: Any) -> jax.Array:
        logits = model.apply(params, batch["x"], key=key, train=False).astype(jnp.float32)
        y = jnp.asarray(batch["y"])
        if jnp.issubdtype(y.dtype, jnp.integer):
            y = jax.nn.one_hot(y, logits.shape[-1], dtype=jnp.float32)
        if y.shape != logits.shape:
            raise ValueError(
                f"`y` has shape {list(y.shape)} where the logits of `{model.name}` have {list(logits.shape)}; expected "
                "ints [B] or probabilities [B, C]."
            )
        return -jnp.sum(y.astype(jnp.float32) * jax.nn.log_softmax(logits), axis=-1)

    return fl.losses.declare(fn, model=model, name="soft_cross_entropy")


def _mean_gradient(loss_fn: Callable[..., Any]) -> UpdateFn:
    gradient = fl.value_and_grad(loss_fn)

    def update(params: PyTree, x: Any, y: Any) -> PyTree:
        mask = jnp.ones(x.shape[0], bool)
        return gradient(params, {"x": x, "y": y, "mask": mask}, mask, None)[1]

    return update


def _clipped(update_fn: UpdateFn, clip_norm: Any) -> UpdateFn:
    if clip_norm is None:
        return update_fn
    clip_norm = fl.checks.positive(clip_norm=clip_norm, remedy="None is no clipping.")

    def update(params: PyTree, x: Any, y: Any) -> PyTree:
        value = update_fn(params, x, y)
        factor = jnp.minimum(1.0, jnp.asarray(clip_norm, jnp.float32) / jnp.maximum(fl.global_norm(value), 1e-30))
        return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), value)

    return update
