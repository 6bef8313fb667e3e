"""MoNNA: the mean of the messages nearest to that of a client who is trusted."""

from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.distances.pairwise import equal_shares, num_bad, ranks, squared_distances_to
from fedjaxlite.wire.rows import Rows, weighted_sum
from fedjaxlite.wire.stacking import RuleState, rule

PyTree = Any


def monna(*, f: Any, pivot: Any) -> Aggregator:
    """The mean of the n - f messages nearest to the message of a client who is trusted, which is one of them.

    Among clients without a server everybody trusts itself, which is what the paper is about; with a server it is one
    client that the server knows to be honest. A round without it changes nothing, and is counted as skipped.

    Args:
      f: how many clients may be bad, an int of at least 0 or a tracer; 2f + 1 clients have to report.
      pivot: the id of the client who is trusted, an int of at least 0 or a tracer. On plain arrays, with
        `fl.robust.apply`, it is the row.

    Returns:
      an Aggregator that ends a chain. Memory: K messages.

    Raises:
      TypeError, ValueError: for arguments that do not fit; when built, for fewer clients than 2f + 1, or weights.

    Guarantees:
      For every set S of n - f clients that the pivot p belongs to, the squared distance to their mean is at most
      4 f / (n - f) (V + |x_p - mean|^2), with V their mean squared distance to that mean: no more than the trusted
      client itself is off. f = 0 is the mean. It follows shifts, scales, rotations and any order of clients; of
      messages equally far away the first in the cohort are taken.

    Source: Farhadkhani, Guerraoui, Gupta, Hoang, Pinot and Stephan (2023), Robust Collaborative Learning with Linear
    Gradient Overhead, https://arxiv.org/abs/2209.10931, algorithm 1 ("nearest neighbor averaging").

    Example:
      >>> import fedjaxlite as fl
      >>> messages = jnp.float32([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
      >>> fl.robust.apply(fl.robust.monna(f=1, pivot=1), messages).tolist()
      [2.5, 3.5, 4.5]
    """
    f = num_bad(f)
    if isinstance(pivot, Tracer) and pivot.shape == () and jnp.issubdtype(pivot.dtype, jnp.integer):
        pivot = pivot.astype(jnp.int32)
    else:
        pivot = checks.nonnegative_int(pivot=pivot, remedy="It is the id of the client who is trusted.")

    def nearest(absent: PyTree, rows: Rows, key: Any) -> tuple[PyTree, PyTree]:
        del key
        trusted = (rows.ids == pivot) & rows.present
        here = jnp.any(trusted)
        square = jnp.where(trusted, -1.0, squared_distances_to(rows, jnp.argmax(trusted)))
        chosen = (ranks(square, rows.present) < rows.present.sum() - f) & rows.present & here
        return weighted_sum(equal_shares(chosen), rows.values), absent + (~here).astype(jnp.int32)

    def skipped(state: RuleState) -> dict[str, Any]:
        return {"skipped": state.skipped + state.own}  # a round too small for the rule is not among its own

    made = rule(
        nearest, name="monna", hparams={"f": f, "pivot": pivot}, init=lambda update: jnp.int32(0), minimum=2 * f + 1
    )
    return made._replace(metrics=skipped)
