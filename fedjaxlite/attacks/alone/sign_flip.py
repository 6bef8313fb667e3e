"""Sign flip: a bad client sends the opposite of what it has learned."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.attacks.alone.wrap import instead
from fedjaxlite.attacks.who import as_bad
from fedjaxlite.protocol.algorithm import Algorithm


def sign_flip(algorithm: Algorithm, bad: Any, scale: Any = 1.0) -> Algorithm:
    """Bad clients train honestly, and send `-scale` times their update.

    Everything in the update is flipped: of SCAFFOLD's, the delta and the change of the control variate. The client's
    own state, its weight and its scalars are the honest ones. `attacks.ipm(bad, scale=1.0)` is the same of the honest
    clients' mean, for attackers who see it.

    Args:
      algorithm: any Algorithm.
      bad: who is bad: `attacks.pool`, `attacks.share`, or ids.
      scale: a number, or a tracer; above 1 the flipped update is boosted too.

    Returns:
      an Algorithm; the same one where nobody is bad.

    Raises:
      TypeError, ValueError: for arguments that do not fit.

    Source: Li, Xu, Chen, Giannakis, Ling (2019), "RSA: Byzantine-Robust Stochastic Aggregation Methods",
    https://arxiv.org/abs/1811.03761, section 4 (sign-flipping; a bad client there flips its own message).

    Example:
      >>> import fedjaxlite as fl, optax
      >>> loss = lambda params, batch, key: (params - batch["x"]) ** 2
      >>> honest = fl.algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> sign_flip(honest, [3, 7], scale=5.0).name
      'sign_flip(fed_avg)'
    """
    who, scale = as_bad(bad), checks.number(scale=scale)

    def send(update: Any, key: Any) -> Any:
        del key
        factor = -jnp.asarray(scale, jnp.float32)
        return jax.tree.map(lambda u: factor.astype(u.dtype) * u, update)

    return instead(algorithm, who, send, name="sign_flip", hparams={"scale": scale})
