"""What a late message weighs: by its age, and by how far it is from the fresh ones."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.wire.aggregator import Aggregator, Wire
from fedjaxlite.wire.robust.products import TINY, norms
from fedjaxlite.wire.rows import Rows, weighted_sum
from fedjaxlite.wire.stacking import restack

PyTree = Any
_LARGEST = 1e38
"""Of distances, so that the largest divides the others."""


def stale_weights(*, beta: Any = 0.35, scale: Any = 1.0) -> Aggregator:
    r"""REFL's weights of late messages: old ones weigh less, those that say something else than the fresh ones more.

    A message of age t = 0 is fresh and weighs 1. A late one, u_s with t_s > 0, weighs

        w_s = (1 - beta) / (t_s + 1) + beta (1 - exp(-D_s / D_max) / scale),
        D_s = |m - (u_s + n m) / (n + 1)|^2 / |m|^2,

    with m the mean of the n fresh ones and D_max the largest D of the round: D says how far a message would move m. A
    rule behind it that takes weights, `fl.robust.mean()`, divides by their sum. These weights multiply those that the
    head of the chain sets (1 under `fl.mean()`), by which m is a mean too.

    Since D_s / D_max = |u_s - m|^2 / max |u - m|^2, that quotient is what is computed: no m is too short for it. Where
    nobody is fresh, or all late messages equal m, it is 0.

    Args:
      beta: in [0, 1], what distance counts beside age; 0 is 1 / (t + 1) alone. May be traced.
      scale: at least 1. 1 is the paper's; the authors' program has 10, under which distance says little: what it adds
        lies between .9 and .963 times `beta`. May be traced.

    Returns:
      an Aggregator that stands before a rule with weights. Memory: K messages and one more. It asks for a server that
      tells ages: `fl.systems.fed_buff(..., staleness=fl.systems.staleness.told())`.

    Raises:
      TypeError, ValueError: for numbers out of range; when built, before a rule that takes no weights; when traced, for
        a sampler that tells no ages.

    Guarantees:
      Weights lie in [0, 1]. It follows shifts, scales, rotations and any order of clients. A bad client weighs more the
      further away its message is, up to (1 - beta) / (t + 1) + beta (1 - exp(-1) / scale): this defends against
      nobody.

    Source: Abdelmoniem, Sahu, Canini, Fahmy (2023), "REFL: Resource-Efficient Federated Learning",
    https://arxiv.org/abs/2111.01108, section 4.2; `update_importance` of https://github.com/ahmedcs/REFL.

    Example:
      >>> import fedjaxlite as fl
      >>> weighed = [fl.robust.stale_weights(beta=0.0), fl.robust.mean()]
      >>> fl.robust.apply(weighed, jnp.float32([[1.0], [3.0], [8.0]]), ages=[0, 0, 1]).tolist()
      [3.200000047683716]
    """
    beta = checks.nonnegative("It is what distance counts beside age.", beta=beta)
    if not checks.is_traced(beta) and beta > 1:
        raise ValueError(f"`beta` is {beta!r}; expected a number in [0, 1], what distance counts beside age.")
    scale = checks.positive("The paper has 1, the authors' program 10.", scale=scale)
    if not checks.is_traced(scale) and scale < 1:
        raise ValueError(f"`scale` is {scale!r}; expected a number of at least 1. The paper has 1.")

    def weigh(state: PyTree, rows: Rows, key: Any) -> tuple[Rows, PyTree]:
        del key
        ages = _ages(rows)
        share, by_age = jnp.asarray(beta, jnp.float32), 1.0 / (ages.astype(jnp.float32) + 1.0)
        far = 1.0 - jnp.exp(-_distances(rows, ages)) / jnp.asarray(scale, jnp.float32)
        weight = jnp.where(ages > 0, (1.0 - share) * by_age + share * far, 1.0)
        return rows._replace(weights=rows.weights * weight), state

    made = restack(weigh, name="stale_weights", hparams={"beta": beta, "scale": scale})

    def begin_run(wire: Wire) -> tuple[Any, Wire]:
        state, wire = made.init(wire)
        return state, wire._replace(weight_cap=None)  # what counts every client as one is refused behind it

    return made._replace(init=begin_run)


def _ages(rows: Rows) -> jax.Array:
    if rows.ages is None:
        raise ValueError(
            "`stale_weights` weighs messages by their ages, and nobody tells them. Take a server that does: "
            "fl.systems.fed_buff(..., staleness=fl.systems.staleness.told()); by hand, pass `ages`."
        )
    if rows.ages.shape != rows.present.shape:
        raise ValueError(
            f"`stale_weights` sees {rows.present.shape[0]} rows and {rows.ages.shape[0]} ages. What stands before it "
            "made others of the rows: let it set `ages` too."
        )
    return rows.ages


def _distances(rows: Rows, ages: jax.Array) -> jax.Array:
    """float32 `[K]`, D / D_max in [0, 1]; 0 of those that are fresh or not there."""
    fresh, late = rows.present & (ages == 0), rows.present & (ages > 0)
    weights = jnp.where(fresh, rows.weights, 0.0)
    mean = weighted_sum(weights / jnp.maximum(weights.sum(), TINY), rows.values)
    apart = jnp.where(late & fresh.any(), jnp.minimum(norms(rows.values, rows.shares, mean), _LARGEST), 0.0)
    most = apart.max()
    return jnp.square(apart / jnp.where(most > 0, most, 1.0))
