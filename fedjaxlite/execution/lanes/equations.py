"""Equations of traced programs: which of them rest on which, how they are run, and where the loop of local steps is."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.extend.core import primitives as p

from fedjaxlite.data.local_loop import LOCAL_STEPS
from fedjaxlite.lowering.interpreter import bind

Values = Mapping[Any, Any]


def inlined(program: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Evaluates a program with its inner jitted functions as part of it, but for the loop of local steps."""
    values = dict(zip([*program.constvars, *program.invars], [*consts, *args], strict=True))
    for equation in program.eqns:
        operands = [read(values, atom) for atom in equation.invars]
        if equation.primitive is p.jit_p and not is_named(equation, LOCAL_STEPS):
            inner = equation.params["jaxpr"]
            results = inlined(inner.jaxpr, inner.consts, operands)
        else:
            results = bind(equation, operands, {})
        values.update(zip(equation.outvars, results, strict=True))
    return [read(values, atom) for atom in program.outvars]


def change_cost(program: Jaxpr) -> int:
    """What a client's program costs apart from its one loop, in steps of the loop: a power of two, at least 1.

    By entries that are computed, where four multiplications and additions of a matrix product count as one: only
    whether it is far from one step is asked, as it is where messages are masked or rotated.
    """
    equations = list(at_top(program))
    once = sum(map(_effort, equations))
    a_step = sum(_effort(equation) for equation in equations if is_named(equation, LOCAL_STEPS))
    return 1 << max(0, round(math.log2(max(once - a_step, 1.0) / max(a_step, 1.0))))


def _effort(equation: JaxprEqn) -> float:
    inner = [sum(map(_effort, program.eqns)) for program in _programs_in(equation)]
    if inner:  # a loop of unknown length counts once
        return equation.params.get("length", 1) * sum(inner)
    entries = float(sum(getattr(v.aval, "size", 1) for v in equation.outvars))
    if equation.primitive is p.dot_general_p:
        (contracted, _), _ = equation.params["dimension_numbers"]
        left: Any = equation.invars[0].aval
        return entries * math.prod(left.shape[axis] for axis in contracted) / 2
    return entries


def is_named(equation: JaxprEqn, name: str) -> bool:
    """Whether an equation calls a jitted function of this name."""
    return equation.primitive is p.jit_p and equation.params.get("name") == name


def has_one_loop(program: Jaxpr) -> bool:
    """Whether a client's program has exactly one loop of local steps, and that at its top: then it is taken apart."""
    equations = list(at_top(program))
    loops = [equation for equation in equations if is_named(equation, LOCAL_STEPS)]
    inside = (inner for equation in equations for inner in _programs_in(equation))
    return len(loops) == 1 and not any(holds_loop(inner) for inner in inside)


def at_top(program: Jaxpr) -> Iterator[JaxprEqn]:
    """A program's equations, with those of its inner jitted functions in place of these."""
    for equation in program.eqns:
        if equation.primitive is p.jit_p and not is_named(equation, LOCAL_STEPS):
            yield from at_top(equation.params["jaxpr"].jaxpr)
        else:
            yield equation


def holds_loop(program: Jaxpr) -> bool:
    """Whether a loop of local steps is anywhere inside of a program."""
    return any(is_named(e, LOCAL_STEPS) or any(map(holds_loop, _programs_in(e))) for e in program.eqns)


def _programs_in(equation: JaxprEqn) -> Iterator[Jaxpr]:
    for value in equation.params.values():
        for leaf in jax.tree.leaves(value, is_leaf=_is_program):
            if _is_program(leaf):
                yield leaf.jaxpr if isinstance(leaf, ClosedJaxpr) else leaf


def _is_program(leaf: Any) -> bool:
    return isinstance(leaf, (ClosedJaxpr, Jaxpr))


def depending(
    equations: Iterable[JaxprEqn], own: Sequence[Var], also: JaxprEqn | None, most: int | None = None
) -> set[Var]:
    """The variables that follow from others, from one equation, or are made with more than so many entries."""
    found: set[Var] = set(own)
    for equation in equations:
        large = most is not None and any(getattr(v.aval, "size", 0) > most for v in equation.outvars)
        if large or equation is also or any(not isinstance(a, Literal) and a in found for a in equation.invars):
            found.update(equation.outvars)
    return found


def needed(equations: Sequence[JaxprEqn], asked: Iterable[Any]) -> list[JaxprEqn]:
    """The equations that `asked` rests on, in order; those with effects always."""
    wanted = {atom for atom in asked if not isinstance(atom, Literal)}
    found: list[JaxprEqn] = []
    for equation in reversed(equations):
        if equation.effects or any(v in wanted for v in equation.outvars):
            found.append(equation)
            wanted.update(a for a in equation.invars if not isinstance(a, Literal))
    return found[::-1]


def reads(equations: Iterable[JaxprEqn], asked: Iterable[Any] = ()) -> set[Var]:
    """The variables that equations read, and those of `asked`."""
    atoms = [*asked, *(atom for equation in equations for atom in equation.invars)]
    return {atom for atom in atoms if not isinstance(atom, Literal)}


def outputs(equations: Iterable[JaxprEqn]) -> set[Var]:
    """The variables that equations make."""
    return {variable for equation in equations for variable in equation.outvars}


def run(equations: Iterable[JaxprEqn], values: dict[Any, Any]) -> None:
    """Evaluates equations in order, and adds their results to the values."""
    for equation in equations:
        results = bind(equation, [read(values, atom) for atom in equation.invars], {})
        values.update(zip(equation.outvars, results, strict=True))


def read(values: Values, atom: Any) -> Any:
    """The value of a variable or of a constant."""
    return atom.val if isinstance(atom, Literal) else values[atom]
