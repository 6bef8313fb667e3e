"""A client's traced program, taken apart at its loop of local steps: what comes before it, one step, what comes after.

The program is that of one client, opaque but for one thing: its loop has a name (`data/local_loop.py`). Where there is
exactly one, and at the top, whoever runs the program may run the loop in pieces and put clients in lanes as it likes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Var

from fedjaxlite.data.local_loop import LOCAL_STEPS, known_steps
from fedjaxlite.execution.lanes.client_loop import Loop, loop_of
from fedjaxlite.execution.lanes.equations import (
    change_cost,
    depending,
    has_one_loop,
    holds_loop,
    inlined,
    is_named,
    needed,
    outputs,
    read,
    reads,
    run,
)
from fedjaxlite.lowering.interpreter import evaluate

PyTree = Any
# Entries of a value that is computed for a whole cohort at once.
_SMALL = 16


class LaneArgs(NamedTuple):
    """What one client's work takes, scalars but for the state.

    Attributes:
      offset: int32, its first row.
      num_examples: int32, its rows; 0 where no client is.
      work: float32, the share of its local steps.
      client: int32, its index in the whole population.
      scale: float32, multiplies its weight.
      slot: int32, its place in the cohort.
      state: pytree, what it keeps.
      alive: bool, whether there is a client whose result counts.
    """

    offset: Any
    num_examples: Any
    work: Any
    client: Any
    scale: Any
    slot: Any
    state: PyTree
    alive: Any


class Begun(NamedTuple):
    """A client before its first step.

    Attributes:
      num_steps: int32 scalar, its local steps.
      kept: what steps and end need of it, a tuple of arrays.
      carry: what a step changes, a tuple of arrays.
    """

    num_steps: Any
    kept: tuple[Any, ...]
    carry: tuple[Any, ...]


class ClientProgram(NamedTuple):
    """One client's work in three parts; what does not depend on the client is computed already.

    Attributes:
      ahead: `ahead(args) -> told`, a tuple of small values that follow from what the whole program takes without the
        state: keys, sizes. They can be computed for a whole cohort at once.
      begin: `begin(told, state) -> Begun`.
      draw: `draw(kept, step) -> drawn`, what a step needs beside the carry.
      step: `step(kept, step, drawn, carry) -> carry`.
      end: `end(alive, kept, carry) -> ` what the whole program gives.
      steps_of: `steps_of(num_examples, work) -> int`, the steps of such a client; None where these do not tell.
      change_cost: what begin and end cost, in steps.
    """

    ahead: Callable[[LaneArgs], tuple[Any, ...]]
    begin: Callable[[tuple[Any, ...], PyTree], Begun]
    draw: Callable[[tuple[Any, ...], Any], tuple[Any, ...]]
    step: Callable[[tuple[Any, ...], Any, tuple[Any, ...], tuple[Any, ...]], tuple[Any, ...]]
    end: Callable[[Any, tuple[Any, ...], tuple[Any, ...]], PyTree]
    steps_of: Callable[[int, float], int | None]
    change_cost: int


class TakenApart(NamedTuple):
    """What came of taking a client's work apart.

    Attributes:
      program: its parts; None where it has no loop of local steps, more than one, or one inside of another loop.
      whole: the work as it was traced, where it has no loop at all; else None.
      shapes: of what the work gives.
    """

    program: ClientProgram | None
    whole: Callable[[LaneArgs], PyTree] | None
    shapes: PyTree


def take_apart(whole: Callable[[LaneArgs], PyTree], args: LaneArgs) -> TakenApart:
    """Takes a client's work apart at its loop.

    Args:
      whole: one client's work; what it closes over is shared by all clients.
      args: what it takes, or shapes.
    """
    closed, shapes = jax.make_jaxpr(whole, return_shape=True)(args)
    if not has_one_loop(closed.jaxpr):

        def as_traced(args: LaneArgs) -> PyTree:
            results = evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), {})
            return jax.tree.unflatten(jax.tree.structure(shapes), results)

        return TakenApart(None, None if holds_loop(closed.jaxpr) else as_traced, shapes)
    shared, leaves = list(closed.consts), jax.tree.leaves(args)
    flat = jax.make_jaxpr(lambda consts, own: inlined(closed.jaxpr, consts, own))(shared, leaves)
    (loop,) = (equation for equation in flat.jaxpr.eqns if is_named(equation, LOCAL_STEPS))
    own = flat.jaxpr.invars[len(shared) :]
    places = jax.tree.unflatten(jax.tree.structure(args), own)
    values = dict(zip([*flat.jaxpr.constvars, *flat.jaxpr.invars], [*flat.consts, *shared], strict=False))
    program = _parts(flat.jaxpr, loop, values, own, places, jax.tree.structure(shapes))
    return TakenApart(program, None, shapes)


def _parts(
    flat: Jaxpr, loop: JaxprEqn, values: dict[Any, Any], own: Sequence[Var], places: LaneArgs, structure: Any
) -> ClientProgram:
    inner = loop_of(loop)
    halves = _halves(flat, loop, inner, own, places)
    run(halves.for_all, values)
    values[places.alive] = jnp.bool_(True)  # for a client that begins

    def ahead(args: LaneArgs) -> tuple[Any, ...]:
        given = jax.tree.leaves(args._replace(state=(), alive=()))
        here = {**values, **dict(zip(halves.small, given, strict=True))}
        run(halves.ahead, here)
        return tuple(read(here, v) for v in halves.told)

    def begin(told: tuple[Any, ...], state: PyTree) -> Begun:
        given = [*told, *jax.tree.leaves(state)]
        here = {**values, **dict(zip([*halves.told, *jax.tree.leaves(places.state)], given, strict=True))}
        run(halves.begins, here)
        get = lambda atom: read(here, atom)  # noqa: E731
        carry = tuple(jnp.asarray(get(atom)) for atom in inner.carry)
        return Begun(jnp.asarray(get(inner.num_steps)), tuple(map(get, halves.kept)), carry)

    def of_body(kept: tuple[Any, ...], index: Any) -> dict[Any, Any]:
        here = {**values, **dict(zip(halves.kept, kept, strict=True))}
        return inner.inside(lambda atom: read(here, atom), index)

    def draw(kept: tuple[Any, ...], index: Any) -> tuple[Any, ...]:
        return inner.draw(of_body(kept, index))

    def step(kept: tuple[Any, ...], index: Any, drawn: tuple[Any, ...], carry: tuple[Any, ...]) -> tuple[Any, ...]:
        return inner.step(of_body(kept, index), drawn, carry)

    def end(alive: Any, kept: tuple[Any, ...], carry: tuple[Any, ...]) -> PyTree:
        here = {**values, **dict(zip(halves.kept, kept, strict=True)), places.alive: alive}
        given = [carry[atom] if isinstance(atom, int) else read(here, atom) for atom in inner.results]
        here.update(zip(loop.outvars, given, strict=True))
        run(halves.ends, here)
        return jax.tree.unflatten(structure, [read(here, atom) for atom in flat.outvars])

    return ClientProgram(ahead, begin, draw, step, end, _steps_of(flat, inner.num_steps, places), change_cost(flat))


class _Halves(NamedTuple):
    """The equations around the loop, and the variables that go from one part to the next.

    Attributes:
      for_all: what is the same for all clients.
      small: the arguments that are no state.
      ahead: what follows from these and is small.
      told: what it tells the rest.
      begins: what else the loop needs.
      kept: what was there before the loop and is needed in it or after it.
      ends: what comes after.
    """

    for_all: Sequence[JaxprEqn]
    small: Sequence[Var]
    ahead: Sequence[JaxprEqn]
    told: Sequence[Var]
    begins: Sequence[JaxprEqn]
    kept: Sequence[Var]
    ends: Sequence[JaxprEqn]


def _halves(flat: Jaxpr, loop: JaxprEqn, inner: Loop, own: Sequence[Var], places: LaneArgs) -> _Halves:
    passed = [atom for atom in inner.results if not isinstance(atom, int)]
    asked_of_begin = [inner.num_steps, *inner.used, *inner.carry, *passed]
    local = depending(flat.eqns, own, loop)
    before = needed(flat.eqns, asked_of_begin)
    after = needed([e for e in flat.eqns if e is not loop], flat.outvars)
    first = {id(e) for e in before}
    both = first | {id(e) for e in after}
    is_own = lambda e: not local.isdisjoint(e.outvars)  # noqa: E731
    for_all = [e for e in flat.eqns if id(e) in both and not is_own(e)]
    begins = [e for e in before if is_own(e)]
    ends = [e for e in after if id(e) not in first and is_own(e)]
    wanted = reads(ends, [*inner.used, *passed, *flat.outvars]) - {places.alive}
    kept = [v for v in [*own, *(v for e in begins for v in e.outvars)] if v in wanted]
    of_state = jax.tree.leaves(places.state)
    late = depending(begins, of_state, None, most=_SMALL)
    ahead, begins = [e for e in begins if late.isdisjoint(e.outvars)], [e for e in begins if late & {*e.outvars}]
    small = [v for v in own if v not in of_state and v is not places.alive]
    asked = reads(begins, [*asked_of_begin, *kept])
    told = [v for v in [*small, *(v for e in ahead for v in e.outvars)] if v in asked]
    return _Halves(for_all, small, ahead, told, begins, kept, ends)


def _steps_of(flat: Jaxpr, num_steps: Any, places: LaneArgs) -> Callable[[int, float], int | None]:
    equations = needed(flat.eqns, [num_steps])
    asked = reads(equations, [num_steps]) - outputs(equations)

    def count(num_examples: Any, work: Any) -> Any:
        here: dict[Any, Any] = {places.num_examples: num_examples, places.work: work}
        run(equations, here)
        return read(here, num_steps)

    def steps_of(num_examples: int, work: float) -> int | None:
        return known_steps(count, num_examples, work) if asked <= {places.num_examples, places.work} else None

    return steps_of
