"""Norm filter: messages above a norm are left out."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator
from fedjaxlite.wire.robust.products import norms
from fedjaxlite.wire.rows import Rows
from fedjaxlite.wire.stacking import restack

PyTree = Any


def norm_filter(max_norm: Any) -> Aggregator:
    """Leaves out the messages whose L2 norm is above `max_norm`, before a rule.

    Where a norm is to be *bounded*, `fl.clip_by_global_norm` does it at the client, is a sum, and works behind a secure
    sum; a filter needs every message apart, and takes nothing from a client that it leaves out.

    Args:
      max_norm: in units of an update; a number above 0, infinity for no filter, or a tracer.

    Returns:
      an Aggregator that stands before a rule. `PassInfo.aggregator` counts "left_out", messages so far. A rule whose
      minimum is not met by those that are left skips the round.

    Raises:
      TypeError, ValueError: for a norm that is not above 0.

    Guarantees:
      What a rule sees of a client has a norm of at most `max_norm`.

    Source: the norm thresholding of Sun, Kairouz, Suresh, McMahan (2019), "Can You Really Backdoor Federated
    Learning?", https://arxiv.org/abs/1911.07963, section 5, with messages left out where theirs are clipped.

    Example:
      >>> import fedjaxlite as fl
      >>> x = jnp.float32([[1, 2], [3, 0], [30, 40]])
      >>> fl.robust.apply([norm_filter(10.0), fl.robust.mean()], x).tolist()
      [2.0, 1.0]
    """
    max_norm = checks.nonnegative("Infinity switches the filter off.", max_norm=max_norm)
    if not checks.is_traced(max_norm) and float(max_norm) == 0:
        raise ValueError("`max_norm` is 0; expected a number above 0: at 0 every message would be left out.")

    def fn(left_out: jax.Array, rows: Rows, key: Any) -> tuple[Rows, jax.Array]:
        del key
        keep = norms(rows.values, rows.shares) <= jnp.asarray(max_norm, jnp.float32)
        left_out = left_out + (rows.present & ~keep).sum(dtype=jnp.int32)
        return only(rows, keep), left_out

    return restack(
        fn,
        name="norm_filter",
        hparams={"max_norm": max_norm},
        init=lambda update: jnp.int32(0),
        metrics=lambda left_out: {"left_out": left_out},
    )


def only(rows: Rows, keep: jax.Array) -> Rows:
    """The rows of some of the clients; the others count as clients that did not report.

    Args:
      rows: all of them.
      keep: bool `[K]`.
    """
    keep = keep & rows.present
    values = jax.tree.map(lambda v: jnp.where(keep[:, None], v, 0.0), rows.values)
    return rows._replace(values=values, weights=jnp.where(keep, rows.weights, 0.0), present=keep)
