"""Evaluates a jaxpr with some primitives replaced, in the bodies of jit, scan, while, cond and remat too."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive
from jax.extend.core import primitives as p

Rule = Callable[[Sequence[Any], Mapping[str, Any]], Callable[..., Any] | None]
"""Of abstract operands and parameters: the function that stands in for the primitive, or None to leave it."""

Rules = Mapping[Primitive, Rule]

_BODIES: Mapping[Primitive, tuple[str, ...]] = {
    p.jit_p: ("jaxpr",),
    p.scan_p: ("jaxpr",),
    p.while_p: ("cond_jaxpr", "body_jaxpr"),
    p.cond_p: ("branches",),
    p.remat_p: ("jaxpr",),
}


def applies(jaxpr: Jaxpr, rules: Rules) -> bool:
    """Whether `evaluate` would replace anything in `jaxpr`, at any depth."""
    return any(_replacement(eqn, rules) is not None or _within(eqn, rules) for eqn in jaxpr.eqns)


def evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], rules: Rules) -> list[Any]:
    """Runs `jaxpr` under the rules; everything else is bound as it stands, effects and custom derivatives included.

    Args:
      jaxpr: the program.
      consts: values of its constants.
      args: flat list of its arguments; tracers of any transformation pass.
      rules: what stands in for which primitive.

    Returns:
      The flat list of its results.
    """
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, bind(eqn, [read(atom) for atom in eqn.invars], rules), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def bind(eqn: JaxprEqn, operands: Sequence[Any], rules: Rules) -> list[Any]:
    """The results of one equation, under the rules."""
    with _context(eqn):
        results = _apply(eqn, operands, rules)
    return results if eqn.primitive.multiple_results else [results]


def _apply(eqn: JaxprEqn, operands: Sequence[Any], rules: Rules) -> Any:
    replacement = _replacement(eqn, rules)
    if replacement is not None:
        return replacement(*operands)
    params = eqn.params
    if _within(eqn, rules):
        params = dict(params)
        for name in _BODIES[eqn.primitive]:
            body = params[name]
            params[name] = tuple(rewrite(b, rules) for b in body) if isinstance(body, tuple) else rewrite(body, rules)
    return eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))


def _replacement(eqn: JaxprEqn, rules: Rules) -> Callable[..., Any] | None:
    rule = rules.get(eqn.primitive)
    return None if rule is None else rule([atom.aval for atom in eqn.invars], eqn.params)


def _within(eqn: JaxprEqn, rules: Rules) -> bool:
    return any(applies(_open(body), rules) for body in _bodies(eqn))


def _bodies(eqn: JaxprEqn) -> Iterator[Any]:
    for name in _BODIES.get(eqn.primitive, ()):
        body = eqn.params[name]
        yield from body if isinstance(body, tuple) else (body,)


def _open(body: Any) -> Jaxpr:
    return body.jaxpr if isinstance(body, ClosedJaxpr) else body


def rewrite(body: Any, rules: Rules) -> Any:
    """The body of an equation, open or closed, under the rules."""
    consts = body.consts if isinstance(body, ClosedJaxpr) else ()
    jaxpr = _open(body)
    new = jax.make_jaxpr(lambda *args: evaluate(jaxpr, consts, args, rules))(*(var.aval for var in jaxpr.invars))
    return new if isinstance(body, ClosedJaxpr) else new.jaxpr


def _context(eqn: JaxprEqn) -> contextlib.AbstractContextManager[Any]:
    # What the equation was traced under, such as `jax.experimental.compute_on`.
    ctx = getattr(eqn, "ctx", None)
    return contextlib.nullcontext() if ctx is None else ctx.manager
