"""A client's function before any client is there: traced once, its shapes, and whether it draws noise."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from fedjaxlite.data.client_view import ClientData, Wave, mean_size
from fedjaxlite.data.population import Population
from fedjaxlite.execution.layout import Layout, in_mesh
from fedjaxlite.protocol.algorithm import ClientOutput

PyTree = Any
ClientFn = Callable[[ClientData, PyTree], ClientOutput]


def traced_once(client_fn: ClientFn) -> ClientFn:
    """The same function, which is traced once: for `output_template` and, on one device, inside of the round too.

    What clients share and what they keep has to go in as the second argument: a closure would be that of one trace.
    """

    @partial(jax.jit, static_argnames=("static",), inline=True)
    def flat(own: Any, lanes: Any, state: PyTree, static: tuple[Any, ...]) -> ClientOutput:
        wave = Wave(*lanes, *static)
        return _checked(client_fn(ClientData(**own, wave=wave), state))

    def call(data: ClientData, state: PyTree) -> ClientOutput:
        own = {"offset": data.offset, "num_examples": data.num_examples, "id": data.id, "work": data.work}
        own |= {"features": dict(data.features), "key": data.key, "noise": data.noise}
        return flat(own, tuple(data.wave[:3]), state, static=tuple(data.wave[3:]))

    return call


def _checked(output: Any) -> ClientOutput:
    if not isinstance(output, ClientOutput):
        raise TypeError(
            f"the client's function returned a {type(output).__name__}; expected a fedjaxlite.ClientOutput "
            "(update=..., weight=...)."
        )
    return output


def output_template(client_fn: ClientFn, population: Population, client_state: PyTree, layout: Layout) -> ClientOutput:
    """The shapes of what a client returns, found by tracing it on one abstract client, in lanes as in a round.

    Raises:
      TypeError, ValueError: for what is wrong with the client's function or its loss, before anything runs.
    """
    noise = jax.random.key(0, impl="threefry2x32")
    return jax.eval_shape(one_client_of(client_fn, population, layout), dict(population.features), client_state, noise)


def draws_noise(client_fn: ClientFn, population: Population, client_state: PyTree, layout: Layout) -> bool:
    """Whether the client's function reads the key of its noise, `ClientData.noise`: seen in its traced program."""
    noise = jax.random.key(0, impl="threefry2x32")
    program = jax.make_jaxpr(one_client_of(client_fn, population, layout))
    found = program(dict(population.features), client_state, noise).jaxpr
    return _reads(found, found.invars[-1])


def _reads(program: Jaxpr, variable: Any) -> bool:
    """Whether a program does more with an argument than hand it to a function that does not read it either."""

    def by(equation: Any, place: int) -> bool:
        inner = equation.params.get("jaxpr") if equation.primitive.name in ("jit", "pjit") else None
        return inner is None or _reads(inner.jaxpr, inner.jaxpr.invars[place])

    handed = ((e, place) for e in program.eqns for place, operand in enumerate(e.invars) if operand is variable)
    return variable in program.outvars or any(by(equation, place) for equation, place in handed)


def one_client_of(client_fn: ClientFn, population: Population, layout: Layout) -> Callable[..., ClientOutput]:
    """The client's function on one abstract client, in lanes as in a round."""

    def one_client(features: Any, state: PyTree, noise: jax.Array) -> ClientOutput:
        zero, lanes = jnp.int32(0), (layout.lanes or 2,)
        zeros, ones = jnp.zeros(lanes, jnp.int32), jnp.ones(lanes, jnp.float32)
        apart = layout.execution.max_steps is None
        static: dict[str, Any] = {"platform": layout.platform, "mean_size": mean_size(population), "taken_apart": apart}
        wave = Wave(zeros, zeros, ones, population.max_size, layout.execution.max_steps, **static)
        key = jax.random.key(0, impl="threefry2x32")
        with in_mesh(layout):  # as in a round: a loss may say where its activations lie
            output = client_fn(ClientData(features, zero, zero, zero, jnp.float32(1), key, wave, noise), state)
        return jax.tree.map(jnp.asarray, output)

    return one_client
