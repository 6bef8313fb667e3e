"""Optimal ALIE and IPM: the factor that moves a rule, which the attackers know, furthest from the honest mean."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjaxlite import checks
from fedjaxlite.attacks.together.honest import honest_mean, honest_moments, norms, send, sides
from fedjaxlite.attacks.together.search import largest_on_line
from fedjaxlite.attacks.who import as_bad, told
from fedjaxlite.wire.aggregator import Aggregator, Wire
from fedjaxlite.wire.robust.tail import as_tail, init_tail, run_tail, told_of_tail, value_of
from fedjaxlite.wire.rows import Rows
from fedjaxlite.wire.stacking import restack

PyTree = Any


def optimal_alie(bad: Any, rule: Any, *, evaluations: int = 24) -> Aggregator:
    """ALIE with the z that moves this rule furthest from the honest mean, found anew in each round.

    The attackers run the rule, and what stands before it, on what they would send: as often as `evaluations`, half of
    them for z on a geometric grid from 1/16 to 128, half to refine the best. They keep the rule's state as the server
    does; of what it draws at random they know the chances and not the outcome.

    Args:
      bad: who is bad: `attacks.pool`, `attacks.share`, or ids.
      rule: the end of the chain that they stand in: a rule, or a list such as `[fl.robust.nnm(f=3),
        fl.robust.median()]`, everything behind the attack.
      evaluations: of the rule in a round, at least 2; one more keeps its state. Memory is that of one of them.

    Returns:
      an Aggregator that stands before these codecs. It tells "factor" in `PassInfo.aggregator`.

    Raises:
      TypeError, ValueError: for arguments that do not fit; when built, for whatever the rule refuses.

    Source: ALIE is Baruch et al. (2019), https://arxiv.org/abs/1902.06635; the search for its factor, by another line
    search, Allouah et al. (2023), https://arxiv.org/abs/2302.01772, section 6.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp
      >>> messages, rule = jnp.float32([[1, 2], [4, 5], [7, 8], [0, 0]]), fl.robust.mean()
      >>> fl.robust.apply([optimal_alie([3], rule), rule], messages).tolist()  # a mean goes as far as the search
      [100.0, 101.0]
    """
    return _optimal("optimal_alie", bad, rule, evaluations, honest_moments)


def optimal_ipm(bad: Any, rule: Any, *, evaluations: int = 24) -> Aggregator:
    """IPM with the scale that moves this rule furthest from the honest mean, found anew in each round.

    The search is that of `optimal_alie`: the messages `-factor * mean`, factors from 1/16 to 128.

    Args:
      bad: who is bad: `attacks.pool`, `attacks.share`, or ids.
      rule: the end of the chain: a rule, or a list that ends with one.
      evaluations: of the rule in a round, at least 2; one more keeps its state.

    Returns:
      an Aggregator that stands before these codecs. It tells "factor" in `PassInfo.aggregator`.

    Raises:
      TypeError, ValueError: for arguments that do not fit; when built, for whatever the rule refuses.

    Source: IPM is Xie et al. (2019), https://arxiv.org/abs/1903.03936; the search as `optimal_alie`.

    Example:
      >>> import fedjaxlite as fl, jax.numpy as jnp
      >>> messages, rule = jnp.float32([[1, 2], [4, 5], [7, 8], [0, 0]]), fl.robust.mean()
      >>> fl.robust.apply([optimal_ipm([3], rule), rule], messages).tolist()
      [-125.0, -156.25]
    """

    def backwards(rows: Rows, honest: jax.Array) -> tuple[PyTree, PyTree]:
        mean = honest_mean(rows, honest)
        return mean, jax.tree.map(jnp.negative, mean)

    return _optimal("optimal_ipm", bad, rule, evaluations, backwards, from_mean=False)


def _optimal(
    name: str,
    bad: Any,
    rule: Any,
    evaluations: int,
    line: Callable[..., tuple[PyTree, PyTree]],
    *,
    from_mean: bool = True,
) -> Aggregator:
    who, tail = as_bad(bad), as_tail(rule)
    evaluations = checks.positive_int(evaluations=evaluations)
    if evaluations < 2:
        raise ValueError(f"`evaluations` is {evaluations}; expected at least 2, for a grid and its refinement.")

    def begin_run(wire: Wire) -> tuple[Any, Wire]:
        _, behind = base.init(wire)
        return (init_tail(tail, wire)[0], jnp.float32(0.0)), behind

    def attack(state: Any, rows: Rows, key: Any) -> tuple[Rows, Any]:
        honest, lying = sides(who, rows, key)
        mean, step = line(rows, honest)

        def sent(factor: jax.Array) -> Rows:
            start = lambda m: m if from_mean else jnp.zeros_like(m)  # noqa: E731
            return send(rows, lying, jax.tree.map(lambda m, s: start(m) + factor * s, mean, step), again=True)

        def moved(factor: jax.Array) -> jax.Array:
            message, _ = run_tail(tail, state[0], sent(factor), jax.random.fold_in(key, 1))
            return norms(rows.shares, jax.tree.map(jnp.subtract, value_of(message, rows), mean))

        factor, _ = largest_on_line(moved, evaluations)
        best = sent(factor)
        return best, (run_tail(tail, state[0], best, jax.random.fold_in(key, 1))[1], factor)

    hparams = {"bad": told(who), "rule": told_of_tail(tail), "evaluations": evaluations}
    base = restack(attack, name=name, hparams=hparams, metrics=lambda state: {"factor": state[1]})
    return base._replace(init=begin_run)
