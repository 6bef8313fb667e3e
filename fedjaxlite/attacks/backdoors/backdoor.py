"""Backdoors by a trigger: bad clients train on stamped examples that bear the target's label."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.attacks.backdoors import trigger as triggers
from fedjaxlite.attacks.backdoors.trigger import Trigger
from fedjaxlite.attacks.data.poison import Chosen, feature_of, poisoned
from fedjaxlite.protocol.algorithm import Algorithm


def backdoor(
    algorithm: Algorithm,
    bad: Any,
    *,
    trigger: Trigger,
    target: int,
    fraction: Any = 0.5,
    x: str = "x",
    y: str = "y",
) -> Algorithm:
    """Bad clients stamp a trigger on a share of their examples and label them with the target, and train as all do.

    The rest of their examples is clean, so that their model stays good where no trigger is.
    `fl.attacks.triggered(test, trigger, target)` is the test set on which accuracy is the attack's success.

    Args:
      algorithm: any Algorithm; all that its clients compute on batches sees the stamped examples.
      bad: who is bad: a Bad, ids of clients, or a bool array `[N]`.
      trigger: a Trigger, of one example's shape.
      target: the class that the model shall see where the trigger is.
      fraction: of a bad client's examples, rounded up; which ones is the same in every round.
      x: the feature that is stamped.
      y: the feature that holds labels.

    Returns:
      an Algorithm; where nobody is bad, `algorithm` itself. Honest clients compute the same numbers as without it.

    Raises:
      TypeError, ValueError: for what is no Algorithm, no clients, no Trigger, a fraction outside (0, 1]. When a run
        begins: for data without these features, or examples of another shape.

    Source: Gu, Dolan-Gavitt, Garg (2017), "BadNets", https://arxiv.org/abs/1708.06733; Bagdasaryan, Veit, Hua, Estrin,
    Shmatikov (2020), "How To Backdoor Federated Learning", https://arxiv.org/abs/1807.00459.

    Example:
      >>> import optax, fedjaxlite as fl
      >>> from fedjaxlite import algorithms
      >>> loss = lambda params, batch, key: (params - batch["y"]) ** 2
      >>> honest = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> pattern = fl.attacks.trigger_pattern((28, 28, 1))
      >>> backdoor(honest, [0, 3], trigger=pattern, target=0).name
      'backdoor(fed_avg)'
    """
    triggers.checked(trigger)
    target = checks.nonnegative_int(target=target)
    x, y = checks.text("It names a feature.", x=x, y=y)

    def change(batch: dict[str, jax.Array], chosen: Chosen) -> dict[str, jax.Array]:
        del chosen
        labels = feature_of(batch, y, "y")
        return {x: triggers.stamp(feature_of(batch, x, "x"), trigger), y: jnp.full_like(labels, target)}

    hparams = {"target": target, "fraction": fraction}
    return poisoned(algorithm, bad, change, fraction=fraction, name="backdoor", hparams=hparams)
