"""Cohorts drawn ahead: by the run's own sampler and key, outside of the round's program, compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjaxlite.data.population import Population
from fedjaxlite.data.prepared.drawing import drawn_by, offsets_shape
from fedjaxlite.sampling import Cohort, Sampler


def drawer(sampler: Sampler, population: Population, key: jax.Array, device: Any) -> Callable[[int], Cohort]:
    """`draw(round) -> Cohort`, on one device, without waiting for it: the cohort that the round itself would draw.

    Args:
      sampler: of the run.
      population: of which the number of clients is taken, and the sizes where the sampler asks for them.
      key: the run's sampling key, as any device has it.
      device: of this process, on which to draw. In a run of several processes each draws for itself.
    """
    sample, shape = drawn_by(sampler, population), offsets_shape(population)
    impl = jax.random.key_impl(key)
    data = jax.device_put(np.asarray(jax.random.key_data(key)), device)
    offsets: Any = shape
    if _reads_sizes(sample, key, shape):
        # They wrap beyond 2^31 rows; a size, the difference of two of them, stays what it is.
        offsets = jax.device_put(np.asarray(population.offsets).astype(np.int32), device)

    @jax.jit
    def draw(data: jax.Array, number: jax.Array, *given: jax.Array) -> Cohort:
        (sizes,) = given or (shape,)
        return sample(jax.random.wrap_key_data(data, impl=impl), number, sizes)

    given = () if offsets is shape else (offsets,)
    return lambda number: draw(data, np.int32(number), *given)


def _reads_sizes(sample: Callable[..., Cohort], key: jax.Array, offsets: Any) -> bool:
    """Whether a draw depends on more of the offsets than how many there are."""
    same = jax.random.key(0, impl=jax.random.key_impl(key))
    program = jax.make_jaxpr(sample)(same, jnp.int32(0), offsets).jaxpr
    variable = program.invars[-1]
    asked = [atom for equation in program.eqns for atom in equation.invars]
    return any(atom is variable for atom in [*asked, *program.outvars])


def on_host(cohort: Cohort) -> Cohort:
    """A drawn cohort as NumPy's arrays; waits for it."""
    return jax.tree.map(np.asarray, cohort)
