"""IPM, inner product manipulation: the honest mean backwards."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.attacks.together.honest import honest_mean, send, sides
from fedjaxlite.attacks.who import as_bad, told
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.rows import Rows
from fedjaxlite.wire.stacking import restack

PyTree = Any


def ipm(bad: Any, scale: Any = 1.0) -> Aggregator:
    """Bad clients send `-scale` times the mean of the honest messages.

    A large scale turns a mean around; a small one, below what tells it from honest messages, still shortens the step
    of rules that trust what is close. With `scale=1` it is the sign flip of attackers who see everyone.

    Args:
      bad: who is bad: `attacks.pool`, `attacks.share`, or ids.
      scale: the paper's epsilon, a number or a tracer. ByzFL's older "Fall of Empires" with tau is `scale=tau - 1`.

    Returns:
      an Aggregator that stands before a rule. Weights play no part in the honest mean.

    Raises:
      TypeError, ValueError: for arguments that do not fit.

    Source: Xie, Koyejo, Gupta (2019), "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
    Manipulation", https://arxiv.org/abs/1903.03936.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp
      >>> messages = jnp.float32([[1, 2], [4, 5], [7, 8], [0, 0]])
      >>> fl.robust.apply([fl.attacks.ipm([3], scale=2.0), fl.robust.mean()], messages).tolist()  # sends (-8, -10)
      [1.0, 1.25]
    """
    who, scale = as_bad(bad), checks.number(scale=scale)

    def attack(state: PyTree, rows: Rows, key: Any) -> tuple[Rows, PyTree]:
        honest, lying = sides(who, rows, key)
        factor = -jnp.asarray(scale, jnp.float32)
        return send(rows, lying, jax.tree.map(lambda m: factor * m, honest_mean(rows, honest))), state

    return restack(attack, name="ipm", hparams={"bad": told(who), "scale": scale})
