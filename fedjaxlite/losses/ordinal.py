"""The loss of classes that have an order."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite.losses.categorical import row_is_padding
from fedjaxlite.losses.loss import Loss, LossAux
from fedjaxlite.losses.outputs import check_model, outputs_of
from fedjaxlite.models.types import Model

PyTree = Any


def ordinal(model: Model) -> Loss:
    """Ordinal regression by K - 1 questions, whether an example is above a rank: for grades, stages and stars.

    Args:
      model: outputs logits `[B, K - 1]`, the k-th for a rank above k; `batch["y"]` holds ints `[B]` in [0, K). A last
        layer of one weight vector and K - 1 biases makes it CORAL, whose answers never contradict one another.

    Returns:
      a Loss, the sum over the questions of their cross entropies, with metrics "accuracy" and "absolute_error" (in
      ranks) of the predicted rank, the number of questions answered with yes. The metrics of `fl.metrics` take outputs
      for logits of classes; of ranks measure one's own, such as
      `fl.metrics.mean("rank_error", lambda outputs, y: abs((outputs > 0).sum(1) - y), better="lower")`.

    Raises:
      TypeError, ValueError: when called, for labels that are not ints `[B]`, and outputs that are not `[B, K - 1]`.

    Guarantees: a rank outside [0, K) gives a loss and a gradient of NaN, unless its row is masked.

    Source: Niu, Zhou, Wang, Gao, Hua (2016), Ordinal regression with multiple output CNN for age estimation,
    https://doi.org/10.1109/CVPR.2016.532; Cao, Mirjalili, Raschka (2020), Rank consistent ordinal regression for neural
    networks, https://arxiv.org/abs/1901.07884, equation 4.

    Example:
      >>> from fedjaxlite import models
      >>> model = models.logistic(num_classes=2, input_shape=(4,))  # three grades
      >>> batch = {"x": jnp.ones((1, 4)), "y": jnp.array([1])}
      >>> print(ordinal(model)(model.init(jax.random.key(0)), batch, None)[0])  # 2 log 2
      [1.3862944]
    """
    check_model(model)

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        outputs, state = outputs_of(model, params, batch, key)
        ranks = batch["y"]
        if outputs.ndim != 2 or outputs.shape[:1] != ranks.shape:
            raise ValueError(
                f"ordinal of `{model.name}` got logits of shape {list(outputs.shape)} and labels of shape "
                f"{list(ranks.shape)}; expected [B, K - 1] for K ranks, and [B]."
            )
        if not jnp.issubdtype(ranks.dtype, jnp.integer):
            raise TypeError(
                f"ordinal of `{model.name}` got labels of dtype {ranks.dtype}; expected ints. Convert with "
                "`y.astype('int32')`."
            )
        logits, ranks = outputs.astype(jnp.float32), ranks.astype(jnp.int32)
        above = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) < ranks[:, None]
        losses = -jnp.sum(jax.nn.log_sigmoid(jnp.where(above, logits, -logits)), axis=1)
        wrong = ((ranks < 0) | (ranks > logits.shape[1])) & ~row_is_padding(batch, ranks)
        off = (jnp.sum(logits > 0, axis=1) - ranks).astype(jnp.float32)
        metrics = {"accuracy": (off == 0).astype(jnp.float32), "absolute_error": jnp.abs(off)}
        return losses * jnp.where(wrong, jnp.nan, 1.0), LossAux(state, metrics)

    return Loss(fn, model.cross_example, model, "ordinal")
