"""Scans whose matrices get their gradients in one product after the loop.

Differentiated step by step, a scan adds to the gradient of a matrix in every step, and so reads and writes it T times.
Here the derivative rule is stated for the whole scan instead: what a change of a matrix does to all of its products is
one product in front of a linear scan, so that its transpose, the gradient, is one product after it. Being a rule for
tangents, it serves forward and reverse mode alike. `scan_plan.py` says what leaves the loop.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from fedjaxlite.lowering.interpreter import Rules, applies, rewrite
from fedjaxlite.lowering.scan_derivative import Loop, Scan, with_derivative
from fedjaxlite.lowering.scan_plan import Plan, plan
from fedjaxlite.lowering.scan_step import Leaves, evaluate_into


def scan_rule(
    avals: Sequence[Any], params: Mapping[str, Any], *, rules: Rules, anew: bool
) -> Callable[..., Leaves] | None:
    """One `scan` with as little in its loop, and in that of its gradient, as is worth it.

    Args:
      avals: shapes and dtypes of the operands.
      params: the primitive's parameters.
      rules: what else is replaced, in the body too.
      anew: whether cheap values that a derivative needs are computed again after the loop, rather than kept by it.

    Returns:
      A function of the operands, or None where the scan stays: one step, effects, no product of a value that changes
      by a matrix that does not, or only such whose factors and results are larger than twice the matrix (of them every
      step is kept, where the matrix's gradient would be read and written).
    """
    del avals
    body = params["jaxpr"]
    if params["length"] < 2 or body.effects or params.get("_split_transpose"):
        return None
    body = rewrite(body, rules) if applies(body.jaxpr, rules) else body
    num_consts, num_carry = _counts(params)
    found = plan(body, num_consts, num_carry)
    if found is None:
        return None
    return functools.partial(_run, found, Loop(params["length"], params["reverse"], params["unroll"], anew))


def _counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many operands are constants, and how many the first carry."""
    if "ft_in" in params:  # from JAX 0.12 on
        consts, carry, _ = params["ft_in"].unpack()
        return len(consts), len(carry)
    return params["num_consts"], params["num_carry"]


def _run(plan: Plan, loop: Loop, *operands: Any) -> Leaves:
    env = {**plan.constvars, **dict(zip((*plan.consts, *plan.carry, *plan.xs), operands, strict=True))}
    evaluate_into(env, plan.prelude)
    env.update(zip(plan.fronts, _in_front(plan, env), strict=True))
    scan = Scan(plan, loop)
    args = ([env[v] for v in variables] for variables in (scan.stills, plan.carry, scan.slices))
    return scan.run(*args) if not plan.products else with_derivative(scan)(*args)


def _in_front(plan: Plan, env: Mapping[Any, Any]) -> Leaves:
    """What does not wait for the step before, `[T, ...]`."""

    def one(slices: Leaves) -> Leaves:
        inner = {**env, **dict(zip(plan.xs, slices, strict=True))}
        evaluate_into(inner, plan.front)
        return [inner[v] for v in plan.fronts]

    return jax.vmap(one)([env[v] for v in plan.xs]) if plan.fronts else []
