"""One step of a planned scan: run as it is, or with its products and sums marked for the derivative."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import JaxprEqn, Literal

from fedjaxlite.lowering.interpreter import bind
from fedjaxlite.lowering.scan_plan import Plan, Product, aval

Leaves = list[Any]
_OPTIONS = ("precision", "preferred_element_type", "out_sharding")


class Marks(NamedTuple):
    """What the derivative of a step is taken by, beside what it reads in other ways.

    Attributes:
      fixed: by variable, matrices and terms of sums whose tangents come in by `deltas`.
      turned: the matrices of each product, with the axes that it sums over last.
      deltas: by variable, arrays like it, whose tangents are added to its own; their values are not looked at.
    """

    fixed: Mapping[Any, Any]
    turned: Sequence[Any]
    deltas: Mapping[Any, Any]


def read(env: Mapping[Any, Any], atom: Any) -> Any:
    """The value of a variable or a literal."""
    return atom.val if isinstance(atom, Literal) else env[atom]


def evaluate_into(env: dict[Any, Any], eqns: Sequence[JaxprEqn]) -> None:
    """Runs equations, and enters what they make."""
    for eqn in eqns:
        env.update(zip(eqn.outvars, bind(eqn, [read(env, atom) for atom in eqn.invars], {}), strict=True))


def joined(plan: Plan, env: Mapping[Any, Any]) -> list[Any]:
    """The matrix of each product; those that multiply the same value side by side."""
    matrices = [[env[v] for v in product.matrices] for product in plan.products]
    return [group[0] if len(group) == 1 else jnp.concatenate(group, axis=1) for group in matrices]


def turned(plan: Plan, matrices: Sequence[Any]) -> list[Any]:
    """The same with the axes that are summed over last, since the backward loop sums over the others.

    On a CPU a product that sums over the last axis of its matrix takes 1.4 times as long as a plain one.
    """
    return [lax.transpose(matrix, _turn(product)[0]) for product, matrix in zip(plan.products, matrices, strict=True)]


def step(plan: Plan, env: dict[Any, Any], matrices: Sequence[Any], marks: Marks | None) -> list[Any]:
    """Runs what stays in the loop.

    Args:
      plan: of the body.
      env: the inputs of the core by variable; gets all other values.
      matrices: of `joined`.
      marks: for a derivative, else None.

    Returns:
      The factor of each product.
    """
    member = {id(eqn): index for index, product in enumerate(plan.products) for eqn in product.eqns}
    factors: dict[int, Any] = {}
    for eqn in plan.core:
        index = member.get(id(eqn))
        if index in factors:
            continue  # its product has been taken together with another one
        outvars, values = eqn.outvars, None
        if index is not None:
            product = plan.products[index]
            factors[index] = env[product.factor]
            turn = None if marks is None else marks.turned[index]
            outvars = [e.outvars[0] for e in product.eqns]
            values = _multiply(product, env[product.factor], matrices[index], turn)
        elif marks is not None and outvars[0] in plan.sums:
            position = plan.sums[outvars[0]]
            values = [_add(eqn, position, read(env, eqn.invars[1 - position]), marks.fixed[eqn.invars[position]])]
        else:
            values = bind(eqn, [read(env, atom) for atom in eqn.invars], {})
        for v, value in zip(outvars, values, strict=True):
            env[v] = _inject(value, marks.deltas[v]) if marks is not None and v in marks.deltas else value
    return [factors[index] for index in range(len(plan.products))]


def tangent(product: Product, member: int, factors: Any, d_matrix: Any) -> Array:
    """What the change of a matrix does to its product in every step: factors `[T, ...]` to tangents `[T, ...]`."""
    eqn = product.eqns[member]
    return jax.vmap(lambda factor: bind(eqn, _ordered(product, factor, d_matrix), {})[0])(factors)


def _ordered(product: Product, factor: Any, matrix: Any) -> list[Any]:
    return [factor, matrix] if product.side == 1 else [matrix, factor]


def _turn(product: Product) -> tuple[tuple[int, ...], Any]:
    """How the matrix's axes are permuted, and the product's dimension numbers for it then."""
    (contracting, batch), side = product.eqns[0].params["dimension_numbers"], product.side
    ndim = product.matrices[0].aval.ndim
    free = [axis for axis in range(ndim) if axis not in (*contracting[side], *batch[side])]
    order = (*batch[side], *free, *contracting[side])
    new_contracting, new_batch = list(contracting), list(batch)
    new_contracting[side] = tuple(range(len(batch[side]) + len(free), ndim))
    new_batch[side] = tuple(range(len(batch[side])))
    return order, (tuple(new_contracting), tuple(new_batch))


def _multiply(product: Product, factor: Any, matrix: Any, turn: Any) -> list[Array]:
    eqn = product.eqns[0]
    if turn is None:
        out = bind(eqn, _ordered(product, factor, matrix), {})[0]
    else:
        out = _marked_product(product)(factor, matrix, turn)
    if len(product.eqns) == 1:
        return [out]
    return list(lax.split(out, [aval(e.outvars[0]).shape[-1] for e in product.eqns], axis=-1))


def _marked_product(product: Product) -> Callable[..., Array]:
    """The product whose tangent is that of its factor alone, taken with the turned matrix."""
    eqn = product.eqns[0]
    numbers = _turn(product)[1]

    @jax.custom_jvp
    def multiply(factor: Any, matrix: Any, turn: Any) -> Array:
        del turn
        return bind(eqn, _ordered(product, factor, matrix), {})[0]

    @multiply.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        factor, matrix, turn = primals
        options = {name: value for name, value in eqn.params.items() if name in _OPTIONS}
        left, right = _ordered(product, tangents[0], turn)
        d_out = lax.dot_general(left, right, numbers, **options)
        # The plain product, not `multiply`: second derivatives are to see the matrix.
        return bind(eqn, _ordered(product, factor, matrix), {})[0], d_out

    return multiply


def _add(eqn: JaxprEqn, position: int, value: Any, term: Any) -> Array:
    """A sum whose tangent is that of one operand alone."""

    def plain(value: Any, term: Any) -> Array:
        return bind(eqn, [term, value] if position == 0 else [value, term], {})[0]

    add = jax.custom_jvp(plain)
    add.defjvp(lambda primals, tangents: (plain(*primals), tangents[0]))
    return add(value, term)


@jax.custom_jvp
def _inject(value: Any, delta: Any) -> Any:
    del delta
    return value


@_inject.defjvp
def _inject_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    return primals[0], tangents[0] + tangents[1]
