"""Losses of sequences: the mean over real tokens."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.losses.categorical import correct, labels_of, negative_log_likelihood, row_is_padding
from fedjaxlite.losses.loss import Loss, LossAux
from fedjaxlite.losses.outputs import check_model, outputs_of
from fedjaxlite.models.types import Model

PyTree = Any


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
      without a real token has loss 0 and weight 0 either way. All are float32, under `jax_enable_x64` too.

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
    check_model(model)
    token_weighting = checks.flag(token_weighting=token_weighting)
    if not isinstance(ignored_ids, (tuple, list)):
        raise TypeError(f"`ignored_ids` is {checks.shown(ignored_ids)}; expected a tuple of ints, such as (0,).")
    for index, token in enumerate(ignored_ids):
        if isinstance(token, bool) or not isinstance(token, (int, np.integer)):
            raise TypeError(f"`ignored_ids[{index}]` is {token!r}; expected an int, the id of a token not to score.")

    def fn(params: PyTree, batch: Mapping[str, jax.Array], key: Any) -> tuple[jax.Array, LossAux]:
        logits, state = outputs_of(model, params, batch, key)
        labels = labels_of(logits, batch["y"], f"sequence_cross_entropy of `{model.name}`", "[B, T, C]", "[B, T]")
        ignored = jnp.zeros(labels.shape, bool)
        for token in ignored_ids:
            ignored |= labels == token
        count = jnp.sum(~ignored, axis=1).astype(jnp.float32)

        def mean(values: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(ignored, 0.0, values), axis=1) / jnp.maximum(count, 1.0)

        losses = mean(negative_log_likelihood(logits, labels, 0.0, ignored | row_is_padding(batch, labels)))
        weight = count if token_weighting else (count > 0).astype(jnp.float32)
        return losses, LossAux(state, {"accuracy": mean(correct(logits, labels))}, weight)

    return Loss(fn, model.cross_example, model, "sequence_cross_entropy")
