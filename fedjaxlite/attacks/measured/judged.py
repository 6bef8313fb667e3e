"""A rule judged in each round: how far its value lies from the mean of the honest messages."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjaxlite.attacks.together.honest import centered, count, honest_mean, norms, sides
from fedjaxlite.attacks.who import as_bad, told
from fedjaxlite.wire.aggregator import Aggregator, Message, Wire
from fedjaxlite.wire.robust.tail import as_tail, init_tail, run_tail, told_of_tail, value_of
from fedjaxlite.wire.rows import open_rows, opened_with_rows


class JudgedState(NamedTuple):
    """The state of a judged rule.

    Attributes:
      own: the states of its codecs.
      distance: float32, of the last round, as the metrics.
      honest_std: float32, likewise.
    """

    own: Any
    distance: jax.Array
    honest_std: jax.Array


def judged(rule: Any, bad: Any) -> Aggregator:
    """A rule that tells, for the record, how far it was moved; what it computes is the same.

    It stands where the rule stood, behind attacks. What mixes messages before the rule goes inside, since the honest
    mean is that of messages as they were sent: `judged([fl.robust.nnm(f=3), fl.robust.median()], bad)`.

    Args:
      rule: a rule, or a list of what changes all messages and a rule at its end.
      bad: who is bad, a fixed pool: `attacks.pool`, or ids. Simulation only: no server knows them.

    Returns:
      an Aggregator that ends a chain. `PassInfo.aggregator` has, of each round, "judged_distance" (the norm of the
      value minus the plain mean of honest messages), "judged_honest_std" (the root of their mean squared distance from
      that mean), "judged_kappa" (the square of the quotient; the rule's kappa bounds it, infinity where honest messages
      agree and the rule does not), and what its codecs tell, "judged_median_skipped". A codec that draws at random and
      does not stand first draws others than it would in the chain itself.

    Raises:
      TypeError, ValueError: for what is no rule, or clients that are bad by chance.

    Source: kappa is that of Allouah et al. (2023), https://arxiv.org/abs/2302.01772, definition 1.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp
      >>> rule = judged(fl.robust.mean(), bad=[3])
      >>> fl.robust.apply(rule, jnp.float32([[1.0], [3.0], [5.0], [11.0]])).tolist()
      [5.0]
    """
    tail, who = as_tail(rule), as_bad(bad)
    if who.rate is not None:
        raise ValueError(
            "`bad` is a share of clients drawn anew in each round, and each codec draws its own; expected a fixed "
            "pool, such as fl.attacks.pool(range(3))."
        )

    def init(wire: Wire) -> tuple[JudgedState, Wire]:
        states, wire = init_tail(tail, wire)
        return JudgedState(states, jnp.float32(0.0), jnp.float32(0.0)), wire

    def decode(state: Any, total: Any, key: Any) -> tuple[Message, JudgedState]:
        opened, rows = opened_with_rows(state, total, key)
        message, own = run_tail(tail, opened.own.own, rows, opened.key)
        honest = sides(who, rows, opened.key).honest
        mean = honest_mean(rows, honest)
        distance = norms(rows.shares, jax.tree.map(jnp.subtract, value_of(message, rows), mean))
        std = norms(rows.shares, centered(rows, honest, mean)) / jnp.sqrt(count(honest))
        nobody = ~honest.any()
        return message, JudgedState(own, jnp.where(nobody, 0.0, distance), jnp.where(nobody, 0.0, std))

    return Aggregator(
        init=init,
        decode=decode,
        begin=open_rows,
        role="stack",
        name="judged",
        hparams={"bad": told(who), **told_of_tail(tail)},
        metrics=lambda state: _told(tail, state),
        public_seed=True,
    )


def _told(tail: tuple[Aggregator, ...], state: JudgedState) -> dict[str, Any]:
    agree = state.honest_std == 0
    kappa = jnp.square(state.distance / jnp.where(agree, 1.0, state.honest_std))
    kappa = jnp.where(agree, jnp.where(state.distance == 0, 0.0, jnp.inf), kappa)
    own = {
        f"{codec.name}_{name}": value
        for codec, codec_state in zip(tail, state.own, strict=True)
        for name, value in codec.metrics(codec_state).items()
    }
    return {"distance": state.distance, "honest_std": state.honest_std, "kappa": kappa, **own}
