"""What of a scan's body can leave the loop: found in its program, before anything is differentiated.

Every value of a body is one of four kinds: still (the same in all steps), scanned (made of this step's slices alone),
in front (scanned, and made with a product by a still matrix), or carried. Products of scanned values are taken in
front of the loop for all steps at once. Products of carried values stay in it, and only what a change of their matrix
does leaves it: it is added to the product's tangent, or, where sums follow, to the tangent of the last of these, so
that matrices, biases and slices that end in one sum share one array of all steps.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal
from jax.extend.core import primitives as p

from fedjaxlite.lowering.interpreter import Rule, evaluate

_CHEAP = """
    add sub mul div neg max min exp log tanh logistic sqrt rsqrt integer_pow square select_n eq ne ge gt le lt
    and or not convert_element_type broadcast_in_dim reshape transpose squeeze expand_dims concatenate slice split
    pad rev gather iota reduce_sum reduce_max copy name abs sign sin cos erf pow exp2 expm1 log1p clamp pvary
"""
CHEAP = frozenset(_CHEAP.split())
"""Elementwise and moving operations: quickly computed, and the same for all steps at once as for each of them."""

_FOR_ALL_STEPS = CHEAP | {"dot_general"}


class _Kind(enum.IntEnum):
    STILL, SCANNED, IN_FRONT, CARRIED = range(4)


class Product(NamedTuple):
    """A product in the loop; or several that multiply the same value, to be taken as one.

    Attributes:
      eqns: the equations.
      factor: what changes from step to step.
      matrices: what does not, one an equation.
      side: which operand the matrices are.
    """

    eqns: tuple[JaxprEqn, ...]
    factor: Any
    matrices: tuple[Any, ...]
    side: int


class Injection(NamedTuple):
    """A value whose tangent gets what changes of matrices, and of terms of a sum, do to it in every step.

    Attributes:
      products: (index of a `Product`, index of the matrix).
      stills: terms that are the same in all steps, such as biases.
      slices: terms of this step, such as the inputs' projection.
    """

    products: list[tuple[int, int]]
    stills: list[Any]
    slices: list[Any]


class Plan(NamedTuple):
    """A scan's body in parts, as equations in order and variables.

    Attributes:
      constvars: constants of the program, with their values.
      consts: inputs that are the same in all steps.
      carry: inputs from the step before.
      xs: slices of this step.
      outvars: results, the new carry first.
      prelude: what makes `stills` out of the constants, once.
      stills: matrices and terms of sums that the loop gets ready-made.
      front: what makes `fronts` out of the slices, for all steps at once.
      fronts: what the loop gets of that.
      core: what stays in the loop.
      products: the products in it.
      sums: by the result of an addition, the operand that `injections` takes care of.
      injections: by variable.
      used: inputs of the core that it reads in other ways than as a matrix or such an operand.
      checkpoint: parameters of the `jax.checkpoint` that the body was under, or None.
    """

    constvars: Mapping[Any, Any]
    consts: Sequence[Any]
    carry: Sequence[Any]
    xs: Sequence[Any]
    outvars: Sequence[Any]
    prelude: Sequence[JaxprEqn]
    stills: Sequence[Any]
    front: Sequence[JaxprEqn]
    fronts: Sequence[Any]
    core: Sequence[JaxprEqn]
    products: Sequence[Product]
    sums: Mapping[Any, int]
    injections: Mapping[Any, Injection]
    used: frozenset[Any]
    checkpoint: Mapping[str, Any] | None


def plan(body: ClosedJaxpr, num_consts: int, num_carry: int) -> Plan | None:
    """How to run a scan's body with as little in the loop as is worth it.

    Args:
      body: the body, without effects.
      num_consts: how many of its inputs are the same in all steps; they come first.
      num_carry: how many come from the step before.

    Returns:
      The plan, or None where nothing is worth moving.
    """
    flat, checkpoint = _inlined(body)
    jaxpr = flat.jaxpr
    consts, carry = jaxpr.invars[:num_consts], jaxpr.invars[num_consts : num_consts + num_carry]
    xs = jaxpr.invars[num_consts + num_carry :]
    kinds: dict[Any, _Kind] = dict.fromkeys((*jaxpr.constvars, *consts), _Kind.STILL)
    kinds.update(dict.fromkeys(carry, _Kind.CARRIED) | dict.fromkeys(xs, _Kind.SCANNED))
    sides = _label(jaxpr.eqns, kinds)
    if not sides:
        return None
    # A list: from a set they would come in another order each time, and the program would be another one.
    read_in_loop = [a for e in jaxpr.eqns if _kind(e.outvars, kinds) is _Kind.CARRIED for a in _reads(e)]
    outside = [v for v in (*read_in_loop, *jaxpr.outvars) if not isinstance(v, Literal)]
    fronts = [v for v in dict.fromkeys(outside) if kinds[v] is _Kind.IN_FRONT]
    inputs = [*jaxpr.constvars, *consts, *carry, *xs]
    core = part(jaxpr.eqns, jaxpr.outvars, {*inputs, *fronts})
    in_core = {id(e) for e in core}
    products = _merged([(e, side) for e, side in sides if id(e) in in_core])
    still = {v for v, kind in kinds.items() if kind is _Kind.STILL}
    sums, injections = _injections(core, jaxpr.outvars, products, still, {*xs, *fronts})
    matrices = [m for product in products for m in product.matrices]
    terms = [v for injection in injections.values() for v in injection.stills]
    front = part(jaxpr.eqns, fronts, set(inputs))
    stills = list(dict.fromkeys((*matrices, *terms)))
    core = part(jaxpr.eqns, jaxpr.outvars, {*inputs, *fronts, *stills})
    return Plan(
        constvars=dict(zip(jaxpr.constvars, flat.consts, strict=True)),
        consts=consts,
        carry=carry,
        xs=xs,
        outvars=jaxpr.outvars,
        prelude=part(jaxpr.eqns, stills, set(inputs)),
        stills=stills,
        front=front,
        fronts=fronts,
        core=core,
        products=products,
        sums=sums,
        injections=injections,
        used=_used(core, jaxpr.outvars, products, sums),
        checkpoint=checkpoint,
    )


def part(eqns: Sequence[JaxprEqn], wanted: Iterable[Any], given: set[Any]) -> list[JaxprEqn]:
    """The equations that make what is wanted out of what is given, in order."""
    needed = {v for v in wanted if not isinstance(v, Literal)} - given
    found = []
    for eqn in reversed(eqns):
        if not needed.isdisjoint(eqn.outvars):
            found.append(eqn)
            needed |= set(_reads(eqn)) - given
    return found[::-1]


def aval(atom: Any) -> Any:
    """The shape and dtype of a variable or a literal."""
    return atom.aval


def _reads(eqn: JaxprEqn) -> list[Any]:
    return [atom for atom in eqn.invars if not isinstance(atom, Literal)]


def _inlined(body: ClosedJaxpr) -> tuple[ClosedJaxpr, Mapping[str, Any] | None]:
    """The body with what is jitted in it written out, and what is under `jax.checkpoint`, of which it tells."""
    found: list[Mapping[str, Any]] = []

    def jitted(avals: Sequence[Any], params: Mapping[str, Any]) -> Any:
        del avals
        return lambda *args: evaluate(params["jaxpr"].jaxpr, params["jaxpr"].consts, args, rules)

    def checkpointed(avals: Sequence[Any], params: Mapping[str, Any]) -> Any:
        del avals
        found.append({"policy": params["policy"], "prevent_cse": params["prevent_cse"]})
        return lambda *args: evaluate(params["jaxpr"], (), args, rules)

    rules: dict[Any, Rule] = {p.jit_p: jitted, p.remat_p: checkpointed}
    flat = jax.make_jaxpr(lambda *args: evaluate(body.jaxpr, body.consts, args, rules))(*body.in_avals)
    return flat, found[0] if found else None


def _kind(variables: Iterable[Any], kinds: Mapping[Any, _Kind]) -> _Kind:
    return max((kinds[v] for v in variables if not isinstance(v, Literal)), default=_Kind.STILL)


def _label(eqns: Sequence[JaxprEqn], kinds: dict[Any, _Kind]) -> list[tuple[JaxprEqn, int]]:
    """Enters the kinds of all values; the products worth moving, and which of their operands is the matrix."""
    sides = []
    for eqn in eqns:
        kind = _kind(eqn.invars, kinds)
        if kind in (_Kind.SCANNED, _Kind.IN_FRONT) and eqn.primitive.name not in _FOR_ALL_STEPS:
            kind = _Kind.CARRIED
        side = _matrix_side(eqn, kinds)
        if side is not None:
            sides.append((eqn, side))
            kind = max(kind, _Kind.IN_FRONT)
        kinds.update(dict.fromkeys(eqn.outvars, kind))
    return sides


def _matrix_side(eqn: JaxprEqn, kinds: Mapping[Any, _Kind]) -> int | None:
    """Which operand of a product is the same in all steps, where its gradient is better taken after them."""
    if eqn.primitive is not p.dot_general_p or any(isinstance(atom, Literal) for atom in eqn.invars):
        return None
    still = [kinds[v] is _Kind.STILL for v in eqn.invars]
    if sum(still) != 1:
        return None
    side = still.index(True)
    matrix, factor, out = (aval(v) for v in (eqn.invars[side], eqn.invars[1 - side], *eqn.outvars))
    if not (jnp.issubdtype(matrix.dtype, jnp.floating) and jnp.issubdtype(factor.dtype, jnp.floating)):
        return None
    # In the loop each step reads and writes the matrix's gradient; outside, it writes a factor and a cotangent.
    return side if factor.size + out.size <= 2 * matrix.size else None


def _merged(sides: Sequence[tuple[JaxprEqn, int]]) -> list[Product]:
    """Products, those `x @ a`, `x @ b` ... of one x together."""
    groups: dict[Any, list[tuple[JaxprEqn, int]]] = {}
    for eqn, side in sides:
        numbers = eqn.params["dimension_numbers"]
        plain = side == 1 and aval(eqn.invars[1]).ndim == 2 and tuple(numbers[0][1]) == (0,) and not numbers[1][0]
        alike = (eqn.invars[0], aval(eqn.invars[1]).dtype, str(sorted(eqn.params.items(), key=lambda item: item[0])))
        groups.setdefault(alike if plain else id(eqn), []).append((eqn, side))
    return [
        Product(
            tuple(e for e, _ in group),
            group[0][0].invars[1 - group[0][1]],
            tuple(e.invars[side] for e, side in group),
            group[0][1],
        )
        for group in groups.values()
    ]


def _injections(
    core: Sequence[JaxprEqn], outvars: Sequence[Any], products: Sequence[Product], stills: set[Any], slices: set[Any]
) -> tuple[dict[Any, int], dict[Any, Injection]]:
    """Follows every product through the sums that it ends in."""
    readers: dict[Any, list[JaxprEqn | None]] = {}
    for eqn in core:
        for atom in _reads(eqn):
            readers.setdefault(atom, []).append(eqn)
    for v in outvars:
        if not isinstance(v, Literal):
            readers.setdefault(v, []).append(None)
    sums: dict[Any, int] = {}
    injections: dict[Any, Injection] = {}
    for index, product in enumerate(products):
        for member, eqn in enumerate(product.eqns):
            value, terms = _last_sum(eqn.outvars[0], readers, stills | slices)
            found = injections.setdefault(value, Injection([], [], []))
            found.products.append((index, member))
            for out, (position, term) in terms.items():
                if out not in sums:  # else another product that ends in the same sum came by here
                    (found.stills if term in stills else found.slices).append(term)
                    sums[out] = position
    return sums, injections


def _last_sum(
    value: Any, readers: Mapping[Any, list[JaxprEqn | None]], known: set[Any]
) -> tuple[Any, dict[Any, tuple[int, Any]]]:
    """The last of the sums that a value goes into and nowhere else; by sum, the position and the term that is known."""
    terms: dict[Any, tuple[int, Any]] = {}
    while len(readers.get(value, ())) == 1:
        eqn = readers[value][0]
        if eqn is None or eqn.primitive is not p.add_p:
            break
        out, position = eqn.outvars[0], 1 - eqn.invars.index(value)
        if (aval(out).shape, aval(out).dtype) != (aval(value).shape, aval(value).dtype):
            break
        other = eqn.invars[position]
        if not isinstance(other, Literal) and other in known:
            terms[out] = (position, other)
        value = out
    return value, terms


def _used(
    core: Sequence[JaxprEqn], outvars: Sequence[Any], products: Sequence[Product], sums: Mapping[Any, int]
) -> frozenset[Any]:
    matrix = {eqn.outvars[0]: product.side for product in products for eqn in product.eqns}
    used = {v for v in outvars if not isinstance(v, Literal)}
    for eqn in core:
        apart = matrix.get(eqn.outvars[0], sums.get(eqn.outvars[0]))
        used |= {a for i, a in enumerate(eqn.invars) if i != apart and not isinstance(a, Literal)}
    return frozenset(used)
