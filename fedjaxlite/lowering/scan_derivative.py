"""The derivative of a planned scan: the loop once, with what its linearization needs, and a linear loop after it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from fedjaxlite.lowering.scan_keep import linear_parts, run_and_keep
from fedjaxlite.lowering.scan_plan import Injection, Plan
from fedjaxlite.lowering.scan_step import Leaves, Marks, joined, read, step, tangent, turned


class Loop(NamedTuple):
    """How a scan runs.

    Attributes:
      length: T.
      reverse: whether from the last step to the first.
      unroll: steps a trip of the loop.
      anew: whether a cheap value that a derivative needs of every step is computed again from others after the loop,
        rather than kept by it.
    """

    length: int
    reverse: bool
    unroll: int
    anew: bool

    def __call__(self, body: Callable[..., Any], init: Any, xs: Any) -> Any:
        """Runs it."""
        return jax.lax.scan(body, init, xs, self.length, reverse=self.reverse, unroll=self.unroll)


class Scan(NamedTuple):
    """A plan and how it runs. Its operands are three lists: `stills`, the first carry, and `slices` `[T, ...]`."""

    plan: Plan
    loop: Loop

    @property
    def stills(self) -> list[Any]:
        """Variables that are the same in all steps."""
        return list(dict.fromkeys((*self.plan.constvars, *self.plan.consts, *self.plan.stills)))

    @property
    def slices(self) -> list[Any]:
        """Variables that each step has its own of."""
        return [*self.plan.xs, *self.plan.fronts]

    def env(self, stills: Leaves, carry: Leaves, slices: Leaves) -> dict[Any, Any]:
        """The inputs of a step by variable."""
        return dict(zip((*self.stills, *self.plan.carry, *self.slices), (*stills, *carry, *slices), strict=True))

    def run(self, stills: Leaves, carry: Leaves, slices: Leaves) -> Leaves:
        """The results: the last carry, and the others `[T, ...]`."""
        matrices = joined(self.plan, dict(zip(self.stills, stills, strict=True)))

        def body(carry: Leaves, slices: Leaves) -> tuple[Leaves, Leaves]:
            env = self.env(stills, carry, slices)
            step(self.plan, env, matrices, None)
            outs = [read(env, v) for v in self.plan.outvars]
            return outs[: len(carry)], outs[len(carry) :]

        last, ys = self.loop(body, carry, slices)
        return [*last, *ys]


class _Live(NamedTuple):
    """By what the derivative is taken; variables. The floats of the carry always are among it."""

    carry: list[Any]
    stills: list[Any]
    slices: list[Any]
    deltas: list[Any]


def with_derivative(scan: Scan) -> Callable[[Leaves, Leaves, Leaves], Leaves]:
    """`scan.run` with a derivative that takes one product for each matrix."""
    run = jax.custom_jvp(scan.run)
    run.defjvp(lambda primals, tangents: _derivative(scan, primals, tangents), symbolic_zeros=True)
    return run


def _derivative(scan: Scan, primals: Sequence[Leaves], tangents: Sequence[Leaves]) -> tuple[Leaves, Leaves]:
    stills, carry, slices = primals
    changes = {
        v: d
        for v, d in zip((*scan.stills, *scan.slices), (*tangents[0], *tangents[2]), strict=True)
        if not isinstance(d, SymbolicZero) and d.dtype != jax.dtypes.float0
    }
    live = _live(scan.plan, changes)
    matrices = joined(scan.plan, dict(zip(scan.stills, stills, strict=True)))
    fixed = [stills, matrices, turned(scan.plan, matrices)]
    one = [[v.aval for v in variables] for variables in (scan.plan.carry, scan.slices, live.deltas)]
    parts = linear_parts(_linearized(scan, live), fixed, one)
    outs, kept = run_and_keep(parts, scan.loop, carry, slices)
    factors = kept.factors(scan.loop.length)
    deltas = [_delta(scan, v, factors, changes) for v in live.deltas]
    d_carry = [
        jnp.zeros_like(value) if isinstance(d, SymbolicZero) else d
        for value, d in zip(carry, tangents[1], strict=True)
        if _is_float(value)
    ]
    d_stills, d_slices = [changes[v] for v in live.stills], [changes[v] for v in live.slices]
    number = len(d_carry)

    def body(ds: tuple[Leaves, Leaves], inputs: tuple[tuple[Leaves, Leaves], Leaves]) -> Any:
        (d_slices, deltas), stacked = inputs
        d_outs = kept.linear(stacked)(_Live(ds[0], ds[1], d_slices, deltas))
        # A carry that the body hands on as it is would become a constant of the scan, in front of those that are not
        # linear, and such a scan has no transpose.
        same = [_again(d) if any(d is old for old in ds[0]) else d for d in d_outs[:number]]
        return (same, [_again(d) for d in ds[1]]), d_outs[number:]

    (d_last, _), d_ys = scan.loop(body, (d_carry, d_stills), ((d_slices, deltas), kept.stacks))
    found = iter((*d_last, *d_ys))
    return outs, [next(found) if _is_float(out) else np.zeros(out.shape, jax.dtypes.float0) for out in outs]


def _again(d: Any) -> Any:
    """The same value as a new one; XLA sees that it is the same."""
    return jax.lax.neg(jax.lax.neg(d))


def _live(plan: Plan, changes: Mapping[Any, Any]) -> _Live:
    floats = [v for v in plan.carry if _is_float(v.aval)]
    stills = [
        v for v in dict.fromkeys((*plan.constvars, *plan.consts, *plan.stills)) if v in changes and v in plan.used
    ]
    slices = [v for v in (*plan.xs, *plan.fronts) if v in changes and v in plan.used]

    def changed(injection: Injection) -> bool:
        matrices = [plan.products[index].matrices[member] for index, member in injection.products]
        return any(v in changes for v in (*matrices, *injection.stills, *injection.slices))

    return _Live(floats, stills, slices, [v for v, injection in plan.injections.items() if changed(injection)])


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.inexact)


def _delta(scan: Scan, v: Any, factors: Leaves, changes: Mapping[Any, Any]) -> Any:
    """What changes outside of the loop do to a variable in every step, `[T, ...]`."""
    injection, shape = scan.plan.injections[v], (scan.loop.length, *v.aval.shape)
    terms = []
    for index, member in injection.products:
        product = scan.plan.products[index]
        if product.matrices[member] in changes:
            terms.append(tangent(product, member, factors[index], changes[product.matrices[member]]))
    for term in injection.stills:
        if term in changes:
            terms.append(jnp.broadcast_to(jnp.broadcast_to(changes[term], v.aval.shape)[None], shape))
    for term in injection.slices:
        if term in changes:  # which may be a number a step
            ones = (1,) * (v.aval.ndim - term.aval.ndim)
            terms.append(jnp.broadcast_to(changes[term].reshape(shape[0], *ones, *term.aval.shape), shape))
    delta = sum(terms[1:], terms[0])
    missing = _varying(v.aval) - _varying(jax.typeof(delta))
    return jax.lax.pcast(delta, tuple(sorted(missing)), to="varying") if missing else delta


def _varying(aval: Any) -> frozenset[str]:
    """The mesh axes along which a value differs inside `jax.shard_map`."""
    return frozenset(aval.manual_axis_type.varying)


def _linearized(scan: Scan, live: _Live) -> Callable[..., Any]:
    """One step as `(results, factors, linear function of a _Live)`.

    Of stills, matrices, turned matrices, carry, slices, and of deltas, of which only the types matter.
    """

    def linearized(
        stills: Leaves, matrices: Leaves, turns: Leaves, carry: Leaves, slices: Leaves, deltas: Leaves
    ) -> Any:
        env = scan.env(stills, carry, slices)

        def run(lives: _Live) -> tuple[Leaves, tuple[Leaves, Leaves]]:
            own = dict(env)
            for variables, values in zip(live[:3], lives[:3], strict=True):
                own.update(zip(variables, values, strict=True))
            marks = Marks(env, turns, dict(zip(live.deltas, lives.deltas, strict=True)))
            factors = step(scan.plan, own, matrices, marks)
            outs = [read(own, v) for v in scan.plan.outvars]
            return [out for out in outs if _is_float(out)], (outs, factors)

        options = scan.plan.checkpoint
        at = [[env[v] for v in variables] for variables in live[:3]]
        primals = _Live(at[0], at[1], at[2], deltas)
        _, linear, (outs, factors) = jax.linearize(
            run if options is None else jax.checkpoint(run, **options), primals, has_aux=True
        )
        return outs, factors, linear

    return linearized
