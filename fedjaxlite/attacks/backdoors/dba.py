"""The distributed backdoor attack: every bad client stamps a part of the trigger, and the whole works."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite import checks
from fedjaxlite.attacks.backdoors import trigger as triggers
from fedjaxlite.attacks.backdoors.trigger import Trigger
from fedjaxlite.attacks.data.poison import Chosen, feature_of, poisoned
from fedjaxlite.attacks.who import Bad, as_bad
from fedjaxlite.protocol.algorithm import Algorithm


def dba(
    algorithm: Algorithm,
    bad: Any,
    *,
    trigger: Trigger,
    target: int,
    parts: int = 4,
    fraction: Any = 0.5,
    x: str = "x",
    y: str = "y",
) -> Algorithm:
    """A backdoor whose trigger is shared out: no bad client stamps the whole of it, and the test set does.

    Args:
      algorithm: any Algorithm.
      bad: who is bad: a Bad, ids of clients, or a bool array `[N]`. The first of a pool stamps the first part, the
        second the second, and so on, again from the first part after the last; of clients that are bad by chance each
        stamps the part of its id modulo `parts`.
      trigger: a Trigger, of one example's shape, with a concrete mask.
      target: the class that the model shall see where the whole trigger is.
      parts: of the trigger, as `split_trigger` makes them.
      fraction: of a bad client's examples, rounded up; which ones is the same in every round.
      x: the feature that is stamped.
      y: the feature that holds labels.

    Returns:
      an Algorithm; where nobody is bad, `algorithm` itself. With one part it is `backdoor`.

    Raises:
      TypeError, ValueError: as `backdoor`; for more parts than the trigger has pixels.

    Source: Xie, Huang, Chen, Li (2020), "DBA: Distributed Backdoor Attacks against Federated Learning", ICLR,
    https://openreview.net/forum?id=rkgyS0VFvr.

    Example:
      >>> import optax, fedjaxlite as fl
      >>> from fedjaxlite import algorithms
      >>> loss = lambda params, batch, key: (params - batch["y"]) ** 2
      >>> honest = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> pattern = fl.attacks.trigger_pattern((28, 28, 1), size=4)
      >>> dba(honest, [0, 1, 2, 3], trigger=pattern, target=0).name
      'dba(fed_avg)'
    """
    masks = np.stack([np.asarray(part.mask) for part in triggers.split_trigger(trigger, parts)])
    target = checks.nonnegative_int(target=target)
    x, y = checks.text("It names a feature.", x=x, y=y)
    who = as_bad(bad)

    def change(batch: dict[str, jax.Array], chosen: Chosen) -> dict[str, jax.Array]:
        own = Trigger(jnp.asarray(masks)[part_of(who, chosen.client, len(masks))], trigger.value)
        labels = feature_of(batch, y, "y")
        return {x: triggers.stamp(feature_of(batch, x, "x"), own), y: jnp.full_like(labels, target)}

    hparams = {"target": target, "parts": len(masks), "fraction": fraction}
    return poisoned(algorithm, who, change, fraction=fraction, name="dba", hparams=hparams)


def part_of(who: Bad, client: jax.Array, parts: int) -> jax.Array:
    """Which part a bad client stamps, int32 `[]`: its place among the bad ones, modulo how many parts there are."""
    if who.members is not None:
        place = jnp.argmax(jnp.asarray(who.members) == client).astype(jnp.int32)
    elif who.mask is not None:
        place = jnp.cumsum(jnp.asarray(who.mask).astype(jnp.int32)).at[client].get(mode="clip") - 1
    else:
        place = client
    return jnp.remainder(place, parts).astype(jnp.int32)
