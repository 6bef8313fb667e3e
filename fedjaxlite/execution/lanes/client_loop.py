"""The loop of local steps in a client's traced program: its halves, and what they read from outside."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from fedjaxlite.data.local_loop import DRAWN
from fedjaxlite.execution.lanes.equations import Values, is_named, needed, read, reads, run


class Loop(NamedTuple):
    """The loop's own equations, and where its operands come from outside of it.

    Attributes:
      num_steps: what tells how many steps, outside.
      constants: what all steps read, outside.
      carry: what the first step gets, outside.
      body: the body's program; its arguments are the constants, the step and the carry.
      fixed: values of the body's own constants.
      drawing: the equation of a step's first half, or None.
      drawn: those of its results that the second half reads: a key that a model without dropout gets is not drawn.
      steps: the equations of the second half.
      used: those of the constants that are read, outside.
      results: what the loop gives: places in the carry, or what is outside where steps leave it as it is.
    """

    num_steps: Any
    constants: Sequence[Any]
    carry: Sequence[Any]
    body: Jaxpr
    fixed: Values
    drawing: JaxprEqn | None
    drawn: Sequence[Var]
    steps: Sequence[JaxprEqn]
    used: Sequence[Any]
    results: Sequence[Any]

    def inside(self, get: Callable[[Any], Any], index: Any) -> dict[Any, Any]:
        """Values of the body's constants and of the step; `get` gives those of what is outside."""
        places, used = self.body.invars, {id(atom) for atom in self.used}
        given = [(v, atom) for v, atom in zip(places, self.constants, strict=False) if id(atom) in used]
        return {**self.fixed, **{v: get(atom) for v, atom in given}, places[len(self.constants)]: index}

    def draw(self, values: Values) -> tuple[Any, ...]:
        """A step's first half, of the values of `inside`."""
        if self.drawing is None:
            return ()
        program: ClosedJaxpr = self.drawing.params["jaxpr"]
        equations, asked = _half(self.drawing, self.drawn)
        here = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
        for inside, outside in zip(program.jaxpr.invars, self.drawing.invars, strict=True):
            if isinstance(outside, Literal) or outside in values:
                here[inside] = read(values, outside)
        run(equations, here)
        return tuple(read(here, atom) for atom in asked)

    def step(self, values: dict[Any, Any], drawn: tuple[Any, ...], carry: tuple[Any, ...]) -> tuple[Any, ...]:
        """Its second half, which gives the next carry."""
        values.update(zip([*self.drawn, *self.body.invars[len(self.constants) + 1 :]], [*drawn, *carry], strict=True))
        run(self.steps, values)
        return tuple(read(values, atom) for atom in self.body.outvars[1:])


def loop_of(marked: JaxprEqn) -> Loop:
    """The loop in the equation that bears its name."""
    inside: Jaxpr = marked.params["jaxpr"].jaxpr
    (loop,) = inside.eqns
    outside = dict(zip(inside.invars, marked.invars, strict=True))
    operands = [atom if isinstance(atom, Literal) else outside[atom] for atom in loop.invars]
    first, last = loop.params["cond_nconsts"], loop.params["cond_nconsts"] + loop.params["body_nconsts"]
    (num_steps,), constants, (_, *carry) = operands[:first], operands[first:last], operands[last:]
    body: ClosedJaxpr = loop.params["body_jaxpr"]
    drawing = next((equation for equation in body.jaxpr.eqns if is_named(equation, DRAWN)), None)
    results = body.jaxpr.outvars[1:]
    steps = needed([equation for equation in body.jaxpr.eqns if equation is not drawing], results)
    asked = reads(steps, results)
    drawn = [variable for variable in (drawing.outvars if drawing else ()) if variable in asked]
    if drawing is not None:
        program = drawing.params["jaxpr"].jaxpr
        inner = reads(*_half(drawing, drawn))
        asked |= reads([], [o for i, o in zip(program.invars, drawing.invars, strict=True) if i in inner])
    used = [atom for v, atom in zip(body.jaxpr.invars, constants, strict=False) if v in asked]
    fixed = dict(zip(body.jaxpr.constvars, body.consts, strict=True))
    given = {v: place for place, v in enumerate(loop.outvars[1:])}
    ends = [a if isinstance(a, Literal) else given[a] if a in given else outside[a] for a in inside.outvars]
    return Loop(num_steps, constants, carry, body.jaxpr, fixed, drawing, drawn, steps, used, ends)


def _half(drawing: JaxprEqn, drawn: Sequence[Var]) -> tuple[Sequence[JaxprEqn], Sequence[Any]]:
    """What gives the part of a step's first half that is read: equations and results inside of it."""
    program: Jaxpr = drawing.params["jaxpr"].jaxpr
    asked = [program.outvars[drawing.outvars.index(v)] for v in drawn]
    return needed(program.eqns, asked), asked
