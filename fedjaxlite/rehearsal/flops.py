"""Products of a traced program: how many FLOPs a step of it takes, whatever it is compiled for."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr


class Flops(NamedTuple):
    """FLOPs of matrix products and convolutions, by what goes into them; two for each multiplication and addition.

    Attributes:
      low: bfloat16, float16 and integers.
      default: float32 at JAX's default precision.
      full: float32 at the highest precision, and float64.
    """

    low: float = 0.0
    default: float = 0.0
    full: float = 0.0

    @property
    def total(self) -> float:
        """Of all kinds."""
        return self.low + self.default + self.full

    def plus(self, other: "Flops") -> "Flops":
        """The sum of two."""
        return Flops(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, factor: float) -> "Flops":
        """A multiple."""
        return Flops(*(a * factor for a in self))


class Work(NamedTuple):
    """FLOPs of a program whose loops of unknown length all run equally often.

    Attributes:
      once: outside of these loops.
      step: in one trip of each of them.
    """

    once: Flops = Flops()
    step: Flops = Flops()


def work_of(program: Jaxpr) -> Work:
    """Counts a program's products.

    Loops of known length count as often as they run. A loop whose length is only known when it runs is a loop over
    local steps; one inside of another is counted once a trip. Of a conditional the more expensive branch counts.

    Args:
      program: of `jax.make_jaxpr(f)(*args).jaxpr`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> step = lambda x, _: (x @ x, None)
      >>> program = jax.make_jaxpr(lambda x: jax.lax.scan(step, x, length=3))(jnp.zeros((4, 4)))
      >>> work_of(program.jaxpr).once.total
      384.0
    """
    once, step = Flops(), Flops()
    for equation in program.eqns:
        inner = _work_of_equation(equation)
        once, step = once.plus(inner.once), step.plus(inner.step)
    return Work(once, step)


def _work_of_equation(equation: Any) -> Work:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return Work(_dot(equation))
    if name == "conv_general_dilated":
        return Work(_convolution(equation))
    inner = [work_of(program) for program in _programs(params)]
    if name == "scan":
        return Work(*(part.times(params["length"]) for part in _sum(inner)))
    if name == "while":
        whole = _sum(inner)
        return Work(step=whole.once.plus(whole.step))
    if name == "cond":
        return max(inner, key=lambda work: work.once.total + work.step.total)
    return _sum(inner)


def _sum(parts: list[Work]) -> Work:
    once, step = Flops(), Flops()
    for part in parts:
        once, step = once.plus(part.once), step.plus(part.step)
    return Work(once, step)


def _programs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs that an operation runs."""
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each


def _dot(equation: Any) -> Flops:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval, equation.outvars[0].aval
    return _of_kind(equation, 2 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted))


def _convolution(equation: Any) -> Flops:
    kernel, out = equation.invars[1].aval, equation.outvars[0].aval
    _, inputs, *spatial = equation.params["dimension_numbers"].rhs_spec
    window = math.prod(kernel.shape[axis] for axis in spatial)
    return _of_kind(equation, 2 * math.prod(out.shape) * window * kernel.shape[inputs])


def _of_kind(equation: Any, count: int) -> Flops:
    dtypes = {jnp.dtype(operand.aval.dtype) for operand in equation.invars[:2]}
    widest = max(dtype.itemsize for dtype in dtypes)
    asked = equation.params.get("precision")
    highest = jax.lax.Precision.HIGHEST in (asked if isinstance(asked, tuple) else (asked,))
    if widest <= 2 or not any(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
        return Flops(low=float(count))
    return Flops(full=float(count)) if highest or widest > 4 else Flops(default=float(count))


class RoundWork(NamedTuple):
    """FLOPs of one client, and of the server.

    Attributes:
      client: of one client, for its steps and apart from them.
      server: of the server.
      change_cost: what a client costs apart from its one loop of local steps, in steps; None where it has no such loop,
        so that lanes wait for each other.
    """

    client: Work
    server: Work
    change_cost: int | None = None

    def on_device(self, steps: float, waves: float, lanes: int) -> Flops:
        """Those of a round on one device, whose lanes compute whether or not a client is in them.

        Args:
          steps: local steps one after another.
          waves: turns of all lanes.
          lanes: L.
        """
        of_clients = self.client.step.times(steps * lanes).plus(self.client.once.times(waves * lanes))
        return of_clients.plus(self.server.once).plus(self.server.step)
