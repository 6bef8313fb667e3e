"""Less memory for the backward pass: a loss is cut into stretches whose values are computed again when needed.

`jax.checkpoint` around a whole loss does not lower the peak: its backward pass begins by computing everything again,
and then holds all of it. Cut into stretches, only the values at the cuts and those of one stretch exist at a time.
"""

import bisect
import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal
from jax.extend.core import primitives as p

from fedjaxlite.lowering.interpreter import evaluate

Policy = Callable[..., Any]
_WORTH = 0.75  # of the bytes that a program without cuts keeps


def rematerialize(fn: Callable[..., Any], remat: bool | Policy) -> Callable[..., Any]:
    """The same function with fewer values kept for its gradient.

    Args:
      fn: a function of pytrees of arrays to a pytree of arrays, such as a loss.
      remat: True cuts `fn` into stretches under `jax.checkpoint`, where the fewest bytes cross; the body of a
        `jax.lax.scan` is put under `jax.checkpoint` as well. A policy, such as
        `jax.checkpoint_policies.save_only_these_names("hidden")`, is given to one `jax.checkpoint` around `fn`
        instead. False returns `fn` itself.

    Returns:
      A function with the signature of `fn`, with the same values and, to rounding, derivatives; about one more forward
      pass for every backward pass.

    Raises:
      TypeError: `remat` is none of the three.

    Source: Chen, Xu, Zhang, Guestrin (2016), https://arxiv.org/abs/1604.06174, algorithm 3 and section 4.3.

    Example:
      >>> import jax.numpy as jnp
      >>> deep = lambda x: jnp.tanh(jnp.sin(jnp.tanh(jnp.sin(jnp.tanh(jnp.sin(x)))))).sum()
      >>> bool(jnp.allclose(jax.grad(rematerialize(deep, True))(jnp.ones(8)), jax.grad(deep)(jnp.ones(8))))
      True
    """
    if remat is False:
        return fn
    if remat is not True:
        if not (callable(remat) and _takes_keywords(remat)):
            raise TypeError(f"`remat` is {remat!r}; expected True, False, or a policy of jax.checkpoint_policies.")
        return jax.checkpoint(fn, policy=remat)

    @functools.wraps(fn)
    def cut(*args: Any) -> Any:
        if jax.config.values["jax_disable_jit"]:  # without compilation there is no jaxpr to cut
            return fn(*args)
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
        flat = jax.tree.leaves(args)
        opened = jax.make_jaxpr(lambda *leaves: evaluate(closed.jaxpr, closed.consts, leaves, _RULES))(*flat)
        return jax.tree.unflatten(jax.tree.structure(shape), _run(opened, flat))

    return cut


def _takes_keywords(policy: Policy) -> bool:
    """Whether a function can be a policy: JAX calls it with a primitive, its arguments, and all of its parameters."""
    try:
        parameters = inspect.signature(policy).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _inline(avals: Sequence[Any], params: Any) -> Callable[..., Any]:
    """The body of a jitted function in its place, so that it can be cut too."""
    del avals
    body = params["jaxpr"]
    return lambda *args: evaluate(body.jaxpr, body.consts, args, _RULES)


def _checkpointed_scan(avals: Sequence[Any], params: Any) -> Callable[..., Any]:
    """A scan that keeps its carries for the gradient, and computes the rest of each step again."""
    del avals
    body = params["jaxpr"]

    def step(*args: Any) -> Any:
        return evaluate(body.jaxpr, body.consts, args, {})

    new = jax.make_jaxpr(jax.checkpoint(step, prevent_cse=False))(*(var.aval for var in body.jaxpr.invars))
    return lambda *args: p.scan_p.bind(*args, **p.scan_p.get_bind_params({**params, "jaxpr": new}))


_RULES = {p.jit_p: _inline, p.scan_p: _checkpointed_scan}


class _Stretch(NamedTuple):
    """Some consecutive equations, in the form that `evaluate` reads."""

    constvars: tuple[Any, ...]
    invars: tuple[Any, ...]
    eqns: Sequence[JaxprEqn]
    outvars: tuple[Any, ...]


class _Value(NamedTuple):
    """A value between the equations: made by the first, read last by the second, with its bytes."""

    made: int
    last: int
    size: int


def _run(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    """Evaluates a program with every stretch but the last under `jax.checkpoint`."""
    jaxpr = closed.jaxpr
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *args), strict=True))
    ends = [*_cuts(closed), len(jaxpr.eqns)]
    needed = [{v for v in jaxpr.outvars if not isinstance(v, Literal)}]  # from the last stretch to the first
    for start, end in reversed(list(zip([0, *ends[:-1]], ends, strict=True))):
        needed.append(needed[-1] | {v for e in jaxpr.eqns[start:end] for v in _reads(e)})
    after = needed[-2::-1]
    for start, end, later in zip([0, *ends[:-1]], ends, after, strict=True):
        eqns = jaxpr.eqns[start:end]
        invars = tuple(dict.fromkeys(v for e in eqns for v in _reads(e) if v in env))
        outvars = tuple(v for e in eqns for v in e.outvars if v in later)
        stretch: Any = _Stretch((), invars, eqns, outvars)
        run = functools.partial(_evaluate, stretch)
        # The last stretch's values are needed as soon as they are there.
        run = run if end == len(jaxpr.eqns) else jax.checkpoint(run)
        env.update(zip(outvars, run(*(env[v] for v in invars)), strict=True))
    return [v.val if isinstance(v, Literal) else env[v] for v in jaxpr.outvars]


def _evaluate(stretch: Any, *args: Any) -> list[Any]:
    return evaluate(stretch, (), args, {})


def _reads(eqn: JaxprEqn) -> list[Any]:
    return [atom for atom in eqn.invars if not isinstance(atom, Literal)]


def _cuts(closed: ClosedJaxpr) -> list[int]:
    """Before which equations to cut: the best of several budgets for the bytes of a stretch."""
    eqns = closed.jaxpr.eqns
    made = {v: i for i, e in enumerate(eqns) for v in e.outvars}
    last = {v: i for i, e in enumerate(eqns) for v in _reads(e)}
    last.update({v: len(eqns) for v in closed.jaxpr.outvars if not isinstance(v, Literal)})
    values = [_Value(i, last[v], _size(v)) for v, i in made.items() if v in last]
    crossing, sizes = [0] * (len(eqns) + 2), [_kept(e) for e in eqns]
    for value in values:
        crossing[value.made + 1] += value.size
        crossing[min(value.last, len(eqns)) + 1] -= value.size
        sizes[value.made] += value.size
    for i in range(1, len(crossing)):
        crossing[i] += crossing[i - 1]
    # Cuts cost a forward pass, so they must save something worth it: a scan alone keeps little already.
    best: tuple[float, list[int]] = (_WORTH * sum(sizes), [])
    parts = 2
    while parts <= len(eqns):
        cuts = _with_budget(sizes, crossing, sum(sizes) // parts)
        best = min(best, (_peak(cuts, sizes, values), cuts), key=lambda plan: plan[0])
        parts = max(parts + 1, parts * 5 // 4)
    return best[1]


def _with_budget(sizes: Sequence[int], crossing: Sequence[int], budget: int) -> list[int]:
    """Cuts such that no stretch makes many more bytes than the budget, each where few bytes cross."""
    cuts: list[int] = []
    start, total = 0, 0
    for i, size in enumerate(sizes):
        total += size
        if total > budget and i > start:
            # Among the later half of the stretch, so that stretches do not get short.
            cut = min(range(i, start + (i - start) // 2, -1), key=lambda c: crossing[c])
            cuts.append(cut)
            start, total = cut, sum(sizes[cut : i + 1])
    return cuts


def _peak(cuts: Sequence[int], sizes: Sequence[int], values: Sequence[_Value]) -> int:
    """Bytes of the values that cross a cut, and of the largest stretch."""
    saved = sum(v.size for v in values if bisect.bisect_right(cuts, v.made) < bisect.bisect_right(cuts, v.last))
    ends = [0, *cuts, len(sizes)]
    return saved + max(sum(sizes[a:b]) for a, b in itertools.pairwise(ends))


def _size(var: Any) -> int:
    return int(getattr(var.aval, "size", 0)) * int(getattr(getattr(var.aval, "dtype", None), "itemsize", 0))


def _kept(eqn: JaxprEqn) -> int:
    """Bytes that an equation keeps for its gradient beside its results: the carries of a scan."""
    if eqn.primitive is not p.scan_p:
        return 0
    # Carries are the results that have no axis of steps; how many they are is told otherwise in each version of JAX.
    body = eqn.params["jaxpr"].jaxpr.outvars
    carry = [out for out, inner in zip(eqn.outvars, body, strict=True) if _rank(out) == _rank(inner)]
    return eqn.params["length"] * sum(_size(var) for var in carry)


def _rank(var: Any) -> int:
    return len(getattr(var.aval, "shape", ()))
