"""Edge-case backdoors: rare examples with a wrong label, and no trigger."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.attacks.data.poison import Chosen, feature_of, poisoned
from fedjaxlite.protocol.algorithm import Algorithm


def edge_case(
    algorithm: Algorithm,
    bad: Any,
    *,
    examples: Any,
    target: int,
    fraction: Any = 0.5,
    x: str = "x",
    y: str = "y",
) -> Algorithm:
    """Bad clients also train on rare examples, which they label with the target.

    They lie in the tail of what honest clients have, so that hardly any of these contradicts. A share of a bad
    client's examples gives way to them: it has as many as before, so its weight and its local steps stay the same.
    Success is accuracy on held-out examples of the kind with the target's label.

    Args:
      algorithm: any Algorithm.
      bad: who is bad: a Bad, ids of clients, or a bool array `[N]`.
      examples: `[E, ...]`, rare examples of the shape of `x`'s rows; the program holds them all. Each bad client begins
        at another of them and takes them in turn.
      target: the class that the model shall see in them.
      fraction: of a bad client's examples that give way, rounded up; which ones is the same in every round.
      x: the feature that the examples stand in.
      y: the feature that holds labels.

    Returns:
      an Algorithm; where nobody is bad, `algorithm` itself. Honest clients compute the same numbers as without it.

    Raises:
      TypeError, ValueError: for what is no Algorithm, no clients, no examples, a fraction outside (0, 1]. When a run
        begins: for data without these features, or examples of another shape.

    Source: Wang, Sreenivasan, Rajput, Vishwakarma, Agarwal, Sohn, Lee, Papailiopoulos (2020), "Attack of the Tails:
    Yes, You Really Can Backdoor Federated Learning", https://arxiv.org/abs/2007.05084.

    Example:
      >>> import optax
      >>> from fedjaxlite import algorithms
      >>> loss = lambda params, batch, key: (params - batch["y"]) ** 2
      >>> honest = algorithms.fed_avg(loss, client_optimizer=optax.sgd(0.1))
      >>> edge_case(honest, [0, 3], examples=jnp.ones((5, 28, 28, 1)), target=0).name
      'edge_case(fed_avg)'
    """
    rare = jnp.asarray(checks.real_array(shape="[E, ...]", narrow=True, examples=examples))
    if rare.ndim < 1 or rare.shape[0] == 0:
        raise ValueError(f"`examples` has the shape {list(rare.shape)}; expected [E, ...], at least one example.")
    target = checks.nonnegative_int(target=target)
    x, y = checks.text("It names a feature.", x=x, y=y)

    def change(batch: dict[str, jax.Array], chosen: Chosen) -> dict[str, jax.Array]:
        own, labels = feature_of(batch, x, "x"), feature_of(batch, y, "y")
        if rare.shape[1:] != own.shape[1:]:
            raise ValueError(
                f"`examples` are {list(rare.shape[1:])} each, and the rows of {x!r} are {list(own.shape[1:])}; "
                "expected the same shape."
            )
        number = jnp.remainder(chosen.rank + chosen.client, rare.shape[0])
        return {x: rare[number], y: jnp.full_like(labels, target)}

    hparams = {"target": target, "examples": rare.shape[0], "fraction": fraction}
    return poisoned(algorithm, bad, change, fraction=fraction, name="edge_case", hparams=hparams)
