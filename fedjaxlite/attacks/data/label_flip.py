"""Label flipping: bad clients train on other labels."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.attacks.data.poison import Chosen, feature_of, poisoned
from fedjaxlite.protocol.algorithm import Algorithm


def label_flip(
    algorithm: Algorithm,
    bad: Any,
    *,
    num_classes: int,
    mapping: Mapping[int, int] | None = None,
    fraction: Any = 1.0,
    y: str = "y",
) -> Algorithm:
    """Bad clients train on wrong labels: class c is called C - 1 - c, or what `mapping` says.

    Args:
      algorithm: any Algorithm; all that its clients compute on batches sees the wrong labels.
      bad: who is bad: a Bad, ids of clients, or a bool array `[N]`.
      num_classes: C.
      mapping: `{class: another}`, such as {1: 7}; classes that it does not name keep their labels. None turns all
        classes around.
      fraction: of a bad client's examples, rounded up; which ones is the same in every round.
      y: the feature that holds labels, integers of any shape; those outside of [0, C) stay what they are.

    Returns:
      an Algorithm; where nobody is bad, `algorithm` itself. Honest clients compute the same numbers as without it.

    Raises:
      TypeError, ValueError: for what is no Algorithm, no clients, a fraction outside (0, 1], classes outside [0, C).
        When a run begins: for data without the feature, or one that is no integers.

    Source: Tolpegin, Truex, Gursoy, Liu (2020), "Data Poisoning Attacks Against Federated Learning Systems",
    https://arxiv.org/abs/2007.08432, for a mapping; Fang, Cao, Jia, Gong (2020), "Local Model Poisoning Attacks to
    Byzantine-Robust Federated Learning", https://arxiv.org/abs/1911.11815, for C - 1 - c.

    Example:
      >>> import optax
      >>> from fedjaxlite import algorithms
      >>> loss = lambda params, batch, key: (params - batch["y"]) ** 2
      >>> honest = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> label_flip(honest, [0, 3], num_classes=10).name
      'label_flip(fed_avg)'
    """
    num_classes = checks.positive_int(num_classes=num_classes)
    table = _table(num_classes, mapping)
    y = checks.text("It names the feature that holds labels.", y=y)

    def change(batch: dict[str, jax.Array], chosen: Chosen) -> dict[str, jax.Array]:
        del chosen
        labels = feature_of(batch, y, "y")
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise TypeError(f"the labels {y!r} are {labels.dtype}; expected integers, or the name of others as `y`.")
        known = (labels >= 0) & (labels < num_classes)
        place = jnp.where(known, labels, jnp.zeros_like(labels)).astype(jnp.int32)
        return {y: jnp.where(known, jnp.asarray(table)[place].astype(labels.dtype), labels)}

    hparams = {"num_classes": num_classes, "mapping": mapping and dict(mapping), "fraction": fraction}
    return poisoned(algorithm, bad, change, fraction=fraction, name="label_flip", hparams=hparams)


def _table(num_classes: int, mapping: Mapping[int, int] | None) -> np.ndarray:
    if mapping is None:
        return np.arange(num_classes - 1, -1, -1, dtype=np.int32)
    if not isinstance(mapping, Mapping):
        raise TypeError(f"`mapping` is {checks.shown(mapping)}; expected classes by class, such as {{1: 7}}, or None.")
    table = np.arange(num_classes, dtype=np.int32)
    for pair in mapping.items():
        source, target = (checks.nonnegative_int("It maps a class to a class.", mapping=label) for label in pair)
        if max(source, target) >= num_classes:
            raise ValueError(f"`mapping` has {source}: {target}; expected classes below num_classes, {num_classes}.")
        table[source] = target
    return table
