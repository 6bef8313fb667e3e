"""RLR, a robust learning rate: where too few clients agree on a sign, the server goes the other way."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.rows import Rows
from fedjaxlite.wire.stacking import rule

PyTree = Any


def rlr(*, threshold: Any) -> Aggregator:
    """The mean of all messages, with its sign turned in each entry where too few clients agree on a sign (RLR).

    Where the sum of the clients' signs, a vote of +1, -1 or 0 each, has an absolute value below `threshold`, the
    server's learning rate is negated: those who would move the entry are taken for the few that plant a backdoor, and
    the model moves away from what they ask for. Weights count in the mean, as in the paper; each client has one vote.

    Args:
      threshold: votes, a finite number above 0 or a tracer. The authors' runs take 4 votes of 10 clients, and 8 of 33
        or 40. As many clients have to report: with fewer, every entry would be turned.

    Returns:
      an Aggregator that ends a chain. Memory: K messages.

    Raises:
      TypeError, ValueError: if `threshold` is no finite number above 0; when built, for fewer clients than that.

    Guarantees:
      It does not depend on the order of clients, and follows scales and signs of entries, not their shifts. Where all
      honest clients agree on a sign and 2f + threshold <= n, the entry is not turned. It bounds nothing that f bad
      clients may do: the mean is still a mean.

    Source: Ozdayi, Kantarcioglu and Gel (2021), Defending against Backdoors in Federated Learning with Robust Learning
    Rate, https://arxiv.org/abs/2007.03767, algorithm 1.

    Example:
      >>> import fedjaxlite as fl
      >>> x = jnp.float32([[1, 1], [2, -1], [3, 9]])
      >>> fl.robust.apply(fl.robust.rlr(threshold=3), x).tolist()
      [2.0, -3.0]
    """
    threshold = checks.positive(threshold=threshold)
    least = jnp.ceil(threshold) if checks.is_traced(threshold) else math.ceil(threshold)

    def vote(state: PyTree, rows: Rows, key: Any) -> tuple[PyTree, PyTree]:
        del key
        share = rows.weights / jnp.maximum(rows.weights.sum(), jnp.finfo(jnp.float32).tiny)

        def one(values: jax.Array) -> jax.Array:
            mean = jnp.einsum("k,km->m", share, values, precision="highest")
            votes = sum((jnp.sign(values[k]) for k in range(len(share))), jnp.zeros_like(mean))  # absent rows are 0
            return jnp.where(jnp.abs(votes) < threshold, -mean, mean)

        return jax.tree.map(one, rows.values), state

    return rule(vote, name="rlr", hparams={"threshold": threshold}, minimum=least, weighted=True)
