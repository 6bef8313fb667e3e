"""What a model is: two pure functions and a few facts about them. Also counts of parameters. Needs JAX only."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.variables import Variables, trainable

PyTree = Any


class Model(NamedTuple):
    """A model as pure functions.

    Both work under jit, vmap, grad, scan, remat and shard_map. The result of `apply` is a fixed function of its
    arguments, and with `train=False` it does not depend on `key`.

    Attributes:
      init: `init(key) -> params`; a plain pytree, or `Variables(params, state)` for a model with state.
      apply: `apply(params, x, *, key=None, train=False, mask=None) -> outputs`, or `(outputs, new_state)` for a model
        with state (in evaluation the state comes back unchanged). `x` is `[B, ...]`, `key` feeds dropout, `mask`
        `[B]` marks the real examples for layers that look across the batch.
      name: for records and messages.
      stateful: whether params are `Variables` and `apply` returns a pair.
      cross_example: whether, in training, the output of one row depends on other rows (BatchNorm).
      input_shape: shape of one example, or None where the model does not fix it.
      hparams: the hyperparameters, for printing and for the record of a run.
    """

    init: Callable[[Any], PyTree]
    apply: Callable[..., Any]
    name: str = "model"
    stateful: bool = False
    cross_example: bool = False
    input_shape: tuple[int, ...] | None = None
    hparams: Mapping[str, Any] = {}


def num_params(params: PyTree) -> int:
    """How many trainable numbers there are.

    Args:
      params: pytree of arrays or of `jax.ShapeDtypeStruct`s, or `Variables`, whose state is not counted.

    Returns:
      an int.

    Example:
      >>> import jax
      >>> from fedjaxlite import models
      >>> model = models.mlp(features=(200, 200, 10), input_shape=(28, 28, 1))
      >>> models.num_params(jax.eval_shape(model.init, jax.random.key(0)))
      199210
    """
    checks.numeric_leaves("params", params, structs=True)
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(trainable(params)))


def num_bytes(params: PyTree) -> int:
    """How many bytes a model takes, its state included: what a client downloads uncompressed.

    Args:
      params: pytree of arrays or of `jax.ShapeDtypeStruct`s, or `Variables`.

    Returns:
      an int, in bytes.

    Example:
      >>> import numpy as np
      >>> num_bytes({"w": np.zeros((3, 2), np.float32)})
      24
    """
    checks.numeric_leaves("params", params, structs=True)
    return sum(math.prod(jnp.shape(leaf)) * jnp.result_type(leaf).itemsize for leaf in jax.tree.leaves(params))


def summary(model: Model) -> str:
    """A table of a model's leaves, for printing; nothing is computed.

    Args:
      model: any Model.

    Returns:
      one line a leaf (path, dtype and shape, count) and a last line with the totals.

    Example:
      >>> from fedjaxlite import models
      >>> print(models.summary(models.logistic(num_classes=10, input_shape=(8, 8, 1))))
      ['dense_0']['bias']    float32[10]           10
      ['dense_0']['kernel']  float32[64,10]       640
      logistic: 650 parameters, 2,600 bytes
    """
    checks.one_instance(Model, "a Model, such as fl.models.logistic()", model=model)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    rows = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        shape = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        rows.append((jax.tree_util.keystr(path), shape, f"{math.prod(leaf.shape):,}"))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    lines = [f"{path:<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2] + 5}}" for path, shape, count in rows]
    state = f" ({num_bytes(variables.state):,} of them state)" if isinstance(variables, Variables) else ""
    total = f"{model.name}: {num_params(variables):,} parameters, {num_bytes(variables):,} bytes{state}"
    return "\n".join([*lines, total])
